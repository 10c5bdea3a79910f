"""Interface of plugins, which are optional packages that extend the proxy.

A package returns a `Plugin`. A `Policy` identifies clients, and admits or rejects their requests. An `Inspector` reads
the texts of requests and replies, and redacts or refuses them. An `Observer` receives a `Receipt`, the record of one
client request without message content. A `Recorder` receives the content. A `Tracer` starts traces, and a `Store`
shares state. A `Route` serves a URL path. `Gateway` has the functions of the proxy that a plugin may call. Its method
`describe_setup` returns a `Setup`, the state of all providers and the models to which Claude models are mapped. What
the engine itself calls is defined in `engine.hooks`.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar

from msgspec import Struct, field

from anthropic_proxy.engine.advice import Problem
from anthropic_proxy.engine.hooks import (
    AdmissionRequest,
    AdmissionTarget,
    AdmitFurtherCall,
    BlockMark,
    CallCheck,
    CheckVerdict,
    Client,
    Cost,
    FurtherCall,
    Headers,
    InspectedPart,
    InspectedTexts,
    InspectionDecision,
    InspectionRecord,
    Inspector,
    InspectorScope,
    Limiter,
    ModelUsage,
    Observer,
    Passage,
    PassageKind,
    Policy,
    PrefixChange,
    Receipt,
    Recorder,
    RecordPoint,
    Redaction,
    Refusal,
    SessionModel,
    SessionModels,
    Settle,
    StoreUnavailable,
    Tracer,
    UpstreamAttempt,
    ValueStore,
)
from anthropic_proxy.engine.messages.deltas import Iteration
from anthropic_proxy.engine.messages.purpose import RequestKind
from anthropic_proxy.engine.own_keys import KeepSecret
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.routing.model_listing import ModelEntry
from anthropic_proxy.engine.wires.purposes import OperatorPurpose
from anthropic_proxy.errors import ProxyError

__all__ = [
    "LEASE_SECONDS",
    "AdmissionRequest",
    "AdmissionTarget",
    "AdmitFurtherCall",
    "BlockMark",
    "BudgetLabels",
    "CallCheck",
    "CheckVerdict",
    "Client",
    "Condition",
    "Cost",
    "FurtherCall",
    "Gateway",
    "Headers",
    "HttpReply",
    "InspectedPart",
    "InspectedTexts",
    "InspectionDecision",
    "InspectionRecord",
    "Inspector",
    "InspectorScope",
    "Iteration",
    "KeepSecret",
    "LedgerCondition",
    "LedgerState",
    "Limit",
    "LimitKind",
    "Limiter",
    "ModelEntry",
    "ModelFeatures",
    "ModelMapping",
    "ModelUsage",
    "Observer",
    "Passage",
    "PassageKind",
    "Plugin",
    "Policy",
    "PrefixChange",
    "Problem",
    "ProviderSetup",
    "Receipt",
    "RecordPoint",
    "Recorder",
    "Redaction",
    "Refusal",
    "RequestKind",
    "Reservation",
    "Route",
    "RouteRequest",
    "RouteResponse",
    "ServerFacts",
    "SessionModel",
    "SessionModels",
    "Settle",
    "Setup",
    "Store",
    "StoreState",
    "StoreUnavailable",
    "Tracer",
    "UpstreamAttempt",
    "ValueStore",
]


class ProviderSetup(Struct, frozen=True, kw_only=True):
    """State of one provider. API keys are masked."""

    name: str
    """Name of the provider: `google`."""
    prefix: str
    """Prefix of the provider in model ids: `gemini`."""
    state: Literal["ready", "problem", "unset"]
    """`ready`: requests are possible. `problem`: a key is set, but a request would fail. `unset`: no key is set."""
    detail: str = ""
    """Text about the state: masked keys and their source, number of models, or URL."""
    base_url: str = ""
    """Base URL of the provider's API."""
    remedy: str = ""
    """Cause and remedy of a problem, or the setting that is missing. "": no problem."""
    key_count: int = 0
    """Number of API keys that are set for the provider."""
    cooldowns: Sequence[float] = ()
    """Seconds until the next use of each key that is skipped after a rate limit or a rejection. Empty: no key is
    skipped."""
    open_seconds: float = 0.0
    """Seconds for which calls are blocked after repeated failures (open circuit). 0: calls are allowed."""
    failure: str = ""
    """Error message of the failure after which calls were blocked. "": calls are not blocked."""


