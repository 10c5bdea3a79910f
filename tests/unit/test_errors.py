"""Errors of the proxy itself as a client receives them: class, status, complete text and headers."""

import asyncio
import inspect
import json
import re
from collections.abc import MutableMapping
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy import errors
from anthropic_proxy.engine.turns import SharedWorker, Turns
from anthropic_proxy.errors import LimitReached, ProxyBusy, ProxyError, ServerToolFailed, ShuttingDown, UpstreamError
from anthropic_proxy.gateway.server.endpoints import serve_request
from anthropic_proxy.plugins import AdmissionRequest, Client, Headers
from tests.support.golden_texts import Check
from tests.support.harness import ProxyHarness
from tests.support.paths import ROOT

RELIABILITY = ROOT / "docs/guide/reliability.md"
ROW = re.compile(r"^\| (\d{3}) `(\w+)` \|", re.MULTILINE)
ASKED = {"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}


ONE_CALL = SharedWorker(name="one call", places=1, share=1, max_waiting=8)


class Limited:
    """A policy with a spent budget."""

    async def identify(self, headers: Headers) -> Client | None:
        return None

    async def admit(self, ticket: AdmissionRequest) -> None:
        raise LimitReached("The budget of local is spent. It begins again in 90 s.", retry_after=90)


class Full(Turns):
    """A queue in front of which too many wait already."""

    async def acquire(self, payer: str, *_: Any, **__: Any) -> None:
        raise ProxyBusy("Too many wait.", retry_after=2)


class Ending(Turns):
    async def acquire(self, payer: str, *_: Any, **__: Any) -> None:
        raise ShuttingDown


def advised(entry: str, others: dict[str, str] | None = None) -> dict[str, str]:
    """Return the expected headers: that of an entry of the error catalog, and others."""
    return {"x-proxy-help": f"/help/errors#{entry}", **(others or {})}


async def answer(
    proxy: ProxyHarness, method: str = "POST", path: str = "/v1/messages", query: str = "", **headers: str
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
        "query_string": query.encode(),
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


def test_golden_refusals(golden: Check) -> None:
    """`golden_texts/refused_requests`; `x×3` stands for `xxx`."""
    proxy = ProxyHarness(lambda *_: pytest.fail("nobody is called"))

    def show(given: str) -> str:
        request = json.loads(re.sub(r"x×(\d+)", lambda match: "x" * int(match[1]), given))
        status, kind, message, headers = asyncio.run(answer(proxy, **request))
        return f"{status} {kind}: {message} {headers}"

    golden("refused_requests", show)


async def test_an_error_for_a_limit_of_the_proxy_names_no_provider() -> None:
    proxy = ProxyHarness(lambda *_: pytest.fail("nobody is called"), OPENAI_API_KEY="sk-one-0123456789")
    services = proxy.services
    proxy.services = structs.replace(services, queue=Full(ONE_CALL))
    assert await answer(proxy) == (
        529,
        "overloaded_error",
        "Too many wait.",
        advised("proxy-busy", {"retry-after": "2"}),
    )
    proxy.services = structs.replace(services, queue=Ending(ONE_CALL))
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


def test_of_a_very_long_list_only_the_beginning_is_compared() -> None:
    others = [f"{number:04}{'x' * 252}" for number in range(5_000)]
    assert errors.find_similar_choices("gpt-5.2", ["gpt-5.1", *others], 3) == ["gpt-5.1"]
    assert errors.find_similar_choices("gpt-5.2", [*others, "gpt-5.1"], 3) == []
    names = [f"vendor/some-model-{number:04}" for number in range(5_000)]
    assert errors.find_similar_choices("gpt-5.2", [*names, "gpt-5.1"], 3) == ["gpt-5.1"]
