"""The client of the suite: it keeps each read with its time, and can close a connection in the middle."""

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from messages_conformance.events import Event, EventReader, decode, join_message
from messages_conformance.http1 import BrokenReply, Connection, TimeIsOver
from messages_conformance.rows import SuiteError

ENDPOINTS = ("/v1/messages", "/v1")
MAX_EVENTS = 200_000
"""Maximum number of events of a stream."""


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    """Below the address of the server: `/v1/messages`."""
    headers: tuple[tuple[str, str], ...]
    body: bytes | None

    @property
    def json(self) -> Any:
        return None if self.body is None else decode(self.body.decode("utf-8", "replace"))


@dataclass
class Exchange:
    """A request and what came back for it, with the time of each read."""

    request: Request
    status: int = 0
    """0: no reply."""
    headers: tuple[tuple[str, str], ...] = ()
    reads: list[tuple[float, bytes]] = field(default_factory=list)
    """Each read of the body: seconds from the start of the request, and the bytes."""
    events: list[Event] = field(default_factory=list)
    """Empty, unless the reply is an event stream."""
    failure: str = ""
    """What went wrong below the API: no connection, a reply that ends too early, no end in time. "": nothing."""
    is_endless: bool = False
    """The reply was still coming at the end of the time for it."""
    was_cut: bool = False
    """The client has closed the connection before the end, as its step says."""
    head_seconds: float = 0.0
    """Time of the head of the reply, from the start of the request."""
    seconds: float = 0.0
    """Time of the end."""

    def header(self, name: str) -> str | None:
        """Return the first value of a header."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    @property
    def is_stream(self) -> bool:
        return (self.header("content-type") or "").lower().startswith("text/event-stream")

    @cached_property
    def body(self) -> bytes:
        return b"".join(data for _, data in self.reads)

    @cached_property
    def json(self) -> Any:
        """The decoded body, a text if it is no JSON."""
        return decode(self.body.decode("utf-8", "replace"))

    @cached_property
    def message(self) -> dict[str, Any] | None:
        """The message of the reply, of a stream as far as it came. None: there is none."""
        if self.is_stream:
            return join_message(self.events)
        reply = self.json
        return reply if isinstance(reply, dict) and reply.get("type") == "message" else None

    @cached_property
    def error(self) -> dict[str, Any] | None:
        """The object `error` of an error reply or an error event. None: there is none."""
        replies = [event.data for event in self.events] if self.is_stream else [self.json]
        for reply in replies:
            if isinstance(reply, dict) and reply.get("type") == "error" and isinstance(reply.get("error"), dict):
                return reply["error"]  # type: ignore[no-any-return]
        return None


class Server:
    """The server under test, by its address: with or without a path, with or without `/v1/messages`."""

    def __init__(self, url: str, *, timeout: float = 60) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            port = parts.port
        except ValueError as error:
            raise SuiteError(f"the URL {url!r} has an invalid port") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SuiteError(f"the URL is {url!r}; it has to begin with http:// or https://")
        if parts.username is not None or parts.query or parts.fragment:
            raise SuiteError("the URL has a user, a query or a fragment; use --header for credentials")
        path = parts.path.rstrip("/")
        for endpoint in ENDPOINTS:
            path = path.removesuffix(endpoint)
        self.url = f"{parts.scheme}://{parts.netloc}{path}"
        """Address to which the paths of requests are added."""
        if not self.url.isascii() or not self.url.isprintable() or " " in self.url:
            raise SuiteError(f"the URL is {url!r}; letters outside ASCII and spaces have to be written as %XX")
        self._timeout = timeout
        self._path = path
        self._host_header = parts.netloc
        self._address = (parts.hostname, port or (443 if parts.scheme == "https" else 80))
        self._context = ssl.create_default_context() if parts.scheme == "https" else None
        self._lock = threading.RLock()  # the handler of a signal may hang up in a thread that has it
        self._opened = set[socket.socket]()
        self._is_over = False

    def hang_up(self) -> None:
        """Close all connections, and open no others."""
        with self._lock:
            self._is_over = True
            for opened in self._opened:
                with suppress(OSError):
                    opened.shutdown(socket.SHUT_RDWR)

    def accepts_connections(self) -> bool:
        """Tell whether a connection can be opened."""
        try:
            with socket.create_connection(self._address, timeout=5):
                return True
        except (OSError, UnicodeError):  # of a name that no server can have
            return False

    def send(self, request: Request, cut_after: str = "", saw: Callable[[str], None] = lambda _: None) -> Exchange:
        """Send a request and read the reply, to its end or to the first event of the type `cut_after`.

        `saw` is told the type of each event.
        """
        exchange = Exchange(request)
        started = time.monotonic()
        try:
            with self._connect() as connection:
                self._exchange(connection, exchange, started, cut_after, saw)
        except BrokenReply as broken:
            exchange.failure = str(broken)
            exchange.is_endless = isinstance(broken, TimeIsOver)
        except (OSError, UnicodeError) as error:
            exchange.failure = f"{'the connection was closed' if exchange.status else 'no reply'}: {error}"
        exchange.seconds = time.monotonic() - started
        exchange.failure = exchange.failure or _find_coding_fault(exchange)
        return exchange

    @contextmanager
    def _connect(self) -> Iterator[Connection]:
        with socket.create_connection(self._address, timeout=self._timeout) as opened:
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is None:
                with self._keep(opened):
                    yield Connection(opened, silence=self._timeout, seconds=2 * self._timeout)
                return
            with self._context.wrap_socket(opened, server_hostname=self._address[0]) as secured, self._keep(secured):
                yield Connection(secured, silence=self._timeout, seconds=2 * self._timeout)

    @contextmanager
    def _keep(self, opened: socket.socket) -> Iterator[None]:
        with self._lock:
            self._opened.add(opened)
        try:
            if self._is_over:
                raise ConnectionAbortedError("the run has ended")
            yield
        finally:
            with self._lock:
                self._opened.discard(opened)

    def _exchange(
        self, connection: Connection, exchange: Exchange, started: float, cut_after: str, saw: Callable[[str], None]
    ) -> None:
        request = exchange.request
        refused: OSError | None = None
        try:
            connection.send(self._write_request(request))
        except OSError as error:
            refused = error  # a server may answer before it has read the body, and close the connection
        try:
            head = connection.read_head()
        except (OSError, BrokenReply):
            if refused is not None:
                raise refused from None
            raise
        exchange.status = head.status
        exchange.headers = head.headers
        exchange.head_seconds = time.monotonic() - started
        reader = EventReader()
        exchange.events = reader.events
        for data in connection.read_body(head, request.method):
            seconds = time.monotonic() - started
            exchange.reads.append((seconds, data))
            if not exchange.is_stream:
                continue
            new = reader.feed(seconds, data)
            for event in new:
                saw(event.type)
            if cut_after and any(event.type == cut_after for event in new):
                exchange.was_cut = True
                return
            if len(reader.events) > MAX_EVENTS:
                raise BrokenReply(f"the stream has more than {MAX_EVENTS:,} events")

    def _write_request(self, request: Request) -> bytes:
        lines = [f"{request.method} {self._path}{request.path} HTTP/1.1", f"host: {self._host_header}"]
        lines += ["accept-encoding: identity", *(f"{name}: {value}" for name, value in request.headers)]
        if request.body is not None:
            lines.append(f"content-length: {len(request.body)}")
        return "\r\n".join([*lines, "", ""]).encode("utf-8") + (request.body or b"")


def _find_coding_fault(exchange: Exchange) -> str:
    """Return what keeps the body from being read as a text. "": nothing."""
    coding = exchange.header("content-encoding")
    if coding is not None and coding.lower() != "identity":
        return f"the reply has the content-encoding {coding}, although the request says accept-encoding: identity"
    try:
        if not exchange.was_cut:
            exchange.body.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"the body is not UTF-8: 0x{error.object[error.start]:02x} at byte {error.start}"
    return ""


def encode_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace")  # half characters as escapes
