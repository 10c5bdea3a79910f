"""Hub in the supervisor process, which connects the workers: it sums their statistics and forwards their messages.

Theory of operation. A worker that serves `/metrics` needs the sum over all workers and sends a query. The hub asks the
other workers, and answers as soon as all have reported. A worker may be blocked or end at any time, so at a deadline
the hub uses the latest report of the missing ones. `_latest` therefore keeps the last report of each serving worker,
and `_ended` the sum of the counters of ended ones, so that counters never decrease. The hub never blocks and has no
timers of its own: the supervisor's loop calls `receive_from` for readable channels and `answer_due_queries` at
`next_query_deadline`.

Observed facts, such as an API key in cooldown, are forwarded at once and kept until they expire, for workers that start
later. The limits and values that workers share are here too (`shared_store.py`).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from anthropic_proxy.gateway.stores.memory import MemoryStore
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
from anthropic_proxy.gateway.workers.link import WorkerPeer
from anthropic_proxy.gateway.workers.shared_store import answer_call

WORKER_TIMEOUT_SECONDS = 1.0
"""Seconds for a worker to report its statistics to the hub. Then the hub uses the worker's previous report."""
MAX_OBSERVATIONS = 10_000
"""Maximum number of observations stored for workers that start later. A further one replaces the oldest."""


@dataclass
class _Query:
    sender: IpcChannel
    message: StatsQuery
    number: int
    deadline: float
    """Time, in seconds of the hub's clock, at which the hub answers even if workers are missing."""
    missing: set[IpcChannel]


class Hub:
    """`clock` returns monotonic seconds."""

    def __init__(self, aggregator: WorkerPeer, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._aggregator = aggregator
        self._clock = clock
        self._store = MemoryStore(clock=clock)
        self._channels: list[IpcChannel] = []
        self._latest: dict[IpcChannel, bytes] = {}
        self._ended: list[bytes] = []
        """At most one element: the encoded sum of the counters of all ended workers. Empty: no worker has ended."""
        self._queries: list[_Query] = []
        self._number = 0
        self._observations: dict[tuple[str, str, str], tuple[float, SharedObservation]] = {}
        """Kind, scope and name → expiry time in seconds of the clock, and the observation."""

        self._watch_ends: dict[IpcChannel, float] = {}
        """Channel of a worker with an open view of requests → end of its watch in seconds of the clock."""
        self.reload_requested = False
        """True if a worker has reported that the settings files have changed. The supervisor resets it."""

    @property
    def channels(self) -> Sequence[IpcChannel]:
        return [channel for channel in self._channels if not channel.ended]

    def add_worker(self, channel: IpcChannel) -> None:
        self._channels.append(channel)
        now = self._clock()
        for until, observation in self._observations.values():
            if until > now:
                channel.send(replace(observation, lifetime_seconds=until - now))

    def receive_from(self, channel: IpcChannel) -> None:
        for message in channel.receive():
            match message:
                case StoreCall():
                    channel.send(answer_call(self._store, message))
                case StatsReport():
                    self._latest[channel] = message.stats
                    for query in self._queries:
                        if message.query_number >= query.number:
                            query.missing.discard(channel)
                    self.answer_due_queries()
                case StatsQuery():
                    self._begin_query(channel, message)
                case SharedObservation():
                    self._keep_observation(message)
                    self._forward(channel, message, self.channels)
                case ReloadRequest():
                    self.reload_requested = True
                case RequestsWatch():
                    self._watch_ends[channel] = self._clock() + message.duration_seconds
                    self._forward(channel, message, self.channels)
                case RequestsUpdate():
                    now = self._clock()
                    self._forward(channel, message, [view for view, end in self._watch_ends.items() if end > now])
                case StatsRequest() | StatsTotal() | StoreResult():
                    pass  # only the hub sends these
        if channel.ended:  # the worker process itself may end later
            self._note_end(channel)

    def _begin_query(self, channel: IpcChannel, message: StatsQuery) -> None:
        self._latest[channel] = message.stats
        self._number += 1
        missing = {other for other in self._latest if other is not channel}
        for other in missing:
            other.send(StatsRequest(self._number))
        deadline = self._clock() + WORKER_TIMEOUT_SECONDS
        self._queries.append(_Query(channel, message, self._number, deadline, missing))
        self.answer_due_queries()

    def _keep_observation(self, message: SharedObservation) -> None:
        key = message.kind, message.settings_digest, message.name
        self._observations.pop(key, None)
        if message.lifetime_seconds > 0:
            if len(self._observations) >= MAX_OBSERVATIONS:
                del self._observations[next(iter(self._observations))]
            self._observations[key] = self._clock() + message.lifetime_seconds, message

    def remove_worker(self, channel: IpcChannel) -> None:
        """Remove and close the channel of an ended worker. Its counters stay part of the statistics of all workers."""
        self.receive_from(channel)
        self._channels.remove(channel)
        self._watch_ends.pop(channel, None)
        channel.close()
        self._note_end(channel)

    def next_query_deadline(self) -> float | None:
        """Return the time of the clock at which `answer_due_queries` must be called next. None: no query waits."""
        return min((query.deadline for query in self._queries), default=None)

    def answer_due_queries(self) -> None:
        now = self._clock()
        for query in list(self._queries):
            if not query.missing or now >= query.deadline:
                self._queries.remove(query)
                readings = [self._aggregator.collect_stats(), *self._latest.values()]
                total = self._aggregator.sum_stats(readings, self._ended)
                query.sender.send(StatsTotal(query.message.query_number, total, unresponsive_count=len(query.missing)))

    def _note_end(self, channel: IpcChannel) -> None:
        if (latest := self._latest.pop(channel, None)) is not None:
            self._ended = [self._aggregator.sum_stats((), [*self._ended, latest])]
        self._queries = [query for query in self._queries if query.sender is not channel]
        for query in self._queries:
            query.missing.discard(channel)
        self.answer_due_queries()

    def _forward(
        self,
        sender: IpcChannel,
        message: SharedObservation | RequestsWatch | RequestsUpdate,
        channels: Sequence[IpcChannel],
    ) -> None:
        for channel in channels:
            if channel is not sender:
                channel.send(message)