class ModelMapping(Struct, frozen=True, kw_only=True):
    """The model that serves the requests for one or more Claude tiers (opus, sonnet …), with its fallbacks."""

    tiers: str
    """Names of the Claude tiers: `opus, sonnet …`."""
    target: str
    """Model that serves the requests, with prefix: `openai/gpt-4.1`. A provider without a model: `my/`."""
    fallbacks: Sequence[str] = ()
    """Models with prefix that are called after the target failed, in order."""
    reason: str = ""
    """Setting that selects the target."""
    replies: Sequence[tuple[str, str]]
    """Models that reply to a conversation, each with its reason: that of a route first, and then the target, for
    requests that do not meet the route."""


class Setup(Struct, frozen=True, kw_only=True):
    """State of all providers, and the model mapping, both for the current settings."""

    providers: Sequence[ProviderSetup] = ()
    """State of each provider that the proxy offers to users, also of those without a key. The demo is left out."""
    mapping: Sequence[ModelMapping] = ()
    """Rows of the model mapping. Tiers with the same target share a row."""
    problems: Sequence[Problem] = ()
    """Errors with which requests of mapped models and enabled features fail, or of the running server, then warnings.
    Each has its remedy."""


class Condition(Struct, frozen=True, kw_only=True):
    """Something that is wrong with the running server now. The settings alone do not show it."""

    check: str
    """Name of the check in `/readyz` and of the metric `anthropic_proxy_conditions`: `instances`."""
    state: str
    """Result of the check, which everybody may read: `4 without Redis`."""
    problem: Problem
    """The same with its remedy, for the log, the doctor and the pages."""
    is_logged: bool = False
    """True: the plugin writes it to the log itself."""


class ServerFacts(Struct, frozen=True, kw_only=True):
    """The server to which this process belongs, with all its workers."""

    id: str
    """Random id. It is the same in all workers, for as long as the server runs."""
    address: str = ""
    """URL at which it listens. "": unknown, because another ASGI server runs the application."""
    worker_index: int = 0
    """Index of this process, from 0."""
    worker_count: int = 1
    """Number of processes of the server."""
    is_stopping: bool = False
    """True if the server only completes its running requests."""


class ModelFeatures(Struct, frozen=True, kw_only=True):
    """Limits and features of one model of a provider, as the proxy assumes them when it sends requests."""

    model: str
    """Model id with prefix: `openai/gpt-4.1`."""
    provider: str
    """Name of the provider: `google` for the prefix `gemini`."""
    context_window: int | None
    """Context window in tokens: input and output together. None: unknown."""
    max_input: int | None
    """Maximum input tokens of one request: the size that a conversation can reach. With some models this is less than
    the context window. None: unknown."""
    max_output: int | None
    """Maximum output tokens of one reply. None: unknown."""
    tools: bool
    """True if the model can call tools."""
    images: bool
    """True if the model reads images."""
    documents: bool
    """True if the model reads PDF documents."""
    efforts: Sequence[str]
    """Levels of reasoning effort. Empty: none are known."""
    has_thinking_budget: bool
    """True if the amount of thinking is sent as a number of tokens."""
    server_tools: Mapping[str, Literal["provider", "proxy", "none"]] = {}
    """Kind of a server tool, such as `web_search` → place where it runs: at the provider, in the proxy, or `none` (not
    available)."""
    source: str
    """Source of the values: `built-in table`, `server` (its description of the model), or `assumed` (defaults)."""
    other_sources: Mapping[str, str] = {}
    """Field → source of its value, if different from `source`: `doctor, 20 Nov 2026`, `model list of the server`."""
    adaptations: Sequence[str] = ()
    """Changes that the proxy makes to requests of this client because the provider rejected a parameter:
    `drop top_k`."""

    @property
    def web_search(self) -> Literal["provider", "proxy", "none"]:
        return self.server_tools["web_search"]

    @property
    def web_fetch(self) -> Literal["provider", "proxy", "none"]:
        return self.server_tools["web_fetch"]


