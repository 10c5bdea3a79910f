"""Metrics of all server processes for Prometheus.

The metrics are counters and durations of requests, and gauges of the current state. `MetricsPage` serves them at
`/metrics`.
"""

import asyncio
import platform
from collections.abc import Awaitable, Callable, Iterator
from typing import Literal

from msgspec import Struct
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from anthropic_proxy import __version__
from anthropic_proxy.metrics.totals import (
    BUCKET_LIMITS_SECONDS,
    ExchangeCounters,
    Gauges,
    MetricsSnapshot,
    MetricsTotals,
    decode_snapshot,
    encode_snapshot,
    sum_snapshots,
)
from anthropic_proxy.plugins import RouteRequest, RouteResponse

__all__ = [
    "Gauges",
    "MetricsPage",
    "MetricsSnapshot",
    "MetricsTotals",
    "decode_snapshot",
    "encode_snapshot",
    "sum_snapshots",
]


MetricKind = Literal["counter", "gauge", "histogram"]
"""Type of a metric, as Prometheus defines it."""
Labels = tuple[str, ...]
"""Label names of a metric, or label values of one sample in the same order."""
Samples = dict[Labels, float]
"""Values of one counter or gauge, by the values of its labels."""


class MetricFamily(Struct, frozen=True):
    """Definition of one Prometheus metric: its name, type, labels and description. Units are seconds and bytes."""

    name: str
    """Name of the metric on the page `/metrics`."""
    kind: MetricKind
    """Type of the metric: counter, gauge or histogram."""
    label_names: Labels
    """Names of the labels, in the order of the label values in samples."""
    help: str
    """Description of the metric, for the line `# HELP` of the page."""


REQUESTS = MetricFamily(
    "anthropic_proxy_requests_total",
    "counter",
    ("provider", "model", "stream", "status", "outcome"),
    "Requests for a reply by outcome: a stop reason (succeeded), error (failed), cancelled. Status 0: before a reply.",
)
TOKENS = MetricFamily(
    "anthropic_proxy_tokens_total",
    "counter",
    ("provider", "model", "kind"),
    "Tokens as Anthropic counts them: input excludes cached tokens, output includes thinking.",
)
REQUEST_SECONDS = MetricFamily(
    "anthropic_proxy_request_duration_seconds",
    "histogram",
    ("provider", "model", "stream"),
    "Time from the request to the last byte of its reply, for every outcome.",
)
FIRST_TOKEN_SECONDS = MetricFamily(
    "anthropic_proxy_time_to_first_token_seconds",
    "histogram",
    ("provider", "model", "stream"),
    "Time from the request to the first delta of its reply.",
)
FAILED_ATTEMPTS = MetricFamily(
    "anthropic_proxy_failed_attempts_total",
    "counter",
    ("provider", "status"),
    "Failed calls that another provider followed. Status circuit_open: the provider was not called.",
)
FIDELITY_NOTES = MetricFamily(
    "anthropic_proxy_fidelity_notes_total",
    "counter",
    ("provider", "model", "handling"),
    "Request fields that were approximated, emulated or dropped.",
)
REJECTED_REQUESTS = MetricFamily(
    "anthropic_proxy_rejected_requests_total",
    "counter",
    ("status",),
    "Requests that got an error without an exchange: unauthorized, malformed, too large, or an unknown path.",
)
DROPPED_RECEIPTS = MetricFamily(
    "anthropic_proxy_receipts_dropped_total",
    "counter",
    ("observer",),
    "Receipts dropped because the queue of an observer was full.",
)
LEDGER_ROWS = MetricFamily(
    "anthropic_proxy_ledger_rows_total",
    "counter",
    ("result",),
    "Requests that the ledger has written, and those that it has dropped.",
)
LEDGER_UP = MetricFamily(
    "anthropic_proxy_ledger_up", "gauge", (), "1: the ledger stores requests; 0: the last transaction failed."
)
LEDGER_QUEUED_ROWS = MetricFamily(
    "anthropic_proxy_ledger_queued_rows", "gauge", (), "Requests that the ledger has not yet written."
)
REDIS_UP = MetricFamily(
    "anthropic_proxy_redis_up", "gauge", (), "1: all processes use Redis; 0: at least one works without it."
)
REDIS_PENDING_SETTLEMENTS = MetricFamily(
    "anthropic_proxy_redis_pending_settlements", "gauge", (), "Settled amounts of limits that are not yet in Redis."
)
BUDGET_USED_RATIO = MetricFamily(
    "anthropic_proxy_budget_used_ratio",
    "gauge",
    ("scope", "name", "unit", "period"),
    "Used share of a budget of a virtual key or team, from 0.8 on, until a day after its last request.",
)
REQUESTS_IN_FLIGHT = MetricFamily("anthropic_proxy_requests_in_flight", "gauge", (), "HTTP requests in progress.")
OPEN_CIRCUITS = MetricFamily("anthropic_proxy_open_circuits", "gauge", (), "Upstreams with an open circuit.")
KEYS_IN_COOLDOWN = MetricFamily(
    "anthropic_proxy_keys_in_cooldown", "gauge", (), "Provider keys in cooldown: rejected or rate limited."
)
WORKERS = MetricFamily("anthropic_proxy_workers", "gauge", (), "Serving processes.")
WORKERS_UNRESPONSIVE = MetricFamily(
    "anthropic_proxy_workers_unresponsive",
    "gauge",
    (),
    "Workers that did not report within a second. Their last report is used.",
)
BUILD_INFO = MetricFamily(
    "anthropic_proxy_build_info", "gauge", ("version", "python"), "Always 1; the labels are the versions."
)
CPU_SECONDS = MetricFamily("process_cpu_seconds_total", "counter", (), "CPU time, user and system, of all processes.")
START_TIME = MetricFamily(
    "process_start_time_seconds", "gauge", (), "When the server started, in seconds since the epoch."
)
RESIDENT_MEMORY = MetricFamily("process_resident_memory_bytes", "gauge", (), "Resident memory of all processes.")
OPEN_FDS = MetricFamily("process_open_fds", "gauge", (), "Open file descriptors of all processes.")
MAX_FDS = MetricFamily("process_max_fds", "gauge", (), "Maximum number of open file descriptors of all processes.")

