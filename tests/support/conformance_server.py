"""A right server with the Messages API before a scripted upstream, and the kinds of faults that it can have."""

import http.client
import json
import queue
import re
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any

from tests.support.conformance import MESSAGE
from tests.support.waiting import WAIT_SECONDS

KEY = "key-of-the-test"
PROVIDER_KEY = "key-of-the-provider"
"""With which the server calls the upstream."""
Event = dict[str, Any] | bytes
"""An event, or bytes that are sent as they are."""


@dataclass(frozen=True)
class Call:
    """A request of a client."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any

    @property
    def text(self) -> str:
        return json.dumps(self.body)


@dataclass(frozen=True)
class Reply:
    status: int
    body: Any
    """A value that is sent as JSON, or bytes."""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What one server does wrong. Each function gets what is right, and the call."""

    call: Callable[[Call], Call | Reply] = lambda call: call
    """What the upstream is asked, or a reply instead."""
    reply: Callable[[Reply, Call], Reply] = lambda reply, _: reply
    """A reply that is no stream."""
    head: Callable[[dict[str, str], Call], dict[str, str]] = lambda headers, _: headers
    """Headers of any reply."""
    stream: Callable[[Iterator[Event], Call], Iterable[Event]] = lambda events, _: events
    lets_clients_go: bool = True
    """The call of the upstream ends when the client goes away."""
    pings: bool = True
    is_serial: bool = False
    """One call after the other."""
    asks_twice: bool = False
    """The upstream is asked twice, and its second reply is used."""


RIGHT = Fault()


