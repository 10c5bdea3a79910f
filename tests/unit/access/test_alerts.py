"""A used share of a budget is reported once, whatever instances, restarts and the webhook do."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from datetime import datetime
from typing import Any, cast

import pytest
from msgspec import structs

from anthropic_proxy.console.keys.alerts import LEASE_SECONDS, MAX_ATTEMPTS, BudgetAlerts, claim_alert
from anthropic_proxy.console.keys.limits import Scope, build_limits
from anthropic_proxy.console.keys.reservations import HeldLimits, Reservations
from anthropic_proxy.console.ledger.costs import Amounts
from anthropic_proxy.console.ledger.database import open_for_writing
from anthropic_proxy.console.ledger.webhook import POLL_SECONDS
from anthropic_proxy.errors import UpstreamTimeout, UpstreamUnreachable
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.fields import AlertSettings
from anthropic_proxy.gateway.settings.key_rules import Budget, Period, Rules
from anthropic_proxy.gateway.stores.memory import MemoryStore
from anthropic_proxy.plugins import Gateway, HttpReply, StoreState
from anthropic_proxy.secrets import Secret
from tests.support.ledger import NOON
from tests.support.waiting import wait_for_async

KEY = b"0123456789abcdef0123456789abcdef"
WEBHOOK = AlertSettings(
    url=Secret("https://hooks.example.com/services/T0/secret-path"),
    secrets=[Secret(f"whsec_{base64.b64encode(KEY).decode()}")],
    thresholds=(80, 100),
)
DAY = Budget(100, "tokens", "day")


class Store(MemoryStore):
    is_lost = False

    @property
    def state(self) -> StoreState:
        return structs.replace(super().state, available=not self.is_lost)


class World:
    """Instances that share a database and a store of limits, and a webhook."""

    def __init__(self, database: Settings, alerts: AlertSettings | None = WEBHOOK) -> None:
        open_for_writing(database).close()
        self.settings = structs.replace(database, alerts=alerts)
        self.now = NOON
        self.store = Store(clock=lambda: self.now)
        self.log: list[str] = []
        self.received: list[tuple[Mapping[str, str], bytes]] = []
        self.scopes: dict[str, Scope] = {}
        self.answer: Callable[[], int] = lambda: 200
        self.retry_after: float | None = None

    def log_warning_each_time(self, text: str) -> None:
        self.log.append(text)

    async def send_http(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, *, max_bytes: int, purpose: str
    ) -> HttpReply:
        assert (method, url, purpose) == ("POST", WEBHOOK.url.reveal(), "alert")
        self.received.append((headers, body))
        return HttpReply(status=self.answer(), body=b"\xff<garbage>" * 9, retry_after=self.retry_after)

    def start(self) -> "Instance":
        return Instance(self)

    @property
    def texts(self) -> list[str]:
        return [json.loads(body)["text"] for _, body in self.received]


class Instance:
    def __init__(self, world: World) -> None:
        self.world = world
        self.alerts = BudgetAlerts(cast("Gateway", world), lambda: [*world.scopes.values()], lambda: world.now)
        self.reservations = Reservations(world.store, world.log.append, note_use=self.alerts.note)

    async def work(self) -> float:
        """Return the time until the next report may be due."""
        await self.alerts.compare()
        return await self.alerts.send_due()

    async def begin(self, amount: int, budget: Budget = DAY, name: str = "web") -> HeldLimits:
        self.world.scopes[name] = scope = Scope("team", name, f"team/{name}", Rules(budgets=(budget,)))
        limits = build_limits([scope], [[Amounts(amount, 0)]], self.world.now)
        return await self.reservations.reserve(limits, {}, self.world.now)

    async def end(self, held: HeldLimits, amount: int) -> None:
        self.reservations.settle(held, [Amounts(amount, 0)])
        await self.reservations.stop()

    async def use(self, amount: int, budget: Budget = DAY) -> None:
        await self.end(await self.begin(amount, budget), amount)


FIRST = (
    "The team 'web' has used 80 % of its budget: 85 tokens of 100 tokens per day. It is renewed at "
    "2026-11-22T00:00:00Z."
)
SECOND = (
    "The team 'web' has used 100 % of its budget: 100 tokens of 100 tokens per day. It is renewed at "
    "2026-11-22T00:00:00Z. Requests are refused until then."
)


async def test_each_share_is_reported_once_by_all_instances_and_after_a_restart(database: Settings) -> None:
    world = World(database)
    instances = [world.start() for _ in range(4)]
    for each in instances:
        await each.use(20)
    await asyncio.gather(*(each.work() for each in instances))
    assert world.log == [FIRST.replace("85", "80")]
    assert world.texts == [FIRST.replace("85", "80")]
    for each in instances:
        await each.use(5)
    await asyncio.gather(*(each.work() for each in instances))
    restarted = world.start()
    held = await restarted.begin(0)
    await restarted.work()
    assert world.log == [FIRST.replace("85", "80"), SECOND]
    assert world.texts == world.log
    assert len({headers["webhook-id"] for headers, _ in world.received}) == 2
    await restarted.end(held, 0)


async def test_a_report_is_signed_and_has_the_fields_of_the_budget(database: Settings) -> None:
    world = World(database)
    instance, budget = world.start(), Budget(2, "usd", "month", soft=True, models="claude-opus-*")
    world.scopes["ci"] = scope = Scope("key", "ci", "key/key_1", Rules(budgets=(budget,)))
    amounts = Amounts(0, 1_700_000_000, "anthropic/claude-opus-5")
    held = await instance.reservations.reserve(build_limits([scope], [[amounts]], world.now), {}, world.now)
    instance.reservations.settle(held, [amounts])
    await instance.reservations.stop()
    await instance.work()
    ((headers, body),) = world.received
    sent = json.loads(body)
    assert sent == {
        "text": "The key 'ci' has used 80 % of its budget: $1.70 of $2.00 per month for claude-opus-* (soft). It is "
        "renewed at 2026-12-01T00:00:00Z.",
        "id": headers["webhook-id"],
        "type": "budget.threshold",
        "timestamp": "2026-11-21T12:00:00Z",
        "scope": "key",
        "name": "ci",
        "threshold": 80,
        "renewed_at": "2026-12-01T00:00:00Z",
        "unit": "usd",
        "period": "month",
        "models": "claude-opus-*",
        "soft": True,
        "amount": 2,
        "used": 1.7,
    }
    signed = f"{headers['webhook-id']}.{round(NOON)}.".encode() + body
    assert headers == {
        "content-type": "application/json",
        "user-agent": "anthropic-proxy",
        "webhook-id": sent["id"],
        "webhook-timestamp": str(round(NOON)),
        "webhook-signature": f"v1,{base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()}",
    }


async def test_reserved_amounts_are_reported_only_when_they_are_used(database: Settings) -> None:
    world = World(database)
    instance = world.start()
    held, other = await instance.begin(50), await instance.begin(50)
    await instance.work()
    await instance.end(held, 40)
    await instance.work()
    assert world.log == []
    await instance.end(other, 45)  # no later request notes the budget
    await instance.work()
    assert (world.log, world.texts) == ([FIRST], [FIRST])
    await instance.work()
    assert world.log == [FIRST]


def _fail(error: Exception) -> Callable[[], int]:
    def answer() -> int:
        raise error

    return answer


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda: 500, "status 500"),
        (lambda: 302, "status 302"),
        (lambda: 404, "status 404"),
        (
            _fail(UpstreamTimeout("hooks.example.com did not answer within 10 s")),
            "hooks.example.com did not answer within 10 s",
        ),
        (_fail(UpstreamUnreachable("no route")), "no route"),
    ],
    ids=["500", "302", "404", "timeout", "unreachable"],
)
async def test_a_report_that_is_not_accepted_is_sent_again_after_longer_pauses(
    database: Settings, answer: Callable[[], int], reason: str
) -> None:
    world = World(database)
    instances = [world.start(), world.start()]
    world.answer = answer
    await instances[0].use(85)
    pauses, last = [], world.now
    for number in range(MAX_ATTEMPTS + 5):
        before = len(world.received)
        await instances[number % 2].work()
        if len(world.received) > before:
            pauses.append(world.now - last)
            last = world.now
        world.now += 3_600 if number > 9 else 5 * 2**number
    assert pauses == [0, 5, 10, 20, 40, 80, 160, 320, 640, 1_280, 2_560, 3_600]
    failed = f"The webhook of [alerts], hooks.example.com, has not accepted a report about a budget: {reason}."
    assert world.log == [FIRST, f"{failed} It is sent again, first in 5 s.", f"{failed} It is not sent again."]
    assert len({headers["webhook-id"] for headers, _ in world.received}) == 1


async def test_a_webhook_that_names_a_pause_gets_no_report_before_its_end(database: Settings) -> None:
    world = World(database)
    instance = world.start()
    world.answer, world.retry_after = lambda: 429, 40.0
    await instance.use(85)
    await instance.work()
    world.now += 39
    await instance.work()
    assert len(world.received) == 1
    world.now += 1
    await instance.work()
    assert len(world.received) == 2


async def test_a_report_of_a_process_that_was_killed_is_sent_by_another_one(database: Settings) -> None:
    world = World(database)
    killed, other = world.start(), world.start()
    world.answer = _fail(KeyboardInterrupt())
    await killed.use(85)
    with pytest.raises(KeyboardInterrupt):
        await killed.work()
    world.answer = lambda: 200
    await other.work()
    assert len(world.received) == 1
    world.now += LEASE_SECONDS
    await other.work()
    assert world.texts == [FIRST, FIRST]
    with closing(open_for_writing(database)) as connection:
        assert claim_alert(connection, world.now + 1_000_000) is None


async def test_a_database_that_fails_delays_a_report_only(database: Settings) -> None:
    world = World(database)
    instance = world.start()
    working, world.settings = world.settings, Settings(database_url=Secret("sqlite:////proc/no/such.sqlite3"))
    await instance.use(85)
    with pytest.raises(OSError, match="No such file"):
        await instance.work()
    world.settings = working
    await instance.work()
    assert world.log == [FIRST]


async def use_while_the_database_fails(world: World, instance: Instance, budget: Budget, end: float) -> None:
    working, world.settings = world.settings, Settings(database_url=Secret("sqlite:////proc/no/such.sqlite3"))
    await instance.use(85, budget)
    with pytest.raises(OSError, match="No such file"):
        await instance.work()
    world.now, world.settings = end, working


async def end_a_request_after_the_period(world: World, instance: Instance, budget: Budget, end: float) -> None:
    held, other = await instance.begin(50, budget), await instance.begin(50, budget)
    await instance.end(held, 40)
    await instance.work()
    world.now = end
    await instance.end(other, 45)


async def lose_the_store_over_the_end(world: World, instance: Instance, budget: Budget, end: float) -> None:
    await instance.use(85, budget)
    world.store.is_lost = True
    await instance.work()
    world.now, world.store.is_lost = end, False


async def send_to_a_failing_webhook(world: World, instance: Instance, budget: Budget, end: float) -> None:
    world.answer = lambda: 500
    await instance.use(85, budget)
    await instance.work()
    assert "has used 80 % of its budget: 85 tokens of 100 tokens" in world.log[0]
    world.now, world.answer = end, lambda: 200
    world.log.clear()
    world.received.clear()


@pytest.mark.parametrize(
    ("period", "end", "following"),
    [
        ("day", "2026-11-22T00:00:00Z", "2026-11-23T00:00:00Z"),
        ("week", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"),
        ("month", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
    ],
)
@pytest.mark.parametrize(
    "exceed",
    [
        use_while_the_database_fails,
        end_a_request_after_the_period,
        lose_the_store_over_the_end,
        send_to_a_failing_webhook,
    ],
)
async def test_a_budget_that_has_been_renewed_is_not_reported(
    database: Settings,
    exceed: Callable[[World, Instance, Budget, float], Awaitable[None]],
    period: Period,
    end: str,
    following: str,
) -> None:
    world, budget = World(database), Budget(100, "tokens", period)
    instance, other = world.start(), world.start()
    await exceed(world, instance, budget, datetime.fromisoformat(end).timestamp())
    for each in (instance, other):
        assert await each.work() == POLL_SECONDS, "nothing is due"
    assert (world.log, world.texts) == ([], [])
    await instance.use(85, budget)
    await instance.work()
    assert world.log == world.texts
    assert world.texts == [
        f"The team 'web' has used 80 % of its budget: 85 tokens of 100 tokens per {period}. It is renewed at "
        f"{following}."
    ]


async def test_other_amounts_and_periods_have_reports_of_their_own(database: Settings) -> None:
    world = World(database, alerts=structs.replace(WEBHOOK, thresholds=(50,), secrets=()))
    instance = world.start()
    await instance.use(85)
    await instance.work()
    await instance.use(0, Budget(170, "tokens", "day"))
    await instance.work()
    world.now += 86_400
    await instance.use(50)
    await instance.work()
    assert [
        (sent["used"], sent["amount"], sent["renewed_at"]) for _, body in world.received if (sent := json.loads(body))
    ] == [
        (85, 100, "2026-11-22T00:00:00Z"),
        (85, 170, "2026-11-22T00:00:00Z"),
        (50, 100, "2026-11-23T00:00:00Z"),
    ]
    assert all("webhook-signature" not in headers for headers, _ in world.received)


async def test_without_a_webhook_the_log_has_the_reports(database: Settings) -> None:
    world = World(database, alerts=None)
    instance = world.start()
    await instance.use(150, Budget(100, "tokens", "total", soft=True))
    assert await instance.work() == POLL_SECONDS
    start = "The team 'web' has used"
    end = "of its budget: 150 tokens of 100 tokens in total (soft). It is not renewed."
    assert world.log == [f"{start} 80 % {end}", f"{start} 100 % {end}"]
    world.settings = structs.replace(world.settings, alerts=WEBHOOK)
    await instance.work()
    assert world.received == []


async def test_a_name_is_no_markup_in_a_report(database: Settings) -> None:
    world = World(database)
    instance = world.start()
    held = await instance.begin(85, name="<!channel> & web")
    await instance.end(held, 85)
    await instance.work()
    sent = json.loads(world.received[0][1])
    assert sent["name"] == "<!channel> & web"
    assert sent["text"].startswith("The team '&lt;!channel&gt; &amp; web' has used 80 % of its budget: ")
    assert world.log[0].startswith("The team '<!channel> & web' has used 80 % of its budget: ")


async def test_a_webhook_that_does_not_answer_delays_no_other_report(database: Settings) -> None:
    world, asked = World(database), asyncio.Queue[str]()
    instance = world.start()

    async def never(method: str, url: str, headers: Any, body: bytes, **_: Any) -> HttpReply:
        asked.put_nowait(json.loads(body)["name"])
        await asyncio.Event().wait()
        raise AssertionError

    world.send_http = never  # type: ignore[method-assign]
    instance.alerts.start()
    await instance.end(await instance.begin(85, name="a"), 85)
    assert await asked.get() == "a"
    await instance.end(await instance.begin(85, name="b"), 85)
    await wait_for_async(lambda: list(world.log), lambda log: len(log) == 2)
    assert [text.partition(" has ")[0] for text in world.log] == ["The team 'a'", "The team 'b'"]
    await instance.alerts.stop()


async def test_a_new_report_comes_before_those_that_were_not_accepted(database: Settings) -> None:
    world = World(database)
    instance = world.start()
    world.answer = lambda: 500
    for name in "ab":
        await instance.end(await instance.begin(85, name=name), 85)
    names = []
    for _ in range(4):
        pause = await instance.work()
        names = [json.loads(body)["name"] for _, body in world.received]
        assert await instance.alerts.send_due() == pause, "no further report before the pause ends"
        world.now += pause
        if len(names) == 3:
            await instance.end(await instance.begin(85, name="new"), 85)
    assert names == ["a", "b", "a", "new"]


async def test_a_budget_that_a_request_passes_without_a_reservation_is_reported(database: Settings) -> None:
    world = World(database)
    instance = world.start()
    await instance.end(await instance.begin(10), 85)
    await instance.work()
    assert world.log == [FIRST]


async def test_a_report_does_not_delay_a_request_or_the_stop(database: Settings) -> None:
    world, asked = World(database), asyncio.Event()
    instance = world.start()

    async def never(*_: Any, **__: Any) -> HttpReply:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    world.send_http = never  # type: ignore[method-assign]
    instance.alerts.start()
    await instance.use(85)
    await asked.wait()
    await instance.use(10)
    await instance.alerts.stop()
    restarted = world.start()
    world.now += LEASE_SECONDS
    del world.send_http  # type: ignore[attr-defined]
    await restarted.work()
    assert world.texts == [FIRST]
