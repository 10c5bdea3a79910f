"""Claude Code through the proxy to a provider that only LiteLLM supports."""

from pathlib import Path

import pytest

from tests.e2e.claude import do_the_task
from tests.support.fakes.openai_chat import KEY
from tests.support.fakes.server import Running
from tests.support.litellm import needs_litellm
from tests.support.server_process import Proxy

pytestmark = needs_litellm


@pytest.fixture(params=["mistral/gpt-4.1", "litellm/openai/gpt-4.1"])
def settings(openai: Running, server: Path, request: pytest.FixtureRequest) -> dict[str, str]:
    lines = [f"MISTRAL_API_KEY={KEY}", f"MISTRAL_AZURE_API_BASE={openai.url}/v1", f"OPENAI_API_KEY={KEY}"]
    (server / ".env").write_text("\n".join([*lines, f"OPENAI_BASE_URL={openai.url}/v1"]))
    return {"BIG_MODEL": request.param, "SMALL_MODEL": request.param}


def test_a_task_of_several_turns(claude: Path, proxy: Proxy, openai: Running, work: Path) -> None:
    # the limit of a model of this name is unknown; LiteLLM knows that of a real one
    limit = {"CLAUDE_CODE_MAX_OUTPUT_TOKENS": "32000"}
    do_the_task(claude, proxy.url, work, **limit)
    assert " 500 " not in proxy.log
