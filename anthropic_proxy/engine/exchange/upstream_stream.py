"""`DeltaStream`: an open reply, read as lists of deltas; and `UpstreamStream`, the one of a single upstream response.

Deltas are the fragments of a reply: text, thinking, tool calls, usage, the stop reason. After the stop reason, the
reply is complete: the stream waits only briefly for token usage, and later failures are ignored. Otherwise a failure is
raised after the client has received the earlier deltas.
"""

import asyncio
import operator
from abc import ABC, abstractmethod
from codecs import BOM_UTF8
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar, TypeVarTuple

from msgspec import structs

from anthropic_proxy.engine.background import PayerWork
from anthropic_proxy.engine.exchange.final_calls import Restore
from anthropic_proxy.engine.exchange.usage_bounds import UsageBounds
from anthropic_proxy.engine.exchange.watchdog import Watchdog
from anthropic_proxy.engine.messages.deltas import (
    Block,
    Citation,
    Delta,
    Stop,
    Text,
    TextEnd,
    Thinking,
    ToolArgs,
    ToolCall,
    ToolEnd,
    TrailingThinkingBuffer,
    Usage,
)
from anthropic_proxy.engine.messages.fidelity import FidelityNote, FidelityReport
from anthropic_proxy.engine.messages.loaded_tools import CALLER, LoadedToolCalls
from anthropic_proxy.engine.messages.models import Tool
from anthropic_proxy.engine.messages.reply_filter import ReplyFilter
from anthropic_proxy.engine.messages.writer import MessageWriter
from anthropic_proxy.engine.patterns import compile_anchored
from anthropic_proxy.engine.slices import MAX_REPLY_BYTES_ON_LOOP
from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.contract import Wire
from anthropic_proxy.engine.wires.dialect import BaseDialect
from anthropic_proxy.engine.wires.failures.quoted_prompts import (
    MAY_STATE_ERROR,
    SMALL_REQUEST_BYTES,
    count_bytes_on_loop,
)
from anthropic_proxy.engine.wires.foreign_lines import MAX_KEPT_BYTES
from anthropic_proxy.engine.wires.framing import FRAME_READERS, FrameReader
from anthropic_proxy.engine.wires.reply_ends import NORMAL_ENDS
from anthropic_proxy.engine.wires.upstream_http import UpstreamResponse, build_size_error, read_body, require_few_parts
from anthropic_proxy.errors import UnreadableReply, UpstreamError, UpstreamProtocolError

_Arguments = TypeVarTuple("_Arguments")
_Result = TypeVar("_Result")
MAX_STREAM_BYTES = 128 * 1024 * 1024
"""Maximum bytes of a translated stream, of which some content is kept until its end. Long replies have some tens of
megabytes."""
MAX_DELTAS_ON_LOOP = 2_000
"""Maximum number of deltas that one read returns, so that their events block the event loop for about 10 ms."""
MAX_BODY_BYTES = 64 * 1024 * 1024
"""Maximum size of an unstreamed reply or an error body. A larger reply fails with `UpstreamProtocolError`; a larger
error body is ignored."""

TRAILING_USAGE_TIMEOUT_SECONDS = 2.0
"""Maximum wait for token usage or the end of the stream after the stop reason. The reply itself is complete by then."""
_EARLY_REASON_SECONDS = 120.0
"""Maximum silence behind a normal reason before the first content, after which the reply is empty. Models that think
send nothing for a minute (CLIProxyAPI issue 5651)."""
_REPEATED_REASON_SECONDS = 10.0
"""The same behind a reason that has content beside it or behind it: some servers state one in each frame (one-hub issue
402, CLIProxyAPI issue 5651), so that content may follow."""

