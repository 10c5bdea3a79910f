"""`GET /metrics`: the totals in a Prometheus format."""

import asyncio
import platform
from collections.abc import Awaitable, Callable

from anthropic_proxy import __version__
from anthropic_proxy.metrics.totals import MetricsSnapshot

CollectSnapshot = Callable[[], Awaitable[tuple[MetricsSnapshot, int]]]
"""Returns the sum over all processes and the number of unresponsive ones."""


class MetricsPage:
    """A `plugins.GetRoute`: text format 0.0.4, or OpenMetrics if `Accept` requests it."""

    def __init__(self, collect: CollectSnapshot) -> None:
        self._collect = collect

    async def render(self, accept: str) -> tuple[bytes, str]:
        """Return the page and its media type."""
        snapshot, unresponsive = await self._collect()
        return await asyncio.to_thread(_write, snapshot, unresponsive, accept)


def _write(snapshot: MetricsSnapshot, unresponsive: int, accept: str) -> tuple[bytes, str]:
    """Encode the page. Called in a thread: the import and thousands of lines would delay the event loop."""
    from anthropic_proxy.metrics.exposition import encode_page  # noqa: PLC0415

    return encode_page(snapshot, unresponsive, (__version__, platform.python_version()), accept)
