"""Servers on one database know each other, and name what they do not share."""

import asyncio
import time
from contextlib import closing, suppress
from typing import Any

import pytest
from msgspec import Struct, structs

from anthropic_proxy.console.ledger.database import open_for_writing
from anthropic_proxy.console.ledger.instance_watch import InstanceWatch
from anthropic_proxy.console.ledger.instances import (
    COMPANY_SECONDS,
    EXPIRY_SECONDS,
    UNKNOWN_REDIS,
    Instance,
    KnownInstances,
    find_conditions,
    list_instances,
    read_conditions,
    read_time,
    store_instance,
)
from anthropic_proxy.console.ledger.settings_watch import Reach, find_reach
from anthropic_proxy.engine.options import CallOptions
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.stores.memory import MemoryStore
from anthropic_proxy.plugins import ServerFacts, Store
from anthropic_proxy.secrets import Secret
from tests.support.waiting import wait_for_async

NOW = 1_000_000.0
WITH_KEYS = Settings(virtual_keys=True)
REMEDY = "Set REDIS_URL to the same Redis server on all of them."
BOTH = "Set REDIS_URL to the same Redis server, and REDIS_PREFIX to the same text, on all of them."


def new_instance(id_: str, **fields: Any) -> Instance:
    usual = {"id": id_, "name": id_, "address": "http://0.0.0.0:8082", "version": "1", "state": "serving"}
    times = {"started_at": NOW - 60, "seen_at": NOW - 1, "clock_difference": 0.0}
    return Instance(**{**usual, "redis": "", "processes": 1, **times, **fields})


def describe(*instances: Instance, settings: Settings = WITH_KEYS) -> list[str]:
    found = find_conditions(KnownInstances(NOW, instances), settings)
    return [f"{one.check}: {one.state} | {one.problem.sign} {one.problem.text}" for one in found]


def test_several_servers_without_redis_do_not_share_limits_per_minute() -> None:
    assert describe(*map(new_instance, ("web-1", "web-2", "web-3"))) == [
        "instances: 3 without Redis: each counts limits per minute by itself | ✕ 3 instances share this database "
        "without Redis, so each of them counts limits per minute and requests in progress by itself: a key can use up "
        f"to 3 times its limit. {REMEDY}"
    ]


@pytest.mark.parametrize(
    "second",
    [
        {"started_at": NOW - COMPANY_SECONDS + 1},
        {"state": "stopping"},
        {"seen_at": NOW - EXPIRY_SECONDS},
    ],
    ids=["replaces another one", "completes its requests", "was killed"],
)
def test_a_server_that_shares_no_work_is_no_problem(second: dict[str, Any]) -> None:
    assert describe(new_instance("web-1"), new_instance("web-2", **second)) == []


def test_a_killed_server_is_forgotten_before_its_successor_counts() -> None:
    """It is killed directly after a heartbeat, and started again at once."""
    killed_at = NOW
    killed = new_instance("a", started_at=NOW - 1_000, seen_at=killed_at)
    for seconds in range(int(COMPANY_SECONDS) + 5):
        later = KnownInstances(NOW + seconds, [killed, new_instance("b", started_at=killed_at, seen_at=NOW + seconds)])
        assert not find_conditions(later, WITH_KEYS), seconds


def test_servers_with_the_same_redis_or_without_limits_are_no_problem() -> None:
    shared = [new_instance(name, redis="r1") for name in ("web-1", "web-2")]
    apart = [new_instance(name) for name in ("web-1", "web-2")]
    assert describe(*shared) == []
    assert describe(*shared, new_instance("web-3", redis=UNKNOWN_REDIS)) == []
    assert describe(*apart, settings=Settings()) == []
    limited = Settings(call_options={"openai": CallOptions(requests_per_minute=5)})
    assert len(describe(*apart, settings=limited)) == 1


