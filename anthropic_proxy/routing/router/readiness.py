"""Whether a provider can be called at all, as far as settings show it."""

from anthropic_proxy.routing.providers import Provider
from anthropic_proxy.settings import Settings


def describe_missing_key(provider: Provider, settings: Settings) -> str:
    """Return in words that a provider's key is missing and what to do; empty: none is missing.

    Of a provider with tokens it is the sign that it is meant to be used: whether there are any, only a call shows.
    """
    if provider.key_source == "google":
        chosen = settings.preferred_provider == provider.name or settings.use_vertex_auth
        if chosen or settings.vertex_project or settings.google_credentials_file:
            return ""
        return f"{provider.name} is not set up: VERTEX_PROJECT is not set. Set it in .env or in the environment."
    own_server = provider.key_needed == "own_address" and provider.name in settings.base_urls
    if provider.key_variable is None or provider.key_needed == "never" or own_server:
        return ""
    if provider.takes_client_key and not settings.proxy_api_keys:
        return ""  # what the client sends is passed on, and the provider judges it
    if settings.keys.get(provider.name):
        return ""
    return (
        f"{provider.name} has no key: {provider.key_variable} is not set. "
        "Set it in .env or in the environment and start the proxy again."
    )
