"""Division of a time range into periods, such as days that begin at midnight in the time zone of the process.

Periods of at most one hour begin at multiples of their length in UTC. Longer periods begin at multiples of their length
in local time, even if the offset from UTC changes in the range. Each period has a number, which counts the periods of
its length since the epoch. `find_period_number` returns the number of the period at a given time. `find_period_start`
returns the beginning of a period. `list_period_starts` returns the beginnings of all periods in a range.
"""

import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, case

from anthropic_proxy.ledger.units import DAY_SECONDS, HOUR_SECONDS

MAX_UTC_SECONDS = 3_600
"""Maximum length of a period that does not depend on the time zone."""
_LOCAL_EPOCH = datetime(1970, 1, 1)  # local time
_QUARTER = 900


def find_period_start(number: int, length: int) -> int:
    """Return the beginning of a period in seconds since the epoch.

    `length` is the length of the period in seconds. `number` counts the periods of this length since the epoch.
    """
    if length <= MAX_UTC_SECONDS:
        return number * length
    return int((_LOCAL_EPOCH + timedelta(seconds=number * length)).timestamp())


def find_period_number(when: int, length: int) -> int:
    """Return the number of the period that contains the time `when`, counted since the epoch.

    Both arguments are in seconds.
    """
    return (when if length <= MAX_UTC_SECONDS else when + _offset(when)) // length


def round_end_to_hour(end: int) -> int:
    """Return the end of a time range, rounded to a full UTC hour, in hours since the epoch.

    `end` is in seconds since the epoch, and is usually rounded up. But a full hour of local time is rounded down,
    because the start of a range is rounded down too. The range then keeps its length. This concerns only time zones
    with half or quarter hours.
    """
    is_full = end % _QUARTER == 0 and (end + _offset(end)) % HOUR_SECONDS == 0
    return end // HOUR_SECONDS if is_full else -(-end // HOUR_SECONDS)


def list_period_starts(start: int, end: int, length: int) -> Sequence[int]:
    """Return the beginnings of all periods that overlap a time range, in seconds since the epoch.

    The first period may begin before `start`. All arguments are in seconds.
    """
    numbers = range(find_period_number(start, length), find_period_number(end - 1, length) + 1)
    return [find_period_start(number, length) for number in numbers]


def build_period_number(seconds: ColumnElement[Any], length: int, start: int, end: int) -> ColumnElement[Any]:
    """Return the SQL expression that calculates the number of a row's period from the time of the row.

    `seconds` is the column with this time, in seconds since the epoch. The number counts the periods since the epoch,
    each with `length` seconds. `start` and `end` are the time range of the query, because the offset from UTC may
    change in it.
    """
    if length <= MAX_UTC_SECONDS:
        return seconds // length
    *changes, (_, last) = _list_offsets(start, end)
    shift = case(*((seconds < until, offset) for until, offset in changes), else_=last) if changes else last
    return (seconds + shift) // length


def _list_offsets(start: int, end: int) -> list[tuple[int, int]]:
    """Return the differences of local time to UTC within a time range, because clocks may change.

    Each item has the difference in seconds, and the time until which it applies in seconds since the epoch.
    """
    found: list[tuple[int, int]] = []
    offset = _offset(start)
    for day in range(start, end, DAY_SECONDS):
        if _offset(min(day + DAY_SECONDS, end)) != offset:
            change = next(
                hour
                for hour in range(day // HOUR_SECONDS * HOUR_SECONDS, day + 2 * DAY_SECONDS, HOUR_SECONDS)
                if _offset(hour) != offset
            )
            found.append((change, offset))
            offset = _offset(change)
    return [*found, (end, offset)]


def _offset(when: int) -> int:
    """Return the difference of local time to UTC in seconds at the time `when` (seconds since the epoch)."""
    return time.localtime(when).tm_gmtoff
