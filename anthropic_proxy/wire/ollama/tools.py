"""Tool definitions. There is no `tool_choice` here: what it asks for is said by the tools offered and in words."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.errors import UnsupportedFeature
from anthropic_proxy.messages.notes import Note
from anthropic_proxy.messages.types import Tool
from anthropic_proxy.messages.types.tools import is_client_tool
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.definitions import describe, encode_list_once, encode_once
from anthropic_proxy.wire.ollama.schema import encode_parameters, keywords_in_words
from anthropic_proxy.wire.standing_notes import ONE_CALL, said_in_words


class Tools(Struct):
    """What a request says of tools."""

    definitions: list[Raw]
    asks: str = ""
    """What a user text must ask for, because the server cannot be made to."""
    notes: list[Note] = []


def encode_tools(call: Call) -> Tools:
    """Say the request's tools; raises `UnsupportedFeature` where one is forced that cannot be offered."""
    choice = call.request.tool_choice
    offered = call.request.tools
    if choice is not None and choice.type == "tool":
        offered = [tool for tool in offered if tool.name == choice.name]
    elif choice is not None and choice.type == "none":
        offered = []
    definitions, notes = _encode_functions(offered)
    tools = Tools([*definitions], notes=[*notes])
    if choice is not None:
        _choose(choice.type, choice.name or "", tools, call)
        if choice.disable_parallel_tool_use and tools.definitions:
            tools.notes.append(ONE_CALL)
    return tools


def _choose(kind: str, name: str, tools: Tools, call: Call) -> None:
    if kind not in ("any", "tool"):
        return
    if not tools.definitions:
        asked = name or ", ".join(tool.name for tool in call.request.tools) or "nothing"
        raise UnsupportedFeature(
            f"tool_choice: {call.provider} cannot be asked to call a tool, because none of those given can be offered "
            f"there: {asked}."
        )
    tools.asks = f"Call the tool {name} now." if kind == "tool" else "Call one of the tools now."
    how = "it alone is offered, and a user text" if kind == "tool" else "a user text"
    tools.notes.append(Note("emulated", "tool_choice", f"{call.provider} does not force calls; {how} asks for one"))


@encode_list_once
def _encode_functions(tools: Sequence[Tool]) -> tuple[tuple[Raw, ...], tuple[Note, ...]]:
    """Return the client's tools, and what of them cannot be said."""
    functions = [tool for tool in tools if is_client_tool(tool)]
    encoded = [_encode_tool(tool) for tool in functions]
    notes = [
        Note("approximated", f"tools.{tool.name}", what)
        for tool, (_, lost, _) in zip(functions, encoded, strict=True)
        for what in lost
    ]
    if in_words := frozenset[str]().union(*(keywords for _, _, keywords in encoded)):
        notes.append(said_in_words(in_words))
    return tuple(definition for definition, _, _ in encoded), tuple(notes)


@encode_once
def _encode_tool(tool: Tool) -> tuple[Raw, tuple[str, ...], frozenset[str]]:
    """Return the tool as the server reads it, in words what it no longer says, and what only its descriptions say."""
    schema = msgspec.json.decode(tool.input_schema) if tool.input_schema else {}
    parameters, rest, lost = encode_parameters(schema)
    function: dict[str, Any] = {"name": tool.name}
    if description := describe(tool, rest):
        function["description"] = description
    function["parameters"] = parameters
    if tool.strict:
        lost = (*lost, "strict was not asked for: the server has no strict mode")
    definition = Raw(msgspec.json.encode({"type": "function", "function": function}))
    return definition, lost, keywords_in_words(schema)
