"""`POST /v1/metrics`, `/v1/logs` and `/v1/traces`: telemetry of Claude Code, for the collectors of the company.

The client gets 200 at once, whatever happens to its data, because it logs an error for any other answer. Data waits in
a bounded queue of each collector, in which each person has a turn. So none waits for a slow one. What exceeds the bound
is taken from the person with the most. It is counted and dropped, as what cannot be sent, without a second try. No
collector gets a credential of the client. The ledger has a queue as a collector has, for metrics (`ActivityWriter`).
Without virtual keys, no collector gets anything: the proxy could not name the sender.
"""

import asyncio
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial

from msgspec import Struct

from anthropic_proxy.console.gateway_protocol.activity_writer import LEDGER_STOP_SECONDS, ActivityWriter
from anthropic_proxy.console.gateway_protocol.telemetry_identity import build_attributes, name_sender
from anthropic_proxy.engine.turns import TurnQueue
from anthropic_proxy.engine.upstream.http.connection import Decompressor
from anthropic_proxy.errors import ProxyError
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Client, Gateway, RouteRequest, RouteResponse

MAX_BYTES = 1024 * 1024
"""Maximum size of one request, also after decompression. A larger one is dropped."""
MAX_QUEUED = 500
MAX_QUEUED_BYTES = 16 * 1024 * 1024
MAX_COUNTED_PEOPLE = 1_000
"""Maximum number of people whose dropped requests are counted apart. Further ones are `other`."""
_MAX_BYTES_ON_LOOP, _MAX_NAMES_ON_LOOP = 16 * 1024, 1024
"""Maximum size of a body, and of the names that each of its objects gets, for work on the event loop."""
STOP_SECONDS = LEDGER_STOP_SECONDS + 2.0
"""Time that the stop of the server waits until metrics are in the ledger."""
_JSON = "application/json"
_ACCEPTED = frozenset({_JSON, "application/x-protobuf"})


class _Waiting(Struct):
    """A request of a client, which all collectors share.

    What it becomes with the sender is made for each of them when its turn comes, and not kept: it can be larger than
    what the client has sent by orders of magnitude.
    """

    client: Client
    kind: str
    content_type: str
    encoding: str
    body: bytes
    attributes: Mapping[str, str]
    received_at: float
    """By the clock of the event loop."""
    person: str
    """Owner of the key, or its label."""
    request_count: int = 0
    """Result of `ActivityWriter.count_requests` when it was received."""

    @property
    def names_size(self) -> int:
        """Number of characters of the attributes."""
        return sum(map(len, self.attributes.values()))


_Send = Callable[[_Waiting, bytes], Awaitable[bool]]
"""Function that gets a request and its body with the sender. Result False: the body was dropped."""


