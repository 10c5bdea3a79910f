"""`GET /metrics`: the totals in a format of Prometheus, written by its own library, which is loaded with the first."""

import asyncio
import platform
from collections.abc import Awaitable, Callable

from anthropic_proxy import __version__
from anthropic_proxy.metrics.totals import Reading

Gather = Callable[[], Awaitable[tuple[Reading, int]]]
"""Gives the sum over all processes, and how many of them did not answer."""


class MetricsPage:
    """A `hooks.Page`: text 0.0.4, or OpenMetrics where that is asked for."""

    def __init__(self, gather: Gather) -> None:
        self._gather = gather

    async def read(self, accept: str) -> tuple[bytes, str]:
        """Return the page and its media type."""
        reading, silent = await self._gather()
        return await asyncio.to_thread(_write, reading, silent, accept)


def _write(reading: Reading, silent: int, accept: str) -> tuple[bytes, str]:
    """Beside the loop, because loading the library and a page of thousands of lines take longer than a reply waits."""
    from anthropic_proxy.metrics.exposition import write_page  # noqa: PLC0415

    return write_page(reading, silent, (__version__, platform.python_version()), accept)
