"""The client's side of an exchange: its request, and the response that is sent to it.

`ClientRequest` is the request. `ResponseSink` encodes the response, as SSE frames of events, one JSON message, an error
body or bytes of a provider, with its headers. A subclass sends it to an HTTP client, or keeps it for a program.
`record_client` and `record_failure` write into the receipt what the client has sent and what failed.

A lone surrogate (half of a UTF-16 character) in a text is replaced, because UTF-8 cannot encode it.
"""

import asyncio
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, Protocol

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.background import PayerWork, is_large
from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange.client_errors import find_told_error
from anthropic_proxy.engine.hooks import (
    NEGOTIATED,
    WITH_OWN_LIMITS,
    Client,
    EngineLog,
    Receipt,
    Recorder,
    RecordPoint,
)
from anthropic_proxy.engine.messages.events import (
    BlockStart,
    BlockStop,
    CitationDelta,
    CompactionDelta,
    ErrorEvent,
    Event,
    InputDelta,
    MessageDelta,
    MessageStart,
    MessageStop,
    Ping,
    SignatureDelta,
    TextDelta,
    TextStart,
    ThinkingDelta,
    ThinkingStart,
    ToolCallStart,
    replace_surrogates,
)
from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models import MessagesRequest, MessagesResponse, decode_request_or_envelope
from anthropic_proxy.engine.messages.preparation import Question, shorten_id
from anthropic_proxy.engine.messages.purpose import AGENT_HEADER, SESSION_HEADER, read_tool_times
from anthropic_proxy.engine.routing.router import Plan
from anthropic_proxy.engine.routing.routes import read_project
from anthropic_proxy.engine.wires.anthropic.api_fields import NamedModel
from anthropic_proxy.engine.wires.purposes import AdmittedPurpose
from anthropic_proxy.errors import REMEDY_LEAD, ProxyError, UpstreamError
from anthropic_proxy.secrets import redact_error

_LIMITS = "anthropic-ratelimit-"
"""Beginning of the names of headers with limits, of which some state the use of budgets."""
_BUDGETS = f"{_LIMITS}unified-"
_NO_CONTENT = 204
MAX_RETRY_AFTER_SECONDS = 3600
"""A longer delay is lowered to this maximum."""


MadeKind = Literal["states", "texts", "documents", "files", "results", "request"]
"""States that the ids of calls bring back, texts for inspectors, texts and pictures of PDFs, files of URLs, results of
tools that the proxy runs, and a provider's request that is much larger than the client's."""


class RequestMemory(Protocol):
    """The memory of one request."""

    def free(self, size: int) -> None:
        """Take note that the body, of this size, and what was made of it are no longer needed."""

    async def count_read(self, size: int, *, may_wait: bool = True) -> None:
        """Have memory for what was made for the request besides its body: `size` in total. See
        `ClientRequest.count_made`.
        """


