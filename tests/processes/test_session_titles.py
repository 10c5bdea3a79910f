"""The title that Claude Code asks for is the name of its session in commands and pages, unless a setting forbids it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import run_command
from tests.support.fakes.server import serving
from tests.support.process_checks import MESSAGES
from tests.support.scripted_answers import new_scripted_server
from tests.support.server_process import running_proxy
from tests.support.terminal import answer_questions
from tests.support.waiting import wait_for

SESSION = "0f6c2a1e-94a4-4c56-9d83-1f2b3c4d5e6f"
HEADERS = {"x-claude-code-session-id": SESSION, "user-agent": "claude-cli/2.1.332 (external, cli)"}
TITLE = "Fix the test of discounts"
SCHEMA = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}
SCRIPT = [
    {"if": '"Name this session"', "then": f"200 reply {json.dumps({'texts': [json.dumps({'title': TITLE})]})}"},
    {"if": "always", "then": f"200 reply {json.dumps({'texts': ['All done.']})}"},
]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("more", "name"),
    [({}, TITLE), ({"OPENAI_WIRE": "messages"}, TITLE), ({"LEDGER_TITLES": "false"}, "Session 0f6c2a1e")],
)
def test_a_session_has_one_name(tmp_path: Path, more: dict[str, str], name: str, stream: bool) -> None:
    schema = {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}
    with serving(new_scripted_server(SCRIPT)) as provider:
        settings = {"PREFERRED_PROVIDER": "openai", "OPENAI_API_KEY": "k", "OPENAI_BASE_URL": f"{provider.url}/v1"}
        settings |= {"DATABASE_URL": f"sqlite:///{tmp_path / 'ledger.sqlite3'}", **more}
        with running_proxy(tmp_path, settings) as proxy, proxy.client() as client:

            def send(text: str, **fields: Any) -> str:
                messages = [{"role": "user", "content": text}]
                body = {"model": "claude-haiku-5-5", "max_tokens": 100, "messages": messages, **fields}
                response = client.post(MESSAGES, json=body, headers=HEADERS)
                assert response.status_code == 200
                return response.headers["request-id"]

            send("Name this session", stream=stream, **schema)
            last = send("Do it", stream=stream)
            wait_for(lambda: len(client.get("/api/requests").json()["requests"]) == 2)
            listed = answer_questions("usage", "--by", "session", answers=(), directory=tmp_path, settings=settings)
            explained = run_command("explain", last, directory=tmp_path, settings=settings).stdout
            pages = {
                path: client.get(f"/dashboard/{path}", headers={"accept": "text/html"}).text
                for path in (
                    "sessions",
                    f"session?session={SESSION}",
                    f"requests?session={SESSION}",
                    f"requests/{last}",
                )
            }
            palette = client.get("/dashboard/palette").json()["entries"]
    assert name in listed.text
    assert name in explained
    assert [path for path, page in pages.items() if name not in page] == []
    assert [entry["text"] for entry in palette if entry["kind"] == "Session"] == [name]
