"""The providers that the proxy knows, which need no table in the configuration file."""

from functools import cache
from urllib.parse import urlsplit

from anthropic_proxy.engine.providers import PROVIDERS, Provider, ProviderRegistry, find_registry
from anthropic_proxy.gateway.settings import load_settings

OLLAMA_PORT = 11434


@cache
def find_built_in_registry() -> ProviderRegistry:
    """Return the providers that the proxy knows, which need no table in the configuration file."""
    return find_registry(load_settings({}, PROVIDERS, env_file=None))


def find_built_in_provider(base_url: str) -> Provider | None:
    """Return the built-in provider with the same host as `base_url`. None: no built-in provider has this host.

    If `base_url`, a valid URL, has Ollama's port, the result is Ollama for any host.
    """
    url = urlsplit(base_url)
    if url.port == OLLAMA_PORT:
        return next(row for row in find_built_in_registry() if row.uses_installed_models)
    servers = [row for row in find_built_in_registry() if row.base_url and not row.uses_installed_models]
    return next((row for row in servers if urlsplit(row.base_url).hostname == url.hostname), None)
