"""Claude Code with no provider at all: the built-in demonstration answers, calls tools and uses what they give."""

import json
from pathlib import Path

from tests.e2e import cabinet
from tests.e2e.claude import run_claude
from tests.e2e.test_claude_code import mcp
from tests.process import running_proxy

NOTHING = {"OLLAMA_API_BASE": "http://127.0.0.1:9"}


def test_the_demo_answers_and_says_what_it_is(claude: Path, server: Path, work: Path) -> None:
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


def test_the_demo_finds_its_way_among_unlike_tools(claude: Path, server: Path, work: Path) -> None:
    assert Path(cabinet.__file__).is_file()
    (work / "notes").write_text("quince jelly\n")
    with running_proxy(server, NOTHING) as proxy:
        prompt = "Open the note called notes"
        run = run_claude(claude, proxy.url, work, prompt, "--tools", "", *mcp(work), ENABLE_TOOL_SEARCH="false")
    assert [name for name, _ in run.calls()] == ["mcp__cabinet__open_note"]
    assert "quince jelly" in run.text


def test_the_demo_gives_a_structured_answer(claude: Path, server: Path, work: Path) -> None:
    schema = {"type": "object", "properties": {"colour": {"type": "string"}}, "required": ["colour"]}
    with running_proxy(server, NOTHING) as proxy:
        prompt = "Name a colour. The colour is teal."
        run = run_claude(claude, proxy.url, work, prompt, "--json-schema", json.dumps(schema))
    assert [name for name, _ in run.calls()] == ["StructuredOutput"]
    assert run.result["structured_output"] == {"colour": "teal"}
