"""Interface of plugins, which are optional packages that extend the proxy.

A package returns a `Plugin`. An `Observer` receives a `Receipt`, the record of one finished client request. A
`Policy` identifies clients and admits or rejects requests. A `Tracer` starts traces, a `Recorder` receives content,
and a `Store` shares state. A `Route` serves a URL path. `Gateway` has the functions of the proxy that a plugin may
call.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from anthropic_proxy.plugins.admission import AdmissionRequest as AdmissionRequest
from anthropic_proxy.plugins.admission import AdmissionTarget as AdmissionTarget
from anthropic_proxy.plugins.admission import Client as Client
from anthropic_proxy.plugins.ledger_state import LedgerCondition as LedgerCondition
from anthropic_proxy.plugins.ledger_state import LedgerState as LedgerState
from anthropic_proxy.plugins.receipts import Receipt as Receipt
from anthropic_proxy.plugins.receipts import UpstreamAttempt as UpstreamAttempt
from anthropic_proxy.plugins.reply_block import BlockMark as BlockMark
from anthropic_proxy.plugins.routes import Headers as Headers
from anthropic_proxy.plugins.routes import HttpReply as HttpReply
from anthropic_proxy.plugins.routes import Route as Route
from anthropic_proxy.plugins.routes import RouteRequest as RouteRequest
from anthropic_proxy.plugins.routes import RouteResponse as RouteResponse
from anthropic_proxy.plugins.setup import ModelFeatures, Setup
from anthropic_proxy.plugins.storage import Limit as Limit
from anthropic_proxy.plugins.storage import Recorder as Recorder
from anthropic_proxy.plugins.storage import RecordPoint as RecordPoint
from anthropic_proxy.plugins.storage import Reservation as Reservation
from anthropic_proxy.plugins.storage import Store as Store
from anthropic_proxy.plugins.storage import StoreState as StoreState
from anthropic_proxy.plugins.storage import StoreUnavailable as StoreUnavailable
from anthropic_proxy.settings import Settings
from anthropic_proxy.trace_context import TraceContext

Settle = Callable[[Receipt], None]
"""Function that a policy returns for an admitted request.