_is_caller = partial(operator.is_, CALLER)
_BODY = compile_anchored(rb"\s*+(?:\{|\[\s*+\{|\Z)")
"""Beginning of a complete reply. Another one is that of a stream or of a text."""
_UNDECIDED = (b"", b"\xef", b"\xef\xbb")
"""Beginnings of a response, without white space, that do not show yet whether it is a stream."""
_FIRST_LINE = compile_anchored(rb"[^\r\n]*+(?=[\r\n])")
_MAX_BEGINNING_BYTES = 1_000
"""Size of a first line that is one of NDJSON: that of JSON with one value a line is shorter."""
_WITHOUT_ANSWER = {Thinking, Usage, Stop}
_CONTENT = {Text, Thinking, ToolCall, Block}


class Reply(ABC):
    """A reply whose first content has arrived. The defaults fit a reply that may have several calls."""

    has_one_call = False
    """True if all of it comes from one call with the client request. Then its input count corrects estimates, and its
    cached tokens are those of one prompt."""
    has_unopened_reasoning: bool | None = None
    """Of a closed reply, see `Decoder`."""

    @abstractmethod
    async def close(self) -> None:
        """End the open upstream call, even if its response is incomplete."""


class DeltaStream(Reply):
    """A reply that is decoded: lists of deltas until its end, from one or several upstream responses."""

    default_signature: str
    """Value of the field `signature` for thinking blocks that the provider did not sign."""
    may_send_again = True
    """True if another call with the client request may follow, so that its content is still needed."""
    restore: Restore | None = None
    """Restores the texts of the request in the arguments of calls, when these are final. None: none was redacted."""

    @property
    def complete(self) -> bool:
        """True if the reply was read to its end. False: the next `read` decides, which may need another call."""
        return False

    @abstractmethod
    async def read(self) -> list[Delta] | None:
        """Return the next deltas. None: the end of the reply. Raises `UpstreamError`."""

    @abstractmethod
    def flush_pending(self) -> list[Delta]:
        """Return the buffered deltas when the reply ends early. A second call returns an empty list."""

    def release_request(self) -> None:
        """Free the content of the request. Called once `may_send_again` is False."""


