"""How answers are written: a head that does not travel alone, and bodies for clients that know no chunks."""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class HeadWithBody:
    """The transport of one response whose head leaves with the first bytes of its body: one packet in place of two.

    For methods whose answers have a body, which follows its head at once here.
    """

    __slots__ = ("_hang_up", "_head", "_transport", "is_closing")

    def __init__(self, transport: asyncio.Transport, hang_up: Callable[[], None]) -> None:
        self._transport = transport
        self._hang_up = hang_up
        self._head: bytes | None = None
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        """Keep the head; then write it with what comes next, and from there on what comes."""
        if self._head is None:
            self._head = data
        elif self._head:
            self._head, data = b"", self._head + data
            self._transport.write(data)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Hang up; a head that nothing followed goes out all the same."""
        if self._head:
            self._transport.write(self._head)
        self._hang_up()


def without_chunks(app: Any, cycle: RequestResponseCycle) -> Any:
    """Return the application for a client of HTTP/1.0, which knows no chunks: the end of its answer is the end of the
    connection.
    """
    cycle.chunked_encoding = False  # else its absence, like that of a length, decides for chunks

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        async def send_plainly(message: Any) -> None:
            cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_plainly)

    return serve
