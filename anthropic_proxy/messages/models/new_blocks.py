"""`list_new_blocks`: content blocks that a client added to a conversation since the last reply of the model."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

BlockT_co = TypeVar("BlockT_co", covariant=True)


class DecodedMessage(Protocol[BlockT_co]):
    """Interface of the structs for a message that `list_new_blocks` accepts.

    Callers use different structs, because some of them decode only a few fields of the content blocks.
    """

    @property
    def role(self) -> str:
        """`user`, `assistant` or `system`."""
        ...

    @property
    def content(self) -> str | Sequence[BlockT_co]:
        """A text, or content blocks."""
        ...


def list_new_blocks(messages: Sequence[DecodedMessage[BlockT_co]]) -> list[BlockT_co]:
    """Return the content blocks after the last assistant message. Content that is a plain text has no blocks."""
    found: list[BlockT_co] = []
    for message in reversed(messages):
        if message.role == "assistant":
            break
        content = message.content
        if type(content) is list:  # one call less than isinstance
            found += content
    return found
