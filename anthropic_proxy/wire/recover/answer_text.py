"""The text of an answer, with the reasoning and the calls that a server left in it taken out."""

from collections.abc import Sequence

from anthropic_proxy.messages.deltas import Delta, Text
from anthropic_proxy.messages.notes import Note
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.recover.offered import OfferedTools
from anthropic_proxy.wire.recover.text_calls import TextCalls
from anthropic_proxy.wire.recover.thinking import ThinkTags

_WHOLE_ANSWERS = ("bare_json", "bare_python")


class AnswerText:
    """Reads fragments of text: reasoning at its beginning first, calls in what is left."""

    def __init__(self, call: Call) -> None:
        """Look for what the dialect's `thinking_tags` and `text_calls` name."""
        tags, conventions = call.dialect.thinking_tags, call.dialect.text_calls
        if call.request.output_schema:  # JSON was asked for, so that alone shows no call
            conventions = tuple(name for name in conventions if name not in _WHOLE_ANSWERS)
        offered = OfferedTools(call) if conventions else None
        self._tags = ThinkTags(tags) if tags else None
        self._calls = TextCalls(conventions, offered, call.new_id) if offered else None

    def __bool__(self) -> bool:
        """Whether there is anything to look for."""
        return self._tags is not None or self._calls is not None

    @property
    def notes(self) -> Sequence[Note]:
        """What was taken out."""
        return self._calls.notes if self._calls is not None else ()

    def feed(self, text: str) -> list[Delta]:
        """Return what is certain."""
        if self._tags is None:
            return self._calls.feed(text) if self._calls is not None else [Text(text)]
        deltas = self._tags.feed(text)
        if self._tags.done:
            self._tags = None
        return self._find_calls(deltas)

    def finish(self, *, cut: bool = False, whole: bool = False) -> list[Delta]:
        """Return what was held back, because something else begins or the answer has ended.

        `cut`: it did not end by itself. `whole`: it did, and there was nothing else in it.
        """
        deltas = self._find_calls(self._tags.finish(whole=whole)) if self._tags is not None else []
        return deltas + self._calls.finish(cut=cut) if self._calls is not None else deltas

    def expect_tags(self) -> None:
        """Learn that reasoning comes in a field of its own."""
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
