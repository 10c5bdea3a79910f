"""How often requests may be repeated: the clients repeat too, and repeats of a failing upstream multiply."""

SHARE = 0.2
"""Repeats that each first call earns."""
MOST_SAVED = 10.0
"""Repeats that may be saved up, and what everybody begins with."""


class RepeatBudget:
    """Counts first calls and repeats per upstream: a few failures are repeated, an outage is not made worse."""

    def __init__(self) -> None:
        self._saved: dict[str, float] = {}
        """Only of upstreams that were ever repeated."""

    def earn(self, upstream: str) -> None:
        """Count a first call."""
        if self._saved and upstream in self._saved:
            self._saved[upstream] = min(self._saved[upstream] + SHARE, MOST_SAVED)

    def spend(self, upstream: str) -> bool:
        """Say whether a repeat is left, and take it."""
        saved = self._saved.get(upstream, MOST_SAVED)
        if saved < 1:
            return False
        self._saved[upstream] = saved - 1
        return True
