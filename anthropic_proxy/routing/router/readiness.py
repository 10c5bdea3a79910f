"""Check of provider keys in the settings."""

from anthropic_proxy.routing.providers import Provider
from anthropic_proxy.settings import Settings


def describe_missing_key(provider: Provider, settings: Settings) -> str:
    """Return an error text about a missing key and its remedy. "": no key is missing.

    For providers with tokens, check that the provider is configured. Only a call shows if there is a token.
    """
    if provider.key_source == "google":
        chosen = settings.preferred_provider == provider.name or settings.use_vertex_auth
        if chosen or settings.vertex_project or settings.google_credentials_file:
            return ""
        return f"{provider.prefix} is not set up: VERTEX_PROJECT is not set. Set it in .env or in the environment."
    own_server = provider.key_required == "own_address" and provider.name in settings.base_urls
    if provider.key_variable is None or provider.key_required == "never" or own_server:
        return ""
    if provider.accepts_client_credential and not settings.proxy_api_keys:
        return ""  # the credential of the client is forwarded
    if settings.keys.get(provider.name):
        return ""
    return (
        f"{provider.prefix} has no key: {provider.key_variable} is not set. "
        "Set it in .env or in the environment and start the proxy again."
    )
