"""`report` of exchanges with each kind of target, and what is done with a report: checked here, sent to a server."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from messages_conformance.__main__ import main
from messages_conformance.backends import Backend, start_backend
from tests.support.command_line import run_command
from tests.support.process_checks import MESSAGES
from tests.support.server_process import Proxy, running_proxy
from tests.support.tls import NO_AUTHORITIES
from tests.support.waiting import WAIT_SECONDS, wait_for

MARK = "Zw7Quux"
TARGETS: dict[str, tuple[str, dict[str, str]]] = {
    "messages": ("anthropic/claude-sonnet-4-5", {"ANTHROPIC_UPSTREAM_URL": "{url}", "ANTHROPIC_API_KEY": "any"}),
    "openai": (
        "openai/gpt-4.1",
        {"OPENAI_BASE_URL": "{url}/v1", "OPENAI_API_KEY": "any", "OPENAI_WIRE": "chat"},
    ),
    "responses": (
        "openai/gpt-5.1",
        {"OPENAI_BASE_URL": "{url}/v1", "OPENAI_API_KEY": "any", "OPENAI_WIRE": "responses"},
    ),
    "gemini": ("gemini/gemini-2.5-flash", {"GEMINI_BASE_URL": "{url}/v1beta", "GEMINI_API_KEY": "any"}),
    "ollama": (f"ollama/qwen3-{MARK}", {"OLLAMA_API_BASE": "{url}"}),
}
"""Backend of the suite → model and settings of the proxy."""
TOOL = {
    "name": f"find_{MARK}",
    "description": f"Finds {MARK}.",
    "input_schema": {"type": "object", "properties": {MARK: {"type": "string"}}, "required": [MARK]},
}
CALL = {"type": "tool_use", "id": f"toolu_{MARK}", "name": TOOL["name"], "input": {MARK: MARK}}
BODY: dict[str, Any] = {
    "max_tokens": 64,
    "stop_sequences": [f"never {MARK}"],
    "metadata": {"user_id": MARK},
    "system": [{"type": "text", "text": MARK, "cache_control": {"type": "ephemeral"}}],
    "tools": [TOOL],
    "tool_choice": {"type": "any"},
    "messages": [
        {"role": "user", "content": f"Find {MARK}."},
        {"role": "assistant", "content": [CALL]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": CALL["id"], "content": MARK}]},
        {"role": "user", "content": "Go on. [trial report]"},
    ],
}
REPLY = {
    "parts": [{"text": f"Of {MARK}."}, {"call": {"name": TOOL["name"], "arguments": {MARK: f"a longer text {MARK}"}}}]
}


@dataclass(frozen=True)
class Place:
    folder: Path
    proxy: Proxy
    settings: dict[str, str]
    backend: Backend
    model: str


@pytest.fixture(scope="module", params=TARGETS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    model, own = TARGETS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    backend = start_backend(request.param, "127.0.0.1", 0)
    settings = {name: value.format(url=backend.url) for name, value in own.items()}
    settings |= {"LEDGER_CONTENT": "true", "DATABASE_URL": f"sqlite:///{folder / 'ledger.sqlite3'}"}
    try:
        with running_proxy(folder, settings) as proxy:
            yield Place(folder, proxy, {**settings, "PORT": proxy.url.rpartition(":")[2]}, backend, model)
    finally:
        backend.close()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("fails", [False, True], ids=["reply", "error"])
def test_a_report_is_checked_here_and_sent_to_a_server(
    place: Place, stream: bool, fails: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    place.backend.expect("report", [{"error": {"kind": "invalid_request", "message": MARK}} if fails else REPLY])
    with httpx.Client(base_url=place.proxy.url, timeout=WAIT_SECONDS, trust_env=False, verify=NO_AUTHORITIES) as client:
        response = client.post(MESSAGES, json={**BODY, "model": place.model, "stream": stream})
    assert response.status_code == (400 if fails else 200), response.text
    request_id = response.headers["request-id"]

    def reported() -> bool:
        words = ("report", request_id, "--yes", "--to", request_id)
        ended = run_command(*words, directory=place.folder, settings=place.settings)
        return ended.returncode == 0

    wait_for(reported)
    folder = place.folder / request_id
    files = {file.name: file.read_text("utf-8") for file in folder.iterdir()}
    assert not [name for name, content in files.items() if MARK.lower() in content.lower()]
    assert [name for name in files if name.startswith("expected_") and "upstream" not in name] == [
        "expected_error.json" if fails else "expected_events.sse" if stream else "expected_message.json"
    ]
    if not fails:
        request = json.loads(files["request.json"])
        assert (
            f'"name": "{request["tools"][0]["name"]}"'
            in files["expected_events.sse" if stream else "expected_message.json"]
        )

    ended = run_command("replay", "--check", str(folder), directory=place.folder, settings=place.settings)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.endswith("  ✓ this version sends the same request to the provider\n")
    assert main([place.proxy.url, "--case", str(folder), "--model", place.model]) == 0
    assert capsys.readouterr().out.splitlines()[5].split()[-1] == "kept"
