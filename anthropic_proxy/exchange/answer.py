"""Step 8, decode: one upstream answer as lists of deltas."""

import asyncio
from collections.abc import Iterable
from typing import Protocol

from anthropic_proxy.errors import UpstreamError, UpstreamProtocolError
from anthropic_proxy.exchange.watch import Watch
from anthropic_proxy.messages.deltas import Block, Delta, Stop, Text, Thinking, ToolCall
from anthropic_proxy.messages.notes import Report
from anthropic_proxy.messages.stops import StopCutter
from anthropic_proxy.routing.router import Target
from anthropic_proxy.wire.contract import Call, UpstreamResponse, continuation_of, held_by, is_received, notes_of
from anthropic_proxy.wire.framing import FrameReader, new_reader

BODY_BYTES = 64 * 1024 * 1024
"""What an answer that is not streamed, or an error, may have."""

AFTER_STOP_SECONDS = 2.0
"""How long totals, or the mark of the end, are waited for behind the stop reason: the reply itself is complete."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_DELIVERING: frozenset[type] = frozenset((ToolCall, Block, Stop))
"""Deltas that deliver something, whatever they hold."""
_SSE_BEGINNINGS = (b"data:", b"event:", b"id:", b"retry:", b":")


class Reply(Protocol):
    """What the last step reads: one upstream answer, or as many as a reply takes."""

    @property
    def signature(self) -> str:
        """What an unsigned thinking block of it is signed with."""
        ...

    @property
    def ended(self) -> bool:
        """Whether everything was read, and nothing failed; False where nobody knows yet."""
        ...

    async def read(self) -> list[Delta] | None:
        """Return the next deltas; None at the end. Raises `UpstreamError` where an answer fails."""
        ...

    async def close(self) -> None:
        """End the upstream call."""
        ...


class Answer:
    """One upstream answer, from its first delta on, as lists of deltas: one list a network read."""

    def __init__(
        self,
        target: Target,
        call: Call,
        response: UpstreamResponse,
        watch: Watch,
        *,
        report: Report | None = None,
        cutter: StopCutter | None = None,
    ) -> None:
        """`report` takes, in the end, what the decoder read otherwise than the model wrote it.

        `cutter` is that of an answer which this one goes on with.
        """
        self.target = target
        self.call = call
        self._response = response
        self._watch = watch
        self._report = report
        self._decoder = target.wire.new_decoder(call)
        self._framing = target.wire.FRAMING
        self._reader = new_reader(self._framing) if call.stream else None
        """Cuts it into frames; None: it comes in one piece."""
        self._asks_framing = self._framing == "sse"
        """Whether the first bytes must still say that the answer really streams; a line of NDJSON looks like a body."""
        self._body = b""
        """The first bytes of an answer that turned out not to stream."""
        self.cutter = cutter or (StopCutter(call.request.stop_sequences) if call.request.stop_sequences else None)
        """Looks for the stop sequences; None: there are none."""
        self._first: list[Delta] = []
        self._failure: UpstreamError | None = None
        self._broken: UpstreamError | None = None
        """How the connection broke; a failure only if the answer was not complete by then."""
        self._ended = self._stopped = False
        self._linger_until = 0.0
        """When nothing more is waited for behind the stop reason; 0: nobody waited yet."""
        self._delivering = False
        """Whether something was delivered: from then on nobody tries again, so what had arrived is passed on."""

    @property
    def signature(self) -> str:
        """What an unsigned thinking block of this answer is signed with."""
        return self._decoder.signature

    @property
    def ended(self) -> bool:
        """Whether everything was read, and nothing failed."""
        return self._ended and not self._first and self._failure is None

    @property
    def continuation(self) -> str | None:
        """What has the provider go on where it stopped; "": nothing, None: this answer is never cut in pieces."""
        return continuation_of(self._decoder)

    async def open(self) -> None:
        """Wait for the first delta that delivers something; what came until then is kept for `read`."""
        first: list[Delta] = []
        delivers = False
        while not delivers and (deltas := await self.read()) is not None:
            first += deltas
            delivers = any(map(_delivers, deltas))
        self._first, self._delivering = first, delivers

    async def read(self) -> list[Delta] | None:
        """Return the deltas of the next network read that had any; None at the end.

        Raises `UpstreamError` where the answer fails, after everything before the failure was returned.
        """
        if self._first:
            first, self._first = self._first, []
            return first
        behind: list[Delta] = []
        while not self._ended:
            if self._reader is None:
                deltas = await self._decode_rest()
            else:  # waits here and not in a call: this is the way of every piece of a stream
                try:
                    chunk = await (self._read_behind_stop() if self._stopped else self._response.read())
                    self._watch.first_byte()
                except UpstreamError as error:
                    self._broken, chunk = error, b""
                deltas = self._decode(self._reader, chunk)
            if self.cutter is not None:
                deltas = self._cut(self.cutter, deltas)
            if deltas:
                if behind:
                    behind += deltas
                    deltas = behind
                if self._stopped and not self._ended and is_received(self._response):
                    behind = deltas  # only the end of the body comes, for which nobody waits
                else:
                    return deltas
        if behind:
            return behind
        if self._failure is not None:
            raise self._failure
        return None

    async def close(self) -> None:
        """End the upstream call."""
        if self._report is not None:
            self._report.add(notes_of(self._decoder))
        await self._response.close(complete=self._decoder.finished)

    def keep(self, deltas: Iterable[Delta]) -> None:
        """Take deltas that an error answer turned out to hold; there is nothing more to read."""
        self._first = list(deltas)
        self._ended = True

    def _decode(self, reader: FrameReader, chunk: bytes) -> list[Delta]:
        """Return the deltas of one read, b"" being the end; a failure is kept until what came before it was given."""
        if self._asks_framing:
            self._asks_framing = False
            if chunk.lstrip()[:1] in (b"{", b"["):  # a server that does not stream, whatever it was asked
                self._reader, self._body = None, chunk
                return []
        deltas: list[Delta] = []
        decoder = self._decoder
        try:
            self._decode_frames(reader.feed(chunk) if chunk else reader.finish(), deltas)
            if Stop in map(type, deltas):  # no generator: asked once a read
                self._stopped = True
            if not chunk or decoder.finished:
                self._ended = True
                deltas += decoder.decode_end()
        except UpstreamError as error:
            self._fail(error, deltas)
        return deltas

    async def _decode_rest(self) -> list[Delta]:
        """Return the deltas of an answer that comes in one piece; a failure as in `_decode`."""
        deltas: list[Delta] = []
        try:
            self._decode_whole(self._body + await read_whole(self._response, self._watch), deltas)
        except UpstreamError as error:
            self._fail(error, deltas)
        return deltas

    def _fail(self, error: UpstreamError, deltas: list[Delta]) -> None:
        self._ended = True
        if not (self._stopped or Stop in map(type, deltas)):  # behind the reason nothing is told that could fail
            self._failure = self._broken or error
            if self._delivering:
                deltas += held_by(self._decoder)

    async def _read_behind_stop(self) -> bytes:
        now = self._watch.now()
        self._linger_until = self._linger_until or now + AFTER_STOP_SECONDS
        if now >= self._linger_until:
            return b""
        try:
            async with asyncio.timeout_at(self._linger_until):
                return await self._response.read()
        except TimeoutError:
            return b""

    def _decode_frames(self, frames: list[bytes], deltas: list[Delta]) -> None:
        for frame in frames:
            deltas += self._decoder.decode_frame(frame)
            if self._decoder.finished:
                break

    def _decode_whole(self, body: bytes, deltas: list[Delta]) -> None:
        """Decode an answer in one piece; some servers stream although they were not asked to."""
        self._ended = True
        if self._framing == "sse" and body.lstrip().startswith(_SSE_BEGINNINGS):
            reader = new_reader(self._framing)
            self._decode_frames(reader.feed(body) + reader.finish(), deltas)
            deltas += self._decoder.decode_end()
        else:
            deltas += self._decoder.decode_body(body)

    def _cut(self, cutter: StopCutter, deltas: list[Delta]) -> list[Delta]:
        deltas = cutter.feed(deltas)
        if cutter.matched:
            self._ended = True
        elif self._ended and not self.continuation:
            deltas += cutter.finish()  # also before a failure: it had arrived
        return deltas


async def read_whole(response: UpstreamResponse, watch: Watch | None = None) -> bytes:
    """Return a whole body, without a byte order mark.

    Raises `UpstreamProtocolError` where it grows beyond 64 MiB or breaks off.
    """
    pieces: list[bytes] = []
    size = 0
    while piece := await response.read():
        if watch is not None:
            watch.first_byte()
        size += len(piece)
        if size > BODY_BYTES:
            raise UpstreamProtocolError(f"the reply is larger than {BODY_BYTES >> 20} MiB", retryable=False)
        pieces.append(piece)
    return b"".join(pieces).removeprefix(_BYTE_ORDER_MARK)


def _delivers(delta: Delta) -> bool:
    if isinstance(delta, Text):
        return bool(delta.text)
    if isinstance(delta, Thinking):
        return bool(delta.text or delta.signature)
    return type(delta) in _DELIVERING
