"""The ledger of a server process: stored facts, state, and the rows that survive `kill -9` under load."""

import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import httpx2 as httpx
import pytest

from anthropic_proxy.console.keys.administration import open_administration
from anthropic_proxy.console.keys.virtual_keys import VirtualKey
from anthropic_proxy.console.ledger.database import find_spool_file
from anthropic_proxy.console.ledger.migrations import NEWEST_VERSION
from anthropic_proxy.console.ledger.spool import Spool
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.key_rules import Budget, Rules
from anthropic_proxy.secrets import Secret
from tests.support.command_line import run_command
from tests.support.fakes.server import Running
from tests.support.ledger import create_earlier_schema, plain_connection
from tests.support.process_checks import MESSAGES, METRICS, ask, total
from tests.support.server_process import SERVE, Proxy, running_proxy
from tests.support.tls import NO_AUTHORITIES
from tests.support.virtual_keys import create_key
from tests.support.waiting import WAIT_SECONDS, wait_for

DEFAULT = {"DATABASE_URL": ""}
"""The database in the data directory of the user; `running_proxy` turns the ledger off."""
FILE = Path(".local/share/anthropic-proxy/ledger.sqlite3")


def wait_for_rows(proxy: Proxy, count: int, **headers: str) -> None:
    client = proxy.client(headers=headers)
    wait_for(
        lambda: client.get(METRICS),
        lambda page: total(page, "anthropic_proxy_ledger_rows_total", result="written") >= count,
    )


def test_a_request_is_found_by_its_id_after_a_restart(
    openai: Running, settings: dict[str, str], tmp_path: Path
) -> None:
    environment = {**settings, **DEFAULT, "XDG_DATA_HOME": str(tmp_path / "xdg")}
    file = tmp_path / "xdg/anthropic-proxy/ledger.sqlite3"
    headers = {"x-claude-code-session-id": "session-1", "x-project": "shop", "user-agent": "claude-cli/2.1.328"}
    headers |= {"x-claude-code-request-class": "subagent", "x-claude-code-agent-type": "Explore"}
    headers |= {"x-claude-code-prompt-id": "prompt-1"}
    with running_proxy(tmp_path, environment) as proxy:
        assert not file.exists(), "no database before the first request"
        done = proxy.client().post(MESSAGES, json=ask("Say exactly: stored"), headers=headers)
        wait_for_rows(proxy, 1)
        assert proxy.client().get("/health").json()["ledger"] == {"condition": "ok", "queued": 0, "dropped": 0}
        page = proxy.client().get(METRICS)
        assert total(page, "anthropic_proxy_ledger_up") == 1
        for by, name in (("kind", "subagent"), ("agent", "Explore"), ("prompt", "prompt-1")):
            groups = proxy.client().get("/api/usage", params={"by": by}).json()["groups"]
            assert [(group["name"], group["requests"]) for group in groups] == [(name, 1)]
        assert len(proxy.client().get("/api/requests", params={"agent": "Explore"}).json()["requests"]) == 1
        assert proxy.client().get("/api/requests", params={"kind": "main"}).json()["requests"] == []
        failed = proxy.client().post(MESSAGES, json={"model": "claude-haiku-4-5"}, headers=headers)
        proxy.stop()  # the last rows are written at the stop
    with closing(sqlite3.connect(file)) as database:
        rows = dict(
            database.execute(
                "SELECT id, project || ' ' || session || ' ' || client || ' ' || outcome_class FROM requests"
            )
        )
    assert rows == {
        done.headers["request-id"]: "shop session-1 claude-cli ok",
        failed.headers["request-id"]: "shop session-1 claude-cli error",
    }


def test_a_server_that_stores_requests_loads_no_sqlalchemy(
    openai: Running, settings: dict[str, str], tmp_path: Path
) -> None:
    """It needs half as much memory again as the rest of the server. Python reports each import."""
    data = tmp_path / "data"
    rules = Rules(requests_per_minute=60, budgets=(Budget(1_000_000, "tokens", "month"),))
    with open_administration(Settings(data_directory=data / "anthropic-proxy"), "test") as administration:
        _, key = create_key(administration, VirtualKey(id="", label="ci", rules=rules))
    monitor = "monitor-0123456789"
    environment = {**settings, **DEFAULT, "XDG_DATA_HOME": str(data), "VIRTUAL_KEYS": "true", "LEDGER_CONTENT": "true"}
    environment["MONITOR_API_KEY"] = monitor
    with running_proxy(tmp_path, {**environment, "PYTHONPROFILEIMPORTTIME": "1"}) as proxy:
        replied = proxy.client().post(MESSAGES, json=ask("Say exactly: stored"), headers={"x-api-key": key})
        assert replied.status_code == 200
        wait_for_rows(proxy, 1, authorization=f"Bearer {monitor}")
        proxy.stop()
        assert "anthropic_proxy.console.ledger.writer\n" in proxy.log
        assert "sqlalchemy" not in proxy.log


