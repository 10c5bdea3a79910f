"""Interface of plugins, which are optional packages that extend the proxy.

A package returns a `Plugin`. A `Policy` identifies clients, and admits or rejects their requests. An `Observer`
receives a `Receipt`, the record of one client request without message content. A `Recorder` receives the content. A
`Tracer` starts traces, and a `Store` shares state. A `Route` serves a URL path. `Gateway` has the functions of the
proxy that a plugin may call. Its method `describe_setup` returns a `Setup`, the state of all providers and the models
to which Claude models are mapped.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import Literal, Protocol

from msgspec import Struct, field

from anthropic_proxy.engine.messages.fidelity import FidelityNote, FidelityReport
from anthropic_proxy.engine.trace_context import TraceContext
from anthropic_proxy.errors import ProxyBusy
from anthropic_proxy.gateway.settings import Settings


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
    """Model that serves the requests, with prefix: `openai/gpt-4.1`."""
    fallbacks: Sequence[str] = ()
    """Models with prefix that are called after the target failed, in order."""
    reason: str = ""
    """Setting that selects the target."""


class Setup(Struct, frozen=True, kw_only=True):
    """State of all providers, and the model mapping, both for the current settings."""

    providers: Sequence[ProviderSetup] = ()
    """State of each provider that the proxy offers to users, also of those without a key. The demo is left out."""
    mapping: Sequence[ModelMapping] = ()
    """Rows of the model mapping. Tiers with the same target share a row."""
    problems: Sequence[str] = ()
    """Problems of mapped models and enabled features, with which requests fail. Each text has its remedy."""
    advice: Sequence[str] = ()
    """Problems of providers to which no Claude tier is mapped. Each text has its remedy."""


class ModelFeatures(Struct, frozen=True, kw_only=True):
    """Limits and features of one model of a provider, as the proxy assumes them when it sends requests."""

    model: str
    """Model id with prefix: `openai/gpt-4.1`."""
    provider: str
    """Name of the provider: `google` for the prefix `gemini`."""
    context_window: int | None
    """Context window in tokens. None: unknown."""
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
    web_search: Literal["provider", "proxy", "none"]
    """Place where web searches run: at the provider, in the proxy, or `none` (not available)."""
    web_fetch: Literal["provider", "proxy", "none"]
    """Place where web fetches run: at the provider, in the proxy, or `none` (not available)."""
    source: str
    """Source of the values: `built-in table`, `server` (reported by the provider), or `assumed` (defaults)."""
    other_sources: Mapping[str, str] = {}
    """Field → source of its value, if different from `source`: `doctor, 20 Nov 2026`."""
    adaptations: Sequence[str] = ()
    """Changes that the proxy makes to requests because the provider rejected a parameter: `drop top_k`."""


RecordPoint = Literal["client request", "upstream request", "client response"]
"""Kind of recorded bytes: body of a client request, body of a request to a provider, or a piece of the response body
for the client."""


class Recorder(Protocol):
    """Receives the content of requests to `POST /v1/messages` and of their responses.

    API keys in the content are not redacted, so a recorder must redact them.
    """

    def record(self, request_id: str, point: RecordPoint, data: bytes) -> None:
        """Record bytes of one request: a request body, or a piece of the response.

        Must not block, because it runs on the event loop.
        """
        # a recorder that raises an exception for a piece of a response receives no more pieces of it
        ...


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
    reset_seconds: Sequence[float] = ()
    """Time until each limit has its full maximum again without further requests. 0.0: now, or unknown because the time
    depends on running requests."""
    slots: Sequence[int] = ()
    """Index of each amount within its counter, which `Store.settle` needs."""
    lease_seconds: float = LEASE_SECONDS
    """Time after which the amounts are released, unless the reservation is renewed."""

    @property
    def is_held(self) -> bool:
        """True if amounts are reserved, so that `Store.settle` must be called."""
        return bool(self.id)


class StoreUnavailable(ProxyBusy):
    """Error: Redis is unavailable, and `REDIS_FAILURE=closed` rejects requests with limits. The client may retry."""

    def __init__(self) -> None:
        super().__init__(
            "The proxy cannot check limits, because its Redis server is unavailable. Try again in a moment.",
            retry_after=2,
        )


class StoreState(Struct, frozen=True, kw_only=True):
    """Condition of a store, shown in `/health`, `/readyz` and `/metrics`."""

    kind: Literal["memory", "sqlite", "redis", "plugin"] = "memory"
    """Kind of the store, which decides the processes that share it."""
    available: bool = True
    """True if the store can be used. False: Redis has failed, so limits are approximated in this process, or requests
    are rejected."""
    problem: str = ""
    """Message about the failure of the store, for the operator of the proxy. "": no failure."""
    processes: int = 1
    """Number of running processes that use the store, as far as known."""
    pending_settlements: int = 0
    """Settled reservations that are not yet in the store."""


class Store(Protocol):
    """Storage for values that expire and for counters of limits, which the workers share.

    Durations are in seconds. Methods may raise `StoreUnavailable`.
    """

    @property
    def state(self) -> StoreState:
        """Current condition of the store. Reading the property needs no I/O."""
        ...

    async def get(self, key: str) -> str | None:
        """Return the text that is stored under `key`. None: it is missing or has expired."""
        ...

    async def put(self, key: str, value: str, lifetime_seconds: float) -> None:
        """Store the text `value` under `key` for `lifetime_seconds`. A previous value is replaced."""
        ...

    async def increment(self, key: str, amount: float, lifetime_seconds: float) -> float:
        """Add `amount` to the number that is stored under `key`, and return the sum.

        A missing number starts at 0, and is deleted `lifetime_seconds` after the first addition.
        """
        ...

    async def delete(self, key: str) -> None:
        """Delete the value and the counter that are stored under `key`. A missing one is ignored."""
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


class Client(Struct, frozen=True):
    """The client of a request, after authentication."""

    name: str = "local"
    """Label for the log and metrics: `local`, or the label of the client's key. Never the key itself."""
    credential_forwardable: bool = False
    """True if the proxy requires no key. The key in the client request is then meant for the provider, and is
    forwarded."""
    role: Literal["owner", "member", "admin", "monitor"] = "owner"
    """Access of the client.

    `member`: a virtual key, only for the API below `/v1/`. `admin`: an admin key, for all other URL paths. `monitor`: a
    monitor key, which only reads `/metrics` and the paths below `/api/`. `owner`: any other client, for all paths
    except those of the administration.
    """
    key_id: str = ""
    """Id of the virtual key: `key_…`. "": another client."""
    team: str = ""
    """Team of the virtual key. "": none, or another client."""
    address_trusted: bool = False
    """True if the client is on this machine, or if no client needs a key. Only a trusted client sees the provider
    setup."""


