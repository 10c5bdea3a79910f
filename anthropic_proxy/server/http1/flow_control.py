"""Backpressure between a client connection and the application, in both directions."""

import asyncio


class FlowControl:
    """Flow control of one connection.

    Reading pauses while a request body is unread or too many bytes are unparsed; writers wait while the buffer is full.
    """

    __slots__ = ("_body_unread", "_transport", "_writable", "paused_for_unparsed", "read_paused", "write_paused")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._writable = asyncio.Event()
        self._body_unread = self.read_paused = self.write_paused = False
        self.paused_for_unparsed = False
        """True while reading is paused because of unparsed bytes."""

    def pause_reading(self) -> None:
        """Pause reading until the application has received the buffered body."""
        self._body_unread = True
        self._update()

    def resume_reading(self) -> None:
        """End the pause of `pause_reading`. Reading stays paused while too many bytes are unparsed."""
        if self._body_unread:
            self._body_unread = False
            self._update()

    def pause_for_unparsed(self, paused: bool) -> None:
        """Pause reading because too many bytes are unparsed, or end this pause."""
        self.paused_for_unparsed = paused
        self._update()

    def _update(self) -> None:
        paused = self._body_unread or self.paused_for_unparsed
        if paused != self.read_paused:
            self.read_paused = paused
            (self._transport.pause_reading if paused else self._transport.resume_reading)()

    def pause_writing(self) -> None:
        """Make `wait_writable` wait until `resume_writing` is called."""
        self.write_paused = True
        self._writable.clear()

    def resume_writing(self) -> None:
        """Wake the waiters of `wait_writable`."""
        self.write_paused = False
        self._writable.set()

    async def wait_writable(self) -> None:
        """Wait until the write buffer has room. Call this only while `write_paused` is true."""
        await self._writable.wait()
