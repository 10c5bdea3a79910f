"""Routes with `balance = "latency"` while the store fails, and after errors that one client causes."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.routing.routes import CompiledRoutes
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from anthropic_proxy.gateway.stores.memory import MemoryStore
from anthropic_proxy.plugins import Client, StoreUnavailable
from tests.support.fake_upstream import FakeUpstream, error, reply
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, new_client_request
from tests.support.routes import load_routes
from tests.support.waiting import WAIT_SECONDS

ROUTE = '[[routes]]\nname = "r"\ntargets = ["openai/gpt-4.1", "openai/gpt-4o"]\nbalance = "latency"\n'
KEYS = {"OPENAI_API_KEY": "sk-test", "OPENAI_WIRE": "chat"}
JSON = {"content-type": "application/json"}
EMPTY = b"""{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[],"stop_reason":"end_turn",
"usage":{"input_tokens":1,"output_tokens":1}}"""


class FailingStore(MemoryStore):
    """A store after a failure of its server, with `REDIS_FAILURE=closed`."""

    async def get(self, key: str) -> str | None:
        raise StoreUnavailable

    async def put(self, key: str, value: str, seconds: float) -> None:
        raise StoreUnavailable


class SlowStore(MemoryStore):
    """A store that never completes a write."""

    async def put(self, key: str, value: str, seconds: float) -> None:
        await asyncio.Event().wait()


def routed(folder: Path, upstream: FakeUpstream, store: MemoryStore) -> ProxyHarness:
    proxy = ProxyHarness(upstream, **KEYS)
    settings = load_routes(folder, ROUTE, **KEYS)
    rules = CompiledRoutes(settings.routes)
    proxy.services = structs.replace(proxy.services, settings=settings, compiled_routes=rules, store=store)
    return proxy


def relayed(folder: Path, routes: str) -> ProxyHarness:
    """A proxy whose requests are relayed to Anthropic, which answers with an empty message."""
    keys = {"ANTHROPIC_API_KEY": "sk-ant-test", "PREFERRED_PROVIDER": "anthropic"}
    proxy = ProxyHarness(lambda *_: FakeResponse(200, EMPTY, headers=JSON), **keys)
    settings = load_routes(folder, routes, **keys)
    proxy.services = structs.replace(proxy.services, settings=settings, compiled_routes=CompiledRoutes(settings.routes))
    return proxy


@pytest.mark.parametrize("store", [FailingStore(), SlowStore()], ids=["failing", "slow"])
async def test_a_reply_arrives_although_its_latency_cannot_be_stored(tmp_path: Path, store: MemoryStore) -> None:
    upstream = FakeUpstream(lambda self, body: reply(bool(body.get("stream"))))
    sink = await asyncio.wait_for(routed(tmp_path, upstream, store).post(), WAIT_SECONDS)
    assert sink.error is None
    assert sink.body["content"] == [{"type": "text", "text": "well"}]
    assert all(answer.closed for answer in upstream.answers)


class CountedHeaders(dict[str, str]):
    """Headers that count how often a rule reads `x-team`."""

    reads = 0

    def get(self, name: str, default: Any = None) -> Any:
        self.reads += name == "x-team"
        return super().get(name, default)


@pytest.mark.parametrize("team", ["a data b", "other"])
async def test_the_rules_of_a_relayed_request_are_evaluated_once(tmp_path: Path, team: str) -> None:
    text = """[[routes]]
name = "r"
when.header = { x-team = "*data*" }
targets = ["anthropic/claude-opus-5-5"]
"""
    proxy = relayed(tmp_path, text)
    headers = CountedHeaders({"x-team": team})
    for count in (1, 2, 3):
        sink = await proxy.post(headers=headers)
        assert (sink.error, headers.reads) == (None, count)


async def test_a_session_in_the_body_keeps_its_side_of_a_share(tmp_path: Path) -> None:
    text = """[[routes]]
