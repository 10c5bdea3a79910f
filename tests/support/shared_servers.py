"""Fixtures of several folders: a strict fake provider of one or of each wire with a proxy in front, a closed port."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fakes.openai_chat.server import KEY, new_openai
from tests.support.fakes.server import Running, serving
from tests.support.server_process import Proxy, reserve_closed_port, running_forked_proxy
from tests.support.wires import EVERY_KIND, KINDS, RELAY, Upstream, standing, standing_blind


@pytest.fixture(scope="session")
def openai() -> Iterator[Running]:
    with serving(new_openai()) as running:
        yield running


@pytest.fixture(scope="session")
def settings(openai: Running) -> dict[str, str]:
    return {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"{openai.url}/v1", "PREFERRED_PROVIDER": "openai"}


@pytest.fixture(scope="session")
def proxy(settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    directory: Path = tmp_path_factory.mktemp("proxy")
    with running_forked_proxy(directory, settings) as running:
        yield running
        assert "Traceback" not in running.log


@pytest.fixture(scope="session")
def closed_port() -> str:
    """A port at which no program listens, also if a proxy runs on this machine."""
    return reserve_closed_port()


@pytest.fixture(scope="module", params=KINDS)
def wire_of_module(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    with standing(request.param, tmp_path_factory.mktemp(request.param)) as upstream:
        yield upstream
        assert "Traceback" not in upstream.proxy.log


@pytest.fixture
def wire(wire_of_module: Upstream) -> Iterator[Upstream]:
    """Yield the upstream as one test sees it; every request that it causes is one that the real provider takes."""
    seen = Upstream(wire_of_module.kind, wire_of_module.running, wire_of_module.proxy)
    yield seen
    assert seen.breaches() == []


@pytest.fixture(scope="session")
def other_server_of_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    betas = "[providers.blind.dialect]\nbetas = []\n"
    with standing_blind(RELAY, tmp_path_factory.mktemp("other"), betas) as upstream:
        yield upstream
        assert "Traceback" not in upstream.proxy.log


@pytest.fixture
def other_server(other_server_of_session: Upstream) -> Iterator[Upstream]:
    """Yield a server with the Messages API that neither compacts nor edits conversations, as one test sees it."""
    seen = Upstream(other_server_of_session.kind, other_server_of_session.running, other_server_of_session.proxy)
    yield seen
    assert seen.breaches() == []


every_kind = pytest.mark.parametrize("wire_of_module", EVERY_KIND, indirect=True, scope="module")
"""For a test of `wire`: the four wires on which the proxy does what Anthropic's servers do, and a relay to these."""
