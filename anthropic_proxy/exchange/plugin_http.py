"""`send_http`: sends HTTP requests of plugins to other servers, through the HTTP client for requests to providers.

Thus the configured HTTP proxies and certificates apply to them too.
"""

import asyncio
from collections.abc import Mapping
from urllib.parse import urlsplit

from anthropic_proxy.errors import UpstreamTimeout
from anthropic_proxy.plugins import HttpReply
from anthropic_proxy.services import Services
from anthropic_proxy.wire.contract import UpstreamRequest, read_body

MAX_REPLY_BYTES = 1024 * 1024
"""Maximum bytes of a reply body by default. A larger reply raises `UpstreamError`."""
TIMEOUT_SECONDS = 10.0
"""Maximum seconds for one request of a plugin, with the complete reply."""


async def send_http(
    services: Services,
    method: str,
    url: str,
    headers: Mapping[str, str] = {},
    body: bytes = b"",
    *,
    max_bytes: int = MAX_REPLY_BYTES,
) -> HttpReply:
    """Send an HTTP request of a plugin and return the response, without following redirects.

    Raises `UpstreamError` if the request fails, takes more than ten seconds, or the response body exceeds `max_bytes`.
    """
    parsed = urlsplit(url)
    path = f"{parsed.path or '/'}{'?' if parsed.query else ''}{parsed.query}"
    request = UpstreamRequest(path=path, body=body, headers=headers, method=method)
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            response = await services.transports["http"](f"{parsed.scheme}://{parsed.netloc}", request, None)
            try:
                return HttpReply(status=response.status, body=await read_body(response, max_bytes))
            finally:
                await response.close()
    except TimeoutError:
        raise UpstreamTimeout(f"{parsed.netloc} did not answer within {TIMEOUT_SECONDS:g} s") from None
