"""Page `GET /metrics`: the metrics of all processes as text for Prometheus. `MetricsPage.respond` serves the page."""

import asyncio
import platform
from collections.abc import Awaitable, Callable

from anthropic_proxy import __version__
from anthropic_proxy.metrics.totals import MetricsSnapshot
from anthropic_proxy.plugins import RouteRequest, RouteResponse

CollectSnapshot = Callable[[], Awaitable[tuple[MetricsSnapshot, int]]]
"""Async function that returns the sum of the metrics of all processes, and the number of unresponsive workers."""


class MetricsPage:
    """The page `/metrics`, in text format 0.0.4 or in OpenMetrics if the header `Accept` requests it."""

    def __init__(self, collect: CollectSnapshot) -> None:
        self._collect = collect

    async def respond(self, request: RouteRequest) -> RouteResponse:
        """Return the page in the format that the header `Accept` requests."""
        snapshot, unresponsive_workers = await self._collect()
        accept = request.headers.get("accept", "")
        body, media_type = await asyncio.to_thread(_write, snapshot, unresponsive_workers, accept)
        return RouteResponse(headers={"content-type": media_type}, body=body)


def _write(snapshot: MetricsSnapshot, unresponsive_workers: int, accept: str) -> tuple[bytes, str]:
    """Encode the page. Called in a thread, because the import and thousands of lines would delay the event loop."""
    from anthropic_proxy.metrics.exposition import encode_page  # noqa: PLC0415

    return encode_page(snapshot, unresponsive_workers, (__version__, platform.python_version()), accept)
