"""Claude Code works through the proxy on Groq, Moonshot, xAI and a user's own server: tools, reasoning kept."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.claude import run_claude
from tests.fakes.compatible import KINDS, new_server
from tests.fakes.skeleton import Running, serving
from tests.integration.compatible import settings_of
from tests.process import running_proxy

NOTES = "rye bread\nsalted butter\n"
MODELS = {
    "groq": ("llama-3.3-70b-versatile", "groq/openai/gpt-oss-120b"),
    "moonshot": ("kimi-k2-instruct", "kimi-k2.6", "kimi-k3"),
    "xai": ("grok-3", "grok-4.6"),
    "local": ("openai/qwen3-coder", "openai/Qwen/Qwen3-8B"),
}
GIVES_BACK = ("groq/openai/gpt-oss-120b", "kimi-k2.6", "kimi-k3", "openai/Qwen/Qwen3-8B")


@pytest.fixture(params=KINDS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def provider(name: str) -> Iterator[Running]:
    """The stand-in; a test fails where any request to it broke one of its rules."""
    with serving(new_server(name)) as running:
        yield running
        assert running.journal.violations() == []


def test_a_task_of_several_turns_reads_writes_and_edits_files(
    claude: Path, name: str, provider: Running, server: Path, work: Path
) -> None:
    for model in MODELS[name]:
        start = len(provider.journal.exchanges)
        notes, target = work / "notes.txt", work / "loud.txt"
        notes.write_text(NOTES)
        target.unlink(missing_ok=True)
        chosen = {"BIG_MODEL": model, "SMALL_MODEL": model, "XAI_WIRE": "chat"}
        with running_proxy(server, {**settings_of(name, provider), **chosen}) as proxy:
            prompt = f"Read {notes} and write its words in upper case to {target}"
            run = run_claude(claude, proxy.url, work, prompt, "--allowedTools", "Read Write Edit")
            assert run.returncode == 0, run.stderr
            assert " 500 " not in proxy.log
        assert target.read_text() == NOTES.upper()
        assert notes.read_text() == "done: rye bread\nsalted butter\n"
        assert [tool for tool, _ in run.calls()] == ["Read", "Write", "Edit", "Read"]
        assert run.text == f"{target} now holds: RYE BREAD\nSALTED BUTTER"
        bodies = [one.body for one in provider.journal.exchanges[start:] if one.outcome == "answered"]
        field = KINDS[name].thinking_field
        replayed = [sum(field in message for message in body["messages"]) for body in bodies]
        assert replayed == ([0, 1, 2, 3] if model in GIVES_BACK else [0, 0, 0, 0])
