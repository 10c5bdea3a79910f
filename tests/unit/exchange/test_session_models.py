"""Requests of a session for which a person has chosen a model: planned as if the client had named it."""

import json
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.engine.exchange.forwarding import count_tokens
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from anthropic_proxy.plugins import Client, SessionModel
from tests.support.fake_upstream import BODY
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, new_client_request

SESSION = {"x-claude-code-session-id": "s1", "user-agent": "claude-cli/2.1.332"}
KEYS = {"ANTHROPIC_API_KEY": "sk-ant-test-0123456789", "OPENAI_API_KEY": "sk-one-0123456789", "OPENAI_WIRE": "chat"}
TOOLS = [{"name": "Read", "input_schema": {"type": "object", "properties": {}}}]
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [{"type": "text", "text": "well"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 1, "output_tokens": 1},
}


class Choices:
    """A choice for the session `s1`."""

    is_empty = False

    def __init__(self, model: str, replaced: str = "claude-opus-4-6") -> None:
        self._chosen = SessionModel(model, replaced)

    async def find(self, client: Client, session: str) -> SessionModel | None:
        return self._chosen if session == "s1" else None


class Proxy:
    def __init__(self, choices: Choices, **settings: str) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.harness = ProxyHarness(self._answer, **{**KEYS, **settings})
        self.harness.services = structs.replace(self.harness.services, session_models=choices)

    def _answer(self, base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        self.sent.append((base_url.split("/")[2], json.loads(request.body)))
        return FakeResponse(200, BODY if "openai" in base_url else json.dumps(MESSAGE).encode())

    async def post(self, model: str = "claude-opus-4-6", **fields: Any) -> RecordingSink:
        headers = {**SESSION, **fields.pop("headers", {})}
        return await self.harness.post(headers=headers, **{"model": model, "max_tokens": 100, "tools": TOOLS, **fields})


@pytest.mark.parametrize(
    ("preferred", "chosen", "host", "model"),
    [
        ("anthropic", "openai/gpt-4o", "api.openai.com", "gpt-4o"),
        ("openai", "openai/gpt-4o", "api.openai.com", "gpt-4o"),
        ("anthropic", "claude-sonnet-4-5", "api.anthropic.com", "claude-sonnet-4-5"),
        ("openai", "haiku", "api.openai.com", "gpt-4.1-mini"),
    ],
)
async def test_a_chosen_model_replies_under_the_name_that_the_client_knows(
    preferred: str, chosen: str, host: str, model: str
) -> None:
    """A relay and a translation, in place of either."""
    proxy = Proxy(Choices(chosen), PREFERRED_PROVIDER=preferred)
    sink = await proxy.post()
    ((sent_to, body),) = proxy.sent
    assert (sent_to, body["model"]) == (host, model)
    assert (sink.body or json.loads(sink.stream))["model"] == "claude-opus-4-6"
    (receipt,) = proxy.harness.receipts
    assert (receipt.requested_model, receipt.session_model) == ("claude-opus-4-6", chosen)
    assert receipt.route_reason.startswith(f"chosen for the session: {chosen}; ")


async def test_a_request_is_fitted_to_the_claude_model_that_was_chosen() -> None:
    proxy = Proxy(Choices("anthropic/claude-haiku-4-5"), PREFERRED_PROVIDER="anthropic")
    await proxy.post(thinking={"type": "adaptive"}, output_config={"effort": "high"})
    ((_, body),) = proxy.sent
    assert body["model"] == "claude-haiku-4-5"
    assert body.get("thinking", {}).get("type") != "adaptive"  # which this model does not have
    assert "effort" not in body.get("output_config", {})


@pytest.mark.parametrize(
    ("model", "fields", "served"),
    [
        ("claude-opus-4-6", {}, "gpt-4o"),
        ("claude-opus-4-6[1m]", {}, "gpt-4o"),
        ("claude-opus-4-6", {"headers": {"x-claude-code-agent-id": "a1"}}, "gpt-4o"),
        ("claude-haiku-4-5", {}, "gpt-4.1-mini"),
        ("claude-opus-4-6", {"tools": []}, "gpt-4.1"),
        ("claude-opus-4-6", {"headers": {"x-claude-code-request-class": "auxiliary"}}, "gpt-4.1"),
        ("claude-opus-4-6", {"headers": {"x-claude-code-request-class": "compaction"}, "tools": []}, "gpt-4o"),
        ("claude-opus-4-6", {"headers": {"x-claude-code-session-id": "s2"}}, "gpt-4.1"),
    ],
)
async def test_requests_for_the_model_of_the_conversation_follow(
    model: str, fields: dict[str, Any], served: str
) -> None:
    proxy = Proxy(
        Choices("openai/gpt-4o"), PREFERRED_PROVIDER="openai", BIG_MODEL="gpt-4.1", SMALL_MODEL="gpt-4.1-mini"
    )
    await proxy.post(model, **fields)
    ((_, body),) = proxy.sent
    assert body["model"] == served


async def test_tokens_are_counted_for_the_chosen_model() -> None:
    proxy = Proxy(Choices("claude-sonnet-4-5"), PREFERRED_PROVIDER="anthropic")
    request = {"model": "claude-opus-4-6", "messages": [{"role": "user", "content": "hello"}], "tools": TOOLS}
    incoming = new_client_request(json.dumps(request).encode(), SESSION, path="/v1/messages/count_tokens")
    incoming.receipt.session = "s1"
    await count_tokens(proxy.harness.services, incoming, RecordingSink().wait_disconnected)
    assert [(host, body["model"]) for host, body in proxy.sent] == [("api.anthropic.com", "claude-sonnet-4-5")]
