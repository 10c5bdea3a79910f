"""Claude Code through the proxy to reasoning models of the Responses API: the reasoning is kept between turns."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.claude import do_the_task
from tests.support.fakes.openai_responses import KEY, new_openai
from tests.support.fakes.server import Running, serving_strictly
from tests.support.server_process import Proxy


@pytest.fixture
def openai() -> Iterator[Running]:
    with serving_strictly(new_openai()) as running:
        yield running


@pytest.fixture
def settings(openai: Running) -> dict[str, str]:
    models = {"BIG_MODEL": "gpt-5.5", "SMALL_MODEL": "gpt-5-mini"}
    own = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"{openai.url}/v1", "PREFERRED_PROVIDER": "openai"}
    return {**own, **models}


def test_a_task_of_several_turns_carries_the_reasoning_of_each(
    claude: Path, proxy: Proxy, openai: Running, work: Path
) -> None:
    do_the_task(claude, proxy.url, work)
    inputs = [exchange.body["input"] for exchange in openai.journal.exchanges if exchange.path == "/v1/responses"]
    kinds = [[item["type"] for item in items] for items in inputs]
    assert [kind.count("reasoning") for kind in kinds] == [0, 1, 2, 3]
    assert [kind.count("function_call_output") for kind in kinds] == [0, 1, 3, 4]
    for before, after in itertools.pairwise(inputs):
        assert after[: len(before) - 1] == before[:-1], "what was said before must stay as it was, or it is billed anew"
    assert " 500 " not in proxy.log
