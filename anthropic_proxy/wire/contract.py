"""Interface between wires (`wire/*`) and the exchange, which serves one client request.

A wire encodes upstream requests and decodes upstream responses of one API (Chat Completions, Gemini, …). It is a
package that exports an instance of `Wire`, named `WIRE`, and its `Dialect`. Differences of providers and models are
fields of the dialect. `Call` is the input of a wire, `UpstreamRequest` the result, `Decoder` the reader of one
response. A `RelayWire` forwards Messages API requests and responses unchanged instead of translating them (a relay).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Literal, Protocol, TypeVar

from msgspec import Struct

from anthropic_proxy.errors import UpstreamError
from anthropic_proxy.messages.deltas import Delta
from anthropic_proxy.messages.fidelity import FidelityNote
from anthropic_proxy.messages.models import DocumentBlock, ImageBlock
from anthropic_proxy.messages.preparation import PreparedRequest, ServerToolKind


class BaseDialect(Struct, frozen=True, kw_only=True, cache_hash=True):
    """Base struct of dialects, with the fields that other packages read. The `Dialect` of each wire adds its quirks."""

    tool_name_pattern: str = r"[a-zA-Z0-9_-]+"
    """Regular expression of allowed tool names. Other names are sent as an alias. Default: the Messages API."""
    max_tool_name_length: int = 128
    """Maximum number of characters of a tool name. A longer name is sent as an alias."""
    always_stream: bool = False
    """True if every upstream request streams, also if the client requests no stream."""
    continuation_version: str = ""
    """API version in the URL of a request that continues a reply: `/v1beta1`. "": the version of the base URL."""
    server_tools: tuple[ServerToolKind, ...] = ()
    """Kinds of server tools (`web_search` …) that the upstream server runs itself."""
    server_tools_exclusive: bool = False
    """True if the upstream server rejects a request with both server tools and client tools."""
    has_count_tokens: bool = False
    """True if the upstream server has `/v1/messages/count_tokens`."""
    has_model_list: bool = False
    """True if `/v1/models` of the upstream server has Anthropic's format."""

    @property
    def accepts_thinking_budget(self) -> bool:
        """True if the thinking effort is sent upstream as a number of tokens."""
        return False


DialectT = TypeVar("DialectT", bound=BaseDialect)
DialectT_co = TypeVar("DialectT_co", bound=BaseDialect, covariant=True)


class Call(Struct, Generic[DialectT_co], frozen=True, kw_only=True):
    """Input of a wire: one prepared client request for one target (provider, model and dialect)."""

    request: PreparedRequest
    """The prepared request: validated, with paired calls and results, and with tool names that the wire allows."""
    model: str
    """The upstream's id of the model, without a prefix."""
    requested_model: str = ""
    """The model id of the client request. The reply names this model."""
    is_renamed: bool = False
    """True if `model` and `requested_model` differ. Used by relays only."""
    dialect: DialectT_co
    """The dialect of the wire, with the rules for this model merged in."""
    streams_upstream: bool
    """True if the upstream request streams. The client may have requested the other form."""
    client_body: bytes = b""
    """The body of the client request. Used by relays only."""
    client_headers: Mapping[str, str] = {}
    """The headers of the client request, names in lower case, without credentials. Used by relays only."""
    client_path: str = "/v1/messages"
    """The path of the client request. Used by relays only."""
    client_query: str = ""
    """The query of the client request. Used by relays only."""
    has_proxy_signatures: bool = True
    """True if `raw` may contain blocks that the proxy wrote. Used by relays only."""
    client_tool_names: Mapping[str, str] = {}
    """Tool name sent upstream → tool name in the client request. Equal names are omitted."""
    new_id: Callable[[str], str]
    """Returns a new identifier with a prefix: `new_id("toolu_px")`. The only source of identifiers."""
    provider: str
    """The provider name, for error messages and notes."""
    base_url: str = ""
    """The base URL of the request. State that only this server can decode is bound to it."""
    context_window: int | None = None
    """Context window of the model in tokens, input and output together. None: not known. Used if the finish
    reason is ambiguous."""
    max_input_tokens: int | None = None
    """Maximum number of input tokens, if it is lower than the window. None: the window is the limit."""
    continuation_token: str = ""
    """Token of `Decoder.continuation_token` that continues a reply. "": a new request."""
    estimate_input_tokens: Callable[[], int] = lambda: 0
    """Returns the estimated number of input tokens. 0: unknown. Called only if a provider rejects the input as too long
    without a count."""
    max_schema_steps: int | None = None
    """Number of schema conversion steps after which `encode_request` raises `WorkPostponed`. None: no limit, because
    the caller runs outside the event loop."""

    @property
    def effective_max_input_tokens(self) -> int | None:
        """Maximum number of input tokens; None: not known. Used if an overflow error states no limit."""
        return self.max_input_tokens or self.context_window


