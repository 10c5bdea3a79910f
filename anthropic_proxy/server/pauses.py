"""What the process keeps of freed memory is given back in a pause."""

from anthropic_proxy.memory import give_back

QUIET_SECONDS = 10.0
"""A pause after which what was kept is given back."""


class Pauses:
    """Sees when no request has come for a while."""

    def __init__(self) -> None:
        self._served = self._given_back_at = 0
        self._quiet_since = 0.0

    def look(self, served: int, now: float) -> None:
        """Give back what was kept, once in each pause.

        `served`: how many requests there were until `now`, in seconds; without probes, which come in every pause.
        """
        if served != self._served:
            self._served, self._quiet_since = served, now
        elif served != self._given_back_at and now - self._quiet_since >= QUIET_SECONDS:
            self._given_back_at = served
            give_back()
