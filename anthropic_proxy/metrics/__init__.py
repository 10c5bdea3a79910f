"""Metrics of all server processes for Prometheus.

They are counters of requests and gauges of the current state, and `MetricsPage` serves them at `/metrics`.
"""

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
