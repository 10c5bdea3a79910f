"""Calls, the input of wires: one client request for one target.

A wire that encodes requests gets a `TranslatedCall` with the prepared request. A relay gets a `RelayCall` with the
bytes of the client.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from msgspec import Struct

from anthropic_proxy.engine.messages.effort_plan import EffortPlan
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models import Source
from anthropic_proxy.engine.messages.preparation import PreparedRequest
from anthropic_proxy.engine.wires.dialect import BaseDialect, DialectT, DialectT_co
from anthropic_proxy.errors import UpstreamProtocolError


class ModelLimits(Struct, frozen=True):
    """What a model accepts of a request that was written for another one."""

    max_output: int | None = None
    """None: unknown."""
    efforts: tuple[str, ...] | None = None
    """Effort levels. Empty: none. None: unknown."""
    thinks_unasked: bool = True
    """False: the model for which the request was written does not think in a request without `thinking`."""
    unread: frozenset[str] = frozenset()
    """What the model is known not to read: `image`, `document` (a PDF)."""


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
    """Number of steps to convert JSON Schemas, and of fields of a relayed body, above which `encode_request` raises
    `WorkPostponed`. None: no limit, because the caller runs outside the event loop."""

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

    def build_call_error(self, reason: str) -> UpstreamProtocolError:
        """Return the error of a tool call of which nobody knows what the model has written."""
        return self.build_protocol_error(f" sent a tool call that cannot be run: {reason}", code="broken-call")


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
    client: "ClientBody | None" = None
    """Has the body of the client when `body` is freed. None: it is not needed."""
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
    """Limits of a model for which the request was not written: a setting chose it in place of the client's, or the
    proxy asks it. None: the client named the model, so no field is fitted to it."""
    has_proxy_signatures: bool = True
    """True if `body` may contain signatures of the proxy, which must be removed."""
    has_invalid_calls: bool = True
    """True if `body` may contain tool calls that the Messages API rejects, which must be replaced."""
    own_tool_names: Collection[str] = frozenset()
    """Names of the client's tools. They are sent unchanged, so calls of these tools keep them."""
    eager_tools: Collection[str] = frozenset()
    """Names of the tools whose arguments the server need not check, because the client reads them while the model
    writes them (`eager_input_streaming`). They may be no JSON."""
    refused_thinking: Collection[bytes] = frozenset()
    """Digests of thinking blocks that a model has rejected, and of tool loops whose replies must not think."""
    earlier_adaptations: Sequence[str] = ()
    """Names of the changes of this request after rejections by the provider, oldest first."""
    adaptations_left: int = 0
    """How often this request can still be changed and repeated."""
    files: Mapping[tuple[str, str], Source | None] = {}
    """Kind (`image`, `document`) and URL of a block in the messages → the file. None: it could not be fetched."""
    descriptions: Mapping[str, str] = {}
    """Data or URL of a picture in the messages → the text in its place."""
    has_edited_messages: bool = False
    """True if the proxy makes the edits of the conversation in place of the server, which `EditedRelay` reports."""


class ClientBody(Protocol):
    @property
    def body(self) -> bytes:
        """b"": it is no longer needed."""


Call = TranslatedCall[DialectT] | RelayCall[DialectT]
"""Input of a wire: one client request for one target."""
CallT = TypeVar("CallT", bound=BaseCall[BaseDialect])
