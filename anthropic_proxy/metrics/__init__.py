"""Metrics of all server processes: counters of exchanges, gauges, and the page `/metrics` for Prometheus."""

from anthropic_proxy.metrics.page import MetricsPage
from anthropic_proxy.metrics.totals import (
    Gauges,
    MetricsSnapshot,
    MetricsTotals,
    decode_snapshot,
    encode_snapshot,
    sum_snapshots,
)

__all__ = [
    "Gauges",
    "MetricsPage",
    "MetricsSnapshot",
    "MetricsTotals",
    "decode_snapshot",
    "encode_snapshot",
    "sum_snapshots",
]