FAMILIES = tuple(value for value in tuple(globals().values()) if isinstance(value, MetricFamily))
"""Definitions of all metrics, in the order of the page `/metrics`."""


class Histogram(Struct):
    """Durations with the same labels: their number in each bucket, and their sum."""

    bucket_counts: list[int]
    """Number of durations in each bucket of `BUCKET_LIMITS_SECONDS`, not cumulative."""
    sum_seconds: float
    """Sum of the durations in seconds."""

    def add_counts(self, counts: list[int], sum_seconds: float) -> None:
        """Add a histogram with the bucket counts `counts` and the sum `sum_seconds` to this one."""
        self.bucket_counts = [ours + theirs for ours, theirs in zip(self.bucket_counts, counts, strict=True)]
        self.sum_seconds += sum_seconds

    def cumulative_counts(self) -> list[tuple[str, float]]:
        """Return for each bucket its upper limit and the number of durations up to this limit.

        Prometheus requires these cumulative counts. The last limit is `+Inf`, so its count includes all durations.
        """
        total, found = 0, []
        for limit, count in zip((*map(str, BUCKET_LIMITS_SECONDS), "+Inf"), self.bucket_counts, strict=True):
            total += count
            found.append((limit, float(total)))
        return found


def collect_samples(
    snapshot: MetricsSnapshot, unresponsive_workers: int, versions: Labels
) -> dict[MetricFamily, Samples]:
    """Return the values of all counters and gauges by metric and labels.

    `unresponsive_workers` is the value of the gauge `WORKERS_UNRESPONSIVE`. `versions` are the versions of the proxy
    and Python, the labels of `BUILD_INFO`. All other values are from `snapshot`. A counter with labels has no values
    as long as `snapshot` has none for it.
    """
    samples: dict[MetricFamily, Samples] = {family: {} for family in FAMILIES if family.kind != "histogram"}
    for (provider, model, stream, status, outcome), row in snapshot.counters.items():
        labels = (provider, model, _boolean_label(stream), str(status), outcome)
        _add(samples[REQUESTS], labels, row.requests)
        _add(samples[TOKENS], (provider, model, "input"), row.input_tokens)
        _add(samples[TOKENS], (provider, model, "output"), row.output_tokens)
        _add(samples[TOKENS], (provider, model, "thinking"), row.thinking_tokens)
        _add(samples[TOKENS], (provider, model, "cache_read"), row.cache_read_tokens)
        _add(samples[TOKENS], (provider, model, "cache_write"), row.cache_write_tokens)
        _add(samples[FIDELITY_NOTES], (provider, model, "approximated"), row.approximated_fields)
        _add(samples[FIDELITY_NOTES], (provider, model, "emulated"), row.emulated_fields)
        _add(samples[FIDELITY_NOTES], (provider, model, "dropped"), row.dropped_fields)
    for attempt, times in snapshot.failed_attempts.items():
        provider, _, status_word = attempt.rpartition(" ")
        samples[FAILED_ATTEMPTS][provider, status_word] = times
    samples[BUILD_INFO][versions] = 1
    samples[WORKERS_UNRESPONSIVE][()] = unresponsive_workers
    samples[CPU_SECONDS][()] = snapshot.cpu_seconds
    samples[REJECTED_REQUESTS] = {(str(status),): times for status, times in snapshot.rejected_requests.items()}
    samples[DROPPED_RECEIPTS] = {(observer,): times for observer, times in snapshot.dropped_receipts.items()}
    samples[LEDGER_ROWS] = {(result,): count for result, count in snapshot.ledger_rows.items()}
    if snapshot.gauges is not None:
        for family, value in _gauge_values(snapshot.gauges):
            samples[family][()] = value
        samples[BUDGET_USED_RATIO].update(snapshot.gauges.budget_uses.items())
    return samples


