"""Check of the identity provider: whether it answers, and whether it can be asked later about a person."""

import asyncio
from collections.abc import Sequence
from contextlib import closing
from importlib import import_module
from operator import attrgetter
from typing import NamedTuple

from anthropic_proxy.console import formats
from anthropic_proxy.console.identity.offline_access import NO_REFRESH_TOKEN
from anthropic_proxy.console.identity.people import OidcError
from anthropic_proxy.console.ledger.database import DATABASE_ERRORS, open_for_reading
from anthropic_proxy.console.units import to_microseconds
from anthropic_proxy.errors import ConfigurationError, is_installed
from anthropic_proxy.gateway.http_calls import HttpCalls
from anthropic_proxy.gateway.services import Services
from anthropic_proxy.gateway.settings import Settings

_NOT_OFFERED = (
    "The identity provider does not offer the scope offline_access, so it may give no refresh token. Then people sign "
    "in from Claude Code again every 12 hours, and whoever is removed keeps the access for up to 12 hours. Let the "
    "provider offer the scope, or set what it needs in [sign_in.authorization]."
)

_MANY_REFUSED = (
    "If the provider refuses many people, it may have changed what it requires of this client. List them:  "
    "anthropic-proxy keys sign-ins"
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
    sign_ins = await asyncio.to_thread(_list_present, settings, services.clock())
    if not sign_ins:
        return () if offers_refresh else [_NOT_OFFERED]
    total, problems = formats.plural(len(sign_ins), "sign-in"), []
    if refused := [sign_in for sign_in in sign_ins if sign_in.refused_at]:
        first, latest = (choose(refused, key=attrgetter("refused_at")) for choose in (min, max))
        problems.append(
            f"The identity provider refuses to renew {len(refused):,} of {total}, since "
            f"{formats.full_time(first.refused_at)}. The latest answer: {latest.refusal} {_MANY_REFUSED}"
        )
    if unasked := sum(not sign_in.has_refresh_token for sign_in in sign_ins):
        problems.append(f"{unasked:,} of {total} cannot be checked later. {NO_REFRESH_TOKEN}")
    return problems


class _SignIn(NamedTuple):
    """What the identity provider said about a sign-in."""

    has_refresh_token: bool
    refused_at: int
    """Time of the first refusal in microseconds since the epoch. 0: there is none."""
    refusal: str


def _list_present(settings: Settings, now: float) -> Sequence[_SignIn]:
    """Return the sign-ins that have not ended. Empty: the database has none, or cannot be read, which is another
    problem. `now`: seconds since the epoch.
    """
    present = "SELECT provider_token, refused_at, end_reason FROM sign_ins WHERE ended_at IS NULL AND ends_at > ?"
    try:
        with closing(open_for_reading(settings)) as connection:
            return [
                _SignIn(bool(token), refused_at or 0, reason)
                for token, refused_at, reason in connection.query(present, (to_microseconds(now),))
            ]
    except (*DATABASE_ERRORS, ConfigurationError):
        return ()
