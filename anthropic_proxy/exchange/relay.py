"""An answer whose bytes pass as they came: both sides speak the Messages API."""

from collections.abc import Mapping

from msgspec import structs

from anthropic_proxy.errors import UpstreamError
from anthropic_proxy.exchange.answer import read_whole
from anthropic_proxy.exchange.watch import Watch
from anthropic_proxy.messages.deltas import Delta, Stop, Usage
from anthropic_proxy.routing.router import Target
from anthropic_proxy.wire.contract import Call, RelayWire, UpstreamResponse
from anthropic_proxy.wire.framing import new_reader

PASSED_HEADERS = ("retry-after", "retry-after-ms", "x-should-retry", "anthropic-organization-id")
PASSED_PREFIX = "anthropic-ratelimit-"


class RelayedAnswer:
    """One upstream answer as bytes, and what was read along: usage, end, failure."""

    def __init__(self, wire: RelayWire, target: Target, call: Call, response: UpstreamResponse, watch: Watch) -> None:
        self.target = target
        self.headers = passed_headers(response.headers)
        """The provider's headers that go to the client."""
        self.usage = Usage()
        self.stop_reason: str | None = None
        self.failure: UpstreamError | None = None
        """The `error` event that passed, or how the answer ended too early."""
        self.torn = False
        """Whether it ended too early, so that the client must still be told."""
        self._wire = wire
        self._asked = None if call.model == call.asked_model else call.asked_model
        self._response = response
        self._watch = watch
        self._decoder = wire.new_decoder(call)
        self._reader = new_reader(wire.FRAMING)
        self._streams = call.stream
        self._first: bytes | None = b""

    async def open(self) -> None:
        """Wait for the first event; an error in its place is raised, so that it becomes a real HTTP status."""
        if not self._streams:
            self._first = await read_whole(self._response, self._watch)
            self._remember(self._decoder.decode_body(self._first))
            self._first = self._named(self._first)
            return
        held = b""
        frames: list[bytes] = []
        while not frames:
            chunk = await self._response.read()
            self._watch.first_byte()
            held += chunk
            frames = self._reader.feed(chunk) if chunk else self._reader.finish()
            if not chunk and not frames:
                self._decoder.decode_end()
                break
        self._read_along(frames)
        if self.failure is not None:
            raise self.failure
        self._first = self._named(held)

    async def read(self) -> bytes | None:
        """Return the next bytes for the client; None at the end."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if not self._streams:
            return None
        try:
            chunk = await self._response.read()
        except UpstreamError as error:
            self._tear(error)
            return None
        self._watch.first_byte()
        if chunk:
            self._read_along(self._reader.feed(chunk))
            return chunk
        try:
            self._read_along(self._reader.finish())
            self._decoder.decode_end()
        except UpstreamError as error:
            self._tear(error)
        return None

    async def close(self) -> None:
        """End the upstream call."""
        await self._response.close(complete=self._decoder.finished)

    def _read_along(self, frames: list[bytes]) -> None:
        for frame in frames:
            try:
                self._remember(self._decoder.decode_frame(frame))
            except UpstreamError as error:
                self.failure = self.failure or error

    def _remember(self, deltas: list[Delta]) -> None:
        for delta in deltas:
            if isinstance(delta, Usage):
                said = {name: value for name, value in structs.asdict(delta).items() if value is not None}
                self.usage = structs.replace(self.usage, **said)
            elif isinstance(delta, Stop):
                self.stop_reason = delta.reason

    def _tear(self, error: UpstreamError) -> None:
        if self.failure is None:
            self.failure, self.torn = error, True

    def _named(self, reply: bytes) -> bytes:
        return reply if self._asked is None else self._wire.with_reply_model(reply, self._asked)


def passed_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of an answer that the client may have: limits and advice, nothing of the transport."""
    passed = {
        name.lower(): value
        for name, value in headers.items()
        if name.lower() in PASSED_HEADERS or name.lower().startswith(PASSED_PREFIX)
    }
    if upstream_id := headers.get("request-id"):
        passed["x-upstream-request-id"] = upstream_id
    return passed
