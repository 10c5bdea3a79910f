"""`TextSplitter`: separates a provider's reply text into text, reasoning (thinking tags) and tool calls.

`feed` returns the deltas (pieces of the reply) of a fragment, and `finish` those of the buffered text. Some models
write no start tag before their reasoning. The text at the start of their replies is therefore first returned as
reasoning. If no end tag follows in a reply of text only (`is_text_reply`), `finish` returns this text again as reply
text. `note_separate_reasoning` records that the provider sends reasoning in a separate field. `notes` has a note for
each tool call that was found in the text.
"""

from collections.abc import Sequence

from anthropic_proxy.messages.deltas import Delta, Text
from anthropic_proxy.messages.fidelity import FidelityNote
from anthropic_proxy.wire.contract import BaseDialect, Call
from anthropic_proxy.wire.tool_call_repair.formats import ToolCallFormat
from anthropic_proxy.wire.tool_call_repair.offered_tools import OfferedTools
from anthropic_proxy.wire.tool_call_repair.text_calls import TextCallDetector
from anthropic_proxy.wire.tool_call_repair.thinking_tags import ThinkingTagParser, ThinkingTags

_WHOLE_ANSWERS = ("bare_json", "bare_python")
"""Formats of tool calls without markers. A reply in such a format contains nothing else."""


class TextSplitter:
    """Splits the streamed text of one reply into deltas: reasoning at the start, then text and tool calls."""

    def __init__(
        self, call: Call[BaseDialect], tags: Sequence[ThinkingTags], formats: Sequence[ToolCallFormat]
    ) -> None:
        if call.request.output_schema:  # the client requested JSON, so JSON without markers is no call
            formats = tuple(name for name in formats if name not in _WHOLE_ANSWERS)
        offered = OfferedTools(call) if formats else None
        self._tags = ThinkingTagParser(tags) if tags else None
        self._calls = TextCallDetector(formats, offered, call.new_id) if offered else None

    def __bool__(self) -> bool:
        """Return True if thinking tags or tool calls are searched. False: all text is returned unchanged."""
        return self._tags is not None or self._calls is not None

    @property
    def notes(self) -> Sequence[FidelityNote]:
        """Fidelity notes on this reply: one for each tool call that was found in the reply text."""
        return self._calls.notes if self._calls is not None else ()

    def feed(self, text: str) -> list[Delta]:
        """Return the deltas for one more fragment of reply text.

        Text that may belong to a tag or a tool call is buffered until a later `feed` or `finish`.
        """
        if self._tags is None:
            return self._calls.feed(text) if self._calls is not None else [Text(text)]
        deltas = self._tags.feed(text)
        if self._tags.reached_reply_text:
            self._tags = None
        return self._find_calls(deltas)

    def finish(self, *, reply_ended_early: bool = False, is_text_reply: bool = False) -> list[Delta]:
        """Return the buffered text as deltas. Call this before another block and at the end of the reply.

        `is_text_reply`: True if the reply ended normally with text only. Text that was returned as reasoning, although
        it had neither a start tag nor an end tag, is then returned again as `Text`. `reply_ended_early`: True to return
        unfinished tool calls as text.
        """
        # A reply of text only may have been taken for reasoning, although it had no tag; it is then returned again as
        # `Text`. After an early end, a call without an end marker becomes text.
        deltas = self._find_calls(self._tags.finish(is_text_reply=is_text_reply)) if self._tags is not None else []
        return deltas + self._calls.finish(reply_ended_early=reply_ended_early) if self._calls is not None else deltas

    def note_separate_reasoning(self) -> None:
        """Record that the provider sends reasoning in a separate field.

        Text before an end tag such as `</think>` is then reply text, unless a start tag comes before the text.
        """
        if self._tags is not None:
            self._tags.disable_unopened_form()

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
