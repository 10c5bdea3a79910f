"""Replies with a JSON Schema: request fields, and decoding of a reply in the arguments of a forced tool call."""

from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.messages.deltas import Delta, Stop, Text, ToolArgs, ToolCall, ToolEnd
from anthropic_proxy.messages.fidelity import FidelityNote
from anthropic_proxy.messages.work_budget import WorkBudget
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.json_schema import admits_object
from anthropic_proxy.wire.openai_chat.dialect import Dialect
from anthropic_proxy.wire.openai_chat.tools import ToolFields
from anthropic_proxy.wire.openai_shared_fields import SCHEMA_NOT_ENFORCED, encode_reply_schema, reply_schema_instruction
from anthropic_proxy.wire.shared_notes import SCHEMA_AS_TEXT, SCHEMA_AS_TOOL

OUTPUT_TOOL_NAME = "output"
"""Name of the function for a forced call that returns the reply, if `response_format` is not supported."""


class ReplySchemaFields(Struct):
    """Fields of the upstream request that request a reply with a JSON Schema."""

    response_format: Any = None
    """`response_format`. None: not sent."""
    system_instruction: str = ""
    """Text for the system prompt."""
    enforces_schema: bool = False
    """True if the server enforces the schema."""


def encode_reply_schema_fields(
    call: Call[Dialect], dialect: Dialect, tools: ToolFields, notes: list[FidelityNote], budget: WorkBudget
) -> ReplySchemaFields:
    """Encode the reply schema of the client request. A forced output function is added to `tools`."""
    found = encode_reply_schema(call, budget, notes, dialect.schema_rules)
    if found is None:
        return ReplySchemaFields(system_instruction=reply_schema_instruction(call, budget, notes))
    schema, strict = found
    if _sends_schema(call, dialect):
        if not strict:
            notes.append(SCHEMA_NOT_ENFORCED)
        form = {"type": "json_schema", "json_schema": {"name": "output", "schema": schema, "strict": strict}}
        return ReplySchemaFields(form, enforces_schema=strict)
    if uses_output_tool(call, dialect, budget):
        notes.append(SCHEMA_AS_TOOL)
        function = {"name": OUTPUT_TOOL_NAME, "description": "Give your reply by calling this.", "parameters": schema}
        tools.definitions.append(Raw(msgspec.json.encode({"type": "function", "function": function})))
        tools.tool_choice = {"type": "function", "function": {"name": OUTPUT_TOOL_NAME}}
        return ReplySchemaFields()
    notes.append(SCHEMA_AS_TEXT)
    instruction = (
        f"Reply with one JSON object only, without a code fence, that fits this JSON Schema:\n{bytes(schema).decode()}"
    )
    objects = dialect.reply_schema_form == "json_object" and not _stands_apart(call, dialect)
    return ReplySchemaFields({"type": "json_object"} if objects else None, instruction)


def uses_output_tool(call: Call[Dialect], dialect: Dialect, budget: WorkBudget | None = None) -> bool:
    """Return True if the reply is requested as the arguments of a forced call.

    False beside client tools, which the model must remain free to call, and if tools cannot be forced.
    """
    request = call.request
    schema = bytes(request.output_schema)
    if not schema or request.tools or not dialect.accepts_tools or not admits_object(schema, budget):
        return False
    if dialect.reply_schema_form != "ask" and not _stands_apart(call, dialect):
        return False
    thinking = dialect.is_thinking(request.effort)
    return dialect.accepts_forced_tool == "always" or (dialect.accepts_forced_tool == "not_thinking" and not thinking)


class OutputToolReader:
    """Converts the call of the output tool into the text of the reply."""

    def __init__(self) -> None:
        self._keys: set[int | str] = set()

    def convert_to_text(self, deltas: list[Delta]) -> list[Delta]:
        """Return the deltas with the arguments of the output tool as `Text`; other deltas are unchanged."""
        return [kept for delta in deltas if (kept := self._convert(delta)) is not None]

    def _convert(self, delta: Delta) -> Delta | None:
        if isinstance(delta, ToolCall) and delta.name == OUTPUT_TOOL_NAME:
            self._keys.add(delta.key)
            return None
        if isinstance(delta, ToolArgs) and delta.key in self._keys:
            return Text(delta.json)
        if isinstance(delta, ToolEnd) and delta.key in self._keys:
            return None
        if isinstance(delta, Stop) and delta.reason == "tool_use" and self._keys:
            return Stop("end_turn")
        return delta


def _sends_schema(call: Call[Dialect], dialect: Dialect) -> bool:
    return dialect.reply_schema_form == "json_schema" and not _stands_apart(call, dialect)


def _stands_apart(call: Call[Dialect], dialect: Dialect) -> bool:
    """Return True if `response_format` is excluded by tools or streaming."""
    return dialect.reply_schema_exclusive and (bool(call.request.tools) or call.streams_upstream)
