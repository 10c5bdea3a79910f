"""Statistics of one server process, and its exchange of messages with the other processes of the server.

Theory of operation. `WorkerPeer` is what the application sees, whether or not there are other processes. Under a
supervisor it has a `WorkerLink`, the connection to the hub, and with Redis an `InstanceSharing` too. The link sends
changed statistics once a second, so that a killed worker loses little, and answers requests of the hub for fresh ones.
Facts about models, keys and provider addresses (observations) wait a moment, because only the latest fact about an
object matters. Client requests are sent only while a user of another worker watches them (`RequestSharing`): each
`RequestsWatch` extends the time, so that nothing has to be ended if the watching worker dies.
"""

import asyncio
import hashlib
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from anthropic_proxy.errors import InternalError, UpstreamError
from anthropic_proxy.gateway.platforms.processes import read_process_stats
from anthropic_proxy.gateway.platforms.sockets import SocketEvents
from anthropic_proxy.gateway.services import Services
from anthropic_proxy.gateway.stores.memory import MemoryStore
from anthropic_proxy.gateway.telemetry.live_requests import MAX_KEPT_EVENTS
from anthropic_proxy.gateway.telemetry.logged_requests import LoggedRequest, RequestSnapshot, encode_requests
from anthropic_proxy.gateway.telemetry.metrics import (
    CPU_SECONDS,
    MAX_FDS,
    OPEN_FDS,
    REQUESTS_IN_FLIGHT,
    RESIDENT_MEMORY,
    START_TIME,
    MetricsSnapshot,
    MetricsTotals,
    decode_snapshot,
    encode_snapshot,
    sum_snapshots,
)
from anthropic_proxy.gateway.telemetry.requests import RequestFeed, RunningRequests
from anthropic_proxy.gateway.workers.ipc import (
    IpcChannel,
    ReloadRequest,
    RequestsUpdate,
    RequestsWatch,
    SharedObservation,
    StatsQuery,
    StatsReport,
    StatsRequest,
    StatsTotal,
    StoreCall,
    StoreResult,
)
from anthropic_proxy.gateway.workers.shared_store import SharedStore
from anthropic_proxy.plugins import Cost, Receipt, Store

if TYPE_CHECKING:
    from anthropic_proxy.gateway.workers.instance_sharing import InstanceSharing

REPORT_INTERVAL_SECONDS = 1.0
"""A killed worker loses its unreported statistics."""
PUBLISH_DELAY_SECONDS = 0.1
"""Delay before a worker sends facts (observations) to the hub. Only the last one about the same object is sent."""
HUB_TIMEOUT_SECONDS = 5.0
"""Maximum seconds of a worker's wait for statistics from the hub. The hub itself waits up to 1 s for other workers."""
CLOSE_TIMEOUT_SECONDS = 1.0


def new_server_id() -> str:
    return secrets.token_hex(8)


