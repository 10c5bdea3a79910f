"""JSON Schema as far as tools use it: whether a value fits, and a value that does."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

Schema = Mapping[str, Any]
MISSING: Any = object()
"""Stands for "no value found"; None is a value."""

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}
_FORMATS = {
    "date": r"\d{4}-\d{2}-\d{2}",
    "date-time": r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:\d{2})",
    "time": r"\d{2}:\d{2}(:\d{2})?(Z|[+-]\d{2}:\d{2})?",
    "email": r"[^@\s]+@[^@\s]+",
    "uri": r"[a-z][a-z0-9+.-]*:\S+",
    "url": r"[a-z][a-z0-9+.-]*:\S+",
    "uuid": r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
}
_SAMPLES = (
    "demo",
    "2026-01-01",
    "2026-01-01T00:00:00Z",
    "12:00:00Z",
    "demo@example.com",
    "https://example.com/",
    "123e4567-e89b-12d3-a456-426614174000",
    "127.0.0.1",
    "1",
    "A",
    "a",
    "AB",
    "ABC",
    "A1",
    "12345",
    "A-1",
    "#000000",
    "1.0.0",
    "/demo",
)
_DEPTH = 12


def resolve_schema(schema: Any, root: Schema, depth: int = 0) -> dict[str, Any]:
    """Return a schema with its reference followed and `allOf` merged; one that allows everything is empty."""
    if not isinstance(schema, Mapping) or depth > _DEPTH:
        return {}
    merged = dict(schema)
    reference = merged.pop("$ref", None)
    if isinstance(reference, str) and reference.startswith("#"):
        target: Any = root
        for key in filter(None, reference[1:].split("/")):
            target = target.get(key.replace("~1", "/").replace("~0", "~"), {}) if isinstance(target, Mapping) else {}
        merged = {**resolve_schema(target, root, depth + 1), **merged}
    for member in merged.pop("allOf", None) or ():
        part = resolve_schema(member, root, depth + 1)
        properties = {**merged.get("properties", {}), **part.get("properties", {})}
        required = [*merged.get("required", ()), *part.get("required", ())]
        merged = {**part, **merged}
        if properties:
            merged["properties"] = properties
        if required:
            merged["required"] = list(dict.fromkeys(required))
    return merged


def variants(schema: Any, root: Schema) -> list[dict[str, Any]]:
    """Return the alternatives that a schema allows, each resolved and with one type; `null` comes last."""
    plain = resolve_schema(schema, root)
    members = plain.get("anyOf") or plain.get("oneOf")
    if members:
        rest = {key: value for key, value in plain.items() if key not in {"anyOf", "oneOf"}}
        found = [{**rest, **part} for member in members for part in variants(member, root)]
    elif isinstance(plain.get("type"), list):
        found = [{**plain, "type": kind} for kind in plain["type"]]
    else:
        found = [plain]
    return sorted(found, key=lambda part: part.get("type") == "null")


def fits(value: Any, schema: Any, root: Schema, depth: int = 0) -> bool:
    """Say whether a value is what the schema asks for."""
    if value is MISSING or schema is False:
        return False
    if depth > _DEPTH or schema is True:
        return True
    return any(_fits_variant(value, variant, root, depth) for variant in variants(schema, root))


def sample(schema: Any, root: Schema, depth: int = 0) -> Any:
    """Return a value that fits, as small as it can be; MISSING where none was found."""
    for variant in variants(schema, root):
        for value in _sample_candidates(variant, root, depth):
            if fits(value, variant, root, depth):
                return value
    return MISSING


def _fits_variant(value: Any, schema: Schema, root: Schema, depth: int) -> bool:
    if not _fits_type(value, schema.get("type")):
        return False
    if "enum" in schema and not any(_same(value, allowed) for allowed in schema["enum"]):
        return False
    if "const" in schema and not _same(value, schema["const"]):
        return False
    if "not" in schema and fits(value, schema["not"], root, depth + 1):
        return False
    if isinstance(value, str):
        return _fits_text(value, schema)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _fits_number(value, schema)
    if isinstance(value, list):
        return _fits_list(value, schema, root, depth)
    return not isinstance(value, dict) or _fits_object(value, schema, root, depth)


def _same(one: Any, other: Any) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _fits_type(value: Any, kind: Any) -> bool:
    if kind in {"integer", "number"}:
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        return not isinstance(value, bool) and (whole or (kind == "number" and isinstance(value, float)))
    return kind not in _TYPES or isinstance(value, _TYPES[kind])


def _fits_text(value: str, schema: Schema) -> bool:
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        return False
    shape = _FORMATS.get(str(schema.get("format")))
    if shape and not re.fullmatch(shape, value):
        return False
    try:
        return "pattern" not in schema or re.search(schema["pattern"], value) is not None
    except re.error:
        return True


def _fits_number(value: float, schema: Schema) -> bool:
    step = schema.get("multipleOf")
    # Draft 4 writes the exclusive limits as booleans beside the limit.
    lowest, above = schema.get("minimum", value), schema.get("exclusiveMinimum")
    highest, below = schema.get("maximum", value), schema.get("exclusiveMaximum")
    if above is True:
        above = lowest
    if below is True:
        below = highest
    in_range = lowest <= value <= highest
    is_above = above is None or above is False or value > above
    is_below = below is None or below is False or value < below
    return in_range and is_above and is_below and (not step or abs(value / step - round(value / step)) < 1e-9)


def _fits_list(value: list[Any], schema: Schema, root: Schema, depth: int) -> bool:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        return False
    if schema.get("uniqueItems") and any(item in value[:place] for place, item in enumerate(value)):
        return False
    head = schema.get("prefixItems") or ()
    placed = zip(value, head, strict=False)
    rest = value[len(head) :]
    return all(fits(item, part, root, depth + 1) for item, part in placed) and all(
        fits(item, schema.get("items", True), root, depth + 1) for item in rest
    )


def _fits_object(value: dict[str, Any], schema: Schema, root: Schema, depth: int) -> bool:
    properties = schema.get("properties") or {}
    extra = schema.get("additionalProperties", True)
    return (
        all(name in value for name in schema.get("required") or ())
        and len(value) >= schema.get("minProperties", 0)
        and all(fits(item, properties.get(name, extra), root, depth + 1) for name, item in value.items())
    )


def _sample_candidates(schema: Schema, root: Schema, depth: int) -> Iterable[Any]:
    for key in ("const", "default"):
        if key in schema:
            yield schema[key]
    yield from schema.get("examples") or () if isinstance(schema.get("examples"), list) else ()
    yield from schema.get("enum") or ()
    kind = schema.get("type") or ("object" if "properties" in schema else "array" if "items" in schema else "string")
    if kind == "object":
        yield _sample_object(schema, root, depth)
    elif kind == "array":
        yield from _sample_lists(schema, root, depth)
    elif kind in {"integer", "number"}:
        yield from _sample_numbers(schema)
    elif kind == "string":
        yield from _sample_texts(schema)
    else:
        yield from (False, True) if kind == "boolean" else (None,)


def _sample_texts(schema: Schema) -> Iterable[str]:
    yield from _SAMPLES
    longest = max(schema.get("minLength", 0), min(4, schema.get("maxLength", 4)))
    for text in ("demo", "a", "A", "1", "aA1-"):
        yield (text * (longest // len(text) + 1))[:longest]
    yield from _spelled(str(schema.get("pattern", "")))


def _spelled(pattern: str) -> Iterable[str]:
    """Spell out a plain pattern: classes, counts and literals; groups and choices are beyond the demo."""
    if not re.fullmatch(
        r"\^?(?:(?:\[[^\]^]+\]|\\[dws]|\\?[^\\\[\](){}|*+?^$])(?:\{\d+(?:,\d*)?\}|[*+?])?)+\$?", pattern
    ):
        return
    text = ""
    for piece, count in re.findall(
        r"(\[[^\]^]+\]|\\[dws]|\\?[^\\\[\](){}|*+?^$])(\{\d+(?:,\d*)?\}|[*+?])?", pattern.strip("^$")
    ):
        first = {"\\d": "1", "\\w": "a", "\\s": " "}.get(piece) or piece.strip("[")[:1]
        if piece.startswith("\\") and piece not in {"\\d", "\\w", "\\s"}:
            first = piece[1:]
        elif piece.startswith("[\\"):
            first = {"d": "1", "w": "a", "s": " "}.get(piece[2], piece[2])
        number = re.match(r"\{(\d+)", count)
        text += first * (int(number[1]) if number else 1)
    yield text


def _sample_numbers(schema: Schema) -> Iterable[float]:
    limits = [schema.get(key) for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")]
    known = [limit for limit in limits if isinstance(limit, int | float) and not isinstance(limit, bool)]
    step = schema.get("multipleOf") or 1
    whole = schema.get("type") == "integer"
    for base in (1, 0, *known):
        near = (base, base + step, base - step, step * (base // step), step * (base // step + 1))
        yield from (int(value) if whole and float(value).is_integer() else value for value in near)
    if len(known) > 1 and not whole:
        yield (min(known) + max(known)) / 2


def _sample_lists(schema: Schema, root: Schema, depth: int) -> Iterable[list[Any]]:
    if depth > _DEPTH:
        return
    head = [sample(part, root, depth + 1) for part in schema.get("prefixItems") or ()]
    items = schema.get("items", {})
    size = max(schema.get("minItems", 0) - len(head), 0)
    value = sample(items, root, depth + 1) if size else MISSING
    if not size:
        yield head
        return
    yield [*head, *[value] * size]
    allowed = [item for variant in variants(items, root) for item in variant.get("enum") or ()]
    if len(allowed) >= size:
        yield [*head, *allowed[:size]]
    numbers = value if isinstance(value, int) and not isinstance(value, bool) else 0
    yield [*head, *(numbers + place for place in range(size))]
    yield [*head, *(f"{value}{place}" for place in range(size))]


def _sample_object(schema: Schema, root: Schema, depth: int) -> dict[str, Any]:
    properties = schema.get("properties") or {}
    if depth > _DEPTH:
        return {}
    return {name: sample(properties.get(name, {}), root, depth + 1) for name in schema.get("required") or ()}
