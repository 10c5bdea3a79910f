"""Backpressure of one connection."""

import asyncio

from uvicorn.protocols.http.flow_control import FlowControl


class Flow(FlowControl):
    """Pauses reading while a body waits for the application, or while too many bytes wait to be parsed."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__(transport)
        self._body = False
        self.holds_unparsed = False
        """True while reading is paused because of unparsed bytes."""

    def pause_reading(self) -> None:
        """Pause until the body received so far is consumed."""
        self._body = True
        super().pause_reading()

    def resume_reading(self) -> None:
        """Continue as far as the body is concerned."""
        self._body = False
        if not self.holds_unparsed:
            super().resume_reading()

    def hold_unparsed(self, hold: bool) -> None:
        """Pause or continue as far as unparsed bytes are concerned."""
        self.holds_unparsed = hold
        if hold:
            super().pause_reading()
        elif not self._body:
            super().resume_reading()
