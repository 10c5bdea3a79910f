"""The proxy with metrics that count nothing, so that the bench can measure their cost: they have no switch."""

from typing import Any

from anthropic_proxy.__main__ import main
from anthropic_proxy.gateway.telemetry.metrics import MetricsTotals


def _count_nothing(self: MetricsTotals, receipt: Any) -> None:
    pass


if __name__ == "__main__":
    MetricsTotals.count_exchange = _count_nothing  # type: ignore[method-assign]
    main()