class WorkerPeer:
    """What the application sees of the other processes of the server.

    `link` is the connection to the hub. None: this process is the supervisor, or the only process.
    """

    def __init__(
        self,
        contains_secret: Callable[[str], bool],
        collect_gauges: Callable[[MetricsSnapshot], None],
        apply_observation: Callable[[SharedObservation], None],
        link: "WorkerLink | None" = None,
        reveal_secrets: Callable[[], Sequence[str]] = tuple,
        *,
        calculate_cost: Callable[[Receipt], Cost] | None = None,
    ) -> None:
        """`calculate_cost`: see `RequestFeed`."""
        self.totals = MetricsTotals(contains_secret)
        self.running = RunningRequests()
        self.requests = RequestFeed(self.running, reveal_secrets, calculate_cost)
        self.apply_observation = apply_observation
        self._collect_gauges = collect_gauges
        self._started = time.time()
        self._link = link
        self.server_id = new_server_id() if link is None else link.server_id
        """Random id that all workers of the server have."""
        self.store: Store = MemoryStore() if link is None else SharedStore(link.call_store)
        """Limits and values of all workers of this server, without Redis."""
        self._instances: InstanceSharing | None = None
        if link is not None:
            self.running.share(link.board)

    def open(self) -> None:
        """Connect with the hub. Observations of other workers need the services of this one."""
        if self._link is not None:
            self._link.open(self)

    def start_reports(self) -> None:
        """Send the statistics of this process to the hub from now on.

        Called when the process serves requests. Statistics of a process that still starts would be late.
        """
        if self._link is not None:
            self._link.report_stats()

    def close(self) -> None:
        if self._link is not None:
            self._link.close()

    def end_live_request_streams(self) -> None:
        self.requests.live.end()

    @property
    def worker_index_and_count(self) -> tuple[int, int]:
        """Index from 0. `(0, 1)`: no other workers."""
        return (self._link.worker_index, self._link.worker_count) if self._link is not None else (0, 1)

    def find_publisher(self, store: Store) -> Callable[[SharedObservation], None] | None:
        """Return the function that sends an observed fact to all other processes. None: there are none."""
        if store.state.kind == "redis" and self._instances is None:
            from anthropic_proxy.gateway.workers.instance_sharing import share_observations  # noqa: PLC0415  # loads redis-py

            self._instances = share_observations(store, self.apply_observation)
        senders = [peer.publish for peer in (self._link, self._instances) if peer is not None]
        if not senders:
            return None

        def publish(observation: SharedObservation) -> None:
            for send in senders:
                send(observation)

        return publish

    def start_instance_sharing(self) -> None:
        if self._instances is not None:
            self._instances.start()

    async def stop_instance_sharing(self) -> None:
        if self._instances is not None:
            await self._instances.close()

    def request_reload(self) -> bool:
        """Return False if there is no supervisor."""
        if self._link is None:
            return False
        self._link.request_reload()
        return True

    def collect_stats(self, *, refresh_gauges: bool = True) -> bytes:
        """Encoded by `metrics.encode_snapshot`. `refresh_gauges`: measure memory and open descriptors now."""
        snapshot = self.totals.snapshot
        snapshot.replace(CPU_SECONDS, time.process_time())
        if refresh_gauges or START_TIME.name not in snapshot.values:
            snapshot.remove_gauges()
            snapshot.replace(START_TIME, self._started)
            for family, number in zip((RESIDENT_MEMORY, OPEN_FDS, MAX_FDS), read_process_stats(), strict=True):
                snapshot.replace(family, number)
            self._collect_gauges(snapshot)
        return encode_snapshot(snapshot)

    def finished_exchange_count(self) -> int:
        return sum(row.requests for row in self.totals.snapshot.counters.values())

    def sum_stats(self, running_stats: Sequence[bytes], ended_stats: Sequence[bytes]) -> bytes:
        """Of ended processes, only the counters are added, not the gauges."""
        return encode_snapshot(sum_snapshots(running_stats, ended_stats))

    async def query_totals(self) -> tuple[MetricsSnapshot, int]:
        """Return also the number of workers that did not report. Raises `InternalError` if the hub does not answer."""
        if self._link is None:
            encoded, unresponsive_count = self.collect_stats(), 0
        else:
            total = await self._link.query_totals()
            encoded, unresponsive_count = total.stats, total.unresponsive_count
        snapshot = decode_snapshot(encoded)
        if REQUESTS_IN_FLIGHT.name in snapshot.values:
            snapshot.add(REQUESTS_IN_FLIGHT, -1)  # the request for the metrics page itself
        return snapshot, unresponsive_count