class UpstreamStream(DeltaStream):
    """The reply in one response of a provider.

    A chunk of the network passes the reader (frames), the decoder (deltas) and up to three filters: late thinking,
    calls of tools that the proxy loads, and what the client asks for (`ReplyFilter`). A complete body, which a
    provider may also send in place of a stream, passes the decoder at once.

    `_stopped` is True after the delta `Stop`: the client has all of the reply, and only token usage is awaited.
    `_ended` is True when nothing more is read: after the provider's mark of the end, after the last byte, after a
    failure, or at a stop sequence. A failure before `Stop` is kept in `_failure` until the client has received the
    deltas before it. After a cut at the client's output limit, token usage is awaited as after `Stop`.
    """

    has_one_call = True
    may_send_again = False
    _body = b""
    """First bytes of a response that is not streamed, although a stream was requested."""
    _loaded_calls: LoadedToolCalls | None = None
    """Converter of calls of `CallLoadedTool`. None: the request does not offer it."""
    begins_with_thinking = False
    """True if the first deltas are only thinking. Then the call may still be repeated."""
    has_thinking: bool | None = None
    """True if the first deltas contain thinking. None: `wait_for_content` has found no content so far."""
    unread_usage = Usage()
    """Token usage of a response that has failed, or was cancelled, before the client could get content of it."""
    _failure: UpstreamError | None = None
    _broken: UpstreamError | None = None
    """Error of the connection. It is raised only if the response is incomplete."""
    _stopped = False
    _ended = False
    _is_left_to_thread = False
    """True if the reply was cancelled while a thread decoded it. The thread continues, and uses the decoder."""
    _bytes_left = MAX_STREAM_BYTES
    _check_framing = True
    """True until the first bytes show whether the response is streamed."""
    _bytes_of_error = 0
    _bytes_unless_error = 0
    """Maximum size of a frame or body that is decoded on the event loop if it states no error. 0: since the first
    content, or beside a small request, `bytes_on_loop` of the decoder alone says so."""
    _early_stop: Delta | None = None
    """A normal end that counts once the response has ended (`_postpones_end`)."""
    _drain_until = 0.0
    """Time on the loop clock until which token usage is awaited after `Stop`. 0: the wait has not started."""
    _drain_seconds = 0.0
    """Maximum wait for the end of the response. 0: there was no `Stop`."""

    def __init__(
        self,
        wire: Wire[BaseDialect, TranslatedCall[BaseDialect]],
        call: TranslatedCall[BaseDialect],
        response: UpstreamResponse,
        watchdog: Watchdog,
        background: PayerWork,
        *,
        bounds: UsageBounds,
        report: FidelityReport,
        reply_filter: ReplyFilter | None,
        deferred_tools: Sequence[Tool],
        request_bytes: int,
    ) -> None:
        """`report`: receives the notes of the decoder at the end. `reply_filter`: filter of the continued stream.
        `deferred_tools`: tools of the client that the proxy's tool search may find. `request_bytes`: size of the
        client's request, with which an error before the first content is compared.
        """
        self.call = call
        self._response = response
        self._watchdog = watchdog
        self._background = background
        self._bounds = bounds
        self._report = report
        decoder = self._decoder = wire.new_decoder(call)
        self.default_signature = decoder.default_signature
        self._late_thinking = TrailingThinkingBuffer(not call.request.asks_for_thinking)
        self._framing = wire.framing
        self._reader = self._open_reader() if call.streams_upstream else None
        """Reader that divides a streamed response into frames (events). None: the response is not streamed."""
        self.reply_filter = reply_filter
        """None: the client wants nothing of the reply that the provider does not do."""
        request = call.request
        if reply_filter is None and (
            request.stop_sequences
            or request.reply_limit is not None
            or request.sources is not None
            or request.messages[-1].role == "assistant"
        ):
            self.reply_filter = ReplyFilter(
                request.stop_sequences, request.reply_limit, request.sources, request.prefill
            )
        if request.tools and any(map(_is_caller, request.tools)):
            callable_tools = [*request.loaded_tools.values(), deferred_tools]
            self._loaded_calls = LoadedToolCalls({tool.name for tools in callable_tools for tool in tools})
        if request_bytes > SMALL_REQUEST_BYTES and (size := count_bytes_on_loop(request_bytes)) < decoder.bytes_on_loop:
            self._bytes_unless_error = decoder.bytes_on_loop
            decoder.bytes_on_loop = self._bytes_of_error = size
        self._waiting: deque[Delta] = deque()
        """Deltas that the next `read` returns: the first content, or the rest of many."""

    @property
    def complete(self) -> bool:
        return self._ended and not self._waiting and self._failure is None

    def release_request(self) -> None:
        self.call.request.release_content()

    @property
    def continuation(self) -> str | None:
        """Token with which another call continues a split reply. "": complete. None: never split."""
        return self._decoder.continuation_token

    async def wait_for_content(self) -> None:
        """Wait for the first content, which the next `read` returns. Raises `UpstreamError`."""
        first: list[Delta] = []
        has_content = False
        try:
            while not has_content and (deltas := await self.read()) is not None:
                first += deltas
                # of a failed reply that is not streamed, the client gets nothing, so the call may be retried
                has_content = any(map(_has_content, deltas)) and not (self._reader is None and self._failure)
        except BaseException:
            with suppress(UpstreamError):
                first += self.flush_pending()
            self.unread_usage = _count_unread(first)
            raise
        self._watchdog.note_content()
        if self._bytes_unless_error:
            if self._decoder.bytes_on_loop == self._bytes_of_error:
                self._decoder.bytes_on_loop = self._bytes_unless_error
            self._bytes_unless_error = 0
        self._waiting.extendleft(reversed(first))
        kinds = {*map(type, first)}
        self.has_thinking = Thinking in kinds
        self.begins_with_thinking = kinds <= _WITHOUT_ANSWER

    async def read(self) -> list[Delta] | None:
        # in one function, without helpers for its steps, because every chunk of a stream passes here
        if self._waiting:
            if len(self._waiting) > MAX_DELTAS_ON_LOOP:
                await asyncio.sleep(0)  # lets other tasks run between the deltas of one large frame
                return [self._waiting.popleft() for _ in range(MAX_DELTAS_ON_LOOP)]
            waiting = list(self._waiting)
            self._waiting.clear()
            return waiting
        received: list[Delta] = []
        deltas: list[Delta]
        while not self._ended:
            is_large = False
            if self._reader is None:
                deltas = []
                try:
                    body = self._body + await read_body(self._response, MAX_BODY_BYTES, self._watchdog.note_content)
                    if len(body) <= self._decoder.bytes_on_loop or self._states_no_error(body):
                        self._decode_complete(body, deltas)
                    else:
                        is_large = True
                        await self._decode_in_thread(self._decode_complete, body, deltas)
                except UpstreamError as error:
                    self._fail(error, deltas)
                if Thinking in map(type, deltas):
                    deltas = self._late_thinking.feed(deltas)
                    if Stop in map(type, deltas):
                        self._postpones_end(deltas)
            else:
                # a chunk
                try:
                    if self._drain_seconds:
                        chunk = await self._read_after_stop()
                    else:
                        chunk = await self._response.read()
                    self._watchdog.note_bytes()
                    self._bytes_left -= len(chunk)
                    if self._bytes_left < 0:
                        raise build_size_error(MAX_STREAM_BYTES)
                except UpstreamError as error:
                    self._broken = error
                    chunk = b""
                if self._check_framing:
                    self._body = (self._body + chunk).lstrip().removeprefix(BOM_UTF8).lstrip()
                    self._check_framing = self._body in _UNDECIDED
                    if self._body[:1] in (b"{", b"["):
                        is_stream = self._framing == "ndjson" and _is_ndjson(self._body)
                        if is_stream is False:  # the server ignored `stream`
                            self._reader = None
                            continue
                        self._check_framing = is_stream is None
                    if not self._check_framing:
                        self._body = b""
                # its frames and their deltas
                deltas = []
                decoder = self._decoder
                try:
                    for frame in self._reader.feed(chunk) if chunk else self._reader.finish():
                        if len(frame) <= decoder.bytes_on_loop or self._states_no_error(frame):
                            deltas += decoder.decode_frame(frame)
                        else:
                            is_large = True
                            deltas += await self._decode_in_thread(decoder.decode_frame, frame)
                        if decoder.finished:
                            break
                    if not chunk or decoder.finished:
                        self._ended = True
                        if decoder.bytes_on_loop >= MAX_KEPT_BYTES:
                            deltas += decoder.decode_kept()
                            deltas += decoder.decode_end()
                        else:
                            deltas += await self._run_in_thread(decoder.decode_kept)
                            deltas += await self._run_in_thread(decoder.decode_end)
                        if self._early_stop is not None:
                            if self._broken is not None and not self._late_thinking.is_alone:
                                raise self._broken
                            deltas += (*self._late_thinking.take_text(), self._early_stop)
                except UpstreamError as error:
                    self._fail(error, deltas)  # raised after the client has received the earlier deltas
                deltas = self._late_thinking.feed(deltas)
                if Stop in map(type, deltas):
                    if self.has_thinking is False or not self._postpones_end(deltas):
                        self._stopped = True
                        self._drain_seconds = TRAILING_USAGE_TIMEOUT_SECONDS
                        if chunk and 2 * len(frame) > len(chunk) and not _CONTENT.isdisjoint(map(type, deltas)):
                            self._drain_seconds = _REPEATED_REASON_SECONDS  # content and reason are in one frame
                elif self._stopped and any(map(_has_content, deltas)) and not self._is_cut:
                    self._drain_until = 0.0  # the provider repeats its stop reason
                    self._drain_seconds = _REPEATED_REASON_SECONDS
            # filters
            if Usage in map(type, deltas):
                deltas = self._bounds.check_deltas(deltas)
            calls = self._loaded_calls
            if calls is not None or self.reply_filter is not None:
                if calls is not None and ToolEnd in map(type, deltas):
                    is_large = is_large or calls.held_characters > MAX_REPLY_BYTES_ON_LOOP
                if is_large:
                    deltas = await self._run_in_thread(self._filter, deltas)
                else:
                    deltas = self._filter(deltas)
                if self.reply_filter is not None:
                    if self.reply_filter.matched:
                        self._ended = True
                    elif self._ended and not self.continuation:
                        deltas += self.reply_filter.flush()  # also before a failure, because it was received
                    if self.reply_filter.is_cut and Stop in map(type, deltas):
                        self._stopped = True
                        self._drain_seconds = TRAILING_USAGE_TIMEOUT_SECONDS
            if not deltas:
                continue
            if received:
                received += deltas
            else:
                received = deltas
            if len(received) > MAX_DELTAS_ON_LOOP:
                self._waiting.extend(received)
                return await self.read()
            if not self._stopped or self._ended or not self._response.body_received:
                return received
            # the rest of the response is already here: it joins the end of the reply, which is then written at once
        if received:
            return received
        self._watchdog.end_upstream_call()
        if self._failure is not None:
            raise self._failure
        return None

    def _postpones_end(self, deltas: list[Delta]) -> bool:
        """Take a normal end out of `deltas` that counts once the response has ended: before the first content, or
        behind thinking alone that the client has not asked for. This becomes the text of the reply if nothing follows.
        """
        place = [*map(type, deltas)].index(Stop)
        stop = deltas[place]
        if not isinstance(stop, Stop) or stop.reason not in NORMAL_ENDS:
            return False
        if self._late_thinking.is_alone:
            if self._ended:
                deltas[place:place] = self._late_thinking.take_text()
        elif self.has_thinking or not _CONTENT.isdisjoint(map(type, deltas)):
            return False
        if self._ended:
            return False
        self._early_stop = deltas.pop(place)
        self._drain_seconds = _EARLY_REASON_SECONDS
        return True

    def _states_no_error(self, data: bytes) -> bool:
        """Return True for a frame or body before the first content that is not compared with the request."""
        is_small = len(data) <= self._bytes_unless_error and self._decoder.bytes_on_loop >= 0
        return is_small and MAY_STATE_ERROR.search(data) is None

    def _filter(self, deltas: list[Delta]) -> list[Delta]:
        if self._loaded_calls is not None:
            deltas = self._loaded_calls.feed(deltas)
        return deltas if self.reply_filter is None else self.reply_filter.feed(deltas)

    def flush_pending(self) -> list[Delta]:
        if self._stopped or self._is_left_to_thread:
            return []
        deltas = self._late_thinking.feed(self._decoder.flush_pending()) + self._late_thinking.flush_pending()
        deltas = self._filter(deltas)
        return deltas if self.reply_filter is None else deltas + self.reply_filter.flush()

    async def close(self) -> None:
        self._report.add_notes(self._decoder.notes)
        self.has_unopened_reasoning = self._decoder.has_unopened_reasoning
        if (foreign := self._decoder.foreign) is not None and (count := foreign.count):
            lines = "a line" if count == 1 else f"{count} lines"
            self._report.add_notes((FidelityNote("kept", "reply", f"{lines} outside of the reply skipped"),))
        if self.reply_filter is not None:
            self._report.add_notes(self.reply_filter.notes)
        await self._response.close(wait_for_end=self._decoder.finished)

    def set_deltas(self, deltas: Iterable[Delta]) -> None:
        """Set the deltas of a complete reply with an error status, whose body was already read."""
        self._waiting.extend(self._bounds.check_deltas(list(deltas)))
        self._ended = True

    @property
    def _is_cut(self) -> bool:
        return self.reply_filter is not None and self.reply_filter.is_cut

    def _fail(self, error: UpstreamError, deltas: list[Delta]) -> None:
        self._ended = True
        if self._decoder.usage_of_error is not None:
            deltas.append(self._decoder.usage_of_error)
        if not (self._stopped or Stop in map(type, deltas)):  # after the stop reason the reply is complete
            is_stated = isinstance(error, UnreadableReply) or not isinstance(error, UpstreamProtocolError)
            self._failure = error if is_stated else self._broken or error

    async def _read_after_stop(self) -> bytes:
        now = self._watchdog.now()
        if self._early_stop is not None:
            self._drain_until = 0.0  # each silence counts
        self._drain_until = self._drain_until or now + self._drain_seconds
        if now >= self._drain_until:
            return b""
        try:
            async with asyncio.timeout_at(self._drain_until):
                return await self._response.read()
        except TimeoutError:
            return b""

    async def _run_in_thread(self, function: Callable[[*_Arguments], _Result], *arguments: *_Arguments) -> _Result:
        try:
            return await self._background.run_in_thread(function, *arguments)
        except asyncio.CancelledError:
            self._is_left_to_thread = True
            raise

    async def _decode_in_thread(
        self, function: Callable[[bytes, *_Arguments], _Result], data: bytes, *arguments: *_Arguments
    ) -> _Result:
        require_few_parts(data)
        return await self._run_in_thread(function, data, *arguments)

    def _decode_complete(self, body: bytes, deltas: list[Delta]) -> None:
        """Append the deltas of a body. Some servers send a stream though none was requested, or a text."""
        self._ended = True
        if self._framing == "sse":
            is_stream = b"\ndata:" in body or b"\rdata:" in body
        else:
            is_stream = b"\n" in body and bool(_is_ndjson(body.strip()))
        if is_stream or _BODY.match(body) is None:
            reader = self._open_reader()
            for frame in reader.feed(body) + reader.finish():
                deltas += self._decoder.decode_frame(frame)
                if self._decoder.finished:
                    break
        else:
            deltas += self._decoder.decode_body(body)
        deltas += self._decoder.decode_kept()
        deltas += self._decoder.decode_end()

    def _open_reader(self) -> FrameReader:
        return FRAME_READERS[self._framing](foreign=self._decoder.open_foreign())


