"""Constants for units of time, and the conversion to microseconds, the unit of times in the ledger's tables."""

MICROSECONDS = 1_000_000
"""Number of microseconds in a second."""
HOUR_SECONDS = 3_600
"""Number of seconds in an hour."""
DAY_SECONDS = 24 * HOUR_SECONDS
"""Number of seconds in a day of 24 hours."""
MICROSECONDS_PER_HOUR = HOUR_SECONDS * MICROSECONDS
"""Number of microseconds in an hour."""


def to_microseconds(seconds: float) -> int:
    """Convert a time or a duration in seconds to whole microseconds. A negative value becomes 0."""
    return round(seconds * MICROSECONDS) if seconds > 0 else 0
