"""Constants for units of time, and the conversion to microseconds, the unit of times in the ledger's tables. Local
times are those of the time zone of the process.
"""

from datetime import date, datetime, time

MICROSECONDS = 1_000_000
HOUR_SECONDS = 3_600
DAY_SECONDS = 24 * HOUR_SECONDS
MICROSECONDS_PER_HOUR = HOUR_SECONDS * MICROSECONDS


def to_microseconds(seconds: float) -> int:
    """A negative value becomes 0."""
    return round(seconds * MICROSECONDS) if seconds > 0 else 0


def find_local_time(local: datetime) -> datetime:
    """Return the moment with this local time. If clocks skip it, as they skip midnight in Chile and Egypt once a year,
    it is the moment at which they change.
    """
    found = local.astimezone()
    return found if found.replace(tzinfo=None) == local else local.replace(fold=1).astimezone()


def find_midnight(day: date) -> datetime:
    """Return the beginning of a local day. Days on which clocks change have 23 or 25 hours."""
    return find_local_time(datetime.combine(day, time.min))
