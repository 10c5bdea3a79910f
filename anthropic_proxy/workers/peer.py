"""Statistics and observations of this process and, through the hub, of the other workers."""

import time
from collections.abc import Callable, Sequence

from anthropic_proxy.log.in_progress import InProgress
from anthropic_proxy.metrics import Gauges, MetricsSnapshot, Totals, decode_reading, encode_reading, sum_snapshots
from anthropic_proxy.platforms.process_stats import cpu_seconds, read_process_stats
from anthropic_proxy.workers.ipc import SharedObservation
from anthropic_proxy.workers.link import WorkerLink


class WorkerPeer:
    """Statistics of this process, and its link to the other workers.

    `contains_secret`: True if a word contains a secret. `collect_gauges`: sets the gauges of the application.
    `apply_observation`: applies an observation of another process. `link`: None: there are no other workers.
    """

    def __init__(
        self,
        contains_secret: Callable[[str], bool],
        collect_gauges: Callable[[Gauges], None],
        apply_observation: Callable[[SharedObservation], None],
        link: WorkerLink | None = None,
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
        """Send the last observations and statistics."""
        if self._link is not None:
            self._link.close()

    @property
    def worker_index(self) -> tuple[int, int]:
        """Index of this worker, from 0, and number of workers."""
        return (self._link.worker_index, self._link.worker_count) if self._link is not None else (0, 1)

    @property
    def publish(self) -> Callable[[SharedObservation], None] | None:
        """Function that publishes an observation. None: there are no other workers."""
        return self._link.publish if self._link is not None else None

    def collect_stats(self, *, refresh_gauges: bool = True) -> bytes:
        """Return the encoded statistics of this process.

        `refresh_gauges`: read memory and descriptors first; the cost grows with the open descriptors.
        """
        reading = self.totals.reading
        reading.cpu_seconds = cpu_seconds()
        if refresh_gauges or reading.now is None:
            resident_bytes, open_fds, max_fds = read_process_stats()
            reading.now = Gauges(self._started, resident_bytes=resident_bytes, open_fds=open_fds, max_fds=max_fds)
            self._collect_gauges(reading.now)
        return encode_reading(reading)

    def exchange_count(self) -> int:
        """Return the number of finished exchanges."""
        return sum(row.requests for row in self.totals.reading.rows.values())

    def sum_stats(self, readings: Sequence[bytes], ended: Sequence[bytes]) -> bytes:
        """Return the sum of statistics. `ended`: statistics of ended workers, of which only the counters are added."""
        return encode_reading(sum_snapshots(readings, ended))

    async def query_totals(self) -> tuple[MetricsSnapshot, int]:
        """Return the sum over all workers, and the number of workers that did not respond."""
        unresponsive_count, encoded = 0, b""
        if self._link is None:
            encoded = self.collect_stats()
        else:
            answer = await self._link.query_totals()
            unresponsive_count, encoded = answer.unresponsive_count, answer.reading
        reading = decode_reading(encoded)
        if reading.now is not None:
            reading.now.in_flight -= 1  # without the request for the metrics
        return reading, unresponsive_count
