"""Backpressure on a client connection: pauses of reading for a slow application, and of writing for a slow client.

While the application does not consume the request body, `pause_reading` keeps the socket unread. While the client does
not read the response, `pause_writing` makes senders of the response wait in `wait_writable`.
"""

import asyncio


class FlowControl:
    """Pauses in reading and writing the socket of one client connection.

    `read_paused` is True while the socket is not read, and `write_paused` while senders must wait.
    """

    __slots__ = ("_body_unread", "_transport", "_writable", "paused_for_unparsed", "read_paused", "write_paused")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._writable = asyncio.Event()
        self._body_unread = self.read_paused = self.write_paused = False
        self.paused_for_unparsed = False
        """True while the socket is not read because too many received bytes are unparsed."""

    def pause_reading(self) -> None:
        """Stop reading the socket until `resume_reading`, because too much of the request body is buffered."""
        self._body_unread = True
        self._update()

    def resume_reading(self) -> None:
        """Read the socket again after `pause_reading`, because the application has consumed the buffered request body.

        If too many received bytes are unparsed, the socket stays unread.
        """
        if self._body_unread:
            self._body_unread = False
            self._update()

    def set_paused_for_unparsed(self, paused: bool) -> None:
        """Stop or resume reading the socket, to limit the received bytes that wait for the HTTP parser.

        If `paused` is True, the socket is not read. If it is False, a pause by `pause_reading` still continues.
        """
        self.paused_for_unparsed = paused
        self._update()

    def _update(self) -> None:
        paused = self._body_unread or self.paused_for_unparsed
        if paused != self.read_paused:
            self.read_paused = paused
            (self._transport.pause_reading if paused else self._transport.resume_reading)()

    def pause_writing(self) -> None:
        """Make `wait_writable` wait until `resume_writing` is called, because the write buffer is full."""
        self.write_paused = True
        self._writable.clear()

    def resume_writing(self) -> None:
        """End the pause that `pause_writing` began, and wake all callers that wait in `wait_writable`."""
        self.write_paused = False
        self._writable.set()

    async def wait_writable(self) -> None:
        """Wait until the write buffer of the connection accepts bytes. Call this only if `write_paused` is True."""
        await self._writable.wait()
