"""`Services`: the engine of a server process, with what the server and its plugins add. Each worker has its own."""

import asyncio
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import date
from functools import partial
from types import ModuleType
from typing import Any

from msgspec import Struct, field, structs

from anthropic_proxy.engine.documents.reader import PROCESSES, DocumentReader
from anthropic_proxy.engine.engine import PATTERN_SEARCHES, Engine, build_engine_fields
from anthropic_proxy.engine.hooks import Receipt
from anthropic_proxy.engine.ids import new_id
from anthropic_proxy.engine.memory_plan import (
    LARGEST_BODY_BYTES,
    MIB,
    SMALL_BODY_BYTES,
    UNCOUNTED_BODIES,
    USUAL_BODY_BYTES,
    MemoryPlan,
)
from anthropic_proxy.engine.options import TIERS
from anthropic_proxy.engine.own_keys import OwnKeys
from anthropic_proxy.engine.patterns import AnchoredPattern, compile_anchored, compile_later
from anthropic_proxy.engine.providers import find_registry
from anthropic_proxy.engine.providers.catalog import (
    TAGS_TIMEOUT_SECONDS,
    UNUSED_LIST_TIMEOUT_SECONDS,
    LearnedModel,
    ListedPrices,
    load_learned_models,
)
from anthropic_proxy.engine.providers.credentials import Credentials, TokenSource
from anthropic_proxy.engine.providers.hosts import find_server_name, has_own_list, is_in_table
from anthropic_proxy.engine.providers.model_facts import FACTS
from anthropic_proxy.engine.routing.call_limits import build_throttles
from anthropic_proxy.engine.routing.choices import list_route_choices, should_query_ollama
from anthropic_proxy.engine.routing.router import RoutingQuery, build_plan
from anthropic_proxy.engine.routing.targets import find_capabilities
from anthropic_proxy.engine.turns import RETRY_AFTER_SECONDS, SharedWorker, Turns
from anthropic_proxy.engine.upstream.transports import Transports
from anthropic_proxy.engine.wires.bound_requests import Transport
from anthropic_proxy.errors import ClientError, ProxyBusy
from anthropic_proxy.gateway.conditions import find_wrong_clock
from anthropic_proxy.gateway.http_calls import HttpCalls
from anthropic_proxy.gateway.memory import plan_memory
from anthropic_proxy.gateway.platforms.heap import HeapTrimmer
from anthropic_proxy.gateway.plugin_answers import ask_plugin, read_conditions
from anthropic_proxy.gateway.settings import Settings, export_no_proxy
from anthropic_proxy.gateway.settings.key_references import read_key_again
from anthropic_proxy.gateway.stores import open_redis_store
from anthropic_proxy.gateway.stores.memory import MemoryStore
from anthropic_proxy.gateway.telemetry.log import Log
from anthropic_proxy.gateway.telemetry.requests import Receipts, RunningRequests
from anthropic_proxy.plugins import Condition, Inspector, LedgerState, Limit, Plugin, Route, Store

BODY_MEMORY_TIMEOUT_SECONDS = 30.0
"""Maximum time for which a large request body waits for memory. A longer wait is rejected with 529."""
MAX_WAITING_BODIES = 100
"""Each may have received a megabyte that does not count. Small ones have the memory of their connections meanwhile."""
SMALL_BODIES = SharedWorker(
    name="the memory for small bodies",
    places=SMALL_BODY_BYTES,
    share=SMALL_BODY_BYTES,
    max_waiting=10 * MAX_WAITING_BODIES,
    max_wait_seconds=BODY_MEMORY_TIMEOUT_SECONDS,
)
USUAL_BODIES = SharedWorker(
    name="the memory for usual bodies",
    places=USUAL_BODY_BYTES,
    share=USUAL_BODY_BYTES,
    max_waiting=MAX_WAITING_BODIES,
    max_wait_seconds=BODY_MEMORY_TIMEOUT_SECONDS,
)
LARGE_BODIES = SharedWorker(
    name="the memory for large bodies",
    places=LARGEST_BODY_BYTES,
    share=LARGEST_BODY_BYTES,
    max_waiting=MAX_WAITING_BODIES,
    max_wait_seconds=BODY_MEMORY_TIMEOUT_SECONDS,
)
"""Each with the least share of a payer: the largest body of the kind. The memory plan has their places."""
_PARAMETER = compile_later(r"\{([a-z_]+\*?)\}")


