"""A connection that breaks after PostgreSQL has committed a call, so that the store does not know it and repeats it."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, closing
from typing import Any, TypeVar

import pytest
from msgspec import structs
from sqlalchemy import make_url

from anthropic_proxy.console.keys.limits import KeyLimit, Scope, build_limits
from anthropic_proxy.console.keys.reservations import HeldLimits, Reservations
from anthropic_proxy.console.ledger.costs import Amounts
from anthropic_proxy.console.ledger.database import open_for_writing
from anthropic_proxy.console.ledger.database_store import open_database_store
from anthropic_proxy.console.ledger.postgres_store import PostgresStore
from anthropic_proxy.errors import BudgetUsedUp
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.key_rules import Budget, Rules
from anthropic_proxy.gateway.stores.memory import MemoryStore
from anthropic_proxy.plugins import Client, Limit, Store
from anthropic_proxy.secrets import Secret
from tests.support.ledger import DATABASE_VARIABLE, new_receipt, read_hourly, read_rows, running_ledger
from tests.support.waiting import wait_for_async

pytestmark = pytest.mark.skipif(DATABASE_VARIABLE not in os.environ, reason="engine: PostgreSQL")

Result = TypeVar("Result")
BUDGET = Limit("key/a/budget", "amount", 10, 1_000, 3_600.0)
_COMMITTED = b"Z\x00\x00\x00\x05I"
"""Message `ReadyForQuery` outside of a transaction, at the end of a reply."""


class Relay:
    """A TCP relay in front of the server. It can close a connection in place of the reply after a commit, or all."""

    def __init__(self, host: str, port: int) -> None:
        self._server = host, port
        self.cut_statement: bytes | None = None
        """Part of a statement of the transaction whose reply is cut next. None: no one is."""
        self.is_cut = False
        """True: nothing passes. Existing connections end with the next reply."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(*self._server)

        sent = b""

        async def forward_requests() -> None:
            nonlocal sent
            while data := await reader.read(65_536):
                sent += data
                server_writer.write(data)
            server_writer.close()

        forwarding = asyncio.create_task(forward_requests())
        while not self.is_cut and (data := await server_reader.read(65_536)) and not self.is_cut:
            if data.endswith(_COMMITTED):
                if self.cut_statement is not None and self.cut_statement in sent:
                    self.cut_statement = None
                    break
                sent = b""
            writer.write(data)
        forwarding.cancel()
        server_writer.close()
        writer.close()


