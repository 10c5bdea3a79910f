"""The HTTP server of a scripted upstream: it answers each trial with its replies, and keeps what it gets."""

import json
import re
import select
import socket
import struct
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from messages_conformance.backends.reply import (
    WELL,
    Cut,
    Failure,
    Pause,
    Reply,
    fill_key,
    follow_request,
    keep_one_call,
    read_reply,
    stop_at,
)
from messages_conformance.backends.shapes import without_nulls
from messages_conformance.backends.view import read_view
from messages_conformance.backends.wire import Answer, ContractViolation, Frame, Request, Wire, encode
from messages_conformance.rows import SuiteError
from messages_conformance.trial import UpstreamRequest

MAX_BODY_BYTES = 64 * 1024 * 1024
_TOKEN = re.compile(rb"\[trial ([0-9A-Za-z-]+)\]")
_PATIENCE = 30.0
"""Seconds to wait for the end of calls whose client is gone."""
_MEETING_SECONDS = 10.0
"""Maximum time in which calls of a trial that await each other have to come."""
_ABORT = struct.pack("ii", 1, 0)
"""Value of SO_LINGER with which a closed connection is reset."""


@dataclass
class _Script:
    """The replies of one trial, and its calls so far."""

    replies: tuple[Reply, ...] = (WELL,)
    answered: int = 0
    open_calls: int = 0
    is_alone: bool = False
    """A call has awaited others in vain."""
    seen: set[str] = field(default_factory=set)
    """Types of the events that the client has got."""
    requests: list[UpstreamRequest] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


class ScriptedUpstream:
    """A server in threads of its own, until it is closed."""

    def __init__(
        self, protocol: str, wire: Wire, host: str = "127.0.0.1", port: int = 0, accepted: Collection[str] = ()
    ) -> None:
        """`accepted`: fields of a request that are taken although the API does not have them."""
        self._protocol = protocol
        self._wire = wire
        self._accepted = frozenset(accepted)
        self._scripts: dict[str, _Script] = {}
        self._changed = threading.Condition()
        self._server = _Server((host, port), self)
        name = f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{self._server.server_address[1]}"
        """Base URL, without the path of the API."""
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def expect(self, trial: str, replies: Sequence[Mapping[str, Any]]) -> None:
        """Prepare the replies to the calls of a trial; the last one answers all further calls. Raises `SuiteError`."""
        read = tuple(read_reply(reply, f"reply {number}") for number, reply in enumerate(replies, start=1))
        with self._changed:
            self._scripts[trial] = _Script(read or (WELL,))

    def tell(self, trial: str, event: str) -> None:
        """Say that the client of a trial has got an event of this type."""
        with self._changed:
            if (script := self._scripts.get(trial)) is not None and event not in script.seen:
                script.seen.add(event)
                self._changed.notify_all()

    def take_requests(self, trial: str) -> list[UpstreamRequest]:
        """Return the calls of a trial, and forget it. Waits a little for the end of its open calls.

        Raises `SuiteError` if this server itself has failed.
        """
        with self._changed:
            script = self._scripts.get(trial, _Script())
            self._changed.wait_for(lambda: script.open_calls == 0, _PATIENCE)
            self._scripts.pop(trial, None)
        if script.faults:
            raise SuiteError("the scripted upstream has failed:\n" + "\n".join(script.faults))
        return list(script.requests)

    def close(self) -> None:
        self._server.shutdown()
        self._server.hang_up()
        self._server.server_close()
        self._thread.join()

    def handle(self, connection: "_Connection", method: str, target: str, headers: Sequence[tuple[str, str]]) -> None:
        """Answer one request."""
        raw = connection.read_body()
        received = time.monotonic()
        body = _decode(raw) if raw else None
        parts = urlsplit(target)
        request = Request(
            method,
            parts.path,
            dict(parse_qsl(parts.query)),
            {name.lower(): value for name, value in headers},
            without_nulls(body),
        )
        answer = self._wire.answer(request) if isinstance(request.body, dict | None) else None
        if answer is not None:
            connection.send(answer)
            return
        record = UpstreamRequest(method, target, tuple(headers), body, received)
        with self._changed:
            script = self._scripts.get(token := _find_token(raw), _Script())
            script.requests.append(record)
            script.open_calls += 1
            record.open_calls = script.open_calls
            self._changed.notify_all()
        try:
            self._answer_call(connection, request, record, script, token)
        except OSError:
            record.left = time.monotonic()
        except Exception:
            script.faults.append(traceback.format_exc())
            raise
        finally:
            with self._changed:
                script.open_calls -= 1
                self._changed.notify_all()

    def _answer_call(
        self, connection: "_Connection", request: Request, record: UpstreamRequest, script: _Script, token: str
    ) -> None:
        violation = self._find_violation(request)
        if violation is not None:
            record.refusal = violation.message
            connection.send(self._wire.refuse(violation))
            return
        with self._changed:
            reply = script.replies[min(script.answered, len(script.replies) - 1)]
            reply = stop_at(reply, self._wire.stop_sequences(request))
            if self._wire.takes_one_call(request):
                reply = keep_one_call(reply)
            script.answered += 1
            number = script.answered
            if not script.is_alone:
                awaited = self._changed.wait_for(
                    lambda: script.is_alone or _has_met(script, reply.awaits), _MEETING_SECONDS
                )
                script.is_alone = not awaited
                self._changed.notify_all()
        if reply.follows_request:
            view = read_view(self._protocol, request.path, request.body)
            said = view.texts[-1].partition(": ")[2] if view.texts else ""
            reply = follow_request(reply, [tool["name"] for tool in view.tools], said)
        reply = fill_key(reply, next((key.rpartition(" ")[2] for key in record.keys), ""))
        tag = f"{token or 'scripted'}{number}"
        connection.wait(reply.delay)
        if reply.error is not None:
            connection.send(self._wire.fail(reply.error))
        elif self._wire.is_stream(request):
            frames = self._wire.stream(reply, request, tag)
            connection.send_stream(
                frames, self._wire.stream_type, self._wire.alive, lambda pause: self._await(pause, script, record)
            )
        else:
            self._send_whole(connection, reply, request, tag)

    def _await(self, pause: Pause, script: _Script, record: UpstreamRequest) -> None:
        """Wait until the client has got the event of a pause."""
        with self._changed:
            if not self._changed.wait_for(lambda: pause.until in script.seen, pause.seconds):
                record.unseen = pause.until

    def _find_violation(self, request: Request) -> ContractViolation | None:
        if not isinstance(request.body, dict):
            return ContractViolation("json", "We could not parse the JSON body of your request.")
        clean = {name: value for name, value in without_nulls(request.body).items() if name not in self._accepted}
        return next(
            self._wire.check(Request(request.method, request.path, request.query, request.headers, clean)), None
        )

    def _send_whole(self, connection: "_Connection", reply: Reply, request: Request, tag: str) -> None:
        """Send a reply that is not streamed; it fails as its stream would."""
        for piece in reply.pieces():
            if isinstance(piece, Pause):
                connection.wait(piece.seconds)
            elif isinstance(piece, Failure):
                connection.send(self._wire.fail(piece))
                return
        body = encode(self._wire.whole(reply, request, tag))
        connection.send(Answer(200, body), is_cut=reply.has_failure())


