"""Interface between the proxy and its plugins: `Plugin`, its parts, and the `Gateway` that it may call.

A `Receipt` is the record of one finished client request. An `Observer` receives receipts, a `Policy` rejects requests,
a `GetRoute` serves a URL path, a `Store` shares state.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal, Protocol

from msgspec import Struct, field

from anthropic_proxy.messages.fidelity import FidelityNote, FidelityReport
from anthropic_proxy.settings import Settings

Headers = Mapping[str, str]
"""Headers of a client request: name in lower case → value."""


class Client(Struct, frozen=True):
    """The client of a request, after authentication."""

    name: str = "local"
    """Label for the log and metrics: `local`, or a label of the presented key. Never a secret."""
    credential_forwardable: bool = False
    """True if the proxy requires no key. The credential in the request is then meant for the provider."""


class AdmissionRequest(Struct, frozen=True, kw_only=True):
    """Facts about a client request, for the decision of a policy to admit or reject it."""

    client: Client
    model: str
    """Model id in the client request."""
    body_bytes: int
    """Size of the client request body."""


class Receipt(Struct, kw_only=True):
    """Facts about a finished client request: ids, names, counts and times. It never contains message content."""

    request_id: str
    client: Client
    started_at: float
    """Seconds since the epoch."""
    method: str = "POST"
    """HTTP method."""
    path: str = "/v1/messages"
    """URL path without the query."""
    requested_model: str = ""
    """Model id in the client request. "": not an exchange."""
    provider: str = ""
    """Name of the provider that replied or failed last. "": no provider was called."""
    prefix: str = ""
    """Prefix by which a client requests a model of the provider: `gemini`."""
    model: str = ""
    """Model id at the provider, without a prefix."""
    route_reason: str = ""
    """Text with the rule and the setting that chose the target."""
    tool_count: int = 0
    """Number of tool definitions in the client request."""
    message_count: int = 0
    """Number of messages in the client request."""
    stream: bool = False
    """True if the client requested a streamed reply."""
    input_tokens: int = 0
    """Input tokens without cached ones, as the client received them."""
    cache_read_tokens: int = 0
    """Input tokens read from the provider's cache."""
    cache_write_tokens: int = 0
    """Input tokens written to the provider's cache."""
    output_tokens: int = 0
    """Output tokens, thinking included."""
    thinking_tokens: int = 0
    """Output tokens of thinking; 0 if the provider does not count them."""
    first_token_seconds: float | None = None
    """Time from the start of the request to the first content of the reply. 0: no content."""
    duration_seconds: float = 0.0
    """Time from the start of the request to the last byte of the response."""
    status: int = 0
    """HTTP status of the response, or of the error that ended a stream. 0: the client disconnected before it."""
    outcome: str = ""
    """Stop reason of the reply, `error`, or `cancelled` (the client disconnected)."""
    error_type: str = ""
    """Type of the error in Anthropic's format: `rate_limit_error`. "": no error."""
    error: str = ""
    """Error message of the response; keys are redacted."""
    upstream_excerpt: str = ""
    """Beginning of an upstream error body that is no error object, such as the page of a gateway; keys are redacted."""
    failed_attempts: list[str] = field(default_factory=list)
    """Failed upstream attempts before the last one: `groq 429`."""
    fidelity: FidelityReport = field(default_factory=FidelityReport)
    """Changes that translation made to the request, and the fidelity mode."""

    @property
    def notes(self) -> list[FidelityNote]:
        """Fidelity notes: changes that the translation made to the request."""
        return self.fidelity.notes


class Policy(Protocol):
    """Access rules of a plugin. Each method may raise a `ClientError`, which rejects the client request."""

    async def identify(self, headers: Headers) -> Client | None:
        """Return the client of a request from its headers, before the body is read.

        None: the policy does not recognize it.
        """
        ...

    async def admit(self, request: AdmissionRequest) -> None:
        """Raise a `ClientError` if the request is not admitted.

        Called after decoding and routing, before any upstream call.
        """
        ...


class Observer(Protocol):
    """Receives the receipt of each finished request: exchanges, token counts and rejected requests.

    Requests to `/`, `/health` and `/metrics` produce no receipt.
    """

    async def record(self, receipt: Receipt) -> None:
        """Process one receipt, after the last byte of the response.

        Called in a task of this observer, one receipt at a time.
        """
        ...


RecordPoint = Literal["client request", "upstream request", "upstream response", "client response"]
"""Direction of recorded bytes: from the client, to the provider, from the provider, to the client."""


class Recorder(Protocol):
    """Receives the content of exchanges, with keys redacted. Reserved: no exchange calls a recorder yet."""

    def record(self, point: RecordPoint, data: bytes) -> None:
        """Record the bytes of one point of an exchange. Must not block."""
        ...


class GetRoute(Protocol):
    """Content that a plugin serves at one URL path, for GET and HEAD."""

    async def render(self, accept: str) -> tuple[bytes, str]:
        """Return the body and its media type. `accept`: the `Accept` header of the client."""
        ...


class Store(Protocol):
    """Key-value store with expiry for state that workers or instances share. All durations are in seconds."""

    async def get(self, key: str) -> str | None:
        """Return the value of a key. None: missing or expired."""
        ...

    async def put(self, key: str, value: str, seconds: float) -> None:
        """Set the value of a key until it expires."""
        ...

    async def add(self, key: str, amount: float, seconds: float) -> float:
        """Add to the number of a key and return the sum.

        The number starts at 0 and expires `seconds` after the first addition.
        """
        ...


class Gateway(Protocol):
    """Functions of the proxy that a plugin may call. Each uses the current settings."""

    @property
    def settings(self) -> Settings:
        """Current settings. A reload replaces them."""
        ...

    async def run(self, body: bytes, client: Client) -> bytes:
        """Serve a request of the Messages API without `stream`, and return the reply message as JSON.

        Raises `ProxyError`.

        `client`: client that the receipt names.
        """
        ...

    def explain(self, model: str) -> str:
        """Return the targets for a requested model and the reason of the route, as text. Raises `UnknownModel`."""
        ...

    def list_models(self) -> Sequence[str]:
        """Return the model ids of the proxy's own list.

        If Anthropic is preferred, clients receive Anthropic's list instead.
        """
        ...

    def health(self) -> Mapping[str, int]:
        """Return counts by name: `open_circuits`, `keys_in_cooldown`."""
        ...


class Plugin(Struct, kw_only=True):
    """Additions of one optional package. Its function `open_plugin(settings)` returns this object."""

    policies: Sequence[Policy] = ()
    """Access rules, asked in this order."""
    observers: Sequence[Observer] = ()
    """Receivers of receipts."""
    recorders: Sequence[Recorder] = ()
    store: Store | None = None
    """Reserved: no part of the proxy uses this store yet."""
    routes: Mapping[str, GetRoute] = {}
    """URL path → content served there for GET and HEAD."""
    start: Callable[[Gateway], Awaitable[None]] | None = None
    """Called once per worker before its first request. None: nothing to start."""
    stop: Callable[[], Awaitable[None]] | None = None
    """Called once per worker after its last request. None: nothing to stop."""
