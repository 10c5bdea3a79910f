"""How an identity provider is asked for a refresh token, with which it says later whether a person still has access.

Without one, the provider cannot be asked: the person keeps the access for the time of the sign-in.
"""

from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from msgspec import Struct

from anthropic_proxy.gateway.settings import OidcSettings

OFFLINE_SCOPE = "offline_access"


class OfflineAccess(Struct, frozen=True):
    """Scope and parameters of an authorization request that asks for a refresh token. "": no scope."""

    scope: str
    parameters: Mapping[str, str]


_STANDARD = OfflineAccess(OFFLINE_SCOPE, {"prompt": "consent"})
"""OpenID Connect Core 1.0, section 11: a strict provider ignores the scope without this prompt."""
_OF_HOSTS: Mapping[str, OfflineAccess] = {
    # no scope; a person who has agreed before gets another token only if asked again
    # (developers.google.com/identity/protocols/oauth2/web-server, read on 2026-11-28)
    "accounts.google.com": OfflineAccess("", {"access_type": "offline", "prompt": "consent"}),
    # with the prompt, a person who may not agree to applications is refused, also if an administrator has agreed
    # (AADSTS90094; learn.microsoft.com/troubleshoot/entra/entra-id/app-integration/troubleshoot-consent-issues, read
    # on 2026-11-28); the scope alone gives the token
    **dict.fromkeys(
        ("login.microsoftonline.com", "login.microsoftonline.us", "login.partner.microsoftonline.cn"),
        OfflineAccess(OFFLINE_SCOPE, {}),
    ),
}
"""Host of the issuer → how it differs from the standard."""
NO_REFRESH_TOKEN = (
    "The identity provider gave no refresh token, so it cannot be asked whether a person still has access: people sign "
    "in from Claude Code again every 12 hours, and whoever is removed keeps the access for up to 12 hours. Let the "
    "provider offer the scope offline_access to this client, or set what it needs in [sign_in.authorization]: see the "
    'section "Refresh tokens" of docs/guide/company.md.'
)


def find_offline_access(settings: OidcSettings, supported_scopes: Collection[str]) -> OfflineAccess:
    """Return what to add to the authorization request of a device. Nothing, if the provider does not offer the scope:
    some then refuse the request.
    """
    access = _OF_HOSTS.get(urlsplit(settings.issuer).hostname or "", _STANDARD)
    if access.scope and access.scope not in {*supported_scopes, *settings.scopes}:
        return OfflineAccess("", {})
    return access
