from collections.abc import Iterator

import anthropic
import pytest

from tests.support.fakes.server import Running
from tests.support.sdk import Upstream, open_sdk
from tests.support.server_process import Proxy


@pytest.fixture(autouse=True)
def upstream(openai: Running) -> Iterator[Upstream]:
    """Every request that any of these tests caused was one that the real provider takes."""
    seen = Upstream(openai)
    yield seen
    assert [breach for exchange in seen.exchanges for breach in exchange.breaches] == []


@pytest.fixture
def client(proxy: Proxy) -> Iterator[anthropic.Anthropic]:
    with open_sdk(base_url=proxy.url, api_key="the-clients-own", max_retries=0) as client:
        yield client
