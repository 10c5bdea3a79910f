"""Claude Code through the proxy to Anthropic's own API: bytes are forwarded, so no feature may be missing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.claude import do_the_task, run_claude
from tests.support.fakes.anthropic import KEY, new_anthropic
from tests.support.fakes.openai_chat.samples import png
from tests.support.fakes.server import Running, serving_strictly
from tests.support.server_process import Proxy


@pytest.fixture
def anthropic() -> Iterator[Running]:
    with serving_strictly(new_anthropic()) as running:
        yield running


@pytest.fixture
def settings(anthropic: Running) -> dict[str, str]:
    return {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_UPSTREAM_URL": anthropic.url, "PREFERRED_PROVIDER": "anthropic"}


def test_a_task_of_several_turns_with_what_was_thought(
    claude: Path, proxy: Proxy, anthropic: Running, work: Path
) -> None:
    do_the_task(claude, proxy.url, work)
    asked = [exchange for exchange in anthropic.journal.exchanges if exchange.method == "POST"]
    assert all(exchange.headers["anthropic-beta"].startswith("claude-code-") for exchange in asked)
    assert all(exchange.headers["user-agent"].startswith("claude-cli/") for exchange in asked)
    assert any("x-anthropic-billing-header" in str(exchange.body["system"]) for exchange in asked)
    thoughts = [
        block
        for message in asked[-1].body["messages"]
        for block in message["content"]
        if isinstance(block, dict) and block["type"] == "thinking"
    ]
    assert len(thoughts) == 3
    assert all(block["signature"] for block in thoughts)
    assert "Traceback" not in proxy.log


def test_a_picture_is_looked_at(claude: Path, proxy: Proxy, work: Path) -> None:
    (work / "plan.png").write_bytes(png(23, 11))
    run = run_claude(claude, proxy.url, work, f"Look at the picture {work / 'plan.png'}", "--allowedTools", "Read")
    assert run.text == "The picture is image/png, 23 by 11 pixels."


def test_a_stream_that_breaks_is_asked_for_again(claude: Path, proxy: Proxy, work: Path) -> None:
    run = run_claude(claude, proxy.url, work, "Say exactly: still here [fault:half times=1]")
    assert run.text.startswith("still here")