class UpstreamRequest(Struct, frozen=True, kw_only=True):
    """HTTP request without base URL and credential."""

    path: str
    """Path below the base URL of the provider, with a leading slash, percent-encoded. May contain a query."""
    body: bytes
    headers: Mapping[str, str] = {}
    method: str = "POST"
    notes: Sequence[FidelityNote] = ()
    """Notes on fields of the client request that were approximated, emulated or dropped."""
    enforces_schema: bool = False
    """True if the provider enforces the reply schema (`output_schema`). False: the proxy validates the reply."""


CLIENT_CREDENTIAL_ORIGIN = "the client"
"""Value of `Credential.origin` for a credential from the client request. It is dropped after that request."""


class Credential(Struct, frozen=True):
    """Authentication header, added when the request is sent."""

    header: str
    value: str
    """Secret header value, with its scheme if the header has one (`Bearer …`)."""
    origin: str = ""
    """Source of the credential for error messages: `OPENAI_API_KEY`."""
    extra_headers: Mapping[str, str] = {}
    """Headers without secrets that belong to the credential, such as the project that is billed."""

    @property
    def secret(self) -> str:
        """The secret that errors and logs must not contain: `value` without the scheme of `authorization`."""
        return (self.value.partition(" ")[2] if self.header == "authorization" else "") or self.value

    def __repr__(self) -> str:
        return f"Credential(header={self.header!r}, value='…', origin={self.origin!r})"


class UpstreamResponse(Protocol):
    """Response with known status and headers and a body that is still being received."""

    @property
    def status(self) -> int:
        """HTTP status code."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers with lower-case names."""
        ...

    @property
    def body_received(self) -> bool:
        """True if the complete body was received. False: unknown or incomplete."""
        ...

    async def read(self) -> bytes:
        """Return the next bytes of the body, b"" at the end.

        Raises `UpstreamUnreachable` or `UpstreamProtocolError` if the connection breaks.
        """
        ...

    async def close(self, *, complete: bool = False) -> None:
        """Release the connection if the body was read completely, else abort it. Safe to call twice.

        `complete`: the last frame of the wire was read, so the method waits a short time for the end of the body.
        """
        ...


class Transport(Protocol):
    """Function that sends one request to one base URL."""

    async def __call__(
        self, base_url: str, request: UpstreamRequest, credential: Credential | None
    ) -> UpstreamResponse:
        """Send the request and wait for status and headers. Raises `UpstreamUnreachable` or `UpstreamTimeout`."""
        ...


