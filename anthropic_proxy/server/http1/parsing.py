"""Parser of the requests of one connection, with limits of pipelining."""

import asyncio
from collections import deque

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from anthropic_proxy.errors import HeadersTooLarge, MalformedHttp, ProxyError, UriTooLong
from anthropic_proxy.server.http1.cycle import RequestResponseCycle
from anthropic_proxy.server.http1.flow import Flow
from anthropic_proxy.server.http1.intake import PIECE_BYTES, Intake
from anthropic_proxy.server.http1.request_target import (
    describe_parse_error,
    encode_head_without_upgrade,
    origin_form,
    split_target,
)
from anthropic_proxy.server.http1.timers import KeepAliveTimer, Timeout

HEAD_BYTES = 64 * 1024
"""Limit of an incomplete head; `server/auth.py` limits complete ones. Also the limit of chunk sizes, chunk extensions
and trailers between or after body pieces."""
MAX_PIPELINED_REQUESTS = 16
"""Requests that are parsed behind the one being answered. Further bytes stay unparsed."""
MAX_PIPELINED_BYTES = 1024 * 1024
"""Memory of those requests from which on no further one is parsed."""
MAX_UNPARSED_BYTES = 64 * 1024
"""Unparsed bytes up to which the socket is still read. Reading is what detects a disconnect."""
MAX_STEPS = 4096
"""Body pieces, header lines and trailers of one read after which other connections get a turn."""
_VERSIONS = ("1.1", "1.0")
_ASGI = {"version": "3.0", "spec_version": "2.3"}


