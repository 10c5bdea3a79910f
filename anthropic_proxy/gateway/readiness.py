"""Check of providers and settings before the first request: providers that can be called, and problems of the settings.

The start-up summary, the command `doctor` and the web pages show the result. No request is sent to a vendor; servers
nearby are connected to, and asked for their models if their address seems to be incomplete.
"""

import asyncio
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from msgspec import Struct, structs

from anthropic_proxy.engine.exchange.provider_errors import (
    assign_base_url,
    describe_base_url_setting,
    suggest_base_url,
)
from anthropic_proxy.engine.platforms.files import read_bounded_file
from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.engine.platforms.program import shorten_home
from anthropic_proxy.engine.providers import Provider, find_registry
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.providers.credentials import Credentials
from anthropic_proxy.engine.providers.hosts import (
    describe_missing_key,
    find_netloc,
    find_region,
    has_own_list,
)
from anthropic_proxy.engine.providers.provider_models import has_model_list
from anthropic_proxy.engine.routing.choices import (
    ModelChoice,
    choose_models,
    find_preferred_provider,
    list_route_choices,
    should_query_ollama,
)
from anthropic_proxy.engine.routing.health import CircuitBreakers
from anthropic_proxy.engine.routing.model_listing import TierMapping, list_tier_mappings
from anthropic_proxy.engine.routing.problems import list_rule_problems_and_warnings
from anthropic_proxy.engine.routing.replacements import (
    find_retirement,
    find_served_successor,
    find_successor_id,
    list_model_replacements,
)
from anthropic_proxy.engine.upstream.cloud_credentials import OPENAI_SCOPES
from anthropic_proxy.engine.upstream.http.dialer import accepts_connections, is_public_address
from anthropic_proxy.engine.upstream.http.url import parse_url
from anthropic_proxy.engine.wires.contract import Transport, UpstreamRequest
from anthropic_proxy.errors import ProxyError, build_extra_install_command, join_with_and
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.key_references import UNRESOLVED_KEY
from anthropic_proxy.gateway.settings.table import MODEL_VARIABLES
from anthropic_proxy.gateway.settings.values import mask_setting
from anthropic_proxy.plugins import ModelMapping, ProviderSetup, Setup

_NONE: Mapping[str, str] = MappingProxyType({})
_MAX_KEYS = 3
"""Maximum number of API keys of one provider that are listed, masked. Further keys appear as a count."""
_MAX_MODELS = 3
"""Maximum number of models that one warning names. Further models appear as a count."""
_MAX_TIERS = 2
"""Maximum number of Claude tiers that one line names. An ellipsis stands for further tiers."""


class ReadyProvider(Struct, frozen=True):
    name: str
    """Prefix of the provider's settings in lower case (`gemini`), or its name in the configuration file."""
    state: str
    """Redacted keys and their source (`…1234, .env`), number of models (`3 models`), project, or URL."""
    model_count: int | None = None
    """Number of models that the server of the provider lists. None: the list is unknown."""


class Readiness(Struct):
    ready: list[ReadyProvider]
    """Providers that can be called: key or address are set, and their packages are installed."""
    obstacles: list[str]
    """Error texts about problems that prevent replies: of providers with models for Claude tiers, and of enabled
    features."""
    advice: list[str]
    """Error texts about other providers. These problems affect only requests that name the provider."""
    unset: list[str]
    """Names of providers without an API key: `gemini`."""
    problems: dict[str, str]
    """Name of a provider that is used or configured, but cannot be called → the error text of its first problem."""


