"""`POST /v1/metrics`, `/v1/logs` and `/v1/traces`: telemetry of Claude Code, for the collector of the company.

The client gets 200 at once, whatever happens to its data, because it logs an error for any other answer. Data waits in
a bounded queue, in which each person has a turn. What exceeds the bound is taken from the person with the most. It is
counted and dropped, as what cannot be sent, without a second try. The collector gets no credential of the client.
"""

import asyncio
import zlib
from collections import Counter, deque
from collections.abc import Mapping
from contextlib import suppress

from msgspec import Struct, field

from anthropic_proxy.console.gateway_protocol.telemetry_identity import build_attributes, name_sender
from anthropic_proxy.engine.upstream.http.connection import Decompressor
from anthropic_proxy.errors import ProxyError
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Gateway, RouteRequest, RouteResponse

PATHS = ("/v1/metrics", "/v1/logs", "/v1/traces")
MAX_BYTES = 1024 * 1024
"""Maximum size of one request, also after decompression. A larger one is dropped."""
MAX_QUEUED = 500
MAX_QUEUED_BYTES = 16 * 1024 * 1024
MAX_COUNTED_PEOPLE = 1_000
"""Maximum number of people whose dropped requests are counted apart. Further ones are `other`."""
_MAX_BYTES_ON_LOOP = 64 * 1024
_JSON = "application/json"
_ACCEPTED = frozenset({_JSON, "application/x-protobuf"})


class _Waiting(Struct):
    kind: str
    content_type: str
    encoding: str
    body: bytes
    attributes: Mapping[str, str]


class _Sender(Struct):
    """What waits of one person."""

    waiting: deque[_Waiting] = field(default_factory=deque)
    size: int = 0

    @property
    def share(self) -> float:
        """Share of the bound."""
        return max(len(self.waiting) / MAX_QUEUED, self.size / MAX_QUEUED_BYTES)


class TelemetryRelay:
    """The queue of one process, and its task, which starts with the first data."""

    def __init__(self) -> None:
        self.counts = {"forwarded": 0, "dropped": 0}
        """Requests with telemetry since the start."""
        self.dropped: Counter[str] = Counter()
        """Those that were dropped, by person: the owner of the key, or its label."""
        self._senders: dict[str, _Sender] = {}
        """The people whose data waits. The first one is the next."""
        self._queued = self._queued_bytes = 0
        self._sending: asyncio.Task[None] | None = None

    async def accept(self, gateway: Gateway[Settings], request: RouteRequest) -> RouteResponse:
        kind = request.path.rpartition("/")[2]
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        encoding = request.headers.get("content-encoding", "")
        is_readable = content_type in _ACCEPTED and Decompressor(encoding).supports_encoding
        person = request.client.owner or request.client.name
        if len(request.body) > MAX_BYTES or not is_readable or not _find_address(gateway, kind):
            self._drop(person)
        else:
            sender = self._senders.setdefault(person, _Sender())
            attributes = build_attributes(request.client)
            sender.waiting.append(_Waiting(kind, content_type, encoding, request.body, attributes))
            self._count(sender, 1, len(request.body))
            while self._queued > MAX_QUEUED or self._queued_bytes > MAX_QUEUED_BYTES:
                most, largest = max(self._senders.items(), key=lambda item: item[1].share)
                self._count(largest, -1, -len(largest.waiting.pop().body))
                if not largest.waiting:
                    del self._senders[most]
                self._drop(most)
            if self._sending is None or self._sending.done():
                self._sending = asyncio.create_task(self._send_all(gateway))
        return RouteResponse()

    async def stop(self) -> None:
        """What still waits is dropped, so that it does not delay the stop of the server."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait({self._sending})

    def _count(self, sender: _Sender, number: int, size: int) -> None:
        self._queued += number
        self._queued_bytes += size
        sender.size += size

    def _drop(self, person: str) -> None:
        self.counts["dropped"] += 1
        is_counted = person in self.dropped or len(self.dropped) < MAX_COUNTED_PEOPLE
        self.dropped[person if is_counted else "other"] += 1

    async def _send_all(self, gateway: Gateway[Settings]) -> None:
        while self._senders:
            person, sender = next(iter(self._senders.items()))
            del self._senders[person]
            waiting = sender.waiting.popleft()
            self._count(sender, -1, -len(waiting.body))
            if sender.waiting:
                self._senders[person] = sender  # behind the others
            is_sent = False
            try:
                with suppress(ValueError):  # a body that is no telemetry
                    is_large = waiting.encoding or len(waiting.body) > _MAX_BYTES_ON_LOOP
                    named = await asyncio.to_thread(_name_sender, waiting) if is_large else _name_sender(waiting)
                    is_sent = await _send(gateway, waiting, named)
            finally:  # also if the server stops meanwhile
                if is_sent:
                    self.counts["forwarded"] += 1
                else:
                    self._drop(person)


def _find_address(gateway: Gateway[Settings], kind: str) -> str:
    return gateway.settings.collector.urls.get(kind, "")


def _name_sender(waiting: _Waiting) -> bytes:
    body = bytearray()
    try:
        for piece in Decompressor(waiting.encoding).decompress(waiting.body):
            body += piece
            if len(body) > MAX_BYTES:
                raise ValueError("the message is too large")
    except zlib.error:
        raise ValueError("the message cannot be decompressed") from None
    return name_sender(waiting.kind, bytes(body), waiting.attributes, is_json=waiting.content_type == _JSON)


async def _send(gateway: Gateway[Settings], waiting: _Waiting, body: bytes) -> bool:
    """Return False if the collector did not accept the data."""
    secrets = gateway.settings.collector.headers
    headers = {"content-type": waiting.content_type, **{name: value.reveal() for name, value in secrets.items()}}
    try:
        reply = await gateway.send_http(
            "POST", _find_address(gateway, waiting.kind), headers, body, purpose="telemetry"
        )
    except ProxyError as error:
        gateway.log_warning_once(f"Telemetry of clients was dropped: {error.message}")
        return False
    is_accepted = 200 <= reply.status < 300
    if not is_accepted:
        gateway.log_warning_once(f"Telemetry of clients was dropped: the collector answered {reply.status}.")
    return is_accepted
