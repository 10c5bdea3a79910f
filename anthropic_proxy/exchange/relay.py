"""An answer whose bytes pass as they came: both sides speak the Messages API."""

import asyncio
import re
from collections.abc import Mapping

from anthropic_proxy.errors import UpstreamError, UpstreamProtocolError
from anthropic_proxy.exchange.answer import read_whole
from anthropic_proxy.exchange.masking import hide_key
from anthropic_proxy.exchange.watch import Watch
from anthropic_proxy.messages.deltas import Delta, Stop, Usage
from anthropic_proxy.messages.events import Event, Failure, MessageStop
from anthropic_proxy.messages.usage import with_later
from anthropic_proxy.routing.router import Target
from anthropic_proxy.wire.contract import Call, Credential, RelayWire, UpstreamResponse, is_received
from anthropic_proxy.wire.framing import MAX_FRAME_BYTES, new_reader

PASSED_HEADERS = frozenset(("retry-after", "retry-after-ms", "x-should-retry"))
PASSED_PREFIX = "anthropic-"
LINGER_SECONDS = 0.25
"""How long bytes behind the last event are waited for: line ends that a stream is not byte for byte without."""


class RelayedAnswer:
    """One upstream answer as bytes, and what was read along: usage, end, failure.

    A stream is given on frame by frame: where it breaks, the client has no half of one, and the error can follow.
    """

    def __init__(
        self,
        wire: RelayWire,
        target: Target,
        call: Call,
        response: UpstreamResponse,
        watch: Watch,
        *,
        credential: Credential | None = None,
    ) -> None:
        self.target = target
        self.headers = passed_headers(response.headers)
        """The provider's headers that go to the client."""
        self.usage = Usage()
        self.stop_reason: str | None = None
        self.failure: UpstreamError | None = None
        """The `error` event that passed, or how the answer ended too early."""
        self.ending: Event | None = None
        """What the client must still be told, because the upstream ended without its last event."""
        self.ended = False
        """Whether there is nothing more to read, but for what `open` found."""
        self._wire = wire
        self._asked = call.asked_model if call.renamed else None
        self._response = response
        self._watch = watch
        self._credential = credential
        self._decoder = wire.new_decoder(call)
        self._streams = call.stream
        self._first: bytes | None = None
        self._held = b""
        """The beginning of a frame whose end has not come yet."""
        self._begun = False
        self._linger_until = 0.0
        """When bytes behind the last event are no longer waited for; 0: it has not come."""

    async def open(self) -> None:
        """Wait for the first event; an error before any content is raised, so that it becomes a real HTTP status."""
        if not self._streams:
            self._first = await read_whole(self._response, self._watch)
            self._remember(self._decoder.decode_body(self._first))
            self.ended = True
        else:
            first = await self._read_beginning()
            if self.failure is not None and (self.ending is not None or _CONTENT not in first):
                self.failure.headers = self.headers
                raise self.failure
            self._first = first
        if self._asked is not None:
            self._first = self._wire.with_reply_model(self._first, self._asked)

    async def _read_beginning(self) -> bytes:
        """Return the bytes up to the first event that says something; comments may stand before it."""
        pieces = [await self._next()]
        if (begun := pieces[0] + self._held).lstrip().startswith(b"{"):
            await self._refuse_whole(begun)
        size = len(pieces[0])
        while not (self._begun or self.ended):
            if size > MAX_FRAME_BYTES:
                said = f"The provider sent {size:,} bytes without an event."
                raise UpstreamProtocolError(said, retryable=False)
            pieces.append(await self._next())
            size += len(pieces[-1])
        return await self._with_end(b"".join(pieces))

    async def _refuse_whole(self, begun: bytes) -> None:
        """Raise what a server says in one piece though asked to stream: its error, or that it does not stream."""
        self._decoder.decode_body(begun + await read_whole(self._response, self._watch))
        error = UpstreamProtocolError("the reply came in one piece, though a stream was asked for")
        error.retryable = False  # the model has answered, and asking again would cost the same
        raise error

    def drop_start(self) -> None:
        """Leave out `message_start`, because the client has had one: the relay takes over from another target."""
        if self._first is not None:
            self._first = self._wire.without_start(self._first)

    async def read(self) -> bytes | None:
        """Return the next bytes for the client; None at the end."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        while not self.ended:
            if data := await self._next():
                return await self._with_end(data) if self._decoder.finished else data
        return None

    async def close(self) -> None:
        """End the upstream call."""
        await self._response.close(complete=self._decoder.finished)

    async def _next(self) -> bytes:
        """Return the whole frames that one network read completes; after the last read also what is left."""
        try:
            if chunk := await self._read():
                data = self._complete(chunk)
                self._read_along(data)
            else:
                data = self._finish()
        except UpstreamError as error:
            self._tear(error)
            return b""
        return data if self.failure is None else hide_key(data, self._credential)  # an error may repeat it

    async def _with_end(self, data: bytes) -> bytes:
        """Return the last event together with what is left of an answer that has come whole: one packet, not two."""
        if self._decoder.finished and not self.ended and is_received(self._response):
            data += await self._next()
        return data

    def _tear(self, error: UpstreamError) -> None:
        self.ended = True
        if self.stop_reason is not None:  # all of the message is there, and an error would make the client drop it
            self.ending = MessageStop()
        else:
            self.failure, self.ending = error, Failure(error)

    async def _read(self) -> bytes:
        if self._decoder.finished:
            return await self._read_behind_end()
        chunk = await self._response.read()
        if self._begun:
            self._watch.upstream_at = self._watch.now()
        else:
            self._watch.first_byte()
        return chunk

    async def _read_behind_end(self) -> bytes:
        """Return what comes shortly behind the last event; how that breaks off is nobody's concern."""
        now = self._watch.now()
        self._linger_until = self._linger_until or now + LINGER_SECONDS
        if now >= self._linger_until:
            return b""
        try:
            if is_received(self._response):
                return await self._response.read()
            async with asyncio.timeout_at(self._linger_until):
                return await self._response.read()
        except (TimeoutError, UpstreamError):
            return b""

    def _complete(self, chunk: bytes) -> bytes:
        if self._held:
            chunk, self._held = self._held + chunk, b""
        if chunk.endswith(b"\n\n") or self._decoder.finished:
            return chunk
        end = max((at + len(border) for border in _BORDERS if (at := chunk.rfind(border)) >= 0), default=0)
        self._held = chunk[end:]
        if len(self._held) > MAX_FRAME_BYTES:
            said = f"The provider sent a single event of more than {MAX_FRAME_BYTES:,} bytes."
            raise UpstreamProtocolError(said, retryable=False)
        return chunk[:end]

    def _finish(self) -> bytes:
        """Return what was held for the end of its event, if it is one: half an event never goes out."""
        self.ended = True
        before = self.stop_reason
        self._read_along(self._held)
        try:
            self._decoder.decode_end()
        except UpstreamError as error:
            self._tear(error)
            return self._held + b"\n\n" if self.stop_reason != before else b""
        return self._held

    def _read_along(self, data: bytes) -> None:
        if not (telling := self._wire.find_telling(data)):
            return
        self._begun = True
        reader = new_reader(self._wire.FRAMING)
        for frame in (*reader.feed(telling), *reader.finish()):
            try:
                deltas = self._decoder.decode_frame(frame)
            except UpstreamError as error:
                self.failure = self.failure or error
            else:
                self._remember(deltas)

    def _remember(self, deltas: list[Delta]) -> None:
        for delta in deltas:
            if isinstance(delta, Usage):
                self.usage = with_later(self.usage, delta)
            elif isinstance(delta, Stop):
                self.stop_reason = delta.reason


_CONTENT = b'"content_block_start"'
_BORDERS = (b"\n\n", b"\r\n\r\n", b"\r\r")
_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


def passed_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of an answer that the client may have: limits and advice, nothing of the transport.

    Their values are the bytes that came, each as the letter of its number; what no header may hold is left out.
    """
    passed = {
        lower: _raw(value)
        for name, value in headers.items()
        if (lower := name.lower()) in PASSED_HEADERS or lower.startswith(PASSED_PREFIX)
    }
    if upstream_id := headers.get("request-id"):
        passed["x-upstream-request-id"] = _raw(upstream_id)
    return {name: value for name, value in passed.items() if _NAME.fullmatch(name) and _VALUE.fullmatch(value)}


def _raw(value: str) -> str:
    return value if value.isascii() else value.encode("utf-8", "surrogateescape").decode("latin-1")
