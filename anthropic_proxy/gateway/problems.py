"""The problems of settings: `find_problems` returns the list that all commands and pages show.

The texts are rows of `engine/advice.py`. No request is sent to a vendor; servers nearby are connected to, and asked for
their models if their address seems to be incomplete.
"""

import asyncio
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from msgspec import structs

from anthropic_proxy.engine.advice import SIGNS, Problem, ProblemKind, Severity, report_problem, report_warning
from anthropic_proxy.engine.exchange.provider_errors import (
    assign_base_url,
    describe_base_url_setting,
    suggest_base_url,
)
from anthropic_proxy.engine.platforms.files import read_bounded_file
from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.engine.providers import Provider, find_registry
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.providers.hosts import (
    find_missing_key,
    find_netloc,
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
from anthropic_proxy.engine.routing.model_listing import list_tier_mappings
from anthropic_proxy.engine.routing.problems import find_image_problems, find_route_problems
from anthropic_proxy.engine.routing.replacements import (
    find_retirement,
    find_served_successor,
    find_successor_id,
    list_model_replacements,
)
from anthropic_proxy.engine.upstream.cloud_credentials import OPENAI_SCOPES
from anthropic_proxy.engine.upstream.http.dialer import accepts_connections, is_public_address
from anthropic_proxy.engine.upstream.http.url import parse_url
from anthropic_proxy.engine.wires.bound_requests import BoundRequest, Transport
from anthropic_proxy.engine.wires.operator_origin import OperatorOrigin
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest
from anthropic_proxy.errors import ProxyError, build_extra_install_command, is_installed, join_with_and
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.files import format_toml_value
from anthropic_proxy.gateway.settings.key_references import UNRESOLVED_KEY
from anthropic_proxy.gateway.settings.key_rules import Rules
from anthropic_proxy.gateway.settings.table import MODEL_VARIABLES
from anthropic_proxy.gateway.settings.values import mask_setting

_NO_PROBLEMS: Mapping[str, Problem] = MappingProxyType({})
_MAX_NAMED = 3
"""Maximum number of models, keys or teams that one warning names. Further ones appear as a count."""


def find_problems(
    settings: Settings, catalog: Catalog, today: date, server_problems: Mapping[str, Problem] = _NO_PROBLEMS
) -> list[Problem]:
    """Return the problems of the settings, each text once: first errors, then warnings.

    A model that was retired on `today` or earlier gets a warning. `server_problems`: from `find_server_problems`.
    """
    used = find_used_models(settings, catalog)
    found = [report_warning(ProblemKind.STATED, "settings", reason=warning) for warning in settings.warnings]
    found += (problem for row in list_tier_mappings(settings, catalog) for problem in row.problems)
    found += find_feature_problems(settings)
    found += find_retirements(settings, catalog, today)
    for provider in find_registry(settings):
        server_problem = server_problems.get(provider.name)
        if provider.name == "demo" or not (provider.offered_to_users or provider.name in used or server_problem):
            continue
        if missing_key := find_missing_key(provider, settings):
            of_provider = [missing_key] if provider.is_configured and provider.name not in used else []
        else:
            of_provider = find_provider_problems(provider, used.get(provider.name, ()), settings, catalog)
            of_provider = of_provider or ([server_problem] if server_problem else [])
        severity: Severity = "error" if provider.name in used else "warning"
        found += (structs.replace(problem, severity=severity) for problem in of_provider)
    found += find_route_problems(settings, catalog)
    found += find_image_problems(settings, catalog)
    found += _find_ignored_settings(settings, catalog, used)
    found += find_price_problems(settings, catalog, _list_rules(settings))
    by_text: dict[str, Problem] = {}
    for problem in found:
        by_text.setdefault(problem.text, problem)
    return sort_problems(by_text.values())


def sort_problems(problems: Iterable[Problem]) -> list[Problem]:
    """Return errors first, then warnings."""
    return sorted(problems, key=lambda problem: [*SIGNS].index(problem.severity))


_CONNECT_SECONDS = 0.5
"""Maximum time in seconds until an own server has accepted a connection."""


async def find_server_problems(
    settings: Settings, catalog: Catalog, transports: Mapping[str, Transport]
) -> dict[str, Problem]:
    """Return name of the provider → problem, for servers of this machine or a private network at which nothing listens,
    or whose API has another path. `transports`: of the event loop that runs; {}: the path is not examined.

    Servers with a host name are left out, because a lookup may take long, and so are those behind an HTTP proxy. Ollama
    at its usual address counts if it has answered before.
    """
    registry, found = find_registry(settings), dict[str, Problem]()
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
            facts = {"name": find_setting_name(provider), "address": shown, "setting": where}
            found[name] = report_problem(ProblemKind.NO_ANSWER, name, **facts)
    listening_names = [
        name for name in addresses if name not in found and name in settings.base_urls and name in transports
    ]
    misplaced = await asyncio.gather(
        *(_find_missing_path(registry.find(name), settings, transports[name]) for name in listening_names)
    )
    return found | {one.subject: one for one in misplaced if one}


async def _find_missing_path(provider: Provider, settings: Settings, send: Transport) -> Problem | None:
    """Return a problem if the API of a server is at its address with a version, such as `/v1`. None: unknown."""
    question, better = suggest_base_url(provider, settings)
    address = settings.base_urls[provider.name]
    if not better or not has_model_list(provider) or "chat" not in provider.wires:  # others have no list at /models
        return None

    async def ask(base_url: str) -> int:
        request = UpstreamRequest(path="/models", body=b"", method="GET")
        response = await send(BoundRequest(OperatorOrigin("server_probe"), base_url, request))
        await response.close()
        return response.status

    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            statuses = await asyncio.gather(ask(address), ask(better))
    except (ProxyError, TimeoutError):
        return None
    if statuses[0] not in (404, 405) or statuses[1] not in (200, 401, 403):
        return None
    return report_problem(
        ProblemKind.NO_API,
        provider.name,
        name=find_setting_name(provider),
        address=mask_setting(provider.base_url_variable or "", address),
        setting=describe_base_url_setting(provider, settings),
        question=question,
        line=assign_base_url(provider, settings, better),
    )


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


def _find_ignored_settings(
    settings: Settings, catalog: Catalog, used: Mapping[str, Sequence[str]]
) -> Iterator[Problem]:
    """Yield a problem for each setting that has no effect."""
    file, preferred = settings.variables_file, find_preferred_provider(settings, catalog)
    for provider in find_registry(settings):
        address = settings.base_urls.get(provider.name)
        in_use = provider.name in used or settings.keys.get(provider.name) or provider.uses_installed_models
        if address and not in_use and not provider.is_configured and provider.key_source == "settings":
            usual = (provider.base_url_variable, f"{provider.env_prefix}_BASE_URL")
            variable = next((name for name in usual if name in settings.origins), usual[0])
            yield report_warning(ProblemKind.UNUSED_ADDRESS, str(variable), provider=provider.name, file=file)
    for provider in find_registry(settings) if preferred.name == "demo" else ():
        is_cloud = not (provider.offered_to_users or provider.is_configured)  # without default models
        if is_cloud and settings.keys.get(provider.name) and provider.name not in used:
            name = find_setting_name(provider)
            yield report_warning(ProblemKind.UNUSED_KEY, str(provider.key_variable), name=name, file=file)
    if settings.alerts is not None and not settings.virtual_keys:
        yield report_warning(ProblemKind.UNUSED_ALERTS, "url of [alerts]", file=file)
    names = [name for name in MODEL_VARIABLES if name in settings.origins]
    if preferred.name == "demo":
        reason = describe_demo(settings)
        kind, facts = ProblemKind.UNUSED_WITH_DEMO, {"reason": f"{reason[0].lower()}{reason[1:]}"}
    else:
        names = [name for name in names if preferred.serves_claude and not name.startswith("MODEL_")]
        kind, facts = ProblemKind.UNUSED_MODELS, {"provider": preferred.name}
    if names:
        named = f"{join_with_and(names)} {'is' if len(names) == 1 else 'are'}"
        yield report_warning(kind, names[0], named=named, **facts)
    yield from _find_shadowed_models(preferred, settings, catalog)


def _find_shadowed_models(preferred: Provider, settings: Settings, catalog: Catalog) -> Iterator[Problem]:
    """Yield a problem for each provider of the settings with models that are sent elsewhere.

    Without its prefix, such a model goes to another provider that lists it, or is mapped like a Claude model.
    """
    for provider in find_registry(settings):
        names = [name for name in provider.known_models if "/" not in name] if provider.is_configured else []
        targets = {name: choose_models(name, preferred, settings, catalog)[0] for name in names}
        shadowed = [name for name, choice in targets.items() if choice.provider.name != provider.name]
        if shadowed:
            more = f" and {len(shadowed) - _MAX_NAMED} more" if len(shadowed) > _MAX_NAMED else ""
            yield report_warning(
                ProblemKind.SHADOWED_MODELS,
                f"[providers.{provider.name}]",
                models=f"{', '.join(shadowed[:_MAX_NAMED])}{more}",
                model=shadowed[0],
                target=targets[shadowed[0]].prefixed_id,
                prefix=provider.prefix,
            )


def _list_rules(settings: Settings) -> Mapping[str, Rules]:
    """Return the rules of all clients, of groups and of token issuers by the names of their settings."""
    groups = () if settings.sign_in is None else settings.sign_in.groups
    rules = {"BUDGET": Rules(budgets=settings.budgets)} if settings.virtual_keys else {}
    rules |= {f"[sign_in.groups.{format_toml_value(group.name)}]": group.rules for group in groups}
    return rules | {f"[token_issuers.{issuer.name}]": issuer.rules for issuer in settings.token_issuers}


def find_price_problems(settings: Settings, catalog: Catalog, rules: Mapping[str, Rules]) -> Sequence[Problem]:
    """Return a problem for all whose budgets in dollars reject the same models in use, because their price is unknown.

    `rules`: name of a table, key or team → its rules.
    """
    in_dollars = {
        subject: [budget for budget in of_subject.budgets if budget.unit == "usd" and not budget.soft]
        for subject, of_subject in rules.items()
    }
    if not any(in_dollars.values()):
        return ()
    from anthropic_proxy.gateway.prices.price_list import PriceList  # noqa: PLC0415  # most starts need no price

    prices, used = PriceList(settings, uses_server_lists=False), find_used_models(settings, catalog)
    unpriced = [
        f"{provider.prefix}/{model}"
        for provider in find_registry(settings)
        for model in used.get(provider.name, ())
        if prices.find(provider, model) is None
    ]
    subjects: dict[tuple[str, ...], list[str]] = {}
    for subject, budgets in in_dollars.items():
        names = tuple(name for name in unpriced if any(budget.counts(name) for budget in budgets))
        if names:
            subjects.setdefault(names, []).append(subject)
    return [
        report_problem(
            ProblemKind.NO_PRICE,
            _join_some(of_names),
            models=f"{_join_some(names)} {'has' if len(names) == 1 else 'have'}",
            file="anthropic-proxy.toml",
            line=f"[prices.{format_toml_value(names[0])}]  with input and output",
        )
        for names, of_names in subjects.items()
    ]


def _join_some(names: Sequence[str]) -> str:
    more = [f"{len(names) - _MAX_NAMED} more"] if len(names) > _MAX_NAMED else []
    return join_with_and([*names[:_MAX_NAMED], *more])


def describe_demo(settings: Settings) -> str:
    """Return why the demo replies, as a sentence without its end."""
    if settings.preferred_provider == "demo":
        return "The demo replies, because PREFERRED_PROVIDER is demo"
    return "No provider is chosen, so the demo replies"


def find_setting_name(provider: Provider) -> str:
    return provider.env_prefix.lower() or provider.name


def find_retirements(settings: Settings, catalog: Catalog, today: date, *, only_routes: bool = False) -> list[Problem]:
    """Check the models of Claude tiers (opus …), their fallbacks and the routes. `today`: the last date that counts.

    The remedy is the line that selects the successor, `BIG_MODEL=openai/gpt-5.5`; of a route, its line `targets`. The
    name of the setting alone: it is to be removed.
    """
    find_other = partial(find_served_successor, settings=settings, catalog=catalog, today=today)
    problems = []
    for found in list_model_replacements(find_other, settings, catalog):
        if only_routes and found.route is None:
            continue
        others = [*dict.fromkeys(map(find_other, found.replaced))]
        place = f' for route "{found.route.name}" ({found.setting.source})' if found.route else ""
        pronoun, ending = "Its" if len(found.replaced) == 1 else "Their", "" if len(others) == 1 else "s"
        facts = {"retired": describe_retirements(found.replaced), "line": found.line}
        facts |= {"successor": f"{pronoun} successor{ending}", "condition": found.condition if found.route else ""}
        kind = ProblemKind.RETIRED
        if found.tier and not {*others} & set(found.line.partition("=")[2].split(",")):
            kind = ProblemKind.RETIRED_FALLBACK
            verb = "is the model" if len(others) == 1 else "are models"
            facts |= {"others": f"{join_with_and(others)} {verb}", "tier": found.tier}
            facts |= {"verb": "Remove the setting" if found.is_removal else "Write"}
        elif any(find_other(choice) != find_successor_id(choice, settings, today) for choice in found.replaced):
            is_one = len(found.replaced) == 1
            kind = ProblemKind.RETIRED_WITHOUT_SUCCESSOR if is_one else ProblemKind.RETIRED_WITHOUT_SUCCESSORS
        problems.append(report_warning(kind, found.setting.name, place=place, **facts))
    return problems


def describe_retirements(choices: Sequence[ModelChoice]) -> str:
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
) -> list[Problem]:
    """Return why a provider cannot be called with these settings.

    `models` are the ids, without prefix, that the settings use.
    """
    report = partial(report_problem, subject=provider.name, title=provider.title)
    if provider.key_source == "google":
        return list(_find_google_problems(provider, settings))
    if provider.key_source in _EXTRAS and not settings.keys.get(provider.name):
        package, extra = _EXTRAS[provider.key_source]
        facts = {"package": package.replace(".", "-"), "command": build_extra_install_command(extra)}
        return [] if is_installed(package) else [report(ProblemKind.NO_PACKAGE_WITHOUT_KEY, **facts)]
    if provider.transport == "litellm":
        if not is_installed("litellm"):
            missing = report(ProblemKind.NO_LITELLM, command=build_extra_install_command("litellm"))
            return [missing, *_propose_other_host(provider, settings, catalog)]
        names = {secret.origin.upper() for secret in settings.other_secrets}
        stems = dict.fromkeys(model.partition("/")[0] for model in models if "/" in model)
        return [
            report(ProblemKind.NO_LITELLM_KEY, stem=stem, variable=_stem(stem))
            for stem in stems
            if not any(name.startswith(f"{_stem(stem)}_") for name in names)
        ]
    if not provider.uses_installed_models:
        return []
    listed = catalog.cached_model_ids(provider.name)
    if listed is None:
        address = settings.base_urls.get(provider.name, provider.base_url)
        is_expected = bool(models) and should_query_ollama(settings) and provider.name in catalog.queried_providers
        return [report(ProblemKind.NO_OLLAMA, address=address)] if is_expected else []
    missing_models = [model for model in dict.fromkeys(models) if not {model, f"{model}:latest"} & {*listed}]
    return [report(ProblemKind.NO_OLLAMA_MODEL, model=model) for model in missing_models]


