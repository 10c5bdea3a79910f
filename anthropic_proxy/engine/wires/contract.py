"""Interface between wires (`engine/wires/*`) and the exchange.

A `Wire` encodes requests and decodes responses of one provider API. The relay (`anthropic.AnthropicWire`) forwards
those of the Messages API with few edits. A wire converts a `Call`, its input, to an `UpstreamRequest`. A `Transport`
(`bound_requests.py`) sends the request with a `Credential`, the header with the API key, and returns an
`UpstreamResponse`. A `Decoder` converts one response to deltas.

A dialect (`BaseDialect`) describes how one server differs from the API of its wire. Fields `has_…` and `accepts_…`
describe the server: its endpoints, and the content that it accepts. Fields `sends_…` describe the upstream request. An
`Adaptation` changes the dialect after a provider rejected a parameter.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Generic, Literal, Protocol, TypeVar

import msgspec
from msgspec import Raw, Struct, structs

from anthropic_proxy.engine.messages.deltas import Delta, Usage
from anthropic_proxy.engine.messages.effort_plan import EffortPlan
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.loaded_tools import LoadedToolForm
from anthropic_proxy.engine.messages.models import DocumentBlock, ImageBlock, Source
from anthropic_proxy.engine.messages.models.tools import MAX_TOOL_NAME_LENGTH, TOOL_NAME_PATTERN
from anthropic_proxy.engine.messages.preparation import PreparedRequest
from anthropic_proxy.engine.messages.server_tools import ServerToolKind
from anthropic_proxy.engine.wires.json_repair import FrameRepair
from anthropic_proxy.errors import UnsupportedFeature, UpstreamError, UpstreamProtocolError


class BaseDialect(Struct, frozen=True, kw_only=True, cache_hash=True):
    """Base class of dialects, which describe how one server differs from the API of its wire."""

    tool_name_pattern: str = TOOL_NAME_PATTERN
    """Regular expression of allowed tool names. Any other name is replaced by an alias. Default: the rule of the
    Messages API."""
    max_tool_name_length: int = MAX_TOOL_NAME_LENGTH
    """Maximum number of characters of a tool name. A longer name is replaced by an alias."""
    always_stream: bool = False
    """True if every upstream request streams, even if the client requests no stream."""
    continuation_version: str = ""
    """API version in the URL of a request that continues a reply: `/v1beta1`. "": the version of the base URL."""
    server_tools: tuple[ServerToolKind, ...] = ()
    """Kinds of server tools (`web_search` …) that the upstream server runs itself."""
    server_tools_exclusive: bool = False
    """True if the upstream server rejects a request with both server tools and client tools."""
    loaded_tools: Literal["caller", "listed"] = "caller"
    """Place of the definitions of tools that a tool search of the client has loaded. `caller`: in the result of the
    search, and the model calls them by one constant tool, so that the provider's prompt cache stays valid. `listed`: in
    the list of tools.

    Proven by: golden/openai_chat/tools/loaded_tool_listed."""
    prompt_settings: tuple[str, ...] = ()
    """Request fields that the provider writes into the beginning of the prompt, so that another value moves everything
    behind it: `reasoning.effort`. The prefix guard names their changes.

    Proven by: tests/unit/exchange/test_prefix_guard.py."""
    has_count_tokens: bool = False
    """True if the upstream server has `/v1/messages/count_tokens`."""
    count_paths: tuple[str, ...] = ()
    """Paths below the base URL at which the upstream server counts the tokens of a request in its own format. The first
    that exists is used. `{model}` stands for the model id; a path that begins with `/../` is beside the base URL. ():
    the proxy estimates.

    Proven by: tests/unit/exchange/test_engine_counts.py."""
    has_model_list: bool = False
    """True if `/v1/models` of the upstream server has Anthropic's format."""

    @property
    def always_reasons(self) -> bool:
        """True if the model is known to reason in every request, whatever the client asks for."""
        return False

    @property
    def min_output(self) -> int:
        """Minimum output limit that the server accepts."""
        return 1

    @property
    def thinking_budgets(self) -> tuple[tuple[str, int], ...]:
        """Pairs of an effort level and the number of tokens that is sent in its place. (): levels are sent."""
        return ()

    @property
    def loaded_tool_form(self) -> LoadedToolForm:
        return self.loaded_tools

    @property
    def sends_effort_changes(self) -> bool:
        """True if a changed effort is sent as an item inside the conversation, which keeps the prompt cache valid."""
        return False

    @property
    def accepts_thinking_budget(self) -> bool:
        """True if the amount of thinking is sent as a number of tokens. False: as a level, or not at all."""
        return False


