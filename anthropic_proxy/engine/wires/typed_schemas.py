"""Schemas with a type at each place, for servers that reject any other (`SchemaRules.requires_types`), as Moonshot.

Theory of operation. Each schema gets one of three forms: one type with the keywords of this type; several types with
annotations only; alternatives (`anyOf`) with annotations only. `_gather` joins a schema with the target of its
reference and with its `allOf`. Then the types are found: the stated ones, else those of the values in `enum`, else
those that the other keywords are about, else all. A schema with several types and keywords of them is split into one
alternative for each type, and keywords beside `anyOf` move into its alternatives. Conditions that no form can state
become text in the description, because the model reads it there.

Why it is not simpler: what is joined comes from different references, and only a reference that leads back to itself
ends the description. So each inner schema is kept with the references that led to it (`_Placed`).

Source of the forms: MoonshotAI/walle docs/walle.md, validator.go, keyword_validators.go (read 2026-11-28).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from anthropic_proxy.engine.messages.work_budget import CHARACTERS_PER_NODE, count_json_nodes
from anthropic_proxy.engine.wires.schema_parts import (
    MAX_INLINED_REFERENCES,
    REFERENCES_CUT,
    EqualityIndex,
    Schema,
    SchemaDocument,
    add_texts,
    describe_keyword,
    required_names,
)

_MAX_COPIES = 1_000
"""Maximum number of alternatives in one schema that get the keywords beside them. Further alternatives are left out,
because such alternatives inside each other would multiply."""
_ALTERNATIVES_CUT = f"alternatives after the first {_MAX_COPIES:,} with keywords beside them were left out"
_MAX_VALUES = 1_000
_MAX_ALTERNATIVES = 500
"""Largest `enum` and `anyOf` that Moonshot's validator accepts (MoonshotAI/walle conf.go, read 2026-11-29; its page
docs/walle.md states smaller ones)."""
_LISTS_CUT = f"lists of more than {_MAX_VALUES:,} values or {_MAX_ALTERNATIVES} alternatives were left out"
ALL_TYPES = ("string", "number", "boolean", "object", "array", "null")
"""Types of JSON. `integer` is a part of `number`."""
_KEYWORDS: Mapping[str, frozenset[str]] = {
    "object": frozenset(("properties", "required", "additionalProperties", "minProperties", "maxProperties")),
    "array": frozenset(("items", "minItems", "maxItems", "uniqueItems")),
    "string": frozenset(("minLength", "maxLength", "pattern", "format")),
    "number": frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
}
"""Type → keywords that concern only its values."""
_CONDITIONS = frozenset(("type", "enum")).union(*_KEYWORDS.values())
_WITH_SCHEMAS = ("properties", "items", "additionalProperties")
"""Keywords of `_KEYWORDS` with schemas in their values."""
_TEXTS = ("title", "description")
"""Annotations that may stand in a schema and in its alternatives too."""
_AS_TEXT = (
    *("not", "if", "then", "else", "patternProperties", "propertyNames", "dependentRequired", "dependentSchemas"),
    *("dependencies", "contains", "minContains", "maxContains"),
)
"""Conditions that no form can state."""
_DROPPED = frozenset(
    (
        *("$schema", "$id", "$comment", "$defs", "definitions", "$anchor", "$dynamicAnchor", "$recursiveAnchor"),
        *("$vocabulary", "$dynamicRef", "$recursiveRef", "$ref", "allOf", "unevaluatedProperties", "unevaluatedItems"),
    )
)
"""Keywords without a meaning in a schema that stands alone, and conditions about what other keywords leave."""
_TYPE_OF_VALUE: Mapping[type, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
    dict: "object",
    list: "array",
}
_TYPES_BY_KEYWORDS = "schemas without a type got the types that their keywords are about"
"""Text for fidelity notes: such a schema accepts any value of another type."""


class _Placed(NamedTuple):
    schema: Any
    trail: tuple[str, ...] = ()
    """References that led to the schema."""


class _Form(NamedTuple):
    types: list[str]
    values: list[Any] | None = None
    """None: any value of the types."""


class TypedForm:
    """Conversion of one document to schemas with types. References are replaced by their targets."""

    def __init__(self, document: SchemaDocument, index: EqualityIndex, lost: list[str]) -> None:
        self._document = document
        self._index = index
        self._budget = document.budget
        self._lost = lost
        self._inlined = 0
        """Number of references found so far."""
        self._copies = 0
        """Number of alternatives that got the keywords beside them."""

    def fit(self) -> Schema:
        """Return the root. Texts for fidelity notes are added to the list of losses. Raises `WorkLimitExceeded`."""
        fitted = self._fit(_Placed(self._document.root), 0)
        if self._inlined > MAX_INLINED_REFERENCES:
            self._lost.append(REFERENCES_CUT)
        if self._copies > _MAX_COPIES:
            self._lost.append(_ALTERNATIVES_CUT)
        return fitted

    # Joining what describes the same value

    def _gather(self, placed: _Placed, depth: int) -> Schema:
        """Return the keywords of a schema, of the target of its reference and of its `allOf`, as one schema.

        Inner schemas are `_Placed`. `type` is a list, `const` an `enum`, `oneOf` an `anyOf`, `prefixItems` a part of
        `items`, and the names in `required` are the keys of a dictionary. An empty `type` states that no value matches.
        """
        flat: Schema = {}
        self._add(flat, placed, depth, precedes=True)
        return flat

    def _add(self, flat: Schema, placed: _Placed, depth: int, *, precedes: bool) -> None:
        """Add the keywords of a schema. `precedes`: its annotations replace those of the target of its reference."""
        schema, trail = placed
        if not isinstance(schema, dict):
            return
        self._budget.require_allowed_depth(depth)
        self._budget.count_nodes(1 + len(schema))
        self._budget.count_steps(sum(len(value) for value in schema.values() if isinstance(value, list | dict)))
        if isinstance(reference := schema.get("$ref"), str):
            self._add(flat, self._follow(reference, trail), depth + 1, precedes=precedes)
        for key, value in schema.items():
            if add := _ADDERS.get(key):
                add(flat, schema, trail)
            elif key in _DROPPED:
                continue
            elif key in _CONDITIONS or not precedes:
                flat.setdefault(key, value)
            else:
                flat[key] = value
        parts = schema.get("allOf")
        for part in parts if isinstance(parts, list) else ():
            self._add(flat, _place(part, trail), depth + 1, precedes=False)

    def _follow(self, reference: str, trail: tuple[str, ...]) -> _Placed:
        self._inlined += 1
        target = self._document.find_target(reference)
        if not isinstance(target, dict):
            return _Placed({"type": "object"})
        if reference in trail or self._inlined > MAX_INLINED_REFERENCES:
            kind = target.get("type", "object" if "properties" in target else None)
            return _Placed({} if kind is None else {"type": kind})
        return _Placed(target, (*trail, reference))

    # Finding the form

    def _fit(self, placed: _Placed, depth: int) -> Schema:
        return self._fit_gathered(self._gather(placed, depth), depth)

    def _fit_gathered(self, flat: Schema, depth: int) -> Schema:
        if "required" in flat:
            flat["required"] = list(flat["required"])
        texts = [describe_keyword(key, flat.pop(key)) for key in _AS_TEXT if key in flat]
        values = flat.get("enum", ())
        is_long = len(values) > _MAX_VALUES
        if is_long:
            self._lost.append(_LISTS_CUT)
        if is_long or any(isinstance(value, dict | list) for value in values):  # `enum` has only plain values
            texts.append(describe_keyword("one of", flat.pop("enum")))
            flat.setdefault("type", list(dict.fromkeys(_TYPE_OF_VALUE[type(value)] for value in values)))
        branches = flat.pop("anyOf", None)
        fitted = self._fit_alternatives(flat, branches, depth) if branches else None
        if fitted is None:
            forms = self._find_forms(flat)
            if len(forms) == 1:
                fitted = self._write(flat, forms[0], depth, is_alone=True)
            else:
                alternatives = [self._write(flat, form, depth, is_alone=False) for form in forms]
                fitted = self._copy_annotations(flat) | {"anyOf": alternatives}
        add_texts(fitted, [text for text in texts if text])
        return fitted

    def _fit_alternatives(self, flat: Schema, branches: Iterable[_Placed], depth: int) -> Schema | None:
        """None: too many schemas were copied, so the alternatives are left out."""
        around = {key: value for key, value in flat.items() if key in _CONDITIONS}
        outer = self._copy_annotations(flat)
        distinct: dict[int, Schema] = {}
        for branch in branches:
            joined = self._gather(branch, depth)
            if around:
                self._copies += 1
                if self._copies > _MAX_COPIES:
                    return None
                types = {} if "type" in joined or "type" not in around else {"type": around["type"]}
                joined = types | joined
                self._add(joined, _Placed(around), depth, precedes=False)
            if joined.get("type") == []:  # the client means the alternative as it stands
                joined = self._gather(branch, depth)
            for fitted in _list_alternatives(self._fit_gathered(joined, depth + 1)):
                alternative = {key: value for key, value in fitted.items() if key in _TEXTS or key not in outer}
                distinct.setdefault(self._index.assign_equality_number(alternative), alternative)
        if len(distinct) > _MAX_ALTERNATIVES:
            self._lost.append(_LISTS_CUT)
            return None
        if len(distinct) > 1:
            return {"anyOf": list(distinct.values())} | outer
        return next(iter(distinct.values())) | outer

    def _find_forms(self, flat: Schema) -> list[_Form]:
        types: list[str] = flat.get("type", [])
        if values := flat.get("enum"):
            return _find_forms_of_values(types, values)
        about = [kind for kind, keywords in _KEYWORDS.items() if not keywords.isdisjoint(flat)]
        if not types:
            types = about if "type" not in flat and about else list(ALL_TYPES)
            if about and "type" not in flat:
                self._lost.append(_TYPES_BY_KEYWORDS)
        described = [kind for kind in types if _base(kind) in about]
        if len(types) == 1 or not described:
            return [_Form(types)]
        others = [kind for kind in types if kind not in described]
        return [*(_Form([kind]) for kind in described), *([_Form(others)] if others else ())]

    def _write(self, flat: Schema, form: _Form, depth: int, *, is_alone: bool) -> Schema:
        """`is_alone`: the schema has no other form, so it gets the annotations."""
        kind = form.types[0] if len(form.types) == 1 else None
        keywords = _KEYWORDS.get(_base(kind), frozenset()) if kind else frozenset()
        written: Schema = {} if "type" in flat else {"type": kind or form.types}
        for key, value in flat.items():
            if key == "type":
                written[key] = kind or form.types
            elif key == "enum":
                written[key] = self._copy(form.values)
            elif key in keywords or (is_alone and key not in _CONDITIONS):
                written[key] = value if key in _WITH_SCHEMAS else self._copy(value)
        if kind == "array":
            written["items"] = self._fit(flat["items"], depth + 1) if "items" in flat else {"type": list(ALL_TYPES)}
        elif kind == "object":
            self._write_object(written, flat, depth)
        return written

    def _write_object(self, written: Schema, flat: Schema, depth: int) -> None:
        properties, further = flat.get("properties", {}), flat.get("additionalProperties", True)
        required = flat.get("required", ())
        if missing := [name for name in required if name not in properties]:  # a required name needs a property
            if further is False:
                written["required"] = [name for name in required if name in properties]
            else:
                properties = properties | dict.fromkeys(missing, further if further is not True else _Placed(True))
        if properties or "properties" in flat:
            self._budget.count_nodes(len(properties) + sum(map(len, properties)) // CHARACTERS_PER_NODE)
            written["properties"] = {name: self._fit(inner, depth + 1) for name, inner in properties.items()}
        if isinstance(further, _Placed):
            fitted = self._fit(further, depth + 1)
            written["additionalProperties"] = fitted if fitted != {"type": list(ALL_TYPES)} else True

    def _copy_annotations(self, flat: Schema) -> Schema:
        return {key: self._copy(value) for key, value in flat.items() if key not in _CONDITIONS}

    def _copy(self, value: Any) -> Any:
        """Count a value that is written unchanged."""
        if isinstance(value, str):
            self._budget.count_nodes(len(value) // CHARACTERS_PER_NODE)
        elif isinstance(value, list | dict) and value:
            self._budget.count_nodes(count_json_nodes(value))
        return value


def _list_alternatives(schema: Schema) -> list[Schema]:
    """Return a schema, or the alternatives that it consists of, with its texts."""
    if "anyOf" not in schema:
        return [schema]
    texts = {key: schema[key] for key in _TEXTS if key in schema}
    return [alternative | {key: alternative.get(key, texts[key]) for key in texts} for alternative in schema["anyOf"]]


def _find_forms_of_values(types: list[str], values: list[Any]) -> list[_Form]:
    """Return the forms for the values of an `enum`: values of one type, which may stand beside `null`."""
    matching = [value for value in values if _has_type(value, types)]
    groups: dict[str, list[Any]] = {}
    for value in matching or values:
        groups.setdefault(_base(_TYPE_OF_VALUE[type(value)]), []).append(value)
    is_single = len(groups) - ("null" in groups) <= 1
    if matching and is_single and (len(types) == 1 or _is_nullable(types)):
        return [_Form(types, matching)]  # as the client states them
    if "number" in groups and all(isinstance(value, int) for value in groups["number"]):
        groups = {"integer" if kind == "number" else kind: found for kind, found in groups.items()}
    if is_single:
        return [_Form(list(groups), matching or values)]
    return [_Form([kind], found) for kind, found in groups.items()]


def _is_nullable(types: list[str]) -> bool:
    """Return True for a type that may stand beside `null` and an `enum`."""
    return len(types) == 2 and "null" in types and {"object", "array"}.isdisjoint(types)


def _has_type(value: Any, types: list[str]) -> bool:
    kind = _TYPE_OF_VALUE[type(value)]
    return kind in types or (_base(kind) == "number" and ("number" in types or ("integer" in types and value % 1 == 0)))


def _base(kind: str) -> str:
    return "number" if kind == "integer" else kind


def _place(schema: Any, trail: tuple[str, ...]) -> _Placed:
    return schema if isinstance(schema, _Placed) else _Placed(schema, trail)


def _join(known: _Placed, other: _Placed) -> _Placed:
    return known if known.schema is other.schema else _Placed({"allOf": [known, other]})


def _add_types(flat: Schema, schema: Schema, trail: tuple[str, ...]) -> None:
    stated = schema["type"]
    names = [name for name in (stated if isinstance(stated, list) else [stated]) if name in _TYPE_OF_VALUE.values()]
    if not names:
        return
    if "type" in flat:
        common = [name for name in flat["type"] if name in names or (name == "integer" and "number" in names)]
        if "integer" in names and "number" in flat["type"]:
            common.append("integer")
        names = common
    flat["type"] = list(dict.fromkeys(names))


def _add_values(flat: Schema, schema: Schema, trail: tuple[str, ...]) -> None:
    values = [schema["const"]] if "const" in schema else schema["enum"]
    if isinstance(values, list) and values:
        flat.setdefault("enum", values)


def _add_alternatives(flat: Schema, schema: Schema, trail: tuple[str, ...]) -> None:
    for branches in (schema.get("anyOf"), schema.get("oneOf")):
        if isinstance(branches, list) and branches:
            flat.setdefault("anyOf", [_place(branch, trail) for branch in branches])


def _add_properties(flat: Schema, schema: Schema, trail: tuple[str, ...]) -> None:
    properties = schema["properties"]
    if isinstance(properties, dict):
        known = flat.setdefault("properties", {})
        for name, inner in properties.items():
            placed = _place(inner, trail)
            known[name] = _join(known[name], placed) if name in known else placed


def _add_required(flat: Schema, schema: Schema, trail: tuple[str, ...]) -> None:
    if isinstance(schema["required"], list):
        flat.setdefault("required", {}).update(required_names(schema["required"]))


def _add_further_properties(flat: Schema, schema: Schema, trail: tuple[str, ...]) -> None:
    further, known = schema["additionalProperties"], flat.get("additionalProperties", True)
    if "patternProperties" in schema:  # names that match the patterns would count as further ones
        return
    if further is False or known is False:
        flat["additionalProperties"] = False
    elif isinstance(further, _Placed) or (isinstance(further, dict) and further):
        placed = _place(further, trail)
        flat["additionalProperties"] = placed if known is True else _join(known, placed)
    else:
        flat.setdefault("additionalProperties", True)


def _add_items(flat: Schema, schema: Schema, trail: tuple[str, ...]) -> None:
    items, first = schema.get("items", True), schema.get("prefixItems", ())
    if isinstance(items, list):  # the list form of old drafts
        first, items = items, schema.get("additionalItems", True)
    described = [_place(one, trail) for one in (first if isinstance(first, list) else ())]
    if isinstance(items, _Placed) or (isinstance(items, dict) and items):
        described.append(_place(items, trail))
    elif items is not False:
        return  # any other member is allowed
    if described:
        placed = described[0] if len(described) == 1 else _Placed({"anyOf": described})
        flat["items"] = _join(flat["items"], placed) if "items" in flat else placed


_ADDERS: Mapping[str, Callable[[Schema, Schema, tuple[str, ...]], None]] = {
    "type": _add_types,
    "enum": _add_values,
    "const": _add_values,
    "anyOf": _add_alternatives,
    "oneOf": _add_alternatives,
    "properties": _add_properties,
    "required": _add_required,
    "additionalProperties": _add_further_properties,
    "items": _add_items,
    "prefixItems": lambda flat, schema, trail: None if "items" in schema else _add_items(flat, schema, trail),
    "additionalItems": lambda flat, schema, trail: None,
}
"""Keyword → function that adds it to the gathered keywords, from a schema with keywords that it may depend on."""
