"""Fixtures of the tests of commands."""

import pytest

from tests.support.server_process import reserve_closed_port


@pytest.fixture(scope="session")
def closed_port() -> str:
    """A port at which no program listens, also if a proxy runs on this machine."""
    return reserve_closed_port()
