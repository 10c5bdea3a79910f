"""Virtual keys, which are keys that the proxy issues to clients: their table, policy, limits and administration in one
process. The plugin of `gateway_protocol` opens them.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from importlib import import_module
from typing import TYPE_CHECKING

from anthropic_proxy.console.keys.alerts import BudgetAlerts
from anthropic_proxy.console.keys.api import AdminApi
from anthropic_proxy.console.keys.key_policy import KeyPolicy
from anthropic_proxy.console.keys.key_table import KeyTable
from anthropic_proxy.console.keys.limits import KeyLimit, list_budget_limits
from anthropic_proxy.console.keys.queries import sum_budget_use
from anthropic_proxy.console.keys.reservations import Reservations
from anthropic_proxy.console.ledger.database import open_for_reading
from anthropic_proxy.engine.own_thread import run_in_own_thread
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import BudgetLabels, Client, Gateway, Headers, Store, StoreUnavailable

if TYPE_CHECKING:
    from anthropic_proxy.console.keys.access_tokens import SignedInClients
    from anthropic_proxy.console.keys.service_tokens import ServiceTokens

_ACCESS_TOKENS = "anthropic_proxy.console.keys.access_tokens"
_SERVICE_TOKENS = "anthropic_proxy.console.keys.service_tokens"
_COUNTING = "keys/counting"
"""Value by which one of several workers counts the use of budgets before the start."""
_COUNTING_SECONDS = 3600.0
_COUNTED_SCOPES = 100


class Access:
    """The virtual keys of this process, with their policy, their limits and the API of their administration."""

    def __init__(self, settings: Settings, note_settings: Callable[[Client, Headers], None]) -> None:
        """`note_settings` receives the requests of virtual keys that state the managed settings of their machine.

        Raises `ConfigurationError` if `settings` disable the database with the keys.
        """
        if not settings.has_ledger():
            raise ConfigurationError(
                "VIRTUAL_KEYS is true, but DATABASE_URL is off: virtual keys are stored in that database. "
                "Unset DATABASE_URL, or set it to a database, or set VIRTUAL_KEYS=false.",
                code="virtual-keys-without-database",
            )
        self._settings = settings
        self._gateway: Gateway[Settings] | None = None
        self._reservations: Reservations | None = None
        self._alerts: BudgetAlerts | None = None
        self._counting: asyncio.Task[None] | None = None
        self.table = KeyTable(settings, self._warn, self._current_settings)
        self._signed_in: SignedInClients | None = None
        self._services: ServiceTokens | None = None
        # the first token does not wait for the optional libraries
        if settings.sign_in is not None:
            import_module(_ACCESS_TOKENS)
        if settings.token_issuers:
            import_module(_SERVICE_TOKENS)
        self.policy = KeyPolicy(
            self.table,
            self._current_settings,
            find_signed_in=self._find_signed_in,
            find_services=self._find_services,
            find_reservations=lambda: self._reservations,
            note_settings=note_settings,
        )
        self.api = AdminApi(
            self._current_settings,
            lambda: None if self._gateway is None else self._gateway.store,
            self.table.refresh,
            time.time,
        )

    async def start(self, gateway: Gateway[Settings]) -> None:
        self._gateway = gateway
        self._alerts = BudgetAlerts(gateway)
        self._reservations = Reservations(
            gateway.store,
            self._warn,
            read_used=self._read_used,
            note_use=self._alerts.note,
        )
        self._reservations.start()
        await self.table.start()
        with suppress(StoreUnavailable):  # the first request of a budget needs the clock of the store
            await gateway.store.get(_COUNTING)
        self._alerts.start()
        if gateway.store.state.kind in ("memory", "database"):
            self._counting = asyncio.create_task(self._count_earlier_use(gateway.store, self._reservations))

    async def stop(self) -> None:
        await self.table.stop()
        await self.api.stop()
        if self._counting is not None:
            self._counting.cancel()
        if self._reservations is not None:
            await self._reservations.stop()
        if self._alerts is not None:
            await self._alerts.stop()

    def _find_signed_in(self) -> "SignedInClients | None":
        """None: `SIGN_IN_SECRET` is not set. A reload may set it."""
        if self._signed_in is None and self._current_settings().sign_in is not None:
            self._signed_in = import_module(_ACCESS_TOKENS).SignedInClients(self.table, self._current_settings)
        return self._signed_in

    def _find_services(self) -> "ServiceTokens | None":
        """None: no table `[token_issuers.NAME]` is set."""
        if self._services is None and self._gateway is not None and self._gateway.settings.token_issuers:
            self._services = import_module(_SERVICE_TOKENS).ServiceTokens(self.table, self._gateway)
        return self._services

    def budget_uses(self) -> Mapping[BudgetLabels, float]:
        reservations = self._reservations
        return {} if reservations is None else reservations.find_budget_uses(reservations.find_time(time.time))

    async def _count_earlier_use(self, store: Store, reservations: Reservations) -> None:
        """Count the use of all budgets before this start, so that pages and reports have it before the next request of
        a key. The first request of a key does not wait for the others.
        """
        if await store.increment(_COUNTING, 1, _COUNTING_SECONDS) > 1:
            return  # another worker does it
        scopes = self.table.list_scopes_with_budgets()
        now = reservations.find_time(time.time)
        for start in range(0, len(scopes), _COUNTED_SCOPES):
            limits = list_budget_limits(scopes[start : start + _COUNTED_SCOPES], now)
            await reservations.add_forgotten_use(limits, now)

    async def _read_used(self, limits: Sequence[KeyLimit], now: float) -> Sequence[int]:
        def read() -> Sequence[int]:
            with closing(open_for_reading(self._settings)) as connection:
                return [
                    sum_budget_use(connection, self._settings, key_limit.scope, key_limit.budget, now)
                    if key_limit.budget
                    else 0
                    for key_limit in limits
                ]

        return await run_in_own_thread("budgets", read)

    def _current_settings(self) -> Settings:
        return self._settings if self._gateway is None else self._gateway.settings

    def _warn(self, text: str) -> None:
        if self._gateway is not None:
            self._gateway.log_warning_each_time(text)
