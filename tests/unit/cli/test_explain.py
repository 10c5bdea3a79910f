"""Command `explain`: route, changed fields and the exact upstream request, without sending it."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from tests.support.command_line import OPENAI, run_command
from tests.support.server_process import running_proxy

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
SETTINGS = {**OPENAI, "BIG_MODEL": "gpt-4.1", "FALLBACK_SONNET": "groq/llama-x", "GROQ_API_KEY": "gsk_0123456789abcdef"}
SUMMARY = """\
  claude-sonnet-4-6 → openai/gpt-4.1
    rule       sonnet is BIG_MODEL (environment), and a name without a prefix gets that of its list: openai
    attempt 1  POST https://api.openai.com/v1/chat/completions
    attempt 2  groq/llama-x, if attempt 1 fails (FALLBACK_SONNET, environment)

  ✓ 3 fields unchanged
  ~ stop_sequences    2, emulated by the proxy  detected in the reply by the proxy
  ~ max_tokens        64,000 → 32,768           the model's limit
  ✕ top_k             40 → not sent             no setting for it is known
  ~ metadata.user_id  u, approximated           a hash of it is sent as safety_identifier

  Full upstream request:  anthropic-proxy explain request.json --body
"""

HINTS = {
    "model": "openai/gpt-4.1",
    "max_tokens": 6_000,
    "speed": "fast",
    "unknown_field": {"x": 1},
    "metadata": {"user_id": "u"},
    "thinking": {"type": "enabled", "budget_tokens": 5_000},
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    "tools": [
        {"name": "read", "description": "Read", "input_schema": {"type": "object", "properties": {}}},
        {"type": "bash_20250124", "name": "bash"},
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 3},
    ],
    "messages": [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "c2ln"}]},
        {"role": "user", "content": "go on"},
    ],
}
HINTS_SUMMARY = """\
  ✓ 3 fields unchanged
  ✕ thinking                   not sent               the model has no known effort levels
  ✕ messages.thinking          not sent               this backend did not produce it, or does not accept it
  ✕ speed                      fast → not sent        the proxy has no translation of it for this provider
  ✕ unknown_field              not sent               the proxy has no translation of it for this provider
  ~ metadata.user_id           u, approximated        a hash of it is sent as safety_identifier
  ~ tools.bash                 emulated by the proxy  sent as a function, with a description and schema of the proxy
  ~ tools.web_search           approximated           replaced by the provider's own tool
  ~ tools.web_search.max_uses  approximated           sent as max_tool_calls
  ✕ system.cache_control       not sent               the proxy has no translation of it for this provider

  Full upstream request:  anthropic-proxy explain request.json --body
