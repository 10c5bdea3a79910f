"""Claude Code on a screen: the questions that it asks only there."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.terminal import terminal
from tests.support.waiting import wait_for
from tests.support.wires import KINDS, Upstream, standing

WIRES = ("openai_responses", "gemini", "openai_chat")


@pytest.fixture(params=WIRES)
def upstream(request: pytest.FixtureRequest, server: Path) -> Iterator[Upstream]:
    with standing(request.param, server, LOG_LEVEL="debug") as upstream:  # which shows requests for a count
        yield upstream
        assert upstream.breaches() == []
        assert "Traceback" not in upstream.proxy.log


@pytest.mark.slow
def test_the_context_is_counted_in_many_requests_at_once(claude: Path, upstream: Upstream, work: Path) -> None:
    with terminal(claude, upstream.proxy.url, work) as screen:
        screen.type("Count to 3")
        screen.wait_for("1 2 3")
        screen.type("/context")
        screen.wait_for("System tools")
        screen.wait_for("Free space")
    wait_for(lambda: upstream.proxy.log.count("/v1/messages/count_tokens") >= 15)
    assert len(upstream.exchanges) == 1, "a count is no request for a reply"


@pytest.mark.slow
def test_the_effort_of_a_session_is_changed(claude: Path, upstream: Upstream, work: Path) -> None:
    """The change comes as a message of the role system without content."""
    with terminal(claude, upstream.proxy.url, work) as screen:
        screen.type("Count to 3")
        screen.wait_for("1 2 3")
        screen.type("/effort low")
        screen.type("Count to 4")
        screen.wait_for("1 2 3 4")
    efforts = [upstream.kind.effort_of(body) for body in upstream.bodies]
    assert efforts == [upstream.kind.efforts.get(effort) for effort in ("medium", "low")]
    old, new = (body[upstream.kind.conversation_field] for body in upstream.bodies)
    assert json.dumps(new[: len(old)]) == json.dumps(old)


def test_a_prompt_that_is_too_long_is_compacted_and_sent_again(claude: Path, upstream: Upstream, work: Path) -> None:
    with terminal(claude, upstream.proxy.url, work) as screen:
        for number in (1, 2):
            screen.type(f"Say exactly: answer {number}")
            screen.wait_for(f"● answer {number}")
        screen.type("Count to 12 [fault:overflow times=1]")
        screen.wait_for("● 1 2 3 4 5 6 7 8 9 10 11 12")
    conversation_texts = [
        "\n".join(turn.text for turn in conversation.turns) for conversation in upstream.conversations
    ]
    assert [exchange.status for exchange in upstream.exchanges].count(400) == 1
    assert len(conversation_texts) >= 5
    assert "Say exactly: answer 1" not in conversation_texts[-1], "what was summed up is not said again"
    assert "Count to 12" in conversation_texts[-1]


def test_a_session_gets_a_title_by_a_call_of_its_own(claude: Path, upstream: Upstream, work: Path) -> None:
    with terminal(claude, upstream.proxy.url, work, CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="") as screen:
        screen.type("Count to 3")
        screen.wait_for("● 1 2 3")
    titles = [conversation for conversation in upstream.conversations if conversation.schema is not None]
    assert titles
    assert all("title" in (one.schema or {})["properties"] and not one.tools for one in titles)


def test_every_wire_is_known() -> None:
    assert set(WIRES) < set(KINDS)
