"""Plain default values for the required arguments of a tool and for structured output.

A value has the stated type, a minimum is respected, and that is all: patterns, formats and other keywords are ignored.
"""

from collections.abc import Mapping
from typing import Any

from anthropic_proxy.messages.work_budget import CHARACTERS_PER_NODE, WorkBudget, count_nodes
from anthropic_proxy.upstream.demo.requests import Tool, ToolUse

MAX_NODES = 1_000
"""Size of the values for one reply. A node is a key, a value or 64 characters."""
MAX_STEPS = 20_000
MAX_DEPTH = 32
_TEXT = "demo"
_UNION_KEYWORDS = ("anyOf", "oneOf", "allOf")


def fill_call(tool: Tool, given: Mapping[str, Any]) -> ToolUse:
    """Return a call with the given arguments, and defaults for the other required ones.

    Raises `WorkLimitExceeded` if the defaults are too large.
    """
    value = _Defaults(f"tools.{tool.name}.input_schema", tool.schema).fill(tool.schema, 0, given)
    return ToolUse(tool.name, {**value, **given} if isinstance(value, dict) else given)


def default_value(field: str, schema: Any) -> Any:
    """Return a value for a whole schema. Raises `WorkLimitExceeded` if it is too large."""
    return _Defaults(field, schema).fill(schema, 0)


class _Defaults:
    def __init__(self, field: str, root: Any) -> None:
        self._budget = WorkBudget(
            field, purpose="fill in", max_steps=MAX_STEPS, max_nodes=MAX_NODES, max_depth=MAX_DEPTH
        )
        self._root = root

    def fill(self, schema: Any, depth: int, given: Mapping[str, Any] | None = None) -> Any:
        """Return the default for a schema; properties in `given` are left out."""
        self._budget.require_depth(depth)
        self._budget.write(1)
        if not isinstance(schema, Mapping):
            return _TEXT
        for value in _stated(schema):
            self._budget.write(count_nodes(value))
            return value
        if isinstance(reference := schema.get("$ref"), str):
            return self.fill(self._follow(reference), depth + 1, given)
        kind = _type_of(schema)
        if kind == "object":
            return self._fill_object(schema, depth, given or {})
        if kind == "array":
            count = int(_lower_bound(schema.get("minItems")))
            self._budget.write(count)
            return [self.fill(schema.get("items"), depth + 1) for _ in range(count)]
        if kind == "string":
            length = int(_lower_bound(schema.get("minLength"), len(_TEXT)))
            self._budget.write(length // CHARACTERS_PER_NODE)
            return _TEXT.ljust(length, ".")[: int(_lower_bound(schema.get("maxLength", length)))]
        if kind in {"integer", "number"}:
            above = schema.get("exclusiveMinimum")
            value = _lower_bound(schema.get("minimum"), above + 1 if isinstance(above, int | float) else 0)
            high = schema.get("maximum", value)
            return high if isinstance(high, int | float) and high < value else value
        if kind:
            return {"boolean": False, "null": None}.get(kind, _TEXT)
        unions = (schema[keyword] for keyword in _UNION_KEYWORDS if isinstance(schema.get(keyword), list))
        union = next(filter(None, unions), None)
        return _TEXT if union is None else self.fill(union[0], depth + 1, given)

    def _fill_object(self, schema: Mapping[str, Any], depth: int, given: Mapping[str, Any]) -> dict[str, Any]:
        properties, required = schema.get("properties"), schema.get("required")
        known = properties if isinstance(properties, Mapping) else {}
        value: dict[str, Any] = {}
        for name in required if isinstance(required, list) else ():
            if isinstance(name, str) and name not in given and name not in value:
                self._budget.write(count_nodes(name))
                value[name] = self.fill(known.get(name), depth + 1)
        return value

    def _follow(self, reference: str) -> Any:
        """Return the schema at a JSON pointer into the root; None: there is none."""
        self._budget.spend(1 + len(reference))
        target = self._root
        for key in filter(None, reference.removeprefix("#").split("/")):
            name = key.replace("~1", "/").replace("~0", "~")
            target = target.get(name) if isinstance(target, Mapping) else None
        return target


def _stated(schema: Mapping[str, Any]) -> list[Any]:
    """Return the value that the schema itself states, or nothing."""
    values = [schema[keyword] for keyword in ("const", "default") if keyword in schema]
    enum = schema.get("enum")
    return (values + enum[:1] if isinstance(enum, list) else values)[:1]


def _type_of(schema: Mapping[str, Any]) -> str:
    """Return the first type of a schema; without one, the type that its keywords imply; "": none."""
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next(iter(kind), None)
    if isinstance(kind, str):
        return kind
    if "properties" in schema or "required" in schema:
        return "object"
    return "array" if "items" in schema else ""


def _lower_bound(*limits: Any) -> Any:
    """Return the greatest of 0 and the limits that are numbers."""
    return max((0, *(limit for limit in limits if isinstance(limit, int | float))))
