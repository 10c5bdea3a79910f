"""Steps 5 to 8 over the targets of a route, until the first delta: prepare, encode, send, decode."""

import asyncio
from collections.abc import Callable, Iterable, Mapping

from msgspec import structs

from anthropic_proxy.errors import InternalError, ProxyError, UpstreamError, UpstreamProtocolError, UpstreamUnreachable
from anthropic_proxy.exchange.house import House, Inbound
from anthropic_proxy.exchange.watch import Watch
from anthropic_proxy.hooks import Receipt
from anthropic_proxy.messages.deltas import Block, Delta, Stop, Text, Thinking, ToolCall
from anthropic_proxy.messages.prepare import Limits, prepare
from anthropic_proxy.messages.stops import StopCutter
from anthropic_proxy.messages.tokens import estimate
from anthropic_proxy.messages.types import MessagesRequest
from anthropic_proxy.routing.router import Route, Target
from anthropic_proxy.wire.contract import Call, Credential, UpstreamResponse
from anthropic_proxy.wire.framing import NDJSONReader, SSEReader

REPEATS_PER_TARGET = 1
REPEAT_SECONDS = 0.5
"""Pause before the repeat where the provider did not say how long."""
BODY_BYTES = 64 * 1024 * 1024
"""What an answer that is not streamed, or an error, may have."""

_READERS: Mapping[str, Callable[[], SSEReader | NDJSONReader]] = {"sse": SSEReader, "ndjson": NDJSONReader}


class Answer:
    """One upstream answer, from its first delta on, as lists of deltas: one list a network read."""

    def __init__(self, target: Target, call: Call, response: UpstreamResponse, watch: Watch) -> None:
        self.target = target
        self.call = call
        self._response = response
        self._watch = watch
        self._decoder = target.wire.new_decoder(call)
        self._reader = _READERS[target.wire.FRAMING]() if call.stream else None
        self._cutter = StopCutter(call.request.stop_sequences) if call.request.stop_sequences else None
        self._first: list[Delta] = []
        self._failure: UpstreamError | None = None
        self._ended = False

    @property
    def signature(self) -> str:
        """What an unsigned thinking block of this answer is signed with."""
        return self._decoder.signature

    async def open(self) -> None:
        """Wait for the first delta that delivers something; what came until then is kept for `read`."""
        while not any(_delivers(delta) for delta in self._first):
            deltas = await self._next()
            if deltas is None:
                return
            self._first += deltas

    async def read(self) -> list[Delta] | None:
        """Return the deltas of the next network read that had any; None at the end.

        Raises `UpstreamError` where the answer fails, after everything before the failure was returned.
        """
        if self._first:
            first, self._first = self._first, []
            return first
        return await self._next()

    async def close(self) -> None:
        """End the upstream call."""
        await self._response.close(complete=self._decoder.finished)

    def keep(self, deltas: Iterable[Delta]) -> None:
        """Take deltas that an error answer turned out to hold; there is nothing more to read."""
        self._first = list(deltas)
        self._ended = True

    async def _next(self) -> list[Delta] | None:
        if self._failure is not None:
            raise self._failure
        while not self._ended:
            deltas = await self._decode_next()
            if self._cutter is not None:
                deltas = self._cut(deltas)
            if deltas:
                return deltas
        return None

    async def _decode_next(self) -> list[Delta]:
        if self._reader is None:
            self._ended = True
            return self._decoder.decode_body(await _read_whole(self._response, self._watch))
        chunk = await self._response.read()
        self._watch.first_byte()
        if chunk:
            frames = self._reader.feed(chunk)
        else:
            frames = self._reader.finish()
            self._ended = True
        deltas: list[Delta] = []
        try:
            for frame in frames:
                deltas += self._decoder.decode_frame(frame)
            if self._ended or self._decoder.finished:
                self._ended = True
                deltas += self._decoder.decode_end()
        except UpstreamError as error:
            if not deltas:
                raise
            self._failure = error
        return deltas

    def _cut(self, deltas: list[Delta]) -> list[Delta]:
        assert self._cutter is not None
        deltas = self._cutter.feed(deltas)
        if self._cutter.matched:
            self._ended = True
        elif self._ended and self._failure is None:
            deltas += self._cutter.finish()
        return deltas