The proxy calls it with the receipt at the end of the request, also after a failure. It must not block.
"""


class Policy(Protocol):
    """Access rules of a plugin. Each method may raise a `ClientError`, which rejects the client request."""

    async def identify(self, headers: Headers) -> Client | None:
        """Return the client of a request from its headers.

        Called before the body is read. None: this policy does not know the client.
        """
        ...

    async def admit(self, request: AdmissionRequest) -> Settle | None:
        """Check a client request before any call to a provider.

        Raises a `ClientError` to reject it. Return a function for the receipt at the end of the request, or None.
        """
        ...


class Observer(Protocol):
    """Receives the receipt (record) of each finished client request, also of rejected ones.

    Health checks (`/`, `/health`, `/readyz` …) and requests to routes of plugins have no receipt.
    """

    def record(self, receipt: Receipt) -> Awaitable[None] | None:
        """Process the receipt of a finished request.

        The proxy calls this after the last byte of the response. An `async` method runs in a task, and receives the
        next receipt when it has returned. A plain method runs at once, which needs less CPU time, and returns None.
        """
        ...


class Tracer(Protocol):
    """Creates the trace ids of each client request.

    The trace itself is built later by an observer, from the receipt of the request.
    """

    def start_trace(self, parent: TraceContext | None) -> TraceContext:
        """Return the ids of the trace for a new client request.

        `parent`: trace that the client sent; None: a new trace begins. Must not block.
        """
        ...


class Gateway(Protocol):
    """Functions of the proxy that a plugin may call. Each one uses the current settings."""

    @property
    def settings(self) -> Settings:
        """Settings in use. A reload of the settings files replaces this object."""

    async def run(self, body: bytes, client: Client) -> bytes:
        """Serve a request of the Messages API without `stream`, and return the reply message as JSON.

        `body`: JSON of the request. `client`: client for the receipt (record) of the request. Raises `ProxyError`.
        """

    def describe_targets(self, model: str) -> str:
        """Return the targets (provider and model) for a requested model id as text, with the reason for this choice.

        Example: `openai/gpt-4.1 (opus is BIG_MODEL (default of openai))`. Raises `UnknownModel`.
        """

    def list_models(self) -> Sequence[str]:
        """Return the model ids that the proxy lists at `GET /v1/models`.

        If Anthropic is the preferred provider, clients receive the list of Anthropic instead.
        """

    async def send_http(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        max_bytes: int = 1024 * 1024,
    ) -> HttpReply:
        """Send an HTTP request to another server, and return its reply.

        Redirects are not followed, and HTTP proxies of the environment are used. Raises `UpstreamError` if the
        request fails or takes more than ten seconds, or if the body exceeds `max_bytes`.
        """

    @property
    def store(self) -> Store:
        """Store for limits, budgets and shared state, as selected by the settings."""

    def log_warning_once(self, text: str) -> None:
        """Log a warning, but only once per process for the same text. API keys in the text are masked."""

    def health(self) -> Mapping[str, int]:
        """Return the number of blocked provider addresses (`open_circuits`) and of skipped keys (`keys_in_cooldown`).

        An address is blocked after repeated failures. An API key is skipped after a rate limit or a rejection.
        """

    @property
    def ledger_state(self) -> LedgerState | None:
        """State of the ledger, the database of finished requests. None: the ledger is disabled."""

    def log_warning_each_time(self, text: str) -> None:
        """Log a warning on each call, also with the same text. API keys in it are masked.

        Any thread may call the method.
        """

    def describe_setup(self) -> Setup:
        """Return the state of the providers and the model mapping. No request is sent to providers.

        Any thread may call the method.
        """

    async def reload_settings(self) -> bool:
        """Read the settings files again, in all workers.

        Return False if this server can read them only at its start.
        """

    async def describe_models(self, names: Sequence[str]) -> Sequence[ModelFeatures]:
        """Return the limits and features of models, such as the context window.

        `names`: model ids with prefix (`openai/gpt-4.1`). A model that no request can reach is left out.
        """

    async def collect_running_requests(self) -> Sequence[Receipt]:
        """Return a receipt for each running request of all workers, the latest last.

        Its fields about the reply are empty.
        """

    def stream_requests(self, client_names: Collection[str] | None = None) -> AsyncIterator[bytes]:
        """Yield the changes of the requests of all workers, as events for `GET /api/requests/live`.

        `client_names`: only requests of these clients. None: all.
        """


class Plugin(Struct, kw_only=True):
    """Extensions of the proxy by one optional package, which returns them from its function `open_plugin(settings)`."""

    policies: Sequence[Policy] = ()
    """Access rules, called in this order."""
    observers: Sequence[Observer] = ()
    """Objects that receive the receipt (record) of each finished client request."""
    recorders: Sequence[Recorder] = ()
    """Objects that receive the bytes of requests and replies, with their content."""
    tracer: Tracer | None = None
    """Source of trace ids, which are sent to providers. The first one of all plugins is used. None: traces are off."""
    store: Store | None = None
    """Store for limits and shared state, in place of the store that the settings select. None: the plugin has none."""
    routes: Sequence[Route] = ()
    """URL paths that the plugin serves."""
    ledger_state: Callable[[], LedgerState] | None = None
    """Returns the state of the ledger, for `/health` and `/metrics`. None: the plugin stores no requests."""
    start: Callable[[Gateway], Awaitable[None]] | None = None
    """Async function that is called once per worker process before its first request. None: nothing to start."""
    stop: Callable[[], Awaitable[None]] | None = None
    """Async function that is called once per worker process after its last request. None: nothing to stop."""
