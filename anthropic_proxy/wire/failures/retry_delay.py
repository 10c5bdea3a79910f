"""Retry delay of a provider error, in whole seconds, from response headers and error texts.

The delay is sent to the client as `retry-after`. It also decides whether the proxy itself retries.
"""

import math
import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

MAX_DELAY_SECONDS = 3_600
"""Maximum retry delay in seconds. A longer delay is reduced to this value."""

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")
_AMOUNT = (
    r"\d{1,9}(?:\.\d{1,9})? ?(?:ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)?(?![a-z])"
)
_AGAIN = re.compile(
    r"(?:try again|retry|resets?|renews?|available(?: again)?|wait)(?: again)? (?:in|after|for) (?:about |another )?"
    rf"((?:{_AMOUNT}(?:, | and | )?){{1,4}})",
    re.IGNORECASE,
)
_AMOUNTS = re.compile(r"(\d+(?:\.\d+)?) ?([a-z]*)", re.IGNORECASE)
_UNITS = (("ms", 0.001), ("mil", 0.001), ("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400), ("", 1))
"""Rows: beginning of the name of a time unit, its length in seconds. The first matching row counts."""
_RESET = re.compile(
    r"\breset\w*(?: \w+){0,3}:? (\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(?::\d{2})?(?:\.\d{1,9})?) ?"
    r"(Z|UTC|GMT|[+-]\d{2}:?\d{2})(?!\w)",
    re.IGNORECASE,
)
"""Pattern of a reset time with a time zone. A time without a zone (Z.ai) is not read, because it may be wrong by
hours."""


def find_retry_delay(headers: Mapping[str, str], details: Any, message: str) -> float | None:
    """Return the retry delay of a provider error in whole seconds, 1 to `MAX_DELAY_SECONDS`. None: not reported.

    `details` is the value of `error.details` in the error body. In Google's error format, it contains the delay.
    """
    # The first source with a delay counts: retry headers, Google's `RetryInfo`, the message, headers of exhausted
    # limits.
    seconds = _from_headers(headers)
    if seconds is None:
        seconds = _from_details(details)
    if seconds is None:
        seconds = _from_text(message)
    if seconds is None:
        seconds = _from_reset(message, headers.get("date"))
    if seconds is None:
        seconds = _from_limits(headers)
    if seconds is None:
        return None
    return float(math.ceil(min(max(seconds, 1), MAX_DELAY_SECONDS)))  # `min` before `ceil`: seconds may be infinite


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
    amounts = _AMOUNTS.findall(match[1])
    return sum(float(number) * _factor(unit.lower()) for number, unit in amounts)


def _factor(unit: str) -> float:
    return next(factor for beginning, factor in _UNITS if unit.startswith(beginning))


def _from_reset(message: str, now: str | None) -> float | None:
    """Return the seconds until the reset time in an error text, counted from the response's `Date` header.

    None: the time or the header is missing.
    """
    match = _RESET.search(message)
    if match is None or now is None:
        return None
    zone = "+00:00" if match[2].upper() in ("Z", "UTC", "GMT") else match[2]
    try:
        moment = parsedate_to_datetime(now)
        return (type(moment).fromisoformat(match[1] + zone) - moment).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None


def _until(date: str, now: str | None) -> float | None:
    """Return the seconds from `now`, the response's `Date` header, to `date`. None: a date is invalid.

    The header is used because the clock of the proxy may differ.
    """
    try:
        return (parsedate_to_datetime(date) - parsedate_to_datetime(now or "")).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None


def _duration(text: str) -> float | None:
    """Return the seconds of a duration such as `1m2.5s`, `12s`, `250ms` or `12`. None: the text is no duration."""
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
