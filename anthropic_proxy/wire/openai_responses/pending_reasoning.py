"""`PendingReasoning`: buffer for the reasoning of a reply until the next output item is known.

Later requests can send reasoning back only together with the item after it. A text or a tool call is sent back, so
`release_signed` returns the reasoning with its encrypted state (signature). A search of the provider is not sent back,
so `release_unsigned` returns the reasoning without the state. `build_reasoning_state` returns the state of a complete
reasoning item. A delta is a fragment of the decoded reply.
"""

from msgspec.structs import replace

from anthropic_proxy.messages.deltas import Thinking
from anthropic_proxy.wire.openai_responses.frames import OutputItem
from anthropic_proxy.wire.openai_responses.item_state import OutputItemState
from anthropic_proxy.wire.signatures import ReasoningState


class PendingReasoning:
    """Buffer for the reasoning deltas since the last output item of another type."""

    def __init__(self, signature: str) -> None:
        self._signature = signature
        """Signature of thinking blocks without encrypted state."""
        self.buffered: list[tuple[Thinking, bool]] = []
        """Buffered thinking deltas, each with True if its reasoning item has text."""

    def buffer_thinking(self, thought: Thinking, *, item_has_text: bool) -> bool:
        """Buffer a reasoning delta and return True. Return False if the caller can emit the delta now.

        Buffering starts with the first delta that has a signature. `item_has_text`: True if the reasoning item
        has text.
        """
        if not self.buffered and not thought.signature:
            return False
        self.buffered.append((thought, item_has_text))
        return True

    def release_signed(self) -> list[Thinking]:
        """Empty the buffer and return all deltas with their signatures. Used before a text or a call."""
        kept, self.buffered = self.buffered, []
        return [thought for thought, _ in kept]

    def release_unsigned(self) -> list[Thinking]:
        """Empty the buffer and return the reasoning that has text, without its encrypted state.

        Used before a search.
        """
        kept, self.buffered = self.buffered, []
        return [
            replace(thought, signature=self._signature) if thought.signature else thought
            for thought, has_text in kept
            if has_text
        ]


def build_reasoning_state(item: OutputItem, state: OutputItemState) -> ReasoningState:
    """Return the state of a complete reasoning item: encrypted content, the mark `replay`, or an empty state.

    `replay`: the next request sends the text itself, because the server sent no encrypted content.
    """
    item_id = item.id or state.item_id  # xAI's complete items have none
    if item.encrypted_content:
        return ReasoningState(item_id=item_id, encrypted=item.encrypted_content)
    if state.latest_part is not None and state.latest_part[0] == "reasoning":
        return ReasoningState(item_id=item_id, replay=1)
    return ReasoningState()
