"""Sign-in to the dashboard with an identity provider (OpenID Connect), from the variables `OIDC_…`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from msgspec import Struct

from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.secrets import Secret

if TYPE_CHECKING:
    from anthropic_proxy.gateway.settings.sources import Sources

DEFAULT_SCOPES = ("openid", "email", "profile")
"""Scopes requested from the identity provider if `OIDC_SCOPES` is not set."""
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


class OidcSettings(Struct, frozen=True, kw_only=True):
    """An identity provider (OpenID Connect) for the sign-in to the dashboard, and the roles of its users.

    `admins`, `viewers` and `members` list the users of each role. An entry is an e-mail address or a value of the claim
    `role_claim`.
    """

    issuer: str
    """`OIDC_ISSUER`: URL of the identity provider, without `/.well-known/openid-configuration` and trailing slash."""
    client_id: str
    """`OIDC_CLIENT_ID`: id under which the proxy is registered at the identity provider."""
    client_secret: Secret | None = None
    """`OIDC_CLIENT_SECRET`: secret of the proxy at the identity provider. None: the sign-in is protected by PKCE
    only."""
    scopes: Sequence[str] = DEFAULT_SCOPES
    """`OIDC_SCOPES`: requested scopes. `openid` is always requested."""
    role_claim: str = "groups"
    """`OIDC_ROLE_CLAIM`: claim with the groups or roles of a user. Dots separate nested keys: `realm_access.roles`."""
    email_claim: str = "email"
    """`OIDC_EMAIL_CLAIM`: claim with the e-mail address of a user."""
    admins: Sequence[str] = ()
    """`OIDC_ADMINS`: users that change settings and virtual keys."""
    viewers: Sequence[str] = ()
    """`OIDC_VIEWERS`: users that can read all requests and settings, but change nothing."""
    members: Sequence[str] = ()
    """`OIDC_MEMBERS`: users that can read only their own requests. Empty: all other users of the identity provider."""
    domains: Sequence[str] = ()
    """`OIDC_DOMAINS`: domains of accepted e-mail addresses, in lower case. Empty: every domain is accepted."""


def load_oidc(sources: "Sources") -> OidcSettings | None:
    """None: `OIDC_ISSUER` is not set. Raises `ConfigurationError`."""
    from anthropic_proxy.gateway.settings.values import decode_url, invalid_setting_error  # noqa: PLC0415

    issuer, client_id = sources.find_setting("OIDC_ISSUER"), sources.find_setting("OIDC_CLIENT_ID")
    secret = sources.find_setting("OIDC_CLIENT_SECRET")
    texts = {name: sources.find_setting(f"OIDC_{name.upper()}") for name in ("role_claim", "email_claim")}
    names = ("scopes", "admins", "viewers", "members", "domains")
    lists = {name: sources.find_setting(f"OIDC_{name.upper()}", is_list=True) for name in names}
    if issuer is None and client_id is not None:
        raise ConfigurationError(
            "OIDC_CLIENT_ID is set, but OIDC_ISSUER is not. Set OIDC_ISSUER to the https:// URL of the identity "
            "provider, or remove OIDC_CLIENT_ID.",
            code="identity-provider",
        )
    if issuer is None:
        return None
    if client_id is None:
        raise ConfigurationError(
            "OIDC_ISSUER is set, but OIDC_CLIENT_ID is not. Register the proxy at the identity provider, and set "
            "OIDC_CLIENT_ID to the id of the client.",
            code="identity-provider",
        )
    fields = {name: found.text for name, found in texts.items() if found is not None}
    found_lists: dict[str, Any] = {
        name: tuple(dict.fromkeys(found.items)) for name, found in lists.items() if found is not None
    }
    if lists["scopes"] is not None:
        found_lists["scopes"] = tuple(dict.fromkeys(["openid", *" ".join(lists["scopes"].items).split()]))
    if lists["domains"] is not None:
        found_lists["domains"] = tuple(domain.lower().lstrip("@") for domain in lists["domains"].items)
    url = decode_url(issuer)
    parsed = urlsplit(url)
    if parsed.scheme.lower() != "https" and parsed.hostname not in _LOCAL_HOSTS:
        raise invalid_setting_error(issuer, "Use the https:// URL of the identity provider.")
    return OidcSettings(
        issuer=url.removesuffix("/.well-known/openid-configuration"),
        client_id=client_id.text,
        client_secret=None if secret is None else Secret(secret.text, f"{secret.variable} {secret.origin_phrase}"),
        **fields,
        **found_lists,
    )
