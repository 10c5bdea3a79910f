"""Interface of plugins, which are optional packages that extend the proxy.

The parts of a `Plugin`: an `Observer` receives receipts. A `Policy` identifies clients and admits requests; the
function `Settle` that `admit` returns receives the receipt at the end. A `Tracer` starts traces. A `Route` serves a URL
path. A `Store` shares state, a `Recorder` receives content. A `Receipt` is the record of one finished client request.
`Gateway` has the functions of the proxy that a plugin may call: `run` serves a request, `health` counts providers and
keys that are not used. `start` and `stop` of a plugin are called once per worker.
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
"""Function of a policy that receives the receipt of an admitted request at its end, also if it failed. It must not
block."""


class Policy(Protocol):
    """Access rules of a plugin. Each method may raise a `ClientError`, which rejects the client request."""

    async def identify(self, headers: Headers) -> Client | None:
        """Return the client of a request from its headers, before the body is read.

        None: the client is unknown to this policy.
        """
        ...

    async def admit(self, request: AdmissionRequest) -> Settle | None:
        """Check a client request after routing and before any upstream call. Raise a `ClientError` to reject it.

        Return a function that receives the receipt at the end of the request. None: not necessary.
        """
        ...


class Observer(Protocol):
    """Receives the receipt of each finished request: exchanges, token counts and rejected requests.

    Probes (`/`, `/health`, `/readyz` …) and requests to routes of plugins produce no receipt.
    """

    def record(self, receipt: Receipt) -> Awaitable[None] | None:
        """Process the receipt of a finished request. The proxy calls the method after the last byte of the response.

        An `async` method runs in a task, and receives the next receipt only when it has returned. A plain method runs
        at once and returns None. It needs less CPU time, because no task is started.
        """
        ...


class Tracer(Protocol):
    """Source of the ids of a new trace span for each client request. An observer builds the spans from receipts."""

    def start_trace(self, parent: TraceContext | None) -> TraceContext:
        """Return the trace of a new client request, with a new span id. Must not block.

        `parent`: trace that the client sent. None: a new trace begins.
        """
        ...


class Gateway(Protocol):
    """Interface of the proxy for plugins: methods that a plugin may call. Each method uses the current settings."""

    @property
    def settings(self) -> Settings:
        """Settings in use. A reload of the settings files replaces this object."""

    async def run(self, body: bytes, client: Client) -> bytes:
        """Serve a request of the Messages API without `stream`, and return the reply message as JSON.

        `body`: JSON of the request. `client`: the client in the receipt of the request. Raises `ProxyError`.
        """

    def describe_targets(self, model: str) -> str:
        """Return as text the targets (provider and model) for a requested model id, and the reason for this choice.

        Example: `openai/gpt-4.1 (opus is BIG_MODEL (default of openai))`. Raises `UnknownModel`.
        """

    def list_models(self) -> Sequence[str]:
        """Return the model ids of the list that the proxy itself builds for `GET /v1/models`.

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
        """Send an HTTP request to another server, and return its reply. Redirects are not followed.

        HTTP proxies of the environment are used. Raises `UpstreamError` if the request fails or takes more than ten
        seconds, or if the body of the reply has more than `max_bytes`.
        """

    @property
    def store(self) -> Store:
        """Store for limits, budgets and shared state, as selected by the settings."""

    def log_warning_once(self, text: str) -> None:
        """Log a warning, once per process for the same text. API keys in the text are masked."""

    def health(self) -> Mapping[str, int]:
        """Return two counts by the names `open_circuits` and `keys_in_cooldown`.

        An open circuit blocks calls to one address of a provider after repeated failures. An API key in cooldown is
        skipped after a rate limit or a rejection.
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
        """Read the settings files again, in all workers. Return False if this server reads them only at its start."""

    async def describe_models(self, names: Sequence[str]) -> Sequence[ModelFeatures]:
        """Return the limits and features of models.

        `names`: model ids with prefix (`openai/gpt-4.1`). A model that no request can reach is omitted.
        """

    async def collect_running_requests(self) -> Sequence[Receipt]:
        """Return a receipt for each running request of all workers, the latest last.

        Fields of the reply are still empty.
        """

    def stream_requests(self, client_names: Collection[str] | None = None) -> AsyncIterator[bytes]:
        """Return the events of `GET /api/requests/live`: changes of the requests of all workers.

        `client_names`: only requests of these clients. None: all.
        """


class Plugin(Struct, kw_only=True):
    """Extensions of the proxy by one optional package.

    The function `open_plugin(settings)` of the package returns a `Plugin`.
    """

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
