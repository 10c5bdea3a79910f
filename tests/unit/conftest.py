import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from anthropic_proxy.gateway.settings import Settings
from tests.support.ledger import new_database


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """Return settings with a new database, on each engine."""
    with new_database(request.param, tmp_path) as settings:
        yield settings


@pytest.fixture
def sqlite(tmp_path: Path) -> Settings:
    """Return settings with a new SQLite database."""
    return Settings(data_directory=tmp_path / "data")


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The days of this process are those of UTC."""
    if not hasattr(time, "tzset"):
        yield
        return
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()
