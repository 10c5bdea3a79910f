"""Messages in the making."""

from collections.abc import Iterable

from anthropic_proxy.messages.types import Block, Message


class Transcript:
    """Messages of blocks, of which no two neighbours have the same role and none is empty."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._role = ""
        self._blocks: list[Block] | None = None
        """The last message's blocks, where the list is ours to add to."""

    def append(self, message: Message) -> None:
        """Append a message; after one of its own role its blocks go into a new message in place of both."""
        self.extend((message,))

    def extend(self, messages: Iterable[Message]) -> None:
        """Append messages."""
        for message in messages:
            if not message.content:
                continue
            if message.role != self._role:
                self.messages.append(
                    Message(message.role, message.blocks) if isinstance(message.content, str) else message
                )
                self._role, self._blocks = message.role, None
                continue
            if self._blocks is None:
                self._blocks = [*self.messages[-1].blocks]
                self.messages[-1] = Message(self._role, self._blocks)
            self._blocks.extend(message.blocks)
