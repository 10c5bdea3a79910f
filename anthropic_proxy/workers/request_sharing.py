"""Exchange of recent and running client requests between workers, so that a user sees those of all workers.

If a user views requests, for example with the command `logs`, the worker that serves the view sends `RequestsWatch` to
the others through the hub. They then send their requests as `RequestsUpdate` messages for `WATCH_SECONDS`.
`RequestSharing.apply_message` processes both messages.
"""

import asyncio
from collections import deque
from collections.abc import Callable

import msgspec

from anthropic_proxy.log.request_feed import (
    MAX_QUEUED_REQUESTS,
    LoggedRequest,
    RequestFeed,
    RequestSnapshot,
    encode_requests,
)
from anthropic_proxy.workers.ipc import RequestsUpdate, RequestsWatch

WATCH_SECONDS = 5.0
"""Seconds for which the other workers send their requests after one `RequestsWatch` message."""
UPDATE_INTERVAL_SECONDS = 0.25
"""Seconds between two `RequestsUpdate` messages of a worker while a view of requests is open."""
_decode_snapshot = msgspec.json.Decoder(RequestSnapshot).decode


class RequestSharing:
    """Exchange of recent and running client requests between this worker and the others.

    `send` sends a message to the hub, which forwards it.
    """

    def __init__(
        self, feed: RequestFeed, worker: int, worker_count: int, send: Callable[[RequestsWatch | RequestsUpdate], None]
    ) -> None:
        self._feed = feed
        self._worker = worker
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._pending: deque[LoggedRequest] = deque(maxlen=MAX_QUEUED_REQUESTS)
        """Finished requests of this worker since its last message to the others."""
        self._watched_until = 0.0
        """Time on the loop clock until which this worker sends its requests to the others."""
        self._timer: asyncio.TimerHandle | None = None
        """Timer of the next update. None: this worker is not watched."""
        self._sent_running = False
        """True if the last update contained running exchanges."""
        feed.peer_count = worker_count - 1
        feed.watch_peers = lambda needs_recent: send(RequestsWatch(WATCH_SECONDS, needs_recent))

    def apply_message(self, message: RequestsWatch | RequestsUpdate) -> None:
        """Process a message of another worker.

        After a `RequestsWatch`, send the client requests of this worker for a limited time. After a `RequestsUpdate`,
        add the received requests to those that users can view.
        """
        if isinstance(message, RequestsUpdate):
            snapshot = _decode_snapshot(message.requests)
            self._feed.apply_worker_update(message.worker, snapshot, contains_recent=message.contains_recent)
            return
        self._watched_until = max(self._watched_until, self._loop.time() + message.duration_seconds)
        if message.needs_recent:
            self._send_snapshot(self._feed.build_own_snapshot(), complete=True)
        if self._timer is None:
            self._feed.on_finish = self._pending.append
            self._timer = self._loop.call_later(UPDATE_INTERVAL_SECONDS, self._update)

    def close(self) -> None:
        """Stop sending requests to other workers."""
        self._feed.on_finish = None
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
            self._timer, self._feed.on_finish = None, None

    def _send_snapshot(self, snapshot: RequestSnapshot, *, complete: bool) -> None:
        self._send(RequestsUpdate(self._worker, encode_requests(snapshot), complete))
