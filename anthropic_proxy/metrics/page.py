"""Page `GET /metrics`: the metrics of all processes in a text format of Prometheus."""

import asyncio
import platform
from collections.abc import Awaitable, Callable

from anthropic_proxy import __version__
from anthropic_proxy.metrics.totals import MetricsSnapshot

CollectSnapshot = Callable[[], Awaitable[tuple[MetricsSnapshot, int]]]
"""Async function that returns the sum of the metrics of all processes, and the number of unresponsive workers."""


class MetricsPage:
    """Content of `/metrics` (a `plugins.GetRoute`): text format 0.0.4, or OpenMetrics if `Accept` requests it."""

    def __init__(self, collect: CollectSnapshot) -> None:
        self._collect = collect

    async def render(self, accept: str) -> tuple[bytes, str]:
        """Return the body of the page and its media type. `accept`: header `Accept` of the request."""
        snapshot, unresponsive = await self._collect()
        return await asyncio.to_thread(_write, snapshot, unresponsive, accept)


def _write(snapshot: MetricsSnapshot, unresponsive: int, accept: str) -> tuple[bytes, str]:
    """Encode the page. Called in a thread, because the import and thousands of lines would delay the event loop."""
    from anthropic_proxy.metrics.exposition import encode_page  # noqa: PLC0415

    return encode_page(snapshot, unresponsive, (__version__, platform.python_version()), accept)
