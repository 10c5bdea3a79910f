"""`Services`: the objects that outlive one client request, such as connections, keys, the log and the model catalog.

Each worker process has its own services. `open_services` builds them at the start and at each reload of the settings.
It adds the objects of plugins, and at a reload also the state of the previous services. `build_services` builds
services without plugins, and opens no connection. Functions `new_*` build one object each. `BackgroundWork` runs long
computations in a thread, so that they do not block the event loop. `prefetch_tier_model_limits` queries the limits of
the models for Claude tiers (opus …). Receipts are the records of finished requests.
"""

import asyncio
import random
import string
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import date
from functools import partial
from typing import Any, TypeVar, TypeVarTuple

from msgspec import Struct, field, structs

from anthropic_proxy.engine.hooks import Policy, Recorder, Tracer
from anthropic_proxy.engine.options import TIERS
from anthropic_proxy.engine.platforms.heap import HeapTrimmer
from anthropic_proxy.engine.providers import find_registry
from anthropic_proxy.engine.providers.catalog import Catalog, OllamaModelSource, load_learned_models
from anthropic_proxy.engine.providers.credentials import Credentials, TokenSource
from anthropic_proxy.engine.providers.model_observations import ModelObservations
from anthropic_proxy.engine.routing.health import CircuitBreakers, FairQueue, RetryBudget, slots_per_worker
from anthropic_proxy.engine.routing.router import (
    RouteCache,
    RoutingQuery,
    apply_capability_rules,
    build_route,
    should_query_ollama,
)
from anthropic_proxy.engine.routing.rules import RouteRules
from anthropic_proxy.engine.upstream.contract import WebFetch, WebSearch
from anthropic_proxy.engine.upstream.transports import Transports
from anthropic_proxy.engine.wires.contract import Transport
from anthropic_proxy.errors import ClientError
from anthropic_proxy.gateway.route_table import RouteTable
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.stores import open_store
from anthropic_proxy.gateway.stores.memory import MemoryStore
from anthropic_proxy.gateway.telemetry.log import Log
from anthropic_proxy.gateway.telemetry.log.in_progress import SharedRequestTable
from anthropic_proxy.gateway.telemetry.log.receipts import ReceiptQueues
from anthropic_proxy.plugins import LedgerState, Plugin, Store

_Arguments = TypeVarTuple("_Arguments")
_Result = TypeVar("_Result")
_BASE_62 = (string.digits + string.ascii_letters).encode()
_ID_CHARACTERS = bytes(_BASE_62[byte % len(_BASE_62)] for byte in range(256))