class AdmissionTarget(Struct, frozen=True, kw_only=True):
    """A provider and model that may serve the request."""

    prefix: str
    """Prefix of the provider: `gemini`."""
    model: str
    """Model id at the provider, without a prefix."""
    max_output_tokens: int
    """Maximum output tokens of this request at the model."""


class AdmissionRequest(Struct, frozen=True, kw_only=True):
    """Facts about a client request from which a policy decides to admit or reject it."""

    client: Client
    """Client that sent the request."""
    model: str
    """Model id in the client request."""
    normalized_model: str = ""
    """Model id without the alias `claude-<prefix>/` and the suffix `[1m]`: `openai/gpt-4.1`. Routes compare this id."""
    body_bytes: int
    """Size of the client request body."""
    route: str = ""
    """Name of the matching route of the configuration file. "": no route matches, so the model mapping chose the
    targets."""
    request_id: str = ""
    """Id of the request in the response header `request-id`."""
    has_reply: bool = True
    """True if the request produces a reply of a model. False: a token count, which has limits of its own."""
    targets: Sequence[AdmissionTarget] = ()
    """Models that may serve the request: the first choice, then its fallbacks."""
    estimate_input_tokens: Callable[[], int] = lambda: 0
    """Returns the estimated input tokens. It reads the whole request, so call it only if the number is needed."""
    response_headers: dict[str, str] = field(default_factory=dict)
    """Headers that a policy adds to the response, also to an error response. Names are in lower case."""


BlockMark = tuple[str, str, float, int]
"""Block or end of a reply: kind, name of the called tool, time in seconds since the epoch, characters before it.

Kinds are `text`, `thinking`, `tool call`, and `server tool` for any other block. "" is the end of the reply. A block
ends where the next one begins.
"""


