"""Time ranges as users write them (`24h`, `yesterday`, `2026-11-01`), and the periods into which a range is divided.

Periods of at most one hour begin at multiples of their length in UTC. Longer periods, such as days, begin at multiples
of their length in the time zone of the process, even if its offset from UTC changes in the range. Each period has a
number, which counts the periods of its length since the epoch.
"""

import math
import re
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta, tzinfo
from time import localtime
from typing import Any

from msgspec import Struct
from sqlalchemy import ColumnElement, case

from anthropic_proxy.console.ledger.units import DAY_SECONDS, HOUR_SECONDS
from anthropic_proxy.errors import ConfigurationError

MAX_SHORT_RANGE_HOURS = 3
"""Maximum length in hours of a time range for which sums are added up from single requests."""


class UsageRange(Struct, frozen=True):
    """Time range of requests, in seconds since the epoch.

    A range above three hours begins and ends at a full hour, because its sums are stored by hour.
    """

    start: int
    end: int
    """First second after the range, in seconds since the epoch."""

    @property
    def is_short_range(self) -> bool:
        """True if the range has at most three hours, so that single requests are added up instead of hourly sums."""
        return self.end - self.start <= MAX_SHORT_RANGE_HOURS * HOUR_SECONDS


FORMS = "Use 24h, 7d, 4w, today, yesterday, or a date such as 2026-11-01"
_DURATION = re.compile(r"(\d{1,5})(h|d|w)")
_UNIT_HOURS = {"h": 1, "d": 24, "w": 168}


def resolve_usage_range(since: str, until: str, now: datetime, timezone: tzinfo | None = None) -> UsageRange:
    """Return the time range from `since` to `until`, texts such as `24h`, `yesterday` or `2026-11-01`.

    An empty `until` means `now`. Raises `ConfigurationError` for an invalid text or range.
    """
    first, _ = _find_times("--since", since, now, timezone)
    end = now if not until else _find_times("--until", until, now, timezone)[1]
    if first >= now:
        raise ConfigurationError(f'--since is "{since}", which is not in the past. {FORMS}.')
    if end <= first:
        raise ConfigurationError(f'--until is "{until}", which is not after --since {since}. {FORMS}.')
    exact = UsageRange(math.ceil(first.timestamp()), math.ceil(end.timestamp()))
    if exact.is_short_range:
        return exact
    # a range above three hours is extended to full hours
    start, is_midnight = int(first.timestamp()), end.astimezone(timezone).time() == time.min
    end_hour = exact.end // HOUR_SECONDS if is_midnight else -(-exact.end // HOUR_SECONDS)
    return UsageRange(start // HOUR_SECONDS * HOUR_SECONDS, end_hour * HOUR_SECONDS)


def _find_times(option: str, text: str, now: datetime, timezone: tzinfo | None) -> tuple[datetime, datetime]:
    """Return the beginning and the end of the period in `text`. For a duration such as `24h`, both are `now` minus it.

    `option` is `--since` or `--until`, for error messages. `timezone` is the time zone in which days begin; None: that
    of the system.
    """
    word = text.strip().lower()
    if found := _DURATION.fullmatch(word):
        past = now - timedelta(hours=int(found[1]) * _UNIT_HOURS[found[2]])
        return past, past
    today = now.astimezone(timezone).date()
    days = {"today": today, "yesterday": today - timedelta(days=1)}
    try:
        day = days[word] if word in days else date.fromisoformat(word)
        return _midnight(day, timezone), min(_midnight(day + timedelta(days=1), timezone), now)
    except (ValueError, OverflowError):
        raise ConfigurationError(f'{option} is "{text}". {FORMS}.') from None


def _midnight(day: date, timezone: tzinfo | None) -> datetime:
    local = datetime(day.year, day.month, day.day, tzinfo=timezone)
    return local if timezone is not None else local.astimezone()


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
    return localtime(when).tm_gmtoff