DialectT = TypeVar("DialectT", bound=BaseDialect)
DialectT_co = TypeVar("DialectT_co", bound=BaseDialect, covariant=True)


class ModelLimits(Struct, frozen=True):
    """What a model accepts of a request that was written for another one."""

    max_output: int | None
    """None: unknown."""
    efforts: tuple[str, ...]
    """Effort levels. Empty: none."""


class BaseCall(Struct, Generic[DialectT_co], frozen=True, kw_only=True):
    """What every wire needs of one client request for one target."""

    model: str
    """Model id to send to the provider."""
    requested_model: str = ""
    """The model id of the client request. The reply names this model."""
    dialect: DialectT_co
    """Description of the server's differences, changed by the rules of the model catalog for this model."""
    streams_upstream: bool
    """True if the provider streams its response. The client's response may nevertheless be sent as a whole."""
    provider_prefix: str
    """Name of the provider in model ids, in error messages and in notes: `google`."""
    context_window: int | None = None
    """Context window of the model in tokens, input and output together. None: unknown."""
    max_input_tokens: int | None = None
    """Maximum number of input tokens, if it is lower than the window. None: the window is the limit."""
    estimate_input_tokens: Callable[[], int] = lambda: 0
    """Function that returns the estimated number of input tokens. 0: unknown. It is called only if a provider rejects
    the input as too long without a count."""
    max_schema_steps: int | None = None
    """Number of steps to convert JSON Schemas after which `encode_request` raises `WorkPostponed`. None: no limit,
    because the caller runs outside the event loop."""

    @property
    def effective_max_input_tokens(self) -> int | None:
        """Maximum number of input tokens, or the context window if no lower maximum is known. None: both unknown."""
        return self.max_input_tokens or self.context_window

    def is_window_filled(self, tokens: int) -> bool:
        """Return True if input and output fill the context window, so that no higher output limit helps."""
        return self.context_window is not None and tokens >= self.context_window - 1

    def build_protocol_error(self, words: str, *, code: str = "") -> UpstreamProtocolError:
        """`words` follow the name of the provider: ` sent an invalid line.`"""
        return UpstreamProtocolError(f"{self.provider_prefix}{words}", code=code, provider=self.provider_prefix)


class TranslatedCall(BaseCall[DialectT_co], frozen=True, kw_only=True):
    """Input of a wire that encodes a prepared request for another API."""

    request: PreparedRequest
    """The client request after preparation: validated, with paired tool calls and results, and with allowed tool
    names."""
    effort_plan: EffortPlan | None = None
    """Effort with which the conversation began, and its changes. None: the effort of the request."""
    client_tool_names: Mapping[str, str] = {}
    """Tool name sent upstream → different tool name of the client."""
    new_id: Callable[[str], str]
    """Function that returns a new unique id that begins with the argument: `new_id("toolu_px")`."""
    responses_setting: str = ""
    """Setting that selects the Responses API, for error messages. "": there is none."""
    base_url: str = ""
    """Base URL of the upstream request. Signatures in replies of this server are valid only for the same URL."""
    continuation_token: str = ""
    """Token that continues an incomplete reply of an earlier call. "": a new reply."""


class RelayCall(BaseCall[DialectT_co], frozen=True, kw_only=True):
    """Input of a relay: the client's own bytes, and what is known about the content that its provider rejects."""

    body: bytes = b""
    """b"": the request has none, or its reply has begun."""
    headers: Mapping[str, str] = {}
    """Names in lower case, without credentials."""
    names_headers: bool = False
    """True if only those of the headers are forwarded that the wire names: those of a company's people and services."""
    path: str = "/v1/messages"
    query: str = ""
    """Without `?`."""
    notes: Sequence[FidelityNote] = ()
    """Notes on fields of the client that are no longer in `body`."""
    is_renamed: bool = False
    """True if the provider has another name for the model than the client."""
    limits: ModelLimits | None = None
    """Limits of a model that a setting chose in place of the client's. None: the client named the model, or nothing is
    known about it; then no field is fitted to it."""
    has_proxy_signatures: bool = True
    """True if `body` may contain signatures of the proxy, which must be removed."""
    has_invalid_calls: bool = True
    """True if `body` may contain tool calls that the Messages API rejects, which must be replaced."""
    own_tool_names: Collection[str] = frozenset()
    """Names of the client's tools. They are sent unchanged, so calls of these tools keep them."""
    refused_thinking: Collection[bytes] = frozenset()
    """Digests of thinking blocks that a model has rejected, and of tool loops whose replies must not think."""
    earlier_adaptations: Sequence[str] = ()
    """Names of the changes of this request after rejections by the provider, oldest first."""
    adaptations_left: int = 0
    """How often this request can still be changed and repeated."""
    files: Mapping[tuple[str, str], Source | None] = {}
    """Kind (`image`, `document`) and URL of a block in the messages → the file. None: it could not be fetched."""


