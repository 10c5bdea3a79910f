"""Complete reasoning that waits for what it led to: a text, a call, or a search of the server's own.

Reasoning goes back in the next request only with what followed it, and a search does not go back: what led to one has
nothing to carry.
"""

from msgspec.structs import replace

from anthropic_proxy.messages.deltas import Thinking
from anthropic_proxy.wire.openai_responses.frames import OutputItem
from anthropic_proxy.wire.openai_responses.item_state import OutputItemState
from anthropic_proxy.wire.signatures import ReasoningState


class PendingReasoning:
    """Reasoning since the last item of another type."""

    def __init__(self, signature: str) -> None:
        self._signature = signature
        """Of thinking that carries nothing."""
        self.buffered: list[tuple[Thinking, bool]] = []
        """Buffered deltas, and True if their item has text."""

    def buffer(self, thought: Thinking, *, shown: bool) -> bool:
        """Buffer a fragment, or the end, of an item. Return False if it may pass.

        `shown`: True if the item has text.
        """
        if not self.buffered and not thought.signature:
            return False
        self.buffered.append((thought, shown))
        return True

    def release_signed(self) -> list[Thinking]:
        """Return the buffered reasoning before text or a call."""
        kept, self.buffered = self.buffered, []
        return [thought for thought, _ in kept]

    def release_unsigned(self) -> list[Thinking]:
        """Return the buffered reasoning without state, before a search."""
        kept, self.buffered = self.buffered, []
        return [
            replace(thought, signature=self._signature) if thought.signature else thought
            for thought, shown in kept
            if shown
        ]


def build_reasoning_state(item: OutputItem, state: OutputItemState) -> ReasoningState:
    """Return the state of a complete item: its encrypted content, or the mark that its text is sent back."""
    item_id = item.id or state.item_id  # xAI's complete items have none
    if item.encrypted_content:
        return ReasoningState(item=item_id, encrypted=item.encrypted_content)
    if state.latest_part is not None and state.latest_part[0] == "reasoning":
        return ReasoningState(item=item_id, replay=1)
    return ReasoningState()
