"""A conversation with thinking and a call at each vendor, with a model that people use there."""

import json
from typing import Any

import pytest

from anthropic_proxy.engine.providers import PROVIDERS, Host
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.providers.model_facts import load_model_rows
from anthropic_proxy.engine.routing.router import RoutingQuery, build_plan
from anthropic_proxy.engine.wires.openai_chat.dialect import Dialect
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from anthropic_proxy.gateway.settings import load_settings
from tests.support.harness import FakeResponse, ProxyHarness
from tests.support.vendors import EXAMPLE_MODELS

HOSTS = [host for host in PROVIDERS.find("openai").hosts if host.base_url]
TOOL = {"name": "Read", "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "Read", "arguments": '{"path": "a"}'}}


class Vendor:
    """A server that answers with thinking and a call, then with thinking and a text."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []

    def __call__(self, base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        body = json.loads(request.body)
        self.bodies.append(body)
        message: dict[str, Any] = {"role": "assistant", "content": None, "reasoning_content": "I think."}
        message |= {"tool_calls": [CALL]} if len(self.bodies) == 1 else {"content": "Done."}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if len(self.bodies) == 1 else "stop"}
        reply = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        reply["usage"] = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        return FakeResponse(200, json.dumps(reply).encode(), headers={"content-type": "application/json"})


def settings_of(base_url: str, model: str) -> dict[str, str]:
    address = {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "sk-test-0123456789", "OPENAI_WIRE": "chat"}
    return {**address, "BIG_MODEL": f"openai/{model}"}


async def run_conversation(base_url: str, model: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the two requests that the vendor gets."""
    vendor = Vendor()
    proxy = ProxyHarness(vendor, **settings_of(base_url, model))
    fields: dict[str, Any] = {"tools": [TOOL], "max_tokens": 2_000_000, "output_config": {"effort": "xhigh"}}
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Read a"}]
    first = await proxy.post(messages=messages, thinking={"type": "adaptive"}, **fields)
    assert [block["type"] for block in first.body["content"]] == ["thinking", "tool_use"]
    call = first.body["content"][1]
    assert (call["name"], call["input"]) == ("Read", {"path": "a"})
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": "x"}
    messages += [{"role": "assistant", "content": first.body["content"]}, {"role": "user", "content": [result]}]
    second = await proxy.post(messages=messages, thinking={"type": "adaptive"}, **fields)
    assert [block["type"] for block in second.body["content"]] == ["thinking", "text"]
    sent, continued = vendor.bodies
    return sent, continued


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.name)
async def test_thinking_and_a_call_come_out_and_go_back(host: Host) -> None:
    """The thinking goes back if the vendor's dialect has a field for it; golden cases prove the field."""
    model = EXAMPLE_MODELS[host.name]
    sent, continued = await run_conversation(host.base_url, model)
    rows = [row.capabilities for row in load_model_rows(host.models_table) if row.capabilities.known]
    limits = [row.max_output for row in rows if row.max_output is not None]
    if limits:  # the request is above the limit of each model
        assert (sent.get("max_tokens") or sent["max_completion_tokens"]) <= max(limits)
    _, reply, answered, *_ = continued["messages"]
    assert reply["tool_calls"][0]["id"] == answered["tool_call_id"]
    settings = load_settings(settings_of(host.base_url, model), PROVIDERS, env_file=None)
    (target,) = build_plan(RoutingQuery("claude-sonnet"), settings, Catalog()).targets
    assert isinstance(target.dialect, Dialect)
    assert ("I think." in json.dumps(reply)) == bool(target.dialect.replayed_thinking_field)


@pytest.mark.parametrize(
    "model", ["deepseek-flash", "deepseek-ai/DeepSeek-Pro-0731", "deepseek.v4-pro", "MiMo-V2.6-Pro"]
)
@pytest.mark.parametrize("base_url", ["https://llm.corp.example/v1", "https://mine.services.ai.azure.com/openai/v1"])
async def test_an_open_model_gets_its_thinking_back_at_each_host(base_url: str, model: str) -> None:
    _, continued = await run_conversation(base_url, model)
    assert continued["messages"][1]["reasoning_content"] == "I think."


async def test_a_model_that_expects_no_thinking_gets_none_back() -> None:
    _, continued = await run_conversation("https://llm.corp.example/v1", "deepseek-prover-v2-671b")
    assert "I think." not in json.dumps(continued["messages"][1])


async def test_a_session_that_only_a_header_names_has_a_key_of_its_own() -> None:
    """Also after a compaction, when the conversation begins with another message."""
    vendor = Vendor()
    proxy = ProxyHarness(vendor, **settings_of("https://api.moonshot.ai/v1", "kimi-k2.6"))
    identity = json.dumps({"device_id": "d", "account_uuid": "", "session_id": "one"})
    for text, session in [("a", "one"), ("b", "one"), ("a", "two")]:
        assert (await proxy.post(text, {"x-claude-code-session-id": session})).error is None
    assert (await proxy.post("a", metadata={"user_id": identity})).error is None
    first, after_compaction, other, with_metadata = (body["prompt_cache_key"] for body in vendor.bodies)
    assert first == after_compaction == with_metadata != other
