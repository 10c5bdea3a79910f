"""JSON Schemas and values by a seed. A seed always gives the same, so a failure can be repeated."""

from collections.abc import Sequence
from random import Random
from typing import Any, TypeVar

Schema = dict[str, Any]
T = TypeVar("T")
_NAMES = ("a", "b", "c")
_VALUES = ("", "x", "yes", 0, 1, 2.5, True, None)
_TYPES = ("string", "number", "integer", "boolean", "object", "array", "null")
_REFERENCES = ("#/$defs/a", "#/$defs/b", "#/$defs/missing", "#nowhere", "#/properties/p", "#")
_LEVELS = 3
"""Nesting of a schema."""


class SchemaMaker:
    def __init__(self, seed: int, *, refers: bool = False, describes_items: bool = False) -> None:
        """`refers`: schemas have references. `describes_items`: arrays have `items` with a type."""
        self._random = Random(seed)
        self._refers = refers
        self._describes_items = describes_items

    def make(self, levels: int = _LEVELS) -> Any:
        """Return a schema, an object or a boolean."""
        kinds = ("scalar", "object", "array", "alternatives") if levels else ("scalar",)
        schema = getattr(self, f"_make_{self._choose(kinds)}")(levels - 1)
        if isinstance(schema, dict) and self._happens(0.3):
            annotations = {"description": "d", "default": self._choose(_VALUES), "title": "t"}
            schema |= {name: value for name, value in annotations.items() if self._happens(0.5)}
        return schema

    def make_root(self) -> Schema:
        """Return the schema of an object with the property `p`."""
        root: Schema = {"type": "object", "properties": {"p": self.make()}, "required": ["p"]}
        return root | ({"$defs": {"a": self.make(), "b": self.make()}} if self._refers else {})

    def make_value(self, schema: Any, levels: int = _LEVELS) -> Any:
        """Return a value that a schema without references may accept."""
        if not isinstance(schema, dict) or levels < 0 or self._happens(0.1):
            return self._make_any(levels)
        for key in ("anyOf", "oneOf", "allOf"):
            if key in schema and self._happens(0.5):
                return self.make_value(self._choose(schema[key]), levels)
        if "enum" in schema or "const" in schema:
            return self._choose(schema.get("enum") or [schema["const"]])
        types = schema.get("type", _TYPES)
        kind = self._choose([types] if isinstance(types, str) else types)
        if kind == "object":
            further = schema.get("additionalProperties", True)
            known = {**dict.fromkeys(_NAMES if further is not False else (), further), **schema.get("properties", {})}
            is_needed = schema.get("required", ())
            chosen = [name for name in known if name in is_needed or self._happens(0.5)]
            return {name: self.make_value(known[name], levels - 1) for name in chosen}
        if kind == "array":
            first = [self.make_value(one, levels - 1) for one in schema.get("prefixItems", ())]
            items = schema.get("items", True)
            number = 0 if items is False else self._random.randint(0, 2)
            return first + [self.make_value(items, levels - 1) for _ in range(number)]
        scalars: dict[str, Sequence[Any]] = {"string": ("", "x"), "boolean": (True, False), "null": (None,)}
        return self._choose(scalars.get(kind, (-1, 0, 2.5)))

    def _make_any(self, levels: int) -> Any:
        if levels > 0 and self._happens(0.5):
            inner = [self._make_any(levels - 1) for _ in range(self._random.randint(0, 2))]
            return inner if self._happens(0.5) else dict(zip(_NAMES, inner, strict=False))
        return self._choose(_VALUES)

    def _make_scalar(self, levels: int) -> Any:
        choices: list[Any] = [
            {"type": self._choose(_TYPES)},
            {"type": self._random.sample(_TYPES, self._random.randint(1, 3))},
            {"enum": self._random.sample(_VALUES, self._random.randint(1, 3))},
            {"const": self._choose(_VALUES)},
            {"type": "string", "minLength": 1},
            {"type": "string", "enum": ["", "x"]},
            {"type": ["integer", "null"], "minimum": 0},
            {},
            True,
        ]
        if self._refers:
            choices += [{"$ref": self._choose(_REFERENCES)}, {"$ref": "#/$defs/a", "type": "object"}] * 3
        chosen = self._choose(choices)
        arrays = isinstance(chosen, dict) and "array" in chosen.get("type", ())
        return {**chosen, "items": {"type": "integer"}} if arrays and self._describes_items else chosen

    def _make_object(self, levels: int) -> Schema:
        schema = {
            "properties": {name: self.make(levels) for name in _NAMES if self._happens(0.4)},
            "required": [name for name in _NAMES if self._happens(0.3)],
            "additionalProperties": self.make(levels) if self._happens(0.5) else self._happens(0.5),
            "patternProperties": {"^c": self.make(levels)},
            "anyOf": [self.make(levels) for _ in range(self._random.randint(1, 2))],
        }
        weights = {"properties": 0.8, "patternProperties": 0.1}
        chosen = {key: value for key, value in schema.items() if self._happens(weights.get(key, 0.3))}
        return {"type": self._choose(["object", ["object", "null"]]), **chosen}

    def _make_array(self, levels: int) -> Schema:
        schema = {
            "prefixItems": [self.make(levels) for _ in range(self._random.randint(1, 2))],
            "minItems": 1,
            "allOf": [self.make(levels)],
        }
        chosen = {key: value for key, value in schema.items() if self._happens(0.3)}
        if self._describes_items:
            chosen = {"minItems": 1, "items": {"type": "integer"}}
        elif self._happens(0.6):
            chosen["items"] = self.make(levels) if self._happens(0.9) else False
        return {"type": self._choose(["array", ["array", "string"]]), **chosen}

    def _make_alternatives(self, levels: int) -> Schema:
        key = self._choose(("anyOf", "oneOf", "allOf"))
        return {key: [self.make(levels) for _ in range(self._random.randint(1, 3))]}

    def _happens(self, probability: float) -> bool:
        return self._random.random() < probability

    def _choose(self, among: Sequence[T]) -> T:
        return self._random.choice(among)
