"""Sign-in to the dashboard with an identity provider (OpenID Connect), from the variables `OIDC_…`."""

from typing import Any
from urllib.parse import urlsplit

from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings.fields import OidcSettings
from anthropic_proxy.gateway.settings.sources import Sources
from anthropic_proxy.gateway.settings.values import decode_url, invalid_setting_error
from anthropic_proxy.secrets import Secret

_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


def load_oidc(sources: Sources) -> OidcSettings | None:
    """Return None if `OIDC_ISSUER` is not set. Raises `ConfigurationError`."""
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