def _gauge_values(gauges: Gauges) -> Iterator[tuple[MetricFamily, float]]:
    yield REQUESTS_IN_FLIGHT, gauges.requests_in_flight
    yield OPEN_CIRCUITS, gauges.open_circuits
    yield KEYS_IN_COOLDOWN, gauges.keys_in_cooldown
    yield WORKERS, gauges.serving_processes
    yield START_TIME, gauges.started_at
    yield RESIDENT_MEMORY, gauges.resident_bytes
    yield OPEN_FDS, gauges.open_fds
    yield MAX_FDS, gauges.max_fds
    if gauges.ledger_failures is not None:
        yield LEDGER_UP, int(gauges.ledger_failures == 0)
        yield LEDGER_QUEUED_ROWS, gauges.ledger_queued_rows
    if gauges.redis_failures is not None:
        yield REDIS_UP, int(gauges.redis_failures == 0)
        yield REDIS_PENDING_SETTLEMENTS, gauges.pending_settlements


def collect_histograms(snapshot: MetricsSnapshot) -> dict[MetricFamily, dict[Labels, Histogram]]:
    """Return the histograms of durations in `snapshot`, by metric and labels.

    The labels are provider, model and streaming.
    """
    found: dict[MetricFamily, dict[Labels, Histogram]] = {REQUEST_SECONDS: {}, FIRST_TOKEN_SECONDS: {}}
    for (provider, model, stream, _, _), row in snapshot.counters.items():
        labels = (provider, model, _boolean_label(stream))
        for family, (counts, seconds) in _histograms_of(row).items():
            found[family].setdefault(labels, Histogram([0] * len(counts), 0.0)).add_counts(counts, seconds)
    return found


def _histograms_of(row: ExchangeCounters) -> dict[MetricFamily, tuple[list[int], float]]:
    return {
        REQUEST_SECONDS: (row.duration_buckets, row.duration_sum_seconds),
        FIRST_TOKEN_SECONDS: (row.first_token_buckets, row.first_token_sum_seconds),
    }


def _add(samples: Samples, labels: Labels, value: float) -> None:
    samples[labels] = samples.get(labels, 0) + value


def _boolean_label(stream: bool) -> str:
    return "true" if stream else "false"


CollectSnapshot = Callable[[], Awaitable[tuple[MetricsSnapshot, int]]]
"""Async function that returns the sum of the metrics of all processes, and the number of unresponsive workers."""


class MetricsPage:
    """The page `/metrics`, in text format 0.0.4 or in OpenMetrics if the header `Accept` requests it."""

    def __init__(self, collect: CollectSnapshot) -> None:
        self._collect = collect

    async def respond(self, request: RouteRequest) -> RouteResponse:
        """Return the page in the format that the header `Accept` requests."""
        snapshot, unresponsive_workers = await self._collect()
        accept = request.headers.get("accept", "")
        body, media_type = await asyncio.to_thread(_write, snapshot, unresponsive_workers, accept)
        return RouteResponse(headers={"content-type": media_type}, body=body)


def _write(snapshot: MetricsSnapshot, unresponsive_workers: int, accept: str) -> tuple[bytes, str]:
    """Encode the page. Called in a thread, because the import and thousands of lines would delay the event loop."""
    return encode_page(snapshot, unresponsive_workers, (__version__, platform.python_version()), accept)


def encode_page(
    snapshot: MetricsSnapshot, unresponsive_workers: int, versions: Labels, accept: str
) -> tuple[bytes, str]:
    """Return the body of the page `/metrics`, and its media type.

    `unresponsive_workers` is the number of workers that did not report in time. `versions` are the versions of the
    proxy and Python, which become labels. `accept` is the request header `Accept`, which selects the format.
    """
    write, media_type = choose_encoder(accept)
    return write(_Collected(snapshot, unresponsive_workers, versions)), media_type


class _Collected(Collector):
    """Metrics snapshot in the interface that `prometheus_client` encodes."""

    def __init__(self, snapshot: MetricsSnapshot, unresponsive_workers: int, versions: Labels) -> None:
        self._samples = collect_samples(snapshot, unresponsive_workers, versions)
        self._times = collect_histograms(snapshot)

    def collect(self) -> Iterator[Metric]:
        for family in FAMILIES:
            if family.kind == "histogram":
                yield _new_histogram(family, self._times[family])
            else:
                yield _new_numbers(family, self._samples[family])


def _new_numbers(family: MetricFamily, samples: Samples) -> Metric:
    new = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = new(family.name, family.help, labels=family.label_names)
    for labels, value in samples.items():
        metric.add_metric(labels, value)
    return metric


def _new_histogram(family: MetricFamily, times: dict[Labels, Histogram]) -> Metric:
    metric = HistogramMetricFamily(family.name, family.help, labels=family.label_names)
    for labels, found in times.items():
        metric.add_metric(labels, found.cumulative_counts(), found.sum_seconds)
    return metric
