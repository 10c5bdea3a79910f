"""Downloads of newer prices while the proxy runs, in the format of `genai-prices`: the table `[price_list]`."""

import asyncio

from anthropic_proxy.errors import require_package
from anthropic_proxy.gateway.prices.price_list import (
    PACKAGE,
    PRICE_SOURCE,
    describe_price_list,
    find_published_url,
)
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Gateway, Plugin

START_DELAY_SECONDS = 10.0
"""The first requests do not wait for the import of the library."""
RETRY_SECONDS = 6 * 3600.0
"""Pause after a failed update."""
MAX_LIST_BYTES = 16 * 1024 * 1024
"""Maximum size of a downloaded list, after decompression. The published one has 1.5 MB."""
_DAY_SECONDS = 86_400.0


def open_plugin(settings: Settings) -> Plugin:
    """Raises `ConfigurationError` if `genai-prices` is not installed."""
    require_package("An update of prices needs genai-prices", "genai_prices", "prices")
    updates = PriceUpdates(settings)
    return Plugin(start=updates.start, stop=updates.stop)


class PriceUpdates:
    """Each worker process has one, because the prices are in the memory of the process."""

    def __init__(self, settings: Settings, start_delay_seconds: float = START_DELAY_SECONDS) -> None:
        self._url = settings.price_update_url
        self._pause_seconds = settings.price_update_days * _DAY_SECONDS
        self._start_delay_seconds = start_delay_seconds
        self._task: asyncio.Task[None] | None = None

    async def start(self, gateway: Gateway[Settings]) -> None:
        self._task = asyncio.create_task(self._run(gateway))

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self, gateway: Gateway[Settings]) -> None:
        await asyncio.sleep(self._start_delay_seconds)
        while True:
            try:
                url = await asyncio.to_thread(find_published_url) if self._url is None else self._url
                reply = await gateway.send_http("GET", url, max_bytes=MAX_LIST_BYTES, purpose="price_list")
                if reply.status != 200:
                    raise ValueError(f"the server answers with HTTP {reply.status}")  # noqa: TRY301
                unused = await asyncio.to_thread(PRICE_SOURCE.update, reply.body)
            except Exception as error:  # noqa: BLE001  # of the connection, and of the library that decodes the list
                reason = str(error).strip().partition("\n")[0] or type(error).__name__
                gateway.log_warning_once(
                    f"The prices are not updated (update_days of [price_list]): {reason.rstrip('.')}. "
                    f"The prices in use stay: {describe_price_list()}."
                )
                await asyncio.sleep(RETRY_SECONDS)
                continue
            note = (
                f" {unused} regular expressions of the list are not used, because {PACKAGE} does not have them."
                if unused
                else ""
            )
            gateway.log_warning_once(f"Prices updated: {describe_price_list()}.{note}")
            if any(route.balance == "cost" for route in gateway.settings.routes):
                await gateway.reload_settings()
            await asyncio.sleep(self._pause_seconds)
