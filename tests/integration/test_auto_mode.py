"""Checks of tool calls as the official SDK gets them: a real process, and a provider with each API of the proxy."""

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from tests.support.fakes.server import Running, serving
from tests.support.scripted_answers import new_scripted_server
from tests.support.sdk import open_sdk
from tests.support.server_process import Proxy, running_forked_proxy
from tests.support.waiting import wait_for

SAFEGUARDS = [{"type": "dangerous_tool_use", "classifier_context": {"v": 1, "live_cwd": "/home/ada/shop"}}]
BASH: Any = {"name": "Bash", "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}}}
WHY = "Deletes data that cannot be restored."
VERDICT = json.dumps({"rule": "Deleting", "verdict": "flagged", "explanation": WHY})
CALL = json.dumps({"calls": [["call_1", "Bash", ['{"command": "rm -rf /srv/data"}']]]})
SCRIPT = [
    {"if": '"safety check of a coding agent"', "then": f"200 reply {json.dumps({'texts': [VERDICT]})}"},
    {"if": "always", "then": f"200 reply {CALL}"},
]
MODELS = ("openai/gpt-4.1", "groq/llama-3.3-70b-versatile", "ollama/qwen3-coder:30b", "gemini/gemini-2.5-flash")


@pytest.fixture(scope="module")
def provider() -> Iterator[Running]:
    with serving(new_scripted_server(SCRIPT)) as running:
        yield running


@pytest.fixture(scope="module")
def proxy(provider: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    settings = {
        "OPENAI_API_KEY": "k1",
        "OPENAI_BASE_URL": f"{provider.url}/v1",
        "OPENAI_WIRE": "responses",
        "GROQ_API_KEY": "k2",
        "GROQ_BASE_URL": f"{provider.url}/v1",
        "OLLAMA_API_BASE": provider.url,
        "GEMINI_API_KEY": "k3",
        "GEMINI_BASE_URL": f"{provider.url}/v1beta",
        "PREFERRED_PROVIDER": "openai",
    }
    with running_forked_proxy(tmp_path_factory.mktemp("auto_mode"), settings) as running:
        yield running
        assert "Traceback" not in running.log


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("model", MODELS)
def test_the_sdk_gets_the_verdict_with_the_end_of_the_reply(proxy: Proxy, model: str, stream: bool) -> None:
    fields: Any = {"model": model, "max_tokens": 500, "tools": [BASH], "extra_body": {"safeguards": SAFEGUARDS}}
    fields["messages"] = [{"role": "user", "content": "Free some space."}]
    with open_sdk(base_url=proxy.url, api_key="the-clients-own", max_retries=0) as client:
        if stream:
            with client.messages.stream(**fields) as events:
                found = [event for event in events if event.type == "message_delta"]
                message = events.get_final_message()
            results = [event.delta.model_dump()["safeguard_results"] for event in found]
        else:
            message = client.messages.create(**fields)
            results = [message.model_dump()["safeguard_results"]]
    (call,) = [block for block in message.content if block.type == "tool_use"]
    outcome = {"type": "evaluated", "outcome": "flagged", "explanation": WHY}
    status = {"type": "available", "tool_uses": {call.id: outcome}}
    assert results == [[{"type": "dangerous_tool_use", "status": status}]]


def test_costs_by_kind_and_by_prompt_are_the_sums_of_the_records(provider: Running, tmp_path: Path) -> None:
    """Two prompts of a session with the hint headers of Claude Code 2.1.332, with checks and a sub-agent."""
    settings = {
        "OPENAI_API_KEY": "k1",
        "OPENAI_BASE_URL": f"{provider.url}/v1",
        "OPENAI_WIRE": "chat",
        "PREFERRED_PROVIDER": "openai",
        "DATABASE_URL": f"sqlite:///{tmp_path / 'ledger.sqlite3'}",
    }
    (tmp_path / "anthropic-proxy.toml").write_text('[prices."openai/*"]\ninput = 2\noutput = 8\n')
    session = {"x-claude-code-session-id": "db4f087a-462e-45e5-871b-cda76a12e6a1", "user-agent": "claude-cli/2.1.332"}
    sent = [("p1", "main", ""), ("p1", "main", "Bash=1099"), ("p1", "subagent", "")]
    sent += [("p2", "main", ""), ("", "main", "")]
    body = {"model": "openai/gpt-4.1", "max_tokens": 500, "tools": [BASH], "safeguards": SAFEGUARDS}
    body["messages"] = [{"role": "user", "content": "Free some space."}]
    with running_forked_proxy(tmp_path, settings) as proxy:
        client = proxy.client()
        for prompt, kind, durations in sent:
            headers = {**session, "x-claude-code-request-class": kind, "x-claude-code-prev-tool-durations": durations}
            headers |= {"x-claude-code-prompt-id": prompt} if prompt else {}
            assert client.post("/v1/messages", json=body, headers=headers).status_code == 200
        found = wait_for(lambda: client.get("/api/requests").json()["requests"], lambda rows: len(rows) == 10)
        usage = {by: client.get("/api/usage", params={"by": by}).json() for by in ("prompt", "kind", "verdict")}
        pages = {by: client.get("/dashboard/costs", params={"by": by}).text for by in ("prompt", "kind")}
    replies = {row["id"]: row for row in found if not row["parent"]}
    checks = [row for row in found if row["parent"]]
    assert len(replies) == len(checks) == 5
    for row in checks:
        (check,) = replies[row["parent"]]["checks"]
        assert (check["request"], check["verdict"], check["reason"]) == (row["id"], "flagged", WHY)
        assert (row["kind"], row["prompt_id"]) == ("auto_mode_check", replies[row["parent"]]["prompt_id"])
    assert sorted(row["tool_times"] for row in replies.values())[-1] == [{"name": "Bash", "duration_seconds": 1.099}]
    columns = {"prompt": "prompt_id", "kind": "kind", "verdict": "verdict"}
    for by, column in columns.items():
        expected: dict[str, list[float]] = {}
        for row in found:
            sums = expected.setdefault(row[column], [0, 0, 0])
            for place, value in enumerate((1, row["input_tokens"], row["cost"])):
                sums[place] += value
        groups = {one["name"]: [one["requests"], one["input_tokens"], one["cost"]] for one in usage[by]["groups"]}
        assert groups == {name: pytest.approx(sums) for name, sums in expected.items()}
        assert usage[by]["total"]["cost"] == pytest.approx(sum(row["cost"] for row in found))
    assert {name: len(list(rows)) for name, rows in groupby(sorted(row["prompt_id"] for row in found))} == {
        "": 2,
        "p1": 6,
        "p2": 2,
    }
    assert "/dashboard/requests?prompt=p1" in pages["prompt"]
    assert "/dashboard/requests?kind=auto_mode_check" in pages["kind"]
