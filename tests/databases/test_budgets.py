"""Budgets of several servers on one PostgreSQL without Redis: exact, also after a killed process and an outage."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, closing, nullcontext
from decimal import Decimal
from pathlib import Path

import pytest
from msgspec import structs

from anthropic_proxy.console.ledger.database import find_spool_file, open_for_writing
from anthropic_proxy.console.ledger.database_store import DatabaseStore, open_database_store
from anthropic_proxy.console.ledger.instances import Instance, store_instance
from anthropic_proxy.console.ledger.records import StoredRequest
from anthropic_proxy.console.ledger.spool import Spool, SpooledBlock
from anthropic_proxy.console.units import to_microseconds
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.stores.memory import MemoryStore
from anthropic_proxy.plugins import Limit, Store, StoreUnavailable
from anthropic_proxy.secrets import Secret
from tests.support.clocks import set_clock
from tests.support.command_line import run_command
from tests.support.ledger import ADMIN, DATABASE_VARIABLE, list_server_settings
from tests.support.paths import ROOT
from tests.support.postgres import Postgres, find_programs, running_postgres
from tests.support.process_checks import MESSAGES, ask
from tests.support.server_process import Proxy, running_proxy
from tests.support.waiting import WAIT_SECONDS, wait_for, wait_for_async

pytestmark = pytest.mark.skipif(DATABASE_VARIABLE not in os.environ, reason="engine: PostgreSQL")

RATE = Limit("key/a/requests", "rate", 1, 100, 60.0)
BUDGET = Limit("key/a/budget", "amount", 10, 1_000, 3_600.0)
TEAM = Limit("team/t/budget", "amount", 10, 10_000, 3_600.0)


class Servers:
    """Stores of several servers, each with a memory of its own, and the warnings that they log."""

    def __init__(self, settings: Settings, stack: AsyncExitStack) -> None:
        self._settings = settings
        self._stack = stack
        self.warnings = list[str]()

    async def open(self, *, fails_open: bool = True) -> DatabaseStore:
        settings = structs.replace(self._settings, redis_failure="open" if fails_open else "closed")
        store = open_database_store(settings, MemoryStore(), self.warnings.append)
        self._stack.push_async_callback(store.close)
        await store.get("start")
        return store


@pytest.fixture
async def servers(database: Settings) -> AsyncIterator[Servers]:
    async with AsyncExitStack() as stack:
        yield Servers(database, stack)


async def used(store: Store, *limits: Limit) -> list[int]:
    read = await store.reserve([structs.replace(limit, amount=0) for limit in limits or (BUDGET,)])
    return [limit.maximum - left for limit, left in zip(limits or (BUDGET,), read.remaining, strict=True)]


LIMITS = (structs.replace(BUDGET, amount=7, maximum=7 * 430 + 6), structs.replace(TEAM, amount=3))


async def reserve_many(url: str) -> int:
    """Return the number of successful reservations of 200 concurrent tasks."""
    store = open_database_store(Settings(database_url=Secret(url)), MemoryStore(), print)
    done = await asyncio.gather(*(store.reserve(LIMITS) for _ in range(200)))
    await store.close()
    return sum(each.is_held for each in done)


def test_four_processes_never_reserve_more_than_a_budget(database: Settings) -> None:
    assert database.database_url is not None
    command = [sys.executable, "-m", "tests.databases.test_budgets", database.database_url.reveal()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = [subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(4)]
    counts = [int(process.communicate(timeout=WAIT_SECONDS)[0]) for process in running]
    assert sum(counts) == 430


async def test_the_amounts_of_a_killed_process_end_by_the_clock_of_the_database(
    database: Settings, servers: Servers
) -> None:
    killed, store = await servers.open(), await servers.open()
    await killed.reserve([RATE, BUDGET])
    assert await used(store) == [10]
    with closing(open_for_writing(database)) as connection, connection.transaction():
        connection.execute("UPDATE limit_holds SET ends_at = ends_at - 60000000")
    assert await used(store) == [0]


async def test_rates_are_those_of_each_server_and_refusals_reserve_no_budget(servers: Servers) -> None:
    first, second = await servers.open(), await servers.open()
    limits = [structs.replace(RATE, maximum=2), BUDGET]
    assert [(await first.reserve(limits)).is_held for _ in range(4)] == [True, True, False, False]
    assert [(await second.reserve(limits)).is_held for _ in range(3)] == [True, True, False]
    assert await used(second, *limits) == [2, 40]
    full = [RATE, structs.replace(BUDGET, amount=961)]
    refused = await first.reserve(full)
    assert (refused.is_held, refused.refused, refused.remaining, refused.settled) == (False, 1, [98, 960], [0, 0])
    assert await used(first, RATE) == [2]


class Uncountable(MemoryStore):
    """A store that must not be called."""

    async def reserve(self, limits: Sequence[Limit], lease_seconds: float = 0.0) -> None:  # type: ignore[override]
        raise AssertionError(limits)


async def test_a_request_without_a_budget_does_not_wait_for_the_database() -> None:
    store = DatabaseStore(MemoryStore(), Uncountable())
    held = await store.reserve([RATE, Limit("key/a/streams", "concurrency", 1, 4)])
    assert held.is_held
    await store.renew([held])
    await store.settle(held, [1, 0])


async def test_a_transaction_of_a_paused_process_ends(database: Settings, servers: Servers) -> None:
    """Its locks would hold up all requests with the budget."""
    store = await servers.open()
    await store.settle(await store.reserve([BUDGET]), [10])
    with closing(open_for_writing(database)) as paused:
        paused.query_together(
            [
                ("BEGIN", ()),
                ("SELECT set_config('idle_in_transaction_session_timeout', '1s', true)", ()),
                ("SELECT 1 FROM limit_counters FOR UPDATE", ()),
            ]
        )
        assert (await store.reserve([BUDGET])).is_held
    assert (servers.warnings, store.state.interruptions) == ([], 0)


async def test_a_connection_that_the_server_has_ended_is_opened_again_without_an_outage(
    database: Settings, servers: Servers
) -> None:
    store = await servers.open()
    await store.settle(await store.reserve([BUDGET]), [10])
    with closing(open_for_writing(database)) as connection:
        sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        connection.query(f"{sql} AND pid <> pg_backend_pid()")
    assert await used(store) == [10]
    assert (store.state.available, servers.warnings) == (True, [])
    await wait_for_async(lambda: store.state.interruptions == 1)  # budgets are compared with the ledger again


@pytest.fixture
def server() -> Iterator[Postgres]:
    programs = find_programs()
    assert programs is not None
    with running_postgres(programs) as running:
        yield running


def note_processes(settings: Settings, count: int) -> None:
    """Write the heartbeat of a server with some processes, which lasts for the test."""
    with closing(open_for_writing(settings)) as connection:
        ((now,),) = connection.query("SELECT extract(epoch FROM clock_timestamp())::float8")
        row = Instance(
            id="server",
            name="web",
            address="",
            version="1",
            state="serving",
            redis="",
            processes=count,
            clock_difference=0.0,
        )
        store_instance(connection, row, float(now) + 3_600)


@pytest.mark.parametrize("fails_open", [True, False])
async def test_an_outage_is_one_outage_and_keeps_the_use_of_all_servers(server: Postgres, *, fails_open: bool) -> None:
    settings = Settings(database_url=Secret(server.url))
    note_processes(settings, 2)
    async with AsyncExitStack() as stack:
        servers = Servers(settings, stack)
        stores = [await servers.open(fails_open=fails_open) for _ in range(2)]
        await wait_for_async(lambda: all(store.state.processes == 2 for store in stores))
        held = [await stores[0].reserve([BUDGET]) for _ in range(10)]
        await stores[1].settle(await stores[1].reserve([BUDGET]), [100])
        for store in stores:
            await used(store)
        await asyncio.to_thread(server.stop)
        for each in held:
            await stores[0].settle(each, [10])
        during = []
        for store in stores:
            with nullcontext() if fails_open else pytest.raises(StoreUnavailable):
                while (found := await store.reserve([BUDGET])).is_held:
                    during.append((store, found))
        assert len(during) == (80 if fails_open else 0), "each has a share of 400 of the 800 that are left"
        for store, found in during:
            await store.settle(found, [10])
        await asyncio.to_thread(server.start)
        await wait_for_async(lambda: all(store.state.available for store in stores))
        assert await used(stores[0]) == [100 + 100 + 10 * len(during)]
        assert [store.state.interruptions for store in stores] == [1, 1]
    warnings = [text.partition(": ")[0] for text in servers.warnings]
    assert len(warnings) == 4
    assert {text[:25] for text in warnings} == {"PostgreSQL at 127.0.0.1/p"}


def open_servers(stack: ExitStack, folder: Path, *settings: dict[str, str]) -> list[Proxy]:
    found = []
    for number, each in enumerate(settings):
        (place := folder / str(number)).mkdir(exist_ok=True)
        found.append(stack.enter_context(running_proxy(place, each)))
    return found


def test_a_wrong_clock_gives_no_budget_again(database: Settings, tmp_path: Path) -> None:
    shared = list_server_settings(database)
    budget = ("--budget", "300tokens/day")
    key = run_command("keys", "create", "ci", *budget, directory=tmp_path, settings=shared).stdout.strip()

    def send(proxy: Proxy) -> int:
        body = ask("hello", model="demo/demo", max_tokens=20)
        return proxy.client().post(MESSAGES, json=body, headers={"x-api-key": key}).status_code

    with ExitStack() as stack:
        right, wrong = open_servers(stack, tmp_path, shared, shared | set_clock(25 * 3_600))
        wait_for(lambda: send(right), lambda status: status == 429)
        assert send(wrong) == 429
        state = '"clock":"1 of 2 differ: 25.0 h ahead of that of the database"'
        for proxy in (wrong, right):  # each knows the other one after a heartbeat
            reply = wait_for(lambda proxy=proxy: proxy.client().get("/readyz"), lambda reply: state in reply.text)
            assert reply.status_code == 200
            wait_for(lambda proxy=proxy: "is 25.0 h ahead of that of the database. Correct it" in proxy.log)


def test_requests_of_earlier_servers_count_as_soon_as_they_are_stored(database: Settings, tmp_path: Path) -> None:
    """They wait in files of servers that were killed, or could not write the tables. No request follows."""
    shared = list_server_settings(database)
    key = ("keys", "create", "ci", "--budget", "1000tokens/day")
    run_command(*key, directory=tmp_path, settings=shared)

    def read_used(proxy: Proxy) -> list[float]:
        with proxy.client(headers={"x-api-key": ADMIN}) as client:
            (listed,) = client.get("/admin/keys").json()["data"]
            return [each["used"] for each in client.get(f"/admin/keys/{listed['id']}").json()["spending"]]

    with ExitStack() as stack:
        (running,) = open_servers(stack, tmp_path, shared)
        for number in range(1, 4):
            (place := tmp_path / f"earlier {number}").mkdir()
            data = place / "data"
            file = find_spool_file(structs.replace(database, data_directory=data / "anthropic-proxy"))
            assert file is not None
            row = StoredRequest(
                id=f"req_{number}", started_at=to_microseconds(time.time()), key_label="ci", input_tokens=100
            )
            assert Spool(file).append(SpooledBlock([row], {}))
            with running_proxy(place, shared | {"XDG_DATA_HOME": str(data)}) as later:
                for proxy in (later, running):
                    wait_for(lambda proxy=proxy: read_used(proxy), lambda used, number=number: used == [100 * number])


PRICE = Decimal("0.001")
"""Dollars for a token of the input and of the output, as in `PRICES`."""
PRICES = """
[prices."demo/*"]
input = 1000
output = 1000
cache_read = 1000
cache_write = 1000
"""
CLIENTS = 16


def test_four_servers_do_not_exceed_a_budget_in_dollars_by_more_than_running_requests(
    database: Settings, tmp_path: Path
) -> None:
    shared = list_server_settings(database)
    (tmp_path / "anthropic-proxy.toml").write_text(PRICES)
    key = run_command("keys", "create", "ci", "--budget", "20USD/day", directory=tmp_path, settings=shared).stdout

    with ExitStack() as stack:
        proxies = []
        for number in range(4):
            (folder := tmp_path / str(number)).mkdir()
            (folder / "anthropic-proxy.toml").write_text(PRICES)
            proxies.append(stack.enter_context(running_proxy(folder, shared)))
        body = ask("hello " * 50, model="demo/demo", max_tokens=100)

        def spend(number: int) -> tuple[Decimal, Decimal]:
            """Send requests until the budget is used up. Return the cost of all replies, and of the largest one."""
            total = largest = Decimal(0)
            with proxies[number % 4].client(headers={"x-api-key": key.strip()}) as client:
                while (reply := client.post(MESSAGES, json=body)).status_code == 200:
                    usage = reply.json()["usage"]
                    kinds = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
                    cost = PRICE * sum(usage.get(kind) or 0 for kind in kinds)
                    total, largest = total + cost, max(largest, cost)
                assert reply.status_code == 429, reply.text
            return total, largest

        with ThreadPoolExecutor(CLIENTS) as threads:
            costs = [*threads.map(spend, range(CLIENTS))]
        used, largest = sum(total for total, _ in costs), max(largest for _, largest in costs)
        assert Decimal(20) - CLIENTS * largest < used <= Decimal(20) + CLIENTS * largest


def test_a_session_of_the_dashboard_is_one_of_all_servers(database: Settings, tmp_path: Path) -> None:
    same_origin = {"sec-fetch-site": "same-origin"}
    with ExitStack() as stack:
        first, second = open_servers(stack, tmp_path, list_server_settings(database), list_server_settings(database))
        browser, other = first.client(), second.client()
        signed_in = browser.post("/dashboard/sign-in", data={"key": ADMIN, "next": ""}, headers=same_origin)
        assert signed_in.status_code == 303
        name, _, value = signed_in.headers["set-cookie"].partition(";")[0].partition("=")
        cookie = {"cookie": f"{name}={value}"}
        page = other.get("/dashboard", headers=cookie)
        assert page.status_code == 200
        token = page.text.partition('name="token" value="')[2].partition('"')[0]
        ended = other.post("/dashboard/sign-out", data={"token": token}, headers={**cookie, **same_origin})
        assert ended.status_code == 303
        for client in (browser, other):
            client.cookies.clear()
            assert client.get("/dashboard", headers=cookie).status_code == 303


if __name__ == "__main__":
    print(asyncio.run(reserve_many(sys.argv[1])))
