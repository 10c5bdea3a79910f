"""Views of recent and running client requests: `GET /api/requests/recent`, and `/api/requests/live` as an event stream.

The views contain the requests of all workers, without message content and keys.
"""

from anthropic_proxy.exchange.client_request import ClientRequest
from anthropic_proxy.log.request_feed import encode_requests, stream_request_events
from anthropic_proxy.plugins import RouteResponse
from anthropic_proxy.server.response_sink import AsgiSink
from anthropic_proxy.services import Services

RECENT_PATH, LIVE_PATH = "/api/requests/recent", "/api/requests/live"
"""URL paths of the two views: a list of recent requests, and a live event stream."""
PATHS = frozenset({RECENT_PATH, LIVE_PATH})
"""URL paths of the views. Their requests have no receipt and are logged at level debug."""
_STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


async def get_recent_requests(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    """Serve `GET /api/requests/recent`: send recent finished requests and running ones of all workers, as JSON."""
    await sink.send_response(200, encode_requests(await services.receipts.feed.collect_snapshot()))


async def get_live_requests(services: Services, request: ClientRequest, sink: AsgiSink) -> None:
    """Serve `GET /api/requests/live`: send an SSE event `snapshot`, then one event for each change of a request."""
    events = stream_request_events(services.receipts.feed)
    await sink.send_route_response(RouteResponse(headers=_STREAM_HEADERS, body=events))
