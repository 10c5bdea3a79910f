"""HTTP/1.1 connection of a client: an `asyncio.Protocol` that parses client requests with httptools, within limits.

Theory of operation. asyncio passes received bytes to `data_received`. httptools calls the `on_*` methods for each
parsed element, within its `feed_data`. Almost every read of a socket is one complete head, one head with its body, or
one piece of a body: `_parse_ordinary` passes such bytes to the parser without a copy. All other bytes go through a
buffer and `_parse`, which cuts them into pieces. The connection does more than pass bytes to httptools, for two
reasons: httptools has no limits, and it accepts request lines that another HTTP program could read differently (request
smuggling). So each head is counted and its request line is checked before the parser reads it, parsing pauses after a
number of callbacks, and it stops while too many requests wait for the response of an earlier one. The bytes that then
stay unparsed are limited too, by pausing the socket.

`_in_head` is True from the first byte of a request until its headers are complete, `_in_body` from there to the end of
its body, and `_rejected` after an error: further bytes are ignored. The base class has the life of the connection:
timeouts, order of responses, closing.
"""

import asyncio
import re
import urllib.parse
from functools import lru_cache

import httptools

from anthropic_proxy.errors import HeadersTooLarge, MalformedHttp, ProxyError, UriTooLong
from anthropic_proxy.gateway.server.http1.cycle import RequestResponseCycle
from anthropic_proxy.gateway.server.http1.lifecycle import MAX_PIECE_BYTES, ConnectionLifecycle, ServerState

MAX_HEAD_BYTES = 64 * 1024
"""Maximum size of an incomplete request head (request line and headers). A larger one is rejected with 414 or 431."""
MAX_PIPELINED_REQUESTS = 16
"""Maximum number of parsed requests that wait for the response of an earlier one. Further bytes stay unparsed."""
MAX_PIPELINED_BYTES = 1024 * 1024
MAX_UNPARSED_BYTES = 64 * 1024
"""Maximum number of unparsed bytes with which the socket is still read. Reading is necessary to detect a disconnect."""
MAX_PARSE_STEPS_PER_ITERATION = 4096
"""Number of body pieces, header lines and trailers after which parsing pauses, so that other connections are served."""
_VERSIONS = ("1.1", "1.0")
_ASGI = {"version": "3.0", "spec_version": "2.3"}


