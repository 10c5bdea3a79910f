"""Decoder of code execution and MCP calls, which the provider runs itself: converts output items to client blocks.

`ServerToolItemDecoder` decodes one call. `start_call` returns the call block as soon as the program (code to run) or
the arguments are complete. `decode_complete_item` returns the result block. `abort_call` returns an error block for a
call without a result. Source: `ResponseCodeInterpreterToolCall` and `McpCall` of the official SDK `openai` 3.51;
recorded by the project `vercel/ai` (openai-code-interpreter-tool.1, openai-mcp-tool.1 and xai-code-execution-tool.1 of
its fixtures, 2026-08).
"""

from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.messages.deltas import Block, Delta
from anthropic_proxy.messages.server_blocks import (
    MCP_TOOL_ID_PREFIX,
    SERVER_TOOL_ID_PREFIX,
    describe_generated_file,
    encode_code_execution_call,
    encode_code_execution_error,
    encode_code_result,
    encode_mcp_call,
    encode_mcp_result,
)
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.openai_responses.dialect import Dialect
from anthropic_proxy.wire.openai_responses.frames import ABSENT, OutputItem, decode_or_empty
from anthropic_proxy.wire.openai_responses.tool_calls import ToolCallContext

# Sources: `ResponseCodeInterpreterToolCall` and `McpCall` of the official SDK `openai` 3.51; recorded by the project
# `vercel/ai` (openai-code-interpreter-tool.1, openai-mcp-tool.1 and xai-code-execution-tool.1 of its fixtures,
# 2026-08).
_PROGRAMS = frozenset(("code_interpreter_call", "code_execution_call"))
SERVER_TOOL_ITEM_TYPES = _PROGRAMS | {"mcp_call"}
"""Types of output items that this module decodes."""


class _Output(Struct):
    """Output of a program that the provider ran: printed text, or the URL of an image."""

    type: str = ""
    """Type of the output: `logs` or `image`."""
    logs: str | None = None
    url: str | None = None


class _Arguments(Struct):
    """Arguments of xAI's code execution items: the source text of the program (recorded)."""

    code: str = ""


class ServerToolItemDecoder:
    """Decoder of one code execution or MCP call that the provider runs, from the first event to the last."""

    __slots__ = ("_call", "_identifier", "_is_program", "_item", "_shared")

    def __init__(self, call: Call[Dialect], item: OutputItem, shared: ToolCallContext) -> None:
        self._call = call
        self._shared = shared
        self._item = item
        self._is_program = item.type in _PROGRAMS
        self._identifier = ""

    def start_call(self, program_or_arguments: str) -> list[Delta]:
        """Return the block that begins the call. Empty list: the block was already returned.

        `program_or_arguments` is the program of a code execution, or the JSON arguments of an MCP call.
        """
        if self._identifier:
            return []
        if self._is_program:
            self._identifier = self._call.new_id(SERVER_TOOL_ID_PREFIX)
            return [encode_code_execution_call(self._identifier, program_or_arguments)]
        self._identifier = self._call.new_id(MCP_TOOL_ID_PREFIX)
        label, name = self._item.server_label or "", self._item.name or ""
        server = self._shared.find_mcp_server_name(label)
        own_name = name.removeprefix(f"{label}.")  # xAI adds the label as a prefix (documented)
        return [encode_mcp_call(self._identifier, server, own_name, program_or_arguments)]

    def decode_complete_item(self, item: OutputItem) -> list[Delta]:
        """Return the block with the result of the call. `item`: the complete output item of the call.

        The block that begins the call comes first, unless `start_call` returned it before.
        """
        self._item = item
        if self._is_program:
            announced = self.start_call(_code_of(item))
            return [*announced, _result_of_program(self._identifier, item)]
        announced = self.start_call(item.arguments or "")
        failure = decode_or_empty(item.error, object) if item.error is not ABSENT else None
        words = _in_words(failure) if failure else item.output or ""
        is_error = bool(failure) or item.status in ("failed", "incomplete")
        return [*announced, encode_mcp_result(self._identifier, words, is_error=is_error)]

    def abort_call(self) -> list[Delta]:
        """Return an error block in place of the missing result. Empty list: the client received no call block."""
        if not self._identifier:
            return []
        if self._is_program:
            return [encode_code_execution_error(self._identifier, "unavailable")]
        return [encode_mcp_result(self._identifier, "the answer was cut before the result", is_error=True)]


def _code_of(item: OutputItem) -> str:
    if item.code is not None or not item.arguments:
        return item.code or ""
    return str(decode_or_empty(Raw(item.arguments.encode(errors="replace")), _Arguments).code)


def _result_of_program(identifier: str, item: OutputItem) -> Block:
    outputs: list[_Output] = [decode_or_empty(raw, _Output) for raw in item.outputs or ()]
    printed = "\n".join(filter(None, map(_output_in_words, outputs)))
    if item.status in ("failed", "incomplete"):
        if not printed:
            return encode_code_execution_error(identifier, "unavailable")
        return encode_code_result(identifier, stderr=printed, return_code=1)
    return encode_code_result(identifier, stdout=printed)


def _output_in_words(output: _Output) -> str:
    if output.type != "image" or not output.url:
        return output.logs or ""
    described, mark, data = output.url.partition(",")
    if not mark or not described.startswith("data:"):
        return f"[image generated: {output.url}]"
    return describe_generated_file(described.removeprefix("data:").partition(";")[0], len(data))


def _in_words(error: Any) -> str:
    """Return the text of an MCP error. xAI sends a string, OpenAI an object with a message or the tool's output."""
    if isinstance(error, str):
        return error
    if isinstance(error, list):
        return "\n".join(map(_in_words, error))
    if isinstance(error, dict):
        for name in ("message", "text", "content"):
            if error.get(name):
                return _in_words(error[name])
    return msgspec.json.encode(error).decode()
