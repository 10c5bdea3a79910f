"""Time ranges as users write them, such as `24h`, `7d`, `yesterday` or `2026-11-01`.

`resolve_usage_range` returns the range from one such text to another: the values of the options `--since` and
`--until`. `FORMS` is a sentence for error messages, which lists the permitted texts.
"""

import math
import re
from datetime import date, datetime, time, timedelta, tzinfo

from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.ledger.queries import UsageRange
from anthropic_proxy.ledger.units import HOUR_SECONDS

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
