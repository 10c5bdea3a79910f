"""HTTP as uvicorn reads it, with what it leaves open: a time and a size for the head of a request, refusals in the
envelope, and upgrades that are not taken up. `cycle` is what an application sees of it.
"""

import asyncio
from collections import deque
from typing import Any, Protocol

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from anthropic_proxy.errors import (
    AddressTooLong,
    HeadersTooLarge,
    ProxyError,
    RequestTimeout,
    Stopping,
    UnreadableRequest,
)
from anthropic_proxy.server.protocol.cycle import Cycle
from anthropic_proxy.server.protocol.deadline import Deadline
from anthropic_proxy.server.protocol.resting import RestLimit
from anthropic_proxy.server.protocol.targets import cut_target, describe, encode_without_upgrade, with_path
from anthropic_proxy.server.protocol.unread import WriteLimit
from anthropic_proxy.server.replies import encode_error, error_headers

HEAD_SECONDS = 30.0
"""The longest time for request line and headers; a connection that says nothing at all is closed after it too."""
HEAD_BYTES = 64 * 1024
"""What of an unfinished head is kept; a finished one is the guard's to judge. Also what may come between two pieces of
a body, or behind it: sizes and extensions of chunks, and trailers, which nobody reads."""
LINGER_SECONDS = 10.0
"""How long a body may still come after its request was answered: a client that writes does not read the answer yet."""
WRITE_SECONDS = 300.0
"""How long a client may take nothing of what is written to it, before it is hung up on."""
FIRST_WORD_SECONDS = 0.5
"""How long a client that has just come is waited for by a server that stops: its request may be on its way."""
MOST_BEHIND = 16
"""Requests behind the one being answered with which a connection is still read, so that its end is noticed at once."""
_OF_NO_COST = frozenset(("GET", "HEAD"))
_VERSIONS = ("1.1", "1.0")
_ASGI = {"version": "3.0", "spec_version": "2.3"}


class Refusing(Protocol):
    """What the application does for requests that cannot be read."""

    def note_refusal(self, error: ProxyError) -> str:
        """Write the line of such a request and return its id."""
        ...


