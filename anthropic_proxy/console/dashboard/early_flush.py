"""Sends a page that adds up many requests in two parts: its head, and when the result is known, the content."""

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from html import escape

from msgspec import Struct

from anthropic_proxy.console.dashboard.web import (
    accepts_gzip,
)
from anthropic_proxy.gateway.server.path_prefix import add_prefix_to_links
from anthropic_proxy.plugins import RouteRequest, RouteResponse

PATIENCE_SECONDS = 0.3
"""Time in seconds after which the browser receives the head of a page before its content."""
MIN_REQUESTS = 10_000
"""Minimum number of stored requests for the sentence "Adding up …". A wait with fewer requests has another cause, such
as a busy thread."""
_POLL_SECONDS = 0.1
CONTENT_MARK = b"<!-- content -->"
_GZIP_WINDOW = 31
"""Argument `wbits` of zlib that selects the gzip format."""


class Progress(Struct):
    """Number of requests that a page adds up. The thread that builds the page sets it, and the event loop reads it."""

    requests: int = -1
    """Number of stored requests that the page adds up. -1: not yet known."""


async def respond_with_early_flush(
    request: RouteRequest, page: Awaitable[RouteResponse], render_head: Callable[[], RouteResponse], progress: Progress
) -> RouteResponse:
    """Return the response of `page`. If it is slow and adds up many requests, its head is sent before its content."""
    task = asyncio.ensure_future(page)
    done, _ = await asyncio.wait((task,), timeout=PATIENCE_SECONDS)
    while not done and progress.requests < 0:
        done, _ = await asyncio.wait((task,), timeout=_POLL_SECONDS)
    if done or progress.requests < MIN_REQUESTS:
        return await task
    head = await asyncio.to_thread(render_head)
    fields = {name: value for name, value in head.headers.items() if name not in ("content-encoding", "vary")}
    fields["vary"] = "accept-encoding, cookie"
    if is_compressed := accepts_gzip(request):
        fields["content-encoding"] = "gzip"

    async def send_parts() -> AsyncIterator[bytes]:
        text = f'<p class="adding-up" role="status">Adding up {progress.requests:,} requests …</p>\n'
        yield _read_body(request, head).partition(CONTENT_MARK)[0] + text.encode()
        try:
            response = await task
        except Exception as error:
            text = escape(f"The page cannot be shown: {type(error).__name__}. The log has the reason.")
            yield f'<h1>Error</h1><p class="verdict">{text}</p></main></body></html>'.encode()
            raise
        yield _read_body(request, response).partition(CONTENT_MARK)[2]

    async def compress_parts() -> AsyncIterator[bytes]:
        encoder = zlib.compressobj(wbits=_GZIP_WINDOW)
        async for part in send_parts():
            yield encoder.compress(part) + encoder.flush(zlib.Z_SYNC_FLUSH)
        yield encoder.flush()

    return RouteResponse(headers=fields, body=compress_parts() if is_compressed else send_parts())


def _read_body(request: RouteRequest, response: RouteResponse) -> bytes:
    """Return the uncompressed body. Its links get the path of `DASHBOARD_URL` here, because the server does not change
    a stream; `compress_response` has added it to a compressed body.
    """
    assert isinstance(response.body, bytes)
    if "content-encoding" in response.headers:
        return gzip.decompress(response.body)
    return add_prefix_to_links(response.headers, response.body, request.path_prefix)
