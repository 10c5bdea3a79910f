"""Arguments of a call, made from a sentence and the tool's schema."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct, field, structs

from anthropic_proxy.upstream.demo.acts import find_receiver
from anthropic_proxy.upstream.demo.conversation import Tool
from anthropic_proxy.upstream.demo.dates import spell_days, spell_moments
from anthropic_proxy.upstream.demo.schema import MISSING, Schema, fits, resolve_schema, sample, variants
from anthropic_proxy.upstream.demo.texts import Source, find_explicit, find_texts, kind_of, split_command
from anthropic_proxy.upstream.demo.words import concepts, split_words

_SURE_KINDS = frozenset({"url", "date", "currency", "timezone", "summary", "origin", "target", "language"})
"""Kinds of optional arguments that are filled when the sentence has something of that shape."""
_ISO = re.compile(r"YYYY-MM-DD|ISO.?8601", re.IGNORECASE)
_SURE_WITH_PATH = frozenset({"path", "folder"})


class _Filling(Struct):
    """One pass over a tool's schema."""

    source: Source
    root: Schema
    forced: bool
    """Whether the call must be made, so that a sample stands in for what the sentence does not say."""
    splits: bool = False
    """Whether a command's name and its arguments have places of their own."""
    taken: list[Any] = field(default_factory=list)
    """Values that other arguments have already."""


def fill_arguments(tool: Tool, source: Source, *, forced: bool = False) -> list[dict[str, Any]]:
    """Return the arguments of each call that the sentence asks of this tool; empty: something required is not said.

    There are several where one required argument has several values: "read a.txt and b.txt".
    `forced` gives at least one, with samples for what is missing.
    """
    schema = resolve_schema(tool.schema, tool.schema)
    filling = _prepare(schema, tool.schema, source, forced)
    source = filling.source
    arguments = _fill_object(schema, filling)
    if arguments is MISSING or not fits(arguments, tool.schema, tool.schema):
        if not forced:
            return []
        arguments = sample({"type": "object", **tool.schema}, tool.schema)
        return [arguments if isinstance(arguments, dict) else {}]
    return _spread(tool, arguments, source)


def _prepare(schema: Schema, root: Schema, source: Source, forced: bool) -> _Filling:
    """Find out which argument takes what the tool's act is done to."""
    properties = schema.get("properties") or {}
    parts = {name: resolve_schema(part, root) for name, part in properties.items()}
    kinds = {name: kind_of(name) for name in {*parts, *(schema.get("required") or ())}}
    receiver = find_receiver(parts, list(schema.get("required") or ()), source.act, kinds)
    splits = any(kinds[name] == "args" and part.get("type") == "array" for name, part in parts.items())
    splits = splits and bool({"command", "program"} & set(kinds.values()))
    return _Filling(structs.replace(source, receiver=receiver), root, forced, splits)


def fill_value(name: str, schema: Schema, source: Source) -> Any:
    """Return a value that fits the schema, from the sentence where possible; MISSING where none was found."""
    return _fill(name, schema, _Filling(source, schema, forced=True), required=True)


def _spread(tool: Tool, arguments: dict[str, Any], source: Source) -> list[dict[str, Any]]:
    """Make one call for each value, where exactly one required text argument has several."""
    schema = resolve_schema(tool.schema, tool.schema)
    wanted = schema.get("required") or tuple(arguments)
    names = [name for name in wanted if kind_of(name) != "summary"]
    if len(names) != 1 or not isinstance(arguments.get(names[0]), str | int):
        return [arguments]
    part = (schema.get("properties") or {}).get(names[0], {})
    kind = kind_of(names[0])
    if "enum" in part or kind in {"query", "content", "prompt", "other", "name", "pattern", "expression"}:
        return [arguments]
    values = find_texts(names[0], source) if isinstance(arguments[names[0]], str) else []
    known = [value for value in dict.fromkeys(values) if fits(value, part, tool.schema)]
    return [{**arguments, names[0]: value} for value in known] or [arguments]


def _fill_object(schema: Schema, filling: _Filling) -> Any:
    properties = schema.get("properties") or {}
    required = schema.get("required") or ()
    filled: dict[str, Any] = {}
    for name in sorted({*properties, *required}, key=lambda name: _rank(name, list(properties), required)):
        # Where nothing is required, what has a telling name is wanted all the same.
        named = kind_of(name) != "other" or name == filling.source.receiver
        wanted = name in required or (not required and named)
        value = _fill(name, properties.get(name, {}), filling, required=wanted)
        if value is not MISSING:
            filled[name] = value
        elif name in required or kind_of(name) == "command":
            return MISSING
    return {name: filled[name] for name in (*properties, *required) if name in filled}


def _rank(name: str, order: list[str], required: Iterable[str]) -> tuple[bool, bool, int]:
    """Let those choose first that must have a value, and among them those whose name says what they hold."""
    return name not in required, kind_of(name) == "other", order.index(name) if name in order else len(order)


def _fill(name: str, schema: Any, filling: _Filling, *, required: bool) -> Any:
    for variant in variants(schema, filling.root):
        for value in _candidates(name, variant, filling, required=required):
            if value is not MISSING and fits(value, schema, filling.root):
                if not isinstance(value, bool):
                    filling.taken.append(value)
                return value
    if not required:
        return MISSING
    default = resolve_schema(schema, filling.root).get("default", MISSING)
    if default is not MISSING and fits(default, schema, filling.root):
        return default
    return sample(schema, filling.root) if filling.forced else MISSING


