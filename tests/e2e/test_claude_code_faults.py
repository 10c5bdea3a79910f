"""Claude Code with a failing provider: it continues if possible, else it stops with the right message."""

from pathlib import Path

import pytest

from tests.e2e.claude import run_claude
from tests.support.fakes.server import Running
from tests.support.server_process import Proxy, running_proxy


@pytest.mark.parametrize("fault", ["cut pieces=4 times=1", "torn pieces=4 times=1", "error pieces=4 times=1"])
def test_a_broken_stream_is_asked_for_again(
    claude: Path, proxy: Proxy, openai: Running, work: Path, fault: str
) -> None:
    run = run_claude(claude, proxy.url, work, f"Count to 30 [fault:{fault}]")
    assert run.text == " ".join(str(number) for number in range(1, 31))
    assert run.text.count("29") == 1
    assert [exchange.outcome for exchange in openai.journal.exchanges] == ["cut", "answered"]


def test_a_stream_that_breaks_within_a_task_costs_nothing(
    claude: Path, proxy: Proxy, openai: Running, work: Path
) -> None:
    notes, target = work / "notes.txt", work / "loud.txt"
    notes.write_text("oats\n")
    task = f"Read {notes} and write its words in upper case to {target} [fault:cut pieces=20 round=1 times=1]"
    run = run_claude(claude, proxy.url, work, task, "--allowedTools", "Read Write Edit")
    assert target.read_text() == "OATS\n", run.text
    assert notes.read_text() == "done: oats\n"
    assert "cut" in [exchange.outcome for exchange in openai.journal.exchanges]


@pytest.mark.parametrize(
    "fault", ["overloaded times=1", "unavailable times=1", "rate after=1 times=1", "server times=1", "reset times=1"]
)
def test_a_passing_failure_is_not_felt(claude: Path, proxy: Proxy, work: Path, fault: str) -> None:
    run = run_claude(claude, proxy.url, work, f"Count to 5 [fault:{fault}]")
    assert run.text == "1 2 3 4 5"


def test_a_refused_key_stops_at_once_and_names_the_setting(
    claude: Path, settings: dict[str, str], openai: Running, server: Path, work: Path
) -> None:
    with running_proxy(server, settings | {"OPENAI_API_KEY": "sk-fake-0000000000000000"}) as proxy:
        run = run_claude(claude, proxy.url, work, "Say exactly: hi")
        assert run.result["is_error"]
        assert "OPENAI_API_KEY" in run.text
        assert "sk-fake-0000000000000000" not in run.text + proxy.log
    assert [exchange.status for exchange in openai.journal.exchanges] == [401]


def test_an_empty_quota_stops_at_once(claude: Path, proxy: Proxy, openai: Running, work: Path) -> None:
    run = run_claude(claude, proxy.url, work, "Say exactly: hi [fault:quota]")
    assert run.result["is_error"]
    assert "quota" in run.text
    assert len(openai.journal.exchanges) == 1


def test_an_unknown_model_is_reported(claude: Path, proxy: Proxy, work: Path) -> None:
    run = run_claude(claude, proxy.url, work, "Say exactly: hi", "--model", "openai/gpt-nine")
    assert run.result["is_error"]
    assert "model" in run.text


def test_a_prompt_that_is_too_long_is_recognised(claude: Path, proxy: Proxy, openai: Running, work: Path) -> None:
    """With every tool in full, the first request is larger than the window of gpt-3.5-turbo."""
    more = {"ENABLE_TOOL_SEARCH": "false"}
    run = run_claude(claude, proxy.url, work, "Say exactly: hi", "--model", "openai/gpt-3.5-turbo", **more)
    assert run.result["is_error"]
    assert "prompt is too long" in run.text.lower()
    assert len(openai.journal.exchanges) == 1


def test_a_provider_that_thinks_for_long_is_waited_for(claude: Path, proxy: Proxy, work: Path) -> None:
    run = run_claude(claude, proxy.url, work, "Count to 5 [fault:silence seconds=12]")
    assert run.text == "1 2 3 4 5"


def test_a_refusal_reaches_the_user(claude: Path, proxy: Proxy, work: Path) -> None:
    run = run_claude(claude, proxy.url, work, "Say exactly: hi [fault:refusal]")
    assert run.result
    assert run.text
