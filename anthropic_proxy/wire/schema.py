"""Reduce a JSON Schema to what a wire accepts.

The walk goes by schema position: a key inside `properties` or `$defs` is a name, never a keyword, so a property called
`default` or `type` survives. Values inside `enum`, `const`, `default` and `examples` are data and are not looked at.
"""

import functools
from typing import Any
from urllib.parse import unquote

import msgspec
from msgspec import Raw, Struct

Schema = dict[str, Any]

_NAMED = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
"""Keywords whose value maps names to schemas."""
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
"""Keywords whose value is a list of schemas."""
_SINGLE = ("items", "contains", "not", "if", "then", "else", "propertyNames")
"""Keywords whose value is one schema (`items` may be a list in old drafts)."""
_SWITCHES = ("additionalProperties", "additionalItems", "unevaluatedProperties", "unevaluatedItems")
"""Keywords whose value is a schema or a plain true or false that means something."""
_DROPPED = frozenset(("$schema", "$id", "$comment"))
_CHOICES = ("anyOf", "oneOf", "allOf")

_OF_OBJECTS = frozenset(("title", "description", "required", "additionalProperties", "$defs", "definitions"))
"""What stays of a root that is no object."""

_KEPT = 1_024
_LONGEST = 32 * 1024
"""Bytes of the longest schema that is kept: with `_KEPT` the most that the cache may hold."""
MAX_INLINED = 1_000
"""References that one schema may have inlined; definitions that double at each level would fill the memory."""
MAX_ROOT_CHOICES = 8
"""Levels of alternatives at the root that are merged; a definition may contain itself."""

