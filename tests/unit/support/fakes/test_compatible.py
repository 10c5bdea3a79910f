"""The fakes of Groq, Moonshot, xAI and a user's own server: each rule rejects a request that violates it."""

import json
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.support.fakes.compatible import KINDS, new_server
from tests.support.fakes.server import serving
from tests.support.golden_runner import read_fields
from tests.support.paths import GOLDEN
from tests.support.tables import in_one_test
from tests.support.tls import NO_AUTHORITIES

MODELS = {"groq": "openai/gpt-oss-120b", "moonshot": "kimi-k2.6", "xai": "grok-4.6", "local": "Qwen/Qwen3-8B"}


@in_one_test
@pytest.mark.parametrize("path", sorted(GOLDEN.glob("openai_chat/*/*/expected_upstream_request.json")), ids=str)
def test_what_the_wire_sends_breaks_no_rule(path: Path) -> None:
    body = json.loads(path.read_bytes())["body"]
    kind = KINDS.get(read_fields(path.parent)["provider"])
    if kind and body["model"] in kind.models:
        assert list(kind.check(body, kind.models[body["model"]])) == []


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
