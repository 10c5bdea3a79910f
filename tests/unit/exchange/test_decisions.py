"""Checks of tool calls by the Decisions API of OpenAI: probabilities in place of text."""

import json
from typing import Any

import pytest

from anthropic_proxy.engine.exchange.safeguards.prompt import INSTRUCTIONS
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest
from tests.support.harness import FakeResponse, ProxyHarness
from tests.support.tool_loop import call, calls

KEYS = {"OPENAI_API_KEY": "sk-0123456789", "GROQ_API_KEY": "gsk-0123456789", "AUTO_MODE_MODEL": "openai/gpt-6-luna"}
FIELDS: dict[str, Any] = {
    "tools": [{"name": "Bash", "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}}}],
    "safeguards": [{"type": "dangerous_tool_use", "classifier_context": {}}],
}
TEXT = json.dumps({"rule": "Deleting", "verdict": "flagged", "explanation": "It deletes data."})
USAGE = {
    "input_tokens": 2_000,
    "input_tokens_details": {"cached_tokens": 1_500, "cache_write_tokens": 0},
    "output_tokens": 2,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 2_002,
}


def choice(name: str, value: str, **shares: float) -> dict[str, Any]:
    probabilities = [{"value": one, "probability": share} for one, share in shares.items()]
    return {"type": "choice", "name": name, "choice": value, "confidence": 0.9, "probabilities": probabilities}


FLAGGED = choice("verdict", "flagged", not_flagged=0.07, flagged=0.93)
ALLOWED = choice("verdict", "not_flagged", not_flagged=0.99, flagged=0.01)
RULE = choice("rule", "deleting", deleting=0.8, none=0.2)
NONE = choice("rule", "none", deleting=0.1, none=0.9)


class Servers:
    """Groq calls a tool, and OpenAI decides."""

    def __init__(self, *decisions: FakeResponse) -> None:
        self.decisions = list(decisions)
        self.requests: list[tuple[str, Any]] = []

    def __call__(self, url: str, request: UpstreamRequest, _: Any) -> FakeResponse:
        if "groq" in url:
            return FakeResponse(200, *calls(call("Bash", command="rm -rf /srv/data")))
        self.requests.append((request.path, json.loads(request.body)))
        return self.decisions.pop(0)


def decide(*answers: dict[str, Any]) -> FakeResponse:
    return FakeResponse(200, json.dumps({"model": "gpt-6-luna", "answers": answers, "usage": USAGE}).encode())


def written() -> FakeResponse:
    part = {"type": "output_text", "text": TEXT, "annotations": []}
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}
    usage = {"input_tokens": 5, "output_tokens": 5, "total_tokens": 10}
    reply = {"id": "resp_1", "object": "response", "status": "completed", "output": [item], "usage": usage}
    return FakeResponse(200, json.dumps(reply).encode())


async def ask(servers: Servers, harness: ProxyHarness | None = None) -> tuple[Any, ProxyHarness]:
    harness = harness or ProxyHarness(servers, **KEYS)
    sink = await harness.post(model="groq/openai/gpt-oss-120b", stream=True, **FIELDS)
    line = next(line for line in sink.stream.split(b"\n") if b"safeguard_results" in line)
    (result,) = json.loads(line[6:])["delta"]["safeguard_results"]
    return result["status"]["tool_uses"], harness


async def test_the_choice_is_the_verdict_and_its_probability_is_recorded() -> None:
    servers = Servers(decide(FLAGGED, RULE))
    found, harness = await ask(servers)
    (outcome,) = found.values()
    why = "It deletes or overwrites what cannot be restored."
    assert outcome == {"type": "evaluated", "outcome": "flagged", "explanation": why}
    check = next(one for one in harness.receipts if one.kind == "auto_mode_check")
    (stored,) = check.checks
    assert (stored.verdict, stored.rule, stored.reason, stored.probability) == ("flagged", "deleting", why, 0.93)
    assert (check.input_tokens, check.cache_read_tokens, check.output_tokens) == (500, 1_500, 2)
    ((path, body),) = servers.requests
    assert (path, body["model"], [one["role"] for one in body["input"]]) == (
        "/decisions",
        "gpt-6-luna",
        ["system", "user"],
    )
    assert body["input"][0]["content"] == INSTRUCTIONS
    assert json.loads(body["input"][1]["content"])["call"]["input"] == {"command": "rm -rf /srv/data"}
    assert [(one["type"], one["name"]) for one in body["questions"]] == [("choice", "verdict"), ("choice", "rule")]
    assert body["questions"][0]["choices"] == [{"value": "not_flagged"}, {"value": "flagged"}]
    assert body.keys() == {"model", "input", "questions"}


async def test_a_harmless_call_runs() -> None:
    found, harness = await ask(Servers(decide(ALLOWED, NONE)))
    assert [*found.values()] == [{"type": "evaluated", "outcome": "not_flagged"}]
    assert [one.checks[0].probability for one in harness.receipts] == [0.01, 0.01]


@pytest.mark.parametrize(
    "answers",
    [
        [],
        [ALLOWED],
        [ALLOWED, {"type": "refusal", "name": "rule"}],
        [choice("verdict", "not_flagged", not_flagged=0.2, flagged=0.8), NONE],
        [choice("verdict", "not_flagged", not_flagged=0.9), NONE],
        [choice("verdict", "not_flagged", not_flagged=1.9, flagged=0.1), NONE],
        [choice("verdict", "perhaps", perhaps=1.0), NONE],
        [ALLOWED, choice("rule", "another", another=1.0)],
        [ALLOWED, NONE, choice("more", "x", x=1.0)],
        [{"type": "predicate", "name": "verdict", "probability": 0.1}, NONE],
    ],
)
async def test_anything_else_is_no_verdict(answers: Any) -> None:
    found, harness = await ask(Servers(decide(*answers)))
    assert found == {}
    assert [one.checks[0].verdict for one in harness.receipts] == ["unavailable", "unavailable"]


@pytest.mark.parametrize("status", [400, 403, 404])
async def test_a_server_without_decisions_is_asked_for_text_from_then_on(status: int) -> None:
    rejection = json.dumps({"error": {"message": "Not found", "type": "invalid_request_error"}}).encode()
    servers = Servers(FakeResponse(status, rejection), written(), written())
    harness = ProxyHarness(servers, **KEYS)
    for _ in range(2):
        found, _ = await ask(servers, harness)
        assert [one["outcome"] for one in found.values()] == ["flagged"]
    assert [path for path, _ in servers.requests] == ["/decisions", "/responses", "/responses"]


async def test_other_models_and_requests_of_clients_are_asked_for_text() -> None:
    servers = Servers(written(), written())
    harness = ProxyHarness(servers, **{**KEYS, "AUTO_MODE_MODEL": "openai/gpt-6.2-sol"})
    await ask(servers, harness)
    await harness.post(model="openai/gpt-6-luna")
    assert [path for path, _ in servers.requests] == ["/responses", "/responses"]
