"""Operations of the table: whole exchanges with an upstream in the process."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anthropic_proxy.engine.wires.contract import Credential, UpstreamRequest
from anthropic_proxy.gateway.server.endpoints import serve_request
from tests.growth.measure import Build, Run, read_outcome
from tests.growth.replies import WIRES, Reply, Wire
from tests.support.harness import FakeResponse, ProxyHarness

Fields = dict[str, Any]
Headers = Sequence[tuple[bytes, bytes]]

_SHORT = Reply(texts=["well"])
_HEADERS: Headers = (
    (b"host", b"127.0.0.1"),
    (b"anthropic-version", b"2023-06-01"),
    (b"content-type", b"application/json"),
)
_MAX_TOKENS = 1_000_000
"""More than any window, so that the tokens of every request are counted."""
_OLLAMA_FACTS = ("/api/show", "/api/tags")


class Upstream:
    """Answers every request for a reply with the same status, headers and chunks."""

    def __init__(self, chunks: Sequence[bytes], status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self._chunks = chunks
        self._status = status
        self._headers = headers

    def __call__(self, base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        if request.path.startswith(_OLLAMA_FACTS):
            return FakeResponse(200, b"{}")
        return FakeResponse(self._status, *self._chunks, headers=self._headers)


def exchange(
    wire: Wire, fields: Fields, upstream: Upstream, *, path: str = "/v1/messages", headers: Headers = ()
) -> Run:
    """Return one request to the application of a proxy with this upstream."""
    proxy = ProxyHarness(upstream, **wire.settings)
    request = {"model": wire.model, "max_tokens": _MAX_TOKENS, "messages": [{"role": "user", "content": "hi"}]}
    body = json.dumps({**request, **fields}).encode()
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "client": ("127.0.0.1", 1)}

    async def run() -> str:
        requests = [{"type": "http.request", "body": body, "more_body": False}]
        sent: list[bytes] = []
        status = 0

        async def receive() -> Any:
            return requests.pop() if requests else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            sent.append(message.get("body", b""))

        await serve_request(proxy.services, {**scope, "headers": [*_HEADERS, *headers]}, receive, send)
        return read_outcome(status, b"".join(sent))

    return run


def request(fields: Callable[[int], Fields], path: str = "/v1/messages") -> Callable[[str], Build]:
    """Return an operation: a request with fields of size n, answered shortly."""

    def of_wire(name: str) -> Build:
        wire = WIRES[name]
        upstream = Upstream([wire.replies.whole(_SHORT)])
        return lambda n: exchange(wire, fields(n), upstream, path=path)

    return of_wire


def with_headers(headers: Callable[[int], Headers]) -> Callable[[str], Build]:
    """Return an operation: a request with headers of size n, answered shortly."""

    def of_wire(name: str) -> Build:
        wire = WIRES[name]
        upstream = Upstream([wire.replies.whole(_SHORT)])
        return lambda n: exchange(wire, {}, upstream, headers=headers(n))

    return of_wire


def reply(content: Callable[[int], Reply], mode: str = "stream", **fields: Any) -> Callable[[str], Build]:
    """Return an operation: a reply of size n. `mode`: stream (a read per frame), burst (one read) or whole."""

    def of_wire(name: str) -> Build:
        wire = WIRES[name]

        def build(n: int) -> Run:
            given = content(n)
            chunks = [wire.replies.whole(given)] if mode == "whole" else wire.replies.stream(given)
            chunks = [b"".join(chunks)] if mode == "burst" else chunks
            ready = {key: value(n) if callable(value) else value for key, value in fields.items()}
            return exchange(wire, {"stream": mode != "whole", **ready}, Upstream(chunks))

        return build

    return of_wire


def answer(
    chunks: Callable[[int], Sequence[bytes]],
    status: int = 200,
    headers: Callable[[int], Mapping[str, str]] = lambda n: {},
) -> Callable[[str], Build]:
    """Return an operation: a streaming request to a provider that answers with these bytes."""

    def of_wire(name: str) -> Build:
        return lambda n: exchange(WIRES[name], {"stream": True}, Upstream(chunks(n), status, headers(n)))

    return of_wire
