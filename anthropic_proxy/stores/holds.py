"""`Holds`: the amounts that running requests have reserved in one counter, with their sum.

A hold is the amount of one reservation. It ends with the lease of the reservation, a time limit. `put` adds a hold,
`remove` removes it, and `remove_expired` removes all holds with ended leases.
"""

from collections.abc import Iterable
from heapq import heapify, heappop, heappush

_MIN_COMPACTED = 64
"""Number of heap entries below which outdated entries are not removed."""


class Holds:
    """Reserved amounts (holds) of one counter, each with the time at which it ends by itself."""

    def __init__(self) -> None:
        self.total = 0
        """Sum of the amounts of all holds."""
        self._found: dict[str, tuple[float, int]] = {}
        self._ends: list[tuple[float, str]] = []
        """Heap of the ends of leases, with outdated entries of renewed and settled reservations."""

    def put(self, reservation_id: str, lease_ends_at: float, amount: int) -> None:
        """Add a hold of `amount` for the reservation `reservation_id`, or replace its earlier hold.

        `lease_ends_at` is the time in seconds at which the lease (time limit) of the reservation ends.
        """
        self.total += amount - self._found.get(reservation_id, (0.0, 0))[1]
        self._found[reservation_id] = lease_ends_at, amount
        heappush(self._ends, (lease_ends_at, reservation_id))
        if len(self._ends) > 2 * len(self._found) + _MIN_COMPACTED:
            self._ends = [(ends, name) for name, (ends, _) in self._found.items()]
            heapify(self._ends)

    def remove(self, reservation_id: str) -> None:
        """Remove the hold of the reservation `reservation_id`. Does nothing if it has none."""
        self.total -= self._found.pop(reservation_id, (0.0, 0))[1]

    def remove_expired(self, now: float) -> None:
        """Remove all holds with a lease (time limit) that has ended at the time `now` (seconds)."""
        while self._ends and self._ends[0][0] <= now:
            _, reservation_id = heappop(self._ends)
            if self._found.get(reservation_id, (now + 1, 0))[0] <= now:
                self.remove(reservation_id)

    def items(self) -> Iterable[tuple[str, tuple[float, int]]]:
        """Return pairs of a reservation id and its hold.

        Each hold is a pair: the time in seconds at which its lease (time limit) ends, and the reserved amount.
        """
        return self._found.items()

    def copy(self) -> "Holds":
        """Return an independent copy of the holds, which can be changed."""
        other = Holds()
        for reservation_id, (end, amount) in self.items():
            other.put(reservation_id, end, amount)
        return other
