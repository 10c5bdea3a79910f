"""Operations of the table: whole exchanges with an upstream in the process, and bytes on connections."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from msgspec import Struct

from anthropic_proxy.engine.upstream.http.connection import Connection, ConnectionPool, InvalidHttp
from anthropic_proxy.engine.upstream.http.url import Origin
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from anthropic_proxy.errors import ProxyError, UpstreamProtocolError
from anthropic_proxy.gateway.server.endpoints import serve_request
from anthropic_proxy.gateway.server.http1.connection import Http1Connection, ServerState
from tests.growth.measure import Build, Run
from tests.support.harness import FakeResponse, ProxyHarness
from tests.support.kept_connection import KeptConnection
from tests.support.replies import CHAT, GEMINI, GROQ, MESSAGES, OLLAMA, RESPONSES, Reply, ReplyForm

Fields = dict[str, Any]
Headers = Sequence[tuple[bytes, bytes]]
Operation = Callable[[str], Build]
"""The operation on a wire, by its name."""

READ_BYTES = 64 * 1024
"""Bytes of one read of a socket, at most."""
_MAX_TOKENS = 1_000_000
"""More than any window, so that the tokens of every request are counted."""
_HEADERS: Headers = (
    (b"host", b"127.0.0.1"),
    (b"anthropic-version", b"2023-06-01"),
    (b"content-type", b"application/json"),
)
_SESSION: Headers = (
    (b"x-claude-code-session-id", b"growth"),
    (b"anthropic-beta", b"context-management-2025-06-27,compact-2026-01-12"),
)
_OPENAI = {"PREFERRED_PROVIDER": "openai", "OPENAI_API_KEY": "sk-growth-0000"}
_LOCAL = {**_OPENAI, "OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}
_GOOGLE = {"PREFERRED_PROVIDER": "google", "GEMINI_API_KEY": "growth-0000"}
_ANTHROPIC = {"PREFERRED_PROVIDER": "anthropic", "ANTHROPIC_API_KEY": "sk-ant-growth-0000"}
_BEDROCK = {**_ANTHROPIC, "AWS_REGION": "us-east-1", "AWS_BEARER_TOKEN_BEDROCK": "growth-0000"}


class Wire(Struct, frozen=True):
    """One way to a provider: model and settings that choose it, and the form of its replies."""

    model: str
    settings: Mapping[str, str]
    replies: ReplyForm


WIRES = {
    "server": Wire("openai/local", {**_LOCAL, "OPENAI_WIRE": "chat"}, CHAT),
    "responses": Wire("openai/gpt-5.5", {**_OPENAI, "OPENAI_WIRE": "responses"}, RESPONSES),
    "gemini": Wire("gemini/gemini-2.5-flash", _GOOGLE, GEMINI),
    "gemini 1": Wire("gemini/gemini-1.5-pro", _GOOGLE, GEMINI),
    "ollama": Wire("ollama/qwen3", {"PREFERRED_PROVIDER": "ollama"}, OLLAMA),
    "relay": Wire("claude-sonnet-4-5", _ANTHROPIC, MESSAGES),
    "moonshot": Wire("moonshot/kimi-k2", {"MOONSHOT_API_KEY": "sk-growth-0000", "MOONSHOT_WIRE": "messages"}, MESSAGES),
    "bedrock": Wire("bedrock/anthropic.claude-opus-5-5-v1:0", _BEDROCK, MESSAGES),
    "groq": Wire(
        "groq/llama-3.3-70b-versatile", {"PREFERRED_PROVIDER": "groq", "GROQ_API_KEY": "gsk_growth0000"}, GROQ
    ),
}
"""All wires by name. `server` is a local server of Chat Completions; its replies are searched for calls in text."""


def _exchange(
    name: str,
    fields: Fields,
    chunks: Sequence[bytes] | None = None,
    status: int = 200,
    reply_headers: Mapping[str, str] | None = None,
    *,
    path: str = "/v1/messages",
    headers: Headers = (),
) -> Run:
    """Return one request to the application of a proxy whose provider always answers with these chunks."""
    wire = WIRES[name]
    answer = [wire.replies.whole(Reply(texts=["well"]))] if chunks is None else chunks

    def upstream(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        if request.path.startswith(("/api/show", "/api/tags")):
            return FakeResponse(200, b"{}")
        return FakeResponse(status, *answer, headers=reply_headers)

    return _ask(ProxyHarness(upstream, **wire.settings), wire.model, fields, path, headers)


def _ask(proxy: ProxyHarness, model: str, fields: Fields, path: str, headers: Headers) -> Run:
    request = {"model": model, "max_tokens": _MAX_TOKENS, "messages": [{"role": "user", "content": "hi"}]}
    body = json.dumps({**request, **fields}).encode()
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "client": ("127.0.0.1", 1)}

    async def run() -> str:
        requests = [{"type": "http.request", "body": body, "more_body": False}]
        sent: list[bytes] = []
        answered = 0

        async def receive() -> Any:
            return requests.pop() if requests else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            nonlocal answered
            answered = message.get("status", answered)
            sent.append(message.get("body", b""))

        await serve_request(proxy.services, {**scope, "headers": [*_HEADERS, *headers]}, receive, send)
        return _read_outcome(answered, b"".join(sent))

    return run


def converse(name: str, fields: Fields, turns: int, path: str = "/v1/messages") -> list[Run]:
    """Return the requests of a session with one proxy: a short one, then those of some turns of one conversation, of
    which the first has the given fields.
    """
    wire = WIRES[name]
    answer = wire.replies.whole(Reply(texts=["well"]))

    def upstream(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        return FakeResponse(200, b"{}" if request.path.startswith(("/api/show", "/api/tags")) else answer)

    proxy = ProxyHarness(upstream, **wire.settings)
    messages = list(fields.get("messages", [{"role": "user", "content": "hi"}]))
    runs = [_ask(proxy, wire.model, {}, path, _SESSION)]
    for number in range(turns):
        runs.append(_ask(proxy, wire.model, {**fields, "messages": messages}, path, _SESSION))
        messages = [*messages, {"role": "assistant", "content": f"a{number}"}, {"role": "user", "content": "q"}]
    return runs


def _read_outcome(status: int, body: bytes) -> str:
    """Return `served`, or the status and message of an error, in a body or in a stream."""
    if status >= 400:
        return f"{status}: {json.loads(body)['error']['message']}"
    place = body.rfind(b"event: error\ndata: ")
    if place < 0:
        return "served"
    event: Any = json.loads(body[place:].split(b"data: ", 1)[1].split(b"\n", 1)[0])
    return f"error event: {event['error']['message']}"


def request(fields: Callable[[int], Fields], path: str = "/v1/messages") -> Operation:
    """Return an operation: a request with fields of size n, answered shortly."""
    return lambda wire: lambda n: _exchange(wire, fields(n), path=path)


def with_headers(headers: Callable[[int], Headers]) -> Operation:
    """Return an operation: a request with headers of size n, answered shortly."""
    return lambda wire: lambda n: _exchange(wire, {}, headers=headers(n))


def reply(content: Callable[[int], Reply], mode: str = "stream", **fields: Any) -> Operation:
    """Return an operation: a reply of size n. `mode`: stream (a read per record), burst (one read) or whole."""

    def build(wire: str, n: int) -> Run:
        replies, given = WIRES[wire].replies, content(n)
        chunks = [replies.whole(given)] if mode == "whole" else replies.stream(given)
        ready = {key: value(n) if callable(value) else value for key, value in fields.items()}
        return _exchange(wire, {"stream": mode != "whole", **ready}, [b"".join(chunks)] if mode == "burst" else chunks)

    return lambda wire: lambda n: build(wire, n)


def answer(
    chunks: Callable[[int], Sequence[bytes]],
    status: int = 200,
    headers: Callable[[int], Mapping[str, str]] = lambda n: {},
    **fields: Any,
) -> Operation:
    """Return an operation: a streaming request to a provider that answers with these bytes."""
    return lambda wire: lambda n: _exchange(wire, {"stream": True, **fields}, chunks(n), status, headers(n))


def reading(read: Callable[[str], object], *texts: Callable[[int], str]) -> Operation:
    """Return an operation: a function, or coroutine function, that reads texts of size n."""

    def build(n: int) -> Run:
        given = [text(n) for text in texts]

        async def run() -> str:
            for text in given:
                found = read(text)
                if isinstance(found, Coroutine):
                    await found
            return "served"

        return run

    return lambda _: build


class _Application:
    """Reads each request and answers with two bytes; `go_on` holds its answers back."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.answers = 0

    def log_rejected_request(self, error: ProxyError) -> str:
        return "req_growth"

    async def __call__(self, scope: Any, receive: Callable[[], Any], send: Callable[..., Any]) -> None:
        """Answer one request (ASGI)."""
        while (await receive()).get("more_body"):
            pass
        await self.go_on.wait()
        self.answers += 1
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


