"""The database of a test in this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from anthropic_proxy.gateway.settings import Settings
from tests.support.ledger import new_database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Settings]:
    with new_database("postgresql", tmp_path) as settings:
        yield settings
