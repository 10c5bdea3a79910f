"""`POST /v1/metrics`, `/v1/logs` and `/v1/traces`: telemetry of Claude Code, for the collector of the company.

The client gets 200 at once, whatever happens to its data, because it logs an error for any other answer. Data waits in
a bounded queue. What exceeds it, or cannot be sent, is counted and dropped, without a second try. The collector gets no
credential of the client.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import suppress

from msgspec import Struct

from anthropic_proxy.console.gateway_protocol.telemetry_identity import build_attributes, name_sender
from anthropic_proxy.errors import ProxyError
from anthropic_proxy.plugins import Gateway, RouteRequest, RouteResponse

PATHS = ("/v1/metrics", "/v1/logs", "/v1/traces")
MAX_BYTES = 1024 * 1024
"""Maximum size of one request. A larger one is dropped."""
MAX_QUEUED, MAX_QUEUED_BYTES = 500, 16 * 1024 * 1024
_MAX_BYTES_ON_LOOP = 64 * 1024
_JSON = "application/json"
_ACCEPTED = frozenset({_JSON, "application/x-protobuf"})


class _Waiting(Struct):
    kind: str
    content_type: str
    body: bytes
    attributes: Mapping[str, str]


class TelemetryRelay:
    """The queue of one process, and its task, which starts with the first data."""

    def __init__(self) -> None:
        self.counts = {"forwarded": 0, "dropped": 0}
        """Requests with telemetry since the start."""
        self._queue: deque[_Waiting] = deque()
        self._queued_bytes = 0
        self._sending: asyncio.Task[None] | None = None

    async def accept(self, gateway: Gateway, request: RouteRequest) -> RouteResponse:
        kind = request.path.rpartition("/")[2]
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        size = len(request.body)
        has_room = len(self._queue) < MAX_QUEUED and self._queued_bytes + size <= MAX_QUEUED_BYTES
        if not has_room or size > MAX_BYTES or content_type not in _ACCEPTED or not _find_address(gateway, kind):
            self.counts["dropped"] += 1
        else:
            self._queue.append(_Waiting(kind, content_type, request.body, build_attributes(request.client)))
            self._queued_bytes += size
            if self._sending is None or self._sending.done():
                self._sending = asyncio.create_task(self._send_all(gateway))
        return RouteResponse()

    async def stop(self) -> None:
        """What still waits is dropped, so that it does not delay the stop of the server."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait({self._sending})

    async def _send_all(self, gateway: Gateway) -> None:
        while self._queue:
            waiting = self._queue.popleft()
            self._queued_bytes -= len(waiting.body)
            self.counts["dropped"] += 1  # until it is sent, also if the server stops meanwhile
            with suppress(ValueError):
                body = await _name_sender(waiting)
                if await _send(gateway, waiting, body):
                    self.counts["dropped"] -= 1
                    self.counts["forwarded"] += 1


def _find_address(gateway: Gateway, kind: str) -> str:
    return gateway.settings.collector.urls.get(kind, "")


async def _name_sender(waiting: _Waiting) -> bytes:
    """Raises `ValueError` for a body that is no telemetry."""
    is_json = waiting.content_type == _JSON
    arguments = (waiting.kind, waiting.body, waiting.attributes)
    if len(waiting.body) > _MAX_BYTES_ON_LOOP:
        return await asyncio.to_thread(name_sender, *arguments, is_json=is_json)
    return name_sender(*arguments, is_json=is_json)


async def _send(gateway: Gateway, waiting: _Waiting, body: bytes) -> bool:
    """Return False if the collector did not accept the data."""
    secrets = gateway.settings.collector.headers
    headers = {"content-type": waiting.content_type, **{name: value.reveal() for name, value in secrets.items()}}
    try:
        reply = await gateway.send_http("POST", _find_address(gateway, waiting.kind), headers, body)
    except ProxyError as error:
        gateway.log_warning_once(f"Telemetry of clients was dropped: {error.message}")
        return False
    is_accepted = 200 <= reply.status < 300
    if not is_accepted:
        gateway.log_warning_once(f"Telemetry of clients was dropped: the collector answered {reply.status}.")
    return is_accepted
