"""The server, the base URL and the key of a provider with the present options."""

import hashlib
from fnmatch import fnmatchcase
from functools import lru_cache
from urllib.parse import quote, urlsplit

from anthropic_proxy.engine.options import EngineOptions, format_origin_in_sentence, suggest_key_variable
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.providers.catalog import find_table_capabilities
from anthropic_proxy.engine.providers.registry import (
    REGION,
    RESOURCE,
    UNKNOWN_PROJECT,
    AnyWireConfig,
    Provider,
    ServerOverride,
)


def find_server_override(provider: Provider, settings: EngineOptions) -> ServerOverride | None:
    """Return the entry of the server that the base URL setting selects. None: the provider's own, or an unknown one."""
    base_url = settings.base_urls.get(provider.name)
    return None if base_url is None or not provider.servers else find_server_at(provider, base_url)


@lru_cache(maxsize=64)
def find_server_at(provider: Provider, base_url: str) -> ServerOverride | None:
    """Return the entry among the servers of a provider that an address selects. None: it is the provider's own."""
    url = urlsplit(base_url)
    if url.hostname == urlsplit(provider.base_url).hostname:
        return None
    return next((server for server in provider.servers if is_address_of(server, base_url)), None)


def is_address_of(server: ServerOverride, base_url: str) -> bool:
    """Return True if a base URL matches one of the patterns of a server: its host, and its path."""
    url = urlsplit(base_url)
    host = url.hostname or ""
    path = f"{url.path.strip('/')}/".lstrip("/").lower()
    for pattern in server.url_patterns:
        host_pattern, _, path_pattern = pattern.partition("/")  # `*` of a host must not match a path
        if fnmatchcase(host, host_pattern) and fnmatchcase(path, path_pattern or "*"):
            return True
    return False


LOCAL_SERVER = "local"
"""Name of the server entry for addresses on this machine and in its network."""
UNKNOWN_SERVERS = (LOCAL_SERVER, "other")
"""Names of server entries that match servers of no known vendor. The dialect of such an entry is only assumed."""


def is_own_server(provider: Provider, settings: EngineOptions) -> bool:
    """Return True if a setting has the address of the server, and it is not that of a known vendor."""
    if provider.is_configured:
        return provider.key_required == "never"
    server = find_server_override(provider, settings)
    return server is not None and server.name in UNKNOWN_SERVERS


def has_own_models(provider: Provider, settings: EngineOptions) -> bool:
    """Return False if a setting has the address of another server, which may lack the models that the proxy knows."""
    changed = settings.base_urls.get(provider.name)
    if provider.is_configured or changed is None:
        return True
    own = (urlsplit(url).hostname or "" for url in (provider.base_url, *(url for _, url in provider.regional_urls)))
    host = urlsplit(changed).hostname or ""
    return any(fnmatchcase(host, pattern) for pattern in (*own, *provider.host_patterns, *provider.other_hosts))


def has_own_list(provider: Provider, settings: EngineOptions) -> bool:
    """Return True if only the server itself can list its models: it has a table, or a setting has its address."""
    return provider.is_configured or not has_own_models(provider, settings)


def is_in_table(provider: Provider, model: str, settings: EngineOptions) -> bool:
    """Return True if `models.toml` has the limits of a model at the server that the settings select."""
    server = find_server_override(provider, settings)
    table = (server.models_table if server else "") or provider.models_table or provider.name
    return find_table_capabilities(table, model).known


def find_base_url(provider: Provider, config: AnyWireConfig, settings: EngineOptions, model: str = "") -> str:
    """Return the base URL for the API of `config`, without a trailing slash. `model`: "" if it is for no single one.

    It contains `UNKNOWN_PROJECT` if no setting names the Google Cloud project.
    """
    base_url = settings.base_urls.get(provider.name)
    if base_url is None:
        location = settings.vertex_location
        regional = (url for pattern, url in provider.regional_urls if fnmatchcase(location, pattern))
        base_url = next(regional, provider.base_url)
        base_url = base_url.replace(REGION, settings.aws_region or REGION)
        base_url = base_url.replace(RESOURCE, settings.foundry_resource or RESOURCE)
    elif not (url := urlsplit(base_url)).path:
        server = find_server_override(provider, settings)
        default_path = (server.default_url_path if server else "") or provider.default_url_path
        base_url = url._replace(path=default_path).geturl()
    if provider.project_url_path:
        if "/projects/" not in base_url:
            base_url += provider.project_url_path
        project = settings.vertex_project or UNKNOWN_PROJECT
        location = (find_location(base_url) if provider.is_configured else None) or settings.vertex_location
        base_url = base_url.replace("{location}", location).replace(UNKNOWN_PROJECT, project)
    path, mark, query = base_url.partition("?")
    for suffix, replacement in config.url_suffixes:
        beginning, _, end = suffix.partition("*")
        at = f"{path}{mark}".rfind(beginning)
        rest = f"{path}{mark}"[at + len(beginning) :]
        is_at_end = rest.endswith(end) and "/" not in rest if end else not rest
        if at >= 0 and is_at_end and (model or "{model}" not in replacement):
            return base_url[:at] + replacement.replace("{model}", quote(model, safe="")) + query
    return base_url