def find_readiness(settings: Settings, catalog: Catalog, server_problems: Mapping[str, str] = _NONE) -> Readiness:
    """`server_problems`: from `find_server_problems`."""
    used = find_used_models(settings, catalog)
    found = Readiness([], find_feature_problems(settings), [], [], {})
    for provider in find_registry(settings):
        if not (provider.offered_to_users or provider.name in used) or provider.name == "demo":
            continue
        missing_key, is_used = describe_missing_key(provider, settings), provider.name in used
        if missing_key:
            if is_used or provider.is_configured:
                found.problems[provider.name] = missing_key
            if not provider.is_configured:
                found.unset.extend([_name(provider)] if provider.offered_to_users else [])
            elif not is_used:
                found.advice.append(missing_key)
            continue
        obstacles = find_provider_problems(provider, used.get(provider.name, ()), settings, catalog)
        (found.obstacles if is_used else found.advice).extend(obstacles)
        if obstacles:
            found.problems[provider.name] = obstacles[0]
        elif text := server_problems.get(provider.name):
            found.problems[provider.name] = text
            (found.obstacles if is_used else found.advice).append(text)
        elif ready := _find_state(provider, settings, catalog):
            found.ready.append(ready)
    problems, warnings = list_rule_problems_and_warnings(settings, catalog)
    found.obstacles.extend(problems)
    found.advice.extend(warnings)
    return found


_CONNECT_SECONDS = 0.5
"""Maximum time in seconds until an own server has accepted a connection."""


async def find_server_problems(
    settings: Settings, catalog: Catalog, transports: Mapping[str, Transport]
) -> dict[str, str]:
    """Return name of the provider → text, for servers of this machine or a private network at which nothing listens, or
    whose API has another path. `transports`: of the event loop that runs; {}: the path is not examined.

    Servers with a host name are left out, because a lookup may take long, and so are those behind an HTTP proxy. Ollama
    at its usual address counts if it has answered before.
    """
    registry, found = find_registry(settings), dict[str, str]()
    local, addresses = registry.local, {}
    has_answered = catalog.cached_model_ids(local.name) is not None
    usual = {local.name: local.base_url} if has_answered else {}
    for name, url in {**usual, **settings.base_urls}.items():
        origin, options = parse_url(url).origin, settings.call_options.get(name)
        is_near = origin.host == "localhost" or not (origin.has_host_name or is_public_address(origin.host))
        if is_near and (options is None or options.proxy is None):
            addresses[name] = url
    listening = await asyncio.gather(*(accepts_connections(url, _CONNECT_SECONDS) for url in addresses.values()))
    for (name, url), is_listening in zip(addresses.items(), listening, strict=True):
        if not is_listening:
            provider = registry.find(name)
            where = describe_base_url_setting(provider, settings) if name in settings.base_urls else ""
            shown = mask_setting(provider.base_url_variable or "", url)
            found[name] = f"{_name(provider)} does not answer at {shown}. Start this server.{where}"
    listening_names = [
        name for name in addresses if name not in found and name in settings.base_urls and name in transports
    ]
    misplaced = await asyncio.gather(
        *(_find_missing_path(registry.find(name), settings, transports[name]) for name in listening_names)
    )
    return found | {name: text for name, text in zip(listening_names, misplaced, strict=True) if text}


async def _find_missing_path(provider: Provider, settings: Settings, send: Transport) -> str:
    """Return a text if the API of a server is at its address with a version, such as `/v1`. "": it is not known."""
    question, better = suggest_base_url(provider, settings)
    address = settings.base_urls[provider.name]
    if not better or not has_model_list(provider) or "chat" not in provider.wires:  # others have no list at /models
        return ""

    async def ask(base_url: str) -> int:
        request = UpstreamRequest(path="/models", body=b"", method="GET")
        response = await send(base_url, request, None)
        await response.close()
        return response.status

    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            statuses = await asyncio.gather(ask(address), ask(better))
    except (ProxyError, TimeoutError):
        return ""
    if statuses[0] not in (404, 405) or statuses[1] not in (200, 401, 403):
        return ""
    where = describe_base_url_setting(provider, settings)
    shown = mask_setting(provider.base_url_variable or "", address)
    remedy = assign_base_url(provider, settings, better)
    return f"{_name(provider)} has no API at {shown}.{where} {question} Try {remedy}"


