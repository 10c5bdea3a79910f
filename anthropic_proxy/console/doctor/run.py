"""A run of the doctor: the backends (models of providers) to examine, the expected cost, and the report."""

import asyncio
import io
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import date
from types import MappingProxyType

from msgspec import Struct, structs

from anthropic_proxy.console.doctor.auto_mode import describe_auto_mode
from anthropic_proxy.console.doctor.certificates import GatewayCheck, check_gateway
from anthropic_proxy.console.doctor.diagnosis import diagnose_backend, must_run
from anthropic_proxy.console.doctor.findings import Backend, Diagnosis
from anthropic_proxy.console.doctor.fixes import list_fixes
from anthropic_proxy.console.doctor.identity import check_identity
from anthropic_proxy.console.doctor.probe_runner import ProbeRunner
from anthropic_proxy.console.doctor.probes import PROBES
from anthropic_proxy.console.doctor.report import Report, find_total_price
from anthropic_proxy.console.doctor.server_tables import find_servers
from anthropic_proxy.console.ledger.instances import read_conditions
from anthropic_proxy.engine.advice import Problem
from anthropic_proxy.engine.options import TIERS
from anthropic_proxy.engine.own_thread import run_in_own_thread
from anthropic_proxy.engine.providers import Provider, find_registry
from anthropic_proxy.engine.providers.hosts import find_missing_key, is_own_server
from anthropic_proxy.engine.routing.choices import find_tier
from anthropic_proxy.engine.routing.problems import find_unknown_prefix
from anthropic_proxy.engine.routing.router import RoutingQuery, build_plan
from anthropic_proxy.engine.routing.targets import Target, sees
from anthropic_proxy.errors import ClientError, ConfigurationError, join_with_and, suggest_name
from anthropic_proxy.gateway.prices.price_list import PriceList
from anthropic_proxy.gateway.problems import find_problems, sort_problems
from anthropic_proxy.gateway.services import Services, open_services
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.telemetry.log import Log

_REQUESTS_BEYOND_PROBES = 4
"""Number of further requests per backend: model list, limits, effort levels and replay of reasoning."""
_TOKENS_PER_REQUEST = 250
"""Tokens of a typical probe, input and output together."""
_OUTPUT_SHARE = 0.3
"""Share of output tokens in all tokens of a typical probe (0 to 1)."""
_SEARCH_FACTOR = 1.6
"""Average number of requests for one probe of a server with an unknown dialect: rejected requests are changed and
repeated."""


class Estimate(Struct, frozen=True):
    """Expected cost of a run."""

    models: Sequence[str]
    requests: int
    tokens: int
    price: float | None
    """US dollars. None: a price is unknown."""


def estimate_run(backends: Sequence[Backend], settings: Settings) -> Estimate:
    """Return the expected cost of `run_doctor` for `backends`."""
    prices, requests, total, is_known = PriceList(settings), 0, 0.0, True
    for backend in backends:
        target = backend.target
        probes = [probe for probe in PROBES if must_run(probe, backend)]
        further = 0 if backend.is_demo else _REQUESTS_BEYOND_PROBES
        count = round((len(probes) + further) * (_SEARCH_FACTOR if backend.searches_dialect else 1))
        requests += count
        if (price := prices.find(target.provider, target.model)) is None:
            is_known = False
            continue
        tokens = count * _TOKENS_PER_REQUEST / 1_000_000
        total += tokens * (float(price.base.input) * (1 - _OUTPUT_SHARE) + float(price.base.output) * _OUTPUT_SHARE)
    models = [backend.prefixed_id for backend in backends]
    return Estimate(models, requests, requests * _TOKENS_PER_REQUEST, total if is_known else None)


@asynccontextmanager
async def open_backends(
    settings: Settings, names: Sequence[str] = (), *, searches_known_servers: bool = False
) -> AsyncIterator[tuple[Services, Sequence[Backend]]]:
    """Yield services of their own, and the backends that `select_backends` finds.

    What the probes cause, such as a key in cooldown or an open circuit, then does not concern requests of clients.
    """
    services = await open_services(settings, log=Log(io.StringIO()))
    try:
        if not settings.keys or names:
            await services.catalog.refresh_listing("ollama")
        yield services, select_backends(services, names, searches_known_servers=searches_known_servers)
    finally:
        await services.close()


