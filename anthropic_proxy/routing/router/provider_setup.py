"""Effects of the settings on one provider: base URL, server at the base URL, and missing key."""

from fnmatch import fnmatchcase
from functools import lru_cache
from urllib.parse import urlsplit

from anthropic_proxy.routing.providers import AnyWireConfig, Provider, ServerOverride, find_provider
from anthropic_proxy.routing.providers.registry import UNKNOWN_PROJECT
from anthropic_proxy.settings import Settings


def find_base_url(row: Provider, config: AnyWireConfig, settings: Settings) -> str:
    """Return the base URL for calls to a provider over one wire (`config`), without a trailing slash.

    The URL contains `UNKNOWN_PROJECT` if a Google Cloud project is required and not set.
    """
    base_url = _configured_base_url(row, settings)
    for suffix, replacement in config.url_suffixes:
        if base_url.endswith(suffix):
            return base_url.removesuffix(suffix) + replacement
    return base_url


def find_server_override(row: Provider, settings: Settings) -> ServerOverride | None:
    """Return the server entry that the base URL setting of a provider selects. None: the provider's own settings."""
    base_url = settings.base_urls.get(row.name)
    return None if base_url is None or not row.servers else _match(row.name, base_url)


@lru_cache(maxsize=64)
def _match(provider: str, base_url: str) -> ServerOverride | None:
    row, url = find_provider(provider), urlsplit(base_url)
    if url.hostname == urlsplit(row.base_url).hostname:
        return None
    location = f"{url.netloc}{url.path.rstrip('/')}/".lower()
    return next(
        (server for server in row.servers if any(fnmatchcase(location, pattern) for pattern in server.url_patterns)),
        None,
    )


def _configured_base_url(row: Provider, settings: Settings) -> str:
    base_url = settings.base_urls.get(row.name)
    if base_url is None:
        base_url = _regional_base_url(row, settings.vertex_location)
    elif row.default_url_path and not urlsplit(base_url).path:
        base_url += row.default_url_path
    if not row.project_url_path:
        return base_url
    if "/projects/" not in base_url:
        base_url += row.project_url_path
    project = settings.vertex_project or UNKNOWN_PROJECT
    return base_url.replace("{location}", settings.vertex_location).replace(UNKNOWN_PROJECT, project)


def _regional_base_url(row: Provider, location: str) -> str:
    return next((url for pattern, url in row.regional_urls if fnmatchcase(location, pattern)), row.base_url)


def describe_missing_key(provider: Provider, settings: Settings) -> str:
    """Return an error text with a remedy if the key of a provider is missing. "": no key is missing.

    For a provider with Google tokens, check only that a setting selects the provider. Tokens are not requested.
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
