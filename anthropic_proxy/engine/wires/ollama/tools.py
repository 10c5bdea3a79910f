"""Encoder of the client's tools and of their schemas for Ollama.

Ollama cannot force a tool call. If the client requires one, the proxy adds a user text, and offers only the tool that
the client names. Schemas are reduced to the few keywords that Ollama passes to the model's template; other keywords
become text in descriptions.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models import Tool
from anthropic_proxy.engine.messages.models.tools import is_client_tool
from anthropic_proxy.engine.messages.work_budget import WorkBudget
from anthropic_proxy.engine.wires.contract import Call
from anthropic_proxy.engine.wires.json_schema import (
    MAX_TEXT_CHARACTERS,
    EqualityIndex,
    Schema,
    SchemaRules,
    clean_schema,
    encode_if_short,
    merge_all_of,
)
from anthropic_proxy.engine.wires.ollama.dialect import Dialect
from anthropic_proxy.engine.wires.shared_notes import SINGLE_TOOL_CALL, keywords_as_text_note
from anthropic_proxy.engine.wires.tools import cached_encoder, cached_list_encoder, tool_description
from anthropic_proxy.errors import UnsupportedFeature


class ToolFields(Struct):
    definitions: list[Raw]
    user_instruction: str = ""
    """User text that requests a tool call, because the server cannot force it. "": none."""
    notes: list[FidelityNote] = []


def encode_tools(call: Call[Dialect], budget: WorkBudget) -> ToolFields:
    """Encode the client's tools. Raises `UnsupportedFeature` if a forced tool cannot be offered."""
    choice = call.request.tool_choice
    offered = call.request.tools
    if choice is not None and choice.type == "tool":
        offered = [tool for tool in offered if tool.name == choice.name]
    elif choice is not None and choice.type == "none":
        offered = []
    definitions, notes = _encode_functions(offered, budget)
    tools = ToolFields([*definitions], notes=[*notes])
    if choice is not None and choice.type in ("any", "tool"):
        if not definitions:
            asked = choice.name or ", ".join(tool.name for tool in call.request.tools) or "nothing"
            raise UnsupportedFeature(
                f"tool_choice: {call.provider} cannot be forced to call a tool, because it supports none of the "
                f"given tools: {asked}.",
                code="forced-tool",
            )
        named = choice.type == "tool"
        tools.user_instruction = f"Call the tool {choice.name or ''} now." if named else "Call one of the tools now."
        how = "only that tool is offered, and a user text" if named else "a user text"
        tools.notes.append(
            FidelityNote("emulated", "tool_choice", f"{call.provider} is not known to force calls; {how} asks for one")
        )
    if choice is not None and choice.disable_parallel_tool_use and definitions:
        tools.notes.append(SINGLE_TOOL_CALL)
    return tools


@cached_list_encoder
def _encode_functions(tools: Sequence[Tool], budget: WorkBudget) -> tuple[tuple[Raw, ...], tuple[FidelityNote, ...]]:
    functions = [tool for tool in tools if is_client_tool(tool)]
    encoded = [_encode_tool(tool, budget) for tool in functions]
    notes = [
        FidelityNote("approximated", f"tools.{budget.client_tool_name(tool.name)}", what)
        for tool, (_, lost, _) in zip(functions, encoded, strict=True)
        for what in lost
    ]
    if in_words := frozenset[str]().union(*(keywords for _, _, keywords in encoded)):
        notes.append(keywords_as_text_note(in_words))
    return tuple(definition for definition, _, _ in encoded), tuple(notes)


@cached_encoder
def _encode_tool(tool: Tool, budget: WorkBudget) -> tuple[Raw, tuple[str, ...], frozenset[str]]:
    budget.count_decoding_steps(tool.input_schema)
    schema = msgspec.json.decode(tool.input_schema) if tool.input_schema else {}
    parameters, root_description, lost, keywords = encode_parameters(schema, budget)
    function: dict[str, Any] = {"name": tool.name}
    if description := tool_description(tool, root_description):
        function["description"] = description
    function["parameters"] = parameters
    if tool.strict:
        lost = (*lost, "strict was not sent: the server has no known strict mode")
    definition = Raw(msgspec.json.encode({"type": "function", "function": function}))
    return definition, lost, keywords


_RULES = SchemaRules(inlines_references=True)  # a property has no room for `$ref`
_SUPPORTED = frozenset(("type", "description", "enum", "items", "properties", "required", "anyOf"))
_REWRITTEN = frozenset(("const", "oneOf", "allOf"))
_IGNORED = frozenset(("title", "deprecated", "readOnly", "writeOnly", "$anchor", "$defs", "definitions"))
"""Keywords that are dropped because they mean nothing to a model."""
_OTHERS = frozenset(("additionalProperties", "additionalItems", "unevaluatedProperties", "unevaluatedItems"))
"""Keywords that matter only if their value is a schema, not a boolean."""


class EncodedParameters(NamedTuple):
    schema: Schema
    description: str
    """Text for the tool's description, from the root of the schema. "": none."""
    losses: tuple[str, ...]
    """Texts for fidelity notes: one for each loss."""
    keywords_as_text: frozenset[str]


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
    def __init__(self, budget: WorkBudget, lost: list[str]) -> None:
        self._budget = budget
        self._index = EqualityIndex(budget)
        self._lost = lost
        self.hinted: set[str] = set()

    def reduce(self, schema: Any) -> Schema:
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
        hints = "; ".join(self._describe_others(schema))
        description = " ".join(filter(None, (own if isinstance(own, str) else "", f"({hints})" if hints else "")))
        return {"description": description, **reduced} if description else reduced

    def _describe_others(self, schema: Schema) -> Iterator[str]:
        """Yield a text `keyword: value` for each keyword of a schema that Ollama ignores."""
        for key, value in schema.items():
            if key in _SUPPORTED or key in _REWRITTEN or key in _IGNORED:
                continue
            if key in _OTHERS and not (isinstance(value, dict) and value):
                continue
            self.hinted.add(key)
            is_text = isinstance(value, str) and value and len(value) <= MAX_TEXT_CHARACTERS
            shown = value if is_text else encode_if_short(value)
            if shown is None:
                self._lost.append(f"{key} is not sent: it is too long for a description")
            else:
                yield f"{key}: {shown}"


def _are(kind: type, values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)
