"""The fakes of Groq, Moonshot, xAI and a user's own server: each rule rejects a request that violates it."""

import json
import re
import subprocess
import sys
from typing import Any

import httpx2 as httpx
import openai
import pytest

from tests.support.fakes.compatible import KINDS, new_server
from tests.support.fakes.compatible.samples import BAD, GOOD
from tests.support.fakes.openai_chat.samples import READ
from tests.support.fakes.server import serving
from tests.support.paths import FAKES, ROOT
from tests.support.tls import NO_AUTHORITIES
from tests.support.waiting import WAIT_SECONDS

MODELS = {"groq": "openai/gpt-oss-120b", "moonshot": "kimi-k2.6", "xai": "grok-4.6", "local": "Qwen/Qwen3-8B"}


@pytest.mark.parametrize(("name", "good"), GOOD, ids=range(len(GOOD)))
def test_a_good_request_breaks_no_rule(name: str, good: dict[str, Any]) -> None:
    kind = KINDS[name]
    assert list(kind.check(good, kind.models[good["model"]])) == []


@pytest.mark.parametrize(("name", "rule", "words", "bad"), BAD, ids=[f"{one[0]}-{one[1]}-{one[2][:20]}" for one in BAD])
def test_a_bad_request_is_named_by_its_rule(name: str, rule: str, words: str, bad: dict[str, Any]) -> None:
    kind = KINDS[name]
    breaches = list(kind.check(bad, kind.models[bad["model"]]))
    assert [breach for breach in breaches if breach.rule == rule and words in breach.message], breaches


def test_every_rule_has_a_sample_that_breaks_it() -> None:
    folder = FAKES / "compatible"
    for name in KINDS:
        text = (folder / f"{name}.py").read_text("utf-8")
        named = set(re.findall(r'ContractViolation\(\s*"(\w+)"', text))
        assert named <= {rule for kind, rule, _, _ in BAD if kind == name}, name


@pytest.mark.parametrize("name", KINDS)
def test_a_stream_has_the_same_content_as_the_whole_reply(name: str) -> None:
    kind = KINDS[name]
    ask: Any = {"model": MODELS[name], "messages": [{"role": "user", "content": "Read /a and then"}], "tools": [READ]}
    with serving(new_server(name)) as server:
        base = server.url + kind.path.removesuffix("/chat/completions")
        with openai.OpenAI(api_key=kind.key or "none", base_url=base, max_retries=0) as client:
            whole = client.chat.completions.create(**ask)
            pieces = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
        assert server.journal.violations() == []
    message = whole.choices[0].message
    deltas = [piece.choices[0].delta for piece in pieces if piece.choices]
    reasoning = "".join((delta.model_extra or {}).get(kind.thinking_field) or "" for delta in deltas)
    assert reasoning == (message.model_extra or {})[kind.thinking_field]
    calls = [call.function for delta in deltas for call in delta.tool_calls or () if call.function]
    assert message.tool_calls is not None
    assert "".join(call.arguments or "" for call in calls) == message.tool_calls[0].function.arguments  # type: ignore[union-attr]
    assert [piece.choices[0].finish_reason for piece in pieces if piece.choices][-1] == "tool_calls"


def test_counts_stand_where_each_server_puts_them() -> None:
    def stream(name: str) -> list[dict[str, Any]]:
        kind = KINDS[name]
        body = {"model": MODELS[name], "messages": [{"role": "user", "content": "Count to 3"}], "stream": True}
        body["stream_options"] = {"include_usage": True}
        with serving(new_server(name)) as server:
            headers = {"authorization": f"Bearer {kind.key}"}
            answer = httpx.post(
                server.url + kind.path, json=body, headers=headers, trust_env=False, verify=NO_AUTHORITIES
            )
        lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
        return [json.loads(line) for line in lines]

    groq, moonshot, xai = (stream(name)[-1] for name in ("groq", "moonshot", "xai"))
    assert groq["x_groq"]["usage"] == groq["usage"]
    assert groq["choices"][0]["finish_reason"] == "stop"
    assert moonshot["choices"][0]["usage"]["prompt_tokens"] > 0
    assert "usage" not in moonshot
    usage = xai["usage"]
    reasoning = usage["completion_tokens_details"]["reasoning_tokens"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] + reasoning > reasoning > 0


@pytest.mark.parametrize("name", KINDS)
def test_reasoning_of_somebody_else_is_a_breach(name: str) -> None:
    kind = KINDS[name]
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", kind.thinking_field: "foreign"}]
    body = {"model": MODELS[name], "messages": [*messages, {"role": "user", "content": "c"}]}
    with serving(new_server(name)) as server:
        headers = {"authorization": f"Bearer {kind.key}"} if kind.key else {}
        answer = httpx.post(server.url + kind.path, json=body, headers=headers, trust_env=False, verify=NO_AUTHORITIES)
        assert [breach["rule"] for breach in server.journal.violations()] == ["reasoning_foreign"]
    assert answer.status_code == 400


@pytest.mark.slow
def test_one_runs_from_the_command_line() -> None:
    words = [sys.executable, "-m", "tests.support.fakes.compatible", "moonshot", "--port", "0"]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().removeprefix("listening on ").strip()
        assert httpx.get(f"{address}/__violations", trust_env=False, verify=NO_AUTHORITIES).json() == []
    finally:
        process.terminate()
        process.wait(timeout=WAIT_SECONDS)
