"""Constants for units of time, and the conversion to microseconds, the unit of times in the ledger's tables."""

MICROSECONDS = 1_000_000
HOUR_SECONDS = 3_600
DAY_SECONDS = 24 * HOUR_SECONDS
MICROSECONDS_PER_HOUR = HOUR_SECONDS * MICROSECONDS


def to_microseconds(seconds: float) -> int:
    """A negative value becomes 0."""
    return round(seconds * MICROSECONDS) if seconds > 0 else 0