def _find_google_problems(provider: Provider, settings: Settings) -> Iterator[Problem]:
    report = partial(report_problem, subject=provider.name, title=provider.title)
    if not is_installed("google.auth"):
        yield report(ProblemKind.NO_GOOGLE_AUTH, command=build_extra_install_command("vertex"))
    file, named = _credentials_file(settings), settings.google_credentials_file
    if named == UNRESOLVED_KEY:  # only the running proxy has it
        return
    content = _load(file)
    if isinstance(content, str) and not (named or os.path.exists(file)):
        yield report(ProblemKind.NO_CREDENTIALS_FILE)
    elif isinstance(content, str):
        variable = "GOOGLE_APPLICATION_CREDENTIALS"
        origin = settings.origins.get(variable, "set")
        shown = f"{variable} ({origin})" if named else "The file of Application Default Credentials"
        path = mask_setting(variable, str(file))
        yield report(ProblemKind.UNUSABLE_CREDENTIALS_FILE, file=shown, path=path, reason=content)
    if find_google_project(settings) is None and not provider.is_configured:
        yield report(ProblemKind.NO_GOOGLE_PROJECT)


def _propose_other_host(provider: Provider, settings: Settings, catalog: Catalog) -> Iterator[Problem]:
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
        facts = {"title": provider.title, "host": host, "line": one.line}
        yield report_problem(ProblemKind.OTHER_HOST, provider.name, place=place, **facts)


def find_feature_problems(settings: Settings) -> Iterator[Problem]:
    if settings.fetch_urls and not is_installed("lxml"):
        command = build_extra_install_command("fetch")
        yield report_problem(ProblemKind.NO_HTML_READER, "FETCH_URLS", command=command)
    if settings.has_traces() and not is_installed("opentelemetry.exporter.otlp.proto.http"):
        command = build_extra_install_command("otel")
        yield report_problem(ProblemKind.NO_TRACES_PACKAGE, "OTEL_TRACES_EXPORTER", command=command)
    if settings.search is not None and settings.search.problem and settings.search_url is None:
        yield report_problem(ProblemKind.NO_SEARCH, "search", reason=settings.search.problem)


def find_google_project(settings: Settings) -> str | None:
    """From the settings, else from the credentials file. None: neither has one."""
    if settings.vertex_project:
        return settings.vertex_project
    content = _load(_credentials_file(settings))
    named = content.get("project_id") or content.get("quota_project_id") if isinstance(content, dict) else None
    return named if isinstance(named, str) else None


def _stem(prefix: str) -> str:
    return _KEY_STEMS.get(prefix, prefix.upper().replace("-", "_"))


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
