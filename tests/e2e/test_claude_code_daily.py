"""Claude Code in daily use, started with `anthropic-proxy code`: it shows the models that reply, and their window."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.claude import TIMEOUT_SECONDS, environment
from tests.e2e.terminal import Terminal, terminal
from tests.support.command_line import run_command
from tests.support.fakes.model_scripts import Fault, Faults
from tests.support.fakes.openai_chat.server import KEY, OpenAI
from tests.support.fakes.scripted_model import Conversation
from tests.support.fakes.server import RequestLog, Running, new_application, serving_strictly
from tests.support.paths import ROOT
from tests.support.server_process import reserve_closed_port

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
        "PORT": reserve_closed_port(),  # a proxy of the user is not found
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
        rows = ["replies to opus, sonnet and fable, 1.0 M context", "replies to haiku, 1.0 M context"]
        text = screen.redraw_until(lambda text: all(row in text for row in rows))
        assert {*re.findall(r"\d\. +(\S+)", text)} == {"Default", "openai/gpt-4.1", "openai/gpt-4.1-mini"}


def test_a_route_for_thinking_is_in_the_header_and_replies(claude: Path, settings: dict[str, str], work: Path) -> None:
    """Claude Code asks for thinking in each request of a conversation."""
    home = work.parent / "home"
    home.mkdir()
    route = '[[routes]]\nname = "think"\nwhen = { thinking = true, tier = ["opus", "sonnet", "fable"] }\n'
    (home / "anthropic-proxy.toml").write_text(f'{route}targets = ["openai/gpt-4o"]\n', "utf-8")
    models = {"BIG_MODEL": "openai/gpt-4.1", "SMALL_MODEL": "openai/gpt-4.1-mini"}
    with code_terminal(claude, {**settings, **models}, work) as screen:
        screen.wait_for("openai/gpt-4o · API Usage Billing")
        screen.type("Say exactly: routed")
        screen.redraw_until(lambda text: "openai/gpt-4o ·" in text and "% of" in text)
        screen.type("/model")
        screen.redraw_until(lambda text: "replies to opus, sonnet and fable by route think, " in text)


def run_code(work: Path, home: Path, variables: Mapping[str, str], *options: str) -> str:
    """Run `anthropic-proxy code` without a screen, and return its output."""
    ended = subprocess.run(
        [sys.executable, *CODE, *options],
        cwd=work,
        env={**environment("", home), **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize(("number", "is_deferred"), [(2, False), (60, True)])
def test_tools_are_deferred_if_they_are_large(
    claude: Path, settings: dict[str, str], openai: Running, work: Path, number: int, is_deferred: bool
) -> None:
    server = {"command": sys.executable, "args": [str(MANY_TOOLS), str(number)]}
    (work.parent / "mcp.json").write_text(json.dumps({"mcpServers": {"many": server}}))
    home = work.parent / "home"
    home.mkdir()
    options = ("-p", "Count to 3", "--mcp-config", str(work.parent / "mcp.json"))
    assert run_code(work, home, own_variables(claude, settings, home), *options) == "1 2 3\n"
    # Claude Code also has its tools counted, asks for a title, and repeats a request that takes long.
    bodies = [one.body for one in openai.journal.exchanges if one.body and "Count to 3" in json.dumps(one.body)]
    names = [tool["function"]["name"] for tool in next(body["tools"] for body in bodies if "tools" in body)]
    assert ("ToolSearch" in names) == is_deferred
    assert [name for name in names if name.startswith("mcp__many__")] == (
        [] if is_deferred else [f"mcp__many__tool_{number}" for number in range(2)]
    )


PRICES = {"input": 200, "cache_read": 50, "output": 800}
"""Prices in dollars per million tokens. They are so high that each figure has cents."""
CONFIGURATION = """
[providers.backup]
base_url = "{backup}/v1"
api_key = {{ env = "OPENAI_API_KEY" }}

