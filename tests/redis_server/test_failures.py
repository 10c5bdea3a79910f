"""The store while Redis is stopped, slow, read-only, full or rejects the password: messages, limits and recovery."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, suppress

import msgspec
import pytest
from msgspec import structs

from anthropic_proxy.console.keys.limits import KeyLimit, Scope, build_limits
from anthropic_proxy.console.keys.reservations import HeldLimits, Reservations
from anthropic_proxy.console.ledger.costs import Amounts
from anthropic_proxy.errors import BudgetUsedUp, LimitReached
from anthropic_proxy.gateway.settings.key_rules import Budget, Rules
from anthropic_proxy.gateway.stores.fallback import FallbackStore
from anthropic_proxy.gateway.stores.redis import RedisStore
from anthropic_proxy.gateway.workers.instance_sharing import InstanceSharing
from anthropic_proxy.gateway.workers.ipc import SharedObservation
from anthropic_proxy.plugins import Limit, Store, StoreUnavailable
from tests.support.redis import RedisServer, find_redis, running_redis
from tests.support.server_process import hold_port
from tests.support.waiting import wait_for_async

pytestmark = pytest.mark.skipif(find_redis() is None, reason="engine: redis-server is not installed")

RATE = Limit("key/a/requests", "rate", 1, 100, 60.0)
STREAMS = Limit("key/a/streams", "concurrency", 1, 40)
BUDGET = Limit("key/a/budget", "amount", 10, 1000, 3600.0)
LIMITS = (RATE, STREAMS, BUDGET)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with running_redis() as running:
        yield running


class Instances:
    """Stores of several processes, and the warnings that they log."""

    def __init__(self, server: RedisServer, stack: AsyncExitStack) -> None:
        self.server, self.warnings = server, list[str]()
        self._stack = stack

    async def open(self, count: int, *, fails_open: bool = True, url: str = "") -> Sequence[FallbackStore]:
        """Open stores that know each other."""
        stores = []
        for _ in range(count):
            store = self.new_store(fails_open=fails_open, url=url)
            store.start()
            stores.append(store)
        if count > 1:
            await wait_for_async(lambda: all(store.state.processes == count for store in stores))
        return stores

    def new_store(self, *, fails_open: bool = True, url: str = "") -> FallbackStore:
        store = FallbackStore(
            RedisStore(url or self.server.url, "test"),
            fails_open=fails_open,
            address=f"127.0.0.1:{self.server.port}",
            warn=self.warnings.append,
        )
        self._stack.push_async_callback(store.close)
        return store

    @property
    def name(self) -> str:
        return f"Redis at 127.0.0.1:{self.server.port}"


class Relay:
    """A port that forwards connections to another one of this machine, so that a test interrupts single clients."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._holder = hold_port()
        self.delay_seconds = 0.0
        """Time for which each piece of data is delayed."""
        self.held_text = b""
        """Part of the data that are forwarded only after `released`. Empty: none are held."""
        self.is_holding, self.released = asyncio.Event(), asyncio.Event()
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def __aenter__(self) -> "Relay":
        self.port = self._holder.__enter__()
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        self._holder.__exit__(None, None, None)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def stop(self) -> None:
        """Refuse new connections and close the existing ones."""
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.close()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers += [writer, target_writer]
        await asyncio.gather(self._forward(reader, target_writer), self._forward(target_reader, writer))

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                await asyncio.sleep(self.delay_seconds)
                if self.held_text and self.held_text in data:
                    self.is_holding.set()
                    await self.released.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


@pytest.fixture
async def instances(server: RedisServer) -> AsyncIterator[Instances]:
    async with AsyncExitStack() as stack:
        yield Instances(server, stack)


async def used(store: Store) -> Sequence[int]:
    read = await store.reserve([Limit(each.key, each.kind, 0, each.maximum, each.seconds) for each in LIMITS])
    return [limit.maximum - left for limit, left in zip(LIMITS, read.remaining, strict=True)]


