"""`Engine`: the objects that outlive one request, such as options, keys, the model catalog and connections.

The server builds a subclass at its start and at each reload of the settings (`gateway.services`). `build_engine` builds
one for a program that has no server.
"""

import asyncio
import logging
import random
import time
import traceback
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypedDict, TypeVar, TypeVarTuple

from msgspec import Struct, field, structs

from anthropic_proxy.engine.first_checks import FirstChecks
from anthropic_proxy.engine.histories import Histories
from anthropic_proxy.engine.hooks import EngineLog, Inspector, LogLevel, Policy, Receipt, Recorder, Tracer, ValueStore
from anthropic_proxy.engine.memory_values import MemoryValues
from anthropic_proxy.engine.messages.preparation import SearchState, TargetLimits
from anthropic_proxy.engine.messages.work_budget import WorkPostponed
from anthropic_proxy.engine.options import EngineOptions, KeySource
from anthropic_proxy.engine.providers import PROVIDERS, find_registry
from anthropic_proxy.engine.providers.call_options import extend_transport
from anthropic_proxy.engine.providers.catalog import Catalog, OllamaModelSource, OnListedPrices
from anthropic_proxy.engine.providers.credentials import Credentials
from anthropic_proxy.engine.providers.hosts import digest_server_settings, find_base_url
from anthropic_proxy.engine.providers.lookup import require_known_wire
from anthropic_proxy.engine.providers.model_observations import ModelObservations
from anthropic_proxy.engine.providers.prefix_guard import PrefixGuard
from anthropic_proxy.engine.providers.provider_models import has_model_list, query_limits
from anthropic_proxy.engine.routing.call_limits import FairQueue, Throttle, build_throttles, slots_per_worker
from anthropic_proxy.engine.routing.health import CircuitBreakers, RetryBudget
from anthropic_proxy.engine.routing.router import PlanCache
from anthropic_proxy.engine.routing.routes import CompiledRoutes
from anthropic_proxy.engine.routing.targets import Target, build_target_limits
from anthropic_proxy.engine.upstream.contract import WebFetch, WebSearch
from anthropic_proxy.engine.upstream.transports import Transports
from anthropic_proxy.engine.wires.bound_requests import ALL_SERVERS, WEB, ServerName, Transport
from anthropic_proxy.engine.wires.calls import Call
from anthropic_proxy.engine.wires.dialect import BaseDialect
from anthropic_proxy.secrets import Secret, redact_secrets

_Arguments = TypeVarTuple("_Arguments")
_Result = TypeVar("_Result")
_BASE_62 = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_RANDOM_CHARACTERS: Mapping[str, int] = {"req_": 14, "toolu_px": 22}
"""Prefix of an id → number of its random characters, if it is not 24. The time of a request has ten."""
_ID_CHARACTERS = bytes(_BASE_62[byte % len(_BASE_62)] for byte in range(256))


MAX_BYTES_ON_LOOP = 2 * 1024 * 1024
"""Maximum size of a request body that is decoded and encoded on the event loop: about 5 ms. A thread handles larger
ones."""
MAX_REPLY_BYTES_ON_LOOP = 256 * 1024
"""Maximum size of an unstreamed reply that is decoded on the event loop. A thread decodes larger ones."""
MAX_STEPS_ON_LOOP = 4_000
"""Maximum steps of schema conversion on the event loop (4 to 10 ms). A conversion with more steps runs in a thread.

With this limit, twelve concurrent requests delay other requests by at most 0.2 s. Conversions are cached, so only the
first request of a session needs a thread."""


_BYTES_PER_TOOL = 512
"""Bytes added to the size of a request for each tool definition, because each definition costs additional time."""


def is_large_request(body: bytes, tool_count: int = 0) -> bool:
    """Return True if a request is decoded and encoded in a thread. `tool_count`: 0 until the request is decoded."""
    return len(body) + _BYTES_PER_TOOL * tool_count > MAX_BYTES_ON_LOOP


