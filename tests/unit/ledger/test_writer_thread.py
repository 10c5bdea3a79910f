"""The thread of the ledger starts for an old schema only, and survives a defect."""

import subprocess
import sys
from pathlib import Path

from anthropic_proxy.ledger.database import open_for_writing
from anthropic_proxy.ledger.plugin import open_plugin
from anthropic_proxy.ledger.receipt_queue import ReceiptQueue
from anthropic_proxy.ledger.writer_thread import needs_migration, run_writer
from anthropic_proxy.settings import Secret, Settings
from tests.support.ledger import count_rows, new_receipt

_TIMEOUT_SECONDS = 60
_CHECK = """
import sys
from anthropic_proxy.ledger.plugin import open_plugin
from anthropic_proxy.ledger.writer_thread import needs_migration
from anthropic_proxy.settings import Secret, Settings
settings = Settings(database_url=Secret("sqlite:///" + sys.argv[1]))
open_plugin(settings)
print(needs_migration(settings), "sqlalchemy" in sys.modules)
"""


def test_a_start_with_the_newest_schema_loads_no_database_library(sqlite: Settings) -> None:
    open_for_writing(sqlite).dispose()
    assert sqlite.data_directory is not None
    file = str(sqlite.data_directory / "ledger.sqlite3")
    ended = subprocess.run([sys.executable, "-c", _CHECK, file], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "False False\n"


def test_a_database_that_may_be_old_needs_a_migration(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.sqlite3"
    damaged.write_bytes(b"no database" * 100)
    assert needs_migration(Settings(database_url=Secret("postgresql://host/name")))
    assert not needs_migration(Settings(database_url=Secret("off")))
    assert not needs_migration(Settings(data_directory=tmp_path / "none"))
    assert not needs_migration(Settings(database_url=Secret(f"sqlite:///{damaged}")))
    assert not (tmp_path / "none").exists()


async def test_the_writer_pauses_after_a_defect_and_drops_only_its_batch() -> None:
    runs: list[int] = []
    warnings: list[str] = []

    def write() -> None:
        runs.append(len(queue.pop_batch(1)))
        raise RuntimeError("a defect")

    queue = ReceiptQueue(lambda queue: run_writer(queue, write, warnings.append, _TIMEOUT_SECONDS))
    await queue.record(new_receipt(1))
    while not warnings:
        queue.pause(0.001)
    await queue.record(new_receipt(2))
    assert (queue.state.condition, queue.state.dropped_rows, len(queue)) == ("failed", 1, 1)
    assert queue.stop(_TIMEOUT_SECONDS) == 0, "the receipts of the pause are written at the stop"
    assert runs == [1, 1]
    assert warnings[0].startswith("The ledger dropped requests because of a defect:\nTraceback ")
    assert warnings[0].endswith("RuntimeError: a defect\n")


async def test_receipts_are_written_if_the_queue_stops_at_once(sqlite: Settings) -> None:
    plugin = open_plugin(sqlite)
    (observer,) = plugin.observers
    await observer.record(new_receipt())
    assert plugin.stop is not None
    await plugin.stop()
    assert count_rows(sqlite) == 1