class WorkerLink:
    """`server_id`: random id of the server, which all its workers have."""

    def __init__(
        self, channel: IpcChannel, board: memoryview, worker_index: int, worker_count: int, server_id: str = ""
    ) -> None:
        self.board = board
        self.server_id = server_id
        self.worker_index, self.worker_count = worker_index, worker_count
        """A process that replaces a worker has its index."""
        self._channel = channel
        self._observations: dict[tuple[str, str, str], SharedObservation] = {}
        """Kind, scope and name → observation that is not yet sent to the hub."""
        self._query_number = 0
        self._pending_query: asyncio.Future[StatsTotal] | None = None
        self._store_calls: dict[int, asyncio.Future[bytes]] = {}
        """Number of a call of the store in the hub → its result."""
        self._store_call_number = 0
        self._reported_count = -1
        self._waits_writable = False

    def open(self, peer: WorkerPeer) -> None:
        self._peer, self._loop = peer, asyncio.get_running_loop()
        self._socket_events = SocketEvents(self._loop)
        self._sharing = RequestSharing(peer.requests, self.worker_index, self.worker_count, self._send)
        self._socket_events.on_readable(self._channel.socket, self._receive)

    def publish(self, observation: SharedObservation) -> None:
        if not self._observations:
            self._loop.call_later(PUBLISH_DELAY_SECONDS, self._publish_pending)
        self._observations[observation.kind, observation.settings_digest, observation.name] = observation

    def request_reload(self) -> None:
        self._channel.send(ReloadRequest())

    async def query_totals(self) -> StatsTotal:
        """Concurrent callers share one query. Raises `InternalError` after `HUB_TIMEOUT_SECONDS`."""
        if self._pending_query is None:
            self._publish_pending()
            self._query_number += 1
            self._pending_query = self._loop.create_future()
            self._send(StatsQuery(self._query_number, self._peer.collect_stats()))
        query = self._pending_query
        try:
            async with asyncio.timeout(HUB_TIMEOUT_SECONDS):
                return await asyncio.shield(query)
        except TimeoutError:
            if self._pending_query is query:
                self._pending_query = None
            raise InternalError("The supervisor did not return the counters of the workers in time.") from None

    async def call_store(self, method: str, arguments: bytes) -> bytes:
        """Return the result of a call of the store in the supervisor.

        Raises `InternalError` after `HUB_TIMEOUT_SECONDS`.
        """
        self._store_call_number += 1
        number = self._store_call_number
        result: asyncio.Future[bytes] = self._loop.create_future()
        self._store_calls[number] = result
        self._send(StoreCall(number, method, arguments))
        try:
            async with asyncio.timeout(HUB_TIMEOUT_SECONDS):
                return await result
        except TimeoutError:
            raise InternalError("The supervisor did not answer in time, so that limits were not checked.") from None
        finally:
            del self._store_calls[number]

    def close(self) -> None:
        self._socket_events.ignore_readable(self._channel.socket)
        self._socket_events.ignore_writable(self._channel.socket)
        self._sharing.close()
        self._publish_pending()
        self._channel.send(StatsReport(self._peer.collect_stats(refresh_gauges=False)))
        self._channel.close(CLOSE_TIMEOUT_SECONDS)

    def _receive(self) -> None:
        for message in self._channel.receive():
            match message:
                case StoreResult():
                    if (result := self._store_calls.get(message.number)) is not None and not result.done():
                        result.set_result(message.result)
                case StatsRequest():
                    self._publish_pending()
                    self._send(StatsReport(self._peer.collect_stats(), message.query_number))
                case SharedObservation():
                    self._peer.apply_observation(message)
                case RequestsWatch() | RequestsUpdate():
                    self._sharing.apply_message(message)
                case StatsTotal():
                    if message.query_number == self._query_number and self._pending_query:
                        self._pending_query.set_result(message)
                        self._pending_query = None
                case StatsReport() | StatsQuery() | ReloadRequest() | StoreCall():
                    pass  # only workers send these
        if self._channel.ended:
            self._socket_events.ignore_readable(self._channel.socket)

    def report_stats(self) -> None:
        """Report now, and then once a second what has changed."""
        if (finished_exchange_count := self._peer.finished_exchange_count()) != self._reported_count:
            self._reported_count = finished_exchange_count
            self._send(StatsReport(self._peer.collect_stats(refresh_gauges=False)))
        self._loop.call_later(REPORT_INTERVAL_SECONDS, self.report_stats)

    def _publish_pending(self) -> None:
        observations, self._observations = self._observations, {}
        for observation in observations.values():
            self._send(observation)

    def _send(
        self, message: StatsReport | StatsQuery | SharedObservation | RequestsWatch | RequestsUpdate | StoreCall
    ) -> None:
        self._channel.send(message)
        if self._channel.has_unsent and not self._waits_writable:
            self._waits_writable = True
            self._socket_events.on_writable(self._channel.socket, self._flush)

    def _flush(self) -> None:
        self._channel.flush()
        if not self._channel.has_unsent:
            self._waits_writable = False
            self._socket_events.ignore_writable(self._channel.socket)


WATCH_SECONDS = 5.0
"""Seconds for which the other workers send their requests after one `RequestsWatch` message."""
UPDATE_INTERVAL_SECONDS = 0.25
_decode_snapshot = msgspec.json.Decoder(RequestSnapshot).decode