class TelemetryRelay:
    """The queues of one process, one for each collector and one for the ledger."""

    def __init__(self, gateway: Gateway[Settings]) -> None:
        self._gateway = gateway
        self.counts = {"forwarded": 0, "stored": 0, "dropped": 0}
        """Requests with telemetry since the start, once for each collector, and for the ledger."""
        self.dropped: Counter[str] = Counter()
        """Those that were dropped, by person: the owner of the key, or its label."""
        self._collectors: dict[str, _Queue] = {}
        """Name of a collector → what waits for it."""
        self._ledger: _Queue | None = None
        self._activity: ActivityWriter | None = None

    async def accept(self, request: RouteRequest) -> RouteResponse:
        settings = self._gateway.settings
        kind = request.path.rpartition("/")[2]
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        encoding = request.headers.get("content-encoding", "")
        is_readable = content_type in _ACCEPTED and Decompressor(encoding).supports_encoding
        person = request.client.owner or request.client.name
        if len(self.dropped) < MAX_COUNTED_PEOPLE:
            self.dropped.setdefault(person, 0)  # Prometheus finds no increase in a counter that begins with a drop
        collectors = [one.name for one in settings.collectors if kind in one.urls and settings.virtual_keys]
        is_stored = kind == "metrics" and settings.ledger_activity
        if len(request.body) > MAX_BYTES or not is_readable or not (collectors or is_stored):
            self._count_drop(person)
            return RouteResponse()
        client = request.client
        now = asyncio.get_running_loop().time()
        waiting = _Waiting(client, kind, content_type, encoding, request.body, build_attributes(client), now, person)
        for name in collectors:
            if name not in self._collectors:
                send = partial(_send_to_collector, self._gateway, name)
                self._collectors[name] = _Queue(send, partial(self._count, "forwarded"), self._count_drop)
            self._collectors[name].add(waiting)
        if is_stored:
            queue, activity = self._open_ledger()
            waiting.request_count = activity.count_requests()
            queue.add(waiting)
        return RouteResponse()

    async def stop(self) -> None:
        """What still waits for a collector is dropped, so that it does not delay the stop of the server."""
        if self._activity is not None and self._ledger is not None:
            self._activity.hurry()
            await self._ledger.stop(STOP_SECONDS)
            self._activity.close()
        for queue in self._collectors.values():
            await queue.stop()

    def _open_ledger(self) -> tuple["_Queue", ActivityWriter]:
        if self._ledger is None or self._activity is None:
            activity = self._activity = ActivityWriter(self._gateway)

            async def store(waiting: _Waiting, body: bytes) -> bool:
                is_json = waiting.content_type == _JSON
                return await activity.store(
                    waiting.client, body, waiting.received_at, waiting.request_count, is_json=is_json
                )

            self._ledger = _Queue(store, partial(self._count, "stored"), self._count_drop)
        return self._ledger, self._activity

    def _count(self, result: str) -> None:
        self.counts[result] += 1

    def _count_drop(self, person: str) -> None:
        self.counts["dropped"] += 1
        is_counted = person in self.dropped or len(self.dropped) < MAX_COUNTED_PEOPLE
        self.dropped[person if is_counted else "other"] += 1


class _Queue:
    """What waits for one collector or the ledger, and its task, which starts with the first data."""

    def __init__(self, send: _Send, count_sent: Callable[[], None], count_drop: Callable[[str], None]) -> None:
        self._send = send
        self._count_sent = count_sent
        self._count_drop = count_drop
        self._waiting: TurnQueue[_Waiting] = TurnQueue(MAX_QUEUED, MAX_QUEUED_BYTES)
        self._sending: asyncio.Task[None] | None = None

    def add(self, waiting: _Waiting) -> None:
        for dropped in self._waiting.add(waiting.client.payer, waiting, len(waiting.body) + waiting.names_size):
            self._count_drop(dropped.person)
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send_all())

    async def stop(self, seconds: float = 0.0) -> None:
        """What is not sent within `seconds` is dropped."""
        if self._sending is not None:
            await asyncio.wait({self._sending}, timeout=seconds)
            self._sending.cancel()
            await asyncio.wait({self._sending})

    async def _send_all(self) -> None:
        while self._waiting:
            waiting = self._waiting.pop()
            is_sent = False
            try:
                with suppress(ValueError):  # a body that is no telemetry
                    is_small = (
                        not waiting.encoding
                        and len(waiting.body) <= _MAX_BYTES_ON_LOOP
                        and waiting.names_size <= _MAX_NAMES_ON_LOOP
                    )
                    named = _name_sender(waiting) if is_small else await asyncio.to_thread(_name_sender, waiting)
                    is_sent = await self._send(waiting, named)
            finally:  # also if the server stops meanwhile
                if is_sent:
                    self._count_sent()
                else:
                    self._count_drop(waiting.person)


async def _send_to_collector(gateway: Gateway[Settings], name: str, waiting: _Waiting, body: bytes) -> bool:
    """Return False if the collector did not accept the data, or is not in the settings any more."""
    collector = next((one for one in gateway.settings.collectors if one.name == name), None)
    if collector is None or waiting.kind not in collector.urls:
        return False
    headers = {header: value.reveal() for header, value in collector.headers.items()}
    headers["content-type"] = waiting.content_type
    named = f" [collectors.{name}]" if name else ""
    try:
        reply = await gateway.send_http("POST", collector.urls[waiting.kind], headers, body, purpose="telemetry")
    except ProxyError as error:
        gateway.log_warning_once(f"Telemetry of clients was dropped: {error.message}")
        return False
    is_accepted = 200 <= reply.status < 300
    if not is_accepted:
        gateway.log_warning_once(f"Telemetry of clients was dropped: the collector{named} answered {reply.status}.")
    return is_accepted


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