async def test_a_restart_without_data_keeps_the_use_of_the_interruption(instances: Instances) -> None:
    first, second = await instances.open(2)
    held = [await first.reserve(LIMITS) for _ in range(10)]
    for _ in range(4):
        await second.settle(await second.reserve(LIMITS), [1, 0, 7])
    assert await used(first) == [14, 10, 128]
    instances.server.kill()
    await first.settle(held.pop(), [1, 0, 3])
    during = [await first.reserve(LIMITS) for _ in range(60)]
    assert sum(each.is_held for each in during) == 15, "its share of 40 streams: 9 that run, and half of the other 30"
    assert not first.state.available
    instances.server.start()
    await used(second)  # it notices the interruption
    await wait_for_async(lambda: first.state.available and second.state.available)
    assert await used(second) == [15, 15, 153]
    await first.renew([*held, *during])
    assert await used(second) == [15, 24, 243]
    for each in (*held, *during):
        await first.settle(each, [1, 0, 1])
    assert await used(second) == [15, 0, 3 + 24]
    cause = f"Connect call failed ('127.0.0.1', {instances.server.port}). Start it, or correct REDIS_URL."
    effect = "Each process keeps its share (1 of 2) of the limits until Redis is available."
    assert f"{instances.name} cannot be reached: {cause} {effect}" in instances.warnings
    assert re.fullmatch(rf"{instances.name} is available again after \d+\.\d s\.", instances.warnings[-1])


async def test_a_settlement_after_a_loss_of_data_counts_once(instances: Instances) -> None:
    (store,) = await instances.open(1)
    held = await store.reserve(LIMITS)
    instances.server.command("FLUSHALL")
    for _ in range(2):
        await store.settle(held, [1, 0, 6])
    assert await used(store) == [0, 0, 6]


async def test_an_interruption_with_data_adds_its_amounts_once(instances: Instances) -> None:
    first, second = await instances.open(2)
    before = [await first.reserve(LIMITS) for _ in range(2)]
    instances.server.pause()
    during = await asyncio.gather(*(first.reserve([RATE, BUDGET]) for _ in range(10)))
    for settlement in (first.settle(before[0], [1, 0, 4]), first.settle(during[0], [0, 5])):
        with pytest.raises(StopIteration):  # only requests that ran at the failure wait for Redis
            settlement.send(None)
    assert first.state.pending_settlements == 12, "those without a reply are released"
    assert all(each.is_held for each in during)
    instances.server.resume()
    await wait_for_async(lambda: first.state.available)
    requests, streams, money = await used(second)
    amounts = 10 + 4 + 5 + 90
    assert streams == 1
    assert 11 <= requests <= 21
    assert money == amounts
    assert instances.warnings[0] == (
        f"{instances.name} did not answer within 1 s. Each process keeps its share (1 of 2) of the limits until Redis "
        "is available."
    )


async def test_the_shares_of_all_processes_are_what_was_last_known_to_be_left(instances: Instances) -> None:
    stores = await instances.open(2)
    limits = [Limit("key/b/requests", "rate", 1, 90, 60.0), Limit("key/b/budget", "amount", 10, 900, 3600.0)]

    async def count_admitted(store: Store) -> int:
        count = 0
        while (await store.reserve(limits)).is_held:
            count += 1
        return count

    for store, count in zip(stores, (30, 10), strict=True):
        for _ in range(count):
            await store.settle(await store.reserve(limits), [1, 10])
    for store in stores:
        await store.reserve([structs.replace(limit, amount=0) for limit in limits])
    instances.server.kill()
    assert [await count_admitted(store) for store in stores] == [25, 25]
    instances.server.start()
    await wait_for_async(lambda: all(store.state.available for store in stores))
    read = await stores[0].reserve([structs.replace(limit, amount=0) for limit in limits])
    assert [limit.maximum - left for limit, left in zip(limits, read.remaining, strict=True)] == [50, 500], "data lost"


@pytest.mark.parametrize(
    ("rules", "limit"),
    [
        (Rules(budgets=(Budget(40, "tokens", "day"),)), "a budget of 40 tokens per day"),
        (Rules(concurrency=4), "a limit of 4 requests in progress"),
        (Rules(requests_per_minute=4), "a limit of 4 requests per minute"),
    ],
)
async def test_a_share_without_room_is_no_limit_that_is_used_up(instances: Instances, rules: Rules, limit: str) -> None:
    store, other = await instances.open(2)
    noted = list[KeyLimit]()
    reservations = Reservations(store, instances.warnings.append, note_use=lambda key_limit, _: noted.append(key_limit))
    scope = Scope("key", "ci", "key/ci", rules)
    limits = build_limits([scope], [[Amounts(10, 0)]], time.time())

    async def refuse() -> LimitReached:
        try:
            while True:
                await reservations.reserve(limits, {}, time.time())
        except LimitReached as error:
            return error

    instances.server.kill()
    for _ in range(2):
        await reservations.reserve(limits, {}, time.time())
    error = await refuse()
    assert (error.message, error.retry_after, error.should_retry) == (
        f"The key 'ci' has {limit}. The Redis server of the proxy is unavailable, so each process has a share of it, "
        "and that of this process has no room. Try again in a moment.",
        2.0,
        None,
    )
    assert noted == []
    instances.server.start()
    await wait_for_async(lambda: store.state.available and other.state.available)
    error = await refuse()
    assert "share" not in error.message, error.message


