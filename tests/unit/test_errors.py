"""Errors of the proxy itself as a client receives them: class, status, complete text and headers."""

import inspect
import json
import re
from collections.abc import MutableMapping
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy import errors
from anthropic_proxy.engine.routing.health import FairQueue
from anthropic_proxy.errors import LimitReached, ProxyBusy, ProxyError, ServerToolFailed, ShuttingDown, UpstreamError
from anthropic_proxy.gateway.server.endpoints import serve_request
from anthropic_proxy.plugins import AdmissionRequest, Client, Headers
from tests.support.harness import ProxyHarness
from tests.support.paths import ROOT

RELIABILITY = ROOT / "docs/guide/reliability.md"
ROW = re.compile(r"^\| (\d{3}) `(\w+)` \|", re.MULTILINE)
ASKED = {"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}


class Limited:
    """A policy with a spent budget."""

    async def identify(self, headers: Headers) -> Client | None:
        return None

    async def admit(self, ticket: AdmissionRequest) -> None:
        raise LimitReached("The budget of local is spent. It begins again in 90 s.", retry_after=90)


class Full(FairQueue):
    """A queue in front of which too many wait already."""

    async def acquire(self, who: str) -> None:
        raise ProxyBusy("Too many wait.", retry_after=2)


class Ending(FairQueue):
    async def acquire(self, who: str) -> None:
        raise ShuttingDown


def advised(entry: str, others: dict[str, str] | None = None) -> dict[str, str]:
    """Return the expected headers: that of an entry of the error catalog, and others."""
    return {"x-proxy-help": f"/help/errors#{entry}", **(others or {})}


async def answer(
    proxy: ProxyHarness, method: str = "POST", path: str = "/v1/messages", query: bytes = b"", **headers: str
) -> tuple[int, str, str, dict[str, str]]:
    """Return status, type, message, and the headers that no error has by itself."""
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": json.dumps(ASKED).encode()}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    named = {"host": "localhost:8082", **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "query_string": query,
        "client": ("127.0.0.1", 50_000),
        "headers": [(name.encode(), value.encode()) for name, value in named.items() if value],
    }
    await serve_request(proxy.services, scope, receive, send)
    reply = json.loads(sent[1]["body"])
    others = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    assert others.pop("request-id") == reply["request_id"]
    assert others.pop("content-type") == "application/json"
    assert others.pop("content-length") == str(len(sent[1]["body"]))
    return sent[0]["status"], reply["error"]["type"], reply["error"]["message"], others


@pytest.mark.parametrize(
    ("request_of", "expected"),
    [
        (
            {"host": ""},
            (
                400,
                "invalid_request_error",
                "The request has no Host header.",
                advised("malformed-http-message", {"connection": "close"}),
            ),
        ),
        (
            {"transfer_encoding": "gzip, chunked"},
            (
                *(400, "invalid_request_error", "transfer-encoding: 'gzip, chunked' is not supported in HTTP/1.1."),
                advised("malformed-http-message", {"connection": "close"}),
            ),
        ),
        (
            {"path": "/v1/message"},
            (
                *(404, "not_found_error"),
                "Nothing is served at '/v1/message'. The main endpoint is POST /v1/messages.",
                advised("path-not-found"),
            ),
        ),
        (
            {"path": "/dashboard"},
            (
                *(404, "not_found_error"),
                "Nothing is served at '/dashboard'. The main endpoint is POST /v1/messages. The dashboard is not "
                "installed. Install it and start the proxy again: anthropic-proxy add dashboard",
                advised("path-not-found"),
            ),
        ),
        (
            {"method": "GET"},
            (
                *(405, "invalid_request_error", "GET is not supported at '/v1/messages'; use POST."),
                advised("method", {"allow": "POST"}),
            ),
        ),
        (
            {"content_length": "33554433"},
            (
                413,
                "request_too_large",
                "The body has 33554433 bytes; 33554432 are allowed (32 MB).",
                advised("body-too-large"),
            ),
        ),
        (
            {"query": b"x" * 16_384},
            (
                *(414, "request_too_large", "Path and query have 16,396 bytes; 16,384 are allowed."),
                advised("address-too-long", {"connection": "close"}),
            ),
        ),
        (
            {"content_encoding": "gzip"},
            (
                *(415, "invalid_request_error"),
                "content-encoding: 'gzip' is not supported; send the body uncompressed.",
                advised("content-encoding"),
            ),
        ),
        (
            {"x_long": "x" * 65_536},
            (
                *(431, "request_too_large", "The headers have 65,560 bytes; 65,536 are allowed."),
                advised("headers-too-long", {"connection": "close"}),
            ),
        ),
    ],
)
async def test_what_is_refused_before_its_body_is_read(
    request_of: dict[str, Any], expected: tuple[int, str, str, dict[str, str]]
) -> None:
    proxy = ProxyHarness(lambda *_: pytest.fail("nobody is called"))
    assert await answer(proxy, **request_of) == expected


async def test_an_error_for_a_limit_of_the_proxy_names_no_provider() -> None:
    proxy = ProxyHarness(lambda *_: pytest.fail("nobody is called"), OPENAI_API_KEY="sk-one-0123456789")
    services = proxy.services
    proxy.services = structs.replace(services, queue=Full(1))
    assert await answer(proxy) == (
        529,
        "overloaded_error",
        "Too many wait.",
        advised("proxy-busy", {"retry-after": "2"}),
    )
    proxy.services = structs.replace(services, queue=Ending(1))
    text = "The proxy is shutting down, so the reply is incomplete. Try again in a moment."
    assert await answer(proxy) == (503, "api_error", text, advised("proxy-stops", {"retry-after": "1"}))
    proxy.services = structs.replace(services, policies=[Limited()])
    text = "The budget of local is spent. It begins again in 90 s."
    assert await answer(proxy) == (429, "rate_limit_error", text, advised("plugin-limit", {"retry-after": "90"}))
    assert [(receipt.provider, receipt.error_code) for receipt in proxy.receipts] == [
        ("", ""),
        ("", "proxy-stops"),
        ("", "plugin-limit"),
    ]


def test_every_status_of_the_proxy_itself_is_documented() -> None:
    own = {
        (str(kind.status), kind.error_type)
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, ProxyError) and not issubclass(kind, UpstreamError | ServerToolFailed)
    }
    assert set(ROW.findall(RELIABILITY.read_text())) == own
