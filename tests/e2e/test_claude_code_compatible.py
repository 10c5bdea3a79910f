"""Claude Code through the proxy to Groq, Moonshot, xAI and a user's own server: tools, and kept reasoning."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.claude import do_the_task
from tests.support.compatible import settings_of
from tests.support.fakes.compatible import KINDS, new_server
from tests.support.fakes.server import Running, serving_strictly
from tests.support.server_process import running_proxy

MODELS = {
    "groq": ("llama-3.3-70b-versatile", "groq/openai/gpt-oss-120b"),
    "moonshot": ("kimi-k2-instruct", "kimi-k2.6", "kimi-k3"),
    "xai": ("grok-3", "grok-4.6"),
    "local": ("openai/qwen3-coder", "openai/Qwen/Qwen3-8B"),
}
GIVES_BACK = ("groq/openai/gpt-oss-120b", "kimi-k2.6", "kimi-k3", "openai/Qwen/Qwen3-8B")


@pytest.fixture(params=KINDS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def provider(name: str) -> Iterator[Running]:
    with serving_strictly(new_server(name)) as running:
        yield running


def test_a_task_of_several_turns_reads_writes_and_edits_files(
    claude: Path, name: str, provider: Running, server: Path, work: Path
) -> None:
    for model in MODELS[name]:
        start = len(provider.journal.exchanges)
        chosen = {"BIG_MODEL": model, "SMALL_MODEL": model, "XAI_WIRE": "chat"}
        with running_proxy(server, {**settings_of(name, provider), **chosen}) as proxy:
            do_the_task(claude, proxy.url, work)
            assert " 500 " not in proxy.log
        bodies = [one.body for one in provider.journal.exchanges[start:] if one.outcome == "answered"]
        field = KINDS[name].thinking_field
        replayed = [sum(field in message for message in body["messages"]) for body in bodies]
        assert replayed == ([0, 1, 2, 3] if model in GIVES_BACK else [0, 0, 0, 0])
