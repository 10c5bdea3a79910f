"""Virtual keys, which are keys that the proxy issues to clients: their table, policy, limits and administration in one
process. The plugin of `gateway_protocol` opens them.
"""

import time
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from anthropic_proxy.console.keys.api import AdminApi
from anthropic_proxy.console.keys.key_policy import KeyPolicy
from anthropic_proxy.console.keys.key_table import KeyTable
from anthropic_proxy.console.keys.process_limits import ProcessLimits
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Client, Gateway, Headers

if TYPE_CHECKING:
    from anthropic_proxy.console.keys.access_tokens import SignedInClients
    from anthropic_proxy.console.keys.service_tokens import ServiceTokens

_ACCESS_TOKENS = "anthropic_proxy.console.keys.access_tokens"
_SERVICE_TOKENS = "anthropic_proxy.console.keys.service_tokens"


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
        self.limits = ProcessLimits(settings)
        self.table = KeyTable(settings, self.limits.warn, self._current_settings)
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
            find_reservations=lambda: self.limits.reservations,
            note_settings=note_settings,
        )
        self.api = AdminApi(
            self._current_settings,
            lambda: None if self._gateway is None else self._gateway.store,
            self.table,
            time.time,
        )

    async def start(self, gateway: Gateway[Settings]) -> None:
        self._gateway = gateway
        self.limits.open(gateway, self.table.list_scopes_with_budgets)
        await self.table.start()
        await self.limits.start()

    async def stop(self) -> None:
        await self.table.stop()
        await self.api.stop()
        await self.limits.stop()

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

    def _current_settings(self) -> Settings:
        return self._settings if self._gateway is None else self._gateway.settings