class Http1Connection(ConnectionLifecycle):
    """Client connection with one `RequestResponseCycle` for each request. Offers such as `Upgrade: h2c` are ignored."""

    def __init__(self, state: ServerState) -> None:
        super().__init__(state)
        self._parser = self._new_parser()
        self._received_url = bytearray()
        self._headers: list[tuple[bytes, bytes]] = []
        self._steps = self._head_bytes = 0
        self._upgrading = self._awaits_continue = self._parsing_scheduled = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        address, peer = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
        self._server = address[:2] if address else None
        self._client = peer[:2] if peer else None
        self._scheme = "https" if self._encrypted else "http"

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        del self._parser  # breaks a reference cycle

    def data_received(self, data: bytes) -> None:
        if self._rejected:
            return
        self._steps = 0
        if not (self._in_head or self.pipeline or self._buffer.data):
            data = self._parse_ordinary(data)
        if data:
            self._buffer.append(data)
            self._parse()

    def on_message_begin(self) -> None:
        self._in_head = True
        self._keep_alive_timer.end_idle()
        self._received_url = bytearray()
        self._awaits_continue = False
        self._headers = []

    def on_url(self, url: bytes) -> None:
        self._received_url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            self._headers.append((name.lower(), value))
        else:
            self._steps += 1

    def on_headers_complete(self) -> None:
        """Raises `MalformedHttp` for an unsupported HTTP version or method."""
        version = self._parser.get_http_version()
        if version not in _VERSIONS:
            raise MalformedHttp(f"HTTP/{version} is not supported; use HTTP/1.1.")
        method = self._parser.get_method()
        if method == b"CONNECT":
            raise MalformedHttp("CONNECT is not served: this proxy forwards requests of the Messages API only.")
        self._url = bytes(self._received_url)
        if not self._url.startswith(b"/"):
            self._url = normalize_request_target(self._url, self._headers)
        self._in_head = False
        self._head_bytes = 0
        self._steps += len(self._headers)
        fields = dict(self._headers)
        if (length := fields.get(b"content-length", b"")).isdigit():
            self._buffer.body_left = int(length)
        if fields.get(b"expect", b"").lower() == b"100-continue":
            self._awaits_continue = True
        if self._head_timer.timer is not None:
            self._head_timer.stop()
        self._upgrading = self._parser.should_upgrade()
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
        self._head_bytes = 0
        self._steps += 1
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.feed_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        if self._upgrading:
            return
        self._head_bytes = 0
        self._buffer.begin_request_line()
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self._drain_timer.timer is not None:
            self._drain_timer.stop()
        if self.cycle is None or self.cycle.response_complete:
            self._keep_alive_timer.begin_idle()
        else:
            self.cycle.finish_body()

    def _parse_ordinary(self, data: bytes) -> bytes:
        """Parse the bytes of one socket read if they have a common structure. Return the unparsed ones."""
        buffer, start = self._buffer, 0
        if not self._in_body:
            start = buffer.accept_complete_head(data, MAX_HEAD_BYTES)
            if not start:
                return data
            if error := self._feed_parser(data[:start]):
                self._send_error(error)
                return b""
        length = len(data) - start
        if not length:
            return b""
        if length > buffer.body_left:
            return data[start:]
        buffer.body_left -= length
        if error := self._feed_parser(memoryview(data)[start:]):
            self._send_error(error)
        elif self._in_body and self.cycle is not None:
            self.cycle.schedule_wakeup(self._loop)
        return b""

    def _parse(self) -> None:
        buffer = self._buffer
        while buffer.data and not (self._rejected or self._is_full()):
            if self._steps > MAX_PARSE_STEPS_PER_ITERATION:
                self._schedule_parsing()
                break
            piece = buffer.pop_piece(min(MAX_HEAD_BYTES + 1 - self._head_bytes, MAX_PIECE_BYTES))
            self._head_bytes += len(piece)
            if error := self._find_error(piece):
                self._send_error(error)
        if self._in_body and self.cycle is not None and not self._rejected:
            self.cycle.schedule_wakeup(self._loop)
        hold = not self._rejected and (self._parsing_scheduled or len(buffer) > MAX_UNPARSED_BYTES)
        if hold != self.flow.paused_for_unparsed:
            self.flow.set_paused_for_unparsed(hold)
        if self._in_head and self._head_timer.timer is None and not self._rejected:
            self._start_head_timer()
        if self._ended:
            self._end()

    def _is_full(self) -> bool:
        pipeline = self.pipeline
        if not pipeline or self._in_head or self._in_body:
            return False
        waiting = sum(cycle.estimate_memory_bytes() for cycle in pipeline)
        return len(pipeline) >= MAX_PIPELINED_REQUESTS or waiting > MAX_PIPELINED_BYTES

    def _schedule_parsing(self) -> None:
        if not self._parsing_scheduled:
            self._parsing_scheduled = True
            self._loop.call_soon(self._resume_parsing)

    def _resume_parsing(self) -> None:
        self._parsing_scheduled, self._steps = False, 0
        if not self.transport.is_closing():
            self._parse()

    def _find_error(self, piece: memoryview) -> ProxyError | None:
        """Return the error if the piece is invalid or exceeds a limit."""
        if not self._buffer.feed_request_line(piece):
            return MalformedHttp(
                describe_parse_error(piece, "method, address and HTTP/1.1 must have one space between each")
            )
        if error := self._feed_parser(piece):
            return error
        if self._head_bytes <= MAX_HEAD_BYTES:
            return None
        if self._in_head and len(self._received_url) > MAX_HEAD_BYTES // 2:
            return UriTooLong(f"The address has more than {MAX_HEAD_BYTES:,} bytes.")
        return HeadersTooLarge(f"The headers have more than {MAX_HEAD_BYTES:,} bytes.")

    def _new_cycle(self, method: str, version: str) -> RequestResponseCycle:
        path, raw_path, query = split_target(self._url)
        is_stopping = self._stopping or self._state.draining
        scope = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "server": self._server,
            "client": self._client,
            "scheme": self._scheme,
            "method": method,
            "root_path": "",
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": self._headers,
        }
        return RequestResponseCycle(
            scope,
            self.transport,
            self.flow,
            default_headers=self._state.default_headers,
            keep_alive=version != "1.0" and self._parser.should_keep_alive() and not is_stopping,
            waits_for_continue=self._awaits_continue and version != "1.0",
            count_freed_bytes=self._state.heap_trimmer.count_freed_bytes,
            on_response=self._end_response,
            close_connection=self._close_gracefully,
        )

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # otherwise, bytes after a request with `Connection: close` would make that request fail too
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _feed_parser(self, piece: bytes | memoryview) -> ProxyError | None:
        """Pass bytes to the parser. Return the parser's error, or the error that a callback raised."""
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade as offer:
            return self._ignore_upgrade(piece[offer.args[0] :]) if self._upgrading else None
        except httptools.HttpParserError as error:
            cause = error.__context__  # the error that an `on_*` callback raised
            return cause if isinstance(cause, ProxyError) else MalformedHttp(describe_parse_error(piece, str(error)))
        return None

    def _ignore_upgrade(self, remaining: bytes | memoryview) -> ProxyError | None:
        """Parse the request head again without its offer of another protocol, then `remaining`."""
        parser = self._parser
        head = encode_head_without_upgrade(parser.get_method(), self._url, parser.get_http_version(), self._headers)
        self._parser = self._new_parser()
        return self._feed_parser(head) or self._feed_parser(remaining)


