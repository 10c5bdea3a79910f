"""A reply with a schema: how it is asked for, and how one is read that comes as the arguments of a call."""

from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.messages.deltas import Delta, Stop, Text, ToolArgs, ToolCall, ToolEnd
from anthropic_proxy.messages.notes import Note
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.openai_chat.dialect import Dialect
from anthropic_proxy.wire.openai_chat.tools import Tools
from anthropic_proxy.wire.openai_fields import LOOSE_OUTPUT, find_output_schema, find_output_wish
from anthropic_proxy.wire.schema import admits_object
from anthropic_proxy.wire.standing_notes import BY_CALL, IN_WORDS

OUTPUT_TOOL = "output"
"""The function that is forced where a reply with a schema can be had only as the arguments of a call."""


class Output(Struct):
    """How a reply with a schema is asked for."""

    form: Any = None
    """`response_format`; None: nothing is said there."""
    wish: str = ""
    """What the system prompt must say."""
    kept: bool = False
    """Whether the server keeps to the schema."""


def encode_output(call: Call, dialect: Dialect, tools: Tools, notes: list[Note]) -> Output:
    """Say the schema of the reply, if it has one; `tools` takes the function that is forced for it."""
    found = find_output_schema(call, notes, dialect.schema)
    if found is None:
        return Output(wish=find_output_wish(call, notes))
    schema, strict = found
    if _says_schema(call, dialect):
        if not strict:
            notes.append(LOOSE_OUTPUT)
        form = {"type": "json_schema", "json_schema": {"name": "output", "schema": schema, "strict": strict}}
        return Output(form, kept=strict)
    if replies_by_call(call, dialect):
        notes.append(BY_CALL)
        function = {"name": OUTPUT_TOOL, "description": "Give your reply by calling this.", "parameters": schema}
        tools.definitions.append(Raw(msgspec.json.encode({"type": "function", "function": function})))
        tools.choice = {"type": "function", "function": {"name": OUTPUT_TOOL}}
        return Output()
    notes.append(IN_WORDS)
    wish = (
        f"Reply with one JSON object only, without a code fence, that fits this JSON Schema:\n{bytes(schema).decode()}"
    )
    objects = dialect.json_output == "json_object" and not _stands_apart(call, dialect)
    return Output({"type": "json_object"} if objects else None, wish)


def replies_by_call(call: Call, dialect: Dialect) -> bool:
    """Say whether a call is forced whose arguments are the reply.

    It cannot be beside tools of the client's, which the model must stay free to call, nor where nothing can be forced.
    """
    request = call.request
    schema = bytes(request.output_schema)
    if not schema or request.tools or not dialect.offers_tools or not admits_object(schema):
        return False
    if dialect.json_output != "ask" and not _stands_apart(call, dialect):
        return False
    thinking = dialect.is_thinking(request.effort)
    return dialect.forces_tools == "always" or (dialect.forces_tools == "not_thinking" and not thinking)


class OutputCall:
    """Reads the call of the output tool as the text that it stands for."""

    def __init__(self) -> None:
        self._keys: set[int | str] = set()

    def feed(self, deltas: list[Delta]) -> list[Delta]:
        """Return deltas with the arguments as text."""
        return [told for delta in deltas if (told := self._tell(delta)) is not None]

    def _tell(self, delta: Delta) -> Delta | None:
        if isinstance(delta, ToolCall) and delta.name == OUTPUT_TOOL:
            self._keys.add(delta.key)
            return None
        if isinstance(delta, ToolArgs) and delta.key in self._keys:
            return Text(delta.json)
        if isinstance(delta, ToolEnd) and delta.key in self._keys:
            return None
        if isinstance(delta, Stop) and delta.reason == "tool_use" and self._keys:
            return Stop("end_turn")
        return delta


def _says_schema(call: Call, dialect: Dialect) -> bool:
    return dialect.json_output == "json_schema" and not _stands_apart(call, dialect)


def _stands_apart(call: Call, dialect: Dialect) -> bool:
    """Whether `response_format` cannot be said here, because it excludes tools and streaming."""
    return dialect.json_output_alone and (bool(call.request.tools) or call.stream)
