"""Response headers that report rate limits to clients, as in Anthropic's API (docs.anthropic.com, "Rate limits").

`build_rate_headers` returns them for the limits per minute of a virtual key (a key that the proxy issues) and its team.
"""

from collections.abc import Mapping, Sequence

from anthropic_proxy.access.descriptions import format_time
from anthropic_proxy.access.limits import KeyLimit
from anthropic_proxy.plugins import Reservation

_KINDS = {"requests_per_minute": "requests", "token_counts_per_minute": "requests", "tokens_per_minute": "tokens"}


def build_rate_headers(limits: Sequence[KeyLimit], reservation: Reservation, now: float) -> Mapping[str, str]:
    """Return response headers with the state of the limits on requests and tokens per minute.

    If both the key and its team have a limit, the headers report the one with the smaller remaining amount.
    """
    headers: dict[str, str] = {}
    lowest: dict[str, int] = {}
    states = zip(limits, reservation.remaining, reservation.reset_seconds, strict=True)
    for each, remaining, reset_seconds in states:
        kind = _KINDS.get(each.rule)
        if kind is None or remaining >= lowest.get(kind, remaining + 1):
            continue
        lowest[kind] = remaining
        start = f"anthropic-ratelimit-{kind}"
        headers[f"{start}-limit"] = str(each.limit.maximum)
        headers[f"{start}-remaining"] = str(max(remaining, 0))
        headers[f"{start}-reset"] = format_time(now + reset_seconds) or ""
    return headers
