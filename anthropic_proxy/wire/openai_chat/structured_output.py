"""Replies that must match the client's JSON Schema: encoding of the schema in the request, and decoding of the reply.

`encode_reply_schema_fields` sends the schema in one of three ways: in the server's field for schemas, as the arguments
of an output tool that the model must call, or as a text in the system prompt. `uses_output_tool` is True if the output
tool is used. `OutputToolConverter` converts the call of this tool back to text.
"""

from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.messages.deltas import Delta, Stop, Text, ToolArgs, ToolCall, ToolEnd
from anthropic_proxy.messages.fidelity import FidelityNote
from anthropic_proxy.messages.work_budget import WorkBudget
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.json_schema import may_accept_object
from anthropic_proxy.wire.openai_chat.dialect import Dialect
from anthropic_proxy.wire.openai_chat.tools import ToolFields
from anthropic_proxy.wire.openai_shared_fields import SCHEMA_NOT_ENFORCED, encode_reply_schema, reply_schema_instruction
from anthropic_proxy.wire.shared_notes import SCHEMA_AS_TEXT, SCHEMA_AS_TOOL

OUTPUT_TOOL_NAME = "output"
"""Name of the output tool. The model must call this function with the reply as arguments."""


class ReplySchemaFields(Struct):
    """Fields of the upstream request for a reply that matches the client's JSON Schema."""

    response_format: Any = None
    """Value of the request field `response_format`. None: the field is not sent."""
    system_instruction: str = ""
    """Text for the system prompt that requests a reply by the schema. "": no text."""
    enforces_schema: bool = False
    """True if the server guarantees that the reply matches the schema."""


def encode_reply_schema_fields(
    call: Call[Dialect], dialect: Dialect, tools: ToolFields, notes: list[FidelityNote], budget: WorkBudget
) -> ReplySchemaFields:
    """Return the request fields for a reply that must match the client's JSON Schema.

    For a server without a suitable field, the schema is sent as an output tool in `tools`, or as text in the system
    prompt.
    """
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
    """Return True if the model must call the output tool, with the reply as arguments."""
    request = call.request
    schema = bytes(request.output_schema)
    if not schema or request.tools or not dialect.accepts_tools or not may_accept_object(schema, budget):
        return False
    if dialect.reply_schema_form != "ask" and not _stands_apart(call, dialect):
        return False
    thinking = dialect.is_thinking_at_effort(request.effort)
    return dialect.accepts_forced_tool == "always" or (dialect.accepts_forced_tool == "not_thinking" and not thinking)


class OutputToolConverter:
    """Converter of one reply: replaces the call of the output tool by the arguments of the call, as reply text."""

    def __init__(self) -> None:
        self._keys: set[int | str] = set()

    def convert_to_text(self, deltas: list[Delta]) -> list[Delta]:
        """Return the deltas with the arguments of the output tool as text of the reply.

        The stop reason `tool_use` then becomes `end_turn`. Other deltas are unchanged.
        """
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
    """Return True if `response_format` must be omitted, because the server rejects it with streaming or tools."""
    return dialect.reply_schema_exclusive and (bool(call.request.tools) or call.streams_upstream)
