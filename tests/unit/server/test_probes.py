"""The probes with a store in Redis, which may be unavailable."""

import json
from collections.abc import MutableMapping
from typing import Any, Literal

import pytest
from msgspec import structs

from anthropic_proxy.plugins.storage import StoreState
from anthropic_proxy.server.endpoints import serve_request
from anthropic_proxy.stores.memory import MemoryStore
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
