"""Changes of the settings files: entries of the audit log, and servers that follow each other."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct, structs

from anthropic_proxy.console.ledger.database import open_for_writing
from anthropic_proxy.console.ledger.instance_watch import InstanceWatch
from anthropic_proxy.console.ledger.instances import list_instances
from anthropic_proxy.console.ledger.settings_watch import note_author
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import Settings, digest_files, load_settings
from anthropic_proxy.gateway.stores.memory import MemoryStore
from anthropic_proxy.plugins import ServerFacts, Store
from tests.support.waiting import wait_for_async


class _Server(Struct):
    """What the watch uses of a server that reads its settings from a folder."""

    folder: Path
    settings: Settings
    server: ServerFacts
    store: Store
    warnings: list[str] = []
    reloads: int = 0

    def describe_server(self) -> ServerFacts:
        return self.server

    def log_warning_each_time(self, text: str) -> None:
        self.warnings.append(text)

    async def reload_settings(self) -> bool:
        self.reloads += 1
        with suppress(ConfigurationError):
            self.settings = read_settings(self.folder, self.settings)
        return True


def read_settings(folder: Path, database: Settings) -> Settings:
    read = load_settings({}, PROVIDERS, env_file=str(folder / ".env"))
    return structs.replace(read, database_url=database.database_url, data_directory=database.data_directory)


def new_folder(path: Path, text: str) -> Path:
    path.mkdir(exist_ok=True)
    (path / ".env").write_text(text)
    return path


class Servers:
    def __init__(self, database: Settings) -> None:
        self.database = database
        self.tasks = list[tuple[InstanceWatch, asyncio.Task[None]]]()

    def start(self, name: str, folder: Path) -> _Server:
        facts = ServerFacts(id=name, address=f"http://127.0.0.1:{len(self.tasks) + 1}")
        server = _Server(folder, read_settings(folder, self.database), facts, MemoryStore())
        gateway: Any = server  # a part of a gateway
        watching = InstanceWatch(server.settings, gateway)
        self.tasks.append((watching, asyncio.create_task(watching.run())))
        return server

    async def wait_for_rows(self) -> None:
        def count() -> int:
            with closing(open_for_writing(self.database)) as connection:
                return sum(1 for row in list_instances(connection) if row.files)

        await wait_for_async(count, lambda found: found == len(self.tasks))

    def read_log(self) -> Sequence[tuple[str, Any]]:
        with closing(open_for_writing(self.database)) as connection:
            rows = connection.query("SELECT actor, changes FROM audit_log ORDER BY id")
        return [(actor, json.loads(changes)) for actor, changes in rows]

    async def close(self) -> None:
        for watching, task in self.tasks:
            task.cancel()
            await watching.close()


@pytest.fixture
async def servers(database: Settings) -> Any:
    running = Servers(database)
    yield running
    await running.close()


async def test_servers_with_one_file_follow_and_each_has_an_entry(servers: Servers, tmp_path: Path) -> None:
    shared, other = new_folder(tmp_path / "a", "LOG_LEVEL=info\n"), new_folder(tmp_path / "b", "LOG_LEVEL=info\n")
    first, second, third = (servers.start(name, place) for name, place in (("1", shared), ("2", shared), ("3", other)))
    await servers.wait_for_rows()
    (shared / ".env").write_text("LOG_LEVEL=debug\nOPENAI_API_KEY=sk-canary-of-a-key\n")
    await first.reload_settings()
    await note_author(first.store, first.settings.env_file, "dashboard (ann)")
    await wait_for_async(servers.read_log, lambda entries: len(entries) == 2)
    changes = {"LOG_LEVEL": ["info", "debug"], "OPENAI_API_KEY": [None, "set"]}
    assert sorted(servers.read_log(), key=str) == [("dashboard (ann)", changes), ("file (.env)", changes)]
    assert (second.settings.log_level, third.settings.log_level, third.reloads) == ("debug", "info", 0)


async def test_an_invalid_file_is_read_once(servers: Servers, tmp_path: Path) -> None:
    """A server of another version reads it, this one does not."""
    shared, other = new_folder(tmp_path / "a", "LOG_LEVEL=info\n"), new_folder(tmp_path / "b", "LOG_LEVEL=debug\n")
    first = servers.start("1", shared)
    newer = servers.start("2", other)
    await servers.wait_for_rows()
    for folder in (shared, other):
        (folder / ".env").write_text("LOG_LEVEL=loud\n")
    invalid = read_settings(new_folder(tmp_path / "c", "LOG_LEVEL=error\n"), servers.database)
    files = {str(other / ".env"): digest_files(str(other / ".env"))[str(other / ".env")]}
    newer.settings = Settings(files=files, raw_values=invalid.raw_values, env_file=str(other / ".env"))
    await wait_for_async(lambda: first.reloads)
    (shared / ".env").write_text("LOG_LEVEL=error\n")
    await first.reload_settings()
    await wait_for_async(servers.read_log, lambda entries: ("file (.env)", {"LOG_LEVEL": ["info", "error"]}) in entries)
    assert first.reloads == 2


async def test_a_change_before_the_stop_is_in_the_log(servers: Servers, tmp_path: Path) -> None:
    server = servers.start("1", new_folder(tmp_path / "a", "LOG_LEVEL=info\n"))
    await servers.wait_for_rows()
    (tmp_path / "a/.env").write_text("")
    await server.reload_settings()
    await servers.close()
    assert servers.read_log() == [("file (.env)", {"LOG_LEVEL": ["info", None]})]


async def restart(servers: Servers, folder: Path, text: str, name: str = "1") -> None:
    """Start a server with these settings, and stop it."""
    servers.start(name, new_folder(folder, text))
    await servers.wait_for_rows()
    await servers.close()
    servers.tasks.clear()


async def test_a_change_by_a_restart_has_an_entry_and_no_secret(servers: Servers, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    await restart(servers, folder, "BUDGET=5USD/day\nOPENAI_API_KEY=sk-canary-of-one\nPORT=8083\n")
    assert servers.read_log() == []
    await restart(servers, folder, "BUDGET=5USD/day\nOPENAI_API_KEY=sk-canary-of-one\nPORT=8084\n")
    assert servers.read_log() == []
    await restart(servers, folder, "BUDGET=50USD/day\nOPENAI_API_KEY=sk-canary-of-two\nLEDGER_CONTENT=true\n")
    await restart(servers, folder, "LEDGER_CONTENT=true\nXAI_API_KEY=xai-canary\n")
    assert servers.read_log() == [
        (
            "start",
            {
                "BUDGET": ["5USD/day", "50USD/day"],
                "OPENAI_API_KEY": ["set", "changed"],
                "LEDGER_CONTENT": [None, "true"],
            },
        ),
        ("start", {"BUDGET": ["50USD/day", None], "OPENAI_API_KEY": ["set", None], "XAI_API_KEY": [None, "set"]}),
    ]
    with closing(open_for_writing(servers.database)) as connection:
        assert "canary" not in str(connection.query("SELECT value FROM shared_values"))


async def test_a_change_by_a_reload_has_no_second_entry_at_the_restart(servers: Servers, tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "a", "LOG_LEVEL=info\n")
    server = servers.start("1", folder)
    await servers.wait_for_rows()
    (folder / ".env").write_text("LOG_LEVEL=debug\n")
    await server.reload_settings()
    changed = [("file (.env)", {"LOG_LEVEL": ["info", "debug"]})]
    await wait_for_async(servers.read_log, lambda entries: entries == changed)
    await servers.close()
    servers.tasks.clear()
    await restart(servers, folder, "LOG_LEVEL=debug\n")
    assert servers.read_log() == changed


async def test_a_rolling_change_has_one_entry_also_if_an_old_server_starts_again(
    servers: Servers, tmp_path: Path
) -> None:
    folder = new_folder(tmp_path / "a", "LOG_LEVEL=info\n")
    for name in "12":
        servers.start(name, folder)
    await servers.wait_for_rows()
    (folder / ".env").write_text("LOG_LEVEL=debug\n")
    for name in "34":
        servers.start(name, folder)
        await servers.wait_for_rows()
    (folder / ".env").write_text("LOG_LEVEL=info\n")
    servers.start("5", folder)
    await servers.wait_for_rows()
    assert servers.read_log() == [("start", {"LOG_LEVEL": ["info", "debug"]})]