class ParsingHttp(HttpToolsProtocol):
    """Parser side of a connection. Subclasses start requests and send errors."""

    cycle: RequestResponseCycle  # type: ignore[assignment]
    """Latest request with a complete head. None: no request yet."""
    pipeline: deque[RequestResponseCycle]  # type: ignore[assignment]
    """Requests that wait for the response of an earlier one."""
    flow: Flow

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Prepare for the first request."""
        super().connection_made(transport)
        self.flow = Flow(transport)
        self._intake = Intake()
        self._steps = self._head_bytes = 0
        self._in_head = self._in_body = self._upgrading = self._rejected = self._stopping = False
        self._ended = self._yielding = False
        self._head_timer = Timeout(self.loop)
        self._drain_timer = Timeout(self.loop)
        self._keep_alive_timer = KeepAliveTimer(self.loop, self.timeout_keep_alive, self._close)

    def data_received(self, data: bytes) -> None:
        """Parse received bytes. Unlike uvicorn, ignore offers of a protocol upgrade."""
        if self._rejected:
            return
        self._steps = 0
        if not (self._in_head or self.pipeline or self._intake.data):
            data = self._parse_ordinary(data)
        if data:
            self._intake.add(data)
            self._parse()

    def on_message_begin(self) -> None:
        """Begin a request head."""
        self._in_head = True
        self._keep_alive_timer.stop()
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header. Trailers are not stored, because nothing reads them."""
        if self._in_head:
            self.headers.append((name.lower(), value))
        else:
            self._steps += 1

    def on_headers_complete(self) -> None:
        """Start the request, unless the parser expects another protocol after an upgrade."""
        version = self.parser.get_http_version()
        if version not in _VERSIONS:
            raise MalformedHttp(f"HTTP/{version} is not spoken here; HTTP/1.1 is.")
        method = self.parser.get_method()
        if method == b"CONNECT":
            raise MalformedHttp("CONNECT is not served: this proxy forwards requests of the Messages API only.")
        if not self.url.startswith(b"/"):
            self.url = origin_form(self.url, self.headers)
        self._in_head = False
        self._head_bytes = 0
        self._steps += len(self.headers)
        for name, value in self.headers:
            if name == b"content-length" and value.isdigit():
                self._intake.body_left = int(value)
            elif name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
        if self._head_timer.timer is not None:
            self._head_timer.stop()
        self._upgrading = self.parser.should_upgrade()
        if self._upgrading:
            return
        before, cycle = self.cycle, self._new_cycle(method.decode("ascii"), version)
        self.cycle = cycle
        self._in_body = True
        if before is None or before.response_complete:
            self._start(cycle)
        else:
            self.pipeline.append(cycle)

    def on_body(self, body: bytes) -> None:
        """Feed a piece of the body to the request."""
        self._head_bytes = 0
        self._steps += 1
        if not self.cycle.response_complete:
            self.cycle.feed(body)

    def on_message_complete(self) -> None:
        """End the request."""
        self._in_body = False
        if self._upgrading:
            return
        self._head_bytes = 0
        self._intake.expect_line()
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self._drain_timer.timer is not None:
            self._drain_timer.stop()
        if self.cycle.response_complete:
            self._keep_alive_timer.start()
        else:
            self.cycle.finish()

    def _parse_ordinary(self, data: bytes) -> bytes:
        """Parse a read of one head, one head with its body, or a piece of a body; return the remaining bytes.

        Fast path of nearly all reads: stores nothing and searches no byte twice.
        """
        intake, start = self._intake, 0
        if not self._in_body:
            start = intake.measure_head(data, HEAD_BYTES)
            if not start:
                return data
            if error := self._feed(data[:start]):
                self._send_error(error)
                return b""
        length = len(data) - start
        if not length:
            return b""
        if length > intake.body_left:
            return data[start:]
        intake.body_left -= length
        if error := self._feed(memoryview(data)[start:]):
            self._send_error(error)
        elif self._in_body:
            self.cycle.schedule_wakeup(self.loop)
        return b""

    def _parse(self) -> None:
        """Parse received bytes, up to the limits of pipelining."""
        intake = self._intake
        while intake.data and not (self._rejected or self._is_full()):
            if self._steps > MAX_STEPS:
                self._yield()
                break
            piece = intake.pop(min(HEAD_BYTES + 1 - self._head_bytes, PIECE_BYTES))
            self._head_bytes += len(piece)
            if error := self._find_error(piece):
                self._send_error(error)
        if self._in_body and not self._rejected:
            self.cycle.schedule_wakeup(self.loop)
        hold = not self._rejected and (self._yielding or len(intake) > MAX_UNPARSED_BYTES)
        if hold != self.flow.holds_unparsed:
            self.flow.hold_unparsed(hold)
        if self._in_head and self._head_timer.timer is None and not self._rejected:
            self._limit_head()
        if self._ended:
            self._end()

    def _is_full(self) -> bool:
        """Return whether the next request must stay unparsed."""
        pipeline = self.pipeline
        if not pipeline or self._in_head or self._in_body:
            return False
        waiting = sum(cycle.waiting_bytes() for cycle in pipeline)
        return len(pipeline) >= MAX_PIPELINED_REQUESTS or waiting > MAX_PIPELINED_BYTES

    def _yield(self) -> None:
        """Parse the remaining bytes in a later iteration of the event loop."""
        if not self._yielding:
            self._yielding = True
            self.loop.call_soon(self._resume)

    def _resume(self) -> None:
        self._yielding, self._steps = False, 0
        if not self.transport.is_closing():
            self._parse()

    def _is_mid_request(self) -> bool:
        return self._in_head or self._in_body or bool(self._intake.data)

    def _find_error(self, piece: memoryview) -> ProxyError | None:
        """Feed a piece to the parser and return the error of bytes that are no request. None: no error."""
        if not self._intake.accepts_line(piece):
            return MalformedHttp(
                describe_parse_error(piece, "method, address and HTTP/1.1 must have one space between each")
            )
        if error := self._feed(piece):
            return error
        if self._head_bytes <= HEAD_BYTES:
            return None
        if self._in_head and len(self.url) > HEAD_BYTES // 2:
            return UriTooLong(f"The address has more than {HEAD_BYTES:,} bytes.")
        return HeadersTooLarge(f"The headers have more than {HEAD_BYTES:,} bytes.")

    def _new_cycle(self, method: str, version: str) -> RequestResponseCycle:
        cycle = RequestResponseCycle(
            self.transport,
            self.flow,
            default_headers=self.server_state.default_headers,
            keep_alive=version != "1.0" and self.parser.should_keep_alive() and not self._stopping,
            waits_for_continue=self.expect_100_continue and version != "1.0",
            on_response=self.on_response_complete,
            close_connection=self._close_gracefully,
        )
        path, raw_path, query = split_target(self.url)
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

    def _feed(self, piece: bytes | memoryview) -> ProxyError | None:
        """Feed the parser and return its error. None: no error."""
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as offer:
            return self._ignore_upgrade(piece[offer.args[0] :]) if self._upgrading else None
        except httptools.HttpParserError as error:
            cause = error.__context__  # the error that a callback above raised
            return cause if isinstance(cause, ProxyError) else MalformedHttp(describe_parse_error(piece, str(error)))
        return None

    def _ignore_upgrade(self, remaining: bytes | memoryview) -> ProxyError | None:
        """Parse the head again without its upgrade offer, then the remaining bytes; return the error, if any."""
        parser = self.parser
        head = encode_head_without_upgrade(parser.get_method(), self.url, parser.get_http_version(), self.headers)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return self._feed(head) or self._feed(remaining)

    def _limit_head(self) -> None:
        raise NotImplementedError

    def _end(self) -> None:
        raise NotImplementedError

    def _start(self, cycle: RequestResponseCycle) -> None:
        raise NotImplementedError

    def _send_error(self, error: ProxyError) -> None:
        raise NotImplementedError

    def _close(self) -> None:
        raise NotImplementedError

    def _close_gracefully(self) -> None:
        raise NotImplementedError
