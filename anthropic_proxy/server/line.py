"""A worker's line to the process in front of it: what it has counted and learned goes there, what others did comes."""

import asyncio
from typing import Protocol

from anthropic_proxy.errors import InternalError
from anthropic_proxy.server.channel import Ask, Channel, Count, Fact, Look, Sum

COUNT_SECONDS = 1.0
"""Between two counts that come by themselves: what a worker that is killed did since the last one is not known."""
TELL_SECONDS = 0.1
"""How long facts wait for each other, of which the last of a name is told."""
GATHER_SECONDS = 2.0
"""How long the process in front may take; it waits shorter than that for other workers."""
LAST_SECONDS = 1.0
"""How long what is said at the end may take to leave."""


class Member(Protocol):
    """What counts and learns in a worker."""

    def count(self, *, looks: bool = True) -> bytes:
        """Return what this process has counted; `looks`: with what it is now, not what it was at the last look."""
        ...

    def served(self) -> int:
        """Return how many exchanges that were."""
        ...

    def take(self, fact: Fact) -> None:
        """Know what another worker has learned."""
        ...


class Line:
    """`place` of `number` workers is the one whose line it is, from 0 on; whoever takes its place has the same."""

    def __init__(self, channel: Channel, place: int, number: int) -> None:
        self.place, self.number = place, number
        self._channel = channel
        self._facts: dict[tuple[str, str, str], Fact] = {}
        """What is to be told."""
        self._asked = 0
        self._asking: asyncio.Future[Sum] | None = None
        self._served = -1
        self._writes = False
        """Whether the loop says when the socket can be written."""

    def open(self, member: Member) -> None:
        """Say what was counted from now on, and hear what others learn."""
        self._member, self._loop = member, asyncio.get_running_loop()
        self._loop.add_reader(self._channel.fileno(), self._hear)
        self._count()

    def tell(self, fact: Fact) -> None:
        """Let the others know something, a moment later."""
        if not self._facts:
            self._loop.call_later(TELL_SECONDS, self._tell)
        self._facts[fact.kind, fact.scope, fact.name] = fact

    async def gather(self) -> Sum:
        """Return what all workers have counted. Raises `InternalError`: the process in front does not say it.

        Whatever a worker had learned before it was asked, all know by then.
        """
        if self._asking is None:
            self._tell()
            self._asked += 1
            self._asking = self._loop.create_future()
            self._send(Ask(self._asked, self._member.count(looks=True)))
            self._loop.call_later(GATHER_SECONDS, self._give_up, self._asking)
        return await asyncio.shield(self._asking)

    def close(self) -> None:
        """Say for the last time what was learned and counted."""
        self._loop.remove_reader(self._channel.fileno())
        self._loop.remove_writer(self._channel.fileno())
        self._tell()
        self._channel.send(Count(self._member.count(looks=False)))
        self._channel.close(LAST_SECONDS)

    def _hear(self) -> None:
        for message in self._channel.receive():
            if isinstance(message, Look):
                self._tell()
                self._send(Count(self._member.count(looks=True), message.number))
            elif isinstance(message, Fact):
                self._member.take(message)
            elif isinstance(message, Sum) and self._asking is not None and message.number == self._asked:
                self._asking.set_result(message)
                self._asking = None
        if self._channel.ended:
            self._loop.remove_reader(self._channel.fileno())

    def _count(self) -> None:
        if (served := self._member.served()) != self._served:
            self._served = served
            self._send(Count(self._member.count(looks=False)))
        self._counting = self._loop.call_later(COUNT_SECONDS, self._count)

    def _tell(self) -> None:
        facts, self._facts = self._facts, {}
        for fact in facts.values():
            self._send(fact)

    def _give_up(self, asking: "asyncio.Future[Sum]") -> None:
        if not asking.done():
            asking.set_exception(InternalError("The process in front of the workers did not add up what they counted."))
            self._asking = None

    def _send(self, message: Count | Ask | Fact) -> None:
        self._channel.send(message)
        if self._channel.waiting and not self._writes:
            self._writes = True
            self._loop.add_writer(self._channel.fileno(), self._flush)

    def _flush(self) -> None:
        self._channel.flush()
        if not self._channel.waiting:
            self._writes = False
            self._loop.remove_writer(self._channel.fileno())
