"""Each field of a receipt is filled by an exchange. A field that no exchange fills would be stored empty for ever."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import NODEFAULT, Struct, structs

from anthropic_proxy.gateway.http_calls import HttpCalls
from anthropic_proxy.gateway.inspectors import open_inspectors
from anthropic_proxy.plugins import AdmissionRequest, Headers, Receipt, UpstreamAttempt
from tests.support.fakes.prefix_cache import CachingProvider
from tests.support.harness import FakeResponse, ProxyHarness
from tests.support.tool_loop import Script, call, calls, reply, text

FILLED_ELSEWHERE = {
    "cost": "the ledger calculates it",
    "method": "the server and requests for a batch or a file state it",
    "path": "the same",
    "plain_form": "the server of this module refuses no part of a request; tests/unit/exchange/test_plain_form.py",
    "trace": "the server reads it from the header `traceparent`, before there is an exchange",
    "session_model": "no session of this module has a chosen model; tests/processes/test_session_models.py",
    "span_id": "traces are off without a tracer",
}
"""Field that no exchange of this module fills → reason."""
OPENAI = {"OPENAI_API_KEY": "sk-test-0123456789", "OPENAI_WIRE": "chat"}
HEADERS = {
    "user-agent": "claude-cli/2.1.328 (external, cli)",
    "x-project": "shop",
    "x-claude-code-session-id": "s1",
    "x-claude-code-agent-id": "a1",
    "x-claude-code-agent-type": "Explore",
    "x-claude-code-prompt-id": "p1",
    "x-claude-code-prev-tool-durations": "Bash=1166",
}
BASH = {"name": "Bash", "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}}}
TOOL_TURNS: Sequence[dict[str, Any]] = (
    {"role": "user", "content": "free some space"},
    {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "x", "is_error": True}]},
)
CONTEXT: dict[str, Any] = {
    "v": 1,
    "permission_mode": "auto",
    "live_cwd": "/home/ada/shop",
    "home_dir": "/home/ada",
    "trusted_directories": {
        "primary": {"path": "/home/ada", "resolved": ["/home/ada"]},
        "additional": [],
        "network": [],
    },
    "auto_mode": {"allow": [], "soft_deny": [], "hard_deny": [], "environment": []},
    "restricted": False,
    "classify_all_shell": False,
}
CHOICES = [{"message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}]
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-opus-4-8",
    "content": [{"type": "text", "text": "ok"}],
    "stop_reason": "end_turn",
    "usage": {
        "input_tokens": 10,
        "cache_read_input_tokens": 20,
        "cache_creation_input_tokens": 30,
        "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
        "output_tokens": 5,
        "output_tokens_details": {"thinking_tokens": 3},
        "server_tool_use": {"web_search_requests": 2},
        "service_tier": "priority",
        "inference_geo": "us",
        "iterations": [
            {"type": "message", "input_tokens": 10, "output_tokens": 5, "model": "claude-opus-4-8"},
            {"type": "advisor_message", "input_tokens": 10, "output_tokens": 5, "model": "claude-haiku-4-5"},
        ],
    },
}


class LimitingPolicy:
    """A policy that tells clients their limits."""

    async def identify(self, _: Headers) -> None: ...

    async def admit(self, request: AdmissionRequest) -> None:
        request.response_headers["anthropic-ratelimit-requests-remaining"] = "5"


async def run_exchanges(folder: Path) -> Sequence[Receipt]:
    """Run exchanges of each kind: fallback, relay, adaptation, inspection, check, changed prompt and failures."""
    receipts: list[Receipt] = []

    async def run(script: Script, *requests: dict[str, Any], config: str = "", **settings: str) -> None:
        (folder / "anthropic-proxy.toml").write_text(config, "utf-8")
        proxy = ProxyHarness(script, env_file=str(folder / ".env"), **settings)
        inspectors = open_inspectors(
            proxy.services.settings.inspectors,
            HttpCalls(lambda: pytest.fail("no guardrail is called")),
            proxy.services.background,
        )
        proxy.services = structs.replace(proxy.services, inspectors=inspectors, policies=[LimitingPolicy()])
        for fields in requests:
            await proxy.post(headers=HEADERS, **fields)
        receipts.extend(proxy.receipts)

    down = FakeResponse(503, b"<html>Bad gateway</html>", headers={"content-type": "text/html"})
    await run(
        Script(down, down, down, reply(text("ok"))),
        {"tools": [BASH], "messages": TOOL_TURNS, "stream": True, "top_k": 3},
        config='[[routes]]\nname = "cheap"\nwhen = { model = "*" }\ntargets = ["groq/a", "openai/b"]\n',
        GROQ_API_KEY="gsk-test-0123456789",
        **OPENAI,
    )
    await run(
        Script([json.dumps(MESSAGE).encode()]), {"model": "claude-opus-4-8"}, ANTHROPIC_API_KEY="sk-ant-test-0123"
    )
    stated = {"choices": CHOICES, "usage": {"prompt_tokens": 700, "completion_tokens": 90, "cost": 0.002}}
    await run(
        Script([json.dumps(stated).encode()]),
        {},
        OPENAI_BASE_URL="https://openrouter.ai/api/v1",
        BIG_MODEL="openai/z-ai/glm-5",
        **OPENAI,
    )
    rejected = {
        "error": {
            "message": "Unsupported parameter: 'temperature'",
            "param": "temperature",
            "code": "unsupported_parameter",
        }
    }
    await run(
        Script(FakeResponse(400, json.dumps(rejected).encode()), reply(text("ok"))),
        {"temperature": 0.5, "stream": True},
        **OPENAI,
    )
    verdict = json.dumps({"rule": "Deleting", "verdict": "flagged", "explanation": "Deletes data."})
    checked = {"choices": [{"message": {"role": "assistant", "content": verdict}, "finish_reason": "stop"}]}
    await run(
        Script(calls(call("Bash", command="rm -rf /srv/data")), [json.dumps(checked).encode()]),
        {
            "tools": [BASH],
            "stream": True,
            "safeguards": [{"type": "dangerous_tool_use", "classifier_context": CONTEXT}],
        },
        **OPENAI,
    )
    await run(
        Script(reply(text("ok"))),
        {"text": "card 4242 4242 4242 4242", "stream": True},
        config='[[inspectors]]\nname = "cards"\ntype = "patterns"\ndetect = ["card-numbers"]\n',
        **OPENAI,
    )
    limited = FakeResponse(429, b"<html>Slow down</html>", headers={"retry-after": "60"})
    await run(Script(limited, limited, limited), {}, **OPENAI)
    await run(Script(), {"model": "claude-opus-4-8"}, BIG_MODEL="gemini/gemini-2.5-pro")
    proxy = ProxyHarness(CachingProvider(["one", "two", "three"]), **{**OPENAI, "OPENAI_WIRE": "responses"})
    rules = "\n".join(f"rule {number}" for number in range(2_000))
    turns: list[dict[str, Any]] = []
    for system in (rules, rules, rules.replace("rule 9", "Rule 9")):
        turns.append({"role": "user", "content": "go on"})
        await proxy.post(headers=HEADERS, system=system, messages=turns)
        turns.append({"role": "assistant", "content": "ok"})
    receipts.extend(proxy.receipts)
    return receipts


def list_filled(records: Sequence[Struct]) -> Iterator[str]:
    for record in records:
        for field in structs.fields(record):
            default = field.default_factory() if field.default_factory is not NODEFAULT else field.default
            if getattr(record, field.name) != default:
                yield field.name


@pytest.mark.parametrize("kind", [Receipt, UpstreamAttempt])
async def test_each_field_is_filled_by_an_exchange_or_has_a_reason(kind: type[Struct], tmp_path: Path) -> None:
    receipts = await run_exchanges(tmp_path)
    records = receipts if kind is Receipt else [attempt for receipt in receipts for attempt in receipt.attempts]
    filled = {*list_filled(records)}
    names = {*kind.__struct_fields__}
    assert names - filled == names & FILLED_ELSEWHERE.keys()
