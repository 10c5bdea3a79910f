"""Claude Code works through the proxy on a provider that only LiteLLM speaks to."""

from pathlib import Path

import pytest

from tests.e2e.claude import run_claude
from tests.fakes.openai_chat import KEY
from tests.fakes.skeleton import Running
from tests.litellm import needs_litellm
from tests.process import Proxy

pytestmark = needs_litellm
NOTES = "rye bread\nsalted butter\n"


@pytest.fixture(params=["mistral/gpt-4.1", "litellm/openai/gpt-4.1"])
def settings(openai: Running, server: Path, request: pytest.FixtureRequest) -> dict[str, str]:
    lines = [f"MISTRAL_API_KEY={KEY}", f"MISTRAL_AZURE_API_BASE={openai.url}/v1", f"OPENAI_API_KEY={KEY}"]
    (server / ".env").write_text("\n".join([*lines, f"OPENAI_BASE_URL={openai.url}/v1"]))
    return {"BIG_MODEL": request.param, "SMALL_MODEL": request.param}


def test_a_task_of_several_turns(claude: Path, proxy: Proxy, openai: Running, work: Path) -> None:
    notes, target = work / "notes.txt", work / "loud.txt"
    notes.write_text(NOTES)
    prompt = f"Read {notes} and write its words in upper case to {target}"
    # nobody can know the limit of a model of this name; of a real one LiteLLM does
    limit = {"CLAUDE_CODE_MAX_OUTPUT_TOKENS": "32000"}
    run = run_claude(claude, proxy.url, work, prompt, "--allowedTools", "Read Write Edit", **limit)
    assert run.returncode == 0, run.stderr
    assert target.read_text() == NOTES.upper()
    assert notes.read_text() == "done: rye bread\nsalted butter\n"
    assert [name for name, _ in run.calls()] == ["Read", "Write", "Edit", "Read"]
    assert run.text == f"{target} now holds: RYE BREAD\nSALTED BUTTER"
    assert " 500 " not in proxy.log
