"""Responses for slow pages: the browser first receives the head of the page, and later the content.

In between, the page shows "Adding up 1,000,000 requests …". `respond_with_early_flush` returns such a response if a
page needs more than 300 ms and adds up many requests. `Progress` has the number of these requests.
"""

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from html import escape

from msgspec import Struct

from anthropic_proxy.dashboard.responses import accepts_gzip
from anthropic_proxy.plugins import RouteRequest, RouteResponse

PATIENCE_SECONDS = 0.3
"""Time in seconds after which the browser receives the head of a page before its content."""
MIN_REQUESTS = 10_000
"""Minimum number of stored requests for the sentence "Adding up …". A wait with fewer requests has another cause, such
as a busy thread."""
_POLL_SECONDS = 0.1
CONTENT_MARK = b"<!-- content -->"
"""HTML comment between the head and the content of every page."""
_GZIP_WINDOW = 31
"""Argument `wbits` of zlib that selects the gzip format."""


class Progress(Struct):
    """Number of requests that a page adds up. The thread that builds the page sets it, and the event loop reads it."""

    requests: int = -1
    """Number of stored requests that the page adds up. -1: not yet known."""


async def respond_with_early_flush(
    request: RouteRequest,
    page: Awaitable[RouteResponse],
    render_head: Callable[[], RouteResponse],
    progress: Progress,
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
    chunks = _send_fragments(_read_body(head).partition(CONTENT_MARK)[0], task, progress)
    return RouteResponse(headers=fields, body=_compress(chunks) if is_compressed else chunks)


async def _send_fragments(head: bytes, page: asyncio.Future[RouteResponse], progress: Progress) -> AsyncIterator[bytes]:
    yield head + f'<p class="adding-up" role="status">Adding up {progress.requests:,} requests …</p>\n'.encode()
    try:
        response = await page
    except Exception as error:
        text = escape(f"The page cannot be shown: {type(error).__name__}. The log has the reason.")
        yield f'<h1>Error</h1><p class="verdict">{text}</p></main></body></html>'.encode()
        raise
    yield _read_body(response).partition(CONTENT_MARK)[2]


async def _compress(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Compress each of `chunks` by gzip, so that a browser can decompress each chunk at once, and yield the results."""
    encoder = zlib.compressobj(wbits=_GZIP_WINDOW)
    async for chunk in chunks:
        yield encoder.compress(chunk) + encoder.flush(zlib.Z_SYNC_FLUSH)
    yield encoder.flush()


def _read_body(response: RouteResponse) -> bytes:
    assert isinstance(response.body, bytes)
    return gzip.decompress(response.body) if "content-encoding" in response.headers else response.body
