"""`RelayStream`: the response of a provider with the Messages API, forwarded to the client byte for byte.

Theory of operation. A relay shares plan, attempts, watchdog and receipt with a translated reply, but not the deltas:
a reply that is decoded and encoded again would lose signatures, and fields that the proxy does not know. So its bytes
pass unchanged, except for the model name. Beside them, the decoder reads what the proxy has to know: token usage and
stop reason for the receipt, errors, and the end. Most events contain none of these. The wire finds the others by a
search for bytes (`select_frames_to_inspect`), and `_inspect` decodes them. Only whole events are forwarded, so that an
`error` event of the proxy cannot begin within another event. What clients could not read of a stream that the decoder
understands is repaired (`StreamRepair`), as on every other wire.

A stream passes four states:

1. Until the first content, or 8 s of events without content, nothing was sent to the client. A failure is raised, and
   another target may be called.
2. Until the stop reason, a failure ends the stream with an `error` event (`ending`).
3. After the stop reason, the message is complete. A failure is dropped, because clients would drop the message with
   it, and a missing `message_stop` is added.
4. After the last event (`_decoder.finished`), further events are dropped, and line ends are awaited for a moment, so
   that the client gets the identical stream. `complete` is True when nothing is left to read.

A reply that is not streamed is read whole, and then forwarded.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, final

from msgspec import structs

from anthropic_proxy.engine.background import MAX_STEPS_ON_LOOP, PayerWork
from anthropic_proxy.engine.engine import Engine
from anthropic_proxy.engine.exchange.client_side import ClientRequest
from anthropic_proxy.engine.exchange.estimates import estimate_client_request_tokens
from anthropic_proxy.engine.exchange.inner_calls import InnerCalls
from anthropic_proxy.engine.exchange.upstream_stream import MAX_BODY_BYTES, TRAILING_USAGE_TIMEOUT_SECONDS, Reply
from anthropic_proxy.engine.exchange.usage_bounds import UsageBounds
from anthropic_proxy.engine.exchange.watchdog import FIRST_PING_SECONDS, Watchdog
from anthropic_proxy.engine.ids import new_id
from anthropic_proxy.engine.messages.deltas import CHARACTERS_PER_TOKEN, NO_USAGE, Delta, Stop, Usage, merge_latest
from anthropic_proxy.engine.messages.events import ErrorEvent, Event, MessageStop
from anthropic_proxy.engine.messages.models import MessagesRequest, Source
from anthropic_proxy.engine.messages.models.tools import find_tool_model, list_eager_tools, list_tool_names
from anthropic_proxy.engine.messages.tokens import EstimateCache, TokenScale
from anthropic_proxy.engine.passed_proxies import LOOP_HEADER, add_pass
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.providers.hosts import is_known_server
from anthropic_proxy.engine.providers.model_ids import is_id_of_model
from anthropic_proxy.engine.routing.targets import Target, always_thinks, list_unread_media
from anthropic_proxy.engine.slices import MAX_REPLY_BYTES_ON_LOOP
from anthropic_proxy.engine.wires.anthropic.api_fields import keep_api_fields
from anthropic_proxy.engine.wires.anthropic.betas import BETA_HEADER, EAGER_BETA
from anthropic_proxy.engine.wires.anthropic.reply_forms import (
    convert_events_to_message,
    convert_message_to_events,
    is_valid_message,
    repair_message,
)
from anthropic_proxy.engine.wires.anthropic.stream import (
    EVENT_STREAM_TYPE,
    EventStreamReader,
    RelayInspector,
    remove_events_after_end,
    remove_message_start,
    replace_reply_model,
    select_frames_to_inspect,
    split_after_message_end,
)
from anthropic_proxy.engine.wires.calls import ModelLimits, RelayCall
from anthropic_proxy.engine.wires.dialect import BaseDialect
from anthropic_proxy.engine.wires.failures.quoted_prompts import (
    MAY_STATE_ERROR,
    SMALL_REQUEST_BYTES,
    count_bytes_on_loop,
)
from anthropic_proxy.engine.wires.framing import EVENT_BORDER, MAX_FRAME_BYTES, EventSplitter, SSEReader
from anthropic_proxy.engine.wires.json_repair import replace_non_numbers
from anthropic_proxy.engine.wires.purposes import OWN_PURPOSES
from anthropic_proxy.engine.wires.upstream_http import ConvertedResponse, UpstreamResponse, read_body, require_few_parts
from anthropic_proxy.errors import UpstreamError, UpstreamProtocolError
from anthropic_proxy.secrets import redact_secret_bytes

if TYPE_CHECKING:
    from anthropic_proxy.engine.wires.anthropic.stream_repair import StreamRepair

_Result = TypeVar("_Result")
FORWARDED_HEADERS = frozenset(("retry-after", "retry-after-ms", "x-should-retry"))
"""Names of provider headers that the client receives, in lower case."""
FORWARDED_PREFIX = "anthropic-"
"""Prefix of further provider headers that the client receives: rate limits and the organization."""
MAX_TRAILING_BYTES = 64 * 1024
"""Maximum number of bytes read after the last event of a message. Further bytes are not forwarded."""
TRAILING_BYTES_TIMEOUT_SECONDS = 0.25
"""Maximum seconds to wait for bytes after the last event, such as line ends, so that the client gets the identical
stream."""


@final
class RelayStream(Reply):
    """The bytes of one reply.

    `list_secrets`: returns the keys of the call, which are masked in an error that quotes them. `inner_calls`: None if
    the request permits no calls of further models. `is_forwarded`: returns False for an error event of which the client
    is told in another way (`client_errors.py`). `request_bytes`: see `UpstreamStream`.
    """

    has_one_call = True
    _bytes_before_content = MAX_REPLY_BYTES_ON_LOOP
    """Maximum size of an error that is decoded on the event loop before the first content."""
    usage = NO_USAGE
    stop_reason: str | None = None
    failure: UpstreamError | None = None
    """Error of the provider's `error` event, or of an early end of its stream. None: no failure."""
    ending: Event | None = None
    """Event for the client in place of the missing last event of the provider. None: nothing is missing."""
    complete = False
    """True if nothing is left to read except the bytes that `wait_for_content` has received."""
    _first: bytes | None = None
    _behind = b""
    """Bytes received after the last event, which are forwarded with the last bytes of the response."""
    _begun = _has_content = False
    _content_bytes = 0
    """Approximate length of the received text, thinking and tool arguments."""
    _end_until = 0.0
    """Loop time until which the last event is awaited. 0: the wait has not started."""
    _bytes_at_end = 0
    """Value of `_content_bytes` when this wait began."""
    _drain_until = 0.0
    """Loop time until which bytes after the last event are awaited. 0: the wait has not started."""

    def __init__(
        self,
        call: RelayCall[Any],
        response: UpstreamResponse,
        watchdog: Watchdog,
        background: PayerWork,
        *,
        bounds: UsageBounds,
        list_secrets: Callable[[], Sequence[str]] = tuple,
        inner_calls: InnerCalls | None = None,
        is_forwarded: Callable[[UpstreamError], bool] = lambda error: True,
        request_bytes: int = 0,
        new_id: Callable[[str], str] = new_id,
    ) -> None:
        self.headers = forwarded_headers(response.headers)
        """Response headers of the provider that the client receives."""
        self.has_edited_messages = call.has_edited_messages
        self._call = call
        self._new_id = new_id
        self._requested_model = call.requested_model if call.requested_model != call.model else None
        is_aws = call.streams_upstream and response.headers.get("content-type", "").startswith(EVENT_STREAM_TYPE)
        self._response = ConvertedResponse(response, EventStreamReader().feed) if is_aws else response
        self._watchdog = watchdog
        self._background = background
        self._bounds = bounds
        self._list_secrets = list_secrets
        self._inner_calls = inner_calls
        self._is_forwarded = is_forwarded
        if request_bytes > SMALL_REQUEST_BYTES:
            self._bytes_before_content = count_bytes_on_loop(request_bytes)
        self._decoder = RelayInspector(call)
        self._streams = call.streams_upstream
        self._events = EventSplitter()
        self._delta_frame_bytes = len(_EVENT_LINE) + len(_DELTA_FRAME)

    @cached_property
    def _repair(self) -> "StreamRepair":
        from anthropic_proxy.engine.wires.anthropic.stream_repair import StreamRepair  # noqa: PLC0415  # relays only

        call = self._call
        return StreamRepair(
            call.model,
            self._new_id,
            self._bounds.estimated_input or 0,
            self._estimate_output,
            call.build_call_error,
            eager_tools=call.eager_tools,
        )

    async def wait_for_content(self) -> None:
        """Wait for the first content of a stream, or for the complete body. Raises `UpstreamError`.

        Events before the content are held, so that another provider can be called if this one fails: overloaded servers
        send an error after `message_start`. `FIRST_PING_SECONDS` after the first event, the client gets them without
        content.
        """
        if not self._streams:
            body = await read_body(self._response, MAX_BODY_BYTES, self._watchdog.note_content)
            body, deltas = await self._run(self._read_message, body)
            self._remember(deltas)
            if self._inner_calls is not None:
                await self._run(self._inner_calls.feed_body, body)
            self._content_bytes = len(body)
            self._first = body
            self.complete = True
        else:
            held_until: float | None = None
            chunks = [await self._next()]
            if (begun := chunks[0] + self._events.peek_pending()).lstrip()[:1] in (b"{", b"["):
                body = begun + await read_body(self._response, MAX_BODY_BYTES, self._watchdog.note_content)
                body = await self._run(replace_non_numbers, body)
                self._remember(await self._run(self._decoder.decode_body, body))  # raises the error in the body
                if self._inner_calls is not None:
                    await self._run(self._inner_calls.feed_body, body)
                chunks = [await self._run(lambda body: convert_message_to_events(body, self._repair), body)]
                if self._repair.error is not None:
                    raise self._repair.error
                self.complete = True
            size = len(chunks[0])
            while not (
                self.complete or self.failure is not None or self.stop_reason is not None or _CONTENT in chunks[-1]
            ):
                if size > MAX_FRAME_BYTES:
                    message = f"The provider sent {size:,} bytes without an event."
                    raise UpstreamProtocolError(message, retryable=False)
                if held_until is None and self._begun:
                    held_until = self._watchdog.now() + FIRST_PING_SECONDS
                try:
                    async with asyncio.timeout_at(held_until):
                        chunks.append(await self._next())
                except TimeoutError:
                    break
                size += len(chunks[-1])
            first = await self._with_end(b"".join(chunks))
            if self.failure is not None and (self.ending is not None or _CONTENT not in first):
                self.failure.headers = self.headers
                raise self.failure
            self._first = first
        if (model := self._requested_model) is not None:
            self._first = await self._run(lambda reply: replace_reply_model(reply, model), self._first)

    def _read_message(self, body: bytes) -> tuple[bytes, list[Delta]]:
        """Return the message that the client gets for a reply that is not streamed, and what the proxy has to know."""
        body = replace_non_numbers(body)
        if body[:1] != b"{":
            body = convert_events_to_message(body, self._repair)
        elif not is_valid_message(body):
            body = repair_message(body, self._repair)
        return body, self._decoder.decode_body(body)

    async def _run(self, function: Callable[[bytes], _Result], body: bytes) -> _Result:
        is_large = len(body) > self._bytes_before_content and MAY_STATE_ERROR.search(body) is not None
        if len(body) > MAX_REPLY_BYTES_ON_LOOP:
            is_large = True
            require_few_parts(body)
        return await self._background.run_in_thread_if_large(is_large, function, body)

    def omit_message_start(self) -> None:
        """Remove the event `message_start`, because the client has already received one."""
        if self._first is not None:
            self._first = remove_message_start(self._first)

    async def read(self) -> bytes | None:
        """Return the next bytes for the client. None: the response is complete."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        while not self.complete:
            if data := await self._next():
                return await self._with_end(data) if self._decoder.finished else data
        return None

    @property
    def unread_usage(self) -> Usage:
        """Token usage of a reply that has failed before its first content."""
        return self.usage if self._inner_calls is None else self._inner_calls.complete(self.usage)

    @property
    def usage_so_far(self) -> Usage:
        """Token usage so far. Of an incomplete stream, the output is at least an estimate from the received content."""
        if self.stop_reason is not None and self.usage.input_tokens is None:
            self.usage = structs.replace(self.usage, input_tokens=self._bounds.estimated_input)
        usage, is_whole = self.usage, self.stop_reason is not None or not self._streams
        if not is_whole or usage.output_tokens is None or self._bounds.estimates_output:
            usage = structs.replace(usage, output_tokens=max(usage.output_tokens or 0, self._estimate_output()))
        if self._inner_calls is not None:
            missing_input = None if is_whole else self._bounds.estimated_input or 0
            usage = self._inner_calls.complete(usage, missing_input)
        return usage

    def _estimate_output(self, further_events: bytes = b"") -> int:
        """Return the output tokens of the received content. `further_events`: those that are not counted yet."""
        further = [len(event) for event in further_events.split(b"\n\n") if _BLOCK_DELTA in event]
        size = self._content_bytes + sum(further) - len(further) * self._delta_frame_bytes
        return -(-max(size, 0) // CHARACTERS_PER_TOKEN)

    def end_early(self, stop_reason: str) -> Usage:
        """End the reply before the provider does. Return its token usage so far."""
        self.usage = self.usage_so_far
        self.stop_reason, self.ending, self.failure, self.complete = stop_reason, None, None, True
        return self.usage

    async def close(self) -> None:
        await self._response.close(wait_for_end=self._decoder.finished)

    async def _next(self) -> bytes:
        try:
            if self._decoder.finished:
                chunk = await self._read_behind_end()
            elif self._repair.stated_reason is not None:
                chunk = await self._read_last_event()
            else:
                chunk = await self._response.read()
                self._watchdog.note_bytes()
            if chunk:
                if self._decoder.finished:
                    self._behind += chunk
                    data = b""
                elif not self._events.pending_bytes and chunk[-2:] == b"\n\n":
                    data = chunk
                else:
                    data = self._events.feed(chunk)
                data = self._repair.feed(data)
                if self._inner_calls is not None:
                    self._inner_calls.feed(data)
                relevant = select_frames_to_inspect(data)
                if relevant:
                    is_small = self._has_content or len(relevant) <= self._bytes_before_content
                    if is_small or MAY_STATE_ERROR.search(relevant) is None:
                        invalid = self._inspect(relevant)
                    else:
                        invalid = await self._background.run_in_thread(self._inspect, relevant)
                    if invalid is not None:
                        self._end_with_error(invalid[1])
                        data = data[: self._find_frame(invalid[0], data)]
                    if self._decoder.finished and self.failure is None:
                        data, behind = split_after_message_end(data)
                        self._behind = behind + self._events.pop_pending()
                if events := data.count(_BLOCK_DELTA):
                    self._content_bytes += len(data) - events * self._delta_frame_bytes
                    if relevant and _BLOCK_DELTA not in relevant:
                        self._content_bytes -= len(relevant)
                if not self._has_content and _CONTENT in data:
                    self._has_content = True
                    self._watchdog.note_content()
            elif self._has_content or self._events.pending_bytes <= self._bytes_before_content:
                data = self._finish()
            else:
                data = await self._background.run_in_thread(self._finish)
        except UpstreamError as error:
            data = self._read_along(self._repair.finish())
            self._end_with_error(error)
            return data
        if self.failure is not None:
            for secret in self._list_secrets():  # an error may quote the key
                data = redact_secret_bytes(data, secret)
        return data

    def _read_along(self, data: bytes) -> bytes:
        """Inspect the last events, and return those that the client gets."""
        relevant = select_frames_to_inspect(data)
        if relevant and (invalid := self._inspect(relevant)) is not None:
            self._end_with_error(invalid[1])
            return data[: self._find_frame(invalid[0], data)]
        return data

    async def _with_end(self, data: bytes) -> bytes:
        """Return `data` with the remaining bytes of the response, if all are received: one packet instead of two."""
        while self._decoder.finished and not self.complete and self._response.body_received:
            data += await self._next()
        return data

    def _end_with_error(self, error: UpstreamError) -> None:
        self.complete = True
        if self.stop_reason is not None:  # the message is complete; an error would make the client drop it
            self.ending = MessageStop()
        else:
            self.failure = error
            self.ending = ErrorEvent(error)

    async def _read_last_event(self) -> bytes:
        """Return the next bytes. The time for the last event begins again with content, but not with a ping."""
        if not self._end_until or self._content_bytes != self._bytes_at_end:
            self._end_until = self._watchdog.now() + TRAILING_USAGE_TIMEOUT_SECONDS
            self._bytes_at_end = self._content_bytes
        try:
            async with asyncio.timeout_at(self._end_until):
                return await self._response.read()
        except TimeoutError:
            raise UpstreamProtocolError("the reply had no final event", code="incomplete-reply") from None

    async def _read_behind_end(self) -> bytes:
        now = self._watchdog.now()
        self._drain_until = self._drain_until or now + TRAILING_BYTES_TIMEOUT_SECONDS
        if now >= self._drain_until or len(self._behind) > MAX_TRAILING_BYTES:
            return b""
        try:
            if self._response.body_received:
                return await self._response.read()
            async with asyncio.timeout_at(self._drain_until):
                return await self._response.read()
        except (TimeoutError, UpstreamError):
            return b""

    def _finish(self) -> bytes:
        self.complete = True
        if self._decoder.finished:
            return remove_events_after_end(self._behind + self._events.pop_pending())
        before = self.stop_reason
        pending = self._repair.feed(self._events.pop_pending()) + self._repair.finish()
        relevant = select_frames_to_inspect(pending)
        if relevant and (invalid := self._inspect(relevant)) is not None:
            frame, error = invalid
            is_torn = isinstance(error, UpstreamProtocolError) and error is not self._repair.error
            if self.stop_reason is not None or not is_torn:
                self._end_with_error(error)
                return pending[: self._find_frame(frame, pending)]
        try:
            self._decoder.decode_end()
        except UpstreamError as error:
            self._end_with_error(error)
            if self.stop_reason == before:
                return b""
            return pending if pending.endswith(b"\n\n") else pending + b"\n\n"
        return pending if self.failure is None else pending + b"\n\n"  # clients ignore an event without its end

    def _inspect(self, relevant: bytes) -> tuple[bytes, UpstreamError] | None:
        """Decode `relevant`, the frames that may contain token usage, a stop reason or an error.

        Return the first frame that is not forwarded, with its error: the client is told about it in another way, cannot
        decode it, or would ignore it, because its event is not named `error`, or it ends a message without a stop
        reason, or it follows the stop reason, so that the client would drop the complete message.
        """
        if not self._begun:
            self._begun = True
            if b"event:" not in relevant:
                self._delta_frame_bytes = len(_DELTA_FRAME)
        for event in EVENT_BORDER.split(relevant) if _ERROR_NAME.search(relevant) else (relevant,):
            is_error = _ERROR_NAME.search(event) is not None
            reader = SSEReader()
            for frame in (*reader.feed(event), *reader.finish()):
                if is_error:
                    if self._repair.error is not None:
                        return frame, self._repair.error
                    error, is_readable = self._decoder.decode_error_event(frame)
                    if self.stop_reason is not None or not is_readable or not self._is_forwarded(error):
                        return frame, error
                    self.failure = self.failure or error
                    continue
                try:
                    self._remember(self._decoder.decode_frame(frame))
                except UpstreamError as error:
                    return frame, error
        return None

    def _find_frame(self, frame: bytes, data: bytes) -> int:
        start = 0
        for border in EVENT_BORDER.finditer(data):
            if frame in [*SSEReader().feed(data[start : border.end()])]:
                break
            start = border.end()
        return start

    def _remember(self, deltas: list[Delta]) -> None:
        for delta in deltas:
            if isinstance(delta, Usage):
                self.usage = merge_latest(self.usage, self._bounds.check(delta))
            elif isinstance(delta, Stop):
                self.stop_reason = delta.reason


_CONTENT = b"content_block_start"
_BLOCK_DELTA = b'"content_block_delta"'
_EVENT_LINE = b"event: content_block_delta\n"
_DELTA_FRAME = b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":""}}\n\n'
"""SSE frame with an empty text delta. Its length is subtracted to estimate the text in an incomplete reply."""
_ERROR_NAME = compile_later(rb"(?:^|[\r\n])event: ?error[\r\n]")
_DELAYS = ("retry-after", "retry-after-ms")
_DELAY = compile_anchored(r" *(?:\d+(?:\.\d+)?|[A-Z][a-z]{2,}, .+) *")
"""Pattern of a delay, a number or a date. Others, such as `nan` or `-5`, would be an error in a client."""
_NAME = compile_anchored(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = compile_anchored(r"[\t\x20-\x7e\x80-\xff]*")


def forwarded_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the provider's headers for the client. `request-id` becomes `x-upstream-request-id`."""
    passed = {
        lower: _raw(value)
        for name, value in headers.items()
        if (lower := name.lower()).startswith(FORWARDED_PREFIX)
        or (lower in FORWARDED_HEADERS and (lower not in _DELAYS or _DELAY.fullmatch(value)))
    }
    if upstream_id := headers.get("request-id"):
        passed["x-upstream-request-id"] = _raw(upstream_id)
    return {name: value for name, value in passed.items() if _NAME.fullmatch(name) and _VALUE.fullmatch(value)}


