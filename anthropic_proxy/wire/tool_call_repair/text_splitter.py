"""Separation of text from the reasoning and tool calls that a server left in it."""

from collections.abc import Sequence

from anthropic_proxy.messages.deltas import Delta, Text
from anthropic_proxy.messages.fidelity import FidelityNote
from anthropic_proxy.wire.contract import BaseDialect, Call
from anthropic_proxy.wire.tool_call_repair.formats import ToolCallFormat
from anthropic_proxy.wire.tool_call_repair.offered_tools import OfferedTools
from anthropic_proxy.wire.tool_call_repair.text_calls import TextCallDetector
from anthropic_proxy.wire.tool_call_repair.thinking_tags import ThinkingTagParser, ThinkingTags

_WHOLE_ANSWERS = ("bare_json", "bare_python")


class TextSplitter:
    """Splits text fragments: reasoning at the beginning first, calls in the remaining text."""

    def __init__(
        self, call: Call[BaseDialect], tags: Sequence[ThinkingTags], conventions: Sequence[ToolCallFormat]
    ) -> None:
        if call.request.output_schema:  # JSON was asked for, so that alone shows no call
            conventions = tuple(name for name in conventions if name not in _WHOLE_ANSWERS)
        offered = OfferedTools(call) if conventions else None
        self._tags = ThinkingTagParser(tags) if tags else None
        self._calls = TextCallDetector(conventions, offered, call.new_id) if offered else None

    def __bool__(self) -> bool:
        """Return True if tags or calls are searched for."""
        return self._tags is not None or self._calls is not None

    @property
    def notes(self) -> Sequence[FidelityNote]:
        """Notes on recovered calls."""
        return self._calls.notes if self._calls is not None else ()

    def feed(self, text: str) -> list[Delta]:
        """Return the decided deltas."""
        if self._tags is None:
            return self._calls.feed(text) if self._calls is not None else [Text(text)]
        deltas = self._tags.feed(text)
        if self._tags.done:
            self._tags = None
        return self._find_calls(deltas)

    def finish(self, *, cut: bool = False, whole: bool = False) -> list[Delta]:
        """Return the buffered text at the start of another block or at the end of the reply.

        `cut`: the reply was truncated. `whole`: it ended normally and contained only this text.
        """
        deltas = self._find_calls(self._tags.finish(whole=whole)) if self._tags is not None else []
        return deltas + self._calls.finish(cut=cut) if self._calls is not None else deltas

    def expect_separate_reasoning(self) -> None:
        """Expect reasoning in a field of its own."""
        if self._tags is not None:
            self._tags.expect_tags()

    def _find_calls(self, deltas: list[Delta]) -> list[Delta]:
        if self._calls is None:
            return deltas
        found: list[Delta] = []
        for delta in deltas:
            if isinstance(delta, Text):
                found += self._calls.feed(delta.text)
            else:
                found.append(delta)
        return found