async def run_doctor(
    services: Services,
    backends: Sequence[Backend],
    on_change: Callable[[Sequence[Diagnosis]], None] = lambda diagnoses: None,
    *,
    checks_settings: bool = False,
    further_problems: Sequence[Problem] = (),
) -> Report:
    """`on_change` is called with all results so far, at the start and after each probe.

    `checks_settings`: look for problems of settings that concern no backend, for who checks tool calls, at the address
    where persons sign in, and at the identity provider. `further_problems`: those of keys and teams.
    """
    started = time.monotonic()
    diagnoses = [Diagnosis(backend=backend, outcomes={}) for backend in backends]
    on_change(diagnoses)
    async with asyncio.TaskGroup() as group:
        for diagnosis in diagnoses:
            runner = ProbeRunner(services, diagnosis.totals)
            group.create_task(diagnose_backend(runner, diagnosis, services.settings, lambda: on_change(diagnoses)))
    fixes = list_fixes(diagnoses, services.settings, services.catalog)
    problems: Sequence[Problem] = ()
    if checks_settings:
        examined, remedies = {one.target.provider.name for one in backends}, {fix.remedy for fix in fixes}
        found = find_problems(services.settings, services.catalog, date.today())
        problems = [one for one in found if one.subject not in examined and one.remedy not in remedies - {""}]
        conditions = await run_in_own_thread("instances", read_conditions, services.settings)
        problems = sort_problems([*(condition.problem for condition in conditions), *problems, *further_problems])
    return Report(
        diagnoses=diagnoses,
        fixes=fixes,
        gateway=await check_gateway(services.settings) if checks_settings else GatewayCheck(),
        identity_problems=await check_identity(services) if checks_settings else (),
        auto_mode=await describe_auto_mode(services, backends) if checks_settings else "",
        pictures=describe_pictures(services, backends) if checks_settings else "",
        settings_problems=problems,
        servers=find_servers(diagnoses, services.settings),
        seconds=time.monotonic() - started,
        price=find_total_price(diagnoses, services.settings),
    )


def describe_pictures(services: Services, backends: Iterable[Backend]) -> str:
    """Return what becomes of pictures at the models of the Claude tiers that do not see: `described by kimi-k2.6
    (moonshot) for gpt-oss-120b (groq)`. "": all see.
    """
    blind = [one.target for one in backends if one.tiers and not sees(one.target)]
    if not blind:
        return ""
    names = join_with_and([*dict.fromkeys(f"{one.model} ({one.provider.prefix})" for one in blind)])
    images = services.settings.images
    if images is None or images.model is None:
        return f"left out for {names}. Another model describes them if [images] names it"
    try:
        first = build_plan(RoutingQuery(images.model), services.settings, services.catalog).targets[0]
    except ClientError as error:
        return f"left out for {names}: {error.message}"
    return f"described by {first.model} ({first.provider.prefix}) for {names}"


def select_backends(services: Services, names: Sequence[str], *, searches_known_servers: bool = False) -> list[Backend]:
    """Return the backends to examine: models, each with its provider.

    `names` are prefixes of providers, or model ids. Without `names`, all configured providers are examined. The
    built-in demo is examined only if there is no other provider, because it has no real model. With
    `searches_known_servers`, the doctor also tests how known servers deviate from their API. Raises
    `ConfigurationError` for an unknown name.
    """
    found = list(_list_configured(services))
    found = [one for one in found if not one.is_demo] or found
    if names:
        found = [backend for name in names for backend in _find_named(services, name, found)]
    unique: dict[tuple[str, str], Backend] = {}
    for backend in found:
        unique.setdefault((backend.name, backend.target.model), backend)
    chosen = []
    for backend in unique.values():
        provider = backend.target.provider
        chat = provider.wires.get("chat")
        is_chat = chat is not None and chat.wire is backend.target.wire
        searches = is_chat and (is_own_server(provider) or searches_known_servers)
        chosen.append(structs.replace(backend, searches_dialect=searches))
    return chosen


def is_configured(provider: Provider, settings: Settings) -> bool:
    """Return True if a setting enables the provider: an API key or a base URL.

    Vertex AI needs neither. It is enabled by a Google Cloud project, or if it is the preferred provider.
    """
    if provider.key_source == "google" and not provider.is_configured:
        return settings.preferred_provider == provider.name or bool(settings.vertex_project)
    if provider.transport != "http":
        return False
    return bool(settings.keys.get(provider.name) or provider.name in settings.base_urls)


