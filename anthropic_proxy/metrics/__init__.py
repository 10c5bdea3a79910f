"""Metrics of all server processes for Prometheus.

The metrics are counters and durations of requests, and gauges of the current state. `MetricsPage` serves them at
`/metrics`.
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