async def _feed(wire: KeptConnection, protocol: asyncio.Protocol, data: bytes, size: int) -> None:
    for start in range(0, len(data), size):
        while wire.paused and not wire.closed:  # noqa: ASYNC110 (a transport has no event to wait for)
            await asyncio.sleep(0)
        if wire.closed:
            break
        protocol.data_received(data[start : start + size])


def server(
    data: Callable[[int], bytes],
    requests: Callable[[int], int] = lambda n: 1,
    *,
    size: int = READ_BYTES,
    is_slow: bool = False,
) -> Operation:
    """Return an operation: a client that sends bytes which hold so many requests.

    `size`: bytes of one read; `is_slow`: no request is answered before all bytes were read, as far as reads are
    accepted.
    """

    def build(n: int) -> Run:
        given, count = data(n), requests(n)

        async def run() -> str:
            app, wire = _Application(), KeptConnection()
            connection = Http1Connection(ServerState(app))
            connection.connection_made(wire)
            if not is_slow:
                app.go_on.set()
            sending = asyncio.create_task(_feed(wire, connection, given, size))
            while is_slow and not (sending.done() or wire.paused):  # noqa: ASYNC110 (a transport has no event)
                await asyncio.sleep(0)
            app.go_on.set()
            await sending
            while app.answers < count and not (wire.closed or wire.ended):  # noqa: ASYNC110 (as above)
                await asyncio.sleep(0)
            connection.connection_lost(None)
            head, _, body = bytes(wire.sent[wire.sent.rfind(b"HTTP/1.1 ") :]).partition(b"\r\n\r\n")
            return _read_outcome(int(head[9:12]), body)

        return run

    return lambda _: build


def provider(data: Callable[[int], bytes], size: int = READ_BYTES) -> Operation:
    """Return an operation: a provider that answers with these bytes, in reads of so many bytes."""

    def build(n: int) -> Run:
        given = data(n)

        async def run() -> str:
            wire, connection = KeptConnection(), Connection(Origin("http", "127.0.0.1", 9), ConnectionPool())
            connection.connection_made(wire)
            asking = asyncio.create_task(connection.send_request(b"GET / HTTP/1.1\r\n\r\n", b""))
            await asyncio.sleep(0)
            sending = asyncio.create_task(_feed(wire, connection, given, size))
            try:
                response = await asking
                while await response.read():
                    pass
                await response.close()
            except (InvalidHttp, UpstreamProtocolError) as error:
                return f"rejected: {error.__cause__ or error}"
            finally:
                await sending
                connection.connection_lost(None)
            return "served"

        return run

    return lambda _: build