class BackgroundWork:
    """Runner of long computations in a thread, one at a time, and of event-loop tasks that no request waits for."""

    def __init__(self) -> None:
        # several threads share one interpreter lock: they need more memory, delay the loop more, and end no earlier
        self._free = asyncio.Semaphore(1)
        # of its own: the threads that asyncio has for everything may all be in use
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="large-requests")
        self._tasks: set[asyncio.Task[None]] = set()

    def start_task(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a task, and keep a reference to it, because asyncio itself keeps only a weak one."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def run_in_thread(self, function: Callable[[*_Arguments], _Result], *arguments: *_Arguments) -> _Result:
        """Return the result of a function, computed in a thread after earlier computations have ended.

        A cancelled computation still occupies the thread until it ends.
        """
        await self._free.acquire()
        computation = asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
        computation.add_done_callback(lambda _: self._free.release())
        return await asyncio.shield(computation)

    async def run_in_thread_if_large(
        self, is_large: bool, function: Callable[[*_Arguments], _Result], *arguments: *_Arguments
    ) -> _Result:
        """Return the result of a function, which is called at once unless `is_large` is True."""
        return await self.run_in_thread(function, *arguments) if is_large else function(*arguments)

    async def run_for_call(
        self, function: Callable[[Call[BaseDialect]], _Result], call: Call[BaseDialect], *, is_large: bool = False
    ) -> _Result:
        """Return `function(call)`, such as the encoded request. It runs in a thread if it needs too many steps."""
        if not is_large:
            try:
                return function(call)
            except WorkPostponed:
                pass
        return await self.run_in_thread(function, structs.replace(call, max_schema_steps=None))


_MAX_ONCE_TEXTS = 10_000


class LibraryLog:
    """Log of an engine without a server: the logger `anthropic_proxy` of the module `logging`. It masks `secrets`."""

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        self._logger = logging.getLogger("anthropic_proxy")
        self._secrets = secrets
        self._written: set[str] = set()

    def write_once(self, text: str, level: LogLevel = "info") -> None:
        if text not in self._written and len(self._written) < _MAX_ONCE_TEXTS:
            self._written.add(text)
            self._logger.log(logging.getLevelNamesMapping()[level.upper()], "%s", redact_secrets(text, self._secrets))

    def write_warning(self, text: str) -> None:
        self._logger.warning("%s", redact_secrets(text, self._secrets))

    def write_traceback(self, request_id: str) -> None:
        text = redact_secrets(traceback.format_exc(), self._secrets)
        self._logger.error("request %s failed\n%s", request_id, text)


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
    prefix_guard: PrefixGuard = field(default_factory=PrefixGuard)
    """Finder of prompts that do not begin like the one before, which a provider's cache cannot serve."""
    circuit_breakers: CircuitBreakers = field(default_factory=CircuitBreakers)
    """One circuit breaker per upstream host. An open circuit breaker blocks calls after repeated failures."""
    retry_budget: RetryBudget = field(default_factory=RetryBudget)
    """Limit on the share of retries among upstream calls."""
    queue: FairQueue | None = None
    """Queue that limits concurrent upstream calls (`MAX_UPSTREAM_CALLS`), fair between clients. None: no limit."""
    throttles: Mapping[str, Throttle] = {}
    """Name of a provider with `requests_per_minute` → the throttle for its messages."""
    first_checks: FirstChecks = field(default_factory=FirstChecks)
    """First checks of the watchdogs of exchanges."""
    background: BackgroundWork = field(default_factory=BackgroundWork)
    """Thread for long computations, such as decoding a large request, and owner of background tasks."""
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
    inspectors: Sequence[Inspector] = ()
    """Readers of the texts of requests and replies, from plugins. Empty: no text is read."""
    recorders: Sequence[Recorder] = ()
    """Receivers of the bytes of exchanges, from plugins. Empty: no bytes are recorded."""
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


def new_id(prefix: str) -> str:
    """Return the prefix and 24 letters and digits. They can be predicted, so an id is no secret.

    Those of a request begin with the time, because a database adds ids in ascending order at one place of its index.
    Only 22 follow the prefix `toolu_px`, so that the id is as long as one with the prefix `toolu_`.
    """
    length = _RANDOM_CHARACTERS.get(prefix, 24)
    if prefix == "req_":
        prefix = f"req_{int(time.time() * 256):x}"
    return prefix + random.getrandbits(8 * length).to_bytes(length, "little").translate(_ID_CHARACTERS).decode()


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
    own = {"web_fetch": transports.web_fetch, "web_search": transports.web_search, "new_id": new_id, "clock": time.time}
    built: dict[str, Any] = {**build_engine_fields(options, transports.by_provider(), transports.http, credentials)}
    return Engine(settings=options, log=log, owned_transports=transports, **{**built, **own, **fields})


class EngineFields(TypedDict):
    """Fields of an `Engine` that follow from its options."""

    catalog: Catalog
    credentials: Credentials
    observations: ModelObservations
    queue: FairQueue | None
    throttles: Mapping[str, Throttle]
    compiled_routes: CompiledRoutes | None
    transports: Mapping[str, Transport]
    http: Transport


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
    queue = None if limit is None else FairQueue(slots_per_worker(limit, *worker_index_and_count), limit)
    listings = {
        row.name: OllamaModelSource(
            extend_transport(transports[row.name], options.call_options.get(row.name)),
            find_base_url(row, row.wires["ollama"], options),
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
