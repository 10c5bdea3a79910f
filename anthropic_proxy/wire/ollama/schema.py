"""`encode_parameters`: converts a JSON Schema to the few keywords that Ollama accepts in a tool.

Ollama ignores all other keywords (`ToolProperty` in `api/types.go`, 2026-08), so their content is moved into
descriptions. `EncodedParameters` is the result.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from anthropic_proxy.messages.work_budget import WorkBudget
from anthropic_proxy.wire.json_schema import (
    MAX_TEXT_CHARACTERS,
    EqualityIndex,
    Schema,
    SchemaRules,
    clean_schema,
    encode_if_short,
    merge_all_of,
)

_RULES = SchemaRules(inlines_references=True)  # a property has no room for `$ref`
_SUPPORTED = frozenset(("type", "description", "enum", "items", "properties", "required", "anyOf"))
_REWRITTEN = frozenset(("const", "oneOf", "allOf"))
_IGNORED = frozenset(("title", "deprecated", "readOnly", "writeOnly", "$anchor", "$defs", "definitions"))
"""Keywords that are dropped because they mean nothing to a model."""
_OTHERS = frozenset(("additionalProperties", "additionalItems", "unevaluatedProperties", "unevaluatedItems"))
"""Keywords that matter only if their value is a schema, not a boolean."""


class EncodedParameters(NamedTuple):
    """The input schema of a tool, converted for Ollama."""

    schema: Schema
    """Value of the field `parameters` of the tool."""
    description: str
    """Text for the tool's description, from the root of the schema. "": none."""
    losses: tuple[str, ...]
    """Texts for fidelity notes: one for each loss."""
    keywords_as_text: frozenset[str]
    """Keywords that only descriptions contain after the conversion."""


def encode_parameters(schema: Any, budget: WorkBudget | None = None) -> EncodedParameters:
    """Return the input schema of a tool with only the keywords that Ollama accepts.

    Other keywords become text in descriptions. Raises `WorkLimitExceeded` if the work exceeds `budget`.
    """
    budget = budget or WorkBudget("schema")
    cleaned, lost = clean_schema(schema, _RULES, budget)
    reduction = _Reduction(budget, lost)
    reduced = reduction.reduce(cleaned)
    parameters: Schema = {"type": "object"}
    if "required" in reduced:
        parameters["required"] = reduced["required"]
    parameters["properties"] = reduced.get("properties", {})
    return EncodedParameters(parameters, reduced.get("description", ""), tuple(lost), frozenset(reduction.hinted))


class _Reduction:
    """Conversion of one schema, cleaned by `clean_schema`, to the few keywords that Ollama accepts."""

    def __init__(self, budget: WorkBudget, lost: list[str]) -> None:
        self._budget = budget
        self._index = EqualityIndex(budget)
        self._lost = lost
        self.hinted: set[str] = set()
        """Names of the keywords that only descriptions contain after the conversion."""

    def reduce(self, schema: Any) -> Schema:
        """Return a schema with only the keywords that Ollama accepts. Other keywords become description text."""
        if not isinstance(schema, dict):
            return {}
        self._budget.count_steps(1 + len(schema))
        schema = merge_all_of(schema, self._index)
        reduced: Schema = {}
        kind = schema.get("type")
        if isinstance(kind, str) or _are(str, kind):
            reduced["type"] = kind
        choices = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if isinstance(choices, list) and choices:
            reduced["enum"] = choices
        if isinstance(schema.get("items"), dict | list):  # read without validation
            reduced["items"] = schema["items"]
        branches = schema.get("anyOf", schema.get("oneOf"))
        if _are(dict, branches):
            reduced["anyOf"] = [self.reduce(branch) for branch in branches]
        properties = schema.get("properties")
        if isinstance(properties, dict):
            reduced["properties"] = {name: self.reduce(inner) for name, inner in properties.items()}
        if _are(str, schema.get("required")) and schema["required"]:
            reduced["required"] = schema["required"]
        own = schema.get("description")
        hints = "; ".join(self._hints(schema))
        description = " ".join(filter(None, (own if isinstance(own, str) else "", f"({hints})" if hints else "")))
        return {"description": description, **reduced} if description else reduced

    def _hints(self, schema: Schema) -> Iterable[str]:
        """Yield a text `keyword: value` for each keyword of a schema that Ollama ignores."""
        for key, value in schema.items():
            if not _is_hint(key, value):
                continue
            self.hinted.add(key)
            is_text = isinstance(value, str) and value and len(value) <= MAX_TEXT_CHARACTERS
            shown = value if is_text else encode_if_short(value)
            if shown is None:
                self._lost.append(f"{key} is not sent: it is too long for a description")
            else:
                yield f"{key}: {shown}"


def _is_hint(key: str, value: Any) -> bool:
    if key in _SUPPORTED or key in _REWRITTEN or key in _IGNORED:
        return False
    return key not in _OTHERS or (isinstance(value, dict) and bool(value))


def _are(kind: type, values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)
