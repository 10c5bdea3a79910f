"""Construction of message lists."""

from collections.abc import Iterable

from anthropic_proxy.messages.models import Block, Message


class Transcript:
    """Builds a list of non-empty messages without consecutive messages of one role."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._role = ""
        self._blocks: list[Block] | None = None
        """Blocks of the last message, if that list may be extended. None: it belongs to the caller."""

    def append(self, message: Message) -> None:
        """Append a message. After a message of the same role, a merged message replaces both."""
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