def _raw(value: str) -> str:
    return value if value.isascii() else value.encode("utf-8", "surrogateescape").decode("latin-1")


_API_PARAMETERS = frozenset(("after_id", "before_id", "beta", "limit"))
"""Parameters of the query in the Messages API and its list of models (SDK `anthropic` 2.10)."""


def expect_inner_calls(incoming: ClientRequest, request: MessagesRequest, model: str) -> InnerCalls | None:
    """Return None if the request permits no calls of further models. `model`: the called one."""
    advisor = find_tool_model(request.tools) if request.tools else ""
    if not advisor and incoming.named_models:  # of a tool that a later message adds
        advisor = next((named.model for named in incoming.named_models if not named.is_fallback), "")
    return InnerCalls(model, advisor) if advisor or request.permits_other_calls else None


async def restrict_relayed_request(engine: Engine, incoming: ClientRequest) -> None:
    """Leave only the fields and parameters of the Messages API in the request of a restricted client.

    Raises `InvalidRequest` for a body that is not JSON.
    """
    parameters = incoming.query.split("&") if incoming.query else ()
    incoming.query = "&".join(each for each in parameters if each.partition("=")[0] in _API_PARAMETERS)
    if incoming.body:
        read = await incoming.background.run_in_thread_if_large(incoming.is_large, keep_api_fields, incoming.body)
        incoming.body, incoming.named_models, incoming.notes = read.body, read.named_models, read.notes