class BackgroundWork:
    """Runner of long computations in a thread, one at a time, and of event-loop tasks that no request waits for."""

    def __init__(self) -> None:
        # several threads share one interpreter lock: they need more memory, delay the loop more, and end no earlier
        self._free = asyncio.Semaphore(1)
        self._tasks: set[asyncio.Task[None]] = set()

    def start_task(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a task on the event loop, and keep a reference to it, because asyncio itself keeps only a weak one."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def run_in_thread(self, function: Callable[[*_Arguments], _Result], *arguments: *_Arguments) -> _Result:
        """Return the result of a function, computed in a thread after earlier computations have ended.

        A cancelled computation still occupies the thread until it ends, because threads cannot be stopped.
        """
        await self._free.acquire()
        computation = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
        computation.add_done_callback(lambda _: self._free.release())
        return await asyncio.shield(computation)

    async def run_in_thread_if_large(
        self, is_large: bool, function: Callable[[*_Arguments], _Result], *arguments: *_Arguments
    ) -> _Result:
        """Return the result of a function, computed in the thread if `is_large` is True, else at once."""
        return await self.run_in_thread(function, *arguments) if is_large else function(*arguments)


class Services(Struct, frozen=True, kw_only=True):
    """All objects that outlive one request. A reload of the settings builds new ones.

    Requests that are running at a reload keep the old ones.
    """

    settings: Settings
    """Settings for which these services were built."""
    catalog: Catalog
    """Catalog of models: their limits and features, and the model lists of providers."""
    credentials: Credentials
    """API keys and tokens of the providers. Rejected keys are skipped for a time."""
    observations: ModelObservations
    """Facts about models learned from replies: changes that requests need, and corrections of token estimates."""
    route_cache: RouteCache = field(default_factory=RouteCache)
    """Cache of routes (targets by requested model) of recent requests."""
    route_rules: RouteRules | None = None
    """Compiled routes of the configuration file, which come before the model mapping. None: there are none."""
    route_prices: Mapping[str, float] = {}
    """Model id with prefix → price of a typical request, for routes with `balance = "cost"`. Empty: no such route."""
    circuit_breakers: CircuitBreakers = field(default_factory=CircuitBreakers)
    """One circuit breaker per upstream host. An open circuit breaker blocks calls after repeated failures."""
    retry_budget: RetryBudget = field(default_factory=RetryBudget)
    """Limit on the share of retries among upstream calls."""
    queue: FairQueue
    """Queue that limits concurrent upstream calls (`MAX_UPSTREAM_CALLS`), fair between clients."""
    background: BackgroundWork = field(default_factory=BackgroundWork)
    """Thread for long computations, such as decoding a large request, and owner of background tasks."""
    owned_transports: Transports | None = None
    """Owner of `transports`, which is closed with the services. None: another object closes the transports."""
    transports: Mapping[str, Transport]
    """Name of a transport (`http`, `demo`) → transport: the object that sends requests to providers."""
    log: Log
    """Log of the proxy, in which keys are masked."""
    web_fetch: WebFetch | None = None
    """Function that fetches web pages and URLs for a model. None: `FETCH_URLS` is off."""
    web_search: WebSearch | None = None
    """Function that runs web searches for a model. None: `SEARCH_URL` is not set."""
    new_id: Callable[[str], str]
    """Function that returns a new identifier with the given beginning: `new_id("msg_")`."""
    clock: Callable[[], float]
    """Function that returns the time in seconds since the epoch."""
    started_at: float = field(default_factory=time.time)
    """Time at which this server process started, in seconds since the epoch. A reload keeps it."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    """Function that waits the given number of seconds, before a retry."""
    policies: Sequence[Policy] = ()
    """Access rules of plugins, which identify clients and reject requests."""
    recorders: Sequence[Recorder] = ()
    """Receivers of the bytes of exchanges, from plugins. Empty: no bytes are recorded."""
    tracer: Tracer | None = None
    """Source of trace ids for requests, from a plugin. None: traces are off."""
    receipts: ReceiptQueues
    """Queues by which observers of plugins receive the records of finished requests."""
    routes: RouteTable = field(default_factory=RouteTable)
    """URL paths that plugins serve."""
    ledger_state: Callable[[], LedgerState] | None = None
    """Function that returns the state of the ledger, the database of requests. None: requests are not stored."""
    store: Store = field(default_factory=MemoryStore)
    """Limits, budgets and values that workers or instances share."""
    heap_trimmer: HeapTrimmer = field(default_factory=HeapTrimmer)
    """Object that returns freed memory of this process to the system. A reload keeps it."""
    in_progress: SharedRequestTable = field(default_factory=SharedRequestTable)
    """List of the running client requests, which is logged if this process stops responding."""

    async def close(self) -> None:
        """Stop the background refresh of model lists, and close the store and the connections to providers.

        If `owned_transports` is None, the connections stay open, because another object closes them.
        """
        await self.catalog.close()
        await self.store.close()
        if self.owned_transports is not None:
            await self.owned_transports.close()


async def open_services(
    settings: Settings,
    *,
    transports: Transports | None = None,
    log: Log | None = None,
    receipts: ReceiptQueues | None = None,
    heap_trimmer: HeapTrimmer | None = None,
    in_progress: SharedRequestTable | None = None,
    plugins: Sequence[Plugin] = (),
    worker_index_and_count: tuple[int, int] = (0, 1),
    previous: Services | None = None,
) -> Services:
    """Return new services for these settings, ready for requests. The caller closes them.

    `previous` are the services that a reload replaces.
    """
    transports, log = transports or new_transports(settings), log or new_log(settings)
    by_name, tokens = transports.transports_by_name(), {"google": transports.google_tokens}
    services = build_services(
        settings, by_name, log, tokens=tokens, receipts=receipts, worker_index_and_count=worker_index_and_count
    )
    services = structs.replace(
        services,
        owned_transports=transports,
        web_fetch=transports.web_fetch,
        web_search=transports.web_search,
        **_collect_from_plugins(plugins),
        store=_find_store(plugins, previous) or open_store(settings, log.write_warning),
        heap_trimmer=heap_trimmer or services.heap_trimmer,
        in_progress=in_progress or services.in_progress,
    )
    services = _restore_state(services, previous)
    if should_query_ollama(settings) and (previous is None or services.catalog is not previous.catalog):
        await services.catalog.refresh_listing(find_registry(settings).local.name)
    return services


def _collect_from_plugins(plugins: Sequence[Plugin]) -> dict[str, Any]:
    """Return fields of `Services` that plugins provide, by name: policies, recorders, tracer, routes, ledger state."""
    return {
        "policies": [policy for plugin in plugins for policy in plugin.policies],
        "recorders": [recorder for plugin in plugins for recorder in plugin.recorders],
        "routes": RouteTable([route for plugin in plugins for route in plugin.routes]),
        "tracer": next(filter(None, (plugin.tracer for plugin in plugins)), None),
        "ledger_state": next(filter(None, (plugin.ledger_state for plugin in plugins)), None),
    }


def _find_store(plugins: Sequence[Plugin], previous: Services | None) -> Store | None:
    """Return the store of the services before a reload, else the store of a plugin. None: neither has one."""
    if previous is not None:
        return previous.store
    return next((plugin.store for plugin in plugins if plugin.store is not None), None)


def _restore_state(services: Services, previous: Services | None) -> Services:
    """Return the services with state of `previous`, if any, and with the facts that the command `doctor` has stored."""
    if previous is not None:
        services = _carry_over_state(services, previous)
    today = date.fromtimestamp(services.clock())
    learned, warnings = load_learned_models(services.settings.data_directory, today)
    services.catalog.replace_learned_models(learned)
    for warning in warnings:
        services.log.write_once(warning)
    return services


def new_transports(settings: Settings) -> Transports:
    """Return the transports, which send requests to providers, to web servers and for Google's tokens.

    They open no connection before the first request.
    """
    return Transports(settings, setup_variables=find_registry(settings).list_setup_variables())


def new_log(settings: Settings) -> Log:
    """Return the log for these settings. It masks all keys that the settings contain."""
    return Log(
        form=settings.log_format, level=settings.log_level, color=settings.color, secrets=settings.reveal_all_secrets()
    )


def new_id(prefix: str) -> str:
    """Return a new unique identifier: the prefix, then 24 random letters and digits.

    Only 22 follow the prefix `toolu_px`, so that the id is as long as one with the prefix `toolu_`. Do not use an id as
    a secret, because its random numbers can be predicted.
    """
    return prefix + random.randbytes(22 if prefix == "toolu_px" else 24).translate(_ID_CHARACTERS).decode()


def prefetch_tier_model_limits(services: Services) -> None:
    """Query the limits of the models for Claude tiers (opus …) in the background, before a request needs them."""
    for tier in TIERS:
        try:
            targets = build_route(RoutingQuery(f"claude-{tier}"), services.settings, services.catalog).targets
        except ClientError:
            continue  # the start-up summary contains the error
        for target in targets:
            services.catalog.start_due_queries(target.provider.name, target.model)


def build_services(
    settings: Settings,
    transports: Mapping[str, Transport],
    log: Log,
    *,
    new_id: Callable[[str], str] = new_id,
    tokens: Mapping[str, TokenSource] | None = None,
    receipts: ReceiptQueues | None = None,
    worker_index_and_count: tuple[int, int] = (0, 1),
) -> Services:
    """Return new services for these settings and transports (connections to providers), without opening a connection.

    Their store is in memory, and they contain no objects of plugins.
    """
    credentials, limit = Credentials(settings, tokens), settings.max_upstream_calls
    credentials.on_new_key, credentials.on_problem = log.add_secret, log.write_warning
    listings = {
        row.name: OllamaModelSource(
            transports[row.transport],
            settings.base_urls.get(row.name, row.base_url),
            window=settings.ollama_context_length,
            find_credential=partial(credentials.next_credential, row),
            adjust=partial(apply_capability_rules, row),
        )
        for row in find_registry(settings)
        if row.uses_installed_models
    }
    return Services(
        settings=settings,
        catalog=Catalog(sources=listings),
        credentials=credentials,
        observations=ModelObservations(MemoryStore()),
        **_build_routing(settings),
        queue=FairQueue(None) if limit is None else FairQueue(slots_per_worker(limit, *worker_index_and_count), limit),
        transports=transports,
        log=log,
        new_id=new_id,
        clock=time.time,
        receipts=receipts or ReceiptQueues(log),
    )


def require_route_prices(settings: Settings) -> Settings:
    """Return the settings unchanged if each model of a route with `balance = "cost"` has a known price.

    Raises `ConfigurationError` otherwise.
    """
    if any(route.balance == "cost" for route in settings.routes):
        from anthropic_proxy.console.ledger.route_prices import require_known_prices  # noqa: PLC0415  # imports the price list

        require_known_prices(settings)
    return settings


def _build_routing(settings: Settings) -> dict[str, Any]:
    """Return the fields of `Services` for the routes of the configuration file. Empty: there are no routes."""
    if not settings.routes:
        return {}
    prices: Mapping[str, float] = {}
    if any(route.balance == "cost" for route in settings.routes):
        from anthropic_proxy.console.ledger.route_prices import find_typical_request_prices  # noqa: PLC0415  # imports the price list

        prices = find_typical_request_prices(settings)
    return {"route_rules": RouteRules(settings.routes), "route_prices": prices}


def _carry_over_state(services: Services, previous: Services) -> Services:
    """Return `services` with state of the replaced services: observations, cooldowns, queue, model lists."""
    now, then = services.settings, previous.settings
    services.credentials.copy_state_from(previous.credentials)
    carried: dict[str, Any] = {"retry_budget": previous.retry_budget, "started_at": previous.started_at}
    same_upstreams = _upstream_settings(now) == _upstream_settings(then)
    if same_upstreams:
        carried["observations"] = previous.observations
    if same_upstreams and now.keys == then.keys:
        carried["circuit_breakers"] = previous.circuit_breakers  # a new address or key may repair the failure
        if services.transports == previous.transports and now.ollama_context_length == then.ollama_context_length:
            carried["catalog"] = previous.catalog
    if now.max_upstream_calls == then.max_upstream_calls:
        carried["queue"] = previous.queue
    return structs.replace(services, **carried)


def _upstream_settings(settings: Settings) -> tuple[object, ...]:
    """Return the settings on which learned facts about providers depend. If one changes, the facts are dropped."""
    return settings.base_urls, settings.wires, [table.json_text for table in settings.configured_providers]
