"""Command `explain --body`: the exact upstream request, without sending it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.settings import load_settings
from tests.support.command_line import OPENAI, run_command
from tests.support.ledger import new_receipt, store, store_checked_reply
from tests.support.server_process import running_forked_proxy

REQUEST = {
    "model": "claude-sonnet-4-6",
    "max_tokens": 64_000,
    "stream": True,
    "top_k": 40,
    "stop_sequences": ["a", "b"],
    "metadata": {"user_id": "u"},
    "tools": [{"name": "read", "description": "Read", "input_schema": {"type": "object"}}],
    "messages": [{"role": "user", "content": "hello"}],
}


def test_the_printed_request_is_the_one_that_a_provider_receives(tmp_path: Path) -> None:
    with capturing_server() as (port, received):
        settings = {**OPENAI, "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1", "BIG_MODEL": "openai/gpt-4.1"}
        ended = run_command("explain", "-", "--body", directory=tmp_path, settings=settings, stdin=json.dumps(REQUEST))
        assert received == []
        with running_forked_proxy(tmp_path, settings) as proxy:
            assert proxy.client().post("/v1/messages", json=REQUEST).status_code == 400
    head, _, body = ended.stdout.partition("\n\n")
    request_line, *headers = head.split("\n")
    target, sent_headers, sent_body = received[0]
    assert request_line == f"POST http://127.0.0.1:{port}{target}"
    assert headers == [line.replace(OPENAI["OPENAI_API_KEY"], "…cdef") for line in sent_headers]
    assert body == sent_body


@contextmanager
def capturing_server() -> Iterator[tuple[int, list[tuple[str, list[str], str]]]]:
    """Yield the port of a server and the received requests: target, header lines, body. It replies with status 400."""
    received: list[tuple[str, list[str], str]] = []

    class Capture(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            received.append((self.path, [f"{name}: {value}" for name, value in self.headers.items()], body))
            self.send_response(400)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Capture) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port, received
        server.shutdown()
        thread.join()


async def test_the_rule_of_a_server_in_its_folder_has_the_folder_in_another_shell(tmp_path: Path) -> None:
    folder, project = tmp_path / "checkout", tmp_path / "project"
    folder.mkdir()
    project.mkdir()
    (folder / ".env").write_text("SMALL_MODEL=groq/small\n")
    ledger = {"DATABASE_URL": f"sqlite:///{tmp_path}/ledger.db", "ANTHROPIC_PROXY_CONFIG": str(folder)}
    receipt = new_receipt(route_reason="haiku is SMALL_MODEL (.env line 1), and its prefix names the provider: groq")
    await store(load_settings(ledger, PROVIDERS, env_file=None), receipt)
    for directory, place in ((folder, ".env line 1"), (project, "~/checkout/.env line 1")):
        ended = run_command("explain", directory=directory, settings={**ledger, "HOME": str(tmp_path)})
        (rule,) = [line.strip() for line in ended.stdout.splitlines() if line.startswith("    rule")]
        assert rule == f"rule       haiku is SMALL_MODEL ({place}), and its prefix names the provider: groq"


@pytest.mark.parametrize("is_old", [False, True], ids=["with its remedy", "stored by an earlier version"])
async def test_the_remedy_of_a_missing_model_is_that_of_its_error(tmp_path: Path, *, is_old: bool) -> None:
    ledger = {"DATABASE_URL": f"sqlite:///{tmp_path}/ledger.db"}
    cause = 'groq: gone. The model groq/gone is set by targets of route "think", anthropic-proxy.toml line 3.'
    receipt = new_receipt(status=400, outcome="error", error_type="not_found_error")
    receipt.error, receipt.error_code = f'{cause} Remedy: set targets = ["groq/new"]', "configured-model-not-found"
    receipt.remedy = "" if is_old else 'set targets = ["groq/new"]'
    await store(load_settings(ledger, PROVIDERS, env_file=None), receipt)
    ended = run_command("explain", directory=tmp_path, settings=ledger)
    shown = [line.strip() for line in ended.stdout.splitlines() if line.startswith(("    error", "    remedy"))]
    if is_old:
        assert shown[0] == f"error      not_found_error, 400 for the client: {receipt.error}"
    else:
        assert shown == [
            f"error      not_found_error, 400 for the client: {cause}",
            'remedy     Set targets = ["groq/new"]. Models of groq:  anthropic-proxy models groq',
        ]


async def test_a_stored_reply_and_its_checks_name_each_other(tmp_path: Path) -> None:
    ledger = {"DATABASE_URL": f"sqlite:///{tmp_path}/ledger.db"}
    reply, check, second = await store_checked_reply(load_settings(ledger, PROVIDERS, env_file=None))
    ended = run_command("explain", reply, directory=tmp_path, settings=ledger)
    lines = [line[4:] for line in ended.stdout.splitlines() if line.startswith("    call")]
    assert lines == [
        "call 1     Bash: flagged: Deletes data that cannot be restored.; openai/gpt-4.1, 2,000 in, 40 out, $0.004, "
        f"0.80 s, {check}",
        f"call 2     mcp__shop__sell: unavailable: the two checking models disagree; req_gone; "
        f"gemini/pro, 2,000 in, 40 out, unknown, 0.90 s, {second}",
        "call 3     Read: harmless (reads inside the directories: Read)",
        "call 4     Write: not flagged by the provider",
        "call 5     WebFetch: unavailable: timeout",
    ]
    ended = run_command("explain", check, directory=tmp_path, settings=ledger)
    lines = [line[4:] for line in ended.stdout.splitlines() if line.startswith(("    call", "    check"))]
    assert lines == [
        f"check of   a tool call in the reply to {reply}",
        "call 1     Bash: flagged: Deletes data that cannot be restored.",
    ]


async def test_what_was_learned_about_the_model_is_told(tmp_path: Path) -> None:
    ledger = {"DATABASE_URL": f"sqlite:///{tmp_path}/ledger.db"}
    settings = load_settings(ledger, PROVIDERS, env_file=None)
    await store(settings, new_receipt(adaptations=["limit 4096", "system reminder"]))
    ended = run_command("explain", directory=tmp_path, settings=ledger)
    assert "    learned    limit 4096, system reminder\n" in ended.stdout
