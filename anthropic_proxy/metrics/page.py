"""Page `GET /metrics`: the metrics of all processes as text for Prometheus. `MetricsPage.respond` serves the page."""

import asyncio
import platform
from collections.abc import Awaitable, Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from anthropic_proxy import __version__
from anthropic_proxy.metrics.families import (
    FAMILIES,
    Histogram,
    Labels,
    MetricFamily,
    Samples,
    collect_histograms,
    collect_samples,
)
from anthropic_proxy.metrics.totals import MetricsSnapshot
from anthropic_proxy.plugins import RouteRequest, RouteResponse

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