@asynccontextmanager
async def relaying(database: Settings) -> AsyncIterator[tuple[Relay, Settings]]:
    assert database.database_url is not None
    url = make_url(database.database_url.reveal())
    relay = Relay(url.host or "127.0.0.1", url.port or 5432)
    async with await asyncio.start_server(relay.serve, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        changed = url.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
        yield relay, structs.replace(database, database_url=Secret(changed))


async def used(store: Store) -> int:
    read = await store.reserve([structs.replace(BUDGET, amount=0)])
    return BUDGET.maximum - read.remaining[0]


async def test_a_call_that_is_repeated_after_its_commit_has_no_further_effect(database: Settings) -> None:
    async with relaying(database) as (relay, settings):
        store = PostgresStore(settings)
        await store.get("start")

        async def cut(call: Coroutine[Any, Any, Result]) -> Result:
            relay.cut_statement = b""
            result = await call
            assert relay.cut_statement is None, "the connection was cut"
            return result

        held = await cut(store.reserve([BUDGET]))
        assert (held.is_held, await used(store)) == (True, 10)
        await cut(store.renew([held]))
        assert await used(store) == 10
        await cut(store.settle(held, [7]))
        assert await used(store) == 7
        await cut(store.delete(BUDGET.key))
        assert await used(store) == 0
        await cut(store.put("value", "a", 60.0))
        assert await store.get("value") == "a"
        assert [await cut(store.increment("count", 1, 60.0)) for _ in range(3)] == [1, 2, 3]
        assert await store.increment("count", 1, 60.0) == 4
        await store.close()


async def test_what_is_sent_beside_a_reservation_counts_although_that_is_repeated(database: Settings) -> None:
    """The answer to the commit of both is lost. The reservation is made again, because the data may be lost."""
    async with relaying(database) as (relay, settings):
        warnings = list[str]()
        store = open_database_store(settings, MemoryStore(), warnings.append)
        rate = Limit("key/a/requests", "rate", 1, 100, 60.0)
        await store.get("start")
        held, running = await store.reserve([rate, BUDGET]), await store.reserve([rate, BUDGET])
        relay.cut_statement = b"limit_holds"
        again, _, _ = await asyncio.gather(
            store.reserve([rate, BUDGET]), store.settle(held, [1, 7]), store.renew([running])
        )
        assert relay.cut_statement is None, "the connection was cut"
        assert (await used(store), again.is_held) == (7 + 10 + 10, True)
        read = await store.reserve([structs.replace(rate, amount=0)])
        assert (read.remaining, store.state.available, warnings) == ([97], True, [])
        await store.close()


async def test_the_use_of_a_server_that_lacks_the_database_alone_counts_once(database: Settings) -> None:
    """Another one starts meanwhile, and finds it in the ledger."""

    async def read_used(limits: Sequence[KeyLimit], _: float) -> Sequence[int]:
        return [ledger] * len(limits)

    scope = Scope("key", "a", "key/a", Rules(budgets=(Budget(10_000, "tokens", "total"),)))
    limits = build_limits([scope], [[Amounts(10, 0)]], time.time())
    async with relaying(database) as (relay, settings):
        cut_store, store = (open_database_store(each, MemoryStore(), print) for each in (settings, database))
        cut, started = Reservations(cut_store, print), Reservations(store, print, read_used=read_used)
        running = [await cut.reserve(limits, {}, time.time()) for _ in range(6)]
        relay.is_cut = True

        async def settle(held: Sequence[HeldLimits], amount: int, pending: int) -> None:
            for each in held:
                cut.settle(each, [Amounts(amount, 0)])
            await wait_for_async(lambda: cut_store.state.pending_settlements, lambda count: count == pending)

        await settle(running[::2], 20, 3)
        ledger = 3 * 20
        await started.read_states(limits, {}, time.time())
        await settle(running[1::2], 30, 6)
        relay.is_cut = False
        await wait_for_async(lambda: cut_store.state.available)
        read = await store.reserve([structs.replace(limits[0].limit, amount=0)])
        assert (read.settled, read.remaining) == ([3 * 20 + 3 * 30], [10_000 - 150])
        await cut_store.close()
    await store.close()


async def test_requests_count_once_if_the_answer_to_their_commit_is_lost(database: Settings) -> None:
    rejected = {"outcome": "error", "error_type": "rate_limit_error", "status": 429, "provider": "", "model": ""}
    rejections = [new_receipt(number, client=Client("a"), **rejected) for number in range(10, 15)]
    async with relaying(database) as (relay, settings):
        with running_ledger(settings, batch_seconds=0.2) as ledger:
            await ledger.record(new_receipt(1))
            await asyncio.to_thread(ledger.wait_written, 1)
            relay.cut_statement = b"INSERT INTO requests"
            await ledger.record(new_receipt(2), *rejections)
            await asyncio.to_thread(ledger.wait_written, 7)
            assert relay.cut_statement is None, "the connection was cut"
            await asyncio.to_thread(ledger.stop)
    assert [row["key_label"] for row in read_rows(database)] == ["local", "local", "a"]
    assert sum(row["requests"] for row in read_hourly(database)) == 7


async def test_a_crash_that_loses_the_last_moments_admits_nothing_beyond_the_ledger(database: Settings) -> None:
    """The counters are written without a flush to the disk. Requests come before the next heartbeat."""

    async def read_used(limits: Sequence[KeyLimit], _: float) -> Sequence[int]:
        return [1_000] * len(limits)

    warnings = list[str]()
    store = open_database_store(database, MemoryStore(), warnings.append)
    reservations = Reservations(store, warnings.append, read_used=read_used)
    scope = Scope("key", "a", "key/a", Rules(budgets=(Budget(1_000, "tokens", "total"),)))
    limits = build_limits([scope], [[Amounts(10, 0)]], time.time())
    await store.get("start")
    with closing(open_for_writing(database)) as admin:
        for _ in range(2):
            results = await asyncio.gather(
                *(reservations.reserve(limits, {}, time.time()) for _ in range(20)), return_exceptions=True
            )
            assert {type(result) for result in results} == {BudgetUsedUp}
            admin.execute("DELETE FROM limit_counters")
            admin.query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
    assert warnings == []
    await store.close()
