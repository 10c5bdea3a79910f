"""One strict stand-in provider and one proxy in front of it, for all tests of this folder."""

from collections.abc import Iterator

import pytest

from tests.support.fakes.openai_chat.server import KEY, new_openai
from tests.support.fakes.server import Running, serving
from tests.support.server_process import Proxy, running_proxy


@pytest.fixture(scope="session")
def openai() -> Iterator[Running]:
    with serving(new_openai()) as running:
        yield running


@pytest.fixture(scope="session")
def proxy(openai: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    settings = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"{openai.url}/v1", "PREFERRED_PROVIDER": "openai"}
    with running_proxy(tmp_path_factory.mktemp("proxy"), settings) as running:
        yield running
