"""Metrics: totals over exchanges and their Prometheus page."""

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