_STRICT = frozenset(
    (
        *("type", "properties", "required", "additionalProperties", "items", "anyOf", "enum", "const"),
        *("$ref", "$defs", "definitions", "title", "description", "pattern", "format", "multipleOf"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems"),
    )
)
"""Keywords that OpenAI's strict mode takes (platform.openai.com, Structured Outputs, "Supported schemas", 2026-11)."""


_BASICS = frozenset(("type", "description", "properties", "required", "items", "enum", "$ref"))


class SchemaRules(Struct, frozen=True, kw_only=True, cache_hash=True):
    """What a wire's schema language lacks."""

    inlines_references: bool = False
    """Whether `$ref` must be replaced by what it points to; a cycle becomes a plain object."""
    types_beside_choices: bool = True
    """False: `type` may not stand beside `anyOf`; it moves into the alternatives."""
    basics_only: bool = False
    """Whether only types, descriptions, properties, items and listed values are known; of alternatives one stays."""


STANDARD = SchemaRules()
BASICS = SchemaRules(inlines_references=True, basics_only=True)
"""What every server understands."""


def clean_schema(schema: Any, rules: SchemaRules = STANDARD) -> tuple[Schema, list[str]]:
    """Return a schema whose root is a plain object type, and in words what it no longer says.

    The argument is not changed. Raises nothing: what is no schema at all becomes an object without properties.
    """
    lost: list[str] = []
    root = _flatten_root(schema if isinstance(schema, dict) else {}, lost, 0)
    cleaned = _Walk(root, rules).clean(root, ())
    if rules.inlines_references:
        cleaned.pop("$defs", None)
        cleaned.pop("definitions", None)
    return cleaned, list(dict.fromkeys(lost))


def merge_parts(schema: Schema) -> Schema:
    """Return a schema with its `allOf` merged into it: of a keyword that several parts have, the first one's counts.

    Properties and what is required add up; a property that several parts describe gets an `allOf` of its own.
    """
    parts = schema.get("allOf")
    if not isinstance(parts, list):
        return schema
    whole = {key: value for key, value in schema.items() if key != "allOf"}
    for part in (merge_parts(one) for one in parts if isinstance(one, dict)):
        for key, value in part.items():
            before = whole.get(key)
            if key == "properties" and isinstance(before, dict) and isinstance(value, dict):
                whole[key] = _both(before, value)
            elif key == "required" and isinstance(before, list) and isinstance(value, list):
                whole[key] = list(dict.fromkeys([*before, *value]))
            elif before is None:
                whole[key] = value
    return whole


def qualifies_for_strict(schema: Schema) -> bool:
    """Whether a cleaned schema obeys strict mode: every property required, no others allowed, no foreign keyword."""
    return _is_strict(schema)


def encode_schema(schema: bytes, rules: SchemaRules = STANDARD) -> tuple[Raw, bool, tuple[str, ...]]:
    """Return a cleaned schema, whether it qualifies for strict mode, and in words what it no longer says.

    `schema` is JSON text; empty: there is none.
    """
    cleaned, lost = clean_schema(msgspec.json.decode(schema) if schema else {}, rules)
    return Raw(msgspec.json.encode(cleaned)), qualifies_for_strict(cleaned), tuple(lost)


def encode_schema_once(schema: bytes, rules: SchemaRules = STANDARD) -> tuple[Raw, bool, tuple[str, ...]]:
    """Do the same with a memory: a session repeats the schema of its replies in every request."""
    return (_encode_kept if len(schema) <= _LONGEST else encode_schema)(schema, rules)


_encode_kept = functools.lru_cache(maxsize=_KEPT)(encode_schema)


def admits_object(schema: bytes) -> bool:
    """Whether an object may fit a schema, given as JSON text; decided by its root alone."""
    root = msgspec.json.decode(schema)
    return not isinstance(root, dict) or _admits_object(root, root, 0)


class _Walk:
    """One walk over one schema, by schema position."""

    def __init__(self, root: Schema, rules: SchemaRules) -> None:
        self._root = root
        self._rules = rules
        self._inlined = 0

    def clean(self, schema: Any, trail: tuple[str, ...]) -> Schema:
        """Return the schema without what no wire takes; `trail` holds the references being followed."""
        if not isinstance(schema, dict):
            return {}
        if self._rules.basics_only:
            schema = _basics_of(schema)
        reference = schema.get("$ref")
        if self._rules.inlines_references and isinstance(reference, str):
            return self._inline(schema, reference, trail)
        cleaned: Schema = {}
        for key, value in schema.items():
            if key in _DROPPED:
                continue
            if key in _NAMED and isinstance(value, dict):
                cleaned[key] = {name: self.clean(inner, trail) for name, inner in value.items()}
            elif isinstance(value, list) and (key in _LISTED or key in _SINGLE):
                cleaned[key] = [self.clean(inner, trail) for inner in value]
            elif key in _SINGLE or (key in _SWITCHES and isinstance(value, dict)):
                cleaned[key] = self.clean(value, trail)
            else:
                cleaned[key] = value
        if not self._rules.types_beside_choices and cleaned.get("anyOf") and "type" in cleaned:
            kind = cleaned.pop("type")
            cleaned["anyOf"] = [_typed(one, kind) for one in cleaned["anyOf"]]
        return cleaned

    def _inline(self, schema: Schema, reference: str, trail: tuple[str, ...]) -> Schema:
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        target = _find(self._root, reference)
        self._inlined += 1
        if reference in trail or not isinstance(target, dict) or self._inlined > MAX_INLINED:
            return {"type": "object", **self.clean(beside, trail)}
        return self.clean({**target, **beside}, (*trail, reference))


def _basics_of(schema: Schema) -> Schema:
    """Return a schema without alternatives and finer rules; its parts are still as they were."""
    whole = merge_parts(schema)
    for key in ("anyOf", "oneOf"):
        branches = whole.get(key)
        if isinstance(branches, list):
            known = (one for one in branches if isinstance(one, dict) and one.get("type") != "null")
            whole = {**next(known, {}), **whole}
    if "const" in whole:
        whole = {"enum": [whole["const"]], **whole}
    basics = {key: value for key, value in whole.items() if key in _BASICS}
    if isinstance(kinds := basics.get("type"), list):
        basics["type"] = next((kind for kind in kinds if kind != "null"), "string")
    return basics


def _typed(schema: Schema, kind: Any) -> Schema:
    """Return the schema with a type that its surroundings had, given on to its own alternatives where it has some."""
    if "type" in schema or "$ref" in schema:
        return schema
    if schema.get("anyOf"):
        return {**schema, "anyOf": [_typed(one, kind) for one in schema["anyOf"]]}
    return {"type": kind, **schema}


def _find(root: Schema, reference: str) -> Any:
    """Return what a local reference (`#/$defs/Name`) points to; None where it points nowhere."""
    if not reference.startswith("#"):
        return None
    found: Any = root
    for step in reference[1:].split("/")[1:]:
        if isinstance(found, list) and step.isdecimal() and int(step) < len(found):
            found = found[int(step)]
        elif isinstance(found, dict):
            spellings = map(_unescaped, (step, unquote(step)))  # not everybody percent-encodes
            found = next((found[name] for name in spellings if name in found), None)
        else:
            return None
    return found


def _unescaped(step: str) -> str:
    return step.replace("~1", "/").replace("~0", "~")


def _flatten_root(root: Schema, lost: list[str], depth: int) -> Schema:
    """Return a root that is an object with `properties`: references followed, alternatives merged, the rest dropped."""
    flat = {**_follow(root, root), **_definitions(root)}
    for key in _CHOICES:
        branches = flat.pop(key, None)
        if isinstance(branches, list):
            objects = [_follow(one, root) | _definitions(root) for one in branches if _is_object(one)]
            known = [_flatten_root(one, lost, depth + 1) for one in objects] if depth < MAX_ROOT_CHOICES else []
            _merge(flat, known, everyone_holds=key == "allOf")
            if key != "allOf" or len(known) < len(branches):
                lost.append(f"{key} at the root became one object with all its properties")
    lost += [f"{key} at the root was left out" for key in ("enum", "const", "not") if key in flat]
    kinds = flat.get("type", "object")
    if kinds != "object":
        lost.append(f"type {kinds} at the root became object")
    properties = flat.get("properties")
    dropped = ("enum", "const", "not") if _holds_objects(kinds) else flat.keys() - _OF_OBJECTS
    kept = {key: value for key, value in flat.items() if key not in dropped}
    return {**kept, "type": "object", "properties": properties if isinstance(properties, dict) else {}}


def _both(before: Schema, after: Schema) -> Schema:
    """Return the properties of both; what both describe must hold twice."""
    shared = {
        name: before[name] if before[name] == after[name] else {"allOf": [before[name], after[name]]}
        for name in before.keys() & after.keys()
    }
    return {**before, **after, **shared}


def _holds_objects(kinds: Any) -> bool:
    return "object" in kinds if isinstance(kinds, list) else kinds == "object"


def _admits_object(schema: Any, root: Schema, depth: int) -> bool:
    if not isinstance(schema, dict) or depth > MAX_ROOT_CHOICES:
        return True
    flat = _follow(schema, root)
    values = flat["enum"] if isinstance(flat.get("enum"), list) else [flat.get("const", {})]
    if not _holds_objects(flat.get("type", "object")) or not any(isinstance(value, dict) for value in values):
        return False
    for key in _CHOICES:
        branches = flat.get(key)
        if isinstance(branches, list) and branches:
            admitting = (_admits_object(one, root, depth + 1) for one in branches)
            if not (all(admitting) if key == "allOf" else any(admitting)):
                return False
    return True


def _is_object(schema: Any) -> bool:
    return isinstance(schema, dict) and schema.get("type", "object") == "object"


def _definitions(root: Schema) -> Schema:
    return {key: root[key] for key in ("$defs", "definitions") if key in root}


def _follow(schema: Schema, root: Schema) -> Schema:
    """Return the schema with references at its own level replaced; a cycle ends in what was read so far."""
    seen: set[str] = set()
    while isinstance(reference := schema.get("$ref"), str) and reference not in seen:
        seen.add(reference)
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        target = _find(root, reference)
        schema = {**target, **beside} if isinstance(target, dict) else beside
    return {key: value for key, value in schema.items() if key != "$ref"}


def _merge(flat: Schema, branches: list[Schema], *, everyone_holds: bool) -> None:
    """Put the properties of the branches into `flat`; required is what every one (or, of `allOf`, any one) requires."""
    said, demanded = flat.get("properties"), flat.get("required")
    properties = dict(said) if isinstance(said, dict) else {}
    for branch in branches:
        for name, schema in branch["properties"].items():
            known = properties.setdefault(name, schema)
            if known != schema:
                properties[name] = {"allOf" if everyone_holds else "anyOf": [known, schema]}
    demands = [set(_names_in(branch.get("required"))) for branch in branches]
    shared = (set.union(*demands) if everyone_holds else set.intersection(*demands)) if demands else set()
    required = _names_in(demanded) | dict.fromkeys(name for name in properties if name in shared)
    flat["properties"] = properties
    if required:
        flat["required"] = list(required)


def _names_in(required: Any) -> dict[str, None]:
    """Return the names of a `required`, in order; a keyword with another value demands nothing."""
    return dict.fromkeys(one for one in required if isinstance(one, str)) if isinstance(required, list) else {}


def _is_strict(schema: Any) -> bool:
    if not isinstance(schema, dict) or not _STRICT.issuperset(schema):
        return False
    if schema.get("type") == "object" or "properties" in schema:
        names = schema.get("properties", {})
        if schema.get("additionalProperties") is not False or set(names) != set(_names_in(schema.get("required"))):
            return False
    elif "type" not in schema and not {"anyOf", "$ref", "enum", "const"} & set(schema):
        return False
    inner = [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values(), *schema.get("anyOf", ())]
    inner += schema.get("definitions", {}).values()
    if "items" in schema:
        inner.append(schema["items"])
    return all(_is_strict(one) for one in inner)