def build_relay_call(
    incoming: ClientRequest,
    request: MessagesRequest,
    target: Target,
    refused_thinking: Collection[bytes] = frozenset(),
    *,
    files: Mapping[tuple[str, str], Source | None] = {},
    descriptions: Mapping[str, str] = {},
    earlier_adaptations: Sequence[str] = (),
    adaptations_left: int = 0,
    token_scale: TokenScale = TokenScale(),  # noqa: B008  # frozen
) -> RelayCall[BaseDialect]:
    """Return the input of a wire that forwards the client's body, headers, path and query without translation."""
    facts = target.capabilities
    known = target.provider.find_known_name(target.model)
    is_named_by_client = target.model_setting is None and not incoming.receipt.session_model
    is_replaced = not is_named_by_client and not is_id_of_model(request.model.partition("[")[0], known)
    return RelayCall(
        model=target.model,
        requested_model=request.model,
        dialect=target.dialect,
        streams_upstream=request.stream,
        body=incoming.body,
        headers=_select_headers(incoming.headers, target),
        names_headers=bool(incoming.receipt.client.key_id),
        path=incoming.receipt.path,
        query=incoming.query,
        notes=incoming.notes,
        is_renamed=request.model != target.model,
        limits=_find_limits(target, request.model) if is_replaced or incoming.purpose in OWN_PURPOSES else None,
        has_proxy_signatures=request.has_proxy_signatures,
        has_invalid_calls=request.has_invalid_calls,
        own_tool_names=list_tool_names(request.tools) if request.has_invalid_calls else frozenset(),
        eager_tools=_list_eager_tools(incoming, request) if request.stream and request.tools else frozenset(),
        refused_thinking=refused_thinking,
        files=files,
        descriptions=descriptions,
        earlier_adaptations=earlier_adaptations,
        adaptations_left=adaptations_left,
        provider_prefix=target.provider.prefix,
        max_schema_steps=MAX_STEPS_ON_LOOP,
        context_window=facts.context_window if facts.known else None,
        max_input_tokens=facts.max_input if facts.known else None,
        estimate_input_tokens=lambda: estimate_client_request_tokens(incoming, EstimateCache(), token_scale, request),
    )


def _list_eager_tools(incoming: ClientRequest, request: MessagesRequest) -> frozenset[str]:
    """Return the names of the tools whose arguments the client wants unchecked."""
    return list_eager_tools(request.tools, by_default=EAGER_BETA in incoming.headers.get(BETA_HEADER, ""))


def _find_limits(target: Target, asked_model: str) -> ModelLimits:
    facts = target.capabilities
    limits = ModelLimits(facts.effective_max_output, facts.efforts) if facts.features_known else ModelLimits()
    return structs.replace(
        limits,
        unread=frozenset(list_unread_media(target)),
        thinks_unasked=always_thinks(target, asked_model.partition("[")[0]),
    )


def _select_headers(headers: Mapping[str, str], target: Target) -> Mapping[str, str]:
    """Return the client's headers, with the passed proxies only for a server that may be one."""
    if not is_known_server(target.provider, target.base_url):
        return add_pass(headers)
    return (
        {name: value for name, value in headers.items() if name != LOOP_HEADER} if LOOP_HEADER in headers else headers
    )
