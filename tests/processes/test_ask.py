"""Command `ask`: one question through a proxy that is found or started."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.support.command_line import run_command
from tests.support.fake_upstream import frame
from tests.support.fakes import openai_chat
from tests.support.fakes.server import serving_strictly
from tests.support.server_process import environment_of, reserve_closed_port
from tests.support.terminal import answer_questions, read_output
from tests.support.waiting import WAIT_SECONDS

WAITING = "  Waiting for the reply …\r\n"
DEMO_START = "This is the built-in demonstration of anthropic-proxy. It is not a language model and knows nothing.\n"


def test_the_reply_is_on_stdout_and_its_facts_are_on_stderr(tmp_path: Path) -> None:
    ended = run_command("ask", "hello", directory=tmp_path, settings={})
    events = run_command("ask", "hello", "--json", directory=tmp_path, settings={}).stdout.splitlines()
    usage = next(event["usage"] for event in map(json.loads, events) if event["type"] == "message_delta")
    assert ended.returncode == 0
    assert ended.stdout.startswith(DEMO_START)
    assert ended.stderr == f"  claude-sonnet-5-5 → demo/demo  in 10 out {usage['output_tokens']}  end_turn\n"


@pytest.mark.parametrize(
    ("own", "settings", "used"),
    [
        ("vk-own", {}, "no key, because it requires none"),
        ("vk-own", {"PROXY_API_KEY": "pk-0123456789abcdef01236789,pk-2"}, "the first key of PROXY_API_KEY, …6789"),
        ("local", {}, None),
    ],
)
def test_a_key_of_the_client_that_is_not_used_is_named(
    own: str, settings: dict[str, str], used: str | None, tmp_path: Path
) -> None:
    ended = run_command("ask", "hello", directory=tmp_path, settings={"ANTHROPIC_AUTH_TOKEN": own, **settings})
    notices = ended.stderr.splitlines()[:-1]
    assert notices == (
        [f"  ANTHROPIC_AUTH_TOKEN of the environment is not used. The proxy gets {used}."] if used else []
    )
    assert ended.stdout.startswith(DEMO_START)


def test_a_failed_request_has_the_remedy(tmp_path: Path) -> None:
    with serving_strictly(openai_chat.new_openai()) as upstream:
        settings = {"OPENAI_API_KEY": openai_chat.KEY, "OPENAI_BASE_URL": f"{upstream.url}/v1"}
        settings["DATABASE_URL"] = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
        ended = run_command("ask", "hello [fault:rate after=12]", directory=tmp_path, settings=settings)
        assert (ended.returncode, ended.stdout) == (1, "")
        message, *remedies = ended.stderr.splitlines()
        assert message.startswith("✕ openai: Rate limit reached for ")
        assert remedies[0] == "  Retry in 12 s."
        assert re.fullmatch(r"  Why:  anthropic-proxy explain req_\w+", remedies[1])
        settings["DATABASE_URL"] = "off"
        ended = run_command("ask", "hello [fault:quota]", directory=tmp_path, settings=settings)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "✕ openai: You exceeded your current quota, please check your plan and billing details.\n"


def test_a_reply_after_a_fallback_names_the_failure(tmp_path: Path) -> None:
    with serving_strictly(openai_chat.new_openai()) as upstream:
        settings = {"OPENAI_API_KEY": openai_chat.KEY, "OPENAI_BASE_URL": f"{upstream.url}/v1"}
        settings |= {"SERVE_DEMO": "true", "FALLBACK_SONNET": "demo/demo"}
        ended = run_command("ask", "hello [fault:quota]", directory=tmp_path, settings=settings)
    assert ended.stdout.startswith(DEMO_START)
    assert re.fullmatch(r"  claude-sonnet-5-5 → demo/demo  in \d+ out \d+  end_turn  ↻ openai 429\n", ended.stderr)


def test_the_question_can_come_from_stdin(tmp_path: Path) -> None:
    ended = run_command("ask", directory=tmp_path, settings={}, stdin="hello")
    assert ended.stdout.startswith(DEMO_START)


def test_events_are_one_json_object_per_line(tmp_path: Path) -> None:
    ended = run_command("ask", "hello", "--json", directory=tmp_path, settings={})
    types = [json.loads(line)["type"] for line in ended.stdout.splitlines()]
    assert (types[0], types[-1], ended.stderr) == ("message_start", "message_stop", "")


HOSTILE = "\x1b[2J\x1b]52;c;aGk=\x07one\u00a0\U0001f469\u200d\U0001f4bb\n\ttwo\r\u202ethree"


class _HostileModel(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.write(frame({"role": "assistant", "content": HOSTILE}) + frame({}, "stop") + b"data: [DONE]\n\n")

    def log_message(self, *_: object) -> None:
        """Write no log."""


@pytest.fixture
def hostile_settings() -> Iterator[dict[str, str]]:
    with HTTPServer(("127.0.0.1", 0), _HostileModel) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield {
            "OPENAI_API_KEY": "sk-test-0123456789abcdef",
            "OPENAI_BASE_URL": f"http://127.0.0.1:{server.server_port}/v1",
            "BIG_MODEL": "openai/m",
        }
        server.shutdown()


def test_a_reply_cannot_control_the_terminal(tmp_path: Path, hostile_settings: dict[str, str]) -> None:
    screen = answer_questions("ask", "hello", answers=[], directory=tmp_path, settings=hostile_settings)
    first, second, *_ = screen.text.removeprefix(WAITING).split("\r\n")
    assert first == "\\x1b[2J\\x1b]52;c;aGk=\\x07one\u00a0\U0001f469\u200d\U0001f4bb"
    assert second.replace("\t", " ").strip() == "two\\r\\u202ethree"


class _SlowModel(_HostileModel):
    is_shown = threading.Event()

    def do_POST(self) -> None:
        assert self.is_shown.wait(WAIT_SECONDS)
        super().do_POST()


def test_a_terminal_shows_that_the_reply_takes_more_than_a_second(tmp_path: Path) -> None:
    def answers() -> Iterator[tuple[str, str]]:
        yield WAITING.strip(), ""
        _SlowModel.is_shown.set()

    with HTTPServer(("127.0.0.1", 0), _SlowModel) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        settings = {"OPENAI_API_KEY": "sk-test", "OPENAI_BASE_URL": f"http://127.0.0.1:{server.server_port}/v1"}
        screen = answer_questions("ask", "hello", answers=answers(), directory=tmp_path, settings=settings)
        server.shutdown()
    assert screen.text.startswith(WAITING + "\\x1b[2J")


def test_a_line_of_the_reply_ends_between_words_in_a_terminal(tmp_path: Path) -> None:
    pty = pytest.importorskip("pty", reason="platform: no terminals with signals")
    termios = pytest.importorskip("termios", reason="platform: no terminals with signals")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 40))
    command = [sys.executable, "-m", "anthropic_proxy", "ask", "hello"]
    environment = {**environment_of(tmp_path), "PORT": reserve_closed_port(), "NO_COLOR": "1"}
    subprocess.run(
        command, cwd=tmp_path, env=environment, stdout=theirs, stderr=theirs, timeout=WAIT_SECONDS, check=True
    )
    os.close(theirs)
    lines = "".join(iter(lambda: read_output(ours), "")).removeprefix(WAITING).splitlines()
    os.close(ours)
    assert lines[:3] == [
        "This is the built-in demonstration of",
        "anthropic-proxy. It is not a language",
        "model and knows nothing.",
    ]
    assert all(len(line) <= 40 for line in lines if " " in line.strip())


def test_a_pipe_gets_the_reply_unchanged(tmp_path: Path, hostile_settings: dict[str, str]) -> None:
    command = [sys.executable, "-m", "anthropic_proxy", "ask", "hello"]
    own = {**environment_of(tmp_path), "PORT": reserve_closed_port()}
    environment = {**own, **hostile_settings}
    ended = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, timeout=WAIT_SECONDS, check=True
    )
    assert ended.stdout.decode() == f"{HOSTILE}\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_causes_no_traceback(tmp_path: Path) -> None:
    environment = environment_of(tmp_path)
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "anthropic_proxy", "config", "show", "--all"]
        ended = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=WAIT_SECONDS,
            check=False,
        )
    assert (ended.returncode, ended.stderr.decode()) == (1, "✕ The output cannot be written: no space left.\n")


def test_an_empty_question_is_rejected(tmp_path: Path) -> None:
    ended = run_command("ask", " ", directory=tmp_path, settings={})
    message = '✕ The question is empty. Example:  anthropic-proxy ask "hello"\n'
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", message)


def test_an_error_of_the_proxy_is_the_message_with_status_1(tmp_path: Path) -> None:
    ended = run_command("ask", "hello", "--model", "groq/llama", directory=tmp_path, settings={})
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        "✕ groq has no key: GROQ_API_KEY is not set. Set it in .env, which applies at once, or in the environment and "
        "run anthropic-proxy ask again.\n"
    )


def test_a_reader_that_ends_early_causes_no_traceback(tmp_path: Path) -> None:
    command = f"{sys.executable} -m anthropic_proxy ask --json hello | head -n 1"
    environment = environment_of(tmp_path)
    ended = subprocess.run(
        command,
        shell=True,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert (json.loads(ended.stdout)["type"], ended.stderr) == ("message_start", "")
