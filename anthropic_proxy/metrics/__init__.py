"""What happened, in numbers: plain totals that each exchange adds to, and the text that Prometheus reads."""

from anthropic_proxy.metrics.page import MetricsPage
from anthropic_proxy.metrics.totals import Now, Reading, Totals, add_up, decode_reading, encode_reading

__all__ = ["MetricsPage", "Now", "Reading", "Totals", "add_up", "decode_reading", "encode_reading"]
