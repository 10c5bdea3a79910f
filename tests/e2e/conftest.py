"""A strict fake provider, a proxy in front of it and a working directory, new for every test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.claude import find_claude
from tests.support.fakes.openai_chat import KEY, new_openai
from tests.support.fakes.server import Running, serving_strictly
from tests.support.server_process import Proxy, running_proxy
from tests.support.shared_servers import other_server, other_server_of_session, wire, wire_of_module

__all__ = ["other_server", "other_server_of_session", "wire", "wire_of_module"]


@pytest.fixture(scope="session")
def claude() -> Path:
    return find_claude()


@pytest.fixture
def openai() -> Iterator[Running]:
    with serving_strictly(new_openai()) as running:
        yield running


@pytest.fixture
def settings(openai: Running) -> dict[str, str]:
    """Return the settings of a user with an OpenAI key."""
    return {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"{openai.url}/v1", "PREFERRED_PROVIDER": "openai"}


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """The directory in which the proxy runs, apart from the one in which its client works."""
    place = tmp_path / "server"
    place.mkdir()
    return place


@pytest.fixture
def proxy(settings: dict[str, str], server: Path) -> Iterator[Proxy]:
    with running_proxy(server, settings) as running:
        yield running
        assert "Traceback" not in running.log


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The directory in which Claude Code works."""
    place = tmp_path / "work"
    place.mkdir()
    return place
