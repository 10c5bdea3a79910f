"""OpenRouter as a test scripts it: each reply states its cost.

Sources: `ChatUsage`, `CostDetails` and the model list of OpenRouterTeam/typescript-sdk 1.2.54; recorded
openrouter/stream_error for an error with token counts; openrouter.ai/docs/use-cases/usage-accounting: the token counts
are in the last event of a stream, also of one that did not ask for them.
"""

import json
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import trustme
from aiohttp import web

from tests.support.fakes.compatible.kinds import USUAL_FIELDS, Model, check_as_openai, check_fields
from tests.support.fakes.server import ContractViolation, Exchange, RequestLog, Running, new_application, serving

KEY = "sk-or-v1-0123456789abcdef"
_CHAT, _MODELS, _KEY = "/api/v1/chat/completions", "/api/v1/models", "/api/v1/key"
_OWN_FIELDS = frozenset(("reasoning", "session_id", "provider", "usage", "top_k", "cache_control"))
_LIMITS = Model(1_000_000, 100_000, pictures=True)


@dataclass(frozen=True)
class Answer:
    """A reply, or an error."""

    text: str = "Hello."
    usage: Mapping[str, Any] | None = None
    """None: the connection breaks before the counts."""
    calls: Sequence[tuple[str, str]] = ()
    """Names of the called functions, and their arguments as JSON."""
    status: int = 200
    error: str = ""
    """With status 200, the error follows the text."""


def count_tokens(prompt: int, completion: int, cost: float | None, **fields: Any) -> dict[str, Any]:
    """Return `usage` as OpenRouter writes it. Without `fields`, OpenRouter bills the call itself."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "cost": cost,
        "is_byok": False,
        "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0, "audio_tokens": 0, "video_tokens": 0},
        "cost_details": {"upstream_inference_cost": cost},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        **fields,
    }


def new_openrouter(
    answer: Callable[[dict[str, Any]], Answer], models: Mapping[str, Mapping[str, str]]
) -> web.Application:
    """`answer`: the reply to a body. `models`: names and the object `pricing` of each in the list."""

    async def serve(request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
        exchange = journal.open(request, json.loads(raw) if raw else None)
        try:
            return await _serve(request, exchange)
        finally:
            journal.close(exchange, "answered")

    async def _serve(request: web.Request, exchange: Exchange) -> web.StreamResponse:
        if request.path == _MODELS:  # public
            listed = [
                {"id": name, "context_length": _LIMITS.window, "pricing": pricing} for name, pricing in models.items()
            ]
            return web.json_response({"data": listed})
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return _refuse(401, "No auth credentials found")
        if request.path == _KEY:
            return web.json_response({"data": {"label": "sk-or-v1-012...def", "usage": 0.5, "limit": None}})
        if (request.method, request.path) != ("POST", _CHAT):
            exchange.breaches.append(ContractViolation("url", f"there is no {request.method} {request.path}"))
            return _refuse(404, "Not Found")
        body = exchange.body
        known = USUAL_FIELDS | _OWN_FIELDS
        breaches = list(check_fields(body, known, "unrecognized key: {}"))
        breaches += check_as_openai(body, _LIMITS, _OWN_FIELDS, frozenset(("reasoning_details",)))
        exchange.breaches += breaches
        if breaches or body["model"] not in models:
            return _refuse(400, breaches[0].message if breaches else f"{body['model']} is not a valid model ID")
        found = answer(body)
        if found.status != 200:
            return _refuse(found.status, found.error)
        head = {"id": "gen-1762179802-0", "provider": "Fake", "model": body["model"], "created": 1_762_179_802}
        if body.get("stream"):
            return await _stream(request, found, head)
        if found.usage is None and request.transport is not None:
            request.transport.abort()
        message = {"role": "assistant", "content": found.text, "refusal": None, "reasoning": None}
        message |= {"tool_calls": _list_calls(found)} if found.calls else {}
        choice: dict[str, Any] = {"index": 0, "finish_reason": _find_end(found), "message": message}
        choice |= {"error": {"code": 502, "message": found.error}} if found.error else {}
        return web.json_response(head | {"object": "chat.completion", "choices": [choice], "usage": found.usage})

    return new_application(serve, RequestLog())


def _find_end(found: Answer) -> str:
    return "error" if found.error else "tool_calls" if found.calls else "stop"


def _list_calls(found: Answer) -> list[dict[str, Any]]:
    return [
        {"index": index, "id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for index, (name, arguments) in enumerate(found.calls)
    ]


async def _stream(request: web.Request, found: Answer, head: dict[str, Any]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    await response.write(b": OPENROUTER PROCESSING\n\n")
    for chunk in _write_chunks(found, head | {"object": "chat.completion.chunk"}):
        await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
    if found.usage is None and request.transport is not None:
        request.transport.abort()
    else:
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
    return response


def _write_chunks(found: Answer, head: dict[str, Any]) -> Iterator[dict[str, Any]]:
    def write(delta: dict[str, Any], end: str | None = None) -> dict[str, Any]:
        return head | {"choices": [{"index": 0, "delta": {"role": "assistant", **delta}, "finish_reason": end}]}

    yield write({"content": found.text})
    for call in _list_calls(found):
        yield write({"tool_calls": [call]})
    if found.usage is None:
        return
    end = write({"content": ""}, _find_end(found))
    if found.error:
        yield end | {"error": {"code": 502, "message": found.error}, "usage": found.usage}
        return
    yield end
    yield end | {"usage": found.usage}


def _refuse(status: int, text: str) -> web.Response:
    return web.json_response({"error": {"code": status, "message": text}}, status=status)


@contextmanager
def serving_openrouter(application: web.Application, folder: Path) -> Iterator[tuple[Running, str]]:
    """Serve at the address of OpenRouter, for a proxy with the yielded lines of `anthropic-proxy.toml`.

    The address decides dialect and prices, so the proxy reaches the fake through an HTTP proxy.
    """
    authority, certificate = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("openrouter.ai").configure_cert(certificate)
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    with serving(application, certificate=certificate) as running, _tunnel_to(running.url) as tunnel:
        yield (
            running,
            f"""[providers.openrouter]
base_url = "https://openrouter.ai/api/v1"
api_key = {{ env = "OPENROUTER_API_KEY" }}
proxy = "{tunnel}"
ca_file = "authority.pem"
""",
        )


@contextmanager
def _tunnel_to(url: str) -> Iterator[str]:
    """Yield the address of an HTTP proxy that connects each tunnel with one server."""
    target = urlsplit(url).hostname, urlsplit(url).port

    class Tunnel(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            client: socket.socket = self.request
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += client.recv(1)
            with socket.create_connection(target) as server:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = threading.Thread(target=_copy, args=(server, client), daemon=True)
                back.start()
                _copy(client, server)
                back.join()

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = daemon_threads = True

    with Server(("127.0.0.1", 0), Tunnel) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
