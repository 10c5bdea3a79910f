"""`Services`: every object that outlives one client request, and `open_services`, which builds them for given settings.

Examples: the model catalog, provider keys, circuit breakers, connections, the log, and queues of receipts (records of
finished requests) for plugins.
"""

import asyncio
import random
import string
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar, TypeVarTuple

from msgspec import Struct, field, structs

from anthropic_proxy.log import Log
from anthropic_proxy.log.in_progress import RequestsInProgress
from anthropic_proxy.log.receipts import ReceiptQueues
from anthropic_proxy.platforms.heap import HeapTrimmer
from anthropic_proxy.plugins import GetRoute, Plugin, Policy
from anthropic_proxy.routing.catalog import Catalog, OllamaListing
from anthropic_proxy.routing.credentials import Credentials, TokenSource
from anthropic_proxy.routing.health import CircuitBreakers, FairQueue, RetryBudget, slots_per_worker
from anthropic_proxy.routing.memory_store import MemoryStore
from anthropic_proxy.routing.model_observations import ModelObservations
from anthropic_proxy.routing.providers import find_provider, list_setup_variables
from anthropic_proxy.routing.router import RouteCache, should_query_ollama
from anthropic_proxy.settings import Settings
from anthropic_proxy.upstream.contract import WebFetch, WebSearch
from anthropic_proxy.upstream.transports import Transports
from anthropic_proxy.wire.contract import Transport

_Arguments = TypeVarTuple("_Arguments")
_Result = TypeVar("_Result")
_BASE_62 = (string.digits + string.ascii_letters).encode()
_ID_CHARACTERS = bytes(_BASE_62[byte % len(_BASE_62)] for byte in range(256))


class BackgroundWork:
    """Runs long computations in a thread, one at a time.

    Several threads share one interpreter lock: they would need more memory, delay the event loop more, and not finish
    earlier.
    """

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(1)

    async def run(self, function: Callable[[*_Arguments], _Result], *arguments: *_Arguments) -> _Result:
        """Return the result of a function, computed in a thread after earlier computations have ended.

        A cancelled computation still occupies the thread until it ends, because threads cannot be stopped.
        """
        await self._free.acquire()
        computation = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
        computation.add_done_callback(lambda _: self._free.release())
        return await asyncio.shield(computation)

    async def run_if(self, large: bool, function: Callable[[*_Arguments], _Result], *arguments: *_Arguments) -> _Result:
        """Return the result of a function. `large`: True runs the function in a thread, False at once."""
        return await self.run(function, *arguments) if large else function(*arguments)


