"""Complete reasoning that waits for what it led to: a text, a call, or a search of the server's own.

Reasoning goes back in the next request only with what followed it, and a search does not go back: what led to one has
nothing to carry.
"""

from msgspec.structs import replace

from anthropic_proxy.messages.deltas import Thinking
from anthropic_proxy.wire.carry import Carry
from anthropic_proxy.wire.openai_responses.events import Item
from anthropic_proxy.wire.openai_responses.said import Said


class Thoughts:
    """What one answer has thought since the last item that was no reasoning."""

    def __init__(self, signature: str) -> None:
        self._signature = signature
        """Of thinking that carries nothing."""
        self.kept: list[tuple[Thinking, bool]] = []
        """What waits, and whether its item has text."""

    def keep(self, thought: Thinking, *, shown: bool) -> bool:
        """Take a fragment, or the end, of an item; False: it can be said at once. `shown`: the item has text."""
        if not self.kept and not thought.signature:
            return False
        self.kept.append((thought, shown))
        return True

    def release(self) -> list[Thinking]:
        """Return what waited, because text or a call follows."""
        kept, self.kept = self.kept, []
        return [thought for thought, _ in kept]

    def forget(self) -> list[Thinking]:
        """Return what waited without anything to carry, because a search follows."""
        kept, self.kept = self.kept, []
        return [
            replace(thought, signature=self._signature) if thought.signature else thought
            for thought, shown in kept
            if shown
        ]


def find_carry(item: Item, said: Said) -> Carry:
    """Return what the thinking block of a complete item carries: what is encrypted, or that its text goes back."""
    item_id = item.id or said.item_id  # xAI's complete items have none
    if item.encrypted_content:
        return Carry(item=item_id, encrypted=item.encrypted_content)
    if said.part is not None and said.part[0] == "reasoning":
        return Carry(item=item_id, replay=1)
    return Carry()
