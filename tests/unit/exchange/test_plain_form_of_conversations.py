"""What is kept for the prompt of a conversation is kept for its form, and silence teaches nothing."""

import json
from typing import Any

import pytest

from anthropic_proxy.engine.messages.loaded_tools import CALLER_NAME, PLACEHOLDER_NAME
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from tests.support.harness import STALL, FakeResponse, ProxyHarness
from tests.unit.exchange.test_adaptations_of_clients import REPLIES
from tests.unit.exchange.test_loaded_tools import LOADING
from tests.unit.exchange.test_plain_form import VENDORS, Server, Vendor, post

CHAT = VENDORS["chat"]
KEYS = {"prompt_cache_key": None}
"""Fields that follow from the first message."""


async def test_a_repetition_without_an_answer_gives_the_error_of_the_silence_and_teaches_nothing() -> None:
    bodies = list[Any]()
    replies = iter((FakeResponse(400, b'{"error": {"message": "?"}}'), *(FakeResponse(200, STALL) for _ in range(2))))

    def answer(base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        bodies.append(json.loads(request.body))
        return next(replies, FakeResponse(200, json.dumps(REPLIES["chat/completions"]).encode()))

    proxy = ProxyHarness(answer, **CHAT.settings, UPSTREAM_FIRST_BYTE_TIMEOUT="0.05")
    error = (await post(proxy, CHAT, "hello")).error
    assert error is not None
    assert (error.status, error.message) == (
        504,
        "openai sent no data for 0.05 s; UPSTREAM_FIRST_BYTE_TIMEOUT and UPSTREAM_IDLE_TIMEOUT set this limit.",
    )
    usual, plain = bodies
    assert ("temperature" in usual, "temperature" in plain) == (True, False)
    list(replies)
    for text in ("hello", "another"):
        bodies.clear()
        assert (await post(proxy, CHAT, text)).error is None
        assert [{**body, "messages": None, **KEYS} for body in bodies] == [{**usual, "messages": None, **KEYS}]


async def _learn(proxy: ProxyHarness, server: Server, vendor: Vendor, refused: str) -> None:
    """Let other conversations of the same client show which part the server refuses from now on."""
    server.refuses = lambda body: refused in body
    for number in range(20):
        assert (await post(proxy, vendor, f"other {number}", headers={SESSION: f"other {number}"})).error is None


SUMMARY = [*LOADING[:2], {"role": "user", "content": "Write a summary."}]
SESSION = "x-claude-code-session-id"


async def test_a_conversation_in_another_form_begins_with_the_effort_that_it_has_then() -> None:
    vendor = Vendor({"OPENAI_API_KEY": "sk-test-0123456789"}, "openai/gpt-6-astra", {})
    server = Server(lambda body: False)
    proxy = ProxyHarness(server, **vendor.settings)
    sent = []
    for turn, effort in enumerate(("high", "low", "low", "high")):
        if turn == 2:
            await _learn(proxy, server, vendor, "truncation")
        fields = {"output_config": {"effort": effort}, "replies": ["reply"] * turn}
        assert (await post(proxy, vendor, "hello", headers={SESSION: "session"}, **fields)).error is None
        body = server.requests[-1]
        changes = [item["reasoning"] for item in body["input"] if item["type"] == "configuration_update"]
        sent.append(("truncation" in body, body["reasoning"]["effort"], changes))
    assert sent == [
        (True, "high", []),
        (True, "high", [{"effort": "low"}]),
        (False, "low", []),
        (False, "low", [{"effort": "high"}]),
    ]


@pytest.mark.parametrize("changes_form", [True, False])
async def test_a_conversation_in_another_form_lists_its_tools_anew(*, changes_form: bool) -> None:
    server = Server(lambda body: False)
    proxy = ProxyHarness(server, **CHAT.settings)
    listed = []
    schema = {"type": "object"}
    first: list[dict[str, Any]] = [{"name": "ToolSearch", "input_schema": schema}]
    first.append({"name": PLACEHOLDER_NAME, "input_schema": schema, "defer_loading": True})
    loaded = [*first, {"name": "SlackSend", "input_schema": schema, "defer_loading": True}]
    for messages, tools in ((LOADING[:3], first), (LOADING, loaded), (SUMMARY, loaded)):
        if changes_form and messages is SUMMARY:
            await _learn(proxy, server, CHAT, "temperature")
        assert (await post(proxy, CHAT, "", headers={SESSION: "session"}, messages=messages, tools=tools)).error is None
        body = server.requests[-1]
        listed.append(("temperature" in body, [tool["function"]["name"] for tool in body["tools"]]))
    usual = (True, ["ToolSearch", CALLER_NAME])
    changed = (False, ["ToolSearch", CALLER_NAME, "SlackSend"])
    assert listed == [usual, usual, changed if changes_form else usual]