class FoundRoute(Struct, frozen=True):
    """The routes that serve one URL path, by HTTP method, with the values of the parameters in the path."""

    routes: Mapping[str, Route]
    """HTTP method → route of a plugin that serves the path with this method."""
    path_parameters: Mapping[str, str] = {}
    """Parameter in braces of `Route.path` → the value in the URL path."""


class PluginRoutes:
    """A path without parameters has priority over patterns such as `/api/requests/{id}`."""

    def __init__(self, routes: Sequence[Route] = ()) -> None:
        by_path: dict[str, dict[str, Route]] = {}
        for route in routes:
            methods = by_path.setdefault(route.path, {})
            for method in route.methods:
                methods.setdefault(method, route)
                if method == "GET":
                    methods.setdefault("HEAD", route)
        self._exact = {path: FoundRoute(methods) for path, methods in by_path.items() if "{" not in path}
        self._patterns: list[tuple[AnchoredPattern[str], Mapping[str, Route]]] = []
        for path, methods in by_path.items():
            if "{" in path:  # a parameter in braces matches one segment that is not empty; with `*`, any text
                pieces = _PARAMETER.split(path)
                pieces[::2] = map(re.escape, pieces[::2])
                pieces[1::2] = [
                    f"(?P<{name[:-1]}>.*)" if name.endswith("*") else f"(?P<{name}>[^/]+)" for name in pieces[1::2]
                ]
                self._patterns.append((compile_anchored("".join(pieces), re.DOTALL), methods))

    @property
    def paths(self) -> Sequence[str]:
        """Only paths without parameters."""
        return tuple(self._exact)

    def find(self, path: str) -> FoundRoute | None:
        if found := self._exact.get(path):
            return found
        for pattern, methods in self._patterns:
            if match := pattern.fullmatch(path):
                return FoundRoute(methods, match.groupdict())
        return None


class Services(Engine, frozen=True, kw_only=True):
    """A reload of the settings builds new services. Requests that run at a reload keep the old ones."""

    settings: Settings
    """Settings for which these services were built."""
    log: Log
    """Log of the proxy, in which keys are masked."""
    started_at: float = field(default_factory=time.time)
    """Time at which this server process started, in seconds since the epoch. A reload keeps it."""
    receipts: Receipts
    """Delivery of the receipts of finished requests to metrics, views and plugins."""
    plugin_routes: PluginRoutes = field(default_factory=PluginRoutes)
    """URL paths that plugins serve."""
    ledger_state: Callable[[], LedgerState] | None = None
    """Function that returns the state of the ledger. None: requests are not stored."""
    condition_sources: Sequence[Callable[[], Sequence[Condition]]] = ()
    """Functions of plugins that return what is wrong with the running server."""
    store: Store = field(default_factory=MemoryStore)
    """Limits, budgets and values that workers or instances share."""
    heap_trimmer: HeapTrimmer = field(default_factory=HeapTrimmer)
    """Object that returns freed memory of this process to the system. A reload keeps it."""
    running: RunningRequests = field(default_factory=RunningRequests)
    """The running client requests. A reload keeps it."""
    body_memory: tuple[Turns, Turns, Turns]
    """Bytes of memory for the bodies of requests (`MAX_BODY_MEMORY_MB`): for small, usual and larger ones."""

    def list_conditions(self) -> Sequence[Condition]:
        """Return what is wrong with the running server now."""
        answers = [ask_plugin(find, read_conditions, self.log) for find in self.condition_sources]
        found = [condition for answer in answers for condition in answer or ()]
        if any(condition.check == "clock" for condition in found):
            return found
        return [*found, *find_wrong_clock(self.store.state, self.clock)]

    def end_exchange(self, receipt: Receipt) -> None:
        self.receipts.end_exchange(receipt, self.log)

    async def close(self) -> None:
        """Also close the store."""
        await super().close()
        await self.store.close()


