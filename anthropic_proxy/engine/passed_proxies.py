"""The header `CDN-Loop` (RFC 8586), by which proxies find that a request comes back to them.

An address of a provider may lead to the same proxy, or to another one whose provider is the first. Each request would
then be sent again and again, until the process has no sockets. The header is sent only to servers that are not a
vendor's own, also with the requests of the proxy that such a request causes.

If each proxy on the way tried all its targets, those that lead back would multiply the calls with each pass. So only
the first proxy tries another target after a loop: `is_answered_loop`.
"""

from collections.abc import Mapping

from anthropic_proxy.errors import LoopDetected, ProxyError

LOOP_HEADER = "cdn-loop"
MAX_PASSES = 4
"""Maximum number of proxies of this kind that a request has passed when it arrives."""
_NAME = "anthropic-proxy"


def add_pass(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of a request with one more entry for this proxy."""
    passed = headers.get(LOOP_HEADER)
    return {**headers, LOOP_HEADER: f"{passed}, {_NAME}" if passed else _NAME}


def is_answered_loop(error: ProxyError, headers: Mapping[str, str]) -> bool:
    """Return True if an error says that a request with these headers is in a loop, and its sender is such a proxy."""
    return error.status == LoopDetected.status and _count_passes(headers.get(LOOP_HEADER, "")) > 0


def require_no_loop(headers: Mapping[str, str]) -> None:
    """Raise `LoopDetected` if a request has passed too many proxies."""
    passed = headers.get(LOOP_HEADER)
    if passed is not None and (number := _count_passes(passed)) > MAX_PASSES:
        raise LoopDetected(
            f"The request has passed anthropic-proxy {number} times. ",
            remedy="The address of a provider leads back to this proxy: check ANTHROPIC_UPSTREAM_URL and base_url.",
        )


def _count_passes(passed: str) -> int:
    return [entry.partition(";")[0].strip() for entry in passed.casefold().split(",")].count(_NAME)
