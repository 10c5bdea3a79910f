"""Services shared by all exchanges."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from msgspec import Struct, field

from anthropic_proxy.exchange.background import BackgroundWork
from anthropic_proxy.exchange.receipts import Receipts
from anthropic_proxy.in_progress import InProgress
from anthropic_proxy.log import Log
from anthropic_proxy.plugins import GetRoute, Policy
from anthropic_proxy.routing.catalog import Catalog
from anthropic_proxy.routing.credentials import Credentials
from anthropic_proxy.routing.health import CircuitBreakers, FairQueue, RetryBudget
from anthropic_proxy.routing.model_observations import ModelObservations
from anthropic_proxy.routing.router import RouteCache
from anthropic_proxy.settings import Settings
from anthropic_proxy.upstream.contract import WebFetch, WebSearch
from anthropic_proxy.wire.contract import Transport


class Services(Struct, frozen=True, kw_only=True):
    """Services for one version of the settings. A reload builds new ones; running exchanges keep theirs."""

    settings: Settings
    catalogue: Catalog
    credentials: Credentials
    observations: ModelObservations
    route_cache: RouteCache = field(default_factory=RouteCache)
    circuit_breakers: CircuitBreakers = field(default_factory=CircuitBreakers)
    retry_budget: RetryBudget = field(default_factory=RetryBudget)
    queue: FairQueue
    background: BackgroundWork = field(default_factory=BackgroundWork)
    """Long computations on the data of clients and models."""
    transports: Mapping[str, Transport]
    """Transport name of a provider (`http`, `demo`) → transport."""
    log: Log
    web_fetch: WebFetch | None = None
    """Fetches pages and links for a model; None: `FETCH_URLS` is off."""
    web_search: WebSearch | None = None
    """Runs web searches for a model; None: no `SEARCH_URL`."""
    new_id: Callable[[str], str]
    """`new_id("msg_")` → a fresh identifier with that prefix."""
    clock: Callable[[], float]
    """Seconds since the epoch."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    """Waits the given seconds before a retry."""
    policies: Sequence[Policy] = ()
    receipts: Receipts
    """Queues of finished receipts."""
    metrics_route: GetRoute | None = None
    """Route `/metrics`. None: the path is not served."""
    in_progress: InProgress = field(default_factory=InProgress)
    """Requests in progress, for the message about a process that does not respond."""