LimitKind = Literal["rate", "concurrency", "amount"]
"""Kind of a limit.

`rate`: maximum in any period of `Limit.seconds`. `concurrency`: maximum at the same time. `amount`: maximum until the
counter is deleted, for a budget.
"""
LEASE_SECONDS = 60.0
"""Default seconds until the amounts of a reservation are released if it is neither settled nor renewed."""


class Limit(Struct, frozen=True):
    """One counter with its maximum, and the amount that a request adds to it."""

    key: str
    """Name of the counter: `key/ab12/requests`. The name of a budget contains its period."""
    kind: LimitKind
    """Kind of the limit: `rate` (per period), `concurrency` (at the same time) or `amount` (until an end, as a
    budget)."""
    amount: int
    """Amount to reserve, in the unit of the limit: requests, tokens or nano-dollars. 0: only the counter is read."""
    maximum: int
    """Maximum of the counter, in the unit of `amount`."""
    seconds: float = 0.0
    """`rate`: length of the period. `amount`: time from the first reservation until the counter is deleted.
    `concurrency`: not used."""
    at_least: int = 0
    """`amount`: settled amount that the counter has at least, from this call on, also if nothing is reserved. The
    ledger has it, such as of a server that has counted elsewhere. Raising a counter again changes nothing."""


class Reservation(Struct, frozen=True):
    """Result of `Store.reserve`: either the amounts of all limits of a request were added to the counters, or none."""

    id: str
    """Unique id. "": nothing is reserved, because a limit has no room or all amounts are 0."""
    limits: Sequence[Limit] = ()
    """Limits of the request, in the order of `reserve`."""
    refused: int | None = None
    """Index of the limit that has no room. If several have none: the limit with the longest wait. None: all are
    reserved."""
    retry_after_seconds: float = 0.0
    """Time until the refused limit can have room. 1.0: the time is unknown, because a running request must end first.
    """
    remaining: Sequence[int] = ()
    """Amount left of each limit, after this reservation. Negative: actual amounts were higher than reserved ones."""
    settled: Sequence[int] = ()
    """Settled amount of each limit of the kind `amount`; 0 for the other kinds. After a loss of data, it is compared
    with the use of the budget by the ledger. (): it is not compared."""
    reset_seconds: Sequence[float] = ()
    """Time until each limit has its full maximum again without further requests. 0.0: now, or unknown because the time
    depends on running requests."""
    slots: Sequence[int] = ()
    """Index of each amount within its counter, which `Store.settle` needs."""
    lease_seconds: float = LEASE_SECONDS
    """Time after which the amounts are released, unless the reservation is renewed."""
    settled_seconds_ago: float = 0.0
    """Time for which the actual amounts have waited for the store when it gets them by `settle`. A counter that was
    raised meanwhile (`Limit.at_least`) has the use by the ledger: it gets no amount again."""
    is_share: bool = False
    """True if only the share of this process of the refused limit has no room, because the store that all processes
    use is unavailable. Others may have room."""

    @property
    def is_held(self) -> bool:
        """True if amounts are reserved, so that `Store.settle` must be called."""
        return bool(self.id)


