"""This process among those that serve the same address: what it counts, and what all of them did and learned."""

import time
from collections.abc import Callable, Sequence

from anthropic_proxy.metrics import Now, Reading, Totals, add_up, decode_reading, encode_reading
from anthropic_proxy.metrics.process import cpu_seconds, look
from anthropic_proxy.server.channel import Fact
from anthropic_proxy.server.line import Line


class Crew:
    """Counts what this process does, and speaks for it with the others.

    `tells_key`: whether a word holds one. `look_round`: takes down what the application is at now. `take`: knows what
    another process has learned.
    """

    def __init__(
        self, tells_key: Callable[[str], bool], look_round: Callable[[Now], None], take: Callable[[Fact], None]
    ) -> None:
        self.totals = Totals(tells_key)
        self.take = take
        self._look_round = look_round
        self._started = time.time()
        self._line: Line | None = None

    def join(self, line: Line) -> None:
        """Be one of several, before the application starts."""
        self._line = line

    @property
    def place(self) -> tuple[int, int]:
        """Which of how many processes this is, from 0 on."""
        return (self._line.place, self._line.number) if self._line is not None else (0, 1)

    @property
    def tell(self) -> Callable[[Fact], None] | None:
        """What tells the others a fact; None: there are none."""
        return self._line.tell if self._line is not None else None

    def count(self, *, looks: bool = True) -> bytes:
        """Return what this process has counted, as it is told to another one.

        `looks`: with what it is now, not what it was at the last look, which takes time by the number of descriptors.
        """
        reading = self.totals.reading
        reading.cpu_seconds = cpu_seconds()
        if looks or reading.now is None:
            reading.now = look(self._started)
            self._look_round(reading.now)
        return encode_reading(reading)

    def served(self) -> int:
        """Return how many exchanges it has counted."""
        return sum(row.requests for row in self.totals.reading.rows.values())

    def add_up(self, readings: Sequence[bytes], ended: Sequence[bytes]) -> bytes:
        """Return the sum of what processes have counted; of those that have ended nothing else."""
        return encode_reading(add_up(readings, ended))

    async def gather(self) -> tuple[Reading, int]:
        """Return the sum over all processes, and how many of them did not answer."""
        silent, told = 0, b""
        if self._line is None:
            told = self.count()
        else:
            answer = await self._line.gather()
            silent, told = answer.silent, answer.reading
        reading = decode_reading(told)
        if reading.now is not None:
            reading.now.under_way -= 1  # the one who asks
        return reading, silent
