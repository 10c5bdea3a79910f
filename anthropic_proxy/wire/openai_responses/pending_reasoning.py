"""`PendingReasoning`: holds the reasoning of a reply until the content after it is known.

Reasoning has a signature: encrypted state, which later requests send back. The API accepts it only together with the
text or call that followed it. Before a text or call, `release_signed` therefore returns the reasoning with its
signature. Before a web search, which later requests do not repeat, `release_unsigned` returns it without the state.
`build_reasoning_state` returns the state of a complete reasoning item, from which the caller encodes the signature.
"""

from msgspec.structs import replace

from anthropic_proxy.messages.deltas import Thinking
from anthropic_proxy.wire.openai_responses.frames import OutputItem
from anthropic_proxy.wire.openai_responses.item_state import OutputItemState
from anthropic_proxy.wire.signatures import ReasoningState


class PendingReasoning:
    """Buffer for the reasoning since the last text, call or search of a reply."""

    def __init__(self, signature: str) -> None:
        self._signature = signature
        """Signature for thinking blocks that have no encrypted state."""
        self.buffered: list[tuple[Thinking, bool]] = []
        """Buffered thinking deltas, each with True if the reasoning has text."""

    def buffer_thinking(self, thought: Thinking, *, item_has_text: bool) -> bool:
        """Buffer a piece of reasoning and return True. False: it is not buffered, and the caller can send it now.

        Buffering begins with the first piece that has a signature. `item_has_text` is True if the reasoning item has
        text.
        """
        if not self.buffered and not thought.signature:
            return False
        self.buffered.append((thought, item_has_text))
        return True

    def release_signed(self) -> list[Thinking]:
        """Empty the buffer and return its reasoning with the signatures. Use it before a text or a tool call."""
        kept, self.buffered = self.buffered, []
        return [thought for thought, _ in kept]

    def release_unsigned(self) -> list[Thinking]:
        """Empty the buffer and return the reasoning that has text, without its encrypted state.

        Use it before a web search.
        """
        kept, self.buffered = self.buffered, []
        return [
            replace(thought, signature=self._signature) if thought.signature else thought
            for thought, has_text in kept
            if has_text
        ]


def build_reasoning_state(item: OutputItem, item_state: OutputItemState) -> ReasoningState:
    """Return the state of the complete reasoning item `item`, which later requests send back.

    `item_state` is the decoding state of this item. An item without encrypted content has a state only if it contains
    the reasoning itself; a summary is not enough. Otherwise, the result is an empty state.
    """
    item_id = item.id or item_state.item_id  # xAI's complete items have none
    if item.encrypted_content:
        return ReasoningState(item_id=item_id, encrypted=item.encrypted_content)
    if item_state.latest_part is not None and item_state.latest_part[0] == "reasoning":
        return ReasoningState(item_id=item_id, replay=1)
    return ReasoningState()
