"""Check of the identity provider: whether it answers, and whether it can be asked later about a person."""

import asyncio
from collections.abc import Sequence
from contextlib import closing
from importlib import import_module

from anthropic_proxy.console import formats
from anthropic_proxy.console.identity.offline_access import NO_REFRESH_TOKEN
from anthropic_proxy.console.identity.people import OidcError
from anthropic_proxy.console.ledger.database import DATABASE_ERRORS, open_for_reading
from anthropic_proxy.console.ledger.units import to_microseconds
from anthropic_proxy.errors import ConfigurationError, is_installed
from anthropic_proxy.gateway.http_calls import HttpCalls
from anthropic_proxy.gateway.services import Services
from anthropic_proxy.gateway.settings import Settings

_NOT_OFFERED = (
    "The identity provider does not offer the scope offline_access, so it may give no refresh token. Then people sign "
    "in from Claude Code again every 12 hours, and whoever is removed keeps the access for up to 12 hours. Let the "
    "provider offer the scope, or set what it needs in [sign_in.authorization]."
)


async def check_identity(services: Services) -> Sequence[str]:
    """Return the problems of the sign-in from Claude Code. Empty: none, or it is not set."""
    settings = services.settings
    if settings.sign_in is None or settings.oidc is None or not is_installed("authlib"):
        return ()
    module = await asyncio.to_thread(import_module, "anthropic_proxy.console.identity.oidc_client")
    client = module.OidcClient(settings.oidc, HttpCalls(lambda: services.http))
    try:
        offers_refresh = await client.examine()
    except OidcError as error:
        return [error.message]
    known = await asyncio.to_thread(_list_refreshed, settings, services.clock())
    if False in known:
        number = f"{known.count(False):,} of {formats.plural(len(known), 'sign-in')}"
        return [f"{number} cannot be checked later. {NO_REFRESH_TOKEN}"]
    return () if known or offers_refresh else [_NOT_OFFERED]


def _list_refreshed(settings: Settings, now: float) -> Sequence[bool]:
    """Return for each present sign-in whether the identity provider gave a refresh token. Empty: the database has none,
    or cannot be read, which is another problem. `now`: seconds since the epoch.
    """
    try:
        with closing(open_for_reading(settings)) as connection:
            active = "SELECT provider_token FROM sign_ins WHERE ended_at IS NULL AND ends_at > ?"
            return [bool(token) for (token,) in connection.query(active, (to_microseconds(now),))]
    except (*DATABASE_ERRORS, ConfigurationError):
        return ()
