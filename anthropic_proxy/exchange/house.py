"""What an exchange works with: everything that outlives one request, put together in `app.py`."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from msgspec import Struct, field

from anthropic_proxy.hooks import Client, Observer, Page, Policy
from anthropic_proxy.log import Log
from anthropic_proxy.routing.catalogue import Catalogue
from anthropic_proxy.routing.credentials import Credentials
from anthropic_proxy.routing.health import Breakers, Queue, RepeatBudget
from anthropic_proxy.routing.learned import Learned
from anthropic_proxy.routing.router import Routes
from anthropic_proxy.settings import Settings
from anthropic_proxy.upstream.errands import Fetch, Search
from anthropic_proxy.wire.contract import Send


class House(Struct, frozen=True, kw_only=True):
    """One set of parts; a reload builds another, running exchanges keep theirs."""

    settings: Settings
    catalogue: Catalogue
    credentials: Credentials
    learned: Learned
    routes: Routes = field(default_factory=Routes)
    breakers: Breakers = field(default_factory=Breakers)
    budget: RepeatBudget = field(default_factory=RepeatBudget)
    queue: Queue
    ways: Mapping[str, Send]
    """Ways out, by the name that a provider's row gives (`http`, `demo`)."""
    log: Log
    fetch: Fetch | None = None
    """Fetches pages and links for a model; None: `FETCH_URLS` is off."""
    search: Search | None = None
    """Runs web searches for a model; None: no `SEARCH_URL`."""
    new_id: Callable[[str], str]
    """`new_id("msg_")` → a fresh identifier with that prefix."""
    clock: Callable[[], float]
    """Seconds since the epoch."""
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    """Waits so many seconds before a repeat."""
    policies: Sequence[Policy] = ()
    observers: Sequence[Observer] = ()
    metrics: Page | None = None
    """What `/metrics` shows; None: there is nothing at that address."""


class Inbound(Struct, kw_only=True):
    """A request as the door hands it in."""

    request_id: str
    client: Client
    headers: Mapping[str, str]
    """Names in lower case; without credentials, except where they may be passed on."""
    body: bytes
    """Empty once nobody needs it any more."""
    path: str = "/v1/messages"
    query: str = ""

    @property
    def queues_as(self) -> str:
        """Client and session: places in front of the upstreams go round among these."""
        return f"{self.client.name} {self.headers.get('x-claude-code-session-id', '')}"
