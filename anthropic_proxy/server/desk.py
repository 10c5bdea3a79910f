"""What the process in front does with what workers tell it: it adds up their counts and passes on what they learn."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from msgspec.structs import replace

from anthropic_proxy.server.channel import Ask, Channel, Count, Fact, Look, Sum

ANSWER_SECONDS = 1.0
"""How long a worker may take to say what it has counted."""
MOST_FACTS = 10_000


class Counting(Protocol):
    """What knows how to read the counts."""

    def count(self, *, looks: bool = True) -> bytes:
        """Return what this process itself has counted; `looks`: as `line.Member` has it."""
        ...

    def add_up(self, readings: Sequence[bytes], ended: Sequence[bytes]) -> bytes:
        """Return the sum; of those that have ended only what they counted."""
        ...


@dataclass
class _Gathering:
    asker: Channel
    ask: Ask
    number: int
    deadline: float
    missing: set[Channel]


class Desk:
    """Knows what every worker said last. `clock` gives seconds that only grow."""

    def __init__(self, counting: Counting, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._counting = counting
        self._clock = clock
        self._channels: list[Channel] = []
        self._latest: dict[Channel, bytes] = {}
        """Of the workers that serve: each says something as soon as it does."""
        self._ended: list[bytes] = []
        """The sum of those that have ended, if any has."""
        self._gatherings: list[_Gathering] = []
        self._number = 0
        self._facts: dict[tuple[str, str, str], tuple[float, Fact]] = {}
        """What is true until when."""

    @property
    def channels(self) -> Sequence[Channel]:
        """Those that are to be read."""
        return [channel for channel in self._channels if not channel.ended]

    def open(self, channel: Channel) -> None:
        """Take a worker in and tell it what the others have learned."""
        self._channels.append(channel)
        now = self._clock()
        for until, fact in self._facts.values():
            if until > now:
                channel.send(replace(fact, seconds=until - now))

    def hear(self, channel: Channel) -> None:
        """Read what a worker says and do what it asks for."""
        for message in channel.receive():
            if isinstance(message, Count):
                self._latest[channel] = message.reading
                self._note_answer(channel, message.number)
            elif isinstance(message, Ask):
                self._latest[channel] = message.reading
                self._gather(channel, message)
            elif isinstance(message, Fact):
                self._pass_on(channel, message)
        if channel.ended:  # its process may take a while to end too
            self._note_end(channel)

    def close(self, channel: Channel) -> None:
        """Let go of a worker that has ended; what it counted stays."""
        self.hear(channel)
        self._channels.remove(channel)
        channel.close()
        self._note_end(channel)

    def next_deadline(self) -> float | None:
        """Return when somebody has waited long enough for the others; None: nobody waits."""
        return min((gathering.deadline for gathering in self._gatherings), default=None)

    def do_what_is_due(self) -> None:
        """Answer those who asked, where all have said what they counted or had their time."""
        now = self._clock()
        for gathering in list(self._gatherings):
            if not gathering.missing or now >= gathering.deadline:
                self._gatherings.remove(gathering)
                self._answer(gathering)

    def _gather(self, asker: Channel, ask: Ask) -> None:
        self._number += 1
        missing = {channel for channel in self._latest if channel is not asker}
        for channel in missing:
            channel.send(Look(self._number))
        self._gatherings.append(_Gathering(asker, ask, self._number, self._clock() + ANSWER_SECONDS, missing))
        self.do_what_is_due()

    def _note_answer(self, channel: Channel, number: int) -> None:
        for gathering in self._gatherings:
            if number >= gathering.number:
                gathering.missing.discard(channel)
        self.do_what_is_due()

    def _note_end(self, channel: Channel) -> None:
        if (last := self._latest.pop(channel, None)) is not None:
            self._ended = [self._counting.add_up((), [*self._ended, last])]
        self._gatherings = [gathering for gathering in self._gatherings if gathering.asker is not channel]
        for gathering in self._gatherings:
            gathering.missing.discard(channel)
        self.do_what_is_due()

    def _answer(self, gathering: _Gathering) -> None:
        readings = [self._counting.count(), *self._latest.values()]
        reading = self._counting.add_up(readings, self._ended)
        gathering.asker.send(Sum(gathering.ask.number, reading, silent=len(gathering.missing)))

    def _pass_on(self, teller: Channel, fact: Fact) -> None:
        key = fact.kind, fact.scope, fact.name
        self._facts.pop(key, None)
        if fact.seconds > 0:
            if len(self._facts) >= MOST_FACTS:
                del self._facts[next(iter(self._facts))]
            self._facts[key] = self._clock() + fact.seconds, fact
        for channel in self.channels:
            if channel is not teller:
                channel.send(fact)
