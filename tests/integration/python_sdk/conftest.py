from collections.abc import Iterator

import anthropic
import pytest

from tests.support.fakes.server import Running
from tests.support.sdk import Upstream, open_sdk
from tests.support.shared_servers import other_server, other_server_of_session, wire, wire_of_module
from tests.support.wires import Upstream as WireUpstream

__all__ = ["other_server", "other_server_of_session", "wire", "wire_of_module"]


@pytest.fixture(autouse=True)
def upstream(openai: Running) -> Iterator[Upstream]:
    """Every request that any of these tests caused was one that the real provider takes."""
    seen = Upstream(openai)
    yield seen
    assert [breach for exchange in seen.exchanges for breach in exchange.breaches] == []


@pytest.fixture
def client(wire: WireUpstream) -> Iterator[anthropic.Anthropic]:
    with open_sdk(base_url=wire.proxy.url, api_key="the-clients-own", max_retries=0) as client:
        yield client
