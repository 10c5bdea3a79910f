"""Programs that the provider ran: the parts `executableCode` and `codeExecutionResult` → Anthropic's blocks.

Recorded by the project `pydantic/pydantic-ai`, cassette test_code_execution_stream, 2026-08: both bear the same `id`,
which older models leave out; then a result belongs to the program before it.
"""

from collections.abc import Callable

from anthropic_proxy.messages.deltas import Block
from anthropic_proxy.wire.gemini.frames import Code, CodeResult
from anthropic_proxy.wire.server_tools import SERVER_CALL, encode_failed_program, encode_output, encode_program

_OK, _TOO_LONG = "OUTCOME_OK", "OUTCOME_DEADLINE_EXCEEDED"


class Programs:
    """The programs of one answer that have no result yet."""

    def __init__(self, new_id: Callable[[str], str]) -> None:
        self._new_id = new_id
        self._open: dict[str, str] = {}

    def begin(self, code: Code) -> list[Block]:
        """Return the call of a program."""
        identifier = self._new_id(SERVER_CALL)
        self._open[code.id or identifier] = identifier
        return [encode_program(identifier, code.code or "")]

    def end(self, result: CodeResult) -> list[Block]:
        """Return what a program printed; one that nobody began gets a call without a program."""
        began: list[Block] = []
        if not self._open:
            began = self.begin(Code(id=result.id))
        key = result.id if result.id in self._open else next(reversed(self._open))
        identifier = self._open.pop(key)
        outcome, printed = result.outcome or _OK, result.output or ""
        if outcome == _TOO_LONG:
            return [*began, encode_failed_program(identifier, "execution_time_exceeded")]
        if outcome == _OK:
            return [*began, encode_output(identifier, stdout=printed)]
        return [*began, encode_output(identifier, stderr=printed, return_code=1)]

    def cut(self) -> list[Block]:
        """Return the ends of programs whose results never came."""
        identifiers, self._open = list(self._open.values()), {}
        return [encode_failed_program(identifier, "unavailable") for identifier in identifiers]
