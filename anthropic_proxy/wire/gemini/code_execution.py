"""Programs that the provider ran: the parts `executableCode` and `codeExecutionResult` → Anthropic's blocks.

Recorded by the project `pydantic/pydantic-ai`, cassette test_code_execution_stream, 2026-08: both bear the same `id`,
which older models leave out; then a result belongs to the program before it.
"""

from collections.abc import Callable

from anthropic_proxy.messages.deltas import Block
from anthropic_proxy.messages.server_blocks import (
    SERVER_TOOL_ID_PREFIX,
    encode_code_error,
    encode_code_execution,
    encode_code_result,
)
from anthropic_proxy.wire.gemini.frames import CodeExecutionResult, ExecutableCode

_OK, _TOO_LONG = "OUTCOME_OK", "OUTCOME_DEADLINE_EXCEEDED"


class CodeExecutionDecoder:
    """The programs of one answer that have no result yet."""

    def __init__(self, new_id: Callable[[str], str]) -> None:
        self._new_id = new_id
        self._open: dict[str, str] = {}

    def decode_program(self, code: ExecutableCode) -> list[Block]:
        """Return the call of a program."""
        identifier = self._new_id(SERVER_TOOL_ID_PREFIX)
        self._open[code.id or identifier] = identifier
        return [encode_code_execution(identifier, code.code or "")]

    def decode_result(self, result: CodeExecutionResult) -> list[Block]:
        """Return the output of a program. Output without a call gets a call without code."""
        began: list[Block] = []
        if not self._open:
            began = self.decode_program(ExecutableCode(id=result.id))
        key = result.id if result.id in self._open else next(reversed(self._open))
        identifier = self._open.pop(key)
        outcome, printed = result.outcome or _OK, result.output or ""
        if outcome == _TOO_LONG:
            return [*began, encode_code_error(identifier, "execution_time_exceeded")]
        if outcome == _OK:
            return [*began, encode_code_result(identifier, stdout=printed)]
        return [*began, encode_code_result(identifier, stderr=printed, return_code=1)]

    def encode_missing_results(self) -> list[Block]:
        """Return the ends of programs without results."""
        identifiers, self._open = list(self._open.values()), {}
        return [encode_code_error(identifier, "unavailable") for identifier in identifiers]
