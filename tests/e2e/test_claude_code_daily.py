"""Claude Code in daily use, started with `anthropic-proxy code`: it shows the models that reply, and their window."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.terminal import Terminal, terminal
from tests.support.fakes.server import Running
from tests.support.paths import ROOT

MANY_TOOLS = Path(__file__).with_name("many_tools_server.py")


@contextmanager
def code_terminal(claude: Path, settings: dict[str, str], work: Path, *arguments: str) -> Iterator[Terminal]:
    """Start `anthropic-proxy code` in a directory of work, on a screen; `arguments` are for Claude Code."""
    home = work.parent / "home"
    home.mkdir(exist_ok=True)
    own = {
        **settings,
        "PATH": f"{claude.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "ANTHROPIC_PROXY_CONFIG": str(home),
        "OLLAMA_API_BASE": "http://127.0.0.1:9",
    }
    options = ("-m", "anthropic_proxy", "code", "--", *arguments)
    with terminal(Path(sys.executable), "", work, *options, **own) as screen:
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
    options = ("--mcp-config", str(work.parent / "mcp.json"))
    with code_terminal(claude, settings, work, *options) as screen:
        screen.type("Count to 3")
        screen.wait_for("1 2 3")
    bodies = [exchange.body for exchange in openai.journal.exchanges if exchange.body]
    (tools,) = [body["tools"] for body in bodies if "tools" in body]
    names = [tool["function"]["name"] for tool in tools]
    assert ("ToolSearch" in names) == is_deferred
    assert [name for name in names if name.startswith("mcp__many__")] == (
        [] if is_deferred else [f"mcp__many__tool_{number}" for number in range(2)]
    )