def find_used_models(settings: Settings, catalog: Catalog) -> dict[str, list[str]]:
    """Return provider name → ids of the models for Claude tiers (opus …), with their fallbacks, and of routes."""
    by_prefix = {provider.prefix: provider.name for provider in find_registry(settings)}
    used: dict[str, list[str]] = {}
    for row in list_tier_mappings(settings, catalog):
        for target in (row.target, *row.fallbacks):
            prefix, _, model = target.partition("/")
            models = used.setdefault(by_prefix[prefix], [])
            if model not in models:
                models.append(model)
    for _, choice in list_route_choices(settings, catalog):
        models = used.setdefault(choice.provider.name, [])
        if choice.model not in models:
            models.append(choice.model)
    return used


def list_ignored_settings(settings: Settings, catalog: Catalog) -> Iterator[str]:
    """Yield one text, with the remedy, for each setting that has no effect."""
    used = find_used_models(settings, catalog)
    for provider in find_registry(settings):
        address = settings.base_urls.get(provider.name)
        in_use = provider.name in used or settings.keys.get(provider.name) or provider.uses_installed_models
        if address and not in_use and not provider.is_configured and provider.key_source == "settings":
            names = (provider.base_url_variable, f"{provider.env_prefix}_BASE_URL")
            variable = next((name for name in names if name in settings.origins), names[0])
            text = f"{variable} is set, but no request is sent there. Add PREFERRED_PROVIDER={provider.name}"
            yield f"{text} to {settings.variables_file}"
    preferred = find_preferred_provider(settings, catalog)
    for provider in find_registry(settings) if preferred.name == "demo" else ():
        is_cloud = not (provider.offered_to_users or provider.is_configured)  # without default models
        if is_cloud and settings.keys.get(provider.name) and provider.name not in used:
            yield (
                f"{provider.key_variable} is set, but only requests that name a model of {_name(provider)} are sent "
                f"there. Add PREFERRED_PROVIDER={_name(provider)}, BIG_MODEL and SMALL_MODEL to "
                f"{settings.variables_file}"
            )
    named = [name for name in MODEL_VARIABLES if name in settings.origins]
    if named and preferred.name == "demo":
        reason = describe_demo(settings)
        yield f"{_listed(named)} set, but {reason[0].lower()}{reason[1:]}."
    elif preferred.serves_claude and (named := [name for name in named if not name.startswith("MODEL_")]):
        yield f"{_listed(named)} set, but {preferred.name} serves the requested models themselves."
    yield from _list_shadowed_models(preferred, settings, catalog)


def describe_demo(settings: Settings) -> str:
    """Return why the demo replies, as a sentence without its end."""
    if settings.preferred_provider == "demo":
        return "The demo replies, because PREFERRED_PROVIDER is demo"
    return "No provider is chosen, so the demo replies"


def _list_shadowed_models(preferred: Provider, settings: Settings, catalog: Catalog) -> Iterator[str]:
    """Yield a text for each provider of the settings with models that are sent elsewhere.

    Without its prefix, such a model goes to another provider that lists it, or is mapped like a Claude model.
    """
    for provider in find_registry(settings):
        names = [name for name in provider.known_models if "/" not in name] if provider.is_configured else []
        targets = {name: choose_models(name, preferred, settings, catalog)[0] for name in names}
        shadowed = [name for name, choice in targets.items() if choice.provider.name != provider.name]
        if shadowed:
            more = f" and {len(shadowed) - _MAX_MODELS} more" if len(shadowed) > _MAX_MODELS else ""
            yield (
                f"[providers.{provider.name}] lists {', '.join(shadowed[:_MAX_MODELS])}{more}. Without a prefix, "
                f"{shadowed[0]} is sent to {targets[shadowed[0]].prefixed_id}. "
                f"For this server, request {provider.prefix}/{shadowed[0]}"
            )


