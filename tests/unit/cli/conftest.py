"""Fixtures of the tests of commands."""

from collections.abc import Iterator

import pytest

from tests.support.server_process import hold_port


@pytest.fixture(scope="package")
def closed_port() -> Iterator[str]:
    """A port at which no program listens, also if a proxy runs on this machine."""
    with hold_port() as port:
        yield str(port)