class StoreState(Struct, frozen=True, kw_only=True):
    """Condition of a store, shown in `/health`, `/readyz` and `/metrics`."""

    kind: Literal["memory", "redis", "database", "plugin"] = "memory"
    """Kind of the store, which decides the processes that share it. `database`: those that use the same PostgreSQL
    share budgets and values; rates and requests in progress are in the memory of each server."""
    available: bool = True
    """True if the store can be used. False: Redis has failed, so limits are approximated in this process, or requests
    are rejected."""
    problem: str = ""
    """Message about the failure of the store, for the operator of the proxy. "": no failure."""
    processes: int = 1
    """Number of running processes that use the store, as far as known."""
    pending_settlements: int = 0
    """Settled reservations that are not yet in the store."""
    group: str = ""
    """Random id of the data in Redis, which all processes that share them know. "": it is unknown, or there is no
    Redis."""
    clock_base: float | None = None
    """Time of the clock of the store, in seconds since the epoch, at the zero of `time.monotonic`. None: the processes
    that share the store have the same clock, or its clock is unknown."""
    interruptions: int = 0
    """Number of times that this process could not use the store. After each one, the store may have lost amounts."""

    def find_time(self, clock: Callable[[], float]) -> float:
        """Return the time in seconds since the epoch by the clock that all processes share. `clock`: that of this
        machine.
        """
        return clock() if self.clock_base is None else time.monotonic() + self.clock_base


class Store(ValueStore, Protocol):
    """Storage for values that expire and for counters of limits, which the workers share.

    Durations are in seconds. Methods may raise `StoreUnavailable`.
    """

    @property
    def state(self) -> StoreState:
        """Current condition of the store. Reading the property needs no I/O."""
        ...

    async def reserve(self, limits: Sequence[Limit], lease_seconds: float = LEASE_SECONDS) -> Reservation:
        """Add the amounts of a request to all counters, or to none if one limit has no room.

        If neither `settle` nor `renew` is called, the amounts are removed again after `lease_seconds`. Only amounts of
        the kind `rate` still count for the period of their limit.
        """
        ...

    async def settle(self, reservation: Reservation, amounts: Sequence[int]) -> None:
        """Replace the estimated amounts of a reservation by the actual ones, in the order of its limits.

        Does not raise `StoreUnavailable`.
        """
        # a `concurrency` amount is released in any case, and a repeated call has no effect
        ...

    async def renew(self, reservations: Sequence[Reservation]) -> None:
        """Extend the lifetime of the reservations of running requests.

        Each one then lasts for another `Reservation.lease_seconds` from now. Never raises `StoreUnavailable`.
        """
        ...

    async def close(self) -> None:
        """Write the actual amounts that are not stored yet, then close connections and files of the store.

        The writing ends after at most two seconds, so that it does not delay the stop of the server.
        """
        ...


class RouteRequest(Struct, frozen=True, kw_only=True):
    """A client request for a `Route`, with its complete body."""

    method: str = "GET"
    """HTTP method of the client request."""
    path: str
    """URL path without the query."""
    path_parameters: Mapping[str, str] = {}
    """Parameter in braces of `Route.path` → the value in the URL path."""
    query: Mapping[str, Sequence[str]] = {}
    """Parameter of the URL query → its values, in the order of the URL."""
    headers: Headers = {}
    """Client headers without `authorization` and `x-api-key`."""
    body: bytes = b""
    """Body of the request, at most `Route.max_body_bytes` long."""
    client: Client = Client()
    """Client that sent the request."""
    scheme: str = "http"
    """`http`, or `https` if a proxy in front of this server ends TLS."""
    address: str = ""
    """IP address of the client, also behind a reverse proxy of `TRUSTED_PROXIES`. "": unknown."""
    request_id: str = ""
    """Id in the response header `request-id`."""
    path_prefix: str = ""
    """Path of `DASHBOARD_URL`, such as `/proxy`. The server adds it to the links of uncompressed pages."""