class GuardedHttp(HttpToolsProtocol):
    """One connection of a client."""

    head_seconds = HEAD_SECONDS
    linger_seconds = LINGER_SECONDS
    write_seconds = WRITE_SECONDS
    app: Any
    """The ASGI application, which is `Refusing` too."""
    cycle: Cycle  # type: ignore[assignment]
    """The last request whose head was read; None before the first."""
    pipeline: deque[Cycle]  # type: ignore[assignment]
    """Those whose answers wait for the one before."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._in_head = self._in_body = self._upgrading = self._unreadable = self._stopping = False
        self._head_bytes = 0
        self._running: Cycle | None = None
        """Whose answer is the next to be written; those in the pipeline wait for it."""
        self._unread = WriteLimit(self.loop, transport, self.write_seconds)
        self._lingering = Deadline(self.loop)
        self._head = Deadline(self.loop)
        self._rest = RestLimit(self.loop, self.timeout_keep_alive, self._close)
        self._head.start(self.head_seconds, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the client."""
        self._head.stop()
        self._lingering.stop()
        self._unread.stop()
        self._rest.drop()
        self._disconnect()
        self.connections.discard(self)
        self.flow.resume_writing()
        self.parser = None  # type: ignore[assignment]

    def eof_received(self) -> bool:  # type: ignore[override]
        """Take it that the client has left, unless it waits for nothing but answers that cost nothing.

        Who has only ended its own side looks the same until something is written, and an upstream that nobody waits
        for costs money.
        """
        unfinished = self._unfinished()
        self._unread.start()
        if self._in_head or self._in_body or any(cycle.scope["method"] not in _OF_NO_COST for cycle in unfinished):
            self._disconnect()
        elif unfinished:
            unfinished[-1].keep_alive = False
            return True
        return False

    def shutdown(self) -> None:
        """Answer what was asked, or is being asked, and hang up then."""
        self._stopping = True
        if self.cycle is None and not self._in_head:
            self._head.start(min(FIRST_WORD_SECONDS, self.head_seconds), self._give_up)
        elif not self._in_head:
            super().shutdown()

    def close_if_idle(self) -> None:
        """Hang up where a client keeps the connection for later."""
        if self.cycle is not None and self.cycle.response_complete and not (self._in_head or self._in_body):
            self._close()

    def seconds_in_head(self) -> float:
        """Return for how long a request was waited for; 0 where none is."""
        return self._head.seconds()

    def pause_writing(self) -> None:
        """Write no more for now, and look whether the client takes what was written."""
        super().pause_writing()
        self._unread.start()

    def resume_writing(self) -> None:
        """Go on writing."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._unread.stop()

    def data_received(self, data: bytes) -> None:
        """Read what came; unlike uvicorn's own, go on in HTTP where an upgrade was offered."""
        if self._unreadable:
            return
        self._head_bytes += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            cause = error.__context__  # what a method below raised
            self._refuse(cause if isinstance(cause, ProxyError) else UnreadableRequest(describe(data, error)))
            return
        if self._in_body:
            self.cycle.tell_soon(self.loop)
        elif self._in_head and self._head.timer is None:
            self._head.start(self.head_seconds, self._give_up)
        if self._head_bytes > HEAD_BYTES and (self._in_head or self._in_body):
            self._refuse(
                AddressTooLong(f"The address has more than {HEAD_BYTES:,} bytes.")
                if self._in_head and len(self.url) > HEAD_BYTES // 2
                else HeadersTooLarge(f"The headers have more than {HEAD_BYTES:,} bytes.")
            )

    def on_message_begin(self) -> None:
        """Begin to read a head."""
        self._in_head = True
        self._head_bytes = 0
        self._rest.stop()
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        """Start the application, unless the parser takes the body for another protocol's."""
        version = self.parser.get_http_version()
        if version not in _VERSIONS:
            raise UnreadableRequest(f"HTTP/{version} is not spoken here; HTTP/1.1 is.")
        if not self.url.startswith(b"/"):
            self.url = with_path(self.url, self.headers)
        self._in_head = False
        self._head_bytes = 0
        self._head.stop()
        method = self.parser.get_method()
        self._upgrading = self.parser.should_upgrade() and method != b"CONNECT"
        if self._upgrading:
            return
        before, cycle = self.cycle, self._new_cycle(method.decode("ascii"), version)
        self.cycle = cycle
        self._in_body = True
        self.headers = []  # what comes behind the body is none of the headers that the guard judges
        if before is None or before.response_complete:
            self._start(cycle)
        else:
            self.pipeline.append(cycle)
            if len(self.pipeline) > MOST_BEHIND:
                self.flow.pause_reading()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._head_bytes = 0
        if not self.cycle.response_complete:
            self.cycle.feed(body)

    def on_message_complete(self) -> None:
        """End the request."""
        self._in_body = False
        if self._upgrading:
            return
        if self._lingering.timer is not None:
            self._lingering.stop()
        if self.cycle.response_complete:
            self._rest.start()
        else:
            self.cycle.finish()

    def on_response_complete(self) -> None:
        """Go on with the next request; one whose body still comes may not take for ever."""
        if self.transport.is_closing():
            self._unread.start()
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start(self.pipeline.popleft())
        elif not self._in_body:
            self._rest.start()
        elif self._lingering.timer is None:
            self._lingering.start(self.linger_seconds, self._close)

    def _new_cycle(self, method: str, version: str) -> Cycle:
        cycle = Cycle(
            self.transport,
            self.flow,
            default_headers=self.server_state.default_headers,
            keep_alive=version != "1.0" and self.parser.should_keep_alive() and not self._stopping,
            waits_for_continue=self.expect_100_continue,
            on_response=self.on_response_complete,
            hang_up=self._hang_up,
        )
        path, raw_path, query = cut_target(self.url)
        cycle.scope = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "method": method,
            "root_path": "",
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": self.headers,
        }
        return cycle

    def _start(self, cycle: Cycle) -> None:
        self._running = cycle
        task = self.loop.create_task(cycle.run(self.app))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _feed(self, data: bytes) -> None:
        rest: bytes | memoryview = data
        while True:
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as offer:
                if self._upgrading:
                    rest = memoryview(rest)[offer.args[0] :]
                    self._stay_in_http()
                    continue
            return

    def _stay_in_http(self) -> None:
        """Read the head again without its offer to speak another protocol: nobody has to take that up."""
        head = encode_without_upgrade(self.parser.get_method(), self.url, self.headers)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.parser.feed_data(head)

    def _unfinished(self) -> list[Cycle]:
        """Return the requests that have no whole answer yet, in their order."""
        running = self._running
        return [*self.pipeline] if running is None or running.response_complete else [running, *self.pipeline]

    def _disconnect(self) -> None:
        """Tell all that was asked here that nobody waits for it any longer."""
        for cycle in self._unfinished():
            cycle.disconnected = True
            cycle.tell()
        self._drop_pipeline()

    def _drop_pipeline(self) -> None:
        while self.pipeline:
            self.pipeline.pop().drop()

    def _close(self) -> None:
        self.transport.close()
        self._unread.start()

    def _give_up(self) -> None:
        self._head.stop()
        if self._in_head:
            late = RequestTimeout(f"The headers were not complete after {self.head_seconds:g} s.")
            self._refuse(Stopping() if self._stopping else late)
        else:
            self.transport.abort()

    def _refuse(self, error: ProxyError) -> None:
        """Answer in the envelope and hang up; where an earlier request is being answered, let that end first."""
        if self._unreadable:
            return
        self._unreadable = True
        self._head.stop()
        request_id = self.app.note_refusal(error)
        unfinished = self._unfinished()
        if unfinished and self._in_body and not self.cycle.response_started:
            broken = unfinished.pop()  # its body is what cannot be read: this is its answer
            broken.disconnected = True
            broken.tell()
            if unfinished:
                self.pipeline.pop().drop()
        if unfinished:
            self.cycle = unfinished[-1]
            self.cycle.keep_alive = False
            return
        body = encode_error(error, request_id)
        headers = {**error_headers(error, request_id), "content-length": str(len(body)), "connection": "close"}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(STATUS_LINE[error.status] + head.encode("latin-1") + b"\r\n" + body)
        self._hang_up()

    def _hang_up(self) -> None:
        """Close; where the client may still write, first say that we have ended, and let it read why.

        A connection that is closed before all was read is reset, and what its client has not read yet is lost.
        """
        self._head.stop()
        self._drop_pipeline()
        if not (self._in_head or self._in_body) or self.transport.is_closing():
            self._close()
            return
        self._unreadable = True
        self.transport.write_eof()
        self._lingering.start(self.linger_seconds, self._close)
