"""Plugin of virtual keys, which are keys that the proxy issues to clients."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import closing

from anthropic_proxy.console.keys.api import AdminApi
from anthropic_proxy.console.keys.key_table import KeyTable
from anthropic_proxy.console.keys.limits import Amounts, KeyLimit, build_limits
from anthropic_proxy.console.keys.policy import KeyPolicy
from anthropic_proxy.console.keys.queries import sum_budget_use
from anthropic_proxy.console.keys.reservations import Reservations
from anthropic_proxy.console.ledger.database import open_for_reading
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Gateway, Plugin, Store

_COUNTING, _COUNTING_SECONDS = "keys/counting", 3600.0
"""Value by which one of several workers counts the use of budgets before the start, and its lifetime."""
_COUNTED_SCOPES = 100


def open_plugin(settings: Settings) -> Plugin:
    """Raises `ConfigurationError` if `settings` disable the database with the keys."""
    if not settings.has_ledger():
        raise ConfigurationError(
            "VIRTUAL_KEYS is true, but DATABASE_URL is off: virtual keys are stored in that database. "
            "Unset DATABASE_URL, or set it to a database, or set VIRTUAL_KEYS=false.",
            code="virtual-keys-without-database",
        )
    access = _Access(settings)
    return Plugin(
        policies=[access.policy],
        routes=access.api.routes,
        budget_uses=access.budget_uses,
        start=access.start,
        stop=access.stop,
    )


class _Access:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._gateway: Gateway | None = None
        self._reservations: Reservations | None = None
        self._counting: asyncio.Task[None] | None = None
        self._table = KeyTable(settings, self._warn)
        self.policy = KeyPolicy(self._table, self._current_settings)
        self.api = AdminApi(self._current_settings, self._current_store, self._table.refresh, time.time)

    async def start(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._reservations = Reservations(gateway.store, self._warn, read_used=self._read_used)
        self._reservations.start()
        self.policy.set_reservations(self._reservations)
        await self._table.start()
        if gateway.store.state.kind == "memory":
            self._counting = asyncio.create_task(self._count_earlier_use(gateway.store, self._reservations))

    async def stop(self) -> None:
        await self._table.stop()
        if self._counting is not None:
            self._counting.cancel()
        if self._reservations is not None:
            await self._reservations.stop()

    def budget_uses(self) -> Mapping[tuple[str, str, str, str], float]:
        return {} if self._reservations is None else self._reservations.find_budget_uses(time.time())

    async def _count_earlier_use(self, store: Store, reservations: Reservations) -> None:
        """Count the use of all budgets before this start, so that pages and reports have it before the next request of
        a key. The first request of a key does not wait for the others.
        """
        if await store.increment(_COUNTING, 1, _COUNTING_SECONDS) > 1:
            return  # another worker does it
        scopes, now = self._table.list_scopes_with_budgets(), time.time()
        for start in range(0, len(scopes), _COUNTED_SCOPES):
            limits = build_limits(scopes[start : start + _COUNTED_SCOPES], Amounts(0, 0), now)
            await reservations.add_forgotten_use(limits, now)

    async def _read_used(self, limits: Sequence[KeyLimit], now: float) -> Sequence[int]:
        def read() -> Sequence[int]:
            with closing(open_for_reading(self._settings)) as connection:
                return [
                    sum_budget_use(connection, each.scope, each.budget, now) if each.budget else 0 for each in limits
                ]

        return await asyncio.to_thread(read)

    def _current_store(self) -> Store | None:
        return None if self._gateway is None else self._gateway.store

    def _current_settings(self) -> Settings:
        return self._settings if self._gateway is None else self._gateway.settings

    def _warn(self, text: str) -> None:
        if self._gateway is not None:
            self._gateway.log_warning_each_time(text)
