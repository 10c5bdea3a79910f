"""Which requests (`RequestSelection`), time ranges as users write them (`24h`, `yesterday`), and periods of a range.

Periods of at most one hour begin at multiples of their length in UTC. Longer periods, such as days, begin at multiples
of their length in the time zone of the process, even if its offset from UTC changes in the range. Each period has a
number, which counts the periods of its length since the epoch.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime, time, timedelta, tzinfo
from time import localtime

from msgspec import Struct, structs

from anthropic_proxy.console.ledger.records import HOURLY_KEYS
from anthropic_proxy.console.units import (
    HOUR_SECONDS,
    MICROSECONDS,
    MICROSECONDS_PER_HOUR,
    find_local_time,
    find_midnight,
)
from anthropic_proxy.engine.durations import decode_duration
from anthropic_proxy.engine.patterns import compile_anchored
from anthropic_proxy.errors import ConfigurationError

MAX_SHORT_RANGE_HOURS = 3
"""Maximum length in hours of a time range for which sums are added up from single requests."""


class RequestSelection(Struct, frozen=True, kw_only=True):
    """Requests of a time range, of which filters may leave some out. Commands, API and pages read one selection.

    Above three hours, sums are read from tables with one row per hour, so they are those of complete hours.
    """

    start: int = 0
    """Beginning of the time range, in microseconds since the epoch."""
    end: int = 1 << 62
    """End of the time range, in microseconds since the epoch, exclusive."""
    values: Mapping[str, str] = {}
    """Column → value."""
    labels: Collection[str] | None = None
    """Labels of the keys whose requests are selected. None: of all."""
    is_changed: bool = False
    """True to select only requests that the translation to the provider's format changed."""
    text: str = ""
    """Text that an error, failed attempt (`groq 503`), model, project or session, or the request id contains; case is
    ignored. "": no text search."""
    has_model: bool = False
    """True to select only requests that named a model. All sums of usage and costs select these. A query of the model
    list, or a request with another path, a wrong key or an invalid body, named none."""

    @property
    def has_hourly_sums(self) -> bool:
        """True if the table `hourly` has every column of the filters, so that its sums can be used."""
        return self.has_sums(HOURLY_KEYS)

    def has_sums(self, keys: Collection[str], *columns: str) -> bool:
        """Return True if sums with `keys` have every column of the filters, and `columns`."""
        needed = {*columns, *self.values, *(("requested_model",) if self.has_model else ())}
        needed |= {"key_label"} if self.labels is not None else set()
        return not (self.is_changed or self.text or needed - {*keys})

    @property
    def end_hour(self) -> int:
        """End of the time range in whole hours since the epoch, usually rounded up; this hour is excluded.

        Queries of hourly sums need this value, because each row with sums is for a whole UTC hour. `round_end_to_hour`
        describes the rounding.
        """
        return round_end_to_hour(-(-self.end // MICROSECONDS))

    @property
    def is_short_range(self) -> bool:
        """True if the range has at most three hours, so that single requests are added up instead of hourly sums."""
        return self.end - self.start <= MAX_SHORT_RANGE_HOURS * MICROSECONDS_PER_HOUR


FORMS = "Use 30m, 24h, 7d, 4w, today, yesterday, a month such as 2026-11, or a date such as 2026-11-01"
_MONTH = compile_anchored(r"(\d{4})-(\d{2})", re.ASCII)


def resolve_usage_range(
    since: str,
    until: str,
    now: datetime,
    timezone: tzinfo | None = None,
    names: tuple[str, str] = ("--since", "--until"),
) -> RequestSelection:
    """Select the requests to models in a time range. `since` and `until` are texts such as `24h` or `2026-11`; an empty
    `until` means `now`. Raises `ConfigurationError` with the `names` of the two.
    """
    first, _ = find_times(names[0], since, now, timezone)
    end = now if not until else find_times(names[1], until, now, timezone)[1]
    if first >= now:
        raise ConfigurationError(f'{names[0]} is "{since}", which is not in the past. {FORMS}.', code="usage-period")
    if end <= first:
        raise ConfigurationError(
            f'{names[1]} is "{until}", which is not after {names[0]} {since}. {FORMS}.', code="usage-period"
        )
    start = math.ceil(first.timestamp())
    last = math.ceil(end.timestamp())
    exact = RequestSelection(start=start * MICROSECONDS, end=last * MICROSECONDS, has_model=True)
    if exact.is_short_range:
        return exact
    # a range above three hours is extended to full hours
    is_midnight = end.astimezone(timezone).time() == time.min
    end_hour = last // HOUR_SECONDS if is_midnight else -(-last // HOUR_SECONDS)
    start_hour = int(first.timestamp()) // HOUR_SECONDS
    return structs.replace(exact, start=start_hour * MICROSECONDS_PER_HOUR, end=end_hour * MICROSECONDS_PER_HOUR)


def find_times(option: str, text: str, now: datetime, timezone: tzinfo | None = None) -> tuple[datetime, datetime]:
    """Return the beginning and the end of the period in `text`, but at most `now`. For a duration such as `24h`, both
    are `now` minus it. `timezone` None: that of the system.
    """
    word = text.strip().lower()
    if month := find_month(word, timezone):
        return month[0], min(month[1], now)
    today = now.astimezone(timezone).date()
    days = {"today": today, "yesterday": today - timedelta(days=1)}
    try:
        if (seconds := decode_duration(word)) is not None:
            return (past := now - timedelta(seconds=seconds)), past
        day = days[word] if word in days else date.fromisoformat(word)
        return _midnight(day, timezone), min(_midnight(day + timedelta(days=1), timezone), now)
    except (ValueError, OverflowError):
        raise ConfigurationError(f'{option} is "{text}". {FORMS}.', code="usage-period") from None


def find_month(text: str, timezone: tzinfo | None = None) -> tuple[datetime, datetime] | None:
    """Return the beginning and the end of a calendar month such as `2026-11`. None: `text` is no month that can be
    used. `timezone` None: that of the system.
    """
    if not (match := _MONTH.fullmatch(text)):
        return None
    try:
        first = date(int(match[1]), int(match[2]), 1)
        return _midnight(first, timezone), _midnight(add_months(first, 1), timezone)
    except (ValueError, OverflowError):
        return None


def add_months(first: date, count: int) -> date:
    """Return the first day of a month some months later, or before if `count` is negative."""
    years, month = divmod(first.month - 1 + count, 12)
    return date(first.year + years, month + 1, 1)


def _midnight(day: date, timezone: tzinfo | None) -> datetime:
    return find_midnight(day) if timezone is None else datetime.combine(day, time.min, timezone)


MAX_UTC_SECONDS = 3_600
"""Maximum length of a period that does not depend on the time zone."""
_LOCAL_EPOCH = datetime(1970, 1, 1)  # local time
_QUARTER = 900


def find_period_start(number: int, length: int) -> int:
    """Seconds since the epoch. `number` counts the periods since then."""
    if length <= MAX_UTC_SECONDS:
        return number * length
    return int(find_local_time(_LOCAL_EPOCH + timedelta(seconds=number * length)).timestamp())


def find_period_number(when: int, length: int) -> int:
    """Number of the period that contains `when`, counted since the epoch. Both arguments are in seconds."""
    return (when if length <= MAX_UTC_SECONDS else when + find_utc_offset(when)) // length


def round_end_to_hour(end: int) -> int:
    """Return the end of a time range in hours since the epoch, usually rounded up. A full hour of local time is rounded
    down as the start of a range is, so that the range keeps its length in time zones with half or quarter hours.
    """
    is_full = end % _QUARTER == 0 and (end + find_utc_offset(end)) % HOUR_SECONDS == 0
    return end // HOUR_SECONDS if is_full else -(-end // HOUR_SECONDS)


def list_period_starts(start: int, end: int, length: int) -> Sequence[int]:
    """Beginnings of all periods that overlap the range, in seconds since the epoch. The first period may begin before
    `start`.
    """
    numbers = range(find_period_number(start, length), find_period_number(end - 1, length) + 1)
    return [find_period_start(number, length) for number in numbers]


def find_utc_offset(when: int) -> int:
    return localtime(when).tm_gmtoff
