"""The HTTP client of the suite: it keeps each read with its time, and can close a connection in the middle."""

import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from messages_conformance.events import Event, EventReader, decode, join_message
from messages_conformance.rows import SuiteError

MAX_BODY_BYTES = 64 * 1024 * 1024
"""Maximum size of a reply. A longer one is cut, and reported as a failure."""
ENDPOINTS = ("/v1/messages", "/v1")


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
        self._timeout = timeout
        self._path = path
        self._host = parts.hostname
        self._port = port or (443 if parts.scheme == "https" else 80)
        self._context = None
        if parts.scheme == "https":
            self._context = ssl.create_default_context()

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection that is not opened yet."""
        if self._context is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)
        return http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout, context=self._context)

    def accepts_connections(self) -> bool:
        """Tell whether a connection can be opened."""
        try:
            with socket.create_connection((self._host, self._port), timeout=5):
                return True
        except OSError:
            return False

    def send(self, request: Request, cut_when: Callable[[Exchange], bool] | None = None) -> Exchange:
        """Send a request and read the reply. After each read, `cut_when` says whether the client goes away."""
        exchange = Exchange(request)
        started = time.monotonic()
        connection = self.connect()
        try:
            self._exchange(connection, exchange, started, cut_when)
        except TimeoutError:
            exchange.failure = f"no further byte within {self._timeout:g} seconds"
        except http.client.IncompleteRead:
            exchange.failure = "the connection was closed in the middle of the reply"
        except http.client.RemoteDisconnected:
            exchange.failure = "the connection was closed without a reply"
        except (http.client.HTTPException, ValueError) as error:
            exchange.failure = f"the reply is no HTTP: {type(error).__name__} {error}".rstrip()
        except OSError as error:
            exchange.failure = f"{'the connection was closed' if exchange.status else 'no reply'}: {error}"
        finally:
            connection.close()
        exchange.seconds = time.monotonic() - started
        return exchange

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        exchange: Exchange,
        started: float,
        cut_when: Callable[[Exchange], bool] | None,
    ) -> None:
        request = exchange.request
        connection.putrequest(request.method, self._path + request.path, skip_accept_encoding=True)
        for name, value in request.headers:
            connection.putheader(name, value.encode("utf-8"))
        if request.body is not None:
            connection.putheader("Content-Length", str(len(request.body)))
        connection.endheaders(request.body)
        response = connection.getresponse()
        exchange.status = response.status
        exchange.headers = tuple(response.getheaders())
        exchange.head_seconds = time.monotonic() - started
        deadline = time.monotonic() + 2 * self._timeout
        reader = EventReader() if exchange.is_stream else None
        if reader is not None:
            exchange.events = reader.events
        size = 0
        try:
            while data := response.read1(65536):
                seconds = time.monotonic() - started
                exchange.reads.append((seconds, data))
                size += len(data)
                if reader is not None:
                    reader.feed(seconds, data)
                if cut_when is not None and cut_when(exchange):
                    exchange.was_cut = True
                    return
                if size > MAX_BODY_BYTES:
                    exchange.failure = f"the reply has more than {MAX_BODY_BYTES} bytes"
                    return
                if time.monotonic() > deadline:
                    exchange.failure = f"the reply does not end within {2 * self._timeout:g} seconds"
                    return
            if response.length:
                raise http.client.IncompleteRead(b"", response.length)
        finally:
            response.close()  # it holds the socket


def encode_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8")