class Services(Struct, frozen=True, kw_only=True):
    """All objects that outlive one request, for one version of the settings.

    A reload builds new services. Running exchanges keep the old ones.
    """

    settings: Settings
    catalog: Catalog
    """Limits and features of models, and the model lists of providers that have one."""
    credentials: Credentials
    """API keys and tokens of the providers, with the cooldown of rejected keys."""
    observations: ModelObservations
    """Facts about models learned from replies: adaptations and token scales."""
    route_cache: RouteCache = field(default_factory=RouteCache)
    """Routes of recent requests."""
    circuit_breakers: CircuitBreakers = field(default_factory=CircuitBreakers)
    """One circuit breaker per upstream host. An open one blocks calls after repeated failures."""
    retry_budget: RetryBudget = field(default_factory=RetryBudget)
    """Limits the share of retries among upstream calls."""
    queue: FairQueue
    """Limits concurrent upstream calls (`MAX_UPSTREAM_CALLS`), fair between clients."""
    background: BackgroundWork = field(default_factory=BackgroundWork)
    """Thread for long computations on the data of clients and models."""
    connections: Transports | None = None
    """Owner of `transports`. None: they need not be closed."""
    transports: Mapping[str, Transport]
    """Transport name of a provider (`http`, `demo`) → transport."""
    log: Log
    web_fetch: WebFetch | None = None
    """Function that fetches web pages and URLs for a model. None: `FETCH_URLS` is off."""
    web_search: WebSearch | None = None
    """Function that runs web searches for a model. None: `SEARCH_URL` is not set."""
    new_id: Callable[[str], str]
    """Returns a new identifier with a prefix: `new_id("msg_")`."""
    clock: Callable[[], float]
    """Returns the time in seconds since the epoch."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    """Waits the given number of seconds, before a retry."""
    policies: Sequence[Policy] = ()
    """Access rules of plugins."""
    receipts: ReceiptQueues
    """Queues of receipts, one for each observer."""
    routes: Mapping[str, GetRoute] = {}
    """URL path → content that a plugin serves there."""
    heap_trimmer: HeapTrimmer = field(default_factory=HeapTrimmer)
    """Returns freed memory of this process to the system. A reload keeps the object."""
    in_progress: RequestsInProgress = field(default_factory=RequestsInProgress)
    """List of the running client requests, for the message about a process that does not respond."""

    async def close(self) -> None:
        """Stop the refreshing of model lists and close all connections."""
        await self.catalog.close()
        if self.connections is not None:
            await self.connections.close()


async def open_services(
    settings: Settings,
    *,
    connections: Transports | None = None,
    log: Log | None = None,
    receipts: ReceiptQueues | None = None,
    heap_trimmer: HeapTrimmer | None = None,
    in_progress: RequestsInProgress | None = None,
    plugins: Sequence[Plugin] = (),
    worker_position: tuple[int, int] = (0, 1),
    previous: Services | None = None,
) -> Services:
    """Build services for these settings and return them, ready for requests. The caller closes them.

    The models of Ollama are listed first if Ollama is preferred or no provider has a key. `connections`, `log`,
    `receipts`, `heap_trimmer`, `in_progress`: existing objects to use; None: new ones. `plugins`: opened plugins; their
    observers belong to `receipts`. `worker_position`: index of this worker, from 0, and number of workers. `previous`:
    services that a reload replaces; their state is kept.
    """
    connections = connections or new_connections(settings)
    transports, tokens = connections.transports_by_name(), {"google": connections.google_tokens}
    log = log or new_log(settings)
    services = build_services(
        settings, transports, log, tokens=tokens, receipts=receipts, worker_position=worker_position
    )
    services = structs.replace(
        services,
        connections=connections,
        web_fetch=connections.web_fetch,
        web_search=connections.web_search,
        policies=[policy for plugin in plugins for policy in plugin.policies],
        routes={path: route for plugin in plugins for path, route in plugin.routes.items()},
        heap_trimmer=heap_trimmer or services.heap_trimmer,
        in_progress=in_progress or services.in_progress,
    )
    if previous is not None:
        services = _carry_over_state(services, previous)
    if should_query_ollama(settings) and (previous is None or services.catalog is not previous.catalog):
        await services.catalog.refresh_listing("ollama")
    return services


def new_connections(settings: Settings) -> Transports:
    """Return the transports to the providers for these settings. They connect at the first request."""
    return Transports(settings, setup_variables=list_setup_variables())


def new_log(settings: Settings) -> Log:
    """Return the log for these settings. It redacts the keys among the settings."""
    return Log(
        form=settings.log_format, level=settings.log_level, color=settings.color, secrets=settings.reveal_all_secrets()
    )


def new_id(prefix: str) -> str:
    """Return a new identifier: the prefix and 24 base-62 characters (22 after `toolu_px`).

    Identifiers are unique, but not secret: none grants access.
    """
    return prefix + random.randbytes(22 if prefix == "toolu_px" else 24).translate(_ID_CHARACTERS).decode()


def build_services(
    settings: Settings,
    transports: Mapping[str, Transport],
    log: Log,
    *,
    new_id: Callable[[str], str] = new_id,
    tokens: Mapping[str, TokenSource] | None = None,
    receipts: ReceiptQueues | None = None,
    worker_position: tuple[int, int] = (0, 1),
) -> Services:
    """Build services on existing transports, without sending a request.

    `tokens`: token source name → source of OAuth tokens. `worker_position`: index of this worker and number of workers.
    """
    credentials = Credentials(settings, tokens)
    ollama = find_provider("ollama")
    models = OllamaListing(
        transports[ollama.transport],
        settings.base_urls.get(ollama.name, ollama.base_url),
        window=settings.ollama_context_length,
        find_credential=lambda: credentials.next_credential(ollama),
    )
    limit = settings.max_upstream_calls
    return Services(
        settings=settings,
        catalog=Catalog(sources={ollama.name: models}),
        credentials=credentials,
        observations=ModelObservations(MemoryStore()),
        queue=FairQueue(None) if limit is None else FairQueue(slots_per_worker(limit, *worker_position), limit),
        transports=transports,
        log=log,
        new_id=new_id,
        clock=time.time,
        receipts=receipts or ReceiptQueues(log),
    )


def _carry_over_state(services: Services, previous: Services) -> Services:
    """Return the services with the state that survives a reload: observations, cooldowns, queue, model listings."""
    now, then = services.settings, previous.settings
    services.credentials.restore_state(previous.credentials)
    carried: dict[str, Any] = {"retry_budget": previous.retry_budget}
    same_upstreams = (now.base_urls, now.wires) == (then.base_urls, then.wires)
    if same_upstreams:
        carried["observations"] = previous.observations
    if same_upstreams and now.keys == then.keys:
        carried["circuit_breakers"] = previous.circuit_breakers  # a new address or key may repair the failure
        if services.transports == previous.transports and now.ollama_context_length == then.ollama_context_length:
            carried["catalog"] = previous.catalog
    if now.max_upstream_calls == then.max_upstream_calls:
        carried["queue"] = previous.queue
    return structs.replace(services, **carried)
