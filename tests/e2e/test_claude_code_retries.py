"""The retries of Claude Code, on four wires, by the statuses of the proxy."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.claude import run_claude
from tests.support.fakes.server import Exchange
from tests.support.waiting import wait_for
from tests.support.wires import KINDS, Upstream, standing

COUNTED = " ".join(str(number) for number in range(1, 31))


@pytest.fixture(params=KINDS)
def upstream(request: pytest.FixtureRequest, server: Path) -> Iterator[Upstream]:
    with standing(request.param, server) as upstream:
        yield upstream
        assert upstream.breaches() == []
        assert "Traceback" not in upstream.proxy.log


def streams(exchange: Exchange) -> bool:
    return "stream" in exchange.path.lower() or bool(exchange.body.get("stream"))


def test_an_overload_is_waited_out(claude: Path, upstream: Upstream, work: Path) -> None:
    """Each request is repeated once by the proxy, and by the client when it received a 529: twice, then it works."""
    run = run_claude(claude, upstream.proxy.url, work, "Count to 30 [fault:overloaded times=4]")
    assert run.text == COUNTED
    assert [exchange.status for exchange in upstream.exchanges] == [503] * 4 + [200]
    wait_for(lambda: upstream.proxy.log.count(" 529 ") == 2)


def test_a_refused_key_ends_it_at_once(claude: Path, upstream: Upstream, work: Path) -> None:
    run = run_claude(claude, upstream.proxy.url, work, "Count to 30 [fault:unauthorized]")
    assert run.result["is_error"]
    assert len(upstream.exchanges) == 1


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["cut", "torn"])
def test_a_broken_stream_is_asked_for_again_whole(claude: Path, upstream: Upstream, work: Path, fault: str) -> None:
    """The first block is not complete yet: the received part is dropped, and the remainder is not streamed."""
    prompt = f"Count to 30 [fault:{fault} pieces={upstream.kind.first_block} times=1]"
    run = run_claude(claude, upstream.proxy.url, work, prompt)
    assert run.text == COUNTED
    assert [exchange.outcome for exchange in upstream.exchanges] == ["cut", "answered"]
    assert [streams(exchange) for exchange in upstream.exchanges] == [True, False]
    first, second = upstream.bodies
    assert second[upstream.kind.conversation_field] == first[upstream.kind.conversation_field]


def test_a_stream_that_breaks_after_its_first_block_is_asked_for_again(
    claude: Path, upstream: Upstream, work: Path
) -> None:
    prompt = f"Count to 30 [fault:cut pieces={upstream.kind.second_block} times=1]"
    run = run_claude(claude, upstream.proxy.url, work, prompt)
    assert run.text == COUNTED
    assert [exchange.outcome for exchange in upstream.exchanges] == ["cut", "answered"]


@pytest.mark.slow
def test_a_limit_is_waited_for_as_long_as_the_provider_asks(claude: Path, upstream: Upstream, work: Path) -> None:
    run = run_claude(claude, upstream.proxy.url, work, "Count to 30 [fault:rate after=1 times=1]")
    assert run.text == COUNTED


@pytest.mark.slow
def test_an_overflow_has_the_known_message(claude: Path, upstream: Upstream, work: Path) -> None:
    run = run_claude(claude, upstream.proxy.url, work, "Count to 30 [fault:overflow]")
    assert run.result["is_error"]
    assert "prompt is too long" in run.text.lower()
    assert len(upstream.exchanges) == 1