class UpstreamAttempt(Struct, kw_only=True, omit_defaults=True):
    """Facts about one call to a provider, which is part of a `Receipt`. It has no message content."""

    provider: str
    """Name of the provider."""
    model: str
    """Model id at the provider, without a prefix."""
    host: str = ""
    """Host name or address of the provider. "": the provider has no URL."""
    port: int = 0
    """Port of the provider. 0: the provider has no URL."""
    offset_seconds: float
    """Seconds from the start of the client request to the start of this attempt."""
    duration_seconds: float = 0.0
    """Seconds from the start of the attempt to its failure, or to the last byte of its part of the reply."""
    status: int = 0
    """HTTP status of the provider's response. 0: no response."""
    error_type: str = ""
    """Type of the failure in Anthropic's format: `rate_limit_error`. "": the attempt did not fail."""
    error: str = ""
    """Error message of the failure, with API keys masked. "": the attempt did not fail."""
    input_tokens: int = 0
    """Input tokens without cached ones. All token counts of a failed attempt are 0."""
    cache_read_tokens: int = 0
    """Input tokens read from the provider's cache."""
    cache_write_tokens: int = 0
    """Input tokens written to the provider's cache."""
    cache_write_1h_tokens: int = 0
    """Part of `cache_write_tokens` that the provider keeps for one hour, at a higher price."""
    output_tokens: int = 0
    """Output tokens, thinking included."""
    thinking_tokens: int = 0
    """Output tokens of thinking; 0 if the provider does not count them."""
    billed_searches: int = 0
    """Web searches that the provider ran and bills. Searches of the proxy itself do not count."""
    service_tier: str = ""
    """Service tier that the provider reported, in its own words: `default`, `flex`, `fast`. "": none."""
    span_id: str = ""
    """Span id sent to the provider in `traceparent`. "": traces are off."""


class Receipt(Struct, kw_only=True):
    """Record of one client request: ids, names, counts and times, without message content.

    The record is complete when the request has finished.
    """

    request_id: str
    """Id of the request in the response header `request-id`: `req_…`."""
    client: Client
    """Client that sent the request."""
    started_at: float
    """Time of the start of the request, in seconds since the epoch."""
    method: str = "POST"
    """HTTP method of the client request."""
    path: str = "/v1/messages"
    """URL path without the query."""
    user_agent: str = ""
    """Request header `user-agent`: the program of the client. "": not sent."""
    session: str = ""
    """Session id of the client: header `x-claude-code-session-id`, else the one in `metadata.user_id`."""
    agent: str = ""
    """Header `x-claude-code-agent-id`: id of a subagent of Claude Code. "": the main agent."""
    project: str = ""
    """Header `x-project`, which a user sets to group requests."""
    requested_model: str = ""
    """Model id in the client request. "": the request has no model."""
    provider: str = ""
    """Name of the provider that replied or failed last. "": no provider was called."""
    prefix: str = ""
    """Prefix by which a client requests a model of the provider: `gemini`."""
    model: str = ""
    """Model id at the provider, without a prefix."""
    base_url: str = ""
    """URL of the provider, by which a price is found. "": no provider was called."""
    route: str = ""
    """Name of the matching route of the configuration file. "": none matches."""
    route_reason: str = ""
    """Text for the log: the rule or setting that chose the target (provider and model)."""
    tool_count: int = 0
    """Number of tool definitions in the client request."""
    message_count: int = 0
    """Number of messages in the client request."""
    tool_results: int = 0
    """Number of results of client tools that the client sent after the last assistant message."""
    tool_errors: int = 0
    """Number of these results that have `is_error`: the tool failed."""
    stream: bool = False
    """True if the client requested a streamed reply."""
    input_tokens: int = 0
    """Input tokens without cached ones, as the client received them."""
    cache_read_tokens: int = 0
    """Input tokens read from the provider's cache."""
    cache_write_tokens: int = 0
    """Input tokens written to the provider's cache."""
    cache_write_1h_tokens: int = 0
    """Part of `cache_write_tokens` that the provider keeps for one hour, at a higher price."""
    output_tokens: int = 0
    """Output tokens, thinking included."""
    thinking_tokens: int = 0
    """Output tokens of thinking; 0 if the provider does not count them."""
    billed_searches: int = 0
    """Web searches that providers ran and bill. Searches of the proxy itself do not count."""
    service_tier: str = ""
    """Service tier that the provider of the last call reported, in its own words: `default`, `flex`. "": none."""
    first_token_seconds: float | None = None
    """Seconds from the start of the request to the first content of the reply. None: the reply has no content."""
    duration_seconds: float = 0.0
    """Seconds from the start of the request to the last byte of the response."""
    status: int = 0
    """HTTP status of the response, or of the error that ended a stream. 0: the client disconnected before the response.
    """
    outcome: str = ""
    """Stop reason of the reply, `error`, or `cancelled` (the client disconnected)."""
    error_type: str = ""
    """Type of the error in Anthropic's format: `rate_limit_error`. "": no error."""
    error: str = ""
    """Error message that the client received, with API keys masked. "": no error."""
    upstream_excerpt: str = ""
    """Beginning of an upstream error body that is no error object, such as the page of a gateway; keys are redacted."""
    failed_attempts: list[str] = field(default_factory=list)
    """Failed upstream attempts before the last one: `groq 429`."""
    limit_headers: dict[str, str] = field(default_factory=dict)
    """Response headers with limits of the client and the remaining amounts:
    `anthropic-ratelimit-requests-remaining`."""
    adaptations: list[str] = field(default_factory=list)
    """Changes of the upstream request after the provider rejected a parameter: `drop top_k`."""
    fidelity: FidelityReport = field(default_factory=FidelityReport)
    """Fidelity mode, and notes about fields of request and reply that were changed, emulated, kept or dropped."""
    attempts: list[UpstreamAttempt] = field(default_factory=list)
    """All upstream attempts in order: failed attempts, and several successful ones if the proxy runs tools."""
    blocks: list[BlockMark] = []
    """Start of each content block, and end of the reply: kind, name of the called tool, seconds since the epoch,
    characters before it. Empty: there are none, or the reply was relayed."""
    trace: TraceContext | None = None
    """Trace of the request. None: traces are off, and the client sent no valid `traceparent`."""

    @property
    def notes(self) -> list[FidelityNote]:
        """Fidelity notes, which record that a field of the request or reply was changed, emulated, kept or dropped."""
        return self.fidelity.notes


