"""`RelayStream`: the response of a provider with the Messages API, forwarded to the client byte for byte."""

import asyncio
import re
from collections.abc import Mapping

from anthropic_proxy.errors import UpstreamError, UpstreamProtocolError
from anthropic_proxy.exchange.upstream_stream import TRAILING_USAGE_TIMEOUT_SECONDS, read_body
from anthropic_proxy.exchange.watchdog import Watchdog
from anthropic_proxy.messages.deltas import Delta, Stop, Usage
from anthropic_proxy.messages.events import ErrorEvent, Event, MessageStop
from anthropic_proxy.messages.usage import merge_latest
from anthropic_proxy.redaction import redact_bytes
from anthropic_proxy.wire.contract import BaseDialect, Call, Credential, RelayWire, UpstreamResponse
from anthropic_proxy.wire.framing import MAX_FRAME_BYTES, EventSplitter, new_frame_reader

FORWARDED_HEADERS = frozenset(("retry-after", "retry-after-ms", "x-should-retry"))
"""Names of provider headers that the client receives, in lower case."""
FORWARDED_PREFIX = "anthropic-"
"""Prefix of further provider headers that the client receives: rate limits and the organization."""
MAX_TRAILING_BYTES = 64 * 1024
"""Maximum number of bytes read after the last event of a message. Further bytes are dropped."""
TRAILING_BYTES_TIMEOUT_SECONDS = 0.25
"""Maximum wait for bytes after the last event, such as line ends, so that the forwarded stream is identical."""