def group_tier_mappings(settings: Settings, catalog: Catalog) -> list[tuple[Sequence[str], TierMapping]]:
    """Join the Claude tiers (opus …) that the same setting maps to the same models.

    A row has the names of its tiers and the mapping of the first tier.
    """
    groups: dict[tuple[object, ...], list[TierMapping]] = {}
    for row in list_tier_mappings(settings, catalog):
        groups.setdefault((*row.replies, row.fallbacks), []).append(row)
    return [([row.tier for row in group], group[0]) for group in groups.values()]


def group_shown_mappings(settings: Settings, catalog: Catalog) -> list[tuple[Sequence[str], TierMapping]]:
    """As `group_tier_mappings`, with reasons that have the names of settings files instead of their paths."""
    return [
        (tiers, structs.replace(row, replies=[(one, remove_folders(reason, settings)) for one, reason in row.replies]))
        for tiers, row in group_tier_mappings(settings, catalog)
    ]


def remove_folders(text: str, settings: Settings) -> str:
    """Return `text` with the names of settings files instead of their paths."""
    for file in settings.files:
        text = text.replace(shorten_home(file), os.path.basename(file))
    return text


def join_tiers(tiers: Sequence[str]) -> str:
    """Return names of tiers in little room: `haiku, sonnet …`."""
    names = ", ".join(tiers[:_MAX_TIERS])
    return f"{names} …" if len(tiers) > _MAX_TIERS else names


def name_target(target: str) -> str:
    """Return the target of a `TierMapping` for a reader: `openai/gpt-4.1`; without a model: `my, no model`."""
    return f"{target.removesuffix('/')}, no model" if target.endswith("/") else target


def _listed(names: Sequence[str]) -> str:
    return f"{join_with_and(names)} {'is' if len(names) == 1 else 'are'}"


def _find_state(provider: Provider, settings: Settings, catalog: Catalog) -> ReadyProvider | None:
    name = _name(provider)
    if keys := settings.keys.get(provider.name, ()):
        listed_keys = ", ".join(map(str, keys[:_MAX_KEYS]))
        more = f" and {len(keys) - _MAX_KEYS} more" if len(keys) > _MAX_KEYS else ""
        source = settings.origins.get(provider.key_variable or "", "set").partition(" line")[0]
        return ReadyProvider(name, f"{listed_keys}{more}, {source}")
    if (listed := catalog.cached_model_ids(provider.name)) is not None:
        return ReadyProvider(name, f"{len(listed)} model{'' if len(listed) == 1 else 's'}", len(listed))
    if provider.transport == "litellm":
        return ReadyProvider(name, "installed")
    if provider.key_source == "google" and not provider.is_configured:
        state = find_google_project(settings) or ""
    else:
        address = settings.base_urls.get(provider.name, "")
        region = find_region(address) or settings.aws_region
        place = {"aws": region, "azure": None if provider.is_configured else settings.foundry_resource}
        state = place.get(provider.key_source) or address
    return ReadyProvider(name, state) if state else None


def _name(provider: Provider) -> str:
    return provider.env_prefix.lower() or provider.name


class RetirementNotice(NamedTuple):
    """Notice that a model of the settings is retired, with its successor."""

    text: str
    """Vendor, model and date of the retirement, followed by an introduction of `replacement`: `Its successor:`."""
    replacement: str
    """Line of `.env` that selects the successor, `BIG_MODEL=openai/gpt-5.5`; of a route, its line `targets`. The name
    alone: the setting is to be removed."""


