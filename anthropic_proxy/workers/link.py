"""Statistics and observations of a process, and the link of a worker to the hub, which has those of other workers."""

import asyncio
import time
from collections.abc import Callable, Sequence

from anthropic_proxy.errors import InternalError
from anthropic_proxy.log.in_progress import InProgress
from anthropic_proxy.metrics import Gauges, MetricsSnapshot, Totals, decode_snapshot, encode_snapshot, sum_snapshots
from anthropic_proxy.platforms.process_stats import read_process_stats
from anthropic_proxy.workers.ipc import IpcChannel, SharedObservation, StatsQuery, StatsReport, StatsRequest, StatsTotal

REPORT_INTERVAL_SECONDS = 1.0
"""Interval of statistics reports to the hub. The last interval of a killed worker is lost."""
PUBLISH_DELAY_SECONDS = 0.1
"""Delay before observations are sent to the hub. Within it, the last value per name wins."""
HUB_TIMEOUT_SECONDS = 2.0
"""Time for the hub to answer a query. Longer than the time that the hub waits for other workers."""
CLOSE_TIMEOUT_SECONDS = 1.0
"""Time to send the last messages when the process ends."""


class WorkerPeer:
    """Statistics of this process, and its exchange of statistics and observations with the other workers.

    `contains_secret`: True if a word contains a secret. `collect_gauges`: sets the gauges of the application.
    `apply_observation`: applies an observation of another process. `link`: None: there are no other workers.
    """

    def __init__(
        self,
        contains_secret: Callable[[str], bool],
        collect_gauges: Callable[[Gauges], None],
        apply_observation: Callable[[SharedObservation], None],
        link: "WorkerLink | None" = None,
    ) -> None:
        self.totals = Totals(contains_secret)
        self.in_progress = InProgress()
        self.apply_observation = apply_observation
        self._collect_gauges = collect_gauges
        self._started = time.time()
        self._link = link
        if link is not None:
            self.in_progress.share(link.board)

    def open(self) -> None:
        """Begin to exchange statistics and observations with the other workers, if any."""
        if self._link is not None:
            self._link.open(self)

    def close(self) -> None:
        """Send the last observations and statistics to the hub, if there are other workers."""
        if self._link is not None:
            self._link.close()

    @property
    def worker_index(self) -> tuple[int, int]:
        """Index of this worker, from 0, and number of workers."""
        return (self._link.worker_index, self._link.worker_count) if self._link is not None else (0, 1)

    @property
    def publish(self) -> Callable[[SharedObservation], None] | None:
        """Function that sends an observation to the other workers. None: there are no other workers."""
        return self._link.publish if self._link is not None else None

    def collect_stats(self, *, refresh_gauges: bool = True) -> bytes:
        """Return the encoded statistics of this process.

        `refresh_gauges`: read memory and descriptors first; the cost grows with the open descriptors.
        """
        snapshot = self.totals.snapshot
        snapshot.cpu_seconds = time.process_time()
        if refresh_gauges or snapshot.now is None:
            resident_bytes, open_fds, max_fds = read_process_stats()
            snapshot.now = Gauges(self._started, resident_bytes=resident_bytes, open_fds=open_fds, max_fds=max_fds)
            self._collect_gauges(snapshot.now)
        return encode_snapshot(snapshot)

    def exchange_count(self) -> int:
        """Return the number of finished exchanges."""
        return sum(row.requests for row in self.totals.snapshot.rows.values())

    def sum_stats(self, running: Sequence[bytes], ended: Sequence[bytes]) -> bytes:
        """Return the sum of encoded statistics. Of `ended` workers only the counters are added, not the gauges."""
        return encode_snapshot(sum_snapshots(running, ended))

    async def query_totals(self) -> tuple[MetricsSnapshot, int]:
        """Return the sum over all workers, and the number of workers that did not respond.

        Raises `InternalError` if the hub does not answer.
        """
        if self._link is None:
            encoded, unresponsive_count = self.collect_stats(), 0
        else:
            total = await self._link.query_totals()
            encoded, unresponsive_count = total.stats, total.unresponsive_count
        snapshot = decode_snapshot(encoded)
        if snapshot.now is not None:
            snapshot.now.in_flight -= 1  # without the request for the metrics
        return snapshot, unresponsive_count