def _collect_members(plugins: Sequence[Plugin]) -> dict[str, Any]:
    """Return field of `Services` → what the plugins have for it."""
    return {
        "policies": [policy for plugin in plugins for policy in plugin.policies],
        "limiters": [limiter for plugin in plugins for limiter in plugin.limiters],
        "recorders": [recorder for plugin in plugins for recorder in plugin.recorders],
        "title_recorders": [recorder for plugin in plugins for recorder in plugin.title_recorders],
        "plugin_routes": PluginRoutes([route for plugin in plugins for route in plugin.routes]),
        "session_models": next(filter(None, (plugin.session_models for plugin in plugins)), None),
        "tracer": next(filter(None, (plugin.tracer for plugin in plugins)), None),
        "condition_sources": [plugin.conditions for plugin in plugins if plugin.conditions is not None],
        "ledger_state": next(filter(None, (plugin.ledger_state for plugin in plugins)), None),
        "own_keys": OwnKeys(next(filter(None, (plugin.keep_secret for plugin in plugins)), None)),
    }


def _continue_from(services: Services, previous: Services) -> Services:
    """Return the services with the state of those before a reload that the changed settings do not concern."""
    now, then = services.settings, previous.settings
    services.credentials.copy_state_from(previous.credentials)
    carried: dict[str, Any] = {
        "retry_budget": previous.retry_budget,
        "repair_budget": previous.repair_budget,
        "acceptances": previous.acceptances,
        "started_at": previous.started_at,
    }
    carried["histories"], carried["own_keys"] = previous.histories, previous.own_keys
    carried["prefix_guard"] = previous.prefix_guard
    carried["background"], carried["pattern_searches"] = previous.background, previous.pattern_searches
    carried["documents"], carried["descriptions"] = previous.documents, previous.descriptions
    carried["inspected_texts"] = previous.inspected_texts
    carried["kept_states"], carried["kept_passages"] = previous.kept_states, previous.kept_passages
    services.observations.continue_from(previous.observations)
    is_same_server = services.observations.settings_digests == previous.observations.settings_digests
    if is_same_server and now.keys == then.keys and now.call_options == then.call_options:
        carried["circuit_breakers"] = previous.circuit_breakers  # a new address or key may repair the failure
        if services.transports == previous.transports and now.ollama_context_length == then.ollama_context_length:
            carried["catalog"] = previous.catalog
    if now.max_upstream_calls == then.max_upstream_calls:
        carried["queue"] = previous.queue
    if now.max_body_memory_mb == then.max_body_memory_mb:  # the limit of the memory needs a start
        carried["body_memory"] = previous.body_memory
    return structs.replace(services, **carried)


async def open_services(
    settings: Settings,
    *,
    transports: Transports | None = None,
    log: Log | None = None,
    receipts: Receipts | None = None,
    heap_trimmer: HeapTrimmer | None = None,
    running: RunningRequests | None = None,
    plugins: Sequence[Plugin] = (),
    worker_index_and_count: tuple[int, int] = (0, 1),
    shared_store: Store | None = None,
    previous: Services | None = None,
) -> Services:
    """Build the services of a server process.

    `shared_store` is used if neither a plugin nor Redis has the limits. `previous` are the services that a reload
    replaces. The caller closes the result. The facts of the settings are in force from here on, unless this fails.
    """
    with FACTS.replacing(settings.facts):
        export_no_proxy(settings)
        transports = transports or Transports(settings)
        log = log or new_log(settings)
        services = build_services(
            settings,
            transports.by_provider(),
            transports.http,
            log,
            tokens=transports.tokens,
            receipts=receipts,
            worker_index_and_count=worker_index_and_count,
        )
        stores: dict[str, Any] = (
            _open_stores(settings, log, plugins, shared_store)
            if previous is None
            else {"store": previous.store, "route_values": previous.route_values}
        )
        inspectors: Sequence[Inspector] = ()
        if settings.inspectors:
            from anthropic_proxy.gateway.inspectors import open_inspectors  # noqa: PLC0415  # most proxies have none

            opened = () if previous is None else previous.inspectors
            inspectors = open_inspectors(
                settings.inspectors, HttpCalls(lambda: transports.http), (previous or services).background, opened
            )
        services = structs.replace(
            services,
            owned_transports=transports,
            web_fetch=transports.web_fetch,
            web_search=transports.web_search,
            **_collect_members(plugins),
            inspectors=[*inspectors, *(inspector for plugin in plugins for inspector in plugin.inspectors)],
            **stores,
            heap_trimmer=heap_trimmer or services.heap_trimmer,
            running=running or services.running,
        )
        reserve = partial(reserve_call, services.store) if stores else None
        throttles = build_throttles(settings, {} if previous is None else previous.throttles, reserve)
        services = structs.replace(services, throttles=throttles)
        if previous is not None:
            services = _continue_from(services, previous)
        today = date.fromtimestamp(services.clock())
        learned, warnings = load_learned_models(services.settings.data_directory, today)
        services.catalog.replace_learned_models(learned)
        services.catalog.follow_facts()
        for warning in warnings:
            services.log.write_once(warning)
        if should_query_ollama(settings) and (previous is None or services.catalog is not previous.catalog):
            await services.catalog.refresh_listing(find_registry(settings).local.name, TAGS_TIMEOUT_SECONDS)
        return services


