"""Plugin that updates the price list in the background every `PRICE_UPDATE_DAYS` days.

`PriceUpdater` downloads the list with the HTTP client of the proxy, and checks and stores it in a thread. A failure
never affects a request.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import date

from anthropic_proxy.errors import ConfigurationError, UpstreamError
from anthropic_proxy.ledger.price_file import MAX_PRICE_BYTES, InvalidPrices
from anthropic_proxy.ledger.price_source import describe_price_list, find_price_source
from anthropic_proxy.ledger.price_updates import (
    OlderPrices,
    claim_update,
    describe_update_failure,
    download_prices,
    find_price_list_url,
    record_update_success,
    require_price_directory,
    store_new_prices,
)
from anthropic_proxy.plugins import Gateway, Plugin
from anthropic_proxy.settings import Settings

START_DELAY_SECONDS = 10.0
"""Time in seconds from the start of the server to the first check whether an update is due."""
CHECK_INTERVAL_SECONDS = 900.0
"""Time in seconds between two checks whether an update is due."""


def open_plugin(settings: Settings) -> Plugin:
    """Return the plugin that updates the price list every `PRICE_UPDATE_DAYS` days.

    Raises `ConfigurationError` if `genai-prices` is not installed, or if there is no data directory to store the list.
    """
    updater = PriceUpdater(settings)
    return Plugin(start=updater.start, stop=updater.stop)


class PriceUpdater:
    """Updater of the price list. Each worker process has one, but only one worker downloads the list.

    The function `claim_update` selects this worker. `clock` returns seconds since the epoch.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._directory = require_price_directory(settings)
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    async def start(self, gateway: Gateway) -> None:
        """Start a background task that checks regularly if an update is due."""
        self._task = asyncio.create_task(self._run(gateway))

    async def stop(self) -> None:
        """End the background checks."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def update_if_due(self, gateway: Gateway) -> None:
        """Download, check and store the price list if an update is due, unless another process already does this.

        A failure is logged.
        """
        try:
            if await asyncio.to_thread(claim_update, self._directory, self._settings.price_update_days, self._clock):
                await self._update(gateway, await asyncio.to_thread(find_price_list_url, self._settings))
        except ConfigurationError as error:
            gateway.log_warning_once(f"The prices are not updated (PRICE_UPDATE_DAYS). {error.message}")

    async def _update(self, gateway: Gateway, url: str) -> None:
        try:
            await self._download(gateway, url)
        except OlderPrices:
            record_update_success(self._directory, self._clock)
        except (InvalidPrices, UpstreamError) as error:
            text = await asyncio.to_thread(describe_update_failure, error, url, self._directory)
            gateway.log_warning_once(f"{text} To try again:  anthropic-proxy prices update")

    async def _download(self, gateway: Gateway, url: str) -> None:
        content = await download_prices(lambda url: gateway.send_http("GET", url, max_bytes=MAX_PRICE_BYTES), url)
        today = date.fromtimestamp(self._clock())
        await asyncio.to_thread(store_new_prices, self._directory, content, url, today)
        await asyncio.to_thread(find_price_source(self._directory).reload_if_changed)
        record_update_success(self._directory, self._clock)
        gateway.log_warning_once(f"Prices updated: {describe_price_list(self._directory)}, from {url}.")
        if any(route.balance == "cost" for route in gateway.settings.routes):
            await gateway.reload_settings()

    async def _run(self, gateway: Gateway) -> None:
        await asyncio.sleep(START_DELAY_SECONDS)
        while True:
            await self.update_if_due(gateway)
            await asyncio.sleep(CHECK_INTERVAL_SECONDS)