class Attempts:
    """Makes one attempt after the other while nothing was delivered, and remembers what was tried."""

    def __init__(
        self, house: House, inbound: Inbound, request: MessagesRequest, receipt: Receipt, watch: Watch
    ) -> None:
        self._house = house
        self._inbound = inbound
        self._request = request
        self._receipt = receipt
        self._watch = watch

    async def open(self, route: Route) -> Answer:
        """Return the first answer that delivers; raises the last failure if none does."""
        failure: UpstreamError | None = None
        for target in route.targets:
            try:
                return await self._try_target(target)
            except UpstreamError as error:
                failure = error
                self._receipt.tried.append(f"{target.provider.name} {error.status}")
                if not _next_target_may_help(error):
                    break
        if failure is None:
            raise InternalError("a route has no target")
        self._receipt.tried.pop()
        raise failure

    async def _try_target(self, target: Target) -> Answer:
        pool = self._house.credentials
        repeats = REPEATS_PER_TARGET
        while True:
            credential = pool.find(target.provider)
            try:
                return await self._attempt(target, credential)
            except UpstreamError as error:
                _name_provider(error, target, credential)
                if pool.turn(target.provider, credential, error):
                    continue
                if not error.retryable or not repeats:
                    raise
                repeats -= 1
                self._receipt.tried.append(f"{target.provider.name} {error.status}")
                await asyncio.sleep(error.retry_after or REPEAT_SECONDS)

    async def _attempt(self, target: Target, credential: Credential | None) -> Answer:
        call = self._prepare_call(target)
        upstream_request = target.wire.encode_request(call)
        self._receipt.notes.extend(upstream_request.notes)
        self._receipt.provider, self._receipt.model = target.provider.name, target.model
        self._watch.call_sent()
        response = await self._house.ways[target.provider.way](target.base_url, upstream_request, credential)
        answer: Answer | None = None
        try:
            answer = Answer(target, call, response, self._watch)
            if 200 <= response.status < 300:
                await answer.open()
            else:
                answer.keep(await self._read_error(target, call, response))
        except BaseException:
            await response.close()
            raise
        return answer

    def _prepare_call(self, target: Target) -> Call:
        prepared = prepare(self._request, limits_of(target), estimate)
        self._receipt.notes[:] = prepared.notes
        return Call(
            request=prepared.request,
            model=target.model,
            dialect=target.dialect,
            stream=self._request.stream or bool(prepared.request.stop_sequences) or target.dialect.streams_always,
            raw=self._inbound.body,
            headers=self._inbound.headers,
            aliases=prepared.aliases,
            new_id=self._house.new_id,
            provider=target.provider.name,
            window=target.facts.window if target.facts.known else None,
        )

    async def _read_error(self, target: Target, call: Call, response: UpstreamResponse) -> list[Delta]:
        try:
            body = await _read_whole(response, self._watch)
        except UpstreamError:
            body = b""  # the status alone says enough
        call = structs.replace(call, estimate=estimate(self._request))  # costs nothing where nothing failed
        outcome = target.wire.decode_error(call, response.status, response.headers, body)
        if isinstance(outcome, ProxyError):
            raise outcome
        if isinstance(outcome, list):
            return outcome
        raise InternalError(f"a wire gave {outcome!r} for an error answer")


def limits_of(target: Target) -> Limits:
    """Return what `prepare` must know of a target."""
    facts, dialect = target.facts, target.dialect
    return Limits(
        window=facts.window if facts.known else None,
        max_output=facts.max_output if facts.known else None,
        efforts=facts.efforts,
        default_effort=facts.default_effort,
        vision=facts.vision or not facts.known,
        pdf=facts.pdf,
        tools=facts.tools,
        name_pattern=dialect.tool_name_pattern,
        name_length=dialect.tool_name_length,
    )


async def _read_whole(response: UpstreamResponse, watch: Watch) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while piece := await response.read():
        watch.first_byte()
        size += len(piece)
        if size > BODY_BYTES:
            raise UpstreamProtocolError(f"the reply is larger than {BODY_BYTES >> 20} MiB")
        pieces.append(piece)
    return b"".join(pieces)


def _delivers(delta: Delta) -> bool:
    if isinstance(delta, Text):
        return bool(delta.text)
    if isinstance(delta, Thinking):
        return bool(delta.text or delta.signature)
    return isinstance(delta, ToolCall | Block | Stop)


def _next_target_may_help(error: UpstreamError) -> bool:
    return error.status in (401, 402, 403, 404, 408, 429) or error.status >= 500


def _name_provider(error: UpstreamError, target: Target, credential: Credential | None) -> None:
    """Say in the message which provider failed and, where it is the key or the address, which setting holds it."""
    if not error.provider:  # the street does not know whom it calls; a wire has said it where it may be said
        error.provider = target.provider.name
        error.message = f"{error.provider}: {error.message}"
    if error.status == 401 and credential is not None and credential.origin not in error.message:
        error.message += f" The key comes from {credential.origin}; the client's own key was not looked at."
    variable = target.provider.base_url_variable
    if isinstance(error, UpstreamUnreachable) and variable and variable not in error.message:
        error.message += f". The address is set by {variable}"
