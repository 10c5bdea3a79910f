from collections.abc import AsyncIterator

import pytest

from anthropic_proxy.gateway.settings import Settings
from tests.support.virtual_keys import Keys


@pytest.fixture
async def keys(sqlite: Settings) -> AsyncIterator[Keys]:
    """Return an empty table of keys on SQLite."""
    keys = Keys(sqlite)
    yield keys
    await keys.table.stop()
    keys.connection.close()
