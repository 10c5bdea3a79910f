"""When a provider takes requests again: headers and texts → whole seconds."""

import math
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

LONGEST_SECONDS = 3_600

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")
_AGAIN = re.compile(r"(?:try again|retry) (?:in|after) (\d[\d.hms]*)( ?seconds?| ?ms)?", re.IGNORECASE)


def find_delay(headers: Mapping[str, str], details: Any, message: str) -> float | None:
    """Return the seconds until the next try, rounded up, 1 to 3,600; None where nobody says.

    In this order: `retry-after-ms`, `retry-after`, Google's `RetryInfo`, "try again in 1.2s" in the text, and
    `x-ratelimit-reset-*` of what is used up: that one says when all is free again, which is later than needed.
    """
    seconds = _from_headers(headers)
    if seconds is None:
        seconds = _from_details(details)
    if seconds is None:
        seconds = _from_text(message)
    if seconds is None:
        seconds = _from_limits(headers)
    if seconds is None:
        return None
    return float(math.ceil(min(max(seconds, 1), LONGEST_SECONDS)))  # in this order: it may be infinite


def _from_headers(headers: Mapping[str, str]) -> float | None:
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    after = headers.get("retry-after")
    if after is not None:
        seconds = _number(after)
        return _until(after, headers.get("date")) if seconds is None else seconds
    return None


def _from_limits(headers: Mapping[str, str]) -> float | None:
    resets = []
    for what in ("requests", "tokens"):
        reset = headers.get(f"x-ratelimit-reset-{what}")
        if reset and headers.get(f"x-ratelimit-remaining-{what}", "0") == "0":
            resets.append(_duration(reset))
    return max((reset for reset in resets if reset is not None), default=None)


def _from_details(details: Any) -> float | None:
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str):
            return _duration(delay)
    return None


def _from_text(message: str) -> float | None:
    match = _AGAIN.search(message)
    if match is None:
        return None
    unit = (match[2] or "").strip()
    number = match[1].rstrip(".")
    return _duration(number + ("ms" if unit == "ms" else "s" if number[-1:].isdigit() else ""))


def _until(date: str, now: str | None) -> float | None:
    """Return the seconds between two HTTP dates: the answer's own `Date` is the clock, ours may differ."""
    try:
        return (parsedate_to_datetime(date) - parsedate_to_datetime(now or "")).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None


def _duration(text: str) -> float | None:
    """Read `1m2.5s`, `12s`, `250ms` or plain seconds."""
    seconds = _number(text)
    if seconds is not None:
        return seconds
    match = _DURATION.fullmatch(text.strip())
    if match is None or not match[0]:
        return None
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