_TLS_HANDSHAKE = b"\x16"
_UPGRADE_HEADERS = frozenset((b"connection", b"upgrade", b"http2-settings"))
_ABSOLUTE_FORM = re.compile(rb"([^:/?]+)://([^/?]*)(.*)", re.DOTALL)
_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}


@lru_cache(maxsize=16)
def split_target(target: bytes) -> tuple[str, bytes, bytes]:
    """Return the percent-decoded path, the path as received, and the query. Raises `MalformedHttp`."""
    try:
        url = httptools.parse_url(target)
    except httptools.HttpParserInvalidURLError:
        raise MalformedHttp("The address in the request line is neither a path nor a complete URL.") from None
    path = url.path.decode("ascii")
    return urllib.parse.unquote(path) if "%" in path else path, url.path, url.query or b""


def normalize_request_target(target: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    """Add the path `/` to a URL without one. Raises `MalformedHttp` if a URL contradicts `Host` (RFC 9112, 3.2.2)."""
    found = _ABSOLUTE_FORM.fullmatch(target)
    if found is None:
        return target
    scheme, authority, remainder = found.groups()
    port = _DEFAULT_PORTS.get(scheme.lower(), b":")
    for name, value in headers:
        if name == b"host" and value.lower().removesuffix(port) != authority.lower().removesuffix(port):
            raise MalformedHttp("The address in the request line names another host than the Host header.")
    return target if remainder[:1] == b"/" else b"%b://%b/%b" % (scheme, authority, remainder)


def encode_head_without_upgrade(
    method: bytes, target: bytes, version: str, headers: list[tuple[bytes, bytes]]
) -> bytes:
    """The parser reads this head in place of the received one. A header `Connection: close` is kept."""
    closes = any(name == b"connection" and b"close" in value.lower() for name, value in headers)
    kept = [header for header in headers if header[0] not in _UPGRADE_HEADERS]
    if closes:
        kept.append((b"connection", b"close"))
    lines = b"".join(b"%b: %b\r\n" % header for header in kept)
    return b"%b %b HTTP/%b\r\n%b\r\n" % (method, target, version.encode(), lines)


def describe_parse_error(data: bytes | memoryview, error: str) -> str:
    if data[:1] == _TLS_HANDSHAKE:
        return "The request is TLS instead of HTTP: the address of this proxy begins with http://, not https://."
    return f"The request is not valid HTTP: {error}."
