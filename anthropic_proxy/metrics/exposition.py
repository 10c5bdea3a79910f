"""The metrics as `prometheus_client` writes them; loaded with the first page."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from anthropic_proxy.metrics.families import FAMILIES, Family, Labels, Samples, Times, add_up_samples, add_up_times
from anthropic_proxy.metrics.totals import Reading


def write_page(reading: Reading, silent: int, build: Labels, accept: str) -> tuple[bytes, str]:
    """Return the page and its media type; `silent`: workers that did not answer; `build`: versions of us and Python."""
    write, media_type = choose_encoder(accept)
    return write(_Collected(reading, silent, build)), media_type


class _Collected(Collector):
    """A reading, as the library asks for it."""

    def __init__(self, reading: Reading, silent: int, build: Labels) -> None:
        self._samples = add_up_samples(reading, silent, build)
        self._times = add_up_times(reading)

    def collect(self) -> Iterator[Metric]:
        for family in FAMILIES:
            if family.kind == "histogram":
                yield _new_histogram(family, self._times[family])
            else:
                yield _new_numbers(family, self._samples[family])


def _new_numbers(family: Family, samples: Samples) -> Metric:
    new = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = new(family.name, family.help, labels=family.labels)
    for labels, value in samples.items():
        metric.add_metric(labels, value)
    return metric


def _new_histogram(family: Family, times: dict[Labels, Times]) -> Metric:
    metric = HistogramMetricFamily(family.name, family.help, labels=family.labels)
    for labels, found in times.items():
        metric.add_metric(labels, found.cumulative(), found.seconds)
    return metric