def find_called_url(provider: Provider, settings: EngineOptions) -> str:
    """Return the base URL of the provider's usual API."""
    return find_base_url(provider, next(iter(provider.wires.values())), settings)


def digest_server_settings(provider: Provider, settings: EngineOptions) -> str:
    """Return a hash of the settings on which the replies of a provider depend: address, API, table, and what the table
    adds to each call. It contains no key.
    """
    base_url = find_called_url(provider, settings)
    tables = [table.json_text for table in settings.configured_providers if table.name == provider.name]
    options = settings.call_options.get(provider.name)
    added = None if options is None else (options.headers, options.body)
    parts = repr((base_url, settings.wires.get(provider.name), tables, added))
    return hashlib.blake2b(parts.encode(errors="replace"), digest_size=8).hexdigest()


def describe_unset_place(provider: Provider, settings: EngineOptions) -> str:
    """Return an error text if the region or resource of a cloud is unknown. "": it is known, or not needed."""
    address = settings.base_urls.get(provider.name, provider.base_url)
    is_signed = provider.key_source == "aws" and not settings.keys.get(provider.name)
    if settings.aws_region is None and (REGION in address or (is_signed and find_region(address) is None)):
        variable = "AWS_REGION"
    elif settings.foundry_resource is None and RESOURCE in address:
        variable = "ANTHROPIC_FOUNDRY_RESOURCE"
    else:
        return ""
    return f"{provider.prefix} is not set up: {variable} is not set. {settings.set_variable}"


_AWS_HOST = compile_later(
    r"(?:(?:[^.]+\.)?bedrock-(?:runtime|runtime-fips|mantle)|aws-external-anthropic)\.([a-z0-9-]+)\."
    r"(?:amazonaws\.com|api\.aws|vpce\.amazonaws\.com)"
)


def find_region(url: str) -> str | None:
    """Return the region in a host of AWS with Claude: `us-east-1`. None: the host belongs to another server."""
    found = _AWS_HOST.fullmatch(urlsplit(url).hostname or "")
    return None if found is None else found[1]


def find_host(base_url: str) -> str:
    """Return host and port of a URL, without user name and password: `api.openai.com`, `127.0.0.1:8000`."""
    return urlsplit(base_url).netloc.rpartition("@")[2]


_VERTEX_HOST = compile_later(r"([a-z0-9-]+)-aiplatform\.googleapis\.com|aiplatform\.([a-z0-9-]+)\.rep\.googleapis\.com")


def find_location(url: str) -> str | None:
    """Return the location in a host of Vertex AI: `europe-west1`. None: the host has none."""
    host = urlsplit(url).hostname or ""
    found = _VERTEX_HOST.fullmatch(host)
    return "global" if host == "aiplatform.googleapis.com" else found and (found[1] or found[2])


def build_server_name(provider: Provider, base_url: str) -> str:
    """Return provider and host, under which facts about models are stored: `openai api.openai.com`."""
    return f"{provider.name} {find_host(base_url)}"


def find_server_name(provider: Provider, settings: EngineOptions) -> str:
    """Return the name of the server that the settings select."""
    return build_server_name(provider, find_called_url(provider, settings))


def describe_missing_key(provider: Provider, settings: EngineOptions) -> str:
    """Return an error text with a remedy if a required key is missing. "": none is missing."""
    if provider.key_source == "google":
        chosen = provider.is_configured or settings.preferred_provider == provider.name or settings.use_vertex_auth
        if chosen or settings.vertex_project or settings.google_credentials_file:
            return ""
        return f"{provider.prefix} is not set up: VERTEX_PROJECT is not set. {settings.set_variable}"
    if provider.key_source != "settings":
        return describe_unset_place(provider, settings)
    if problem := settings.key_problems.get(provider.name):
        return f"{provider.prefix} has no key: {problem}"
    own_server = provider.key_required == "own_address" and provider.name in settings.base_urls
    if provider.key_variable is None or provider.key_required == "never" or own_server:
        return ""
    if provider.accepts_client_credential and not settings.requires_client_key:
        return ""  # the credential of the client is forwarded
    if settings.keys.get(provider.name):
        return ""
    if provider.is_configured:
        origin = format_origin_in_sentence(settings.origins.get(provider.base_url_variable or "", ""))
        variable = suggest_key_variable(provider.name)
        return (
            f"{provider.prefix} has no key: {provider.title} requires one. "
            f'Add it to [providers.{provider.name}] ({origin}):  api_key = {{ env = "{variable}" }}'
        )
    return f"{provider.prefix} has no key: {provider.key_variable} is not set. {settings.set_variable}"