def test_a_start_migrates_an_earlier_schema_before_the_first_request(settings: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / FILE
    file.parent.mkdir(parents=True)
    with plain_connection(Settings(database_url=Secret(f"sqlite:///{file}"))) as connection:
        create_earlier_schema(connection, "0001")
        connection.execute(
            "INSERT INTO requests (id, started_at, stream) VALUES ('req_old', ?, 0)", (int(time.time() * 1e6),)
        )
    with running_proxy(tmp_path, settings | DEFAULT) as proxy:
        client = proxy.client()

        def request_rows() -> httpx.Response:
            stored = client.get("/api/requests")
            if stored.status_code != 200:
                assert stored.json()["error"]["message"] == (
                    f"The ledger {file} has the tables of an earlier version. The next start of the proxy "
                    "migrates them. To do it now:  anthropic-proxy db upgrade"
                )
            return stored

        stored = wait_for(request_rows, lambda stored: stored.status_code == 200)
        assert [row["id"] for row in stored.json()["requests"]] == ["req_old"]
    assert file.with_name("ledger.sqlite3.backup-0001").exists()


def test_database_url_off_stores_nothing(settings: dict[str, str], tmp_path: Path) -> None:
    with running_proxy(tmp_path, {**settings, "DATABASE_URL": "off"}) as proxy:
        proxy.client().post(MESSAGES, json=ask("hello"))
        assert "ledger" not in proxy.client().get("/health").json()
        assert "\nanthropic_proxy_ledger" not in proxy.client().get(METRICS).text
    assert not (tmp_path / FILE).exists()


class Load:
    """Clients that send requests until the server ends, and note the id of each complete reply."""

    CLIENTS: ClassVar = 4

    def __init__(self, proxy: Proxy) -> None:
        self.finished: list[str] = []
        self._proxy = proxy
        self._threads = [threading.Thread(target=self._send, daemon=True) for _ in range(self.CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        with httpx.Client(
            base_url=self._proxy.url, timeout=WAIT_SECONDS, trust_env=False, verify=NO_AUTHORITIES
        ) as client:
            while True:
                try:
                    reply = client.post(MESSAGES, json=ask("Say exactly: load"))
                except httpx.HTTPError:
                    return
                self.finished.append(reply.headers["request-id"])

    def join(self) -> None:
        for thread in self._threads:
            thread.join(WAIT_SECONDS)


@pytest.mark.parametrize("rounds", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_server_loses_no_row_that_it_has_counted_as_written(
    openai: Running, settings: dict[str, str], tmp_path: Path, rounds: int
) -> None:
    file, required, possible = tmp_path / FILE, set[str](), set[str]()
    for number in range(rounds):
        with running_proxy(tmp_path, settings | DEFAULT) as proxy:
            load = Load(proxy)
            wait_for_rows(proxy, 20 + 10 * (number % 4))
            finished = list(load.finished)
            # rows are written in the order in which the requests end; a client may not know of one, and of one before
            wait_for_rows(proxy, len(finished) + 2 * Load.CLIENTS)
            proxy.process.kill()
            proxy.process.wait(WAIT_SECONDS)
            load.join()
        required |= set(finished)
        possible |= set(load.finished)
        with closing(sqlite3.connect(file)) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            stored = [name for (name,) in database.execute("SELECT id FROM requests")]
            sums = database.execute("SELECT sum(requests), sum(output_tokens) FROM hourly").fetchone()
            rows = database.execute("SELECT count(*), sum(output_tokens) FROM requests").fetchone()
        assert len(stored) == len(set(stored))
        assert required <= set(stored)
        assert len(set(stored) - possible) <= Load.CLIENTS * (number + 1), "replies that were on their way to a client"
        assert sums == rows
    assert len(stored) <= len(openai.journal.exchanges)


def test_a_backup_under_load_is_complete_and_is_restored_after_the_stop(
    openai: Running, settings: dict[str, str], tmp_path: Path
) -> None:
    file, copy = tmp_path / FILE, tmp_path / "copy.sqlite3"
    place = {"DATABASE_URL": f"sqlite:///{file}"}
    with running_proxy(tmp_path, settings | place) as proxy:
        load = Load(proxy)
        wait_for_rows(proxy, 20)
        before = len(load.finished)
        wait_for_rows(proxy, before)
        saved = run_command("db", "backup", str(copy), directory=tmp_path, settings=place)
        assert (saved.returncode, saved.stderr) == (0, "")
        wait_for_rows(
            proxy, total(proxy.client().get(METRICS), "anthropic_proxy_ledger_rows_total", result="written") + 20
        )
        refused = run_command("db", "restore", str(copy), "--force", directory=tmp_path, settings=place)
        assert (refused.returncode, refused.stderr) == (
            2,
            f"✕ Another program has opened {file}, such as a running proxy. Stop it, and restore again.\n",
        )
        proxy.stop()
        load.join()
    with closing(sqlite3.connect(copy)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        (count,) = database.execute("SELECT count(*) FROM requests").fetchone()
        assert database.execute("SELECT sum(requests) FROM hourly").fetchone() == (count,)
    assert count >= before
    found = f"requests: {count:,}, virtual keys: 0, sign-ins: 0, schema: {NEWEST_VERSION}"
    assert saved.stdout == f"  ✓ {copy} is a copy of {file} ({found}).\n"
    refused = run_command("db", "restore", str(copy), directory=tmp_path, settings=place)
    assert refused.returncode == 2
    assert refused.stderr.endswith(", virtual keys: 0, sign-ins: 0). `--force` replaces it with the backup.\n")
    restored = run_command("db", "restore", str(copy), "--force", directory=tmp_path, settings=place)
    assert (restored.returncode, restored.stdout, restored.stderr) == (
        0,
        f"  ✓ {file} is now a copy of {copy} ({found}).\n  The ledger before it is {file}.replaced.\n",
        "",
    )
    with running_proxy(tmp_path, settings | place) as proxy:
        assert proxy.client().get("/api/usage").json()["total"]["requests"] == count


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("has_folder", [True, False])
def test_a_stop_while_the_database_is_held_keeps_the_rows_in_a_file_or_reports_their_number(
    openai: Running, settings: dict[str, str], tmp_path: Path, workers: int, has_folder: bool
) -> None:
    file = tmp_path / "ledger.sqlite3"
    data = tmp_path / "xdg"
    data.mkdir() if has_folder else data.touch()
    environment = {**settings, "DATABASE_URL": f"sqlite:///{file}", "XDG_DATA_HOME": str(data)}
    command = [*SERVE, "--workers", str(workers)]
    held = (
        f"The ledger cannot store requests: locked ({file}: database is locked). Another program holds its lock. End "
        "the transaction of that program."
    )
    with running_proxy(tmp_path, environment, command) as proxy:
        proxy.client().post(MESSAGES, json=ask("Say exactly: one"))
        wait_for_rows(proxy, 1)
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            proxy.client().post(MESSAGES, json=ask("Say exactly: two"))
            ready = wait_for(
                lambda: proxy.client().get("/readyz").json(), lambda found: found["checks"]["ledger"] != "ok"
            )
            assert ready["checks"]["ledger"] == "locked"
            proxy.process.terminate()
            status = proxy.process.wait(WAIT_SECONDS)
        log = proxy.log
    assert held in log
    lost = f"The ledger did not store the last request. {held} The file {data}/anthropic-proxy/"
    assert (status, lost in log) == ((0, False) if has_folder else (1, True))
    if has_folder:
        with running_proxy(tmp_path, environment, command):
            wait_for(lambda: count_requests(file), lambda count: count == 2)
    assert count_requests(file) == (2 if has_folder else 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_budget_counts_the_requests_of_a_killed_server_whose_rows_are_stored_later(
    openai: Running, settings: dict[str, str], tmp_path: Path, workers: int
) -> None:
    file = tmp_path / "ledger.sqlite3"
    database = Settings(database_url=Secret(f"sqlite:///{file}"))
    with open_administration(database, "test") as administration:
        rules = Rules(budgets=(Budget(1_000_000, "tokens", "month"),))
        _, key = create_key(administration, VirtualKey(id="", label="ci", rules=rules))
    admin = {"x-api-key": "administrator-0123456789"}
    own = {"VIRTUAL_KEYS": "true", "ADMIN_API_KEY": admin["x-api-key"], "XDG_DATA_HOME": str(tmp_path / "xdg")}
    environment = {**settings, **own, "DATABASE_URL": f"sqlite:///{file}"}
    command = [*SERVE, "--workers", str(workers)]

    def read_used(proxy: Proxy) -> int:
        with proxy.client(headers=admin) as client:
            (listed,) = client.get("/admin/keys").json()["data"]
            (spending,) = client.get(f"/admin/keys/{listed['id']}").json()["spending"]
        return int(spending["used"])

    tokens = 0
    with running_proxy(tmp_path, environment, command) as proxy, closing(sqlite3.connect(file)) as other:
        client = proxy.client(headers={"x-api-key": key})
        for number in range(4):
            if number == 1:
                wait_for(lambda: count_requests(file), lambda count: count == 1)
                other.execute("BEGIN EXCLUSIVE")
            usage = client.post(MESSAGES, json=ask(f"Say exactly: {number}")).json()["usage"]
            tokens += usage["input_tokens"] + usage["output_tokens"]
        spool = find_spool_file(
            Settings(database_url=database.database_url, data_directory=tmp_path / "xdg/anthropic-proxy")
        )
        assert spool is not None
        wait_for(lambda: Spool(spool).count_rows(), lambda count: count == 3)
        proxy.process.kill()
        proxy.process.wait(WAIT_SECONDS)
        other.rollback()
    assert count_requests(file) == 1
    with running_proxy(tmp_path, environment, command) as proxy:
        wait_for(lambda: count_requests(file), lambda count: count == 4)
        wait_for(lambda: read_used(proxy), lambda used: used == tokens)


def count_requests(file: Path) -> int:
    with closing(sqlite3.connect(file)) as database:
        count: int = database.execute("SELECT count(*) FROM requests").fetchone()[0]
    return count