@pytest.mark.parametrize("loses_data", [False, True])
async def test_rates_hold_while_processes_connect_again_one_after_the_other(
    instances: Instances, *, loses_data: bool
) -> None:
    rate, later = (Limit(f"key/{name}/requests", "rate", 1, 90, 60.0) for name in "bc")

    async def count_admitted(*stores: Store, limit: Limit) -> int:
        count = 0
        for store in stores:
            while (await store.reserve([limit])).is_held:
                count += 1
        return count

    async with Relay(instances.server.port) as relay:
        (near,) = await instances.open(1)
        (far,) = await instances.open(1, url=relay.url)
        await wait_for_async(lambda: near.state.processes == far.state.processes == 2)
        instances.server.pause()
        during = await asyncio.gather(near.reserve([rate]), far.reserve([rate]))
        await relay.stop()
        if loses_data:
            instances.server.kill()
            instances.server.start()
        else:
            instances.server.resume()
        admitted = sum(each.is_held for each in during)
        await wait_for_async(lambda: not near.state.pending_settlements)
        assert not near.state.available, "it waits for the other one"
        admitted += await count_admitted(near, far, limit=rate)
        relay.delay_seconds = 0.05  # so that the other one certainly connects later
        await relay.start()
        await wait_for_async(lambda: near.state.available)
        assert not far.state.available, "it connected later, and still keeps to its share"
        assert await count_admitted(near, far, limit=later) == 90
        await wait_for_async(lambda: far.state.available)
        admitted += await count_admitted(near, far, limit=rate)
    assert 86 <= admitted <= 90, "reservations without an answer count as used"


async def test_closed_rejects_requests_until_redis_is_available(instances: Instances) -> None:
    (store,) = await instances.open(1, fails_open=False)
    running = await store.reserve(LIMITS)
    instances.server.kill()
    for _ in range(2):
        with pytest.raises(StoreUnavailable) as refused:
            await store.reserve(LIMITS)
    assert (refused.value.status, refused.value.error_type, refused.value.retry_after) == (529, "overloaded_error", 2)
    assert refused.value.message == (
        "The proxy cannot check limits, because its Redis server is unavailable. Try again in a moment."
    )
    await store.settle(running, [1, 0, 6])
    assert instances.warnings[0].endswith(
        "Requests with limits are rejected (REDIS_FAILURE=closed) until Redis is available."
    )
    instances.server.start()
    await wait_for_async(lambda: store.state.available)
    assert await used(store) == [0, 0, 6], "the rate was lost with the data of the server"


@pytest.mark.parametrize(
    ("broken", "repaired", "message"),
    [
        (
            ("CONFIG", "SET", "maxmemory", "1"),
            ("CONFIG", "SET", "maxmemory", "0"),
            "has no memory left. Increase its setting maxmemory.",
        ),
        (
            ("REPLICAOF", "127.0.0.1", "1"),
            ("REPLICAOF", "NO", "ONE"),
            "is a read-only replica. Set REDIS_URL to the primary server.",
        ),
    ],
    ids=["memory", "replica"],
)
async def test_a_server_that_stores_nothing_is_named_and_used_again(
    instances: Instances, broken: Sequence[str], repaired: Sequence[str], message: str
) -> None:
    (store,) = await instances.open(1)
    assert (await store.reserve(LIMITS)).is_held
    instances.server.command(*broken)
    assert (await store.reserve(LIMITS)).is_held
    assert store.state.problem == f"{instances.name} {message}"
    instances.server.command(*repaired)
    await wait_for_async(lambda: store.state.available)
    assert await used(store) == [2, 2, 20]


