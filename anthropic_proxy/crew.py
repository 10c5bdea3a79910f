"""This process among those that serve the same address: what it counts, and what all of them did."""

import time
from collections.abc import Callable

from anthropic_proxy.metrics import Now, Reading, Totals, add_up, encode_reading
from anthropic_proxy.metrics.process import cpu_seconds, look


class Crew:
    """Counts what this process does.

    `tells_key`: whether a word holds one. `look_round`: takes down what the application is at now.
    """

    def __init__(self, tells_key: Callable[[str], bool], look_round: Callable[[Now], None]) -> None:
        self.totals = Totals(tells_key)
        self._look_round = look_round
        self._started = time.time()

    def count(self) -> bytes:
        """Return what this process has counted, as it is told to another one."""
        reading = self.totals.reading
        reading.cpu_seconds, reading.now = cpu_seconds(), look(self._started)
        self._look_round(reading.now)
        return encode_reading(reading)

    async def gather(self) -> tuple[Reading, int]:
        """Return the sum over all processes, and how many of them did not answer."""
        reading = add_up([self.count()])
        if reading.now is not None:
            reading.now.under_way -= 1  # the one who asks
        return reading, 0
