"""Complete reasoning that waits for what it led to: a text, a call, or a search of the server's own.

Reasoning goes back in the next request only with what followed it, and a search does not go back: what led to one has
nothing to carry.
"""

from msgspec.structs import replace

from anthropic_proxy.messages.deltas import Thinking


class Thoughts:
    """What one answer has thought since the last item that was no reasoning."""

    def __init__(self, signature: str) -> None:
        self._signature = signature
        """Of thinking that carries nothing."""
        self._kept: list[tuple[Thinking, bool]] = []

    def keep(self, thought: Thinking, *, shown: bool) -> bool:
        """Take a fragment, or the end, of an item; False: it can be said at once. `shown`: the item has text."""
        if not self._kept and not thought.signature:
            return False
        self._kept.append((thought, shown))
        return True

    def release(self) -> list[Thinking]:
        """Return what waited, because text or a call follows."""
        kept, self._kept = self._kept, []
        return [thought for thought, _ in kept]

    def forget(self) -> list[Thinking]:
        """Return what waited without anything to carry, because a search follows."""
        kept, self._kept = self._kept, []
        return [
            replace(thought, signature=self._signature) if thought.signature else thought
            for thought, shown in kept
            if shown
        ]