[prices."*/gpt-4.1"]
input = {input}
cache_read = {cache_read}
output = {output}

[[routes]]
name = "with a fallback"
when = {{ model = "claude-*" }}
targets = ["openai/gpt-4.1", "backup/gpt-4.1"]
"""


class Outage(Faults):
    def find(self, conversation: Conversation) -> Fault:
        return Fault("overloaded", "")


@pytest.mark.slow
def test_the_status_line_shows_model_window_costs_a_fallback_and_a_broken_cache(claude: Path, tmp_path: Path) -> None:
    """Each line is compared whole, with the token counts of the providers."""
    home, project = tmp_path / "home", tmp_path / "größe, 50 %"
    for folder in (home, project):
        folder.mkdir()
    tools = {"command": sys.executable, "args": [str(Path(__file__).with_name("growing_tools_server.py"))]}
    (home / "mcp.json").write_text(json.dumps({"mcpServers": {"growing": tools}}))
    options = ("--mcp-config", str(home / "mcp.json"), "--allowedTools", "mcp__growing__grow")
    journal, first, second = RequestLog(), OpenAI(KEY), OpenAI(KEY)

    def usages() -> list[dict[str, Any]]:
        return [exchange.usage for exchange in journal.exchanges if exchange.usage]

    with (
        serving_strictly(new_application(first.answer, journal)) as openai,
        serving_strictly(new_application(second.answer, journal)) as backup,
    ):
        (home / "anthropic-proxy.toml").write_text(CONFIGURATION.format(backup=backup.url, **PRICES))
        settings = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"{openai.url}/v1", "PREFERRED_PROVIDER": "openai"}
        variables = own_variables(claude, settings, home)
        other_user = {"CLAUDE_CONFIG_DIR": str(tmp_path / "other")}  # its first start is without a screen
        run_code(project, home, variables | other_user, "-p", "Say exactly: an earlier session")
        earlier = len(usages())
        with terminal(Path(sys.executable), "", project, *CODE, *options, **variables) as screen:

            def wait_for_line(model: str, *marks: str) -> None:
                of_session = usages()[earlier:]
                cached = sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in of_session)
                figures = (
                    f"{100 * of_session[-1]['total_tokens'] / 1_047_576:.0f} % of 1.0 M",
                    f"session {sum_costs(of_session)}",
                    f"today {sum_costs(usages())}",
                    f"{100 * cached / sum(usage['prompt_tokens'] for usage in of_session):.0f} % cached",
                )
                wait_for_status_line(screen, " · ".join((model, *figures, *marks)).__eq__)

            screen.type("Count to 3")
            screen.wait_for("● 1 2 3")
            wait_for_line("openai/gpt-4.1")

            first.faults = Outage()
            screen.type("Count to 4")
            screen.wait_for("● 1 2 3 4")
            wait_for_line("backup/gpt-4.1", "↻ openai 503")

            first.faults = Faults()
            screen.type("Call the tool mcp__growing__grow")
            screen.wait_for("It said: There is another tool now.")
            wait_for_line("openai/gpt-4.1")

            screen.type("Count to 5")
            screen.wait_for("● 1 2 3 4 5")
            # what changed stands behind the tools before it; the number of tokens behind it is an estimate
            names = [tool["function"]["name"] for tool in journal.exchanges[-1].body["tools"]]
            cause = f"! tool {names.index('mcp__growing__late') + 1} (mcp__growing__late) changed"
            line = wait_for_status_line(screen, lambda line: cause in line)
            tokens = line.removesuffix(" tokens").rpartition(": ")[2]
            wait_for_line("openai/gpt-4.1", f"{cause}: {tokens} tokens")
            read_again = usages()[-1]["prompt_tokens"] - usages()[-1]["prompt_tokens_details"]["cached_tokens"]
            assert int(tokens.replace(",", "")) == pytest.approx(read_again, rel=0.2)
        user = variables | {"HOME": str(home)}
        projects = run_command("usage", "--by", "project", "--json", directory=project, settings=user)
    assert [group["name"] for group in json.loads(projects.stdout)["groups"]] == [project.name]


def wait_for_status_line(screen: Terminal, accept: Callable[[str], object]) -> str:
    """Return the first accepted line below the input."""

    def find_line(text: str) -> str:
        found = re.search(r"─ ([^─]*) ⏵⏵ auto mode on", text)
        return found[1] if found else ""

    return find_line(screen.redraw_until(lambda text: accept(find_line(text))))


def sum_costs(usages: Iterable[dict[str, Any]]) -> str:
    dollars = 0.0
    for usage in usages:
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        tokens = {"cache_read": cached, "input": usage["prompt_tokens"] - cached, "output": usage["completion_tokens"]}
        dollars += sum(PRICES[kind] * number / 1_000_000 for kind, number in tokens.items())
    return f"${dollars:.2f}"


def test_the_status_line_keeps_the_last_turn_when_a_chosen_model_is_tested(
    claude: Path, settings: dict[str, str], work: Path
) -> None:
    models = {"BIG_MODEL": "openai/gpt-4.1", "SMALL_MODEL": "openai/gpt-4.1"}
    with code_terminal(claude, {**settings, **models}, work) as screen:
        screen.type("Say exactly: hello")
        wait_for_status_line(screen, lambda line: " % of 1.0 M · " in line)
        screen.type("/model openai/gpt-4o")
        screen.wait_for("Switch model?")
        screen.type("")
        line = wait_for_status_line(screen, lambda line: line.startswith("openai/gpt-4o · "))
        assert re.match(r"openai/gpt-4o · \d+ % of 128 k · ", line), line


def test_a_status_line_of_the_user_stays(claude: Path, settings: dict[str, str], work: Path) -> None:
    home = work.parent / "home"
    (home / ".claude").mkdir(parents=True)
    own = {"statusLine": {"type": "command", "command": "echo status of my own"}}
    (home / ".claude/settings.json").write_text(json.dumps(own))
    with code_terminal(claude, settings, work) as screen:
        screen.wait_for("status of my own")


def test_a_running_session_gets_another_model_and_the_status_line_shows_it(
    claude: Path, settings: dict[str, str], work: Path
) -> None:
    """From another terminal, and then from the session itself."""
    home = work.parent / "home"
    models = {"BIG_MODEL": "openai/gpt-4.1", "SMALL_MODEL": "openai/gpt-4.1-mini"}
    variables = own_variables(claude, {**settings, **models}, home)
    with code_terminal(claude, {**settings, **models}, work) as screen:
        screen.wait_for("openai/gpt-4.1 · API Usage Billing")
        screen.type("Say exactly: first")
        screen.redraw_until(lambda text: "openai/gpt-4.1 ·" in text and "% of" in text and "cost" in text)
        done = run_command("use", "openai/gpt-4o", "--all-projects", directory=home, settings=variables)
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(r"^work [0-9a-f]{8}: openai/gpt-4.1 → openai/gpt-4o, \d+ s ago$", done.stdout, re.MULTILINE)
        assert "because the cache of openai/gpt-4.1 is lost: " in done.stdout
        assert "It fits: openai/gpt-4o accepts 128 k tokens." in done.stdout + done.stderr
        screen.redraw_until(lambda text: "openai/gpt-4.1 · next: openai/gpt-4o ·" in text)
        screen.type("Say exactly: second")
        screen.redraw_until(lambda text: "openai/gpt-4o · chosen ·" in text)
        screen.type(f"!{sys.executable} -m anthropic_proxy use default")
        screen.redraw_until(lambda text: "has the model again that its client names" in text)
        screen.type("Say exactly: third")
        screen.redraw_until(lambda text: "openai/gpt-4.1 · " in text)