def _has_met(script: _Script, number: int) -> bool:
    """Return whether so many calls of a trial were open at once."""
    return max((request.open_calls for request in script.requests), default=0) >= number


def _find_token(raw: bytes) -> str:
    """Return the last token of a body. "": it has none."""
    tokens = _TOKEN.findall(raw)
    return tokens[-1].decode() if tokens else ""


def _decode(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return raw.decode("utf-8", "replace")


class _Left(ConnectionError):
    """The client has closed the connection."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], upstream: ScriptedUpstream) -> None:
        self.upstream = upstream
        self._sockets = set[socket.socket]()
        self._lock = threading.Lock()
        super().__init__(address, _Connection)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._sockets.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._sockets.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """Close all connections, so that waiting threads end."""
        with self._lock:
            for connection in self._sockets:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: faults are kept with the trial, and connections break by plan."""


class _Connection(BaseHTTPRequestHandler):
    """A connection of the server under test."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65_537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        self.server.upstream.handle(self, self.command, self.path, list(self.headers.items()))

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def read_body(self) -> bytes:
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            return b"".join(self._read_chunks())
        length = int(self.headers.get("content-length") or 0)
        if length > MAX_BODY_BYTES:
            raise _Left("the body is too large")
        return self.rfile.read(length)

    def _read_chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass

    def wait(self, seconds: float) -> None:
        """Wait, unless the client leaves. Raises `OSError` if it does."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            readable, _, _ = select.select([self.connection], [], [], left)
            if readable and not self.connection.recv(1, socket.MSG_PEEK):
                raise _Left("the client has left")
            if readable:  # the next request is here already
                time.sleep(min(left, 0.05))

    def send(self, answer: Answer, *, is_cut: bool = False) -> None:
        """Send an answer; `is_cut`: half of its body, then the connection breaks."""
        self._send_head(answer.status, {"content-type": "application/json", **answer.headers}, str(len(answer.body)))
        if is_cut:
            self.wfile.write(answer.body[: len(answer.body) // 2])
            self._abort()
        elif self.command != "HEAD":
            self.wfile.write(answer.body)

    def send_stream(
        self, frames: Iterable[Frame], content_type: str, alive: bytes, wait_for: Callable[[Pause], None]
    ) -> None:
        """Send frames, each at once. `alive`: a sign of life for pauses; `wait_for` waits for the event of one."""
        self._send_head(200, {"content-type": content_type, "cache-control": "no-cache"}, None)
        for frame in frames:
            if isinstance(frame, bytes):
                self._write_chunk(frame)
            elif isinstance(frame, Pause) and frame.until:
                wait_for(frame)
            elif isinstance(frame, Pause):
                self._pause(frame, alive)
            elif isinstance(frame, Cut) and not frame.orderly:
                self._abort()
                return
        self.wfile.write(b"0\r\n\r\n")

    def _pause(self, pause: Pause, alive: bytes) -> None:
        if not pause.alive or not alive:
            self.wait(pause.seconds)
            return
        left = pause.seconds
        while left > pause.alive:
            self.wait(pause.alive)
            self._write_chunk(alive)
            left -= pause.alive
        self.wait(left)

    def _send_head(self, status: int, headers: Mapping[str, str], length: str | None) -> None:
        self.send_response(status)
        size = {"transfer-encoding": "chunked"} if length is None else {"content-length": length}
        for name, value in {**headers, **size}.items():
            self.send_header(name, value)
        self.end_headers()

    def _write_chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _abort(self) -> None:
        """Break the connection as a network does, without an end."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        self.connection.close()
