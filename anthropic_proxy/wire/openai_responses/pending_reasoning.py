"""`PendingReasoning`: buffer for the reasoning of a reply until the next output item is known.

A later request can repeat reasoning only together with the text or call after it. `release_signed` therefore returns
the reasoning with its signature (encrypted state) before such an item. `release_unsigned` returns it without the state
before a search, which later requests do not repeat. `build_reasoning_state` returns the state of a complete reasoning
item.
"""

from msgspec.structs import replace

from anthropic_proxy.messages.deltas import Thinking
from anthropic_proxy.wire.openai_responses.frames import OutputItem
from anthropic_proxy.wire.openai_responses.item_state import OutputItemState
from anthropic_proxy.wire.signatures import ReasoningState


class PendingReasoning:
    """Buffer for the reasoning of a reply since its last text, call or search."""

    def __init__(self, signature: str) -> None:
        self._signature = signature
        """Signature for thinking blocks that have no encrypted state."""
        self.buffered: list[tuple[Thinking, bool]] = []
        """Buffered thinking deltas, each with True if the reasoning has text."""

    def buffer_thinking(self, thought: Thinking, *, item_has_text: bool) -> bool:
        """Buffer a thinking delta and return True. Return False if the delta can be sent now.

        Buffering starts with the first delta that has a signature. `item_has_text`: True if the reasoning has text.
        """
        if not self.buffered and not thought.signature:
            return False
        self.buffered.append((thought, item_has_text))
        return True

    def release_signed(self) -> list[Thinking]:
        """Empty the buffer and return all thinking deltas with their signatures. Used before a text or a call."""
        kept, self.buffered = self.buffered, []
        return [thought for thought, _ in kept]

    def release_unsigned(self) -> list[Thinking]:
        """Empty the buffer and return the thinking that has text, without its encrypted state. Used before a search."""
        kept, self.buffered = self.buffered, []
        return [
            replace(thought, signature=self._signature) if thought.signature else thought
            for thought, has_text in kept
            if has_text
        ]


def build_reasoning_state(item: OutputItem, state: OutputItemState) -> ReasoningState:
    """Return the state of a complete reasoning item, which later requests send back.

    It has encrypted content or, if the server sent none, the mark `replay`: the text itself is then sent. The state may
    be empty.
    """
    item_id = item.id or state.item_id  # xAI's complete items have none
    if item.encrypted_content:
        return ReasoningState(item_id=item_id, encrypted=item.encrypted_content)
    if state.latest_part is not None and state.latest_part[0] == "reasoning":
        return ReasoningState(item_id=item_id, replay=1)
    return ReasoningState()
