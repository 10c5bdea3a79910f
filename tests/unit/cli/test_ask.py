"""Command `ask`: one question through a proxy that is found or started."""

import json
import subprocess
import sys
from pathlib import Path

from tests.support.command_line import run_command
from tests.support.paths import ROOT

DEMO_START = "This is the built-in demonstration of anthropic-proxy. It is not a language model and knows nothing.\n"


def test_the_reply_is_on_stdout_and_its_facts_are_on_stderr(tmp_path: Path) -> None:
    ended = run_command("ask", "hello", directory=tmp_path, settings={})
    assert ended.returncode == 0
    assert ended.stdout.startswith(DEMO_START)
    assert ended.stderr == "claude-sonnet-5-5  in 10 out 81  end_turn\n"


def test_the_question_can_come_from_stdin(tmp_path: Path) -> None:
    ended = run_command("ask", directory=tmp_path, settings={}, stdin="hello")
    assert ended.stdout.startswith(DEMO_START)


def test_events_are_one_json_object_per_line(tmp_path: Path) -> None:
    ended = run_command("ask", "hello", "--json", directory=tmp_path, settings={})
    types = [json.loads(line)["type"] for line in ended.stdout.splitlines()]
    assert (types[0], types[-1], ended.stderr) == ("message_start", "message_stop", "")


def test_an_empty_question_is_rejected(tmp_path: Path) -> None:
    ended = run_command("ask", " ", directory=tmp_path, settings={})
    message = '✕ The question is empty. Example:  anthropic-proxy ask "hello"\n'
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", message)


def test_an_error_of_the_proxy_is_the_message_with_status_1(tmp_path: Path) -> None:
    ended = run_command("ask", "hello", "--model", "groq/llama", directory=tmp_path, settings={})
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        "✕ groq has no key: GROQ_API_KEY is not set. Set it in .env or in the environment and start the proxy again.\n"
    )


def test_a_reader_that_ends_early_causes_no_traceback(tmp_path: Path) -> None:
    command = f"{sys.executable} -m anthropic_proxy ask --json hello | head -n 1"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert (json.loads(ended.stdout)["type"], ended.stderr) == ("message_start", "")
