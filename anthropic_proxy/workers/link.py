"""Link of a worker to the hub: sends its statistics and observations, receives those of other workers."""

import asyncio
from typing import Protocol

from anthropic_proxy.errors import InternalError
from anthropic_proxy.workers.ipc import IpcChannel, SharedObservation, StatsQuery, StatsReport, StatsRequest, StatsTotal

REPORT_INTERVAL_SECONDS = 1.0
"""Interval of statistics. The last interval of a killed worker is lost."""
PUBLISH_DELAY_SECONDS = 0.1
"""Delay before observations are published. Within it, the last value per name wins."""
QUERY_TIMEOUT_SECONDS = 2.0
"""Time for the hub to answer a query. Longer than the time that the hub waits for other workers."""
CLOSE_TIMEOUT_SECONDS = 1.0
"""Time to send the last messages at the end."""


class LinkMember(Protocol):
    """Source of the statistics of a worker, and receiver of observations."""

    def collect_stats(self, *, refresh_gauges: bool = True) -> bytes:
        """Return the encoded statistics. `refresh_gauges`: read memory and descriptors first."""
        ...

    def exchange_count(self) -> int:
        """Return the number of finished exchanges."""
        ...

    def apply_observation(self, observation: SharedObservation) -> None:
        """Apply an observation of another worker."""
        ...


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

    def open(self, member: LinkMember) -> None:
        """Begin to report statistics and to receive observations."""
        self._member, self._loop = member, asyncio.get_running_loop()
        self._loop.add_reader(self._channel.fileno(), self._receive)
        self._report_stats()

    def publish(self, observation: SharedObservation) -> None:
        """Publish an observation to the other workers, after `PUBLISH_DELAY_SECONDS`."""
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
            self._send(StatsQuery(self._query_number, self._member.collect_stats(refresh_gauges=True)))
            self._loop.call_later(QUERY_TIMEOUT_SECONDS, self._expire_query, self._pending_query)
        return await asyncio.shield(self._pending_query)

    def close(self) -> None:
        """Send the last observations and statistics, then close."""
        self._loop.remove_reader(self._channel.fileno())
        self._loop.remove_writer(self._channel.fileno())
        self._publish_pending()
        self._channel.send(StatsReport(self._member.collect_stats(refresh_gauges=False)))
        self._channel.close(CLOSE_TIMEOUT_SECONDS)

    def _receive(self) -> None:
        for message in self._channel.receive():
            if isinstance(message, StatsRequest):
                self._publish_pending()
                self._send(StatsReport(self._member.collect_stats(refresh_gauges=True), message.number))
            elif isinstance(message, SharedObservation):
                self._member.apply_observation(message)
            elif (
                isinstance(message, StatsTotal)
                and self._pending_query is not None
                and message.number == self._query_number
            ):
                self._pending_query.set_result(message)
                self._pending_query = None
        if self._channel.ended:
            self._loop.remove_reader(self._channel.fileno())

    def _report_stats(self) -> None:
        if (exchange_count := self._member.exchange_count()) != self._reported_count:
            self._reported_count = exchange_count
            self._send(StatsReport(self._member.collect_stats(refresh_gauges=False)))
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