"""


def write(directory: Path, body: Mapping[str, Any] | str = REQUEST) -> str:
    (directory / "request.json").write_text(body if isinstance(body, str) else json.dumps(body))
    return "request.json"


def test_route_and_changes_are_listed(tmp_path: Path) -> None:
    ended = run_command("explain", write(tmp_path), directory=tmp_path, settings=SETTINGS)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, SUMMARY, "")


def test_a_program_reads_json_from_standard_input(tmp_path: Path) -> None:
    ended = run_command("explain", "-", "--json", directory=tmp_path, settings=SETTINGS, stdin=json.dumps(REQUEST))
    report = json.loads(ended.stdout)
    assert (report["target"], report["unchanged"]) == ("openai/gpt-4.1", ["stream", "tools.read", "messages.text"])
    assert report["changes"][1] == {
        "field": "max_tokens",
        "handling": "approximated",
        "before": "64,000",
        "after": "32,768",
        "reason": "the model's limit",
    }
    assert report["upstream"]["headers"]["authorization"] == "Bearer …cdef"
    assert json.loads(report["upstream"]["body"])["model"] == "gpt-4.1"
    assert report["error"] is None


def test_fields_without_a_fidelity_note_are_compared_with_the_upstream_request(tmp_path: Path) -> None:
    ended = run_command("explain", write(tmp_path, HINTS), directory=tmp_path, settings=OPENAI)
    assert ended.stdout.partition("\n\n")[2] == HINTS_SUMMARY


def test_an_unknown_field_is_relayed_to_a_server_with_the_messages_api(tmp_path: Path) -> None:
    settings = {"ANTHROPIC_API_KEY": "sk-ant-0123456789abcdef"}
    words = ("explain", write(tmp_path, HINTS), "--model", "anthropic/claude-opus-4-5", "--json")
    report = json.loads(run_command(*words, directory=tmp_path, settings=settings).stdout)
    assert report["changes"] == []
    assert report["unchanged"] == [
        "max_tokens",
        "speed",
        "unknown_field.x",
        "metadata.user_id",
        "thinking.type",
        "thinking.budget_tokens",
        "system",
        "tools.read",
        "tools.bash",
        "tools.web_search",
        "messages.text",
        "messages.thinking",
    ]


def test_the_printed_request_is_the_one_that_a_provider_receives(tmp_path: Path) -> None:
    with capturing_server() as (port, received):
        settings = {**OPENAI, "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1", "BIG_MODEL": "openai/gpt-4.1"}
        ended = run_command("explain", write(tmp_path), "--body", directory=tmp_path, settings=settings)
        assert received == []
        with running_proxy(tmp_path, settings) as proxy:
            assert proxy.client().post("/v1/messages", json=REQUEST).status_code == 400
    head, _, body = ended.stdout.partition("\n\n")
    request_line, *headers = head.split("\n")
    target, sent_headers, sent_body = received[0]
    assert request_line == f"POST http://127.0.0.1:{port}{target}"
    assert headers == [line.replace(OPENAI["OPENAI_API_KEY"], "…cdef") for line in sent_headers]
    assert body == sent_body


def test_a_rejected_request_has_status_1_and_the_error(tmp_path: Path) -> None:
    body = {**REQUEST, "messages": [{"role": "robot", "content": "hello"}]}
    ended = run_command("explain", write(tmp_path, body), directory=tmp_path, settings=SETTINGS)
    assert (ended.returncode, ended.stdout) == (1, SUMMARY.partition("    attempt")[0])
    assert ended.stderr.startswith("✕ 400 invalid_request_error: messages.0.role: ")


def test_the_model_can_be_replaced(tmp_path: Path) -> None:
    words = ("explain", write(tmp_path), "--model", "gemini/gemini-2.5-pro")
    ended = run_command(*words, directory=tmp_path, settings=SETTINGS)
    assert (
        ended.stdout
        == "  gemini/gemini-2.5-pro → gemini/gemini-2.5-pro\n    rule       the request names its provider: gemini\n"
    )
    assert (ended.returncode, ended.stderr) == (
        1,
        "✕ 401 authentication_error: gemini has no key: GEMINI_API_KEY is not set. "
        "Set it in .env or in the environment and start the proxy again.\n",
    )


def test_a_request_for_a_token_count_is_recognized(tmp_path: Path) -> None:
    body = {name: REQUEST[name] for name in ("model", "messages")}
    ended = run_command("explain", write(tmp_path, body), directory=tmp_path, settings=SETTINGS)
    assert ended.stdout.splitlines()[2:] == [
        "    request    /v1/messages/count_tokens, because max_tokens and stream are missing",
        "    reply      6 input tokens, estimated by the proxy",
    ]


def test_invalid_json_is_reported_with_its_position(tmp_path: Path) -> None:
    ended = run_command("explain", write(tmp_path, '{"model": "x",\n "messages": [1 2]}'), directory=tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "✕ request.json is not valid JSON: Expecting ',' delimiter, line 2, column 17.\n"
    (tmp_path / "request.json").write_bytes(b'{"a":\n"\xff"}')
    ended = run_command("explain", "request.json", directory=tmp_path)
    assert ended.stderr == "✕ request.json is not valid UTF-8: byte 0xff, line 2, column 2.\n"
    ended = run_command("explain", write(tmp_path, '{"max_tokens": %s}' % ("9" * 5_000)), directory=tmp_path)
    assert ended.stderr == "✕ request.json contains an integer of more than 4,300 digits.\n"
    ended = run_command("explain", write(tmp_path, "[]"), directory=tmp_path)
    assert ended.stderr == "✕ request.json contains no JSON object. Use the body of a request to /v1/messages.\n"


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
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port, received
        server.shutdown()
        thread.join()