class ClientRequest(Struct, kw_only=True):
    """An authenticated client request with its complete body."""

    receipt: Receipt
    """Record of the request: id, client, path and trace from its arrival on, the rest when it has ended."""
    headers: Mapping[str, str]
    """Client headers, names in lower case. Credentials are removed unless they may be sent to the provider."""
    body: bytes
    """Received bytes of the request body. They are removed after the reply has started, to free memory."""
    background: PayerWork
    """Runner of long computations for this request, in the turns of its payer."""
    parts: int = 0
    """`MessagesRequest.parts` of the body. 0: it was not read so far."""
    query: str = ""
    """Query of the URL, without `?`. "": none."""
    purpose: AdmittedPurpose = "message"
    """Other purposes than those of clients: `ParentRequest.new_request`, and the doctor."""
    plans: Sequence[Plan] = ()
    """The plans of the request, in the order of the admission, if its sender has chosen them. Empty: the exchange
    chooses."""
    questions: Sequence[Question] = ()
    """The request in the form of questions, for models that answer these without writing text. Empty: it has none."""
    cache_session: str = ""
    """Session by which a provider finds the cache of the prompt, for a request of the proxy, which is no part of a
    conversation. "": that of the client."""
    named_models: Sequence[NamedModel] = ()
    """Models that the body names beside `model`. Only those of restricted clients are known."""
    notes: Sequence[FidelityNote] = ()
    """Notes on fields of the client that are no longer in the body."""
    on_model: Callable[[str], None] | None = None
    """Function that receives the requested model, once the body is read. None: nobody waits for it."""
    memory: "RequestMemory | None" = None
    """Counter of the memory that others wait for. None: nobody does."""
    made: dict[MadeKind, int] = {}
    """Bytes of what was made for the request besides its body."""

    @property
    def is_large(self) -> bool:
        """True if a thread does what reads the whole body or the request in it."""
        return is_large(len(self.body), self.parts)

    @property
    def learner(self) -> str:
        """See `Client.name_learner`."""
        return self.receipt.client.name_learner("" if self.cache_session else self.receipt.session)

    async def decode(self, read: Callable[..., MessagesRequest] = decode_request_or_envelope) -> MessagesRequest:
        """Return what `read` finds in the body, in a thread if that takes long (`BackgroundWork.run_postponable`)."""
        request = await self.background.run_postponable(self.is_large, read, self.body)
        self.parts = request.parts
        return request

    async def count_made(self, kind: MadeKind, size: int, *, may_wait: bool = True) -> None:
        """Have memory for what was made for the request, `size` bytes of a kind in total. `may_wait`: False if they
        would be held meanwhile. Raises `ProxyBusy`.
        """
        if size > (before := self.made.get(kind, 0)):
            if self.memory is not None:
                await self.memory.count_read(sum(self.made.values()) - before + size, may_wait=may_wait)
            self.made[kind] = size

    def free_body(self) -> None:
        if self.memory is not None:
            self.memory.free(len(self.body))
        self.body = b""
        self.made.clear()