name = "trial"
when.share = 50
targets = ["anthropic/claude-opus-5-5"]
"""
    proxy = relayed(tmp_path, text)
    sides = set()
    for number in range(16):
        session = f"session-{number}"
        given = {"metadata": {"user_id": json.dumps({"session_id": session})}}
        await proxy.post(**given)
        await proxy.post(headers={"x-claude-code-session-id": session})
        by_body, by_header = [receipt.route for receipt in proxy.receipts[-2:]]
        assert by_body == by_header
        sides.add(by_body)
    assert sides == {"", "trial"}


@pytest.mark.parametrize(
    ("failure", "first_of_client", "first_of_others"),
    [
        pytest.param(error(400, "Invalid schema for function 'read'."), "gpt-4.1", "gpt-4.1", id="400"),
        pytest.param(error(500), "gpt-4o", "gpt-4.1", id="500"),
        pytest.param(FakeResponse(200, b"{"), "gpt-4o", "gpt-4.1", id="unreadable"),
        pytest.param(error(504), "gpt-4o", "gpt-4.1", id="504"),
        pytest.param(error(401), "gpt-4o", "gpt-4o", id="401"),
        pytest.param(error(402), "gpt-4o", "gpt-4.1", id="402"),
        pytest.param(FakeResponse(402, b'{"error":{"code":"billing_not_active"}}'), "gpt-4o", "gpt-4o", id="no credit"),
        pytest.param(error(429), "gpt-4o", "gpt-4.1", id="429"),
        pytest.param(error(429, x_ratelimit_remaining_tokens="0"), "gpt-4o", "gpt-4o", id="used up"),
        pytest.param(error(500, "Invalid: 'rate limit reached'"), "gpt-4.1", "gpt-4.1", id="quoted 429"),
        pytest.param(error(503), "gpt-4o", "gpt-4o", id="503"),
    ],
)
async def test_only_failures_of_a_target_change_the_order_for_other_clients(
    tmp_path: Path, failure: FakeResponse, first_of_client: str, first_of_others: str
) -> None:
    models: list[str] = []

    def answer(_: FakeUpstream, body: dict[str, Any]) -> FakeResponse:
        models.append(body["model"])
        fails = "bad" in str(body["messages"]) and body["model"] == "gpt-4.1"
        return FakeResponse(failure.status, *failure.chunks, headers=failure.headers) if fails else reply(False)

    for client, first in (("local", first_of_client), ("other", first_of_others)):
        proxy = routed(tmp_path, FakeUpstream(answer), MemoryStore())
        await proxy.post("bad")
        await asyncio.sleep(0)  # the task that stores the failure
        models.clear()
        body = {"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
        inbound = new_client_request(json.dumps(body).encode(), client=Client(name=client))
        await Exchange(proxy.services, inbound, RecordingSink()).run()
        assert models == [first]


async def test_a_rejected_key_of_a_client_changes_the_order_for_this_client_alone(tmp_path: Path) -> None:
    models: list[str] = []

    def answer(_: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        model = json.loads(request.body)["model"]
        models.append(model)
        is_accepted = credential is not None and (credential.value != "sk-ant-ended" or model == "claude-sonnet-5-5")
        return FakeResponse(200 if is_accepted else 401, EMPTY if is_accepted else b"{}", headers=JSON)

    text = ROUTE.replace("openai/gpt-4.1", "anthropic/claude-opus-5-5").replace(
        "openai/gpt-4o", "anthropic/claude-sonnet-5-5"
    )
    proxy = ProxyHarness(answer, PREFERRED_PROVIDER="anthropic")
    settings = load_routes(tmp_path, text, PREFERRED_PROVIDER="anthropic")
    rules = CompiledRoutes(settings.routes)
    store = MemoryStore()
    proxy.services = structs.replace(proxy.services, settings=settings, compiled_routes=rules, store=store)

    async def ask(name: str, key: str) -> list[str]:
        models.clear()
        body = {"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
        client = Client(name=name, credential_forwardable=True)
        inbound = new_client_request(json.dumps(body).encode(), {"x-api-key": key}, client=client)
        await Exchange(proxy.services, inbound, RecordingSink()).run()
        await asyncio.sleep(0)  # the task that stores the failure
        return [*models]

    assert await ask("ann", "sk-ant-ended") == ["claude-opus-5-5", "claude-sonnet-5-5"]
    assert await ask("bob", "sk-ant-valid") == ["claude-opus-5-5"]
    assert await ask("ann", "sk-ant-ended") == ["claude-sonnet-5-5"]
