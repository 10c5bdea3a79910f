"""The pages and the ledger: exports of an unreadable database, one engine for all threads, and its end."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event

from anthropic_proxy.dashboard.exports import TABLES
from anthropic_proxy.dashboard.pages import LedgerConnections
from anthropic_proxy.settings import Settings
from tests.support.ledger import destroy_ledger, new_receipt, running_ledger
from tests.support.virtual_keys import running_app, send
from tests.support.waiting import WAIT_SECONDS

UNREADABLE = "The ledger cannot be read: file is not a database. Requests are still served."
OF_PROXY = {"mapping", "providers", "settings"}
ADMIN = "admin-0123456789"
THREADS = 8


class Engines:
    """Engines of SQLAlchemy that were used, and those that were disposed."""

    def __init__(self) -> None:
        self.used: set[Engine] = set()
        self.disposed: set[Engine] = set()

    def add_used(self, connection: Connection) -> None:
        self.used.add(connection.engine)

    def add_disposed(self, engine: Engine) -> None:
        self.disposed.add(engine)


@pytest.fixture
def engines() -> Iterator[Engines]:
    engines = Engines()
    listeners: dict[str, Any] = {"engine_connect": engines.add_used, "engine_disposed": engines.add_disposed}
    for name, listener in listeners.items():
        event.listen(Engine, name, listener)
    yield engines
    for name, listener in listeners.items():
        event.remove(Engine, name, listener)


async def test_an_export_of_an_unreadable_ledger_is_an_error(tmp_path: Path) -> None:
    async with running_app(tmp_path, ADMIN_API_KEY=ADMIN) as app:
        destroy_ledger(tmp_path)
        for path, tables in TABLES.items():
            for table in tables:
                address = f"{path.replace('{id}', 'req_1')}?format=json&table={table}"
                response = await send(app, "GET", address, x_api_key=ADMIN)
                if table in OF_PROXY:
                    assert (response.status, isinstance(response.json, list)) == (200, True), address
                else:
                    assert (response.status, UNREADABLE in response.body.decode()) == (503, True), address


async def test_threads_share_one_engine_until_the_settings_are_reloaded(tmp_path: Path, engines: Engines) -> None:
    connections, barrier = LedgerConnections(), Barrier(THREADS, timeout=WAIT_SECONDS)
    settings = Settings(data_directory=tmp_path)
    with running_ledger(settings) as ledger:
        await ledger.record(new_receipt())
        ledger.wait_written(1)

    def open_in_thread(settings: Settings) -> Engine:
        barrier.wait()
        with connections.open(settings).connection as connection:
            return connection.engine

    with ThreadPoolExecutor(THREADS) as pool:
        (first,) = set(pool.map(open_in_thread, [settings] * THREADS))
        (second,) = set(pool.map(open_in_thread, [Settings(data_directory=tmp_path)] * THREADS))
    assert first is not second
    assert (first in engines.disposed, second in engines.disposed) == (True, False)
    connections.close()
    assert second in engines.disposed


async def test_no_engine_of_the_pages_remains_after_the_proxy_has_stopped(tmp_path: Path, engines: Engines) -> None:
    directory = tmp_path / "anthropic-proxy"
    with running_ledger(Settings(data_directory=directory)) as ledger:
        await ledger.record(new_receipt())
        ledger.wait_written(1)
    async with running_app(tmp_path, VIRTUAL_KEYS="false") as app:
        engines.used.clear()
        assert (await send(app, "GET", "/dashboard/sessions")).status == 200
        of_pages = set(engines.used)
    assert of_pages
    assert of_pages <= engines.disposed