class RouteResponse(Struct, frozen=True, kw_only=True):
    """The response of a `Route`. The server adds `request-id` and `content-length`."""

    status: int = 200
    """HTTP status of the response."""
    headers: Mapping[str, str | Sequence[str]] = {}
    """Header name in lower case → value, with `content-type`. Several values become several header lines."""
    body: bytes | AsyncIterator[bytes] = b""
    """Body of the response. An iterator is a stream, such as `text/event-stream`; it is closed if the client
    disconnects."""
    is_negotiated: bool = False
    """True if an error status is part of a protocol, such as the answer to a poll. The log has it at `debug` only."""


class Route(Struct, frozen=True, kw_only=True):
    """A URL path that a plugin serves.

    If the proxy requires a key for its API, clients need a key for this path too, except with `checks_key`.
    """

    path: str
    """URL path. A name in braces is the parameter of one segment: `/api/requests/{id}`. `{rest*}` matches all further
    segments."""
    respond: Callable[[RouteRequest], Awaitable[RouteResponse]]
    """Function that returns the response. A `ProxyError` becomes an error body (`encode_error`)."""
    methods: Sequence[str] = ("GET",)
    """HTTP methods. GET includes HEAD. A plugin may have several routes for one path."""
    max_body_bytes: int = 65_536
    """Maximum size of the request body. A larger one is rejected with 413."""
    checks_key: bool = False
    """True if `respond` itself checks the access of clients without a key, for example by a cookie.

    A sign-in page needs this if the proxy has a key.
    """
    encode_error: Callable[[ProxyError], RouteResponse] | None = None
    """Function that returns the response for an error, also for one that the server finds itself, such as another
    method. All routes of a path have the same one. None: an error body in Anthropic's format."""
    decompresses: bool = False
    """True if `respond` itself reads bodies with a `content-encoding`. Otherwise they are rejected with 415."""


class HttpReply(Struct, frozen=True):
    """Reply of another server to a request of a plugin, as `Gateway.send_http` returns it."""

    status: int
    """HTTP status of the reply."""
    body: bytes
    """Complete response body."""
    retry_after: float | None = None
    """Seconds, at most an hour, for which the server wants no other request. None: it states none."""


BudgetLabels = tuple[str, str, str, str, str, str]
"""Budget in `/metrics`: `key`, `team` or `proxy` (`BUDGET`), its name, unit and period of the budget, pattern of models
("": all), and `hard` or `soft`."""
LedgerCondition = Literal["ok", "disk full", "locked", "read-only", "corrupt", "unreachable", "newer schema", "failed"]
"""Result of the last attempt to store requests, or of the last look at the disk of a SQLite database.

`newer schema`: a newer version of the program has changed the database, so this version does not write. `failed`:
another error, which is in the log.
"""


class LedgerState(Struct):
    """Condition of the ledger, and numbers of stored, waiting and lost requests.

    The numbers are those of this process since its start.
    """

    condition: LedgerCondition = "ok"
    problem: str = ""
    """Sentence for the user with cause, reason and remedy. It may contain a path. "": the condition is `ok`."""
    clock_problem: str = ""
    """Sentence for the user: why the clock of this machine may be wrong, so that expired requests are not deleted. "":
    it is right."""
    queued_rows: int = 0
    """Number of requests that are not stored yet."""
    spooled_rows: int = 0
    """Number of requests among them in the file that all workers of a machine share."""
    written_rows: int = 0
    """Number of stored requests."""
    spending: dict[tuple[str, str, str, str], tuple[int, int, int]] = field(default_factory=dict)
    """Team, cost center, provider and kind of request → stored requests, their cost in nano-dollars, and those among
    them without a known price.
    """
    late_rows: int = 0
    """Number of stored requests that had waited for longer than a moment, in memory or in a file. Those of an earlier
    process are among them."""
    dropped_rows: int = 0
    """Number of lost requests: the queue was full, or the database rejected the values."""
    lost_rows: int = 0
    """Number of requests that were neither stored nor put into a file before the end of the process."""
    last_written_at: float | None = None
    """Time of the last successful transaction in seconds since the epoch. None: no transaction so far."""
    waiting_since: float | None = None
    """Time in seconds since the epoch since which requests wait without a successful transaction. None: no request
    waits."""