def list_retirement_notices(
    settings: Settings, catalog: Catalog, today: date, *, only_routes: bool = False
) -> list[RetirementNotice]:
    """Check the models of Claude tiers (opus …), their fallbacks and the routes. `today`: the last date that counts."""
    find_other = partial(find_served_successor, settings=settings, catalog=catalog, today=today)
    notices = []
    for found in list_model_replacements(find_other, settings, catalog):
        if only_routes and found.route is None:
            continue
        successors = dict.fromkeys(map(find_other, found.replaced))
        text = describe_retirements(found.replaced, settings)
        lead = f"{text}. {'Its successor' if len(found.replaced) == 1 else 'Their successor'}"
        lead += "s" if len(successors) > 1 else ""
        if any(find_other(choice) != find_successor_id(choice, settings, today) for choice in found.replaced):
            lead = f"{text}, and its successor is not in the list of the server. Another model"
            if len(found.replaced) > 1:
                lead = f"{text}, and not all of their successors are in the list of the server. Other models"
        if found.route is not None:
            lead += f' for route "{found.route.name}" ({found.setting.source}){found.condition}'
        elif found.tier and not successors.keys() & set(found.line.partition("=")[2].split(",")):
            verb = "is the model" if len(successors) == 1 else "are models"
            lead = f"{text}. {join_with_and([*successors])} {verb} of {found.tier} already. "
            lead += "Remove the setting" if found.is_removal else "Write"
        notices.append(RetirementNotice(f"{lead}:", found.line))
    return list(dict.fromkeys(notices))


def describe_retirements(choices: Sequence[ModelChoice], settings: Settings) -> str:
    """Return a clause about retired models: `DeepSeek retired deepseek-chat and deepseek-reasoner on 24 July 2026`."""
    groups: dict[tuple[str, str], dict[str, None]] = {}
    for choice in choices:
        retirement = find_retirement(choice.provider, choice.model)
        assert retirement is not None  # the caller has found the successor
        vendor = choice.provider.host.title
        groups.setdefault((vendor, retirement.retired_on), {})[choice.model] = None
    clauses = []
    for (vendor, day), models in groups.items():
        on = date.fromisoformat(day)
        clauses.append(f"{vendor} retired {join_with_and([*models])} on {on.day} {on:%B %Y}")
    return join_with_and(clauses)


def list_problems_and_warnings(
    settings: Settings, catalog: Catalog, today: date, server_problems: Mapping[str, str] = _NONE
) -> tuple[list[str], list[str]]:
    """Problems prevent replies. A model that was retired on `today` or earlier gets a warning. `server_problems`: from
    `find_server_problems`.
    """
    rows, found = list_tier_mappings(settings, catalog), find_readiness(settings, catalog, server_problems)
    problems = dict.fromkeys((*(problem for row in rows for problem in row.problems), *found.obstacles))
    retired = [f"{text}  {line}" for text, line in list_retirement_notices(settings, catalog, today)]
    warnings = (*settings.warnings, *retired, *found.advice, *list_ignored_settings(settings, catalog))
    return list(problems), list(dict.fromkeys(warnings))


_DEFAULT_CREDENTIALS = "~/.config/gcloud/application_default_credentials.json"
"""File that `gcloud auth application-default login` writes (cloud.google.com, "How Application Default Credentials
works", read 2026-11)."""
_EXTRAS = {
    "aws": ("botocore", "bedrock"),
    "azure": ("azure.identity", "azure"),
    **dict.fromkeys(OPENAI_SCOPES, ("azure.identity", "azure")),
}
"""Value of `Provider.key_source` → library that it needs, and name of the extra."""
_KEY_STEMS = {"bedrock": "AWS", "sagemaker": "AWS"}
"""LiteLLM provider prefix → first word of the provider's key variables, if it is not the prefix in upper case."""


