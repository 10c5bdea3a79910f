"""The policy of virtual keys: it authenticates client requests by them, and enforces their limits.

`identify` runs before the body is read, `admit` before a provider is called.
"""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from anthropic_proxy.console.keys.descriptions import has_valid_checksum, hash_key, is_jwt
from anthropic_proxy.console.keys.key_table import KeysUnavailable, KeyTable
from anthropic_proxy.console.keys.limits import Scope
from anthropic_proxy.console.keys.request_limits import RequestLimits
from anthropic_proxy.console.keys.reservations import Reservations
from anthropic_proxy.engine.messages.purpose import SETTINGS_HEADER
from anthropic_proxy.gateway.server.auth import find_credentials, find_matching_key
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import AdmissionRequest, Client, Headers, Settle

if TYPE_CHECKING:
    from anthropic_proxy.console.keys.access_tokens import SignedInClients
    from anthropic_proxy.console.keys.service_tokens import ServiceTokens


class KeyPolicy:
    """Policy that authenticates client requests by virtual keys, and applies the limits of the key and its team.
    `clock` returns seconds since the epoch.
    """

    def __init__(
        self,
        table: KeyTable,
        current_settings: Callable[[], Settings],
        clock: Callable[[], float] = time.time,
        *,
        find_signed_in: "Callable[[], SignedInClients | None]" = lambda: None,
        find_services: "Callable[[], ServiceTokens | None]" = lambda: None,
        find_reservations: Callable[[], Reservations | None] = lambda: None,
        note_settings: Callable[[Client, Headers], None] = lambda client, headers: None,
    ) -> None:
        """`find_reservations` returns None before the start. `note_settings` receives the requests of virtual keys that
        state the managed settings of their machine.
        """
        self._table = table
        self._current_settings = current_settings
        self._clock = clock
        self._find_signed_in = find_signed_in
        self._find_services = find_services
        self._note_settings = note_settings
        self._limits = RequestLimits(self._find_scopes, current_settings, find_reservations, clock)

    async def identify(self, headers: Headers) -> Client | None:
        client = await self._identify(headers)
        if SETTINGS_HEADER in headers and client is not None and client.key_id:
            self._note_settings(client, headers)
        return client

    async def _identify(self, headers: Headers) -> Client | None:
        """Return the client that the virtual key, access token or admin key in the request headers identifies. None:
        the headers contain no key, or a `PROXY_API_KEY`, which the server checks itself. Raises `AuthenticationFailed`
        for any other key, and `KeysUnavailable` if virtual keys cannot be checked.
        """
        presented = find_credentials(headers)
        if not presented:
            return None
        if any(map(is_jwt, presented)):
            signed_in = self._find_signed_in()
            if signed_in is not None and (client := await signed_in.identify(presented)) is not None:
                return client
            services = self._find_services()
            if services is not None and (client := await services.identify(presented)) is not None:
                return client
        entries = [self._table.find_entry(hash_key(credential)) for credential in presented]
        now = self._clock()
        accepted = next((entry for entry in entries if entry.end.at > now), None)
        if accepted is not None:
            return accepted.client
        # the same steps for each reason of a rejection, so that the duration does not reveal it
        settings = self._current_settings()
        admin = find_matching_key(presented, settings.admin_api_keys)
        proxy = find_matching_key(presented, settings.proxy_api_keys)
        if admin is not None:
            return Client(name=f"admin key {admin}", role="admin")
        if proxy is not None:
            return None
        if not self._table.is_loaded:
            raise KeysUnavailable(self._table.condition)
        described = max(range(len(entries)), key=lambda index: (entries[index].end.at, entries[index].end.key.id))
        is_complete = has_valid_checksum(presented[described])
        raise entries[described].end.build_error("" if is_complete else ", or it was not copied completely")

    async def admit(self, request: AdmissionRequest) -> Settle | None:
        """Raises `PermissionDenied`, `LimitReached`, or `KeysUnavailable` if the key is not in the key table."""
        return await self._limits.admit(request)

    def _find_scopes(self, client: Client) -> Sequence[Scope]:
        return self._table.find_scopes(client.key_id) if client.key_id else self._table.proxy_scopes