SettingsT_co = TypeVar("SettingsT_co", covariant=True)
"""What a plugin reads of the settings: a protocol of its own, or all (`anthropic_proxy.gateway.settings.Settings`)."""


class Gateway(Protocol[SettingsT_co]):
    """Functions of the proxy that a plugin may call. Each one uses the current settings."""

    @property
    def settings(self) -> SettingsT_co:
        """Settings in use. A reload of the settings files replaces this object."""

    @property
    def catalog(self) -> Catalog:
        """What is known about the models of servers: their lists and limits."""

    async def run(self, body: bytes, client: Client) -> bytes:
        """Serve a request of the Messages API without `stream`, and return the reply message as JSON.

        Raises `ProxyError` if the request fails.
        """

    def describe_targets(self, model: str) -> str:
        """Return a text with the models to which a requested model id is routed, and the reason for this choice.

        Example: `openai/gpt-4.1 (opus is BIG_MODEL (default of openai))`. Raises `UnknownModel`.
        """

    def list_models(self, *names: str) -> Sequence[ModelEntry]:
        """Return the models that the proxy itself lists for `GET /v1/models`, or those of `names`. A name that no
        request can reach is left out.

        If Anthropic is the preferred provider, clients usually receive Anthropic's own list from this URL instead.
        """

    async def send_http(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        max_bytes: int = 1024 * 1024,
        purpose: OperatorPurpose = "plugin",
    ) -> HttpReply:
        """Send an HTTP request to another server, and return its reply.

        Only `GET` and `HEAD` are sent once more if the server closes a reused connection without a reply. With
        `max_bytes` 0, the body of the reply is not read. `purpose` names requests of the proxy's own plugins.
        Raises `UpstreamError` if the request fails, takes more than ten seconds, or its reply exceeds `max_bytes`.
        """
        # redirects are not followed; the settings for HTTP proxies in the environment are used

    async def calculate_cost(self, receipt: Receipt) -> Cost:
        """Return the costs of a finished request in nano-dollars, at the current prices.

        The prices are those of the ledger. The calculation runs in a thread.
        """

    @property
    def store(self) -> Store:
        """Store for limits, budgets and shared state, as selected by the settings."""

    def log_warning_once(self, text: str) -> None:
        """Log a warning, but only once per process for the same text. API keys in the text are masked."""

    def health(self) -> Mapping[str, int]:
        """Return the numbers of provider servers and API keys that are not used for some time, because of errors.

        The key `open_circuits` has the number of servers, and `keys_in_cooldown` the number of API keys.
        """

    @property
    def ledger_state(self) -> LedgerState | None:
        """State of the ledger, the database of finished requests. None: the ledger is disabled."""

    def log_warning_each_time(self, text: str) -> None:
        """Log a warning on each call, also with the same text. API keys in it are masked.

        Any thread may call the method.
        """

    def describe_server(self) -> ServerFacts:
        """Return the facts about the server to which this process belongs."""

    def describe_setup(self) -> Setup:
        """Return the state of the providers, and the models to which Claude models are mapped. No request is sent.

        Any thread may call the method.
        """

    async def check_setup(self) -> Setup:
        """Return the same, with a problem for each server of this machine or a private network that accepts no
        connection. It takes at most 0.5 s.
        """

    async def reload_settings(self) -> bool:
        """Read the settings files again, in all workers.

        Return False if this server can read them only at its start.
        """

    async def describe_models(self, names: Sequence[str], client: str) -> Sequence[ModelFeatures]:
        """Return the limits and features of models, such as the context window.

        `names` are model ids with prefix (`openai/gpt-4.1`). A model that no request can reach is left out.
        `client`: `Client.id`. What errors have taught about the requests of this client is included. "": nothing is.
        """

    async def examine_model(self, model: str, client: Client, session: str) -> ModelFeatures:
        """Return the limits and features of the model that requests of a conversation would get that name `model`.

        Raises the `ClientError` of such a request: a name that no provider has, or a rule of the client's key.
        """

    async def collect_running_requests(self) -> Sequence[Receipt]:
        """Return a receipt for each running request of all workers, the latest last.

        The fields about the reply are still empty.
        """

    def stream_request_events(
        self, includes: Callable[[Client], bool] | None = None, *, client: str = ""
    ) -> AsyncGenerator[bytes, None]:
        """Yield the SSE bytes of `GET /api/requests/live`: first the running and latest requests, then each change.

        With `includes`, only requests of clients for which it returns True are included; a client is as it was when it
        sent the request. `client` is who reads them: raises `LimitReached` if it has too many streams already, and
        `ProxyBusy` if all together have.
        """


