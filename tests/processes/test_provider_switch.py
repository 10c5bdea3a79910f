"""A conversation that continues with another provider: blocks of one are never sent to a provider that rejects them."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.compatible import THINK, WEATHER, Session, settings_of, weather
from tests.support.fakes.compatible import new_server
from tests.support.fakes.openai_responses import KEY, new_openai
from tests.support.fakes.server import Running, serving
from tests.support.sdk import open_sdk, text_of
from tests.support.server_process import Proxy, running_proxy

MODELS = {
    "groq": "groq/openai/gpt-oss-120b",
    "moonshot": "moonshot/kimi-k2.6",
    "k2": "moonshot/kimi-k2-instruct",
    "xai": "xai/grok-4.6",
    "chat": "openai/gpt-4.1",
    "responses": "openai/gpt-5.5",
}
ORDERS = (
    ("groq", "moonshot", "xai", "responses", "k2", "chat", "groq"),
    ("responses", "k2", "xai", "moonshot", "groq", "responses", "chat"),
    ("moonshot", "responses", "groq", "xai", "moonshot", "k2"),
)


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Proxy, dict[str, Running]]]:
    """A proxy with every provider, and the providers by the name of their settings."""
    with ExitStack() as stack:
        servers = {name: stack.enter_context(serving(new_server(name))) for name in ("groq", "moonshot", "xai")}
        settings = {key: value for name, server in servers.items() for key, value in settings_of(name, server).items()}
        servers["openai"] = stack.enter_context(serving(new_openai()))
        settings |= {
            "PREFERRED_PROVIDER": "openai",
            "OPENAI_API_KEY": KEY,
            "OPENAI_BASE_URL": f"{servers['openai'].url}/v1",
        }
        proxy = stack.enter_context(running_proxy(tmp_path_factory.mktemp("city"), settings))
        yield proxy, servers


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("order", ORDERS)
def test_a_conversation_wanders(city: tuple[Proxy, dict[str, Running]], order: tuple[str, ...], stream: bool) -> None:
    proxy, servers = city
    with open_sdk(base_url=proxy.url, api_key="the-clients-own", max_retries=0) as client:
        talk = Session(client, servers["groq"], proxy, "")
        for place in order:
            talk.model = MODELS[place]
            thinking = {} if place in ("k2", "chat") else {"thinking": THINK}
            reply = talk.work(
                "How is the weather in Oslo and Rome?", weather, stream=stream, tools=[WEATHER], **thinking
            )
            assert text_of(reply) == "Oslo: snow; Rome: sun", place
        talk.model = MODELS[order[0]]
        assert text_of(talk.send("What did I say first", stream=stream)).endswith("in Oslo and Rome?")
    for name, server in servers.items():
        assert [vars(breach) for exchange in server.journal.exchanges for breach in exchange.breaches] == [], name