def find_provider_problems(
    provider: Provider, models: Sequence[str], settings: Settings, catalog: Catalog
) -> list[str]:
    """Return why a provider cannot be called with these settings.

    `models` are the ids, without prefix, that the settings use. Each text has a remedy.
    """
    if provider.key_source == "google":
        obstacles = []
        if not _is_installed("google.auth"):
            obstacles.append(
                f"{provider.title} needs google-auth, which is not installed:  {build_extra_install_command('vertex')}"
            )
        file = _credentials_file(settings)
        named = settings.google_credentials_file
        if named == UNRESOLVED_KEY:  # only the running proxy has it
            return obstacles
        content = _load(file)
        if isinstance(content, str):
            origin = settings.origins.get("GOOGLE_APPLICATION_CREDENTIALS", "set")
            where = (
                f"GOOGLE_APPLICATION_CREDENTIALS ({origin})" if named else "The file of Application Default Credentials"
            )
            if named or os.path.exists(file):
                obstacles.append(
                    f"{where} cannot be used: {mask_setting('GOOGLE_APPLICATION_CREDENTIALS', str(file))}: {content}."
                )
            else:
                obstacles.append(
                    f"{provider.title} has no credentials file: set GOOGLE_APPLICATION_CREDENTIALS, or log in with  "
                    "gcloud auth application-default login  (on Google Cloud the metadata server may supply them)"
                )
        if find_google_project(settings) is None and not provider.is_configured:
            obstacles.append("Vertex AI has no project: set VERTEX_PROJECT in .env or in the environment.")
        return obstacles
    if provider.key_source in _EXTRAS and not settings.keys.get(provider.name):
        package, extra = _EXTRAS[provider.key_source]
        if not _is_installed(package):
            name, command = package.replace(".", "-"), build_extra_install_command(extra)
            return [f"{provider.title} without an API key needs {name}, which is not installed:  {command}"]
        return []
    if provider.transport == "litellm":
        if not _is_installed("litellm"):
            missing = f"LiteLLM is not installed:  {build_extra_install_command('litellm')}"
            return [missing, *_propose_other_server(provider, settings, catalog)]
        names = {secret.origin.upper() for secret in settings.other_secrets}
        stems = dict.fromkeys(model.partition("/")[0] for model in models if "/" in model)
        return [
            f"{stem} has no key: LiteLLM reads it from a variable {_stem(stem)}_…, and none is set."
            for stem in stems
            if not any(name.startswith(f"{_stem(stem)}_") for name in names)
        ]
    if provider.uses_installed_models:
        listed = catalog.cached_model_ids(provider.name)
        if listed is None:
            if not models or not should_query_ollama(settings):
                return []
            address = settings.base_urls.get(provider.name, provider.base_url)
            return [f"{provider.title} did not answer at {address}. Start it with  ollama serve  or set its address."]
        return [
            f"{provider.title} has no model {model}. Get it with  ollama pull {model}"
            for model in dict.fromkeys(models)
            if not {model, f"{model}:latest"} & {*listed}
        ]
    return []


def _propose_other_server(provider: Provider, settings: Settings, catalog: Catalog) -> Iterator[str]:
    """Yield the lines that send models of a provider to the preferred server instead, which may have them too: the name
    `deepseek/deepseek-chat` is one of OpenRouter.
    """
    preferred = find_preferred_provider(settings, catalog)
    if not has_own_list(preferred, settings):
        return
    found = list_model_replacements(
        lambda choice: f"{preferred.prefix}/{choice.model}" if choice.provider is provider else "", settings, catalog
    )
    host = find_netloc(settings.base_urls.get(preferred.name, preferred.base_url))
    for one in found:
        place = f"{one.setting.name} ({one.setting.source})"
        yield f"{place} names a model of {provider.title}. For that of {host}:  {one.line}"


def find_feature_problems(settings: Settings) -> list[str]:
    problems = []
    if settings.fetch_urls and not _is_installed("lxml"):
        problems.append(
            f"FETCH_URLS needs lxml to read HTML pages, which is not installed:  {build_extra_install_command('fetch')}"
        )
    if settings.has_traces() and not _is_installed("opentelemetry.exporter.otlp.proto.http"):
        problems.append(
            "Traces need the OpenTelemetry SDK, which is not installed, so none are sent. Install it, or set "
            f"OTEL_TRACES_EXPORTER=none:  {build_extra_install_command('otel')}"
        )
    if settings.search is not None and settings.search.problem and settings.search_url is None:
        problems.append(f"Web searches fail: {settings.search.problem}")
    return problems


