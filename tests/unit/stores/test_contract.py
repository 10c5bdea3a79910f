"""Every store gives the same results: those of a plain model with a list of reservations."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from anthropic_proxy.console.keys.limits import KeyLimit, Scope, build_limits
from anthropic_proxy.console.keys.reservations import AT_REST_SECONDS, Reservations
from anthropic_proxy.console.ledger.costs import Amounts
from anthropic_proxy.engine.own_keys import OwnKeys
from anthropic_proxy.gateway.settings.key_rules import Budget, Rules
from anthropic_proxy.gateway.stores.memory import SLOT_COUNT
from anthropic_proxy.plugins import Limit, LimitKind, Reservation, Store
from tests.support.stores import Clock, NaiveStore, open_store, store_kinds
from tests.support.waiting import wait_for_async

RATE = Limit("key/a/requests", "rate", 1, 10, 60.0)
STREAMS = Limit("key/a/streams", "concurrency", 1, 2)
BUDGET = Limit("key/a/budget/2026-11", "amount", 30, 100, 3600.0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=store_kinds())
async def store(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[Store]:
    async with open_store(request.param, clock) as opened:
        yield opened


async def total(store: Store, limit: Limit) -> int:
    read = await store.reserve([Limit(limit.key, limit.kind, 0, limit.maximum, limit.seconds)])
    assert not read.is_held
    return limit.maximum - read.remaining[0]


async def test_values_are_kept_until_they_are_deleted(store: Store) -> None:
    assert await store.get("session/x") is None
    await store.put("session/x", "größer", 60.0)
    assert await store.get("session/x") == "größer"
    await store.put("session/x", "other", 60.0)
    assert await store.get("session/x") == "other"
    await store.delete("session/x")
    assert await store.get("session/x") is None
    assert [await store.increment("count", amount, 60.0) for amount in (1, 0.5, -2)] == [1.0, 1.5, -0.5]


async def test_all_who_store_a_missing_value_at_the_same_time_get_the_same_one(store: Store) -> None:
    stored = await asyncio.gather(*(store.put_if_absent("secret", str(number), 60.0) for number in range(8)))
    assert len({*stored}) == 1
    assert await store.get("secret") == stored[0] == await store.put_if_absent("secret", "later", 60.0)
    await store.put("secret", "other", 60.0)
    assert await store.put_if_absent("secret", "later", 60.0) == "other"


async def test_instances_that_start_at_the_same_time_have_the_same_keys(store: Store) -> None:
    instances = [OwnKeys() for _ in range(4)]
    await asyncio.gather(*(keys.open(store) for keys in instances))
    assert len({keys.derive("citations", "key_1") for keys in instances}) == 1


async def test_an_expired_value_is_missing_and_an_expired_number_starts_at_0(store: Store, clock: Clock) -> None:
    await store.put("session/x", "value", 0.05)
    await store.increment("count", 5, 0.05)
    await clock.pass_time(0.06)
    for key in ("session/x", "count"):  # Redis uses its own clock for values
        await wait_for_async(lambda key=key: store.get(key), lambda value: value is None)
    assert await store.increment("count", 1, 60.0) == 1.0
    assert await store.put_if_absent("session/x", "new", 60.0) == "new"


async def test_no_amount_counts_for_ever_after_the_clock_was_set_back(store: Store, clock: Clock) -> None:
    rate = structs.replace(RATE, maximum=100)
    await store.reserve([rate])
    await clock.pass_time(-20.0)
    early = [await store.reserve([rate]) for _ in range(3)]
    await store.settle(early[0], [2])
    for _ in range(13):
        await clock.pass_time(10.0)
        assert (await store.reserve([rate])).is_held
    assert await total(store, rate) == 7


async def test_a_deleted_or_expired_counter_starts_at_0(store: Store, clock: Clock) -> None:
    await store.settle(await store.reserve([BUDGET]), [30])
    await store.delete(BUDGET.key)
    assert await total(store, BUDGET) == 0
    await store.settle(await store.reserve([BUDGET]), [30])
    await clock.pass_time(3601.0)
    assert await total(store, BUDGET) == 0


async def test_large_amounts_are_exact(store: Store) -> None:
    limit = Limit("budget", "amount", 10**15 + 1, 4 * 10**15, 3600.0)
    await store.settle(await store.reserve([limit]), [10**15 + 3])
    assert (await store.reserve([limit])).remaining == [4 * 10**15 - (2 * 10**15 + 4)]


@pytest.mark.parametrize("unused", [RATE, BUDGET], ids=["rate", "budget"])
async def test_an_actual_amount_counts_where_nothing_was_reserved(store: Store, unused: Limit) -> None:
    """The price of the model was 0, and its reply has the call of another model."""
    limits = [structs.replace(limit, amount=0) if limit is unused else limit for limit in (RATE, STREAMS, BUDGET)]
    held = await store.reserve(limits)
    await store.renew([held])
    await store.settle(held, [3, 1, 7])
    assert [await total(store, limit) for limit in (RATE, STREAMS, BUDGET)] == [3, 0, 7]


@pytest.mark.parametrize(("kind", "left"), [("amount", 2**60 - 2**56), ("rate", 2**60 - 2**56), ("concurrency", 2**60)])
async def test_amounts_with_more_than_17_digits_are_settled(store: Store, kind: LimitKind, left: int) -> None:
    limit = Limit("large", kind, 2**57, 2**60, 3600.0)
    running, lost = await store.reserve([limit]), await store.reserve([limit])
    await store.renew([running])
    await store.settle(lost, [0])
    await store.settle(running, [2**56])
    assert (await store.reserve([structs.replace(limit, amount=0)])).remaining == [left]


async def test_a_renewal_that_comes_after_the_settlement_holds_nothing(store: Store) -> None:
    limits = [RATE, STREAMS, BUDGET]
    held = await store.reserve(limits)
    await store.settle(held, [1, 0, 7])
    await store.renew([held])
    assert [await total(store, limit) for limit in limits] == [1, 0, 7]


async def test_a_request_that_is_cancelled_while_it_reserves_holds_nothing(store: Store) -> None:
    reservations = Reservations(store, warn=print)
    limits = [KeyLimit(Scope("key", "a", "key/a", Rules()), limit, "concurrency") for limit in (STREAMS, BUDGET)]
    for pauses in range(4):
        running = asyncio.create_task(reservations.reserve(limits, {}, 0.0))
        for _ in range(pauses):
            await asyncio.sleep(0)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            reservations.settle(await running, [Amounts(0, 0)])
    await reservations.stop()
    assert [await total(store, limit) for limit in (STREAMS, BUDGET)] == [0, 0]


async def test_many_tasks_never_reserve_more_than_the_maximum(store: Store) -> None:
    limits = [Limit("rate", "rate", 1, 25, 600.0), Limit("streams", "concurrency", 1, 30)]
    done = await asyncio.gather(*(store.reserve(limits) for _ in range(100)))
    assert sum(each.is_held for each in done) == 25


LIMITS = (
    Limit("r", "rate", 1, 5, 10.0),
    Limit("t", "rate", 1, 40, 25.6),
    Limit("c", "concurrency", 1, 3),
    Limit("a", "amount", 1, 60, 90.0),
)
AMOUNTS = st.integers(0, 9)
LOWEST = st.sampled_from((0, 0, 0, 7, 25, 70))
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("reserve"),
            st.tuples(st.lists(AMOUNTS, min_size=4, max_size=4), LOWEST),
            st.sampled_from((8.0, 30.0)),
        ),
        st.tuples(st.just("settle"), st.integers(0, 50), st.lists(AMOUNTS, min_size=4, max_size=4)),
        st.tuples(st.just("renew"), st.integers(0, 50), st.none()),
        st.tuples(st.just("time"), st.sampled_from((0.01, 0.5, 3.0, 9.0, 26.0, 95.0)), st.none()),
        st.tuples(st.just("delete"), st.integers(0, 3), st.none()),
    ),
    max_size=40,
)


@pytest.mark.parametrize("kind", store_kinds())
@given(steps=STEPS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_store_gives_the_results_of_a_plain_model(kind: str, steps: Sequence[tuple[str, object, object]]) -> None:
    asyncio.run(compare_with_model(kind, steps))


async def compare_with_model(kind: str, steps: Sequence[tuple[str, object, object]]) -> None:
    clock = Clock()
    model = NaiveStore(clock, SLOT_COUNT)
    pairs: list[tuple[Reservation, Reservation]] = []
    async with open_store(kind, clock) as store:
        for step, first, second in steps:
            if step == "reserve":
                assert isinstance(first, tuple)
                assert isinstance(second, float)
                amounts, lowest = first
                limits = [structs.replace(each, amount=n) for each, n in zip(LIMITS, amounts, strict=True)]
                limits[3] = structs.replace(limits[3], at_least=lowest)
                got, expected = await store.reserve(limits, second), await model.reserve(limits, second)
                assert (got.refused, list(got.remaining)) == (expected.refused, list(expected.remaining))
                assert got.retry_after_seconds == pytest.approx(expected.retry_after_seconds, abs=1e-4)
                assert got.settled == expected.settled
                assert list(got.reset_seconds) == pytest.approx(list(expected.reset_seconds), abs=1e-4)
                pairs.append((got, expected))
            elif step == "time":
                assert isinstance(first, float)
                clock.now += first
            elif step == "delete":
                assert isinstance(first, int)
                await store.delete(LIMITS[first].key)
                await model.delete(LIMITS[first].key)
                if LIMITS[first].kind == "rate":  # a slot does not know which reservations have its amount
                    pairs = [pair for pair in pairs if not pair[0].limits[first].amount]
            elif pairs:
                assert isinstance(first, int)
                mine, other = pairs[first % len(pairs)]
                if step == "renew":
                    await store.renew([mine])
                    await model.renew([other])
                else:
                    assert isinstance(second, list)
                    await store.settle(mine, second)
                    await model.settle(other, second)


async def test_a_counter_is_raised_to_an_amount_once(store: Store) -> None:
    at_least = structs.replace(BUDGET, amount=0, at_least=40)
    first, second = await asyncio.gather(store.reserve([at_least]), store.reserve([at_least]))
    assert (first.settled, second.settled, first.is_held) == ([40], [40], False)
    await store.settle(await store.reserve([BUDGET]), [7])
    assert (await store.reserve([structs.replace(at_least, at_least=45)])).settled == [47]
    assert (await store.reserve([structs.replace(at_least, at_least=60)])).settled == [60]
    refused = await store.reserve([structs.replace(BUDGET, amount=50, at_least=61)])
    assert (refused.refused, refused.settled) == (0, [61])


async def test_an_amount_that_comes_late_is_not_added_to_a_counter_that_was_raised_meanwhile(
    store: Store, clock: Clock
) -> None:
    """Its server had no connection, and the ledger had the request."""
    unlimited = structs.replace(BUDGET, maximum=1_000)
    limits = [unlimited, structs.replace(unlimited, key="team/t/budget"), RATE, STREAMS]
    held = [await store.reserve(limits) for _ in range(2)]
    await clock.pass_time(10.0)
    await store.reserve([structs.replace(unlimited, amount=0, at_least=40)])
    await store.reserve([structs.replace(unlimited, amount=0, at_least=40)])
    await clock.pass_time(5.0)
    await store.settle(structs.replace(held[0], settled_seconds_ago=7.0), [9, 9, 1, 0])
    assert [await total(store, limit) for limit in limits] == [40 + 30, 9 + 30, 2, 1]
    await store.settle(structs.replace(held[1], settled_seconds_ago=3.0), [8, 8, 1, 0])
    assert [await total(store, limit) for limit in limits] == [40 + 8, 9 + 8, 2, 0]
    await clock.pass_time(-60.0)  # the clock was set back: what was raised seems to be in the future
    late = await store.reserve(limits)
    await store.settle(structs.replace(late, settled_seconds_ago=1.0), [7, 7, 1, 0])
    assert [await total(store, limit) for limit in limits[:2]] == [48 + 7, 17 + 7]


class Fleet:
    """Servers of one store and one ledger. Each row of the ledger is the use of a budget by a request."""

    def __init__(self, store: Store, servers: int, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._unsent = [list[tuple[float, int]]() for _ in range(servers)]
        """Time and use of each request of a server that has no connection to the store."""
        self._queues = [list[int]() for _ in range(servers)]
        """Rows that each server has not stored yet."""
        self._spool = list[int]()
        """Rows that wait in a file, from servers that were killed or had an earlier version."""
        self._ledger = list[int]()
        self.used = 0
        """Use by all requests."""
        scope = Scope("key", "a", "key/a", Rules(budgets=(Budget(10_000, "tokens", "total"),)))
        self._limits = build_limits([scope], [[Amounts(5, 0)]], 0.0)
        self._ticks = 0.0
        self._servers = [self._open() for _ in range(servers)]

    def _open(self) -> Reservations:
        async def read_used(limits: Sequence[KeyLimit], _: float) -> Sequence[int]:
            return [sum(self._ledger)] * len(limits)

        return Reservations(self._store, print, read_used=read_used, ticks=lambda: self._ticks)

    async def take(self, step: str, server: int, amount: int) -> None:
        reservations = self._servers[server]
        self._clock.now += 0.001
        match step:
            case "request":
                reservations.settle(await reservations.reserve(self._limits, {}, 0.0), [Amounts(amount, 0)])
                await reservations.stop()
                self._queues[server].append(amount)
                self.used += amount
            case "request without the store":
                self._unsent[server].append((self._clock.now, amount))
                self._queues[server].append(amount)
                self.used += amount
            case "connection":
                for ended_at, unsent in self._unsent[server]:
                    held = await self._store.reserve([structs.replace(self._limits[0].limit, maximum=1_000_000)])
                    late = structs.replace(held, settled_seconds_ago=self._clock.now - ended_at)
                    await self._store.settle(late, [unsent])
                self._unsent[server] = []
            case "request of an earlier version":
                self._spool.append(amount)
                self.used += amount
            case "kill":  # before the last request is settled
                await reservations.reserve(self._limits, {}, 0.0)
                self._spool += [*self._queues[server], amount]
                self._queues[server] = []
                self.used += amount
                self._servers[server] = self._open()
            case "store":
                self._ledger += self._queues[server]
                self._queues[server] = []
            case "store late":
                self._ledger += self._spool
                self._spool = []
                await self._compare(server)
            case "upgrade":
                await self.take("store", server, 0)
                self._servers[server] = self._open()
                await self._compare(server)
            case "loss":
                await self._store.delete(self._limits[0].limit.key)
                for each in self._servers:
                    each.forget_checks()

    async def _compare(self, server: int) -> None:
        self._servers[server].forget_checks()
        assert await self._servers[server].add_forgotten_use(self._limits, 0.0)

    async def count(self) -> tuple[int, int]:
        """Return the settled use of the budget, and that by the ledger."""
        read = await self._store.reserve([structs.replace(self._limits[0].limit, amount=0)])
        return read.settled[0], sum(self._ledger)

    async def store_all(self) -> None:
        """Store what waits in a file while batches of the servers wait, and then these. No request follows."""
        await self.take("store late", 0, 0)
        for server in range(len(self._servers)):
            await self.take("connection", server, 0)
            await self.take("store", server, 0)
        for _ in range(3):
            self._ticks += AT_REST_SECONDS
            for reservations in self._servers:
                await reservations.compare_again(0.0)


FLEET_STEPS = (
    *("request", "request of an earlier version", "request without the store", "connection", "kill"),
    *("store", "store late", "upgrade", "loss"),
)


@pytest.mark.parametrize("kind", store_kinds())
@given(steps=st.lists(st.tuples(st.sampled_from(FLEET_STEPS), st.integers(0, 2), st.integers(1, 9)), max_size=30))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_budget_has_the_use_of_the_ledger_once(kind: str, steps: Sequence[tuple[str, int, int]]) -> None:
    async def compare() -> None:
        clock = Clock()
        async with open_store(kind, clock) as store:
            fleet = Fleet(store, 3, clock)
            for step in steps:
                await fleet.take(*step)
                counted, _ = await fleet.count()
                assert counted <= fleet.used
            await fleet.store_all()
            assert await fleet.count() == (fleet.used, fleet.used)

    asyncio.run(compare())
