"""`Engine`: the objects that outlive one request, such as options, keys, the model catalog and connections.

The server builds a subclass at its start and at each reload of the settings (`gateway.services`). `build_engine` builds
one for a program that has no server.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, TypedDict

from msgspec import Struct, field

from anthropic_proxy.engine.background import BackgroundWork
from anthropic_proxy.engine.descriptions import Descriptions
from anthropic_proxy.engine.documents.reader import DocumentReader
from anthropic_proxy.engine.first_checks import FirstChecks
from anthropic_proxy.engine.histories import Histories
from anthropic_proxy.engine.hooks import (
    EngineLog,
    Inspector,
    Limiter,
    Policy,
    Receipt,
    Recorder,
    SessionModels,
    Tracer,
    ValueStore,
)
from anthropic_proxy.engine.ids import new_id
from anthropic_proxy.engine.inspected_texts import KeptDecisions
from anthropic_proxy.engine.kept_passages import KeptPassages
from anthropic_proxy.engine.kept_states import KeptStates
from anthropic_proxy.engine.library_log import LibraryLog
from anthropic_proxy.engine.memory_values import MemoryValues
from anthropic_proxy.engine.messages.preparation import SearchState, TargetLimits
from anthropic_proxy.engine.options import EngineOptions, KeySource
from anthropic_proxy.engine.own_keys import OwnKeys
from anthropic_proxy.engine.providers import PROVIDERS, Provider, find_registry
from anthropic_proxy.engine.providers.call_options import extend_transport
from anthropic_proxy.engine.providers.catalog import Catalog, OllamaModelSource, OnListedPrices
from anthropic_proxy.engine.providers.credentials import Credentials
from anthropic_proxy.engine.providers.hosts import digest_server_settings, find_base_url
from anthropic_proxy.engine.providers.lookup import require_known_wire
from anthropic_proxy.engine.providers.model_observations import ModelObservations
from anthropic_proxy.engine.providers.prefix_guard import PrefixGuard
from anthropic_proxy.engine.providers.provider_models import has_model_list, query_limits
from anthropic_proxy.engine.routing.call_limits import Throttle, build_call_turns, build_throttles, slots_per_worker
from anthropic_proxy.engine.routing.health import REPAIRS, CircuitBreakers, RepetitionBudget
from anthropic_proxy.engine.routing.router import PlanCache
from anthropic_proxy.engine.routing.routes import CompiledRoutes
from anthropic_proxy.engine.routing.targets import Target, build_target_limits
from anthropic_proxy.engine.turns import SharedWorker, Turns
from anthropic_proxy.engine.upstream.contract import WebFetch, WebSearch
from anthropic_proxy.engine.upstream.transports import Transports
from anthropic_proxy.engine.wires.bound_requests import ALL_SERVERS, WEB, ServerName, Transport
from anthropic_proxy.secrets import Secret

PATTERN_SEARCHES = SharedWorker(
    name="the processes that search by patterns", places=2, share=1, max_waiting=100, max_wait_seconds=30.0
)


class Engine(Struct, frozen=True, kw_only=True):
    """All objects that outlive one request. Changed options need a new engine; running requests keep the old one."""

    settings: EngineOptions
    """Options for which this engine was built."""
    catalog: Catalog
    """Catalog of models: their limits and features, and the model lists of providers."""
    credentials: Credentials
    """API keys and tokens of the providers. Rejected keys are skipped for a time."""
    observations: ModelObservations
    """Facts about models learned from replies: changes that requests need, and corrections of token estimates."""
    plan_cache: PlanCache = field(default_factory=PlanCache)
    """Cache of plans of recent requests."""
    compiled_routes: CompiledRoutes | None = None
    """Compiled routes of the configuration file, which come before the model mapping. None: there are none."""
    route_prices: Mapping[str, float] = {}
    """Model id with prefix → price of a typical request, for routes with `balance = "cost"`. Empty: no such route."""
    histories: Histories = field(default_factory=Histories)
    """Decoded messages that the next requests of a conversation have too."""
    kept_passages: KeptPassages = field(default_factory=KeptPassages)
    """Numbered sources that the next requests of a conversation have too."""
    documents: DocumentReader = field(default_factory=DocumentReader)
    """What was read of documents that the next requests of a conversation have too."""
    descriptions: Descriptions = field(default_factory=Descriptions)
    """What models said about pictures that the next requests of a conversation have too."""
    inspected_texts: KeptDecisions = field(default_factory=KeptDecisions)
    """What inspectors decided about texts that the proxy adds to requests."""
    kept_states: KeptStates = field(default_factory=KeptStates)
    """What providers need back of tool calls whose ids are too short for it."""
    own_keys: OwnKeys = field(default_factory=OwnKeys)
    """Keys of the words by which the proxy recognizes its own texts. `store` may have their secret."""
    prefix_guard: PrefixGuard = field(default_factory=PrefixGuard)
    """Finder of prompts that do not begin like the one before, which a provider's cache cannot serve."""
    circuit_breakers: CircuitBreakers = field(default_factory=CircuitBreakers)
    """One circuit breaker per upstream host. An open circuit breaker blocks calls after repeated failures."""
    retry_budget: RepetitionBudget = field(default_factory=RepetitionBudget)
    """Limit on the share of retries among upstream calls."""
    repair_budget: RepetitionBudget = field(default_factory=lambda: RepetitionBudget(REPAIRS))
    """Of repetitions in a plainer form, by model and by client."""
    acceptances: dict[tuple[str, str, str], float] = field(default_factory=dict)
    """Upstream, model and path → monotonic time at which the latest accepted request began."""
    queue: Turns | None = None
    """Turns that limit concurrent upstream calls (`MAX_UPSTREAM_CALLS`). None: no limit."""
    throttles: Mapping[str, Throttle] = {}
    """Name of a provider with `requests_per_minute` → the throttle for its messages."""
    first_checks: FirstChecks = field(default_factory=FirstChecks)
    """First checks of the watchdogs of exchanges."""
    background: BackgroundWork = field(default_factory=BackgroundWork)
    """Thread for long computations, such as decoding a large request, and owner of background tasks."""
    pattern_searches: Turns = field(default_factory=lambda: Turns(PATTERN_SEARCHES))
    """Turns of the processes that search by regular expressions of a model."""
    transports: Mapping[str, Transport]
    """Name of a provider → transport: the function that sends requests to it."""
    http: Transport
    """Transport for other servers."""
    web_fetch: WebFetch | None = None
    """Function that fetches web pages and URLs for a model. None: `FETCH_URLS` is off."""
    web_search: WebSearch | None = None
    """Search service for models. None: `SEARCH_URL` is not set."""
    new_id: Callable[[str], str]
    """Function that returns a new identifier with the given beginning: `new_id("msg_")`."""
    clock: Callable[[], float]
    """Function that returns the time in seconds since the epoch."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    """Function that waits the given number of seconds, before a retry."""
    policies: Sequence[Policy] = ()
    """Access rules of plugins, which identify clients and reject requests."""
    limiters: Sequence[Limiter] = ()
    """Limits of plugins for all clients. They are asked after the policies."""
    inspectors: Sequence[Inspector] = ()
    """Readers of the texts of requests and replies, from plugins. Empty: no text is read."""
    recorders: Sequence[Recorder] = ()
    """Receivers of the bytes of exchanges, from plugins. Empty: no bytes are recorded."""
    title_recorders: Sequence[Recorder] = ()
    """Receivers of the bytes of exchanges in which a client asks for the title of its session, from plugins."""
    session_models: SessionModels | None = None
    """Models that people have chosen for their running sessions, from a plugin. None: there is no place for them."""
    tracer: Tracer | None = None
    """Source of trace ids for requests, from a plugin. None: traces are off."""
    owned_transports: Transports | None = None
    """Owner of `transports`, which is closed with the engine. None: another object closes the transports."""
    store: ValueStore = field(default_factory=MemoryValues)
    """Values that expire. Processes may share them."""
    route_values: ValueStore | None = None
    """Latencies of targets, and sticky targets of sessions, which each request of some routes reads. None: `store` has
    them."""
    log: EngineLog = field(default_factory=LibraryLog)
    """Log for what an engineer should know. It masks keys."""

    def find_target_limits(self, target: Target, servers: Collection[ServerName] = ALL_SERVERS) -> TargetLimits:
        """Return the limits to which requests for a target are adapted, with what this engine can do for it.

        `servers`: those that the request may lead to.
        """
        search: SearchState = "none"
        if self.web_search is not None:
            search = "allowed" if self.web_search.service in servers else "forbidden"
        may_fetch = self.web_fetch is not None and WEB in servers
        return build_target_limits(target, self.settings.check_context_window, search, may_fetch)

    async def close(self) -> None:
        """Stop the background refresh of model lists, and close the connections to providers."""
        await self.catalog.close()
        if self.owned_transports is not None:
            await self.owned_transports.close()

    def end_exchange(self, receipt: Receipt) -> None:
        """An exchange has ended, and its receipt is complete. A program or server overrides this method."""


def build_engine(
    options: EngineOptions,
    *,
    log: EngineLog | None = None,
    read_key: Callable[[KeySource], Secret] | None = None,
    **fields: Any,
) -> Engine:
    """Return an engine for a program without a server. The program closes it (`Engine.close`).

    `log` replaces `LibraryLog`, and `read_key` reads the key of a source in `options.key_sources` again. `fields` are
    other fields of `Engine`, such as `policies`. Ollama serves only if `options.preferred_provider` or a prefix names
    it; it is not searched. Raises `ConfigurationError` for a provider whose wire or dialect does not exist.
    """
    for table in options.configured_providers:
        require_known_wire(table, PROVIDERS)
    log = log or LibraryLog(options.reveal_all_secrets())
    transports = Transports(options)
    credentials = Credentials(options, transports.tokens, read_key=read_key, on_problem=log.write_warning)
    defaults: dict[str, Any] = {
        **build_engine_fields(options, transports.by_provider(), transports.http, credentials),
        "web_fetch": transports.web_fetch,
        "web_search": transports.web_search,
        "new_id": new_id,
        "clock": time.time,
    }
    return Engine(settings=options, log=log, owned_transports=transports, **{**defaults, **fields})


class EngineFields(TypedDict):
    """Fields of an `Engine` that follow from its options."""

    catalog: Catalog
    credentials: Credentials
    observations: ModelObservations
    queue: Turns | None
    throttles: Mapping[str, Throttle]
    compiled_routes: CompiledRoutes | None
    transports: Mapping[str, Transport]
    http: Transport


def _find_ollama_url(row: Provider, options: EngineOptions) -> str:
    return find_base_url(row, row.wires["ollama"], options)


def build_engine_fields(
    options: EngineOptions,
    transports: Mapping[str, Transport],
    http: Transport,
    credentials: Credentials,
    worker_index_and_count: tuple[int, int] = (0, 1),
    *,
    on_listed_prices: OnListedPrices | None = None,
) -> EngineFields:
    """No connection is opened. `on_listed_prices`: see `Catalog`."""
    limit = options.max_upstream_calls
    queue = None if limit is None else build_call_turns(slots_per_worker(limit, *worker_index_and_count), limit)
    listings = {
        row.name: OllamaModelSource(
            extend_transport(transports[row.name], options.call_options.get(row.name)),
            partial(_find_ollama_url, row, options),
            window=options.ollama_context_length,
            find_credential=partial(credentials.next_credential, row),
        )
        for row in find_registry(options)
        if row.uses_installed_models
    }
    limit_queries = {
        row.name: partial(query_limits, row, options, transports[row.name], partial(credentials.next_credential, row))
        for row in find_registry(options)
        if has_model_list(row) and not row.uses_installed_models and not row.serves_claude
    }
    digests = {row.name: digest_server_settings(row, options) for row in find_registry(options)}
    return {
        "catalog": Catalog(sources=listings, limit_queries=limit_queries, on_listed_prices=on_listed_prices),
        "credentials": credentials,
        "observations": ModelObservations(MemoryValues(), digests),
        "queue": queue,
        "throttles": build_throttles(options, {}),
        "compiled_routes": CompiledRoutes(options.routes) if options.routes else None,
        "transports": transports,
        "http": http,
    }
