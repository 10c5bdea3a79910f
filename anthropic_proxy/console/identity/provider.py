"""`IdentityProvider`: the client of the identity provider, which is loaded with the first sign-in."""

import asyncio
from importlib import import_module
from typing import TYPE_CHECKING

from anthropic_proxy.console.identity.people import OidcError, require_provider
from anthropic_proxy.errors import MissingExtra, is_installed
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Gateway

if TYPE_CHECKING:
    from anthropic_proxy.console.identity.oidc_client import OidcClient


class IdentityProvider:
    """The identity provider that the current settings name."""

    def __init__(self, gateway: Gateway[Settings]) -> None:
        self._gateway = gateway
        self._client: OidcClient | None = None
        """None: no sign-in has used it."""

    async def find_client(self) -> "OidcClient":
        """The first call loads Authlib. Raises `OidcError` if no provider is set."""
        provider = require_provider(self._gateway.settings)
        if self._client is None or self._client.settings != provider:
            if not is_installed("authlib"):
                missing = MissingExtra("Sign-in with OIDC_ISSUER needs Authlib", "oidc")
                raise OidcError(missing.message_without_remedy, remedy=missing.remedy, status=502)
            module = await asyncio.to_thread(import_module, "anthropic_proxy.console.identity.oidc_client")
            self._client = module.OidcClient(provider, self._gateway)
        return self._client
