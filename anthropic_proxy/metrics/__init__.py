"""Metrics: totals over exchanges and their Prometheus page."""

from anthropic_proxy.metrics.page import MetricsPage
from anthropic_proxy.metrics.totals import (
    Gauges,
    MetricsSnapshot,
    Totals,
    decode_reading,
    encode_reading,
    sum_snapshots,
)

__all__ = ["Gauges", "MetricsPage", "MetricsSnapshot", "Totals", "decode_reading", "encode_reading", "sum_snapshots"]
