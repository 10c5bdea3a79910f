"""Fixtures of several folders: one strict fake provider, one proxy in front of it, and a port without a server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fakes.openai_chat.server import KEY, new_openai
from tests.support.fakes.server import Running, serving
from tests.support.server_process import Proxy, reserve_closed_port, running_forked_proxy


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
