"""Interface between the proxy and its plugins: `Plugin`, its parts, and the `Gateway` that it may call."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal, Protocol

from msgspec import Struct, field

from anthropic_proxy.messages.fidelity import FidelityNote, FidelityReport
from anthropic_proxy.settings import Settings

Headers = Mapping[str, str]
"""Request headers, names in lower case."""


class Client(Struct, frozen=True):
    """An authenticated client."""

    name: str = "local"
    """`local`, or a label of the presented key; never a secret."""
    credential_forwardable: bool = False
    """True if the proxy requires no key, so that the client credential is meant for Anthropic."""


class AdmissionRequest(Struct, frozen=True, kw_only=True):
    """Facts about a request that a policy may reject."""

    client: Client
    model: str
    body_bytes: int


class Receipt(Struct, kw_only=True):
    """Facts about a finished request: ids, names, counts and times; never content."""

    request_id: str
    client: Client
    started_at: float
    """Seconds since the epoch."""
    method: str = "POST"
    path: str = "/v1/messages"
    requested_model: str = ""
    provider: str = ""
    prefix: str = ""
    """Prefix by which a client requests a model of the provider: `gemini`."""
    model: str = ""
    route_reason: str = ""
    tool_count: int = 0
    message_count: int = 0
    stream: bool = False
    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    thinking_tokens: int = 0
    first_token_seconds: float | None = None
    duration_seconds: float = 0.0
    status: int = 0
    """HTTP status of the response, or of the error that ended a stream. 0: the client disconnected before it."""
    outcome: str = ""
    """A stop reason, `error` or `cancelled`."""
    error_type: str = ""
    error: str = ""
    """Error message of the response; keys are redacted."""
    upstream_excerpt: str = ""
    """Beginning of an upstream error body that is no error object, such as the page of a gateway; keys are redacted."""
    failed_attempts: list[str] = field(default_factory=list)
    """Failed attempts before the last one: `groq 429`."""
    fidelity: FidelityReport = field(default_factory=FidelityReport)
    """Changes that translation made to the request, and the fidelity mode."""

    @property
    def notes(self) -> list[FidelityNote]:
        """The notes of the fidelity report."""
        return self.fidelity.notes


class Policy(Protocol):
    """Access rules. Every method may raise a `ClientError` to reject the request."""

    async def identify(self, headers: Headers) -> Client | None:
        """Return the client, before the body is read. None: not known to this policy."""
        ...

    async def admit(self, request: AdmissionRequest) -> None:
        """Raise if the request is not admitted."""
        ...


class Observer(Protocol):
    """Receives the receipts of finished requests: exchanges, token counts, rejected requests.

    Each observer has a bounded queue (`log/receipts.py`). A slow observer loses the oldest receipts and delays no
    request. Blocking work belongs in a thread.
    """

    async def record(self, receipt: Receipt) -> None:
        """Record a receipt, after the last byte of the response."""
        ...


RecordPoint = Literal["client request", "upstream request", "upstream response", "client response"]
"""Point of an exchange at which its bytes are recorded."""


class Recorder(Protocol):
    """Receives the content of exchanges, with keys redacted. Reserved: no exchange calls a recorder yet."""

    def record(self, point: RecordPoint, data: bytes) -> None:
        """Record the bytes of one point of an exchange. Must not block."""
        ...


class GetRoute(Protocol):
    """Content of a path that is served for GET."""

    async def read(self, accept: str) -> tuple[bytes, str]:
        """Return a body and its media type. `accept`: the `Accept` header."""
        ...


class Store(Protocol):
    """Small shared state with expiry. Times are seconds."""

    async def get(self, key: str) -> str | None:
        """Return the value. None: missing or expired."""
        ...

    async def put(self, key: str, value: str, seconds: float) -> None:
        """Store a value until it expires."""
        ...

    async def add(self, key: str, amount: float, seconds: float) -> float:
        """Add to a number and return the sum. It starts at 0 and expires `seconds` after its first use."""
        ...


class Gateway(Protocol):
    """Functions of the proxy that a plugin may call. Each uses the current settings."""

    @property
    def settings(self) -> Settings:
        """The current settings."""
        ...

    async def run(self, body: bytes, client: Client) -> bytes:
        """Serve a request of the Messages API without `stream`, and return the message as JSON. Raises `ProxyError`."""
        ...

    def explain(self, model: str) -> str:
        """Return the targets of a requested model and the reason of the route. Raises `UnknownModel`."""
        ...

    def list_models(self) -> Sequence[str]:
        """Return the ids that `GET /v1/models` lists."""
        ...

    def health(self) -> Mapping[str, int]:
        """Return the number of open circuits and of keys in cooldown, by name."""
        ...


class Plugin(Struct, kw_only=True):
    """Everything that one optional package adds to the proxy. Its function `open_plugin(settings)` returns this."""

    policies: Sequence[Policy] = ()
    observers: Sequence[Observer] = ()
    recorders: Sequence[Recorder] = ()
    store: Store | None = None
    """Reserved: no part of the proxy uses this store yet."""
    routes: Mapping[str, GetRoute] = {}
    """Path → content that is served there for GET and HEAD."""
    start: Callable[[Gateway], Awaitable[None]] | None = None
    """Called before the first request. None: nothing to start."""
    stop: Callable[[], Awaitable[None]] | None = None
    """Called after the last request. None: nothing to stop."""