def _candidates(name: str, schema: Schema, filling: _Filling, *, required: bool) -> Iterable[Any]:
    kind = schema.get("type") or ("object" if "properties" in schema else "string")
    if "const" in schema:
        return [schema["const"]] if required else []
    if "enum" in schema:
        found = _mentioned(schema["enum"], filling.source, by_meaning=required)
        return sorted(found, key=lambda value: value in filling.taken)
    if kind == "boolean":
        return [_affirmed(name, filling.source)] if required else []
    if kind in {"integer", "number"}:
        return _numbers(name, kind, filling, required=required)
    if kind == "array":
        return _lists(name, schema, filling, required=required)
    if kind == "object":
        return [_fill_object(schema, filling)] if required else []
    return _texts(name, schema, filling, required=required) if kind == "string" else []


def _texts(name: str, schema: Schema, filling: _Filling, *, required: bool) -> list[str]:
    source = filling.source
    known = [value for value in _shaped(name, schema, source) if value not in filling.taken]
    if known:
        return known
    if filling.splits and kind_of(name) in {"command", "program"}:
        return split_command(source)[:1]
    if not required:
        kind = kind_of(name)
        path_given = kind in _SURE_WITH_PATH and bool(source.facts.paths) and not source.writes
        said = concepts(split_words(source.facts.text))
        changes = (kind == "content" and "write" in said) or (kind in {"old", "new"} and "edit" in said)
        if kind not in _SURE_KINDS and not path_given and not changes:
            return find_explicit(name, source.facts.text)
    return [value for value in find_texts(name, source) if value not in filling.taken]


def _shaped(name: str, schema: Schema, source: Source) -> Sequence[str]:
    """Return what the sentence has of the shape that the schema names."""
    facts, form = source.facts, str(schema.get("format"))
    if form == "date-time":
        return spell_moments(facts.dates, source.today, ends="end" in split_words(name))
    if form == "date" or (kind_of(name) == "date" and _ISO.search(str(schema.get("description")))):
        return spell_days(facts.dates, source.today)
    if form == "uri" and name == source.receiver and not facts.urls:
        return [f"file://{'' if path.startswith('/') else '/'}{path}" for path in find_texts(name, source)]
    return {"email": facts.emails, "uri": facts.urls}.get(form, ())


def _mentioned(allowed: Iterable[Any], source: Source, *, by_meaning: bool) -> list[Any]:
    """Return the allowed values that the sentence names; `by_meaning`: or that mean a word of it."""
    text = source.facts.text
    found = []
    for value in allowed:
        spelled = (
            re.escape(str(value)) if not isinstance(value, str) else r"[\s_-]*".join(map(re.escape, split_words(value)))
        )
        flags = re.IGNORECASE if len(str(value)) > 1 else 0
        match = re.search(rf"(?<!\w){spelled}(?!\w)", text, flags) if spelled else None
        if match:
            found.append((match.start(), value))
    if not found and by_meaning:
        meant = concepts(split_words(text))
        found = [(0, value) for value in allowed if isinstance(value, str) and concepts(split_words(value)) & meant]
    return [value for _, value in sorted(found, key=lambda pair: pair[0])]


def _affirmed(name: str, source: Source) -> bool:
    text = source.facts.text.lower()
    words = split_words(text)
    meant = {*split_words(name)} & {*words} or concepts(split_words(name)) & concepts(words)
    return bool(meant) and not re.search(r"\b(?:not|no|without|don't|never)\b", text)


def _numbers(name: str, kind: str, filling: _Filling, *, required: bool) -> list[float]:
    """Return the number beside the argument's own word, or else the next one that nobody has."""
    facts = filling.source.facts
    words = "|".join(re.escape(word.rstrip("s")) for word in split_words(name) if len(word) > 1)
    near = re.search(rf"\b(?:{words})s?\b\W*(?:is|of|to|=|:)?\s*(-?\d[\d.]*)", facts.text, re.I) if words else None
    near = near or (re.search(rf"(-?\d[\d.]*)\s*(?:{words})s?\b", facts.text, re.I) if words else None)
    spelled = [near[1].rstrip(".")] if near else []
    if required:
        spelled += facts.numbers
        if not spelled:
            spelled = [code for code in facts.codes if code.isdigit()]
    values = [_number(text, kind) for text in spelled]
    return [value for value in values if value is not MISSING and value not in filling.taken]


def _number(text: str, kind: str) -> Any:
    try:
        value = float(text)
    except ValueError:
        return MISSING
    if value.is_integer():
        return int(value)
    return value if kind == "number" else MISSING


def _lists(name: str, schema: Schema, filling: _Filling, *, required: bool) -> list[list[Any]]:
    items = resolve_schema(schema.get("items", {}), filling.root)
    if kind_of(name) in {"command", "args"} or (name == filling.source.receiver and filling.source.act == "run"):
        words = split_command(filling.source)[1 if filling.splits and kind_of(name) == "args" else 0 :]
        if words:
            return [words]
    if not required and not filling.source.facts.text:
        return []
    found = [
        value
        for variant in variants(items, filling.root)
        for value in _candidates(name, variant, filling, required=required)
        if value is not MISSING and fits(value, items, filling.root)
    ]
    unique = [value for place, value in enumerate(found) if value not in found[:place]]
    return [unique[: schema.get("maxItems", len(unique))]] if unique else []
