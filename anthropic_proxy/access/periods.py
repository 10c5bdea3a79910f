"""Durations and times of expiry as users write them: `30d`, `12h`, `2026-12-31`.

`decode_duration` and `decode_expiry` return seconds, or raise `InvalidRequest` for other texts.
"""

import re
from datetime import UTC, date, datetime, timedelta

from anthropic_proxy.errors import InvalidRequest

_DURATION = re.compile(r"(\d{1,5})([mhdw])")
_UNIT_SECONDS = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def decode_duration(name: str, text: str) -> float:
    """Return the duration in `text`, such as `30m`, `12h`, `30d` or `4w`, in seconds.

    Raises `InvalidRequest` for any other text. The message names the option `name`, which contains the text.
    """
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None:
        raise InvalidRequest(f'{name} is "{text[:60]}". Use a duration such as 30m, 12h, 30d or 4w.')
    return float(int(found[1]) * _UNIT_SECONDS[found[2]])


def decode_expiry(name: str, text: str, now: float) -> float | None:
    """Return the time of expiry for a text such as `30d`, in seconds since the epoch.

    The text `never` gives None. Raises `InvalidRequest` for an invalid text.
    """
    if text.strip().lower() == "never":
        return None
    if _DURATION.fullmatch(text.strip().lower()):
        return now + decode_duration(name, text)
    try:
        end = datetime.combine(date.fromisoformat(text.strip()), datetime.min.time(), UTC) + timedelta(days=1)
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f'{name} is "{text[:60]}". Use a duration such as 30d, a date such as 2026-12-31, or never.'
        ) from None
    return end.timestamp()
