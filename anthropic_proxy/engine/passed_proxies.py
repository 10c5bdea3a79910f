"""The header `CDN-Loop` (RFC 8586), by which proxies find that a request comes back to them.

An address of a provider may lead to the same proxy, or to another one whose provider is the first. Each request would
then be sent again and again, until the process has no sockets. The header is sent only to servers that are not a
vendor's own.
"""

from collections.abc import Mapping

from anthropic_proxy.errors import LoopDetected

LOOP_HEADER = "cdn-loop"
MAX_PASSES = 4
"""Maximum number of proxies of this kind that a request has passed when it arrives."""
_NAME = "anthropic-proxy"


def add_pass(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of a request with one more entry for this proxy."""
    passed = headers.get(LOOP_HEADER)
    return {**headers, LOOP_HEADER: f"{passed}, {_NAME}" if passed else _NAME}


def require_no_loop(headers: Mapping[str, str]) -> None:
    """Raise `LoopDetected` if a request has passed too many proxies."""
    passed = headers.get(LOOP_HEADER)
    if passed is None:
        return
    names = [entry.partition(";")[0].strip() for entry in passed.casefold().split(",")]
    if (number := names.count(_NAME)) > MAX_PASSES:
        raise LoopDetected(
            f"The request has passed anthropic-proxy {number} times. ",
            remedy="The address of a provider leads back to this proxy: check ANTHROPIC_UPSTREAM_URL and base_url.",
        )
