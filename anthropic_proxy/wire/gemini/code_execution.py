"""Decoder of Gemini's code execution: converts code that Gemini ran, and its result, to blocks of the Messages API.

A program is code that the model wrote and Gemini ran (`executableCode` in the response). `CodeExecutionDecoder` pairs
each program with its result (`codeExecutionResult`). Older models send no `id`; a result then belongs to the latest
program (recorded by the project `pydantic/pydantic-ai`, cassette test_code_execution_stream, 2026-08).
"""

from collections.abc import Callable

from anthropic_proxy.messages.deltas import Block
from anthropic_proxy.messages.server_blocks import (
    SERVER_TOOL_ID_PREFIX,
    encode_code_execution_call,
    encode_code_execution_error,
    encode_code_result,
)
from anthropic_proxy.wire.gemini.frames import CodeExecutionResult, ExecutableCode

_OK, _TOO_LONG = "OUTCOME_OK", "OUTCOME_DEADLINE_EXCEEDED"


# Older models send no `id`; a result then belongs to the latest program (recorded by the project
# `pydantic/pydantic-ai`, cassette test_code_execution_stream, 2026-08).
class CodeExecutionDecoder:
    """Decoder of the code executions in one reply. It keeps the id of each execution until its result arrives."""

    def __init__(self, new_id: Callable[[str], str]) -> None:
        self._new_id = new_id
        self._open: dict[str, str] = {}
        """Provider's id of a program without a result → id of its block in the reply to the client."""

    def decode_program(self, code: ExecutableCode) -> list[Block]:
        """Return a `server_tool_use` block for the client, with the code that Gemini runs."""
        identifier = self._new_id(SERVER_TOOL_ID_PREFIX)
        self._open[code.id or identifier] = identifier
        return [encode_code_execution_call(identifier, code.code or "")]

    def decode_result(self, result: CodeExecutionResult) -> list[Block]:
        """Return a block for the client with the result of code that Gemini ran.

        If no program waits for a result, a call block with empty code comes first.
        """
        began: list[Block] = []
        if not self._open:
            began = self.decode_program(ExecutableCode(id=result.id))
        key = result.id if result.id in self._open else next(reversed(self._open))
        identifier = self._open.pop(key)
        outcome, printed = result.outcome or _OK, result.output or ""
        if outcome == _TOO_LONG:
            return [*began, encode_code_execution_error(identifier, "execution_time_exceeded")]
        if outcome == _OK:
            return [*began, encode_code_result(identifier, stdout=printed)]
        return [*began, encode_code_result(identifier, stderr=printed, return_code=1)]

    def encode_missing_result_errors(self) -> list[Block]:
        """Return an error block for each program without a result. Call this at the end of the reply."""
        identifiers, self._open = list(self._open.values()), {}
        return [encode_code_execution_error(identifier, "unavailable") for identifier in identifiers]
