from collections.abc import Iterator

import anthropic
import pytest

from tests.support.fakes.server import Running
from tests.support.sdk import Upstream, open_sdk
from tests.support.server_process import Proxy
from tests.support.wires import KINDS, standing
from tests.support.wires import Upstream as WireUpstream


@pytest.fixture(autouse=True)
def upstream(openai: Running) -> Iterator[Upstream]:
    """Every request that any of these tests caused was one that the real provider takes."""
    seen = Upstream(openai)
    yield seen
    assert [breach for exchange in seen.exchanges for breach in exchange.breaches] == []


@pytest.fixture(scope="module", params=KINDS)
def wire_of_module(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WireUpstream]:
    with standing(request.param, tmp_path_factory.mktemp(request.param)) as upstream:
        yield upstream
        assert "Traceback" not in upstream.proxy.log


@pytest.fixture
def wire(wire_of_module: WireUpstream) -> Iterator[WireUpstream]:
    seen = WireUpstream(wire_of_module.kind, wire_of_module.running, wire_of_module.proxy)
    yield seen
    assert seen.breaches() == []


@pytest.fixture
def client(proxy: Proxy) -> Iterator[anthropic.Anthropic]:
    with open_sdk(base_url=proxy.url, api_key="the-clients-own", max_retries=0) as client:
        yield client
