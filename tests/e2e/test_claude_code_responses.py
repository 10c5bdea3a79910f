"""Claude Code works through the proxy on models that reason: over Responses, the reasoning carried between turns."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.claude import run_claude
from tests.fakes.openai_responses import KEY, new_openai
from tests.fakes.skeleton import Running, serving
from tests.process import Proxy

NOTES = "rye bread\nsalted butter\n"


@pytest.fixture
def openai() -> Iterator[Running]:
    with serving(new_openai()) as running:
        yield running
        assert running.journal.violations() == []


@pytest.fixture
def settings(openai: Running) -> dict[str, str]:
    models = {"BIG_MODEL": "gpt-5.5", "SMALL_MODEL": "gpt-5-mini"}
    own = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"{openai.url}/v1", "PREFERRED_PROVIDER": "openai"}
    return {**own, **models}


def test_a_task_of_several_turns_carries_the_reasoning_of_each(
    claude: Path, proxy: Proxy, openai: Running, work: Path
) -> None:
    notes, target = work / "notes.txt", work / "loud.txt"
    notes.write_text(NOTES)
    prompt = f"Read {notes} and write its words in upper case to {target}"
    run = run_claude(claude, proxy.url, work, prompt, "--allowedTools", "Read Write Edit")
    assert run.returncode == 0, run.stderr
    assert target.read_text() == NOTES.upper()
    assert notes.read_text() == "done: rye bread\nsalted butter\n"
    assert [name for name, _ in run.calls()] == ["Read", "Write", "Edit", "Read"]
    assert run.text == f"{target} now holds: RYE BREAD\nSALTED BUTTER"
    inputs = [exchange.body["input"] for exchange in openai.journal.exchanges if exchange.path == "/v1/responses"]
    kinds = [[item["type"] for item in items] for items in inputs]
    assert [kind.count("reasoning") for kind in kinds] == [0, 1, 2, 3]
    assert [kind.count("function_call_output") for kind in kinds] == [0, 1, 3, 4]
    for before, after in itertools.pairwise(inputs):
        assert after[: len(before) - 1] == before[:-1], "what was said before must stay as it was, or it is billed anew"
    assert " 500 " not in proxy.log
