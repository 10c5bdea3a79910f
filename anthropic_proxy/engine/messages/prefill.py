"""`PrefillFilter`: removes the client's prefill from the beginning of a reply that repeats it.

A client joins its prefill and the reply. Mistral sends the prefill again (vercel/ai packages/mistral, read 2026-11),
and so do models that are asked to continue it by a text.
"""

from collections.abc import Sequence

from anthropic_proxy.engine.messages.deltas import Delta, Text, Thinking, Usage
from anthropic_proxy.engine.messages.fidelity import FidelityNote

_MIN_CHARACTERS = 4
_OPENING = frozenset("{<")
_REPEATED = FidelityNote("dropped", "reply", "the model repeated the prefill, which the client has already")


def _may_be_repeated(prefill: str) -> bool:
    """Return False for a short text that a reply may well continue with the same text: `[` with `[1, 2]`, or `ha`."""
    return len(prefill) >= _MIN_CHARACTERS or prefill in _OPENING


class PrefillFilter:
    def __init__(self, prefill: str) -> None:
        self._prefill = prefill.strip()
        self._matched = 0
        """Characters of the prefill with which the reply has begun."""
        self._held: list[Delta] = []
        """The beginning of the reply as long as it may be the prefill."""
        self._is_decided = not (self._prefill and _may_be_repeated(self._prefill))
        self.notes: Sequence[FidelityNote] = ()

    def feed(self, deltas: list[Delta]) -> list[Delta]:
        if self._is_decided:
            return deltas
        passed: list[Delta] = []
        for place, delta in enumerate(deltas):
            if isinstance(delta, Text):
                self._held.append(delta)
                text = delta.text if self._matched else delta.text.lstrip()
                size = min(len(text), len(self._prefill) - self._matched)
                if not self._prefill.startswith(text[:size], self._matched):
                    return passed + self.flush() + deltas[place + 1 :]
                self._matched += size
                if self._matched == len(self._prefill):
                    self._is_decided = True
                    self._held.clear()
                    self.notes = (_REPEATED,)
                    rest: list[Delta] = [Text(text[size:])] if text[size:] else []
                    return passed + rest + deltas[place + 1 :]
            elif isinstance(delta, Usage) or (isinstance(delta, Thinking) and not self._held):
                passed.append(delta)
            else:
                return passed + self.flush() + deltas[place:]
        return passed

    def flush(self) -> list[Delta]:
        """Return what is held. The reply does not begin with the prefill, or has ended."""
        held, self._held, self._is_decided = self._held, [], True
        return held
