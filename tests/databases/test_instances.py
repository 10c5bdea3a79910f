"""Several servers on one PostgreSQL: what they do not share is a problem at each place where people look."""

import json
import os
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from anthropic_proxy.console.ledger.database import open_for_writing
from anthropic_proxy.console.ledger.instances import list_instances
from anthropic_proxy.gateway.settings import Settings
from tests.support.command_line import run_command
from tests.support.ledger import ADMIN, DATABASE_VARIABLE, list_server_settings
from tests.support.process_checks import serve
from tests.support.server_process import Proxy, running_proxy
from tests.support.waiting import wait_for

pytestmark = pytest.mark.skipif(DATABASE_VARIABLE not in os.environ, reason="engine: PostgreSQL")

TEXT = (
    "3 instances share this database without Redis, so each of them counts limits per minute and requests in progress "
    "by itself: a key can use up to 3 times its limit. Set REDIS_URL to the same Redis server on all of them."
)


def pass_a_minute(database: Settings, count: int) -> None:
    """Wait for the rows of `count` servers, which then have run for a minute."""

    def count_rows() -> int:
        with closing(open_for_writing(database)) as connection:
            return len(list_instances(connection))

    wait_for(count_rows, lambda found: found == count)
    with closing(open_for_writing(database)) as connection, connection.transaction():
        connection.execute("UPDATE instances SET started_at = started_at - 60000000")


def read_checks(proxy: Proxy) -> dict[str, str]:
    reply = proxy.client().get("/readyz")
    assert (reply.status_code, reply.json()["status"]) == (200, "ready")
    checks: dict[str, str] = reply.json()["checks"]
    return checks


def test_several_servers_without_redis_are_a_problem_until_one_is_left(database: Settings, tmp_path: Path) -> None:
    settings, folders = list_server_settings(database), [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders:
        folder.mkdir()
    with ExitStack() as stack:
        first, *others = (stack.enter_context(running_proxy(folder, settings)) for folder in folders)
        pass_a_minute(database, 3)
        state = "3 without Redis: each counts limits per minute by itself"
        for proxy in (first, *others):
            # the first two may have known each other before the third one started
            wait_for(lambda proxy=proxy: read_checks(proxy), lambda checks: checks.get("instances") == state)
            wait_for(lambda proxy=proxy: proxy.log.count(TEXT), lambda count: count == 1)
        client = first.client(headers={"x-api-key": ADMIN})
        wait_for(lambda: client.get("/dashboard").text, lambda page: TEXT in page)
        done = run_command("doctor", "--json", "--no-learn", directory=folders[0], settings=settings)
        assert done.stdout, done.stderr
        assert TEXT in json.loads(done.stdout)["problems"]
        others[0].process.kill()
        others[1].stop()
        wait_for(lambda: read_checks(first), lambda checks: "instances" not in checks)


def test_workers_of_one_server_and_one_that_stops_are_no_problem(database: Settings, tmp_path: Path) -> None:
    with running_proxy(tmp_path, list_server_settings(database), serve(3)) as proxy:
        pass_a_minute(database, 1)
        with closing(open_for_writing(database)) as connection:
            (row,) = list_instances(connection)

            def has_beaten_twice() -> bool:
                (now,) = list_instances(connection)
                return now.seen_at > row.seen_at + 6

            wait_for(has_beaten_twice)
        assert row.processes == 3
        assert {*read_checks(proxy)} == {"server", "ledger", "budgets"}
        assert "instances share" not in proxy.log