class ResponseSink(ABC):
    """The HTTP response to one client request. A subclass implements `start`, `write` and `wait_disconnected`."""

    has_exchange_headers = True
    """True if the response has the headers that follow from the receipt of an exchange: the client's limits, and

    `x-proxy-fidelity: best-effort; approximated=2; emulated=1; dropped=0`
    `x-proxy-failed-attempts: openai 503, groq 429`
    `x-proxy-route: long context`
    """

    started = False
    """True once status and headers are final."""
    record: Callable[[bytes], None] | None = None
    """Function that receives each piece of the body, for recorders. None: nothing is recorded."""

    def __init__(self, receipt: Receipt) -> None:
        self.receipt = receipt

    def send_events(self, events: Sequence[Event], *, is_last: bool = False) -> Awaitable[None]:
        """Send events of a stream. The first call also sends status 200 and the stream headers.

        `is_last`: True if the response is complete after these events.
        """
        receipt = self.receipt
        data = encode_events(events, receipt.request_id, receipt.client)
        if not self.started:
            return self._begin(200, {**STREAM_HEADERS, "request-id": receipt.request_id}, data, is_last=is_last)
        if self.record is not None:
            self.record(data)
        return self.write(data, is_last=is_last)

    def send_relayed_bytes(
        self, data: bytes, headers: Mapping[str, str], *, is_stream: bool, is_last: bool, status: int = 200
    ) -> Awaitable[None]:
        """Send bytes of a provider to the client unchanged. The first call also sends `status` and `headers`."""
        request_id = self.receipt.request_id
        if not is_stream:
            return self.send_response(status, data, {**json_headers(request_id), **headers})
        if not self.started:
            return self._begin(status, {**STREAM_HEADERS, "request-id": request_id, **headers}, data, is_last=is_last)
        if self.record is not None:
            self.record(data)
        return self.write(data, is_last=is_last)

    def send_message(self, response: MessagesResponse) -> Awaitable[None]:
        return self.send_response(200, encode_message(response))

    def send_error_response(self, error: ProxyError) -> Awaitable[None]:
        """Send an error as the client is told about it. Call this only before anything else was sent."""
        return self.send_told_error(find_told_error(error, self.receipt.client))

    def send_told_error(self, error: ProxyError) -> Awaitable[None]:
        headers, body = encode_error_response(error, self.receipt.request_id)
        return self.send_response(error.status, body, headers)

    def send_response(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> Awaitable[None]:
        """Send a complete response. Default of `headers`: a JSON response."""
        sent = {**headers} if headers else json_headers(self.receipt.request_id)
        if status != _NO_CONTENT:  # RFC 9110, 8.6: it has no length
            sent["content-length"] = str(len(body))
        return self._begin(status, sent, body, is_last=True)

    def _begin(self, status: int, headers: dict[str, str], data: bytes, *, is_last: bool) -> Awaitable[None]:
        receipt = self.receipt
        if receipt.client.role in WITH_OWN_LIMITS:  # the limits of the provider's key are not those of the person
            headers = {name: value for name, value in headers.items() if not name.startswith(_LIMITS)}
        if self.has_exchange_headers:
            limits: Mapping[str, str] = receipt.limit_headers
            # with other errors, Claude Code would show the state of the budget in place of the message
            if status != 200 and limits.get(f"{_BUDGETS}status") != "rejected":
                limits = {name: value for name, value in limits.items() if not name.startswith(_BUDGETS)}
            headers |= limits
            if status == 200:
                headers["x-proxy-fidelity"] = receipt.fidelity.format_counts()
            if receipt.failed_attempts:
                headers["x-proxy-failed-attempts"] = ", ".join(receipt.failed_attempts)
            if receipt.plain_form:
                headers["x-proxy-plain-form"] = ", ".join(receipt.plain_form)
            if receipt.route:
                headers["x-proxy-route"] = receipt.route
        if self.record is not None:
            self.record(data)
        self.start(status, headers.items())
        return self.write(data, is_last=is_last)

    @abstractmethod
    def start(self, status: int, headers: Collection[tuple[str, str]]) -> None:
        """Keep status and headers, which are sent with the first piece, and set `started`."""

    @abstractmethod
    def write(self, data: bytes, *, is_last: bool) -> Awaitable[None]:
        """Send a piece of the body, which may be empty."""

    @abstractmethod
    async def wait_disconnected(self) -> None:
        """Wait until the client has disconnected."""


class CollectingSink(ResponseSink):
    """It keeps the response for a program, for a probe or for a dry run.

    A reply of more than `max_bytes` counts as a disconnect of the client. None: no limit.
    """

    def __init__(self, receipt: Receipt, max_bytes: int | None = None) -> None:
        super().__init__(receipt)
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.body = bytearray()
        self.error: ProxyError | None = None
        """The error that was sent in place of a reply. None: none."""
        self.overflow = asyncio.Event()
        """Set when the reply is larger than `max_bytes`. The rest is dropped."""
        self._max_bytes = max_bytes

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    def send_error_response(self, error: ProxyError) -> Awaitable[None]:
        self.error = error
        return super().send_error_response(error)

    def start(self, status: int, headers: Collection[tuple[str, str]]) -> None:
        self.started = True
        self.status = status
        self.headers = dict(headers)

    async def write(self, data: bytes, *, is_last: bool) -> None:
        if self._max_bytes is not None and len(self.body) + len(data) > self._max_bytes:
            self.overflow.set()
        else:
            self.body += data

    async def wait_disconnected(self) -> None:
        await self.overflow.wait()


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def format_http_date(seconds: float) -> str:
    """Return a time since the epoch as in HTTP headers (RFC 9110, 5.6.7): `Fri, 20 Nov 2026 21:04:32 GMT`."""
    year, month, day, hour, minute, second, weekday, _, _ = time.gmtime(seconds)
    clock = f"{hour:02}:{minute:02}:{second:02}"
    return f"{_DAYS[weekday]}, {day:02} {_MONTHS[month - 1]} {year:04} {clock} GMT"


def json_headers(request_id: str) -> dict[str, str]:
    return {"content-type": "application/json", "request-id": request_id}


STREAM_HEADERS: Mapping[str, str] = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


_encode = msgspec.json.Encoder().encode
_NO_CLIENT = Client()

_START = b'event: content_block_start\ndata: {"type":"content_block_start","index":%d,"content_block":'
_DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":'

_MESSAGE_START = b'event: message_start\ndata: {"type":"message_start","message":%b}\n\n'
_PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_TEXT_START = _START + b'{"type":"text","text":""}}\n\n'
_THINKING_START = _START + b'{"type":"thinking","thinking":"","signature":""}}\n\n'
_CALL_START = _START + b'{"type":"tool_use","id":%b,"name":%b,"input":{}}}\n\n'
_BLOCK_START = _START + b"%b}\n\n"
_TEXT_DELTA = _DELTA + b'{"type":"text_delta","text":%b}}\n\n'
_CITATION_DELTA = _DELTA + b'{"type":"citations_delta","citation":%b}}\n\n'
_THINKING_DELTA = _DELTA + b'{"type":"thinking_delta","thinking":%b}}\n\n'
_SIGNATURE_DELTA = _DELTA + b'{"type":"signature_delta","signature":%b}}\n\n'
_COMPACTION_DELTA = _DELTA + b'{"type":"compaction_delta","content":%b}}\n\n'
_INPUT_DELTA = _DELTA + b'{"type":"input_json_delta","partial_json":%b}}\n\n'
_BLOCK_STOP = b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n'
_MESSAGE_DELTA = b'event: message_delta\ndata: {"type":"message_delta","delta":%b,"usage":%b%b}\n\n'
_MESSAGE_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_ERROR = b"event: error\ndata: %b\n\n"


def _encode_message_delta(event: MessageDelta) -> bytes:
    ending: dict[str, Any] = {"stop_reason": event.stop_reason, "stop_sequence": event.stop_sequence}
    if event.stop_details is not None:
        ending["stop_details"] = event.stop_details
    if event.safeguard_results is not None:
        ending["safeguard_results"] = event.safeguard_results
    edits = b""
    if event.applied_edits is not None:
        edits = b',"context_management":%b' % _encode({"applied_edits": event.applied_edits})
    return _MESSAGE_DELTA % (_encode(ending), _encode(event.usage), edits)


_ENCODERS: Mapping[type[Event], Callable[[Any], bytes]] = {
    MessageStart: lambda event: _MESSAGE_START % _encode(event.message),
    Ping: lambda _: _PING,
    TextStart: lambda event: _TEXT_START % event.index,
    ThinkingStart: lambda event: _THINKING_START % event.index,
    ToolCallStart: lambda event: _CALL_START % (event.index, _encode(event.id), _encode(event.name)),
    BlockStart: lambda event: _BLOCK_START % (event.index, _flatten(event.raw)),
    ThinkingDelta: lambda event: _THINKING_DELTA % (event.index, _encode(event.text)),
    SignatureDelta: lambda event: _SIGNATURE_DELTA % (event.index, _encode(event.signature)),
    CitationDelta: lambda event: _CITATION_DELTA % (event.index, _flatten(event.raw)),
    CompactionDelta: lambda event: _COMPACTION_DELTA % (event.index, _encode(event.text)),
    BlockStop: lambda event: _BLOCK_STOP % event.index,
    MessageDelta: _encode_message_delta,
    MessageStop: lambda _: _MESSAGE_STOP,
}
"""Of the events that a reply has few of. `encode_events` encodes the others."""


def encode_events(events: Sequence[Event], request_id: str = "", client: Client = _NO_CLIENT) -> bytes:
    """Return the SSE frames of events.

    `request_id` is added to the data of `error` events; "": no id. They have what `client` is told about the error.
    """
    frames = []
    try:
        for event in events:
            if type(event) is TextDelta:
                frames.append(_TEXT_DELTA % (event.index, _encode(event.text)))
            elif type(event) is InputDelta:
                frames.append(_INPUT_DELTA % (event.index, _encode(event.json)))
            elif type(event) is ErrorEvent:
                frames.append(_ERROR % encode_error(find_told_error(event.error, client), request_id))
            else:
                frames.append(_ENCODERS[type(event)](event))
    except UnicodeEncodeError:  # a surrogate pair is divided between two fragments
        return encode_events([_replace_surrogates(event) for event in events], request_id, client)
    return b"".join(frames)


def _replace_surrogates(value: Any) -> Any:
    """Return an event, or a value in it, that UTF-8 can encode."""
    if isinstance(value, str):
        return replace_surrogates(value)
    if isinstance(value, dict):
        return {_replace_surrogates(name): _replace_surrogates(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_replace_surrogates(item) for item in value]
    if isinstance(value, Struct):
        changes = {name: _replace_surrogates(getattr(value, name)) for name in value.__struct_fields__}
        return msgspec.structs.replace(value, **changes)
    return value


def encode_message(message: MessagesResponse) -> bytes:
    return _encode(message)


def encode_error(error: ProxyError, request_id: str) -> bytes:
    """Return the JSON error body in Anthropic's format, which is also the data of an `error` event in a stream."""
    error_object: dict[str, Any] = {"type": error.error_type, "message": replace_surrogates(error.message)}
    if error.details is not None:
        error_object["details"] = error.details
    envelope: dict[str, Any] = {"type": "error", "error": error_object}
    if request_id:
        envelope["request_id"] = request_id
    return _encode(envelope)


def find_retry_after(error: ProxyError) -> int | None:
    """Return the value of the header `retry-after`. None: there is no such header."""
    seconds = error.retry_after
    return None if seconds is None else min(max(math.ceil(seconds), 1), MAX_RETRY_AFTER_SECONDS)


def error_headers(error: ProxyError, request_id: str) -> dict[str, str]:
    headers = json_headers(request_id)
    if (seconds := find_retry_after(error)) is not None:
        headers["retry-after"] = str(seconds)
    # Anthropic's SDK reads `x-should-retry`.
    if error.should_retry is not None:
        headers["x-should-retry"] = "true" if error.should_retry else "false"
    return headers


def encode_error_response(error: ProxyError, request_id: str) -> tuple[dict[str, str], bytes]:
    """Return headers and body of the response with an error. A provider's own body and headers are kept."""
    headers, body = error_headers(error, request_id), encode_error(error, request_id)
    if isinstance(error, UpstreamError):
        return {**headers, **error.headers}, error.body or body
    return headers, body


def start_recording(
    engine: Engine,
    request: ClientRequest,
    sink: ResponseSink,
    recorders: Sequence[Recorder],
    hide: Callable[[bytes], bytes] | None = None,
) -> None:
    """Pass the body of a client request to the recorders, and have them receive the response, beside those that do.

    `hide`: what they get in place of a piece of the response. None: the piece itself.
    """
    request_id = request.receipt.request_id
    present = [*recorders]
    record_bytes(present, engine.log, request_id, "client request", request.body)
    record = partial(record_bytes, present, engine.log, request_id, "client response")
    earlier = sink.record
    if hide is None and earlier is None:
        sink.record = record
        return

    def record_piece(data: bytes) -> None:
        if earlier is not None:
            earlier(data)
        record(data if hide is None else hide(data))

    sink.record = record_piece


def record_bytes(recorders: list[Recorder], log: EngineLog, request_id: str, point: RecordPoint, data: bytes) -> None:
    """Pass bytes to the recorders. One that raises an exception is removed: its failure must not affect the client."""
    if not data:
        return
    for recorder in [*recorders]:
        try:
            recorder.record(request_id, point, data)
        except Exception:  # noqa: BLE001  # a defect of a plugin
            recorders.remove(recorder)
            log.write_traceback(request_id)


def _flatten(raw: Raw) -> bytes:
    # Valid JSON has line ends only between tokens, so a space may replace them.
    return bytes(raw).replace(b"\n", b" ").replace(b"\r", b" ")


def record_client(receipt: Receipt, headers: Mapping[str, str]) -> None:
    receipt.user_agent = headers.get("user-agent", "")
    if session := headers.get(SESSION_HEADER):
        receipt.session = shorten_id(session)
    if agent := headers.get(AGENT_HEADER):
        receipt.agent = shorten_id(agent)
    receipt.project = read_project(headers)
    receipt.tool_times = read_tool_times(headers)


def record_failure(receipt: Receipt, error: ProxyError, proxy_keys: Iterable[str]) -> None:
    """Store an error in the receipt, with the status that the client gets, and the type and code of the error itself.

    `proxy_keys`, with which clients authenticate, are masked in its message.
    """
    redact_error(error, proxy_keys)
    told = find_told_error(error, receipt.client)
    receipt.outcome = NEGOTIATED if error.is_negotiated else "error"
    receipt.status = told.status
    receipt.error_type = error.error_type
    receipt.error_code = error.code
    receipt.error = error.stored_message
    receipt.remedy = error.end_for_administrators.removeprefix(REMEDY_LEAD)
    receipt.retry_after_seconds = None if told.should_retry is False else find_retry_after(told)
    receipt.upstream_excerpt = error.without_quotes(" ".join(getattr(error, "__notes__", ())))