class WorkerLink:
    """Link of worker `worker_index` (from 0) of `worker_count` to the hub. A replacement process keeps the index.

    `board`: memory shared with the supervisor, for heartbeats and requests in progress.
    """

    def __init__(self, channel: IpcChannel, board: memoryview, worker_index: int, worker_count: int) -> None:
        self.board = board
        self.worker_index, self.worker_count = worker_index, worker_count
        self._channel = channel
        self._observations: dict[tuple[str, str, str], SharedObservation] = {}
        """Observations that are not yet published."""
        self._query_number = 0
        self._pending_query: asyncio.Future[StatsTotal] | None = None
        self._reported_count = -1
        self._waits_writable = False
        """True if the event loop waits until the socket is writable."""

    def open(self, peer: WorkerPeer) -> None:
        """Begin to report the statistics of `peer` and to pass it the observations of other workers."""
        self._peer, self._loop = peer, asyncio.get_running_loop()
        self._loop.add_reader(self._channel.fileno(), self._receive)
        self._report_stats()

    def publish(self, observation: SharedObservation) -> None:
        """Send an observation to the other workers, after `PUBLISH_DELAY_SECONDS`."""
        if not self._observations:
            self._loop.call_later(PUBLISH_DELAY_SECONDS, self._publish_pending)
        self._observations[observation.kind, observation.scope, observation.name] = observation

    async def query_totals(self) -> StatsTotal:
        """Return the statistics of all workers. Raises `InternalError` if the hub does not answer.

        Observations that a worker made before the query reach all workers before the answer.
        """
        if self._pending_query is None:
            self._publish_pending()
            self._query_number += 1
            self._pending_query = self._loop.create_future()
            self._send(StatsQuery(self._query_number, self._peer.collect_stats()))
            self._loop.call_later(HUB_TIMEOUT_SECONDS, self._expire_query, self._pending_query)
        return await asyncio.shield(self._pending_query)

    def close(self) -> None:
        """Send the last observations and statistics, then close the channel to the hub."""
        self._loop.remove_reader(self._channel.fileno())
        self._loop.remove_writer(self._channel.fileno())
        self._publish_pending()
        self._channel.send(StatsReport(self._peer.collect_stats(refresh_gauges=False)))
        self._channel.close(CLOSE_TIMEOUT_SECONDS)

    def _receive(self) -> None:
        for message in self._channel.receive():
            if isinstance(message, StatsRequest):
                self._publish_pending()
                self._send(StatsReport(self._peer.collect_stats(), message.query_number))
            elif isinstance(message, SharedObservation):
                self._peer.apply_observation(message)
            elif isinstance(message, StatsTotal) and message.query_number == self._query_number and self._pending_query:
                self._pending_query.set_result(message)
                self._pending_query = None
        if self._channel.ended:
            self._loop.remove_reader(self._channel.fileno())

    def _report_stats(self) -> None:
        if (exchange_count := self._peer.exchange_count()) != self._reported_count:
            self._reported_count = exchange_count
            self._send(StatsReport(self._peer.collect_stats(refresh_gauges=False)))
        self._report_timer = self._loop.call_later(REPORT_INTERVAL_SECONDS, self._report_stats)

    def _publish_pending(self) -> None:
        observations, self._observations = self._observations, {}
        for observation in observations.values():
            self._send(observation)

    def _expire_query(self, query: "asyncio.Future[StatsTotal]") -> None:
        if not query.done():
            query.set_exception(InternalError("The supervisor did not return the counters of the workers in time."))
            self._pending_query = None

    def _send(self, message: StatsReport | StatsQuery | SharedObservation) -> None:
        self._channel.send(message)
        if self._channel.has_unsent and not self._waits_writable:
            self._waits_writable = True
            self._loop.add_writer(self._channel.fileno(), self._flush)

    def _flush(self) -> None:
        self._channel.flush()
        if not self._channel.has_unsent:
            self._waits_writable = False
            self._loop.remove_writer(self._channel.fileno())
