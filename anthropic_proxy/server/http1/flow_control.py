"""Backpressure between a client connection and the application, in both directions."""

import asyncio


class FlowControl:
    """Pauses reading while a body is unread or too many bytes are unparsed, and blocks writers of a full buffer."""

    __slots__ = ("_body_unread", "_transport", "_writable", "holds_unparsed", "read_paused", "write_paused")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._writable = asyncio.Event()
        self._body_unread = self.read_paused = self.write_paused = False
        self.holds_unparsed = False
        """True while reading is paused because of unparsed bytes."""

    def pause_reading(self) -> None:
        """Pause reading until the application has received the buffered body."""
        self._body_unread = True
        self._update()

    def resume_reading(self) -> None:
        """Resume reading of the body, unless too many bytes are unparsed."""
        if self._body_unread:
            self._body_unread = False
            self._update()

    def hold_unparsed(self, hold: bool) -> None:
        """Pause or resume reading because of the number of unparsed bytes."""
        self.holds_unparsed = hold
        self._update()

    def _update(self) -> None:
        paused = self._body_unread or self.holds_unparsed
        if paused != self.read_paused:
            self.read_paused = paused
            (self._transport.pause_reading if paused else self._transport.resume_reading)()

    def pause_writing(self) -> None:
        """Block `wait_writable` until `resume_writing` is called."""
        self.write_paused = True
        self._writable.clear()

    def resume_writing(self) -> None:
        """Unblock `wait_writable`."""
        self.write_paused = False
        self._writable.set()

    async def wait_writable(self) -> None:
        """Wait until the write buffer has room. Call this only while `write_paused` is true."""
        await self._writable.wait()
