"""Claude Code in daily use, started with `anthropic-proxy code`: it shows the models that reply, and their window."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.claude import TIMEOUT_SECONDS, environment
from tests.e2e.terminal import Terminal, terminal
from tests.support.fakes.server import Running
from tests.support.paths import ROOT

CODE = ("-m", "anthropic_proxy", "code", "--")
MANY_TOOLS = Path(__file__).with_name("many_tools_server.py")


def own_variables(claude: Path, settings: dict[str, str], home: Path) -> dict[str, str]:
    """Return the variables of a user with this home and these settings."""
    return {
        **settings,
        "PATH": f"{claude.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "ANTHROPIC_PROXY_CONFIG": str(home),
        "OLLAMA_API_BASE": "http://127.0.0.1:9",
    }


@contextmanager
def code_terminal(claude: Path, settings: dict[str, str], work: Path) -> Iterator[Terminal]:
    """Start `anthropic-proxy code` in a directory of work, on a screen."""
    home = work.parent / "home"
    home.mkdir(exist_ok=True)
    with terminal(Path(sys.executable), "", work, *CODE, **own_variables(claude, settings, home)) as screen:
        yield screen


def test_the_header_and_the_menu_name_the_models_that_reply(claude: Path, settings: dict[str, str], work: Path) -> None:
    models = {"BIG_MODEL": "openai/gpt-4.1", "SMALL_MODEL": "openai/gpt-4.1-mini"}
    with code_terminal(claude, {**settings, **models}, work) as screen:
        screen.wait_for("openai/gpt-4.1 · API Usage Billing")
        screen.type("/model")
        screen.wait_for("replies to opus, 1,047,576 tokens")
        screen.wait_for("openai/gpt-4.1-mini")
        screen.wait_for("replies to haiku, 1,047,576 tokens")


@pytest.mark.parametrize(("number", "is_deferred"), [(2, False), (60, True)])
def test_tools_are_deferred_if_they_are_large(
    claude: Path, settings: dict[str, str], openai: Running, work: Path, number: int, is_deferred: bool
) -> None:
    server = {"command": sys.executable, "args": [str(MANY_TOOLS), str(number)]}
    (work.parent / "mcp.json").write_text(json.dumps({"mcpServers": {"many": server}}))
    home = work.parent / "home"
    home.mkdir()
    options = ("-p", "Count to 3", "--mcp-config", str(work.parent / "mcp.json"))
    ended = subprocess.run(
        [sys.executable, *CODE, *options],
        cwd=work,
        env={**environment("", home), **own_variables(claude, settings, home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, "1 2 3\n")
    # Claude Code also has its tools counted, asks for a title, and repeats a request that takes long.
    bodies = [one.body for one in openai.journal.exchanges if one.body and "Count to 3" in json.dumps(one.body)]
    names = [tool["function"]["name"] for tool in next(body["tools"] for body in bodies if "tools" in body)]
    assert ("ToolSearch" in names) == is_deferred
    assert [name for name in names if name.startswith("mcp__many__")] == (
        [] if is_deferred else [f"mcp__many__tool_{number}" for number in range(2)]
    )


def test_the_status_line_shows_model_window_costs_and_a_retry(
    claude: Path, settings: dict[str, str], work: Path
) -> None:
    models = {"BIG_MODEL": "openai/gpt-4.1", "SMALL_MODEL": "openai/gpt-4.1-mini"}
    with code_terminal(claude, {**settings, **models}, work) as screen:
        screen.type("Count to 3 [fault:overloaded times=1]")
        screen.wait_for("1 2 3")
        screen.wait_for("% of 1.0M")
        screen.wait_for("↻ openai 529")
        # "cost unknown": the fake has no prices. Claude Code writes only changed characters, and the "o" stands
        # there already if the line was "today $0.00" before.
        screen.wait_for("st unknown")


def test_a_status_line_of_the_user_stays(claude: Path, settings: dict[str, str], work: Path) -> None:
    home = work.parent / "home"
    (home / ".claude").mkdir(parents=True)
    own = {"statusLine": {"type": "command", "command": "echo status of my own"}}
    (home / ".claude/settings.json").write_text(json.dumps(own))
    with code_terminal(claude, settings, work) as screen:
        screen.wait_for("status of my own")