async def test_wrong_data_of_one_limit_concern_no_other_limit_and_no_recovery(instances: Instances) -> None:
    (store,) = await instances.open(1)
    other = Limit("key/b/budget", "amount", 10, 1000, 3600.0)
    held, damaged = await store.reserve(LIMITS), await store.reserve([other])
    instances.server.command("SET", "{test}:counter:key/b/budget", "text")
    assert (await store.reserve([other])).is_held
    assert store.state.available
    instances.server.command("REPLICAOF", "127.0.0.1", "1")
    await store.settle(damaged, [4])
    await store.settle(held, [1, 0, 6])
    await store.settle(await store.reserve([other]), [3])
    assert not store.state.available
    instances.server.command("REPLICAOF", "NO", "ONE")
    await wait_for_async(lambda: store.state.available)
    assert await used(store) == [1, 0, 6]
    assert store.state.pending_settlements == 0
    assert instances.warnings[0] == (
        f"{instances.name} has wrong data for key/b/budget: WRONGTYPE Operation against a key holding the wrong kind "
        "of value. Delete the wrong data, or change REDIS_PREFIX. Until then, its amounts are dropped."
    )
    assert len(instances.warnings) == 3, "the failure and the recovery are the others"


async def test_wrong_data_of_the_heartbeat_are_named_and_limits_stay_in_use(instances: Instances) -> None:
    instances.server.command("SET", "{test}:processes:", "text")
    store = instances.new_store()
    store.start()
    await wait_for_async(lambda: bool(instances.warnings))
    assert (await store.reserve(LIMITS)).is_held
    assert store.state.available
    assert instances.warnings == [
        f"{instances.name} has wrong data for {{test}}:processes:: WRONGTYPE Operation against a key holding the wrong "
        "kind of value. Delete the wrong data, or change REDIS_PREFIX. Until then, processes do not count each other."
    ]


async def test_a_value_that_is_not_utf_8_is_a_value(instances: Instances) -> None:
    (store,) = await instances.open(1)
    await store.remote.client.set("{test}:value:a", b"\xff\xfe")
    assert await store.get("a") == "\ufffd\ufffd"
    assert (await store.reserve(LIMITS)).is_held
    assert instances.warnings == []


async def test_a_damaged_observation_does_not_hide_the_others(instances: Instances) -> None:
    (store,) = await instances.open(1)
    await store.remote.publish_observation("good", "{}", 60.0)
    for name, text in (("empty", b""), ("words", b"no time"), ("binary", b"\xff \xff")):
        await store.remote.client.hset("{test}:observations:", name, text)  # type: ignore[arg-type]
    assert [each.text for each in await store.remote.list_observations()] == ["{}"]


async def test_a_fact_that_is_sent_while_a_process_begins_to_receive_reaches_it(instances: Instances) -> None:
    fact = SharedObservation("key", "", "digest", "ann", 60.0)
    (early,) = await instances.open(1)
    received: list[SharedObservation] = []
    async with Relay(instances.server.port) as relay:
        relay.held_text = b"SUBSCRIBE"
        late = InstanceSharing(instances.new_store(url=relay.url), received.append)
        late.start()
        await relay.is_holding.wait()
        for _ in range(100):  # a process that does not wait for the reply reads the earlier facts meanwhile
            await early.get("none")
        await early.remote.publish_observation("name", msgspec.json.encode(fact).decode(), 60.0)
        relay.released.set()
        await wait_for_async(lambda: bool(received))
        await late.close()
    assert [(one.kind, one.name, one.value) for one in received] == [("key", "digest", "ann")]


async def test_wrong_data_of_one_limit_do_not_end_the_reservations_of_others(instances: Instances) -> None:
    (store,) = await instances.open(1)
    damaged, held = await store.reserve([structs.replace(STREAMS, key="key/b/streams")]), await store.reserve(LIMITS)
    instances.server.command("SET", "{test}:holds:key/b/streams", "text")

    async def find_lease_end() -> float:
        return float((await store.remote.client.zrange("{test}:holds:key/a/streams", 0, -1, withscores=True))[0][1])

    before = await find_lease_end()
    await store.renew([damaged, held])
    assert await find_lease_end() > before
    assert store.state.available
    (warning,) = instances.warnings
    assert warning.startswith(
        f"{instances.name} has wrong data for one of key/a/budget, key/a/requests, key/a/streams, key/b/streams: "
    )


