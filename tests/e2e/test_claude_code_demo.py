"""Claude Code with no provider: the built-in demo answers, calls tools and repeats their results."""

import json
from pathlib import Path

import pytest

from tests.e2e.claude import run_claude
from tests.support.server_process import running_proxy

NOTHING = {"OLLAMA_API_BASE": "http://127.0.0.1:9"}


def test_the_demo_answers_and_describes_itself(claude: Path, server: Path, work: Path) -> None:
    with running_proxy(server, NOTHING) as proxy:
        run = run_claude(claude, proxy.url, work, "hello, who are you?")
        assert not run.result["is_error"], run.stderr
        assert "demo" in run.text.lower()
        assert "OPENAI_API_KEY" in run.text
        assert "Traceback" not in proxy.log


def test_the_demo_reads_a_file_with_the_tool_for_it(claude: Path, server: Path, work: Path) -> None:
    (work / "notes.txt").write_text("quince jelly\n")
    with running_proxy(server, NOTHING) as proxy:
        run = run_claude(claude, proxy.url, work, f"Read the file {work / 'notes.txt'}", "--allowedTools", "Read")
    assert [name for name, _ in run.calls()] == ["Read"]
    assert "quince jelly" in run.text


def test_the_demo_runs_a_command(claude: Path, server: Path, work: Path) -> None:
    with running_proxy(server, NOTHING) as proxy:
        prompt = "Run the command `echo quince $((40 + 2))`"
        run = run_claude(claude, proxy.url, work, prompt, "--tools", "Bash", "--allowedTools", "Bash")
    assert [name for name, _ in run.calls()] == ["Bash"]
    assert "quince 42" in run.text


def test_the_demo_lists_the_files(claude: Path, server: Path, work: Path) -> None:
    (work / "quince.txt").write_text("jelly\n")
    with running_proxy(server, NOTHING) as proxy:
        run = run_claude(claude, proxy.url, work, "list the files here", "--allowedTools", "Bash")
    assert [name for name, _ in run.calls()] == ["Bash"]
    assert "quince.txt" in run.text


@pytest.mark.parametrize(
    "prompt",
    [
        "search the web for anthropic proxy",
        pytest.param("use the Agent tool to list the files", marks=pytest.mark.slow),
        pytest.param("use WebSearch to search for python", marks=pytest.mark.slow),
        pytest.param("what files should I look at?", marks=pytest.mark.slow),
    ],
)
def test_the_demo_calls_nothing_for_a_request_that_is_not_obvious(
    claude: Path, server: Path, work: Path, prompt: str
) -> None:
    with running_proxy(server, NOTHING) as proxy:
        run = run_claude(claude, proxy.url, work, prompt)
    assert list(run.calls()) == []
    assert not run.result["is_error"], run.stderr
    assert "demonstration" in run.text


def test_the_demo_gives_a_structured_answer(claude: Path, server: Path, work: Path) -> None:
    schema = {"type": "object", "properties": {"colour": {"enum": ["teal", "red"]}}, "required": ["colour"]}
    with running_proxy(server, NOTHING) as proxy:
        run = run_claude(claude, proxy.url, work, "Name a colour.", "--json-schema", json.dumps(schema))
    assert [name for name, _ in run.calls()] == ["StructuredOutput"]
    assert run.result["structured_output"] == {"colour": "teal"}
