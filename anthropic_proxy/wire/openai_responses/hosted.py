"""Programs that the server ran, and servers of the client's that it called → Anthropic's blocks.

The call leaves as soon as it is written, its result when it is there. Source: `ResponseCodeInterpreterToolCall` and
`McpCall` of the official SDK `openai` 3.51; recorded by the project `vercel/ai` (openai-code-interpreter-tool.1,
openai-mcp-tool.1 and xai-code-execution-tool.1 of its fixtures, 2026-08).
"""

from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.messages.deltas import Block, Delta
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.openai_responses.connectors import server_of
from anthropic_proxy.wire.openai_responses.events import ABSENT, Item, read_loosely
from anthropic_proxy.wire.server_tools import (
    CONNECTOR_CALL,
    SERVER_CALL,
    encode_connector_call,
    encode_connector_result,
    encode_failed_program,
    encode_output,
    encode_program,
    picture_in_words,
)

_PROGRAMS = frozenset(("code_interpreter_call", "code_execution_call"))
HOSTED = _PROGRAMS | {"mcp_call"}
"""Types of items that this module reads."""


class _Output(Struct):
    """What a program gave: `logs`, or the address of an `image`."""

    type: str = ""
    logs: str | None = None
    url: str | None = None


class _Arguments(Struct):
    """How xAI says a program (recorded)."""

    code: str = ""


class Hosted:
    """One such item, from its first event to its last."""

    __slots__ = ("_call", "_identifier", "_is_program", "_item")

    def __init__(self, call: Call, item: Item) -> None:
        self._call = call
        self._item = item
        self._is_program = item.type in _PROGRAMS
        self._identifier = ""

    def announce(self, written: str) -> list[Delta]:
        """Return the call, now that its program or its arguments are complete; nothing where it was said before."""
        if self._identifier:
            return []
        if self._is_program:
            self._identifier = self._call.new_id(SERVER_CALL)
            return [encode_program(self._identifier, written)]
        self._identifier = self._call.new_id(CONNECTOR_CALL)
        label, name = self._item.server_label or "", self._item.name or ""
        server = server_of(self._call.request, label)
        own_name = name.removeprefix(f"{label}.")  # xAI puts the label before it (documented)
        return [encode_connector_call(self._identifier, server, own_name, written)]

    def end(self, item: Item) -> list[Delta]:
        """Return what is left to say of an item that is complete."""
        self._item = item
        if self._is_program:
            said = self.announce(_code_of(item))
            return [*said, _result_of_program(self._identifier, item)]
        said = self.announce(item.arguments or "")
        failure = read_loosely(item.error, object) if item.error is not ABSENT else None
        words = _in_words(failure) if failure else item.output or ""
        is_error = bool(failure) or item.status in ("failed", "incomplete")
        return [*said, encode_connector_result(self._identifier, words, is_error=is_error)]

    def cut(self) -> list[Delta]:
        """Return the end of a call whose result never came."""
        if not self._identifier:
            return []
        if self._is_program:
            return [encode_failed_program(self._identifier, "unavailable")]
        return [encode_connector_result(self._identifier, "the answer was cut before the result", is_error=True)]


def _code_of(item: Item) -> str:
    if item.code is not None or not item.arguments:
        return item.code or ""
    return str(read_loosely(Raw(item.arguments.encode(errors="replace")), _Arguments).code)


def _result_of_program(identifier: str, item: Item) -> Block:
    outputs: list[_Output] = [read_loosely(raw, _Output) for raw in item.outputs or ()]
    printed = "\n".join(filter(None, map(_output_in_words, outputs)))
    if item.status in ("failed", "incomplete"):
        if not printed:
            return encode_failed_program(identifier, "unavailable")
        return encode_output(identifier, stderr=printed, return_code=1)
    return encode_output(identifier, stdout=printed)


def _output_in_words(output: _Output) -> str:
    if output.type != "image" or not output.url:
        return output.logs or ""
    described, mark, data = output.url.partition(",")
    if not mark or not described.startswith("data:"):
        return f"[image generated: {output.url}]"
    return picture_in_words(described.removeprefix("data:").partition(";")[0], len(data))


def _in_words(error: Any) -> str:
    """Return what went wrong: a text (xAI), or an object with a message or with what the tool answered (OpenAI)."""
    if isinstance(error, str):
        return error
    if isinstance(error, list):
        return "\n".join(map(_in_words, error))
    if isinstance(error, dict):
        for name in ("message", "text", "content"):
            if error.get(name):
                return _in_words(error[name])
    return msgspec.json.encode(error).decode()