async def test_many_reservations_are_renewed_over_a_slow_connection(instances: Instances) -> None:
    async with Relay(instances.server.port) as relay:
        (store,) = await instances.open(1, url=relay.url)
        held = await asyncio.gather(*(store.reserve([structs.replace(STREAMS, maximum=500)]) for _ in range(500)))
        relay.delay_seconds = 0.15
        await store.renew(held)
        relay.delay_seconds = 0.0
        assert (store.state.available, instances.warnings) == (True, [])
        await store.close()


async def test_a_wrong_password_is_named_without_the_password(instances: Instances) -> None:
    instances.server.command("CONFIG", "SET", "requirepass", "correct-password")
    url = instances.server.url.replace("//", "//:wrong-password@")
    (store,) = await instances.open(1, url=url)
    await wait_for_async(lambda: not store.state.available)
    assert store.state.problem == (
        f"{instances.name} rejects the user or password. Correct them in REDIS_URL: redis://user:password@host:6379/0."
    )
    assert "wrong-password" not in "".join(instances.warnings)
    (other,) = await instances.open(1, url=instances.server.url.replace("//", "//:correct-password@"))
    assert (await other.reserve(LIMITS)).is_held


@pytest.mark.parametrize("fails_open", [True, False])
async def test_rejected_commands_for_values_do_not_concern_limits(instances: Instances, fails_open: bool) -> None:
    (admin,) = await instances.open(1)
    rights = ("on", ">secret", "~*", "&*", "+@all", "-incrbyfloat")
    await admin.remote.client.execute_command("ACL", "SETUSER", "limited", *rights)
    url = instances.server.url.replace("redis://", "redis://limited:secret@")
    (store,) = await instances.open(1, fails_open=fails_open, url=url)
    for number in (1, 2):
        if fails_open:
            assert await store.increment("number", 1, 60.0) == number
        else:
            with pytest.raises(StoreUnavailable):
                await store.increment("number", 1, 60.0)
    assert (await store.reserve(LIMITS)).is_held
    assert (store.state.available, await used(admin)) == (True, [1, 1, 10])
    (warning,) = instances.warnings
    assert warning.startswith(f"{instances.name} rejects the user: ")
    effect = "each process keeps its own values" if fails_open else "such values are not stored"
    remedy = "Permit all commands for the keys, publish and subscribe."
    assert warning.endswith(f". {remedy} Until then, {effect}.")


async def test_values_that_are_read_at_the_same_time_are_one_message(server: RedisServer) -> None:
    store = RedisStore(server.url, "test")  # without the heartbeats of another one, which are messages too
    await store.put("route/latency/a", "1.5", 60.0)

    async def count_reads() -> int:
        return int((await store.client.info("stats"))["total_reads_processed"])

    keys = ["route/latency/a", *(f"route/latency/{number}" for number in range(20))]
    before, idle = await count_reads(), await count_reads()
    assert await asyncio.gather(*map(store.get, keys)) == ["1.5", *[None] * 20]
    assert await count_reads() - idle == idle - before + 1
    await store.close()


async def test_a_loss_of_data_raises_budgets_once_to_their_use_by_the_ledger(instances: Instances) -> None:
    async def read_used(limits: Sequence[KeyLimit], _: float) -> Sequence[int]:
        return [450] * len(limits)

    stores = await instances.open(2)
    scope = Scope("key", "a", "key/a", Rules(budgets=(Budget(1_000, "tokens", "total"),)))
    limits = build_limits([scope], [[Amounts(10, 0)]], time.time())
    all_ = [Reservations(store, instances.warnings.append, read_used=read_used) for store in stores]

    async def reserve() -> list[int]:
        held = await asyncio.gather(*(each.reserve(limits, {}, time.time()) for each in all_ * 3))
        return sorted(each.reservation.remaining[0] for each in held)

    running = Reservations(stores[0], instances.warnings.append)  # what runs is not in the ledger yet
    held = await running.reserve(limits, {}, time.time())
    assert (await reserve())[0] == 1_000 - 450 - 60 - 10
    running.settle(held, [Amounts(10, 0)])
    await running.stop()
    instances.server.kill()
    instances.server.start()
    await wait_for_async(lambda: all(store.state.interruptions and store.state.available for store in stores))
    assert (await reserve())[0] == 1_000 - 450 - 60
    await asyncio.gather(*(each.stop() for each in all_))


