"""Work that Claude Code reports in its metrics: lines, commits, decisions about edits and active time (`Activity`)."""

from collections.abc import Iterable, Sequence

from msgspec import Struct, structs

ACTIVITY_KEYS = ("key_label", "owner", "team", "cost_center", "project", "session", "requested_model")
"""Columns of the table `activity` by which it is added up, besides the hour."""


class Activity(Struct, frozen=True, kw_only=True):
    """Sums of what clients have stated. The table `activity` has its fields."""

    lines_added: int = 0
    lines_removed: int = 0
    edits_accepted: int = 0
    edits_rejected: int = 0
    """Proposed changes of files that a person, or a rule of the person's settings, has rejected."""
    commits: int = 0
    pull_requests: int = 0
    user_microseconds: int = 0
    """Time in which a person typed or read."""
    client_microseconds: int = 0
    """Time in which tools ran and models replied."""

    @property
    def is_empty(self) -> bool:
        return self == _NOTHING

    @property
    def has_lines(self) -> bool:
        return bool(self.lines_added or self.lines_removed)

    @property
    def accepted_share(self) -> float | None:
        """0 to 1. None: there were no proposed changes."""
        edits = self.edits_accepted + self.edits_rejected
        return self.edits_accepted / edits if edits else None


_NOTHING = Activity()
ACTIVITY_NAMES: Sequence[str] = Activity.__struct_fields__


def add_up_activity(several: Iterable[Activity]) -> Activity:
    columns = zip(*map(structs.astuple, several), strict=True)
    return Activity(**dict(zip(ACTIVITY_NAMES, map(sum, columns), strict=False)))


class Measurement(Struct, frozen=True, kw_only=True):
    """A number that a client has stated once, or again and again as it grows."""

    series: str
    """Hash of everything that tells one series of numbers from others of the same person."""
    place: int
    """Which number of the series it is: nanoseconds, by the clock of the client. A number that is stated again has the
    same place."""
    grows: bool
    """True: the client states the sum since its start again and again."""
    name: str
    """Field of `Activity`."""
    value: int
    session: str = ""
    requested_model: str = ""


class Sender(Struct, frozen=True, kw_only=True):
    """Whose work it is."""

    id: str
    """`Client.id`."""
    key_label: str
    owner: str
    team: str
    cost_center: str = ""
