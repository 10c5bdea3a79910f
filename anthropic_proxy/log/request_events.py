"""Live view of client requests, as a stream of server-sent events.

`stream_request_events` yields the events. The first event, `snapshot`, has the recent and running requests. Later, an
event `request` has one request that has just finished, and an event `running` has all requests in progress.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence

from anthropic_proxy.log.request_feed import RequestFeed, RequestSnapshot, RequestView, encode_requests
from anthropic_proxy.plugins import Receipt

REFRESH_SECONDS = 1.0
"""Seconds between two checks of the running requests. A live view sends them if they have changed."""
PING_SECONDS = 10.0
"""Seconds without an event after which a live view sends an SSE comment, so that both sides detect a broken
connection."""
MAX_LIVE_SECONDS = 60.0
"""Maximum seconds of one live response. Clients connect again after the end. The limit exists because some servers wait
for open responses before they stop."""


async def stream_request_events(
    feed: RequestFeed, client_names: Collection[str] | None = None
) -> AsyncGenerator[bytes, None]:
    """Yield the events of a live view of client requests as SSE bytes.

    Only requests of the clients in `client_names` are included; None: those of all clients. The stream ends after
    `MAX_LIVE_SECONDS` at the latest.
    """
    view = feed.open_view()
    try:
        async for data in _encode_view(feed, view, lambda one: client_names is None or one.client.name in client_names):
            yield data
    finally:
        feed.close_view(view)


async def _encode_view(
    feed: RequestFeed, view: RequestView, is_shown: Callable[[Receipt], bool]
) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    snapshot = await feed.collect_snapshot()
    snapshot.finished = [request for request in snapshot.finished if is_shown(request.receipt)]
    snapshot.running = list(filter(is_shown, snapshot.running))
    yield _event("snapshot", encode_requests(snapshot))
    known = {request.receipt.request_id for request in snapshot.finished}  # an update may repeat them
    running, sent_at = _running_key(snapshot.running), loop.time()
    end = sent_at + MAX_LIVE_SECONDS
    refresh_at = sent_at + REFRESH_SECONDS
    while not view.ended and loop.time() < end:
        requests = await view.read(max(refresh_at - loop.time(), 0.0))
        events = [
            _event("request", encode_requests(request))
            for request in feed.redact(RequestSnapshot(list(requests))).finished
            if request.receipt.request_id not in known and is_shown(request.receipt)
        ]
        if loop.time() >= refresh_at:
            refresh_at = loop.time() + REFRESH_SECONDS
            if feed.watch_peers is not None:
                feed.watch_peers(False)
            receipts = list(filter(is_shown, feed.list_running()))
            if (key := _running_key(receipts)) != running:
                running = key
                events.append(_event("running", encode_requests(receipts)))
        if not events and loop.time() - sent_at >= PING_SECONDS:
            events = [b": ping\n\n"]
        if events:
            sent_at = loop.time()
            yield b"".join(events)


def _event(name: str, data: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


def _running_key(receipts: Sequence[Receipt]) -> bytes:
    """Return bytes that change with the running requests and their state, to detect whether an event must be sent."""
    return encode_requests(receipts)
