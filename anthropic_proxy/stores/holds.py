"""`Holds`: the reserved amounts of running requests of one counter, with their sum.

A hold is the amount of one reservation until its lease (a time limit) ends. A reservation costs the same with one or
with many running requests: the sum is kept up to date, and a heap finds the amounts of ended leases.
"""

from collections.abc import Iterable
from heapq import heapify, heappop, heappush

_MIN_COMPACTED = 64
"""Number of heap entries below which outdated entries are not removed."""


class Holds:
    """Holds of one counter, in memory: reservation id → (end of its lease in seconds, amount)."""

    def __init__(self) -> None:
        self.total = 0
        """Sum of the amounts of all holds."""
        self._found: dict[str, tuple[float, int]] = {}
        self._ends: list[tuple[float, str]] = []
        """Heap of the ends of leases, with outdated entries of renewed and settled reservations."""

    def put(self, id_: str, end: float, amount: int) -> None:
        """Add a hold of `amount` for the reservation `id_`, or replace its earlier hold.

        `end`: end of the lease in seconds.
        """
        self.total += amount - self._found.get(id_, (0.0, 0))[1]
        self._found[id_] = end, amount
        heappush(self._ends, (end, id_))
        if len(self._ends) > 2 * len(self._found) + _MIN_COMPACTED:
            self._ends = [(ends, name) for name, (ends, _) in self._found.items()]
            heapify(self._ends)

    def pop(self, id_: str) -> None:
        """Remove the hold of the reservation `id_`. Does nothing if it has none."""
        self.total -= self._found.pop(id_, (0.0, 0))[1]

    def remove_expired(self, now: float) -> None:
        """Remove all holds with a lease that ended before `now` (seconds)."""
        while self._ends and self._ends[0][0] <= now:
            _, id_ = heappop(self._ends)
            if self._found.get(id_, (now + 1, 0))[0] <= now:
                self.pop(id_)

    def items(self) -> Iterable[tuple[str, tuple[float, int]]]:
        """Return (reservation id, (end of its lease in seconds, amount)) for each hold."""
        return self._found.items()

    def copy(self) -> "Holds":
        """Return an independent copy of the holds, which can be changed."""
        other = Holds()
        for id_, (end, amount) in self.items():
            other.put(id_, end, amount)
        return other