def test_servers_with_different_redis_servers_are_named() -> None:
    found = describe(
        new_instance("web-1", redis="r1"),
        new_instance("web-2", redis="r2"),
        new_instance("web-3", redis="r1"),
        new_instance("web-4"),
        new_instance("web-5", redis=UNKNOWN_REDIS),
    )
    assert found == [
        "instances: 5 with separate limits and budgets | ✕ 5 instances do not count limits and budgets together. web-1 "
        "and web-3: one Redis server; web-2: another Redis server; web-4: no Redis server; web-5: a Redis server that "
        f"does not answer. {BOTH}"
    ]


def test_servers_of_one_host_are_named_with_their_ports() -> None:
    first = new_instance("a", name="web", address="http://[::]:8082", redis="r1")
    second = new_instance("b", name="web", address="http://[::]:8083")
    assert "web:8082: one Redis server; web:8083: no Redis server." in describe(first, second)[0]


def test_servers_with_one_host_and_port_are_named_with_their_ids() -> None:
    """Containers may all have the same host name and port."""
    ids = ("0f31c4aa9d2e7b10", "7be09c1155d3a2f4")
    first, second = (new_instance(id_, name="web", redis=f"r{id_}") for id_ in ids)
    text = "web:8082 (id 0f31c4aa): one Redis server; web:8082 (id 7be09c11): another Redis server."
    assert text in describe(first, second)[0]


def test_a_setting_of_servers_with_one_host_and_port_has_the_values_of_each() -> None:
    new, old = {"BIG_MODEL": "1"}, {"BIG_MODEL": "2"}
    known = KnownInstances(
        NOW,
        [
            new_instance("aaaaaaaa11", name="web", settings=new),
            new_instance("bbbbbbbb22", name="web", settings=old),
            new_instance("cccccccc33", name="web", settings=old),
            new_instance("dddddddd44", name="api", settings=new),
        ],
    )
    assert find_reach(known, "aaaaaaaa11", "BIG_MODEL") == Reach(
        writer="web:8082 (id aaaaaaaa)",
        same=["web:8082 (id aaaaaaaa)", "api"],
        others=["web:8082 (id bbbbbbbb)", "web:8082 (id cccccccc)"],
    )


@pytest.mark.parametrize(
    ("difference", "text"),
    [
        (25 * 3_600.0, "25.0 h ahead of"),
        (-3 * 86_400.0, "72.0 h behind"),
        (600.0, "10 min ahead of"),
        (-7.4, "7 s behind"),
    ],
)
def test_a_clock_that_differs_is_named(difference: float, text: str) -> None:
    wrong = new_instance("web-2", clock_difference=difference, started_at=NOW - 1)
    assert describe(new_instance("web-1", redis="r"), wrong, settings=Settings()) == [
        f"clock: 1 of 2 differ: {text} that of the database | ! The clock of web-2 is {text} that of the database. "
        "Correct it, for example with NTP. Sign-ins, logs and stored times follow it."
    ]


def test_a_clock_that_differs_by_few_seconds_is_right() -> None:
    assert (
        describe(
            new_instance("web-1", clock_difference=5.0),
            new_instance("web-2", clock_difference=-5.0),
            settings=Settings(),
        )
        == []
    )


class _Gateway(Struct):
    """What the watch uses of a server."""

    settings: Settings
    server: ServerFacts
    store: Store

    def describe_server(self) -> ServerFacts:
        return self.server


def watch(settings: Settings, name: str, worker: int = 0, **fields: Any) -> tuple[InstanceWatch, _Gateway]:
    gateway = _Gateway(settings, ServerFacts(id=name, worker_index=worker, worker_count=2), MemoryStore())
    watching: Any = InstanceWatch(settings, gateway, **fields)  # type: ignore[arg-type]  # a part of a gateway
    return watching, gateway


def read_rows(database: Settings) -> list[tuple[str, str, int]]:
    with closing(open_for_writing(database)) as connection:
        return sorted((one.id, one.state, one.processes) for one in list_instances(connection))