Headers = Mapping[str, str]
"""Headers of a client request: name in lower case → value."""


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
    """IP address of the client. "": unknown."""
    request_id: str = ""
    """Id in the response header `request-id`."""


class RouteResponse(Struct, frozen=True, kw_only=True):
    """The response of a `Route`. The server adds `request-id` and `content-length`."""

    status: int = 200
    """HTTP status of the response."""
    headers: Mapping[str, str | Sequence[str]] = {}
    """Header name in lower case → value, with `content-type`. Several values become several header lines."""
    body: bytes | AsyncIterator[bytes] = b""
    """Body of the response. An iterator is a stream, such as `text/event-stream`; it is closed if the client
    disconnects."""


class Route(Struct, frozen=True, kw_only=True):
    """A URL path that a plugin serves.

    If the proxy requires a key for its API, clients need a key for this path too, except with `checks_key`.
    """

    path: str
    """URL path. A name in braces is the parameter of one segment: `/api/requests/{id}`. `{rest*}` matches all further
    segments."""
    respond: Callable[[RouteRequest], Awaitable[RouteResponse]]
    """Function that returns the response. A `ProxyError` becomes an error body in Anthropic's format."""
    methods: Sequence[str] = ("GET",)
    """HTTP methods. GET includes HEAD. A plugin may have several routes for one path."""
    max_body_bytes: int = 65_536
    """Maximum size of the request body. A larger one is rejected with 413."""
    checks_key: bool = False
    """True if `respond` itself checks the access of clients without a key, for example by a cookie.

    A sign-in page needs this if the proxy has a key.
    """


class HttpReply(Struct, frozen=True):
    """Reply of another server to a request of a plugin, as `Gateway.send_http` returns it."""

    status: int
    """HTTP status of the reply."""
    body: bytes
    """Complete response body."""


LedgerCondition = Literal["ok", "disk full", "locked", "read-only", "corrupt", "unreachable", "newer schema", "failed"]
"""Result of the last attempt to store requests.

`newer schema`: a newer version of the program has changed the database, so this version does not write. `failed`:
another error, which is in the log.
"""


class LedgerState(Struct):
    """Condition of the ledger (database of requests), and numbers of stored, waiting and lost requests.

    The numbers are those of this process since its start.
    """

    condition: LedgerCondition = "ok"
    """Result of the last attempt to store requests."""
    problem: str = ""
    """Sentence for the user with cause, reason and remedy. It may contain a path. "": the condition is `ok`."""
    queued_rows: int = 0
    """Number of requests that are not stored yet."""
    written_rows: int = 0
    """Number of stored requests."""
    dropped_rows: int = 0
    """Number of lost requests: the queue was full, or the database rejected the values."""
    last_written_at: float | None = None
    """Time of the last successful transaction in seconds since the epoch. None: no transaction so far."""
    waiting_since: float | None = None
    """Time in seconds since the epoch since which requests wait without a successful transaction. None: no request
    waits."""


