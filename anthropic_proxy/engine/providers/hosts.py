"""The host of a provider that its base URL setting selects, and its address and key with the present options."""

import hashlib
from collections import ChainMap
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any
from urllib.parse import quote, urlsplit

from msgspec import structs

from anthropic_proxy.engine.advice import Problem, ProblemKind, report_problem
from anthropic_proxy.engine.options import EngineOptions, format_origin_in_sentence, suggest_key_variable
from anthropic_proxy.engine.patterns import compile_anchored
from anthropic_proxy.engine.providers.model_facts import cached_with_facts, find_table_capabilities
from anthropic_proxy.engine.providers.registry import REGION, RESOURCE, UNKNOWN_PROJECT, AnyWireConfig, Host, Provider

_INHERITED = ("title", "default_url_path", "price_url", "docs_url")


def complete_host(host: Host, provider: Provider) -> Host:
    """Return a host of a provider with the fields of the provider where it states none."""
    changes: dict[str, Any] = {name: getattr(host, name) or getattr(provider, name) for name in _INHERITED}
    if not host.key_header:
        changes |= {"key_header": provider.key_header, "key_scheme": provider.key_scheme}
    if not host.wires:
        changes["retired_models"] = provider.retired_models
    changes["models_table"] = host.models_table or provider.models_table or provider.name
    wires: Any = ChainMap(host.wires, provider.wires)  # type: ignore[arg-type]  # each API is built at its first use
    return structs.replace(host, wires=wires, **changes)


@cached_with_facts(64)
def resolve_host(provider: Provider, base_url: str) -> Host:
    """Return the host of a provider that an address selects. The provider itself is its own one."""
    host = find_host_at(provider, base_url)
    return provider if host is None else complete_host(host, provider)


def find_host_at(provider: Provider, base_url: str) -> Host | None:
    """Return the one of the provider's `hosts` that an address selects. None: it is the provider's own."""
    url = urlsplit(base_url)
    if url.hostname == urlsplit(provider.base_url).hostname:
        return None
    return provider.hosts.find_at(base_url)


LOCAL_HOST = "local"
"""Name of the host for addresses on this machine and in its network."""
UNKNOWN_HOSTS = (LOCAL_HOST, "other")
"""Names of hosts for the addresses of no known vendor. The dialect of such a host is only assumed."""


def is_own_server(provider: Provider) -> bool:
    """Return True if a setting has the address of the server, and it is not that of a known vendor."""
    if provider.is_configured:
        return provider.key_required == "never"
    return provider.host.name in UNKNOWN_HOSTS


def has_own_models(provider: Provider, settings: EngineOptions) -> bool:
    """Return False if a setting has the address of another server, which may lack the models that the proxy knows."""
    changed = settings.base_urls.get(provider.name)
    if provider.is_configured or changed is None:
        return True
    return _is_own_address(provider, changed)


@lru_cache(maxsize=256)
def _is_own_address(provider: Provider, base_url: str) -> bool:
    """Return True if the vendor of the provider has this address. It is cached, because each relay needs it."""
    own = (urlsplit(url).hostname or "" for url in (provider.base_url, *(url for _, url in provider.regional_urls)))
    host = urlsplit(base_url).hostname or ""
    return any(fnmatchcase(host, pattern) for pattern in (*own, *provider.host_patterns, *provider.other_hosts))


def has_own_list(provider: Provider, settings: EngineOptions) -> bool:
    """Return True if only the server itself can list its models: it has a table, or a setting has its address."""
    return provider.is_configured or not has_own_models(provider, settings)


def is_in_table(provider: Provider, model: str) -> bool:
    """Return True if the facts about models have the limits of a model at the host that is called."""
    return find_table_capabilities(provider.host.models_table or provider.name, model).known