def find_google_project(settings: Settings) -> str | None:
    """From the settings, else from the credentials file. None: neither has one."""
    if settings.vertex_project:
        return settings.vertex_project
    content = _load(_credentials_file(settings))
    named = content.get("project_id") or content.get("quota_project_id") if isinstance(content, dict) else None
    return named if isinstance(named, str) else None


def _stem(prefix: str) -> str:
    return _KEY_STEMS.get(prefix, prefix.upper().replace("-", "_"))


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def _credentials_file(settings: Settings) -> Path:
    return Path(os.path.expanduser(settings.google_credentials_file or _DEFAULT_CREDENTIALS))


def _load(file: Path) -> Any:
    """A text is the reason for which the credentials file cannot be used."""
    try:
        content = json.loads(read_bounded_file(file))
    except OSError as error:
        return describe_os_error(error)
    except (ValueError, RecursionError):
        return "it is not JSON"
    return content if isinstance(content, dict) else "it is not a JSON object"


def describe_setup(
    settings: Settings,
    catalog: Catalog,
    breakers: CircuitBreakers | None = None,
    credentials: Credentials | None = None,
    server_problems: Mapping[str, str] = _NONE,
    *,
    today: date,
) -> Setup:
    """Blocked servers and skipped keys are included if `breakers` and `credentials` are given. `server_problems`: from
    `find_server_problems`. Models retired on `today` or earlier get an advice.
    """
    readiness = find_readiness(settings, catalog, server_problems)
    rows = group_shown_mappings(settings, catalog)
    found = (*(problem for _, row in rows for problem in row.problems), *readiness.obstacles)
    problems = list(dict.fromkeys(found))
    mapping = [
        ModelMapping(
            tiers=join_tiers(tiers),
            target=row.target,
            fallbacks=row.fallbacks,
            reason=row.reason,
            replies=tuple(row.replies),
        )
        for tiers, row in rows
    ]
    providers = [_add_health(one, settings, breakers, credentials) for one in _list_providers(settings, readiness)]
    retired = [f"{text}  {line}" for text, line in list_retirement_notices(settings, catalog, today)]
    return Setup(providers=providers, mapping=mapping, problems=problems, advice=[*retired, *readiness.advice])


def _list_providers(settings: Settings, readiness: Readiness) -> Iterator[ProviderSetup]:
    ready = {provider.name: provider.state for provider in readiness.ready}
    for provider in find_registry(settings):
        name = _name(provider)
        if provider.name == "demo" or not (provider.offered_to_users or name in ready):
            continue
        address = settings.base_urls.get(provider.name) or provider.base_url
        if name in ready:
            yield _describe(provider, "ready", address, detail=remove_folders(ready[name], settings))
        elif problem := readiness.problems.get(provider.name):
            yield _describe(provider, "problem", address, remedy=problem)
        else:
            yield _describe(provider, "unset", address, remedy=describe_missing_key(provider, settings) or "")


def _add_health(
    setup: ProviderSetup, settings: Settings, breakers: CircuitBreakers | None, credentials: Credentials | None
) -> ProviderSetup:
    circuits = {} if breakers is None else breakers.list_open_circuits()
    blocked = [found for upstream, found in circuits.items() if upstream.partition(" ")[0] == setup.name]
    seconds, failure = max(blocked, default=(0.0, ""))
    return structs.replace(
        setup,
        key_count=len(settings.keys.get(setup.name, ())),
        cooldowns=[] if credentials is None else credentials.list_cooldown_seconds(setup.name),
        open_seconds=seconds,
        failure=failure,
    )


def _describe(
    provider: Provider,
    state: Literal["ready", "problem", "unset"],
    address: str,
    *,
    detail: str = "",
    remedy: str = "",
) -> ProviderSetup:
    return ProviderSetup(
        name=provider.name, prefix=provider.prefix, state=state, detail=detail, base_url=address, remedy=remedy
    )