def _list_configured(services: Services) -> Iterable[Backend]:
    tiers: dict[tuple[str, str], list[str]] = {}
    targets: dict[tuple[str, str], Target] = {}
    registry = find_registry(services.settings)
    claude_models = [model for row in registry if row.serves_claude for model in row.known_models]
    for tier in TIERS:
        # a provider of Claude models receives the requested id unchanged, so the id must exist there
        model = next((model for model in claude_models if find_tier(model) == tier), f"claude-{tier}")
        for target in _resolve(services, model):
            key = target.provider.prefix, target.model
            tiers.setdefault(key, []).append(tier)
            targets.setdefault(key, target)
    # prefix of a provider → name of a route → models of this provider among the route's targets
    routed: dict[str, dict[str, list[str]]] = {}
    for route in services.settings.routes:
        for model in route.targets:
            for target in _resolve(services, model):
                models = routed.setdefault(target.provider.prefix, {}).setdefault(route.name, [])
                models += [target.model] if target.model not in models else []
    for key, target in targets.items():
        yield Backend(name=key[0], target=target, tiers=tuple(tiers[key]), routes=routed.get(key[0], {}))
    used = {provider for provider, _ in targets}
    for provider in registry:
        if provider.prefix in used:
            continue
        settings = services.settings
        if provider.uses_installed_models:
            is_examined = provider.name in settings.base_urls or bool(services.catalog.cached_model_ids(provider.name))
        else:
            is_examined = is_configured(provider, settings) and not find_missing_key(provider, settings)
        if is_examined:
            yield from _find_defaults(services, provider, routed.get(provider.prefix, {}))


def _find_defaults(
    services: Services, provider: Provider, routes: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> Iterable[Backend]:
    """Yield one backend of a provider: with the model of its first route, else with its larger default model, or with
    its largest installed model.

    `routes`: name of a route of the configuration file → its models of this provider.
    """
    listed = services.catalog.cached_model_ids(provider.name) if provider.uses_installed_models else None
    defaults = (provider.default_big_model, *provider.known_models)
    routed = next(iter(routes.values()), ())
    model = next(iter(routed), None) or (listed[0] if listed else next(filter(None, defaults), None))
    for target in _resolve(services, f"{provider.prefix}/{model}") if model else ():
        if target.provider is provider:  # a Claude model may be mapped to another provider
            yield Backend(name=provider.prefix, target=target, routes=routes)


def _find_named(services: Services, name: str, configured: Sequence[Backend]) -> list[Backend]:
    registry = find_registry(services.settings)
    provider = registry.find_by_prefix(name.lower())
    if provider is not None:
        own = [backend for backend in configured if backend.target.provider is provider]
        if found := own or list(_find_defaults(services, provider)):
            return found
        if provider.transport == "demo":
            raise ConfigurationError(
                "The demo is built in and has no model to examine. To examine the providers:  anthropic-proxy doctor",
                code="nothing-to-examine",
            )
        raise ConfigurationError(
            f"{provider.prefix} has no default model. Name the model to examine: "
            f"anthropic-proxy doctor {provider.prefix}/<model>",
            code="nothing-to-examine",
        )
    if "/" not in name and not name.startswith("claude"):
        prefixes, more = [row.prefix for row in registry], f"A model needs a prefix: openai/{name}."
        remedy = suggest_name("provider", name, prefixes, lead="anthropic-proxy doctor ", more=more)
        raise ConfigurationError(f'There is no provider "{name}". {remedy}', code="unknown-provider")
    plan = build_plan(RoutingQuery(name), services.settings, services.catalog)
    target = plan.targets[0]
    words = {"named": "The name is", "lead": "anthropic-proxy doctor "}
    if target.is_guess and (problem := find_unknown_prefix(name, target.provider, services.settings, **words)):
        raise ConfigurationError(problem.text, code="unknown-provider")
    known = {(backend.name, backend.target.model): backend for backend in reversed(configured)}
    return [
        known.get((one.provider.prefix, one.model)) or Backend(name=one.provider.prefix, target=one)
        for one in plan.targets
    ]


def _resolve(services: Services, model: str) -> Sequence[Target]:
    try:
        return build_plan(RoutingQuery(model), services.settings, services.catalog).targets
    except ClientError:
        return ()
