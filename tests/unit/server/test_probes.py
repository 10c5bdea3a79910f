"""The probes with a store in Redis, which may be unavailable."""

import json
from collections.abc import MutableMapping
from typing import Any, Literal

import pytest
from msgspec import structs

from anthropic_proxy.gateway.server.endpoints import serve_request
from anthropic_proxy.gateway.stores.memory import MemoryStore
from anthropic_proxy.plugins import StoreState
from tests.support.harness import FakeResponse, ProxyHarness


class SharedStore(MemoryStore):
    """A store in Redis. `available`: False: Redis cannot be used."""

    available = True

    @property
    def state(self) -> StoreState:
        return StoreState(kind="redis", available=self.available, processes=3)


@pytest.mark.parametrize(
    ("policy", "condition"),
    [
        ("open", "unavailable, limits are approximated"),
        ("closed", "unavailable, requests with limits are rejected"),
    ],
)
async def test_redis_is_reported_with_the_effect_on_limits(policy: Literal["open", "closed"], condition: str) -> None:
    proxy, store = ProxyHarness(lambda *_: FakeResponse(500), REDIS_FAILURE=policy), SharedStore()
    services = structs.replace(proxy.services, store=store)

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b""}

    async def ask() -> tuple[int, Any]:
        sent: list[MutableMapping[str, Any]] = []

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/readyz", "headers": [], "query_string": b"", "client": None}
        await serve_request(services, scope, receive, send)
        return sent[0]["status"], json.loads(sent[1]["body"])

    assert await ask() == (200, {"status": "ready", "checks": {"server": "ok", "redis": "ok"}})
    store.available = False
    assert await ask() == (200, {"status": "ready", "checks": {"server": "ok", "redis": condition}})


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("settings", [{}, {"PROXY_API_KEY": "a-key-of-this-proxy"}], ids=["open", "with a key"])
async def test_the_greeting_of_claude_code_gets_200_and_leaves_no_record(method: str, settings: dict[str, str]) -> None:
    """Claude Code 2.1.330 sends `HEAD /api/hello` at each interactive start."""
    proxy, sent = ProxyHarness(lambda *_: FakeResponse(500), **settings), list[MutableMapping[str, Any]]()

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": "/api/hello", "headers": [(b"host", b"localhost")]}
    await serve_request(proxy.services, {**scope, "query_string": b"", "client": ("127.0.0.1", 5)}, receive, send)
    assert sent[0]["status"] == 200
    assert json.loads(sent[1]["body"]) == {"message": "hello"}
    assert (await proxy.services.receipts.feed.collect_snapshot()).finished == []


async def test_the_help_header_of_an_error_leads_to_its_entry_on_a_page_without_a_key() -> None:
    proxy = ProxyHarness(lambda *_: FakeResponse(500), PROXY_API_KEY="a-key-of-this-proxy")

    async def ask(path: str) -> tuple[dict[str, str], str]:
        sent = list[MutableMapping[str, Any]]()

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": b""}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": path, "headers": [(b"host", b"localhost")]}
        await serve_request(proxy.services, {**scope, "query_string": b"", "client": ("127.0.0.1", 5)}, receive, send)
        headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return headers, b"".join(part.get("body", b"") for part in sent).decode()

    headers, _ = await ask("/v1/models")
    page, _, entry = headers["x-proxy-help"].partition("#")
    assert (page, entry) == ("/help/errors", "proxy-key-missing")
    headers, text = await ask(page)
    assert headers["content-type"] == "text/html; charset=utf-8"
    article = text.partition(f'<article id="{entry}">')[2].partition("</article>")[0]
    assert "<b>Remedy.</b> Give the client one of the keys of <code>PROXY_API_KEY</code>" in article