@pytest.mark.parametrize("fails_open", [True, False])
async def test_the_use_of_servers_that_are_cut_off_counts_once_although_another_one_finds_it_in_the_ledger(
    server: RedisServer, instances: Instances, *, fails_open: bool
) -> None:
    async def read_used(limits: Sequence[KeyLimit], _: float) -> Sequence[int]:
        return [ledger] * len(limits)

    scope = Scope("key", "a", "key/a", Rules(budgets=(Budget(10_000, "tokens", "total"),)))
    limits = build_limits([scope], [[Amounts(10, 0)]], time.time())
    async with Relay(server.port) as relay:
        stores = await instances.open(2, fails_open=fails_open, url=relay.url)
        near = [Reservations(store, instances.warnings.append) for store in stores]
        running = [await each.reserve(limits, {}, time.time()) for each in near for _ in range(6)]
        await relay.stop()
        for place, held in enumerate(running[::2]):
            near[place // 3].settle(held, [Amounts(20, 0)])
        await wait_for_async(lambda: sum(store.state.pending_settlements for store in stores) == 6)
        ledger = 6 * 20
        (store,) = await instances.open(1)
        started = Reservations(store, instances.warnings.append, read_used=read_used)
        await started.read_states(limits, {}, time.time())
        for place, held in enumerate(running[1::2]):
            near[place // 3].settle(held, [Amounts(30, 0)])
        await wait_for_async(lambda: sum(store.state.pending_settlements for store in stores) == 12)
        await relay.start()
        await wait_for_async(lambda: all(store.state.available for store in stores))
        read = await store.reserve([structs.replace(limits[0].limit, amount=0)])
    assert (read.settled, read.remaining) == ([6 * 20 + 6 * 30], [10_000 - 300])


LOSSES = ("a restart without data", "a restart with older data", "a deletion of all data")


@pytest.mark.parametrize("loss", LOSSES)
async def test_a_loss_of_data_admits_nothing_beyond_the_ledger(instances: Instances, loss: str) -> None:
    """Requests come before the next heartbeat."""

    async def read_used(limits: Sequence[KeyLimit], _: float) -> Sequence[int]:
        return [ledger] * len(limits)

    async def reserve() -> int:
        """Return the number of admitted requests."""
        results = await asyncio.gather(
            *(each.reserve(limits, {}, time.time()) for each in all_ * 20), return_exceptions=True
        )
        assert {type(result) for result in results} <= {HeldLimits, BudgetUsedUp}
        return sum(isinstance(result, HeldLimits) for result in results)

    ledger = 1_000 - 100
    server = instances.server
    stores = await instances.open(2)
    scope = Scope("key", "a", "key/a", Rules(budgets=(Budget(1_000, "tokens", "total"),)))
    limits = build_limits([scope], [[Amounts(10, 0)]], time.time())
    all_ = [Reservations(store, instances.warnings.append, read_used=read_used) for store in stores]
    held = await asyncio.gather(*(each.reserve(limits, {}, time.time()) for each in all_ * 5))
    if loss == "a restart with older data":
        server.command("SAVE")
    for each in held:
        all_[0].settle(each, [Amounts(10, 0)])
        all_[1].settle(each, [Amounts(10, 0)])
    await asyncio.gather(*(each.stop() for each in all_))
    ledger = 1_000
    assert await reserve() == 0
    if loss == "a deletion of all data":
        server.command("FLUSHALL")
    else:
        server.kill()
        server.start()
    assert await reserve() == 0
    assert instances.warnings == []


async def test_a_user_without_the_right_to_ask_for_the_start_uses_the_store(instances: Instances) -> None:
    instances.server.command("ACL", "SETUSER", "limited", "on", "nopass", "~*", "&*", "+@all", "-info")
    port = instances.server.port
    (store,) = await instances.open(1, url=f"redis://limited:x@127.0.0.1:{port}/0")
    await wait_for_async(lambda: store.state.group)
    assert (await store.reserve(LIMITS)).is_held
    instances.server.command("FLUSHALL")
    assert (await store.reserve(LIMITS)).is_held
    assert (store.state.interruptions, instances.warnings) == (1, [])