class RelayStream:
    """One upstream response as bytes for the client, with its token usage, its stop reason and its failure.

    A stream is forwarded in complete SSE frames. After a broken connection, an error event can follow.
    """

    def __init__(
        self,
        wire: RelayWire[BaseDialect],
        call: Call[BaseDialect],
        response: UpstreamResponse,
        watchdog: Watchdog,
        *,
        credential: Credential | None = None,
    ) -> None:
        self.headers = forwarded_headers(response.headers)
        """Headers of the provider for the client."""
        self.usage = Usage()
        self.stop_reason: str | None = None
        self.failure: UpstreamError | None = None
        """The relayed `error` event, or the error of a premature end."""
        self.ending: Event | None = None
        """Event to add, because the upstream ended without its last event. None: complete."""
        self.complete = False
        """True if nothing is left to read except the bytes of `open`."""
        self._wire = wire
        self._requested_model = call.requested_model if call.is_renamed else None
        self._response = response
        self._watchdog = watchdog
        self._credential = credential
        self._decoder = wire.new_decoder(call)
        self._streams = call.streams_upstream
        self._first: bytes | None = None
        self._events = EventSplitter()
        self._behind = b""
        """Bytes after the last event, sent with the end."""
        self._begun = False
        self._drain_until = 0.0
        """Loop time until which bytes after the last event are awaited. 0: the wait has not started."""

    async def wait_for_content(self) -> None:
        """Wait for the first event of the stream. Raises `UpstreamError` if the response fails before any content.

        The client then receives the error as an HTTP status.
        """
        if not self._streams:
            self._first = await read_body(self._response, self._watchdog)
            self._remember(self._decoder.decode_body(self._first))
            self.complete = True
        else:
            first = await self._read_beginning()
            if self.failure is not None and (self.ending is not None or _CONTENT not in first):
                self.failure.headers = self.headers
                raise self.failure
            self._first = first
        if self._requested_model is not None:
            self._first = self._wire.replace_reply_model(self._first, self._requested_model)

    async def _read_beginning(self) -> bytes:
        """Return the bytes of the response up to its first event with data. SSE comments may precede the event."""
        chunks = [await self._next()]
        if (begun := chunks[0] + self._events.peek_pending()).lstrip().startswith(b"{"):
            await self._reject_unstreamed(begun)
        size = len(chunks[0])
        while not (self._begun or self.complete):
            if size > MAX_FRAME_BYTES:
                message = f"The provider sent {size:,} bytes without an event."
                raise UpstreamProtocolError(message, retryable=False)
            chunks.append(await self._next())
            size += len(chunks[-1])
        return await self._with_end(b"".join(chunks))

    async def _reject_unstreamed(self, begun: bytes) -> None:
        """Raise the error inside a body without SSE frames.

        For a complete message, raise an error that the server does not stream.
        """
        self._decoder.decode_body(begun + await read_body(self._response, self._watchdog))
        error = UpstreamProtocolError("the reply was not streamed although a stream was requested")
        error.retryable = False  # a retry would cost the same again
        raise error

    def omit_message_start(self) -> None:
        """Remove the event `message_start` from the stream, because the client received one for an earlier target."""
        if self._first is not None:
            self._first = self._wire.remove_message_start(self._first)

    async def read(self) -> bytes | None:
        """Return the next bytes for the client. None: the response is complete."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        while not self.complete:
            if data := await self._next():
                return await self._with_end(data) if self._decoder.finished else data
        return None

    async def close(self) -> None:
        """End the upstream call."""
        await self._response.close(complete=self._decoder.finished)

    async def _next(self) -> bytes:
        """Return the frames that one network read completes. After the last read, also return the remaining bytes."""
        try:
            if chunk := await self._read():
                data = self._pop_complete_frames(chunk)
                self._inspect(data)
                if data and self._decoder.finished and self.failure is None:
                    data, behind = self._wire.split_after_message_end(data)
                    self._behind = behind + self._events.pop_pending()
            else:
                data = self._finish()
        except UpstreamError as error:
            self._end_with_error(error)
            return b""
        if self.failure is None or self._credential is None:
            return data
        return redact_bytes(data, self._credential.secret)  # an error may quote the key

    async def _with_end(self, data: bytes) -> bytes:
        """Append the remaining bytes of a completely received response to the last event: one packet instead of two."""
        while self._decoder.finished and not self.complete and self._response.body_received:
            data += await self._next()
        return data

    def _end_with_error(self, error: UpstreamError) -> None:
        self.complete = True
        if self.stop_reason is not None:  # the message is complete; an error would make the client drop it
            self.ending = MessageStop()
        else:
            self.failure, self.ending = error, ErrorEvent(error)

    async def _read(self) -> bytes:
        if self._decoder.finished:
            return await self._read_behind_end()
        if self.stop_reason is not None:
            return await self._read_last_event()
        chunk = await self._response.read()
        if self._begun:
            self._watchdog.upstream_at = self._watchdog.now()
        else:
            self._watchdog.first_byte_received()
        return chunk

    async def _read_last_event(self) -> bytes:
        """Return the next bytes of a message that lacks only `message_stop`. Raises `UpstreamError` after a timeout."""
        try:
            async with asyncio.timeout(TRAILING_USAGE_TIMEOUT_SECONDS):
                return await self._response.read()
        except TimeoutError:
            raise UpstreamProtocolError("the reply had no final event") from None

    async def _read_behind_end(self) -> bytes:
        """Return bytes that follow the last event within 0.25 s. Errors are ignored because the message is complete."""
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

    def _pop_complete_frames(self, chunk: bytes) -> bytes:
        if self._decoder.finished:
            self._behind += chunk
            return b""
        if not self._events.pending_bytes and chunk.endswith(b"\n\n"):
            return chunk
        return self._events.feed(chunk)

    def _finish(self) -> bytes:
        """Return the buffered bytes if they form a complete event. An incomplete event is dropped."""
        self.complete = True
        if self._decoder.finished:
            return self._wire.remove_events(self._behind + self._events.pop_pending())
        before, pending = self.stop_reason, self._events.pop_pending()
        self._inspect(pending)
        try:
            self._decoder.decode_end()
        except UpstreamError as error:
            self._end_with_error(error)
            return pending + b"\n\n" if self.stop_reason != before else b""
        return pending

    def _inspect(self, data: bytes) -> None:
        if not (relevant := self._wire.frames_to_inspect(data)):
            return
        self._begun = True
        reader = new_frame_reader(self._wire.framing)
        for frame in (*reader.feed(relevant), *reader.finish()):
            try:
                deltas = self._decoder.decode_frame(frame)
            except UpstreamError as error:
                self.failure = self.failure or error
            else:
                self._remember(deltas)

    def _remember(self, deltas: list[Delta]) -> None:
        for delta in deltas:
            if isinstance(delta, Usage):
                self.usage = merge_latest(self.usage, delta)
            elif isinstance(delta, Stop):
                self.stop_reason = delta.reason


_CONTENT = b'"content_block_start"'
_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


def forwarded_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the provider headers that the client receives: rate limits and advice on retries.

    Headers of the transport are omitted, as are invalid names and values. Values are Latin-1 text of the received
    bytes.
    """
    passed = {
        lower: _raw(value)
        for name, value in headers.items()
        if (lower := name.lower()) in FORWARDED_HEADERS or lower.startswith(FORWARDED_PREFIX)
    }
    if upstream_id := headers.get("request-id"):
        passed["x-upstream-request-id"] = _raw(upstream_id)
    return {name: value for name, value in passed.items() if _NAME.fullmatch(name) and _VALUE.fullmatch(value)}


def _raw(value: str) -> str:
    return value if value.isascii() else value.encode("utf-8", "surrogateescape").decode("latin-1")
