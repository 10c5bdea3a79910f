"""An answer whose head is here and whose body is on its way."""

import asyncio
import zlib
from collections.abc import Callable, Iterator, Mapping

from anthropic_proxy.errors import UpstreamProtocolError
from anthropic_proxy.upstream.inflating import Inflater

UNPACKED_BYTES = 64 * 1024 * 1024
"""What an answer may have that comes packed though nobody asked for that."""
DRAIN_SECONDS = 0.25
"""How long `close` waits for the last bytes of an answer that is complete, so that its connection can be used again."""


class HttpResponse:
    """An `UpstreamResponse`. Its connection feeds it; who reads it decides when more is received.

    `let_go` is called once, with whether all of the answer was received; `read_on` where reading had been held back.
    """

    __slots__ = (
        "_error",
        "_held_back",
        "_inflater",
        "_inflating",
        "_let_go",
        "_loop",
        "_pieces",
        "_read_on",
        "_unpacked",
        "_waiting",
        "ended",
        "headers",
        "status",
        "unread",
    )

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        *,
        loop: asyncio.AbstractEventLoop,
        let_go: Callable[[bool], None],
        read_on: Callable[[], None],
    ) -> None:
        self.status = status
        self.headers = headers
        """Names in lower case; one that came several times is the list that it is."""
        self.unread = 0
        """Bytes that were received and not read."""
        self.ended = False
        """Whether nothing more will come."""
        self._loop = loop
        self._pieces: list[bytes] = []
        self._error: Exception | None = None
        """How the body broke off."""
        self._waiting: asyncio.Future[None] | None = None
        self._held_back = False
        self._let_go: Callable[[bool], None] | None = let_go
        self._read_on = read_on
        inflater = Inflater(headers["content-encoding"]) if "content-encoding" in headers else None
        self._inflater = inflater if inflater is not None and inflater.known else None
        self._inflating: Iterator[bytes] = iter(())
        self._unpacked = 0

    def feed(self, data: bytes) -> None:
        """Take a piece of the body."""
        self._pieces.append(data)
        self.unread += len(data)
        if self._waiting is not None:
            self._wake()

    def end(self, error: Exception | None = None) -> None:
        """Say that nothing more will come; `error`: because of that, before the body was complete."""
        self.ended, self._error = True, error
        if self._waiting is not None:
            self._wake()

    def hold_back(self) -> None:
        """Say that no more is received until what is here was read."""
        self._held_back = True

    async def read(self) -> bytes:
        """Return what has arrived, waiting only where nothing has; b"" at the end."""
        if self._inflater is not None:
            return await self._read_inflated(self._inflater)
        if not (self._pieces or self.ended):
            await self._arrival()
        return self._take()

    async def close(self, *, complete: bool = False) -> None:
        """Give the connection back if the answer was received whole, or is `complete` and ends at once; else cut it."""
        let_go, self._let_go = self._let_go, None
        if let_go is None:
            return
        try:
            if complete and not (self.ended or self._inflater):
                async with asyncio.timeout(DRAIN_SECONDS):
                    while not self.ended:
                        await self._arrival()
                        self._take()
        except (TimeoutError, UpstreamProtocolError):
            pass
        finally:
            self._pieces.clear()
            let_go(self.ended and self._error is None)

    def _arrival(self) -> "asyncio.Future[None]":
        """Return what is done when more has come, or nothing will."""
        self._waiting = self._loop.create_future()
        return self._waiting

    def _take(self) -> bytes:
        """Return what is here; b"" at the end. Raises how the body broke off."""
        if pieces := self._pieces:
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            self.unread = 0
            if self._held_back:
                self._held_back = False
                self._read_on()
            return data
        if self._error is None:
            return b""
        if isinstance(self._error, OSError):
            raise UpstreamProtocolError(
                f"the connection broke in the middle of the reply ({describe(self._error)})"
            ) from self._error
        raise UpstreamProtocolError("the reply broke off before it was complete") from self._error

    async def _read_inflated(self, inflater: Inflater) -> bytes:
        """Inflate a piece, and let others have their turn: a MiB may hold a GiB, ready to be read at once."""
        try:
            while not (piece := next(self._inflating, b"")):
                if not (self._pieces or self.ended):
                    await self._arrival()
                if not (data := self._take()):
                    return b""
                self._inflating = inflater.feed(data)
        except zlib.error as error:
            raise UpstreamProtocolError("the reply broke off before it was complete") from error
        self._unpacked += len(piece)
        if self._unpacked > UNPACKED_BYTES:
            said = f"the reply is larger than {UNPACKED_BYTES >> 20} MiB when it is unpacked"
            raise UpstreamProtocolError(said, retryable=False)
        await asyncio.sleep(0)
        return piece

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)


def describe(error: Exception) -> str:
    """Return what the operating system or a library says of a failure."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
