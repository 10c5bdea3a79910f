"""Numbers, amounts of money, durations and times as texts for pages and commands.

Amounts are given in nano-dollars (10⁻⁹ dollars), and durations and times in microseconds, unless a function states
another unit. Times count from the epoch. An unknown value (None) has the text `–`, an unknown amount `unknown`.
"""

import time
from collections.abc import Callable
from datetime import datetime

from anthropic_proxy.console.units import DAY_SECONDS, HOUR_SECONDS, MICROSECONDS
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.gateway.money import UNKNOWN_AMOUNT, format_amount, format_cost

UNKNOWN = "–"
_MINUTE = 60
_COLORED_PROVIDERS = frozenset(
    ("openai", "google", "gemini", "vertex", "anthropic", "ollama", "groq", "moonshot", "xai", "litellm", "demo")
)
"""Providers with a color of their own in the style sheet."""


def count(value: float | None) -> str:
    """Return `value` as a whole number with separators: `1,284`. For None, the text is `–`."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def digits_in_groups(value: str) -> str:
    """Return `value`, a value of a field, with separators if it is a whole number: `64,000`."""
    return f"{int(value):,}" if value.isascii() and value.isdecimal() else value


def short_count(value: float | None) -> str:
    """Return `value` as short text, with a unit for numbers from 10,000 on: `9,876`, `12.3 k`, `37.8 M`. None: `–`."""
    if value is None:
        return UNKNOWN
    for limit, scale, unit in ((999_500_000, 1e9, " G"), (999_500, 1e6, " M"), (10_000, 1e3, " k")):
        if value >= limit:
            scaled = value / scale
            return f"{scaled:,.1f}{unit}" if scaled < 100 else f"{scaled:,.0f}{unit}"
    return f"{value:,.0f}"


_BEFORE_UNIT = compile_later(r"(?<=\d) (?=[kMG%])")


def keep_units(text: str) -> str:
    """Return `text` with no line break between a number and its unit: `1 % of 1.0 M`."""
    return _BEFORE_UNIT.sub("\u00a0", text)


def chart_money(nano_dollars: float) -> str:
    """Return an amount in nano-dollars as text for a chart and its table, in which nothing is `0`, as on the axis."""
    return format_amount(nano_dollars, zero="0")


def cost_with_unknown(nano_dollars: int, unknown_requests: int) -> str:
    """Return the total cost of several requests as text. If some costs are unknown: `≥ $0.010, 99 unknown`."""
    text = format_cost(nano_dollars, unknown_requests)
    return f"{text}, {unknown_requests:,} unknown" if unknown_requests and text != UNKNOWN_AMOUNT else text


def choose_seconds_axis(highest: float) -> Callable[[float], str]:
    """Return the function that formats durations in microseconds up to `highest` in one unit: `2.50 ms`, `0.50 s`."""
    scale, unit = (1_000, "ms") if highest < 0.1 * MICROSECONDS else (MICROSECONDS, "s")
    return lambda value: f"{value / scale:.2f} {unit}"


def seconds(microseconds: float | None) -> str:
    """Return the duration `microseconds` as text: `4.2 ms`, `42 ms`, `0.61 s`, `34.8 s`, `5 min 2 s`. None: `–`."""
    if microseconds is None:
        return UNKNOWN
    value = microseconds / MICROSECONDS
    if 0 < value < 0.1:
        return f"{value * 1_000:.{0 if value >= 0.0095 else 1 if value >= 0.001 else 2}f} ms"
    if value < 10:
        return f"{value:.2f} s"
    if value < _MINUTE:
        return f"{value:.1f} s"
    if value < HOUR_SECONDS:
        return f"{int(value) // _MINUTE} min {int(value) % _MINUTE} s"
    return f"{int(value) // HOUR_SECONDS} h {int(value) % HOUR_SECONDS // _MINUTE} min"


def percent(value: float | None, whole: float | None, digits: int = 0) -> str:
    """Return the share of `value` in `whole` as text: `79 %`. A share that would be rounded to 0 is `<1 %`."""
    if value is None or not whole:
        return UNKNOWN
    share = 100 * value / whole
    if share in (0, 100):
        return f"{share:.0f} %"
    step = 10**-digits
    if 0 < share < step:
        return f"<{step:.{digits}f} %"
    if value < whole:
        share = min(share, 100 - step)
    return f"{share:.{digits}f} %"


def error_share(errors: int, requests: int) -> str:
    """Return the share of failed requests (`errors`) among `requests` as text: `0 %`, `6.6 %`."""
    return percent(errors, requests, 1)


def error_count_and_share(errors: int, total: int) -> str:
    """Return a number of errors with its share of `total` as text: `12, 3.5 %`."""
    if not total:
        return UNKNOWN
    return f"{count(errors)}, {percent(errors, total, 1)}" if errors else "0"


def rate(tokens_per_second: float | None) -> str:
    """Return the speed of a reply in output tokens per second as text: `64 tokens/s`. For None, the text is `–`."""
    return UNKNOWN if tokens_per_second is None else f"{tokens_per_second:,.0f} tokens/s"


def local_datetime(microseconds: float) -> datetime:
    return datetime.fromtimestamp(microseconds / MICROSECONDS).astimezone()


def changes_clocks(start: int, end: int) -> bool:
    """Return True if the zone of the server has different offsets from UTC at two times, in seconds since the epoch."""
    return time.localtime(start).tm_gmtoff != time.localtime(end).tm_gmtoff


def describe_zone(start: int, end: int) -> str:
    """Return the time zone of the server in a time range, in seconds since the epoch: `CET`, or `CEST and CET`."""
    return " and ".join(dict.fromkeys(time.strftime("%Z", time.localtime(when)) for when in (start, end)))


def clock_time(microseconds: float) -> str:
    """Return the time of day of a time in microseconds since the epoch: `13:42:09`."""
    return f"{local_datetime(microseconds):%H:%M:%S}"


def local_day(microseconds: float) -> str:
    """Return the day of a time in microseconds since the epoch: `20 Nov`."""
    when = local_datetime(microseconds)
    return f"{when.day} {when:%b}"


def day_and_time(microseconds: float) -> str:
    """Return day and time of a time in microseconds since the epoch: `20 Nov, 08:12`."""
    when = local_datetime(microseconds)
    return f"{when.day} {when:%b, %H:%M}"


def time_span(first: float, last: float) -> str:
    """Return two times in microseconds since the epoch as text: `20 Nov, 08:12 to 21 Nov, 09:30`. The day is named
    once for times of one day, and the time once for times of one minute: `20 Nov, 08:12 to 09:30`, `20 Nov, 08:12`.
    """
    begin, end = day_and_time(first), day_and_time(last)
    if begin == end:
        return begin
    is_one_day = local_datetime(first).date() == local_datetime(last).date()
    return f"{begin} to {end.partition(', ')[2] if is_one_day else end}"


def list_time(microseconds: float, now: float) -> str:
    """Return a time in microseconds since the epoch for a list: `13:42:09`, or `20 Nov, 08:12` on another day than
    `now`, in seconds since the epoch.
    """
    is_today = local_datetime(microseconds).date() == local_datetime(now * MICROSECONDS).date()
    return clock_time(microseconds) if is_today else day_and_time(microseconds)


def long_time(seconds: float | None) -> str:
    """Return a time in seconds since the epoch like `full_time`. None: ""."""
    return "" if seconds is None else full_time(seconds * MICROSECONDS)


def full_time(microseconds: float) -> str:
    """Return date, time and zone of a time in microseconds since the epoch: `20 Nov 2026, 08:12:07 UTC`."""
    when = local_datetime(microseconds)
    return f"{when.day} {when:%b %Y, %H:%M:%S %Z}"


def ago(elapsed_seconds: float) -> str:
    """Return the age of an event as text: `4 min ago`. `elapsed_seconds`: age in seconds."""
    return f"{whole_time(elapsed_seconds)} ago"


def whole_time(seconds: float) -> str:
    """`4 min`; 0 for a negative time."""
    value = max(int(seconds), 0)
    if value < _MINUTE:
        return f"{value} s"
    if value < 2 * HOUR_SECONDS:
        return f"{value // _MINUTE} min"
    return f"{value // HOUR_SECONDS} h" if value < 2 * DAY_SECONDS else f"{value // DAY_SECONDS} days"


def shorten(text: str, characters: int = 120) -> str:
    return text if len(text) <= characters else f"{text[: characters - 1]}…"


def plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def provider_role(name: str) -> str:
    """Return the CSS class of the color of a provider. An own server has one of four colors, chosen by its name."""
    if not name or name in _COLORED_PROVIDERS:
        return name or "none"
    return f"own-{sum(name.encode()) % 4 + 1}"