def _is_ndjson(start: bytes) -> bool | None:
    """Return True if JSON is one value a line, and False if it is one of several lines. None: `start` has no line."""
    line = _FIRST_LINE.match(start)
    if line is None:
        return True if len(start) > _MAX_BEGINNING_BYTES else None
    return line[0].rstrip()[-1:] in (b"}", b"]")


def _count_unread(deltas: Sequence[Delta]) -> Usage:
    writer = MessageWriter(message_id="", model="", signature="")
    writer.start(0)
    writer.feed(deltas)
    output = writer.counts.output_tokens
    return structs.replace(writer.usage, output_tokens=output) if output else writer.usage


def _has_content(delta: Delta) -> bool:
    match delta:
        case Text():
            return bool(delta.text)
        case Thinking():
            return bool(delta.text or delta.signature)
        case ToolCall() | Block() | Stop():
            return True
        case TextEnd() | ToolArgs() | ToolEnd() | Citation() | Usage():
            return False


class SingleToolCallFilter:
    """Filter of one reply that drops all tool calls after the first one."""

    def __init__(self) -> None:
        self._key: int | str | None = None
        self._thoughts: list[Delta] = []

    def feed(self, deltas: list[Delta]) -> list[Delta]:
        """Return `deltas` without tool calls after the first one.

        Thinking after the first call is held back, because it may belong to a call that is dropped. It is returned
        before a following text or block.
        """
        kept: list[Delta] = []
        for delta in deltas:
            if isinstance(delta, ToolCall) and self._key is None:
                self._key = delta.key
            if isinstance(delta, Thinking) and self._key is not None:
                self._thoughts.append(delta)
            elif isinstance(delta, ToolCall | ToolArgs | ToolEnd) and delta.key != self._key:
                self._thoughts = []
            else:
                if isinstance(delta, Text | Block):
                    kept += self._thoughts
                    self._thoughts = []
                kept.append(delta)
        return kept

    def flush_pending(self) -> list[Delta]:
        thoughts = self._thoughts
        self._thoughts = []
        return thoughts
