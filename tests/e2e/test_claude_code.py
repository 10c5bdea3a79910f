"""Claude Code through the proxy: tools, files, images, models."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import mcp_server
from tests.e2e.claude import NOTES, do_the_task, run_claude
from tests.support.fakes.openai_chat.samples import pdf, png
from tests.support.fakes.server import Running
from tests.support.server_process import Proxy


def bodies(openai: Running) -> list[dict[str, Any]]:
    return [exchange.body for exchange in openai.journal.exchanges]


def tool_texts(body: dict[str, Any]) -> list[str]:
    return [message["content"] for message in body["messages"] if message["role"] == "tool"]


def test_a_task_of_several_turns_reads_writes_and_edits_files(
    claude: Path, proxy: Proxy, openai: Running, work: Path
) -> None:
    do_the_task(claude, proxy.url, work)
    asked = bodies(openai)
    assert len(asked) == 4
    assert all(body["stream"] and body["model"] == "gpt-4.1" for body in asked)
    assert [len(tool_texts(body)) for body in asked] == [0, 1, 3, 4]
    assert "Traceback" not in proxy.log
    assert " 500 " not in proxy.log
    assert "client left" not in proxy.log


def test_the_prompt_stays_the_same_from_turn_to_turn(claude: Path, proxy: Proxy, openai: Running, work: Path) -> None:
    """A provider bills a repeated prefix at a fraction: no message of the turn before must change."""
    (work / "notes.txt").write_text(NOTES)
    run = run_claude(claude, proxy.url, work, f"Read {work / 'notes.txt'}", "--allowedTools", "Read")
    first, second = bodies(openai)
    assert second["tools"] == first["tools"]
    shared = len(first["messages"])
    assert len(second["messages"]) > shared
    assert second["messages"][:shared] == first["messages"][:shared]
    assert run.result["usage"]["cache_read_input_tokens"] > 5_000
    models = {message["message"]["model"] for message in run.events if message["type"] == "assistant"}
    assert models
    assert "gpt-4.1" not in models


def test_a_session_is_resumed(claude: Path, proxy: Proxy, openai: Running, work: Path) -> None:
    first = run_claude(claude, proxy.url, work, "Say exactly: a first answer")
    again = run_claude(claude, proxy.url, work, "Count to 4", "--resume", first.result["session_id"])
    assert (first.text, again.text) == ("a first answer", "1 2 3 4")
    spoken = [message["content"] for message in bodies(openai)[-1]["messages"] if message["role"] == "assistant"]
    assert spoken == ["a first answer"]


def test_only_the_shell_is_offered(claude: Path, proxy: Proxy, work: Path) -> None:
    notes, target = work / "notes.txt", work / "loud.txt"
    notes.write_text(NOTES)
    prompt = f"Read {notes} and write its words in upper case to {target}"
    run = run_claude(claude, proxy.url, work, prompt, "--tools", "Bash", "--allowedTools", "Bash")
    assert [name for name, _ in run.calls()] == ["Bash"] * 4
    assert target.read_text() == NOTES.upper()
    assert notes.read_text().startswith("done: rye bread")
    assert "RYE BREAD" in run.text


def test_a_failed_command_and_one_without_output(claude: Path, proxy: Proxy, work: Path) -> None:
    options = ("--tools", "Bash", "--allowedTools", "Bash")
    failed = run_claude(claude, proxy.url, work, "Run the command `ls /no/such/place`", *options)
    assert failed.results()[0]["is_error"]
    assert "No such file" in failed.text
    quiet_run = run_claude(claude, proxy.url, work, "Run the command `true`", *options)
    assert "no output" in quiet_run.text


def mcp(work: Path) -> tuple[str, ...]:
    server = {"command": sys.executable, "args": [mcp_server.__file__, str(work)]}
    config = {"mcpServers": {"cabinet": {"type": "stdio"} | server}}
    return ("--mcp-config", json.dumps(config), "--strict-mcp-config", "--allowedTools", "mcp__cabinet")


def test_tools_of_an_mcp_server_are_another_set(claude: Path, proxy: Proxy, openai: Running, work: Path) -> None:
    (work / "notes").write_text(NOTES)
    prompt = "Read notes and write its words in upper case to loud"
    run = run_claude(claude, proxy.url, work, prompt, "--tools", "", *mcp(work), ENABLE_TOOL_SEARCH="false")
    called = [name for name, _ in run.calls()]
    assert called[:2] == ["mcp__cabinet__open_note", "mcp__cabinet__store_note"], run.text
    assert (work / "loud").read_text() == NOTES.upper()
    assert (work / "notes").read_text().startswith("done: rye bread")
    assert {tool["function"]["name"] for tool in bodies(openai)[0]["tools"]} <= {
        "mcp__cabinet__open_note",
        "mcp__cabinet__store_note",
    }


def test_a_deferred_tool_is_searched_loaded_and_called(claude: Path, proxy: Proxy, work: Path) -> None:
    (work / "notes").write_text(NOTES)
    prompt = "Load mcp__cabinet__open_note and read notes"
    run = run_claude(claude, proxy.url, work, prompt, *mcp(work), ENABLE_TOOL_SEARCH="true")
    assert [name for name, _ in run.calls()] == ["ToolSearch", "mcp__cabinet__open_note"], run.text
    assert "rye bread" in run.text


def test_a_picture_that_a_tool_reads_is_seen(claude: Path, proxy: Proxy, openai: Running, work: Path) -> None:
    (work / "plot.png").write_bytes(png(64, 48))
    run = run_claude(claude, proxy.url, work, f"Look at the picture {work / 'plot.png'}", "--allowedTools", "Read")
    assert run.text == "The picture is image/png, 64 by 48 pixels."
    assert all(tool_texts(bodies(openai)[-1]))


def test_a_document_that_a_tool_reads_is_passed_on(claude: Path, proxy: Proxy, openai: Running, work: Path) -> None:
    (work / "deed.pdf").write_bytes(pdf())
    run = run_claude(claude, proxy.url, work, f"Read {work / 'deed.pdf'}", "--allowedTools", "Read")
    assert "PDF file read" in run.text
    parts = bodies(openai)[-1]["messages"][-1]["content"]
    assert [part["type"] for part in parts] == ["text", "file"]


def test_results_that_come_together_belong_to_their_calls(claude: Path, proxy: Proxy, work: Path) -> None:
    first, second = work / "a.txt", work / "b.txt"
    first.write_text("apple\n")
    second.write_text("pear\n")
    run = run_claude(claude, proxy.url, work, f"Compare the files {first} and {second}", "--allowedTools", "Read")
    assert run.text == f"{first}: apple; {second}: pear"


def test_a_subagent_works_beside_with_tools_of_its_own(claude: Path, proxy: Proxy, openai: Running, work: Path) -> None:
    (work / "notes.txt").write_text(NOTES)
    prompt = f"Delegate: Read {work / 'notes.txt'}"
    run = run_claude(claude, proxy.url, work, prompt, "--allowedTools", "Read Agent")
    assert "The file says: rye bread" in run.text
    assert len({tuple(tool["function"]["name"] for tool in body["tools"]) for body in bodies(openai)}) == 2


def test_a_search_of_the_web_is_answered(claude: Path, proxy: Proxy, openai: Running, work: Path) -> None:
    """The client searches by a request of its own; its only tool is one that Anthropic would run."""
    more = {"ENABLE_TOOL_SEARCH": "false"}
    run = run_claude(claude, proxy.url, work, "Call the tool WebSearch", "--allowedTools", "WebSearch", **more)
    assert "Web search results" in run.text
    assert len(bodies(openai)) == 4, "the model was told that nobody searches, and answered all the same"


def test_a_session_is_compacted_and_goes_on(claude: Path, proxy: Proxy, openai: Running, work: Path) -> None:
    first = run_claude(claude, proxy.url, work, "Say exactly: a first answer")
    session = ("--resume", first.result["session_id"])
    assert not run_claude(claude, proxy.url, work, "/compact", *session).result["is_error"]
    assert len(bodies(openai)) > 1
    assert run_claude(claude, proxy.url, work, "Count to 3", *session).text == "1 2 3"


@pytest.mark.parametrize(
    ("model", "sent"),
    [
        ("haiku", "gpt-4.1-mini"),
        pytest.param("sonnet", "gpt-4.1", marks=pytest.mark.slow),
        ("opus", "gpt-4.1"),
        pytest.param("fable", "gpt-4.1", marks=pytest.mark.slow),
        pytest.param("claude-haiku-4-5", "gpt-4.1-mini", marks=pytest.mark.slow),
        pytest.param("claude-openai/gpt-4.1", "gpt-4.1", marks=pytest.mark.slow),
        ("claude-openai/gpt-4o-mini", "gpt-4o-mini"),
        ("openai/gpt-4o", "gpt-4o"),
    ],
)
def test_each_model_name_finds_its_model(
    claude: Path, proxy: Proxy, openai: Running, work: Path, model: str, sent: str
) -> None:
    (work / "notes.txt").write_text(NOTES)
    prompt = f"Read {work / 'notes.txt'}"
    run = run_claude(claude, proxy.url, work, prompt, "--model", model, "--allowedTools", "Read")
    assert "rye bread" in run.text, run.stderr
    assert {body["model"] for body in bodies(openai)} == {sent}


def test_models_are_discovered(claude: Path, proxy: Proxy, work: Path) -> None:
    # Claude Code waits three seconds for the list: the first one loads modules, which takes as long on a busy machine
    listed = proxy.client().get("/v1/models?limit=1000").json()["data"]
    run = run_claude(claude, proxy.url, work, "Say exactly: hi", CLAUDE_CODE_ENABLE_GATEWAY_MODEL_DISCOVERY="1")
    assert run.text == "hi"
    kept = json.loads((work.parent / "home" / ".claude" / "cache" / "gateway-models.json").read_text())
    discovered = {model["id"] for model in kept["models"]}
    assert "claude-openai/gpt-4.1" in discovered
    assert discovered == {model["id"] for model in listed}


def test_an_answer_by_schema(claude: Path, proxy: Proxy, work: Path) -> None:
    schema = {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]}
    prompt = "Call the tool StructuredOutput"
    run = run_claude(claude, proxy.url, work, prompt, "--json-schema", json.dumps(schema))
    assert run.result["structured_output"] == {"town": "town"}


def test_extended_thinking_and_effort_are_no_trouble(claude: Path, proxy: Proxy, openai: Running, work: Path) -> None:
    run = run_claude(claude, proxy.url, work, "Count to 3", "--effort", "max", "--model", "opus")
    assert run.text == "1 2 3"
    assert "reasoning_effort" not in bodies(openai)[0]
