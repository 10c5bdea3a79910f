"""`ReplyFilter`: what the proxy does with the deltas of a reply because of the client's request.

A repeated prefill is removed, and marks of the model become citations; then the reply ends at a stop sequence or at the
output limit of the client, whichever comes first.
"""

from collections.abc import Sequence

from anthropic_proxy.engine.messages.citations import CitedReply, NumberedSources
from anthropic_proxy.engine.messages.deltas import Delta
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.output_limit import OutputLimitFilter
from anthropic_proxy.engine.messages.prefill import PrefillFilter
from anthropic_proxy.engine.messages.stop_sequences import StopSequenceFilter


class ReplyFilter:
    """Filter of the deltas of one reply, which may end it before the provider does."""

    def __init__(
        self,
        stop_sequences: Sequence[str],
        max_tokens: int | None,
        sources: NumberedSources | None = None,
        prefill: str = "",
    ) -> None:
        """`max_tokens`: limit of the client. None: the provider keeps it. `sources`: what the model cites by marks.
        `prefill`: text of the client that the reply continues. "": there is none.
        """
        self._prefill = PrefillFilter(prefill) if prefill else None
        self._citations = CitedReply(sources) if sources is not None else None
        splits_texts = sources is not None
        self._stops = StopSequenceFilter(stop_sequences, splits_texts=splits_texts) if stop_sequences else None
        self._limit = OutputLimitFilter(max_tokens) if max_tokens is not None else None

    @property
    def matched(self) -> bool:
        """True if a stop sequence has ended the reply."""
        return self._stops is not None and self._stops.matched is not None

    @property
    def is_cut(self) -> bool:
        """True if the output limit has ended the reply. The provider may still report its token usage."""
        return self._limit is not None and self._limit.reached

    @property
    def notes(self) -> Sequence[FidelityNote]:
        notes = () if self._citations is None else self._citations.notes
        return notes if self._prefill is None else (*notes, *self._prefill.notes)

    def feed(self, deltas: list[Delta]) -> list[Delta]:
        if self._prefill is not None:
            deltas = self._prefill.feed(deltas)
        if self._citations is not None:
            deltas = self._citations.feed(deltas)
        return self._end(deltas)

    def flush(self) -> list[Delta]:
        """Return the text that is still held back. Call this at the end of the reply."""
        deltas = [] if self._prefill is None else self._prefill.flush()
        if self._citations is not None:
            deltas = self._citations.feed(deltas) + self._citations.flush()
        deltas = self._end(deltas)
        if self._stops is None:
            return deltas
        rest = self._stops.flush()
        return deltas + (rest if self._limit is None else self._limit.feed(rest))

    def _end(self, deltas: list[Delta]) -> list[Delta]:
        if self._stops is not None:
            deltas = self._stops.feed(deltas)
        return deltas if self._limit is None else self._limit.feed(deltas)