def _open_stores(settings: Settings, log: Log, plugins: Sequence[Plugin], shared_store: Store | None) -> dict[str, Any]:
    """Return field of `Services` → the store for it. Empty: the usual one, in the memory of this process."""
    of_plugins = (plugin.store for plugin in plugins if plugin.store is not None)
    store = next(of_plugins, None) or open_redis_store(settings, log.write_warning)
    if store is not None:
        return {"store": store}
    if shared_store is None:
        return {}
    extend = next((plugin.extend_store for plugin in plugins if plugin.extend_store is not None), None)
    if extend is None:
        return {"store": shared_store}
    return {"store": extend(shared_store, log.write_warning), "route_values": shared_store}


async def reserve_call(store: Store, provider: str, limit: int) -> float:
    """Count a call to a provider for all processes that share the store. The result is that of `ReserveCall`."""
    reservation = await store.reserve([Limit(f"provider/{provider}/calls", "rate", 1, limit, 60.0)])
    if reservation.is_held:
        await store.settle(reservation, [1])
    return 0.0 if reservation.refused is None else max(reservation.retry_after_seconds, 0.05)


def new_log(settings: Settings) -> Log:
    """It masks all keys that the settings contain."""
    return Log(
        form=settings.log_format,
        level=settings.log_level,
        color=settings.color,
        secrets=settings.reveal_all_secrets(),
        has_ledger=settings.server_has_ledger(),
    )


def prefetch_model_limits(services: Services) -> None:
    """Start the queries for model limits in the background. Model lists are read when a client asks for its models."""
    for provider, model in _list_served_models(services, ()):
        if provider in services.catalog.queried_providers:
            services.catalog.start_due_queries(provider, model)


async def fetch_model_limits(services: Services, *names: str) -> None:
    """Wait, for a limited time, for what servers report about the models of the tiers, of routes and of `names`."""
    served = _list_served_models(services, names)
    await asyncio.gather(*(fetch_limits_of_model(services, provider, model) for provider, model in served))


async def fetch_model_lists(services: Services) -> None:
    """Wait, for a limited time, for the limits of all models that the proxy lists: also of servers that nothing uses
    yet, if they have other models than the proxy knows.
    """
    settings, catalog = services.settings, services.catalog
    lists = (
        catalog.fetch_capabilities(row.name, "", UNUSED_LIST_TIMEOUT_SECONDS)
        for row in find_registry(settings)
        if has_own_list(row, settings) and not row.uses_installed_models
    )
    await asyncio.gather(fetch_model_limits(services), *lists)


async def fetch_limits_of_model(services: Services, provider_name: str, model: str) -> None:
    """Wait, for a limited time, for what a server reports about a model. Else the price list may have its window."""
    settings, catalog = services.settings, services.catalog
    provider = find_registry(settings).find(provider_name)
    is_listed_elsewhere = not provider.uses_installed_models and not has_own_list(provider, settings)
    if is_listed_elsewhere and is_in_table(provider, model):
        return
    await catalog.fetch_capabilities(provider_name, model)
    if find_capabilities(provider, model, settings, catalog).known:
        return
    window = await asyncio.to_thread(_prices().find_published_window, provider, model, settings)
    if window is not None:
        catalog.add_published_model(
            LearnedModel(
                server=find_server_name(provider, settings),
                model=model,
                observed_on=date.today(),
                evidence=_prices().find_price_package_version(),
                context_window=window,
            )
        )