class Cost(Struct, frozen=True):
    """Two costs of one request: at the price of the used model, and at the price of the model the client requested."""

    cost: int | None
    """Cost in nano-dollars of tokens and searches at the price of the used model. None: a price is unknown."""
    requested_cost: int | None
    """Cost in nano-dollars of the same tokens and searches at Claude's list price of the requested model, in the normal
    service tier. None: unknown."""
    source: str
    """Origin of the price of the used model, such as `genai-prices 0.2.3`, or `local` for a free model.

    Service tier and number of searches follow: `genai-prices 0.2.3, tier flex, 2 web searches`. If only a part of the
    price is unknown, the text names it: `genai-prices 0.2.3, no price of web searches`. "": the model has no price.
    """


Settle = Callable[[Receipt], None]
"""Function that a policy returns for an admitted request.

The proxy calls it with the receipt at the end of the request, also after a failure. It must not block.
"""


class Policy(Protocol):
    """Access rules of a plugin. Each method may raise a `ClientError`, which rejects the client request."""

    async def identify(self, headers: Headers) -> Client | None:
        """Return the client of a request from its headers. None: this policy does not know the client.

        The proxy calls this before it reads the body.
        """
        ...

    async def admit(self, request: AdmissionRequest) -> Settle | None:
        """Check a client request before any call to a provider. Raise a `ClientError` to reject it.

        When the request has ended, also after a failure, the proxy calls the returned function with the receipt
        (record) of the request. None: there is no such function to call.
        """
        ...


class Observer(Protocol):
    """Receives the receipt (record) of each finished client request, also of rejected ones.

    Health checks (`/`, `/health`, `/readyz` …) and requests to routes of plugins have no receipt.
    """

    def record(self, receipt: Receipt) -> Awaitable[None] | None:
        """Process the receipt of a finished request.

        If the method is `async`, the proxy runs it in a task. The method receives the next receipt only after it has
        processed this one.
        """
        # called after the last byte of the response; a plain method runs at once, which needs less CPU time
        ...


class Tracer(Protocol):
    """Creates the trace ids of each client request.

    It does not export the trace: an observer builds the trace later, from the receipt (record) of the request.
    """

    def start_trace(self, parent: TraceContext | None) -> TraceContext:
        """Return the trace ids for a new client request. Must not block.

        `parent` is the trace that the client sent. None: the client sent none, so a new trace begins.
        """
        ...


class Gateway(Protocol):
    """Functions of the proxy that a plugin may call. Each one uses the current settings."""

    @property
    def settings(self) -> Settings:
        """Settings in use. A reload of the settings files replaces this object."""

    async def run(self, body: bytes, client: Client) -> bytes:
        """Serve a request of the Messages API without `stream`, and return the reply message as JSON.

        Raises `ProxyError` if the request fails.
        """

    def describe_targets(self, model: str) -> str:
        """Return a text with the models to which a requested model id is routed, and the reason for this choice.

        Example: `openai/gpt-4.1 (opus is BIG_MODEL (default of openai))`. Raises `UnknownModel`.
        """

    def list_models(self) -> Sequence[str]:
        """Return the model ids that the proxy itself lists for `GET /v1/models`.

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
    ) -> HttpReply:
        """Send an HTTP request to another server, and return its reply.

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

    def describe_setup(self) -> Setup:
        """Return the state of the providers, and the models to which Claude models are mapped. No request is sent.

        Any thread may call the method.
        """

    async def reload_settings(self) -> bool:
        """Read the settings files again, in all workers.

        Return False if this server can read them only at its start.
        """

    async def describe_models(self, names: Sequence[str]) -> Sequence[ModelFeatures]:
        """Return the limits and features of models, such as the context window.

        `names` are model ids with prefix (`openai/gpt-4.1`). A model that no request can reach is left out.
        """

    async def collect_running_requests(self) -> Sequence[Receipt]:
        """Return a receipt (record) for each running request of all workers, the latest last.

        The fields about the reply are still empty.
        """

    def stream_request_events(self, client_names: Collection[str] | None = None) -> AsyncIterator[bytes]:
        """Yield the SSE bytes of `GET /api/requests/live`: first the running and latest requests, then each change.

        With `client_names`, only requests of these clients are included. None: all clients.
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
    budget_uses: Callable[[], Mapping[tuple[str, str, str, str], float]] | None = None
    """Returns the used share of each budget that is nearly used up, for `/metrics`: `key` or `team`, its name, unit and
    period of the budget → share. None: the plugin has no budgets."""
    start: Callable[[Gateway], Awaitable[None]] | None = None
    """Async function that is called once per worker process before its first request. None: nothing to start."""
    stop: Callable[[], Awaitable[None]] | None = None
    """Async function that is called once per worker process after its last request. None: nothing to stop."""