def error(kind: str, status: int, text: str = "It is wrong.", headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(status, {"type": "error", "error": {"type": kind, "message": text}}, headers or {})


@contextmanager
def serve_with(fault: Fault, upstream: str) -> Iterator[str]:
    """Start the server before a scripted upstream with the Messages API, and return its address."""
    server = _Server(fault, upstream)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, fault: Fault, upstream: str) -> None:
        self.fault = fault
        self.upstream = upstream.removeprefix("http://")
        self.numbers = count(1)
        self.turn = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: clients go away by plan."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65_537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        call = Call(self.command, self.path, headers, _decode(raw))
        if self.server.fault.is_serial:
            with self.server.turn:
                self._answer(call)
        else:
            self._answer(call)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def _answer(self, call: Call) -> None:
        fault = self.server.fault
        asked = fault.call(call)
        local = asked if isinstance(asked, Reply) else _answer_alone(asked)
        if local is not None:
            self._send(fault.reply(local, call), call)
            return
        assert isinstance(asked, Call)
        connection = http.client.HTTPConnection(self.server.upstream, timeout=WAIT_SECONDS)
        kept = ("anthropic-version", "anthropic-beta", "content-type")
        headers = {name: value for name, value in asked.headers.items() if name in kept} | {"x-api-key": PROVIDER_KEY}
        body = None if asked.body is None else json.dumps(asked.body)
        if fault.asks_twice:
            connection.request(asked.method, asked.path, body, headers)
            connection.getresponse().read()
        connection.request(asked.method, asked.path, body, headers)
        response = connection.getresponse()
        if (response.getheader("content-type") or "").startswith("text/event-stream"):
            self._relay(connection, response, call)
        else:
            self._send(fault.reply(_mend_reply(response), call), call)
        connection.close()

    def _build_head(self, headers: Mapping[str, str], call: Call) -> dict[str, str]:
        number = next(self.server.numbers)
        return self.server.fault.head({"request-id": f"req_{number}", **headers}, call)

    def _send(self, reply: Reply, call: Call) -> None:
        head = self._build_head({"content-type": "application/json", **reply.headers}, call)
        body = reply.body
        if isinstance(body, dict) and body.get("type") == "error" and "request_id" not in body:
            body = {**body, "request_id": head.get("request-id", "req_0")}
        data = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
        self.send_response(reply.status)
        for name, value in {**head, "content-length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _relay(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse, call: Call) -> None:
        fault = self.server.fault
        self.send_response(200)
        for name, value in self._build_head({"content-type": "text/event-stream"}, call).items():
            self.send_header(name, value)
        self.end_headers()
        try:
            for event in fault.stream(_mend_stream(self._read_events(connection, response)), call):
                self._write(event if isinstance(event, bytes) else write_event(event))
        except (OSError, http.client.HTTPException):
            # a broken connection, so that the client does not take the reply as complete
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        self.close_connection = True

    def _write(self, data: bytes) -> None:
        try:
            self.wfile.write(data)
        except OSError:
            if self.server.fault.lets_clients_go:
                raise

    def _read_events(
        self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse
    ) -> Iterator[dict[str, Any]]:
        """Yield the events of the upstream as they come, with pings in long pauses, until the client goes away."""
        events = queue.SimpleQueue[Any]()
        threading.Thread(target=_feed, args=(response, events), daemon=True).start()
        last = time.monotonic()
        while True:
            try:
                event = events.get(timeout=0.05)
            except queue.Empty:
                readable, _, _ = select.select([self.connection], [], [], 0)
                if readable and self.server.fault.lets_clients_go:
                    if connection.sock is not None:
                        connection.sock.shutdown(socket.SHUT_RDWR)
                    raise ConnectionResetError("the client has gone") from None
                if self.server.fault.pings and time.monotonic() - last > 5:
                    last = time.monotonic()
                    yield {"type": "ping"}
                continue
            if event is None:
                return
            if isinstance(event, Exception):
                raise event
            last = time.monotonic()
            yield event


def _feed(response: http.client.HTTPResponse, events: "queue.SimpleQueue[Any]") -> None:
    rest = b""
    try:
        while data := response.read1(65536):
            *frames, rest = (rest + data).split(b"\n\n")
            for frame in frames:
                events.put(json.loads(frame.partition(b"data: ")[2]))
    except (OSError, http.client.HTTPException, ValueError, AttributeError) as broken:
        # http.client raises AttributeError if the connection is closed while it reads
        events.put(ConnectionResetError(str(broken)))
        return
    events.put(None)


def write_event(event: Mapping[str, Any]) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n".encode()


def _decode(raw: bytes) -> Any:
    try:
        return json.loads(raw) if raw else None
    except ValueError:
        return raw


def _answer_alone(call: Call) -> Reply | None:
    """Return what the server answers without the upstream. None: it has to be asked."""
    path = call.path.partition("?")[0]
    given = call.headers.get("x-api-key") or call.headers.get("authorization", "").removeprefix("Bearer ")
    if call.method == "HEAD":
        return Reply(200, {})
    if given != KEY:
        return error("authentication_error", 401, "invalid x-api-key")
    if path == "/v1/messages" and call.method == "GET":
        return error("invalid_request_error", 405, "Method Not Allowed")
    if path.startswith("/v1/messages") and not isinstance(call.body, dict):
        return error("invalid_request_error", 400, "The request body is not valid JSON")
    if call.headers.get("anthropic-version") not in (None, "2023-06-01", "2026-10-21"):
        return error("invalid_request_error", 400, "anthropic-version: is not a valid version")
    if "no-such-model" in path or (isinstance(call.body, dict) and "no-such-model" in str(call.body.get("model"))):
        return error("not_found_error", 404, "model: no-such-model-4711")
    return None


def _mend_reply(response: http.client.HTTPResponse) -> Reply:
    headers = {name: value for name, value in response.getheaders() if name == "retry-after"}
    try:
        body = json.loads(response.read().replace(PROVIDER_KEY.encode(), b"..."))
    except (OSError, http.client.HTTPException, ValueError):
        return error("api_error", 502, "The provider's reply is unreadable.")
    if body.get("type") == "error":
        del body["request_id"]
        is_key = response.status == 401
        return Reply(response.status, body, {**headers, **({"x-should-retry": "false"} if is_key else {})})
    if body.get("type") == "message":
        body = {**body, "usage": body.get("usage") or {"input_tokens": 1, "output_tokens": 1}}
        calls = [block for block in body["content"] if block["type"] == "tool_use"]
        _mend_ids(calls)
        if calls and body["stop_reason"] == "end_turn":
            body["stop_reason"] = "tool_use"
    return Reply(response.status, body, headers)


def _mend_ids(calls: Iterable[dict[str, Any]]) -> None:
    seen = set[str]()
    for block in calls:
        block["id"] = _mend_id(block["id"], seen)


def _mend_id(given: str, seen: set[str]) -> str:
    """Return an id of a call as it is, if requests allow it and no other call has it."""
    clean = re.sub("[^a-zA-Z0-9_-]", "_", given)
    identifier = f"{clean}_{len(seen)}" if clean in seen else clean
    seen.add(identifier)
    return identifier


def _mend_stream(events: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    calls = set[str]()
    for event in events:
        match event["type"]:
            case "message_start":
                event["message"].setdefault("usage", {"input_tokens": 1, "output_tokens": 1})
            case "content_block_start" if event["content_block"]["type"] == "tool_use":
                block = event["content_block"]
                block["id"] = _mend_id(block["id"], calls)
            case "message_delta":
                event.setdefault("usage", {"output_tokens": 1})
                if calls and event["delta"]["stop_reason"] == "end_turn":
                    event["delta"]["stop_reason"] = "tool_use"
            case "error":
                event["error"]["message"] = event["error"]["message"].replace(PROVIDER_KEY, "...")
            case _:
                pass
        yield event


# Ways to be wrong.


def change(path: str, value: Callable[[Any], Any] | Any, *, drop: bool = False) -> Fault:
    """A server whose messages have another value at a path of dots, or none, streamed or not."""

    def edit(message: Any) -> Any:
        *parents, name = path.split(".")
        target = message
        for part in parents:
            try:
                target = target[int(part)] if isinstance(target, list) else target[part]
            except (KeyError, IndexError, TypeError):
                return message
        if isinstance(target, list):
            if target and not drop:
                target[int(name)] = value(target[int(name)]) if callable(value) else value
        elif drop:
            target.pop(name, None)
        elif isinstance(target, dict):
            target[name] = value(target.get(name)) if callable(value) else value
        return message

    def reply(given: Reply, _: Call) -> Reply:
        is_message = isinstance(given.body, dict) and given.body.get("type") == "message"
        return replace(given, body=edit(given.body)) if is_message else given

    return Fault(reply=reply)


def each(kind: str, edit: Callable[[dict[str, Any]], Event | Iterable[Event]]) -> Fault:
    """A server that sends something else in place of each event of a type."""

    def stream(events: Iterator[Event], _: Call) -> Iterator[Event]:
        for event in events:
            if isinstance(event, dict) and event["type"] == kind:
                result = edit(event)
                yield from [result] if isinstance(result, (dict, bytes)) else result
            else:
                yield event

    return Fault(stream=stream)


def header(name: str, value: str | None, *, streams: bool | None = None) -> Fault:
    """A server with another header, or without it, in its streams, or in other replies."""

    def head(headers: dict[str, str], call: Call) -> dict[str, str]:
        is_stream = headers["content-type"].startswith("text/event-stream")
        if streams is not None and streams != is_stream:
            return headers
        rest = {key: text for key, text in headers.items() if key != name}
        return rest if value is None else {**rest, name: value}

    return Fault(head=head)


def refuses(has: Callable[[Call], Any]) -> Fault:
    """A server that refuses requests that have something."""

    def call(given: Call) -> Call | Reply:
        return error("invalid_request_error", 400, "It is not supported.") if has(given) else given

    return Fault(call=call)


def asks(edit: Callable[[dict[str, Any]], Any]) -> Fault:
    """A server that asks the model something else."""

    def call(given: Call) -> Call:
        if isinstance(given.body, dict):
            edit(given.body)
        return given

    return Fault(call=call)


def accepts(text: str) -> Fault:
    """A server that answers requests which have to be refused with this text."""

    def reply(given: Reply, call: Call) -> Reply:
        message = given.body.get("error", {}).get("message", "") if isinstance(given.body, dict) else ""
        if given.status >= 400 and text in message:
            return Reply(200, {"input_tokens": 1} if "count" in call.path else MESSAGE)
        return given

    return Fault(reply=reply)


def replies(when: Callable[[Reply, Call], Any], edit: Callable[[Reply], Reply]) -> Fault:
    return Fault(reply=lambda reply, call: edit(reply) if when(reply, call) else reply)