class Decoder(ABC):
    """Base class of decoders. A decoder converts one upstream response into deltas.

    The decoding methods raise `UpstreamError` if the response is an error or violates the wire format.
    """

    default_signature: str = ""
    """Signature that is set on thinking blocks for which the upstream sent no state (`wire/signatures.py`)."""
    finished: bool = False
    """True if the last frame of the wire was read (`[DONE]`, `response.completed`). The exchange then
    stops reading."""
    continuation_token: str | None = None
    """Token that continues this reply in another upstream request. None: unsupported. "": the reply is complete. A
    token is set only if the reply had no `Stop`."""

    @property
    def notes(self) -> Sequence[FidelityNote]:
        """Notes on repairs of the model's output so far (tool names, arguments, calls in text)."""
        return ()

    @abstractmethod
    def decode_frame(self, frame: bytes) -> list[Delta]:
        """Return the deltas of one SSE data field or one NDJSON line. Raises `UpstreamError` for an error frame."""

    @abstractmethod
    def decode_end(self) -> list[Delta]:
        """Return the remaining deltas at the end of the stream.

        Raises `UpstreamProtocolError` if the stream ended too early.
        """

    @abstractmethod
    def decode_body(self, body: bytes) -> list[Delta]:
        """Return the deltas of a complete response body that was not streamed."""

    @abstractmethod
    def flush_pending(self) -> list[Delta]:
        """Return the buffered deltas after the response was interrupted; a second call returns an empty list.

        Buffered are text or thinking of undecided kind and incomplete arguments. No tool call is ended by this: a
        client must not run an incomplete call.
        """


class Adaptation(Struct, frozen=True):
    """Change of a request after the provider rejected one of its parameters."""

    name: str
    """Name and value for `apply_adaptation`: `drop temperature`, `limit 4096`. Contains no secrets.

    `wire NAME` is applied by the exchange: it switches the model to that wire of its provider.
    """
    persistent: bool = True
    """True if the adaptation is stored for the model. False: it applies to this request only."""


class Wire(ABC, Generic[DialectT]):
    """Base class of wires. A wire performs no I/O and stores nothing between calls."""

    dialect_type: type[DialectT]
    """Class of the dialects. Its defaults describe the vendor of the protocol."""
    framing: Literal["sse", "ndjson"]
    """Framing of a streamed body."""

    @abstractmethod
    def encode_request(self, call: Call[DialectT]) -> UpstreamRequest:
        """Encode the upstream request. Raises `UnsupportedFeature` if the API cannot express required content."""

    @abstractmethod
    def new_decoder(self, call: Call[DialectT]) -> Decoder:
        """Return a new decoder for one response."""

    @abstractmethod
    def decode_error(
        self, call: Call[DialectT], status: int, headers: Mapping[str, str], body: bytes
    ) -> UpstreamError | list[Delta]:
        """Decode a response with a status other than 2xx.

        Returns an `UpstreamError`, or deltas if the body contains a reply.
        """

    def accepts_media_url(self, dialect: DialectT, block: ImageBlock | DocumentBlock) -> bool:
        """Return True if the upstream server accepts a URL for this block. False: content is sent inline."""
        return False

    def find_adaptation(self, call: Call[DialectT], error: UpstreamError) -> Adaptation | None:
        """Return the request change that may avoid this upstream error. None: no known change."""
        return None

    def apply_adaptation(self, dialect: DialectT, name: str) -> DialectT:
        """Return the dialect changed by the adaptation with this name; unchanged for an unknown name."""
        return dialect


class RelayWire(Wire[DialectT]):
    """Wire for providers with the Messages API. Bytes are forwarded unchanged and only inspected."""

    @abstractmethod
    def replace_reply_model(self, reply: bytes, model: str) -> bytes:
        """Return a message body, or the start of a stream, with its `model` replaced by the given name."""

    @abstractmethod
    def remove_message_start(self, reply: bytes) -> bytes:
        """Return the start of a stream without `message_start`, which the client already received."""

    @abstractmethod
    def split_after_message_end(self, frames: bytes) -> tuple[bytes, bytes]:
        """Split SSE bytes after the `message_stop` event. Without that event the second value is b""."""

    @abstractmethod
    def remove_events(self, behind: bytes) -> bytes:
        """Return the bytes after `message_stop` without SSE events (pings), which clients do not expect there."""

    @abstractmethod
    def frames_to_inspect(self, frames: bytes) -> bytes:
        """Return the SSE frames that may contain usage, a stop reason or an error; b"": none."""