Call = TranslatedCall[DialectT] | RelayCall[DialectT]
"""Input of a wire: one client request for one target."""
CallT = TypeVar("CallT", bound=BaseCall[BaseDialect])


NoteCheck = Callable[[Collection[FidelityNote]], None]
"""Function that raises `UnsupportedFeature` if the notes on a request contain a loss that its fidelity mode rejects."""


class ComputeHeaders(Protocol):
    """Function that computes headers from an HTTP request as it is sent: a digest, a signature. It performs no I/O."""

    def __call__(self, *, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Mapping[str, str]:
        """Return the computed headers, names in lower case. `headers`: the other headers of the request."""
        ...


class UpstreamRequest(Struct, frozen=True, kw_only=True):
    """HTTP request to a provider, without base URL and credential."""

    path: str
    """Path below the base URL of the provider, with a leading slash and perhaps a query. It is percent-encoded."""
    body: bytes
    """Body of the request, encoded for the provider. b"": no body."""
    headers: Mapping[str, str] = {}
    """Headers of the request without the credential, names in lower case."""
    trace_headers: Mapping[str, str] = {}
    """Headers `traceparent` and `tracestate`, which differ for each request."""
    method: str = "POST"
    """HTTP method: `POST`, or `GET` for lists."""
    may_repeat: bool = True
    """False: the request creates or changes something that the provider keeps, so it is sent once at most."""
    notes: Sequence[FidelityNote] = ()
    """Notes on fields of the client request that were approximated, emulated or dropped."""
    enforces_schema: bool = False
    """True if the provider enforces the client's JSON Schema for the reply. False: the proxy validates the reply."""
    proves: str = ""
    """Name of an adaptation to store for the model if the provider accepts this request, or rejects it (status 400) for
    a reason that no adaptation avoids. "": none."""
    compute_headers: ComputeHeaders | None = None
    """Function for headers that depend on the bytes of the body, such as a digest. The transport calls it when it sends
    the request, because settings change the body after `encode_request` (`[providers.NAME.body]`). None: no header
    does."""


JSON_HEADERS: Mapping[str, str] = {"content-type": "application/json"}


def select_fields(request: UpstreamRequest, path: str, fields: Collection[str]) -> UpstreamRequest:
    """Return a request to another path with only these fields of the body."""
    body = msgspec.json.decode(request.body, type=dict[str, Raw])
    selected = {name: value for name, value in body.items() if name in fields}
    return structs.replace(request, path=path, body=msgspec.json.encode(selected))


def changes_body(call: CallT, dialect: BaseDialect, encode_request: Callable[[CallT], UpstreamRequest]) -> bool:
    """Return True if a request has another body with the dialect of an adaptation, which is useful only then."""
    with suppress(UnsupportedFeature):  # the changed request cannot be encoded
        return encode_request(structs.replace(call, dialect=dialect)).body != encode_request(call).body
    return False


CLIENT_CREDENTIAL_ORIGIN = "the client"
"""Value of `Credential.origin` for a credential from the client request. It is used for that request only."""


class Credential(Struct, frozen=True):
    """Authentication header of an upstream request, added when the request is sent."""

    header: str
    """Name of the request header with the credential, in lower case: `authorization`, `x-api-key`."""
    value: str
    """Secret header value, with its scheme if the header has one (`Bearer …`)."""
    origin: str = ""
    """Source of the credential for error messages: `OPENAI_API_KEY`."""
    extra_headers: Mapping[str, str] = {}
    """Headers without secrets that belong to the credential, such as the project that is billed."""
    sign: ComputeHeaders | None = None
    """Function that signs each request. `value` is then a secret of the signature, which is not sent itself. None: the
    header `header` authenticates the request."""
    further_secrets: Sequence[str] = ()
    """Other secrets that a request has because of the credential, such as the session token of a signature."""

    @property
    def secrets(self) -> Sequence[str]:
        """All texts that errors and logs must not contain."""
        return self.secret, *self.further_secrets

    @property
    def secret(self) -> str:
        """`value` without a scheme such as `Bearer`."""
        return (self.value.partition(" ")[2] if self.header == "authorization" else "") or self.value

    def __repr__(self) -> str:
        return f"Credential(header={self.header!r}, value='…', origin={self.origin!r})"


class UpstreamResponse(Protocol):
    """HTTP response of a provider with known status and headers, and a body that is still being received."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Names are in lower case."""
        ...

    @property
    def body_received(self) -> bool:
        """True if the complete body was received. False: the body is incomplete, or its end is unknown."""
        ...

    async def read(self) -> bytes:
        """Return the next bytes of the response body. b"": the end of the body.

        Raises `UpstreamUnreachable` or `UpstreamProtocolError` if the connection breaks.
        """
        ...

    async def close(self, *, wait_for_end: bool = False) -> None:
        """End the use of the response. Later requests reuse its connection only if the complete body was received.

        `wait_for_end`: True to wait a short time for the rest of the body, so that the connection can be reused.
        """
        ...


class ConvertedResponse:
    """Response whose body is converted while it is read. b"" of `convert`: more bytes are needed."""

    def __init__(self, response: UpstreamResponse, convert: Callable[[bytes], bytes]) -> None:
        self._response = response
        self._convert = convert

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    @property
    def body_received(self) -> bool:
        return self._response.body_received

    async def read(self) -> bytes:
        while data := await self._response.read():
            if converted := self._convert(data):
                return converted
        return b""

    async def close(self, *, wait_for_end: bool = False) -> None:
        await self._response.close(wait_for_end=wait_for_end)


def build_size_error(max_bytes: int) -> UpstreamProtocolError:
    return UpstreamProtocolError(
        f"the reply is larger than {max_bytes >> 20} MiB", retryable=False, code="reply-too-large"
    )


async def read_body(response: UpstreamResponse, max_bytes: int, on_read: Callable[[], None] | None = None) -> bytes:
    """Return the complete body of an upstream response, without a byte order mark.

    `on_read` is called after each network read. Raises `UpstreamProtocolError` if the body exceeds `max_bytes` or ends
    early.
    """
    chunks: list[bytes] = []
    size = 0
    while chunk := await response.read():
        if on_read is not None:
            on_read()
        size += len(chunk)
        if size > max_bytes:
            raise build_size_error(max_bytes)
        chunks.append(chunk)
    return b"".join(chunks).removeprefix(b"\xef\xbb\xbf")


class Decoder(ABC):
    """Base class of decoders. A decoder converts one upstream response into deltas.

    Its methods raise `UpstreamError` if the response is an error or is invalid.
    """

    default_signature: str = ""
    """Signature for thinking blocks that the provider did not sign. `engine/wires/thinking.py` has its format."""
    finished: bool = False
    """True if the last event of the reply was read (`[DONE]`, `response.completed`). The caller then stops reading."""
    continuation_token: str | None = None
    """Token that continues this reply in another upstream request. None: unsupported. "": the reply is complete."""

    usage_of_error: Usage | None = None
    """Token counts beside the error that was raised. The provider bills them. None: there are none."""
    _frame_repair: FrameRepair | None = None
    """None: each frame so far was valid."""

    @property
    def notes(self) -> Sequence[FidelityNote]:
        """Notes on the repairs of the model's output so far, such as corrected tool names and arguments."""
        return ()

    def repair_frame(self, frame: bytes) -> bytes:
        """Return an invalid frame as valid UTF-8, for servers that split a character between two frames."""
        if self._frame_repair is None:
            self._frame_repair = FrameRepair()
        return self._frame_repair.repair(frame)

    @abstractmethod
    def decode_frame(self, frame: bytes) -> list[Delta]:
        """Return the deltas of one SSE event or one line of NDJSON. Raises `UpstreamError` for an error."""

    @abstractmethod
    def decode_end(self) -> list[Delta]:
        """Return the remaining deltas at the end of the stream, or after a complete body.

        Raises `UpstreamProtocolError` if the response ended too early, and `UnreadableReply` if its finish reason is
        that the server could not read the model's output. The token counts were returned before.
        """

    @abstractmethod
    def decode_body(self, body: bytes) -> list[Delta]:
        """Return the deltas of a complete response body that was not streamed. Raises `UpstreamError`.

        The caller then calls `decode_end`, as after a stream.
        """

    def flush_pending(self) -> list[Delta]:
        """Return the buffered deltas after the response was interrupted.

        An open tool call is not ended, so that the client does not run it. A second call returns an empty list.
        """
        return []


REASONS_UNASKED, REASONS_ALWAYS = "reasons unasked", "reasons always"
"""Names of adaptations: the model has reasoned in a request without an effort level, or in one that disables it."""
WITHOUT_SAFEGUARDS = "fields safeguards"
"""Name of an adaptation of the Messages API: the field that requests checks of tool calls is left out."""
TEMPLATE_SWITCH = "template enable_thinking"
"""Name of the adaptation after which the chat template of a local model is told not to reason."""
SYSTEM_REMINDER, SYSTEM_MESSAGE = "system reminder", "system message"
"""Names of two adaptations: system messages inside a conversation are sent as text of the user, or with their role.
Each changes only dialects whose servers accept both forms."""


class Adaptation(Struct, frozen=True):
    """Named change of the dialect for the next upstream requests, after the provider rejected a parameter."""

    name: str
    """Name of the change, without secrets: `drop temperature`, `limit 4096`. The name `wire NAME` switches the model to
    another wire of the provider."""
    persistent: bool = True
    """True if the change is stored for later requests to the model. False: it applies to this request only."""
    stored_name: str = ""
    """Name of the change that later requests need instead. "": the same. It is not stored if a later change of this
    request has the same first word in `name`: it did not avoid the rejection."""
    stored_if_rejected: bool = False
    """True if the change is also stored if the request with it is rejected (status 400) for another reason."""
    refused_thinking: tuple[bytes, ...] = ()
    """Digests of thinking blocks of the request, or of its tool loop. These, or all thinking in this loop, are left out
    of this and later requests to the model."""


DecodedError = UpstreamError | list[Delta]
"""Error for the client, or the deltas of a reply if the provider has refused the content of the request."""


class Wire(ABC, Generic[DialectT, CallT]):
    """Base class of wires, which encode requests and decode responses of one API. A wire performs no I/O."""

    dialect_type: type[DialectT]
    """Class of the wire's dialects. Its default values describe the API's own vendor."""
    framing: Literal["sse", "ndjson"]
    """Framing of a streamed response body: server-sent events (`sse`), or one JSON object per line (`ndjson`)."""
    is_relay: bool = False
    """True for the wire that forwards requests and responses of the Messages API."""
    counted_fields: Collection[str] = ()
    """Fields of the request body that a request for its token count has. (): all."""

    @abstractmethod
    def encode_request(self, call: CallT) -> UpstreamRequest:
        """Encode the upstream request. Raises `UnsupportedFeature` if the API cannot express required content."""

    def encode_count(self, call: CallT, path: str) -> UpstreamRequest:
        """Encode a request for the number of input tokens to `path`, one of the `count_paths` of the dialect."""
        request = self.encode_request(call)
        if self.counted_fields:
            return select_fields(request, path, self.counted_fields)
        return structs.replace(request, path=path)

    @abstractmethod
    def new_decoder(self, call: CallT) -> Decoder:
        """Return a new decoder for one response to the upstream request of `call`."""

    @abstractmethod
    def decode_error(self, call: CallT, status: int, headers: Mapping[str, str], body: bytes) -> DecodedError:
        """Return what the client receives after an upstream response with an error status."""

    def accepts_media_url(self, dialect: DialectT, block: ImageBlock | DocumentBlock) -> bool:
        """Return True if the upstream server reads the file of `block` from its URL.

        False: the proxy sends the content.
        """
        return False

    def find_adaptation(self, call: CallT, error: UpstreamError) -> Adaptation | None:
        """Return the change of the dialect that may avoid an upstream error. None: no such change is known."""
        return None

    def apply_adaptation(self, dialect: DialectT, name: str) -> DialectT:
        """Return the dialect with the adaptation `name` applied. For an unknown name, the dialect is unchanged."""
        return dialect