def find_address(provider: Provider, settings: EngineOptions) -> str:
    """Return the address of a provider, without a trailing slash. Its APIs may have other paths (`find_base_url`).

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
        base_url = url._replace(path=provider.host.default_url_path).geturl()
    if provider.project_url_path:
        if "/projects/" not in base_url:
            base_url += provider.project_url_path
        project = settings.vertex_project or UNKNOWN_PROJECT
        location = (find_location(base_url) if provider.is_configured else None) or settings.vertex_location
        base_url = base_url.replace("{location}", location).replace(UNKNOWN_PROJECT, project)
    return base_url


def find_base_url(provider: Provider, config: AnyWireConfig, settings: EngineOptions, model: str = "") -> str:
    """Return the base URL for the API of `config`. `model`: "" if it is for no single one. See `find_address`."""
    base_url = find_address(provider, settings)
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
    address = find_address(provider, settings)
    tables = [table.json_text for table in settings.configured_providers if table.name == provider.name]
    options = settings.call_options.get(provider.name)
    added = None if options is None else (options.headers, options.body)
    parts = repr((address, settings.wires.get(provider.name), tables, added))
    return hashlib.blake2b(parts.encode(errors="replace"), digest_size=8).hexdigest()


def find_unset_place(provider: Provider, settings: EngineOptions) -> Problem | None:
    """Return the problem that the region or resource of a cloud is unknown. None: it is known, or not needed."""
    address = settings.base_urls.get(provider.name, provider.base_url)
    is_signed = provider.key_source == "aws" and not settings.keys.get(provider.name)
    if settings.aws_region is None and (REGION in address or (is_signed and find_region(address) is None)):
        variable = "AWS_REGION"
    elif settings.foundry_resource is None and RESOURCE in address:
        variable = "ANTHROPIC_FOUNDRY_RESOURCE"
    else:
        return None
    return _report_unset(ProblemKind.NOT_SET_UP, provider, variable, settings)


def _report_unset(kind: ProblemKind, provider: Provider, variable: str, settings: EngineOptions) -> Problem:
    facts = {"prefix": provider.prefix, "variable": variable, "set_variable": settings.set_variable}
    return report_problem(kind, provider.name, **facts)


_AWS_HOST = compile_anchored(
    r"(?:(?:[^.]+\.)?bedrock-(?:runtime|runtime-fips|mantle)|aws-external-anthropic)\.([a-z0-9-]+)\."
    r"(?:amazonaws\.com|api\.aws|vpce\.amazonaws\.com)"
)


def find_region(url: str) -> str | None:
    """Return the region in a host of AWS with Claude: `us-east-1`. None: the host belongs to another server."""
    found = _AWS_HOST.fullmatch(urlsplit(url).hostname or "")
    return None if found is None else found[1]


def find_netloc(base_url: str) -> str:
    """Return host and port of a URL, without user name and password: `api.openai.com`, `127.0.0.1:8000`."""
    return urlsplit(base_url).netloc.rpartition("@")[2]


_VERTEX_HOST = compile_anchored(
    r"([a-z0-9-]+)-aiplatform\.googleapis\.com|aiplatform\.([a-z0-9-]+)\.rep\.googleapis\.com"
)


def find_location(url: str) -> str | None:
    """Return the location in a host of Vertex AI: `europe-west1`. None: the host has none."""
    host = urlsplit(url).hostname or ""
    found = _VERTEX_HOST.fullmatch(host)
    return "global" if host == "aiplatform.googleapis.com" else found and (found[1] or found[2])


def build_server_name(provider: Provider, base_url: str) -> str:
    """Return provider and host, under which facts about models are stored: `openai api.openai.com`."""
    return f"{provider.name} {find_netloc(base_url)}"


def is_known_server(provider: Provider, base_url: str) -> bool:
    """Return True for a server of a vendor or cloud. False: an address of the settings, at which any program with the
    Messages API may listen. Clouds have other paths, or requests with a signature or token of the cloud.
    """
    if provider.selected_host is not None or provider.host_patterns or provider.key_source != "settings":
        return True
    return not provider.is_configured and _is_own_address(provider, base_url)


def find_server_name(provider: Provider, settings: EngineOptions) -> str:
    """Return the name of the server that the settings select."""
    return build_server_name(provider, find_address(provider, settings))


def find_missing_key(provider: Provider, settings: EngineOptions) -> Problem | None:
    """Return the problem that a required key is missing. None: none is missing."""
    if provider.key_source == "google":
        chosen = provider.is_configured or settings.preferred_provider == provider.name or settings.use_vertex_auth
        if chosen or settings.vertex_project or settings.google_credentials_file:
            return None
        return _report_unset(ProblemKind.NOT_SET_UP, provider, "VERTEX_PROJECT", settings)
    if provider.key_source != "settings":
        return find_unset_place(provider, settings)
    if problem := settings.key_problems.get(provider.name):
        return report_problem(ProblemKind.UNREADABLE_KEY, provider.name, prefix=provider.prefix, reason=problem)
    own_server = provider.key_required == "own_address" and provider.name in settings.base_urls
    if not provider.key_variable or provider.key_required == "never" or own_server:
        return None
    if provider.accepts_client_credential and not settings.requires_client_key:
        return None  # the credential of the client is forwarded
    if settings.keys.get(provider.name):
        return None
    if provider.is_configured:
        origin = format_origin_in_sentence(settings.origins.get(provider.base_url_variable or "", ""))
        facts = {"prefix": provider.prefix, "title": provider.title, "variable": suggest_key_variable(provider.name)}
        return report_problem(ProblemKind.NO_KEY_IN_TABLE, provider.name, place=origin, **facts)
    return _report_unset(ProblemKind.NO_KEY, provider, provider.key_variable, settings)