async def test_a_server_has_one_row_until_it_stops(database: Settings) -> None:
    (first, gateway), (worker, _), (second, _) = watch(database, "a"), watch(database, "a", 1), watch(database, "b")
    tasks = [asyncio.create_task(one.run()) for one in (first, worker, second)]
    await wait_for_async(lambda: read_rows(database), lambda rows: rows == [("a", "serving", 2), ("b", "serving", 2)])
    gateway.server = ServerFacts(id="a", worker_count=2, is_stopping=True)
    await wait_for_async(lambda: read_rows(database), lambda rows: ("a", "stopping", 2) in rows)
    for one, task in zip((worker, first), tasks[1::-1], strict=True):
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await one.close()
    assert read_rows(database) == [("b", "serving", 2)], "only the first worker deletes the row"
    tasks[2].cancel()
    await second.close()


async def test_all_workers_find_the_conditions_on_postgresql_only(database: Settings) -> None:
    settings = structs.replace(database, virtual_keys=True)
    watches = [watch(settings, name, worker)[0] for name, worker in (("a", 0), ("a", 1), ("b", 0))]
    tasks = [asyncio.create_task(one.run()) for one in watches]
    try:
        await wait_for_async(lambda: len(read_rows(database)) == 2)
        with closing(open_for_writing(database)) as connection, connection.transaction():
            connection.execute("UPDATE instances SET started_at = started_at - 60000000")
        if database.database_url is None:
            assert not any(one.list_conditions() for one in watches)
            assert not read_conditions(settings)
        else:
            for one in watches:
                (found,) = await wait_for_async(one.list_conditions)
                assert found.state == "2 without Redis: each counts limits per minute by itself"
            assert read_conditions(settings) == watches[0].list_conditions()
    finally:
        for task in tasks:
            task.cancel()
        for one in watches:
            await one.close()


async def test_a_wrong_clock_is_compared_with_that_of_the_database(database: Settings) -> None:
    late, _ = watch(database, "a", clock=lambda: time.time() + 90_000)
    task = asyncio.create_task(late.run())
    try:
        await wait_for_async(lambda: read_rows(database))
        if database.database_url is not None:
            (found,) = await wait_for_async(late.list_conditions)
            assert found.state == "1 of 1 differ: 25.0 h ahead of that of the database"
    finally:
        task.cancel()
        await late.close()


def test_the_duration_of_a_query_is_no_difference_of_clocks(database: Settings) -> None:
    """A slow answer of the database: nobody knows when it read its clock."""
    times = iter((time.time() - 50, time.time() + 70))
    with closing(open_for_writing(database)) as connection:
        assert read_time(connection, lambda: next(times))[1] == 0.0


def test_rows_that_ended_long_ago_are_deleted_and_damaged_ones_are_left_out(database: Settings) -> None:
    with closing(open_for_writing(database)) as connection:
        store_instance(connection, new_instance("old"), NOW)
        store_instance(connection, new_instance("damaged"), NOW + 700)
        connection.execute("UPDATE instances SET state = 'unknown' WHERE id = 'damaged'")
        store_instance(connection, new_instance("new"), NOW + 700)
        assert [one.id for one in list_instances(connection)] == ["new"]
        assert connection.query("SELECT id FROM instances ORDER BY id") == [("damaged",), ("new",)]
        for address in ("http://[::", "http://web:port", "http://web:99999"):
            store_instance(connection, new_instance(address, name="new", address=address), NOW + 700)
        assert [instance.id for instance in list_instances(connection)] == ["new"]


def test_a_command_finds_nothing_in_a_database_that_cannot_be_read(database: Settings) -> None:
    for settings in (database, Settings(), Settings(database_url=Secret("postgresql://127.0.0.1:1/none"))):
        assert not read_conditions(settings)