class RequestSharing:
    def __init__(
        self, feed: RequestFeed, worker: int, worker_count: int, send: Callable[[RequestsWatch | RequestsUpdate], None]
    ) -> None:
        self._feed = feed
        self._worker = worker
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._pending: deque[LoggedRequest] = deque(maxlen=MAX_KEPT_EVENTS)
        self._watched_until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        """Timer of the next update. None: this worker is not watched."""
        self._sent_running = False
        feed.connect_workers(worker_count - 1, self._watch_workers)

    def _watch_workers(self, needs_recent: bool) -> None:
        self._send(RequestsWatch(WATCH_SECONDS, needs_recent))

    def apply_message(self, message: RequestsWatch | RequestsUpdate) -> None:
        if isinstance(message, RequestsUpdate):
            snapshot = _decode_snapshot(message.requests)
            self._feed.apply_worker_update(message.worker, snapshot, contains_recent=message.contains_recent)
            return
        self._watched_until = max(self._watched_until, self._loop.time() + message.duration_seconds)
        if message.needs_recent:
            self._send_snapshot(self._feed.build_own_snapshot(), complete=True)
        if self._timer is None:
            self._feed.send_finished_to(self._pending.append)
            self._timer = self._loop.call_later(UPDATE_INTERVAL_SECONDS, self._update)

    def close(self) -> None:
        self._feed.send_finished_to(None)
        if self._timer is not None:
            self._timer.cancel()

    def _update(self) -> None:
        """Send the changed requests since the last update. Each call schedules the next, until no view is open."""
        finished, running = list(self._pending), self._feed.list_own_running()
        self._pending.clear()
        if finished or running or self._sent_running:
            self._sent_running = bool(running)
            self._send_snapshot(self._feed.redact(RequestSnapshot(finished, running)), complete=False)
        if self._loop.time() < self._watched_until:
            self._timer = self._loop.call_later(UPDATE_INTERVAL_SECONDS, self._update)
        else:
            self._timer = None
            self._feed.send_finished_to(None)

    def _send_snapshot(self, snapshot: RequestSnapshot, *, complete: bool) -> None:
        self._send(RequestsUpdate(self._worker, encode_requests(snapshot), complete))


MODEL_OBSERVATION, KEY_COOLDOWN, CIRCUIT_STATE = "model", "key", "upstream"
"""Values of `SharedObservation.kind`."""


def register_publisher(services: Services, publish: Callable[[SharedObservation], None]) -> None:
    """The messages contain digests of API keys, not the keys."""
    services.observations.store.publish_to(
        lambda key, value, seconds: publish(SharedObservation(MODEL_OBSERVATION, "", key, value, seconds))
    )
    services.credentials.publish_to(
        lambda key, seconds, client: publish(SharedObservation(KEY_COOLDOWN, "", _digest(key), client, seconds))
    )
    services.circuit_breakers.publish_to(
        lambda upstream, failure, seconds: publish(
            SharedObservation(CIRCUIT_STATE, _digest_upstream(services, upstream), upstream, failure, seconds)
        )
    )


def apply_observation(services: Services, observation: SharedObservation) -> None:
    """Apply a fact that another worker has observed. It is ignored if it was observed with other provider settings."""
    if observation.kind == MODEL_OBSERVATION:
        services.observations.store.write_from_peer(observation.name, observation.value, observation.lifetime_seconds)
    elif observation.kind == KEY_COOLDOWN:
        for key in (key.reveal() for keys in services.settings.keys.values() for key in keys):
            if _digest(key) == observation.name:
                services.credentials.start_cooldown(key, observation.lifetime_seconds, observation.value)
    elif observation.kind == CIRCUIT_STATE:
        if observation.settings_digest != _digest_upstream(services, observation.name):
            return
        if observation.lifetime_seconds <= 0:
            services.circuit_breakers.close_circuit_from_peer(observation.name)
        else:
            # workers do not share the provider's own message, because it may contain an API key
            provider, (status, kind) = observation.name.partition(" ")[0], observation.value.split(" ", 1)
            failure = UpstreamError(
                f"{provider} failed with status {status}.",
                provider=provider,
                status=int(status),
                kind=kind,
                code="worker-failure",
            )
            services.circuit_breakers.open_circuit_from_peer(observation.name, failure, observation.lifetime_seconds)


def _digest_upstream(services: Services, upstream: str) -> str:
    """Return a digest of the settings and API keys of a provider: another key may repair the failure."""
    provider = upstream.partition(" ")[0]
    keys = [key.reveal() for key in services.settings.keys.get(provider, ())]
    return _digest(repr((services.observations.settings_digests.get(provider), keys)))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
