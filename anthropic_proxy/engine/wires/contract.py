"""Interface between wires (`engine/wires/*`) and the exchange.

A `Wire` encodes requests and decodes responses of one provider API. The relay (`anthropic.AnthropicWire`) forwards
those of the Messages API with few edits. A wire converts a `Call` (`calls.py`), its input, to an `UpstreamRequest`
(`upstream_http.py`), as the dialect of the server requires (`dialect.py`). A `Decoder` converts one response to deltas.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Generic, Literal

from msgspec import structs

from anthropic_proxy.engine.messages.deltas import Delta, Usage
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models import DocumentBlock, ImageBlock
from anthropic_proxy.engine.slices import MAX_REPLY_BYTES_ON_LOOP
from anthropic_proxy.engine.wires.calls import CallT
from anthropic_proxy.engine.wires.dialect import Adaptation, BaseDialect, DialectT, RequestPart
from anthropic_proxy.engine.wires.failures import UpstreamFault, find_bare_error
from anthropic_proxy.engine.wires.foreign_lines import ForeignLines
from anthropic_proxy.engine.wires.json_repair import FrameRepair
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest, select_fields
from anthropic_proxy.errors import UnsupportedFeature, UpstreamError

_MAX_FRAMES_WITHOUT_REPLY = 2_000
"""Number of frames without a part of a reply that are read before others have the event loop: about 10 ms."""


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

    has_unopened_reasoning: bool | None = None
    """Whether the text of the complete reply begins with reasoning that no start tag opens. A later stream can be
    divided only if this is known before. None: the reply does not show it."""
    usage_of_error: Usage | None = None
    """Token counts beside the error that was raised. The provider bills them. None: there are none."""
    foreign: ForeignLines | None = None
    """What a stream has beside the reply. None: nothing was read as a stream."""
    bytes_on_loop = MAX_REPLY_BYTES_ON_LOOP
    """Maximum size of a body or frame that is now decoded on the event loop. A thread decodes larger ones. -1: each,
    because any may end what is held."""
    _frames_without_reply = 0
    _frame_repair: FrameRepair | None = None
    """None: each frame so far was valid."""

    def open_foreign(self) -> ForeignLines:
        """Return `foreign` of a response that is read as a stream."""
        if self.foreign is None:
            self.foreign = ForeignLines()
        return self.foreign

    @property
    def notes(self) -> Sequence[FidelityNote]:
        """Notes on the repairs of the model's output so far, such as corrected tool names and arguments."""
        return ()

    def repair_frame(self, frame: bytes) -> bytes:
        """Return an invalid frame as valid UTF-8, for servers that split a character between two frames."""
        if self._frame_repair is None:
            self._frame_repair = FrameRepair()
        return self._frame_repair.repair(frame)

    def find_error(self, data: bytes, *, is_whole: bool = False) -> UpstreamFault | None:
        """Return the error in a body (`is_whole`) or in a frame, neither of which has a field of a reply. None: none.

        Each text is the error of a body. In a stream, the reply may follow it, so that only a stated error is one.
        """
        if is_whole:
            return find_bare_error(data)
        self._frames_without_reply += 1
        # one of many goes through the thread, so that the loop serves others: no deltas of them limit a step
        is_turn_of_others = self._frames_without_reply % _MAX_FRAMES_WITHOUT_REPLY == 0
        self.bytes_on_loop = 0 if is_turn_of_others else MAX_REPLY_BYTES_ON_LOOP
        return self.open_foreign().read_frame(data)

    def decode_kept(self) -> list[Delta]:
        """Read the text that a stream has beside the reply. It is the error of a reply without a stop reason.

        The caller then calls `decode_end`.
        """
        foreign = self.foreign
        return self.decode_frame(foreign.build_last_frame()) if foreign is not None and foreign.has_kept else []

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
    accepts_pdf: bool = True
    """False: no request of the API can contain a PDF, whatever the model reads."""
    parts: Sequence[RequestPart] = ()
    """What may be left out of a request that a server refuses for an unknown reason (`exchange/plain_form.py`).

    What a request depends on is never a part: tools, their results, system text, `max_tokens`, stop sequences,
    `tool_choice`, and each field that restricts what the server does, such as `store` and the service tier."""
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

    @property
    def name(self) -> str:
        """Name of the API among the wires."""
        return type(self).__name__

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

    def list_parts(self, dialect: DialectT, headers: Mapping[str, str], body: bytes) -> Sequence[RequestPart]:
        """Return the parts that a request with the client's `headers` and `body` may have."""
        return self.parts

    def has_part(self, call: CallT, name: str, plainer: DialectT, sent: UpstreamRequest) -> bool:
        """Return True if the encoded request `sent` has the part `name`: with the dialect `plainer`, to which its
        adaptation leads, another request would be sent.
        """
        return plainer != call.dialect and changes_request(call, plainer, self.encode_request, sent)


def changes_request(
    call: CallT,
    dialect: BaseDialect,
    encode_request: Callable[[CallT], UpstreamRequest],
    sent: UpstreamRequest | None = None,
) -> bool:
    """Return True if a request differs with the dialect of an adaptation, which is useful only then.

    `sent`: the request without the adaptation. None: it is encoded here.
    """
    with suppress(UnsupportedFeature):  # the changed request cannot be encoded
        changed = encode_request(structs.replace(call, dialect=dialect))
        usual = sent or encode_request(call)
        return (changed.body, changed.headers) != (usual.body, usual.headers)
    return False