def _list_served_models(services: Services, names: Iterable[str]) -> set[tuple[str, str]]:
    """Return each provider and model that replies to the tiers, in routes, or to `names`."""
    settings, catalog = services.settings, services.catalog
    found = {(choice.provider, choice.model) for _, choice in list_route_choices(settings, catalog)}
    for name in (*(f"claude-{tier}" for tier in TIERS), *names):
        try:
            targets = build_plan(RoutingQuery(name), settings, catalog).targets
        except ClientError:
            continue  # the start-up summary contains the error
        found |= {(target.provider, target.model) for target in targets}
    return {(provider.name, model) for provider, model in found}


def build_services(
    settings: Settings,
    transports: Mapping[str, Transport],
    http: Transport,
    log: Log,
    *,
    new_id: Callable[[str], str] = new_id,
    tokens: Mapping[str, TokenSource] | None = None,
    receipts: Receipts | None = None,
    worker_index_and_count: tuple[int, int] = (0, 1),
) -> Services:
    """Their store is in memory, they contain no objects of plugins, and no connection is opened.

    `transports`: name of a provider → transport.
    """
    credentials = Credentials(
        settings, tokens, read_key=read_key_again, on_new_key=log.add_secret, on_problem=log.write_warning
    )
    route_prices: Mapping[str, float] = {}
    if any(route.balance == "cost" for route in settings.routes):
        route_prices = _prices().find_typical_request_prices(settings)
    plan = plan_memory(settings, worker_index_and_count[1])
    return Services(
        settings=settings,
        **build_engine_fields(
            settings, transports, http, credentials, worker_index_and_count, on_listed_prices=_replace_listed_prices
        ),
        route_prices=route_prices,
        log=log,
        new_id=new_id,
        clock=time.time,
        receipts=receipts or Receipts(log),
        documents=DocumentReader(worker=structs.replace(PROCESSES, places=plan.processes)),
        pattern_searches=Turns(structs.replace(PATTERN_SEARCHES, places=plan.processes)),
        body_memory=_build_body_memory(plan),
    )


def _build_body_memory(plan: MemoryPlan) -> tuple[Turns, Turns, Turns]:
    def build(worker: SharedWorker, size: int, part: str) -> Turns:
        def refuse(_: int) -> ProxyBusy:
            return ProxyBusy(
                f"The bodies of other requests need {part}. Try again in a moment.",
                code="body-memory",
                retry_after=RETRY_AFTER_SECONDS,
            )

        share, share_while_others_wait = max(size // 4 * 3, worker.share), max(size // 2, worker.share)
        sized = structs.replace(worker, places=size, share=share, share_while_others_wait=share_while_others_wait)
        return Turns(sized, refuse)

    small = f"the {plan.small_bytes // MIB} MB for bodies up to 128 KB (MEMORY_LIMIT_MB)"
    more = f"the part of the {plan.body_bytes // MIB} MB for bodies of this size (MAX_BODY_MEMORY_MB)"
    counted = plan.small_bytes - UNCOUNTED_BODIES * SMALL_BODY_BYTES
    usual, larger = plan.divide_body_bytes()
    return build(SMALL_BODIES, counted, small), build(USUAL_BODIES, usual, more), build(LARGE_BODIES, larger, more)


def _replace_listed_prices(servers: Collection[str], prices: ListedPrices) -> None:
    _prices().PRICE_SOURCE.replace_listed(servers, prices)


def _prices() -> ModuleType:
    """The module needs the price list, which most starts do not load."""
    from anthropic_proxy.gateway.prices import price_list  # noqa: PLC0415

    return price_list


def require_route_prices(settings: Settings) -> Settings:
    """Raise `ConfigurationError` unless each model of a route with `balance = "cost"` has a known price."""
    if any(route.balance == "cost" for route in settings.routes):
        _prices().require_known_prices(settings)
    return settings