class Plugin(Struct, kw_only=True):
    """Extensions of the proxy by one optional package, which returns them from its function `open_plugin(settings)`."""

    policies: Sequence[Policy] = ()
    """Access rules, called in this order."""
    limiters: Sequence[Limiter] = ()
    """Limits for all clients, whom they do not identify. They are called in this order."""
    inspectors: Sequence[Inspector] = ()
    """Readers of the texts of requests and replies, called in this order."""
    observers: Sequence[Observer] = ()
    """Objects that receive the receipt of each finished client request."""
    recorders: Sequence[Recorder] = ()
    """Objects that receive the bytes of requests and replies, with their content."""
    title_recorders: Sequence[Recorder] = ()
    """Objects that receive the same only of requests by which Claude Code asks for the title of its session."""
    session_models: SessionModels | None = None
    """Models that people have chosen for their sessions. The first one of all plugins is used. None: the plugin has no
    place for them."""
    tracer: Tracer | None = None
    """Source of trace ids, which are sent to providers. The first one of all plugins is used. None: traces are off."""
    store: Store | None = None
    """Store for limits and shared state, in place of the store that the settings select. None: the plugin has none."""
    extend_store: Callable[[Store, Callable[[str], None]], Store] | None = None
    """Returns the store of the server with values and counters that more processes share. It gets the store in the
    memory of the server, and a function that logs a warning. It is called once, if neither a plugin nor `REDIS_URL` has
    the store. None: the memory stays as it is."""
    keep_secret: KeepSecret | None = None
    """Stores a secret of the proxy, unless it has one already, and returns the stored one. It may raise
    `StoreUnavailable`. The first one of all plugins is used. None: the store of the server has the secret."""
    routes: Sequence[Route] = ()
    """URL paths that the plugin serves."""
    ledger_state: Callable[[], LedgerState] | None = None
    """Returns the state of the ledger, for `/health` and `/metrics`. None: the plugin stores no requests."""
    budget_uses: Callable[[], Mapping[BudgetLabels, float]] | None = None
    """Returns the used share of each budget that is nearly used up, for `/metrics`. None: the plugin has no budgets."""
    conditions: Callable[[], Sequence[Condition]] | None = None
    """Returns what is wrong with the running server now, for `/readyz` and the dashboard. None: the plugin checks
    nothing."""
    telemetry_counts: Callable[[], Mapping[str, int]] | None = None
    """Returns the requests with telemetry of clients since the start, for `/metrics`: `forwarded`, `stored` and
    `dropped`. None: the plugin accepts none."""
    telemetry_drops: Callable[[], Mapping[str, int]] | None = None
    """Returns those that were dropped, by person, for `/metrics`. None: the plugin accepts none."""
    start: Callable[[Gateway[Any]], Awaitable[None]] | None = None
    """Async function that is called once per worker process before its first request. It gets the settings of the
    server. None: nothing to start."""
    stop: Callable[[], Awaitable[None]] | None = None
    """Async function that is called once per worker process after its last request. None: nothing to stop."""
