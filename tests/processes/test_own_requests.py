"""What leaves a running server because of a request of a restricted client: an own server, and one of a vendor."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fakes.server import Running, serving
from tests.support.scripted_answers import new_scripted_server
from tests.support.server_process import Proxy, running_proxy
from tests.support.waiting import wait_for

ADMIN = "admin-0123456789"
VERDICT = json.dumps({"rule": "Task", "verdict": "not_flagged", "explanation": ""})
CALL = json.dumps({"calls": [["call_1", "Bash", ['{"command": "rm -rf /srv/data"}']]]})
SCRIPT = [
    {"if": '"safety check of a coding agent"', "then": f"200 reply {json.dumps({'texts': [VERDICT]})}"},
    {"if": "always", "then": f"200 reply {CALL}"},
]
CONFIG = """
[auto_mode]
model = "openai/gpt-5.6-sol"

[providers.inhouse]
base_url = "{inhouse}/v1"

[providers.inhouse.models]
"qwen3" = {{}}

[[routes]]
name = "confidential"
when.header = {{ x-data = "confidential" }}
targets = ["inhouse/qwen3"]
web = false

[[routes]]
name = "claude"
when.model = "claude-fable-*"
targets = ["inhouse/qwen3"]
"""
SECRET = "walrus"


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Running, Running]]:
    with serving(new_scripted_server(SCRIPT)) as inhouse, serving(new_scripted_server(SCRIPT)) as vendor:
        yield inhouse, vendor


@pytest.fixture(scope="module")
def proxy(servers: tuple[Running, Running], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    inhouse, vendor = servers
    folder: Path = tmp_path_factory.mktemp("own_requests")
    (folder / "anthropic-proxy.toml").write_text(CONFIG.format(inhouse=inhouse.url), encoding="utf-8")
    settings = {
        "OPENAI_API_KEY": "sk-test-0123456789",
        "OPENAI_BASE_URL": f"{vendor.url}/v1",
        "OPENAI_WIRE": "responses",
        "VIRTUAL_KEYS": "true",
        "ADMIN_API_KEY": ADMIN,
        "DATABASE_URL": f"sqlite:///{folder / 'keys.sqlite3'}",
    }
    with running_proxy(folder, settings) as running:
        yield running
        assert "Traceback" not in running.log


REQUESTS: list[tuple[str, dict[str, Any], dict[str, str], dict[str, Any], bool]] = [
    ("free", {}, {}, {"model": "claude-opus-5-5"}, True),
    ("providers", {"providers": ["inhouse"]}, {}, {"model": "inhouse/qwen3"}, False),
    ("models", {"models": ["inhouse/*"]}, {}, {"model": "inhouse/qwen3"}, False),
    ("header", {}, {"x-data": "confidential"}, {"model": "claude-opus-5-5"}, False),
    ("model", {}, {}, {"model": "claude-fable-5"}, False),
    ("stream", {}, {"x-data": "confidential"}, {"model": "claude-opus-5-5", "stream": True}, False),
]


@pytest.mark.parametrize(("name", "rules", "headers", "fields", "leaves"), REQUESTS, ids=[row[0] for row in REQUESTS])
def test_the_vendor_gets_no_text_of_a_request_that_may_not_reach_it(
    proxy: Proxy,
    servers: tuple[Running, Running],
    name: str,
    rules: dict[str, Any],
    headers: dict[str, str],
    fields: dict[str, Any],
    leaves: bool,
) -> None:
    created = proxy.client(headers={"x-api-key": ADMIN}).post("/admin/keys", json={"name": f"for {name}", **rules})
    assert created.status_code == 200, created.text
    client = proxy.client(headers={"x-api-key": created.json()["key"], **headers})
    _, vendor = servers
    before = len(vendor.journal.exchanges)
    body = {
        "max_tokens": 500,
        "messages": [{"role": "user", "content": f"{SECRET} {name}"}],
        "tools": [{"name": "Bash", "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}}}],
        "safeguards": [{"type": "dangerous_tool_use", "classifier_context": {"live_cwd": "/home/ada/shop"}}],
        **fields,
    }
    reply = wait_for(
        lambda: client.post("/v1/messages", json=body), lambda answer: answer.status_code != 401
    )  # until all workers know the key
    assert reply.status_code == 200, reply.text
    counted = client.post("/v1/messages/count_tokens", json={"model": body["model"], "messages": body["messages"]})
    assert counted.json()["input_tokens"] > 0
    question = {"model": body["model"], "max_tokens": 9, "stop_sequences": ["</block>"], "messages": body["messages"]}
    assert client.post("/v1/messages", json=question).status_code == 200
    got = [one for one in vendor.journal.exchanges[before:] if SECRET in json.dumps(one.body)]
    assert bool(got) is leaves
