"""Each limit of a key or a team admits requests up to its maximum, and rejects the next one with reason and remedy."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.console.keys import key_table
from anthropic_proxy.console.keys.limits import KeyLimit, Scope, build_limits, find_actual_amounts
from anthropic_proxy.console.keys.reservations import HeldLimits, Reservations
from anthropic_proxy.console.ledger.costs import Amounts
from anthropic_proxy.errors import BudgetUsedUp, LimitReached, ProxyError
from anthropic_proxy.gateway.prices.price_list import PRICE_SOURCE
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.key_rules import Budget, Rules
from anthropic_proxy.gateway.stores.memory import SETTLED_SECONDS, MemoryStore
from anthropic_proxy.plugins import AdmissionTarget, Limit, Reservation, StoreState, StoreUnavailable, UpstreamAttempt
from tests.support.ledger import NOON
from tests.support.virtual_keys import Admitted, Keys, change_key, change_team, revoke_key

PRICED = {"targets": [AdmissionTarget(prefix="openai", model="gpt-4.1-mini", max_output_tokens=1_000)]}
UNKNOWN = {"targets": [AdmissionTarget(prefix="openai", model="no-such-model", max_output_tokens=1_000)]}
FREE = {"targets": [AdmissionTarget(prefix="ollama", model="qwen3", max_output_tokens=1_000)]}


async def test_requests_per_minute_and_their_headers(keys: Keys) -> None:
    key = await keys.create("ci")
    assert (await keys.admit(key)).settle is None
    await keys.change_rules("ci", requests_per_minute=2)
    assert (await keys.admit(key)).headers == {
        "anthropic-ratelimit-requests-limit": "2",
        "anthropic-ratelimit-requests-remaining": "1",
        "anthropic-ratelimit-requests-reset": "2026-11-21T12:01:00Z",
    }
    await keys.admit(key)
    keys.now += 20
    error = await keys.refuse(key, 429)
    assert error.message == (
        "The key 'ci' has reached its limit of 2 requests per minute. Try again in 41 s. Another limit:  "
        "anthropic-proxy keys change ci --rpm N"
    )
    assert (error.error_type, error.should_retry) == ("rate_limit_error", None)
    assert error.retry_after is not None
    assert 40 < error.retry_after <= 41
    keys.now += 41
    await keys.admit(key)


async def test_tokens_per_minute_are_reserved_and_corrected(keys: Keys) -> None:
    key = await keys.create("ci", rules=Rules(tokens_per_minute=3_000))
    first = await keys.admit(key, estimate_input_tokens=lambda: 1_000)
    assert first.headers["anthropic-ratelimit-tokens-remaining"] == "1000"
    assert (await keys.refuse(key, 429, estimate_input_tokens=lambda: 1_000)).message == (
        "The key 'ci' has reached its limit of 3,000 tokens per minute. Try again in 61 s. Another limit:  "
        "anthropic-proxy keys change ci --tpm N"
    )
    await keys.finish(first, input_tokens=10, cache_read_tokens=900, cache_write_tokens=90, output_tokens=100)
    second = await keys.admit(key, estimate_input_tokens=lambda: 1_000)
    assert second.headers["anthropic-ratelimit-tokens-remaining"] == "800"
    keys.now += 70
    alone = await keys.admit(key, estimate_input_tokens=lambda: 50_000)
    assert alone.headers["anthropic-ratelimit-tokens-remaining"] == "0"


async def test_concurrency_is_released_at_the_end_of_a_request_or_of_its_lease(keys: Keys) -> None:
    key = await keys.create("ci", rules=Rules(concurrency=1))
    first = await keys.admit(key)
    assert (await keys.refuse(key, 429)).message == (
        "The key 'ci' has 1 request in progress, which is its limit. Try again when one ends. Another limit:  "
        "anthropic-proxy keys change ci --concurrency N"
    )
    await keys.finish(first, outcome="cancelled")
    await keys.admit(key)  # its process is killed
    keys.now += 61
    await keys.admit(key)


async def test_a_check_of_a_tool_call_is_no_further_request_of_its_key_but_its_tokens_count(keys: Keys) -> None:
    rules = Rules(concurrency=1, requests_per_minute=1, tokens_per_minute=3_000, models=("openai/gpt-5*",))
    key = await keys.create("ci", rules=rules)
    allowed = [AdmissionTarget(prefix="openai", model="gpt-5.6-sol", max_output_tokens=100)]
    main = await keys.admit(key, model="openai/gpt-5.6-sol", targets=allowed, estimate_input_tokens=lambda: 900)
    assert main.headers["anthropic-ratelimit-tokens-remaining"] == "2000"
    asked: dict[str, Any] = {"purpose": "auto_mode_check", "parent": "req_1", "estimate_input_tokens": lambda: 900}
    check = await keys.admit(key, targets=allowed, **asked)
    assert check.headers["anthropic-ratelimit-tokens-remaining"] == "1000"
    assert (await keys.refuse(key, 403, **asked, **PRICED)).code == "key-models"
    await keys.admit(key, targets=allowed, **asked)
    assert (await keys.refuse(key, 429, targets=allowed, **asked)).message == (
        "The key 'ci' has reached its limit of 3,000 tokens per minute. Try again in 61 s. Another limit:  "
        "anthropic-proxy keys change ci --tpm N"
    )


async def test_a_budget_in_dollars_is_used_up_and_renewed(keys: Keys) -> None:
    key = await keys.create("ci", rules=Rules(budgets=(Budget(0.01, "usd", "day"),)))
    first = await keys.admit(key, estimate_input_tokens=lambda: 20_000)  # 0.4 × 0.02 + 1.6 × 0.001 = 0.0096
    waiting = await keys.refuse(key, 429, estimate_input_tokens=lambda: 20_000)
    assert waiting.message == (
        "The key 'ci' has a budget of $0.01 per day, and running requests reserve the remainder. Try again when one "
        "ends. Another budget:  anthropic-proxy keys change ci --budget AMOUNT/day"
    )
    assert (waiting.retry_after, waiting.should_retry) == (1.0, None)
    await keys.finish(first, input_tokens=20_000, output_tokens=500)
    second = await keys.admit(key, estimate_input_tokens=lambda: 20_000)  # the remainder
    await keys.finish(second, input_tokens=20_000, output_tokens=500)
    spent = await keys.refuse(key, 429, estimate_input_tokens=lambda: 10)
    assert spent.message == (
        "The key 'ci' has used up its budget of $0.01 per day · resets Nov 22 · "
        "Another budget:  anthropic-proxy keys change ci --budget AMOUNT/day"
    )
    assert (spent.retry_after, spent.should_retry) == (12 * 3600.0, False)
    await keys.admit(key, **FREE)
    keys.now += 12 * 3600
    await keys.admit(key, estimate_input_tokens=lambda: 10)


async def test_a_soft_budget_counts_and_refuses_nothing(keys: Keys) -> None:
    budgets = (Budget(0.01, "usd", "day", soft=True), Budget(0.03, "usd", "day"))
    key = await keys.create("ci", rules=Rules(budgets=budgets))
    soft, hard = (("key", "ci", "usd", "day", "", mode) for mode in ("soft", "hard"))
    for expected in ({}, {soft: 0.88}, {soft: 1.76}):  # 0.0088 each
        assert await keys.read_uses() == pytest.approx(expected)
        await keys.finish(
            await keys.admit(key, estimate_input_tokens=lambda: 18_000), input_tokens=20_000, output_tokens=500
        )
    assert await keys.read_uses() == pytest.approx({soft: 2.64, hard: 0.88})
    (await keys.admit(key, estimate_input_tokens=lambda: 10)).finish(input_tokens=20_000, output_tokens=500)
    await keys.settled()
    assert "has used up its budget of $0.03 per day · " in (await keys.refuse(key, 429)).message
    await keys.change_rules("ci", budgets=budgets[:1])
    await keys.admit(key, **UNKNOWN)


class LostStore(MemoryStore):
    async def reserve(self, limits: Sequence[Limit], lease_seconds: float = 0.0) -> Reservation:
        raise StoreUnavailable


async def test_a_soft_budget_alone_needs_no_store(keys: Keys) -> None:
    key = await keys.create("ci", rules=Rules(budgets=(Budget(10, "tokens", "day", soft=True),)))
    keys.reservations = Reservations(LostStore(), keys.warnings.append)
    (await keys.admit(key)).finish(input_tokens=100)
    await keys.change_rules("ci", requests_per_minute=100)
    with pytest.raises(StoreUnavailable):
        await keys.admit(key)


async def test_a_budget_for_some_models_counts_and_refuses_only_these(keys: Keys) -> None:
    dear = AdmissionTarget(prefix="anthropic", model="claude-opus-4-8", max_output_tokens=1_000)
    cheap = AdmissionTarget(prefix="openai", model="gpt-4.1-mini", max_output_tokens=1_000)
    unknown = UNKNOWN["targets"][0]
    key = await keys.create("ci", rules=Rules(budgets=(Budget(10_000, "tokens", "day", models="claude-opus-*"),)))
    used = {"prefix": "anthropic", "model": "claude-opus-4-8"}
    assert (await keys.admit(key, targets=[cheap], estimate_input_tokens=lambda: 10**6)).settle is None
    both = await keys.admit(key, targets=[cheap, dear], estimate_input_tokens=lambda: 8_000)
    await keys.finish(both, input_tokens=8_000)  # of gpt-4.1-mini
    assert await keys.read_uses() == {}
    await keys.finish(
        await keys.admit(key, targets=[dear], estimate_input_tokens=lambda: 9_000), **used, input_tokens=9_500
    )
    await keys.finish(
        await keys.admit(key, targets=[dear], estimate_input_tokens=lambda: 9_000), **used, input_tokens=500
    )
    assert await keys.read_uses() == {("key", "ci", "tokens", "day", "claude-opus-*", "hard"): 1.0}
    refused = await keys.refuse(key, 429, targets=[cheap, dear])
    assert refused.message == (
        "The key 'ci' has used up its budget of 10,000 tokens per day for claude-opus-* · resets Nov 22 · "
        "Another budget:  anthropic-proxy keys change ci --budget 'AMOUNT/day for claude-opus-*'"
    )
    await keys.admit(key, targets=[cheap])
    await keys.change_rules("ci", budgets=(Budget(5, "usd", "day", models="anthropic/*"),))
    await keys.admit(key, targets=[unknown])
    await keys.change_rules("ci", budgets=(Budget(5, "usd", "day", models="openai/no-*"),))
    assert (
        "the price of openai/no-such-model is unknown" in (await keys.refuse(key, 403, targets=[dear, unknown])).message
    )


@pytest.mark.parametrize("days", [-400, -1, 1, 400])
async def test_a_clock_that_is_wrong_for_a_moment_forgets_no_budget(keys: Keys, days: int) -> None:
    budgets = tuple(Budget(10_000, "tokens", period) for period in ("day", "month"))
    keys.store = MemoryStore()  # its clock cannot be set
    keys.reservations = Reservations(keys.store, keys.warnings.append)
    key = await keys.create("ci", rules=Rules(budgets=budgets))
    await keys.finish(await keys.admit(key, estimate_input_tokens=lambda: 3_000), input_tokens=3_000)
    keys.now += days * 86_400
    await keys.finish(await keys.admit(key, estimate_input_tokens=lambda: 2_000), input_tokens=2_000)
    keys.now -= days * 86_400
    await keys.finish(await keys.admit(key, estimate_input_tokens=lambda: 7_000), input_tokens=7_000)
    spent = await keys.refuse(key, 429, estimate_input_tokens=lambda: 10)
    assert "has used up its budget of 10,000 tokens" in spent.message


async def admit_remainder(keys: Keys) -> tuple[str, Admitted]:
    """Return a key with a budget of 10,000 tokens, and a running request that has reserved the last 2,000."""
    key = await keys.create("ci", rules=Rules(budgets=(Budget(10_000, "tokens", "total"),)))
    first = await keys.admit(key, estimate_input_tokens=lambda: 8_000)
    await keys.finish(first, input_tokens=8_000)
    return key, await keys.admit(key, estimate_input_tokens=lambda: 8_000)


async def test_a_budget_of_which_80_percent_are_used_is_reported_until_its_period_ends(keys: Keys) -> None:
    budgets = (Budget(10_000, "tokens", "day"), Budget(1_000_000, "tokens", "total"))
    key = await keys.create("ci", rules=Rules(budgets=budgets))
    name = ("key", "ci", "tokens", "day", "", "hard")
    running = await keys.admit(key, estimate_input_tokens=lambda: 9_000)
    assert await keys.read_uses() == {}, "amounts of running requests do not count"
    await keys.finish(running, input_tokens=7_500)
    assert await keys.read_uses() == {}
    await keys.finish(await keys.admit(key, estimate_input_tokens=lambda: 500), input_tokens=1_000)
    assert await keys.read_uses() == {name: 0.85}
    await keys.finish(await keys.admit(key), input_tokens=1_500)
    await keys.refuse(key, 429, estimate_input_tokens=lambda: 3_000)
    assert await keys.read_uses() == {name: 1.0}
    keys.now += 86_400
    assert await keys.read_uses() == {}


@pytest.mark.parametrize("change", ["raised", "removed", "revoked", "renamed"])
async def test_a_used_up_budget_is_reported_as_it_is_now(keys: Keys, change: str) -> None:
    """Without a further request. A running one has the budget as it was."""
    key = await keys.create("ci", rules=Rules(budgets=(Budget(10_000, "tokens", "day"),)))
    await keys.finish(await keys.admit(key, estimate_input_tokens=lambda: 500), input_tokens=7_500)
    running = await keys.admit(key, estimate_input_tokens=lambda: 1_500)
    match change:
        case "raised":
            await keys.change_rules("ci", budgets=(Budget(12_500, "tokens", "day"),))
        case "removed":
            await keys.change_rules("ci", budgets=())
        case "revoked":
            revoke_key(keys.administration, "ci")
            await keys.table.refresh()
        case "renamed":
            change_key(keys.administration, "ci", label="build")
            await keys.table.refresh()
    await keys.finish(running, input_tokens=2_500)
    uses = {
        "raised": {("key", "ci", "tokens", "day", "", "hard"): 0.8},
        "renamed": {("key", "build", "tokens", "day", "", "hard"): 1.0},
    }
    assert await keys.read_uses() == uses.get(change, {})
    renewed = "It is renewed at 2026-11-22T00:00:00Z."
    assert keys.reports == {
        "raised": [f"The key 'ci' has used 80 % of its budget: 10,000 tokens of 12,500 tokens per day. {renewed}"],
        "renamed": [
            f"The key 'build' has used 80 % of its budget: 10,000 tokens of 10,000 tokens per day. {renewed}",
            f"The key 'build' has used 100 % of its budget: 10,000 tokens of 10,000 tokens per day. {renewed} Requests "
            "are refused until then.",
        ],
    }.get(change, [])


async def test_a_look_at_the_budgets_while_a_table_is_read_hides_no_new_one(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = key_table.replace_values

    def replace_and_look(*given: Any, **options: Any) -> Any:
        replaced = replace(*given, **options)
        keys.table.list_scopes_with_budgets()  # as the event loop does, while a thread applies what it has read
        return replaced

    monkeypatch.setattr(key_table, "replace_values", replace_and_look)
    await keys.create("ci", rules=Rules(budgets=(Budget(100, "tokens", "day"),)))
    assert [scope.name for scope in keys.table.list_scopes_with_budgets()] == ["ci"]


async def test_a_request_that_outlasts_the_period_of_its_budget_says_nothing_of_the_next_one(keys: Keys) -> None:
    await keys.create("ci", rules=Rules(budgets=(Budget(100, "tokens", "day"),)))
    scopes = keys.table.list_scopes_with_budgets()

    async def reserve(tokens: int) -> HeldLimits:
        limits = build_limits(scopes, [[Amounts(tokens, 0)]], keys.now)
        return await keys.reservations.reserve(limits, {}, keys.now)

    running = await reserve(90)
    keys.now += 12 * 3_600
    name = ("key", "ci", "tokens", "day", "", "hard")
    await keys.reservations.raise_to(running, [Amounts(95, 0)], keys.now)
    assert await keys.read_uses() == {}
    of_the_day = await reserve(80)
    keys.reservations.settle(running, [Amounts(100, 0)])
    keys.reservations.settle(of_the_day, [Amounts(80, 0)])
    await keys.settled()
    assert await keys.read_uses() == {name: 0.8}
    with pytest.raises(BudgetUsedUp) as refused:
        await keys.reservations.raise_to(running, [Amounts(200, 0)], keys.now)
    assert refused.value.message == (
        "The key 'ci' has used up its budget of 100 tokens per day · resets Nov 22 · Another budget:  anthropic-proxy "
        "keys change ci --budget AMOUNT/day"
    )
    assert refused.value.retry_after == 1.0, "that of the next day has room"
    assert await keys.read_uses() == {name: 0.8}


async def test_the_budget_of_the_proxy_is_reported_beside_those_of_keys(database: Settings) -> None:
    keys = Keys(structs.replace(database, budgets=(Budget(10_000, "tokens", "day"),), virtual_keys=True))
    key = await keys.create("ci", rules=Rules(budgets=(Budget(20_000, "tokens", "day"),)))
    await keys.finish(await keys.admit(key, estimate_input_tokens=lambda: 7_500), input_tokens=9_000)
    assert await keys.read_uses() == {("proxy", "", "tokens", "day", "", "hard"): 0.9}


async def test_a_running_request_with_the_remainder_of_a_budget_does_not_use_it_up(keys: Keys) -> None:
    key, remainder = await admit_remainder(keys)
    waiting = await keys.refuse(key, 429, estimate_input_tokens=lambda: 8_000)
    assert waiting.message == (
        "The key 'ci' has a budget of 10,000 tokens in total, and running requests reserve the remainder. Try again "
        "when one ends. Another budget:  anthropic-proxy keys change ci --budget AMOUNT/total"
    )
    assert (waiting.retry_after, waiting.should_retry) == (1.0, None)
    await keys.finish(remainder, input_tokens=500)
    last = await keys.admit(key, estimate_input_tokens=lambda: 8_000)
    await keys.finish(last, input_tokens=2_000)
    assert (await keys.refuse(key, 429)).message.startswith("The key 'ci' has used up its budget")


@pytest.mark.parametrize("ticks", range(8))
async def test_a_request_that_ends_meanwhile_leaves_its_remainder_to_one_request(keys: Keys, ticks: int) -> None:
    """`ticks`: iterations of the event loop until a request ends, while others try to reserve the remainder."""
    key, remainder = await admit_remainder(keys)
    others = [asyncio.create_task(keys.admit(key, estimate_input_tokens=lambda: 8_000)) for _ in range(20)]
    for _ in range(ticks):
        await asyncio.sleep(0)
    remainder.finish(input_tokens=500)
    results = await asyncio.gather(*others, return_exceptions=True)
    await keys.settled()
    admitted = [each for each in results if isinstance(each, Admitted)]
    refused = [each for each in results if isinstance(each, ProxyError)]
    assert len(admitted) <= 1
    assert len(admitted) + len(refused) == len(others)
    assert {(each.status, each.should_retry) for each in refused} == {(429, None)}
    for each in admitted:
        each.finish(input_tokens=1)
    await keys.settled()
    await keys.admit(key, estimate_input_tokens=lambda: 8_000)  # no reservation was left over
    assert (await keys.refuse(key, 429, estimate_input_tokens=lambda: 8_000)).should_retry is None


async def test_cache_writes_are_reserved_and_counted_at_their_prices(keys: Keys) -> None:
    key = await keys.create("ci", rules=Rules(budgets=(Budget(0.004, "usd", "total"),)))
    haiku = AdmissionTarget(prefix="anthropic", model="claude-haiku-4-5", max_output_tokens=0)
    written = {"targets": [haiku], "estimate_input_tokens": lambda: 1_000}  # at 2 dollars per million for one hour
    used = {"provider": "anthropic", "prefix": "anthropic", "model": "claude-haiku-4-5"}
    first = await keys.admit(key, **written)
    second = await keys.admit(key, **written)
    await keys.refuse(key, 429, **written)
    for admitted in (first, second):
        admitted.finish(**used, cache_write_tokens=1_000, cache_write_1h_tokens=1_000)
    await keys.settled()
    assert (await keys.refuse(key, 429, **written)).message.startswith("The key 'ci' has used up its budget")


async def test_a_request_of_unknown_size_is_settled(keys: Keys) -> None:
    key = await keys.create("ci", rules=Rules(budgets=(Budget(1, "usd", "total"), Budget(500, "tokens", "total"))))
    nothing = AdmissionTarget(prefix="openai", model="gpt-4.1-mini", max_output_tokens=0)
    admitted = await keys.admit(key, targets=[nothing])
    await keys.finish(admitted, input_tokens=500)
    assert (await keys.refuse(key, 429, targets=[nothing])).message.startswith("The key 'ci' has used up its budget")


def test_the_maximum_amounts_are_exact_in_each_store() -> None:
    budgets = (Budget(9_000_000, "usd", "total"), Budget(10**12, "tokens", "total"), Budget(10**12, "usd", "day"))
    scope = Scope("key", "ci", "key/1", Rules(budgets=budgets))
    limits = build_limits([scope], [[Amounts(2**70, 2**70)]], NOON)
    assert [each.limit.maximum for each in limits] == [9 * 10**15, 10**12, 9 * 10**15]
    assert [each.limit.amount - each.limit.maximum for each in limits] == [1, 1, 1]
    assert max(find_actual_amounts(limits, [Amounts(2**70, 2**70)])) < 2**53


async def test_a_ledger_that_cannot_be_read_is_read_again(keys: Keys) -> None:
    reads: list[float] = []

    async def read_used(limits: Sequence[KeyLimit], now: float) -> Sequence[int]:
        reads.append(now)
        if len(reads) == 1:
            raise OSError("disk failed")
        return [450] * len(limits)

    passed = 0
    reservations = Reservations(keys.store, keys.warnings.append, read_used=read_used, ticks=lambda: passed)
    scope = Scope("key", "ci", "key/1", Rules(budgets=(Budget(1_000, "tokens", "total"),)))
    remaining = []
    for seconds in (0, 9, 10, 99):
        limits = build_limits([scope], [[Amounts(10, 0)]], NOON)
        passed = seconds
        held = await reservations.reserve(limits, {}, NOON - seconds)  # the clock of the machine is set back
        remaining.append(held.reservation.remaining[0])
    assert remaining == [990, 980, 1_000 - 450 - 30, 1_000 - 450 - 40]
    assert reads == [NOON, NOON - 10]
    assert keys.warnings == ["The use of budgets was not read from the ledger: OSError: disk failed"]


@pytest.mark.parametrize("fails", [False, True])
async def test_requests_that_come_together_read_the_ledger_once(keys: Keys, *, fails: bool) -> None:
    readings = 0

    async def read_used(limits: Sequence[KeyLimit], _: float) -> Sequence[int]:
        nonlocal readings
        readings += 1
        await asyncio.sleep(0)
        if fails:
            raise OSError("the server does not answer")
        return [450] * len(limits)

    reservations = Reservations(keys.store, keys.warnings.append, read_used=read_used)
    scope = Scope("key", "ci", "key/1", Rules(budgets=(Budget(1_000, "tokens", "total"),)))
    limits = build_limits([scope], [[Amounts(10, 0)]], NOON)
    await asyncio.gather(*(reservations.reserve(limits, {}, NOON) for _ in range(20)))
    assert (readings, len(keys.warnings)) == (1, int(fails))


@pytest.mark.parametrize(("kept", "known", "used"), [(0, 450, 450), (100, 450, 450), (450, 450, 450), (500, 450, 500)])
async def test_a_store_that_has_lost_a_part_of_the_use_gets_this_part_back(
    keys: Keys, kept: int, known: int, used: int
) -> None:
    async def read_used(limits: Sequence[KeyLimit], _: float) -> Sequence[int]:
        return [known] * len(limits)

    scope = Scope("key", "ci", "key/1", Rules(budgets=(Budget(1_000, "tokens", "total"),)))
    limits = build_limits([scope], [[Amounts(10, 0)]], NOON)
    earlier = Reservations(keys.store, keys.warnings.append)
    earlier.settle(await earlier.reserve(limits, {}, NOON), [Amounts(kept, 0)])
    await earlier.stop()
    held = await Reservations(keys.store, keys.warnings.append, read_used=read_used).reserve(limits, {}, NOON)
    assert held.reservation.remaining == [1_000 - used - 10]


async def test_budgets_are_compared_with_the_ledger_again_after_an_interruption_of_the_store(keys: Keys) -> None:
    class Interrupted(MemoryStore):
        interruptions = 0

        @property
        def state(self) -> StoreState:
            return StoreState(interruptions=self.interruptions)

    async def read_used(limits: Sequence[KeyLimit], _: float) -> Sequence[int]:
        return [450] * len(limits)

    store = Interrupted(clock=lambda: keys.now)
    scope = Scope("key", "ci", "key/1", Rules(budgets=(Budget(1_000, "tokens", "total"),)))
    limits = build_limits([scope], [[Amounts(10, 0)]], NOON)
    reservations = Reservations(store, keys.warnings.append, read_used=read_used)
    remaining = []
    for interruptions in (0, 0, 1, 1):
        store.interruptions = interruptions
        keys.now += SETTLED_SECONDS  # the store has lost the ids of settled reservations too
        await store.delete(limits[0].limit.key)
        remaining += (await reservations.reserve(limits, {}, NOON)).reservation.remaining
    assert remaining == [540, 990, 540, 990]


async def test_a_failing_store_does_not_end_the_renewal(keys: Keys) -> None:
    class Failing(MemoryStore):
        renewals = 0

        async def renew(self, reservations: Sequence[Reservation]) -> None:
            self.renewals += 1
            raise ValueError("broken")

        async def settle(self, reservation: Reservation, amounts: Sequence[int]) -> None:
            raise ValueError("broken")

    store = Failing(clock=lambda: keys.now)
    reservations = Reservations(store, keys.warnings.append, renew_seconds=0)
    keys.reservations = reservations
    admitted = await keys.admit(await keys.create("ci", rules=Rules(concurrency=1)))
    reservations.start()
    for _ in range(100):
        await asyncio.sleep(0)
    assert store.renewals > 1
    admitted.finish()
    await reservations.stop()
    assert {*keys.warnings} == {
        "Limits of running requests were not renewed: ValueError: broken",
        "The amounts of a request were not counted: ValueError: broken",
    }


async def test_failed_requests_cost_nothing_and_cancelled_ones_their_estimated_input(keys: Keys) -> None:
    key = await keys.create("ci", rules=Rules(budgets=(Budget(2_000, "tokens", "total"),)))
    failed = await keys.admit(key, estimate_input_tokens=lambda: 1_000)
    await keys.finish(failed, outcome="error", first_token_seconds=None, status=502)
    cancelled = await keys.admit(key, estimate_input_tokens=lambda: 1_000)
    await keys.finish(cancelled, outcome="cancelled", input_tokens=1_000)
    remainder = await keys.admit(key, estimate_input_tokens=lambda: 1_000)
    await keys.finish(remainder, input_tokens=1_000)
    error = await keys.refuse(key, 429)
    assert error.message == (
        "The key 'ci' has used up its budget of 2,000 tokens in total · it is not renewed · Another budget:  "
        "anthropic-proxy keys change ci --budget AMOUNT/total"
    )
    assert (error.retry_after, error.should_retry) == (None, False)


async def test_a_model_without_a_price_needs_a_budget_in_tokens(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of a server is no price: it may say that a model is free, and not each process has read it."""
    name = "openai api.openai.com", "no-such-model"
    monkeypatch.setattr(PRICE_SOURCE, "listed", {name: {"input": 0, "output": 0}})
    key = await keys.create("ci", rules=Rules(budgets=(Budget(5, "usd", "day"),)))
    assert (await keys.refuse(key, 403, **UNKNOWN)).message == (
        "The key 'ci' has a budget in dollars, and the price of openai/no-such-model is unknown. Add a table "
        '[prices."openai/no-such-model"] to anthropic-proxy.toml, or use a budget in tokens.'
    )
    await keys.change_rules("ci", budgets=(Budget(5_000, "tokens", "day"),))
    await keys.admit(key, **UNKNOWN)


async def test_models_and_providers_are_patterns_of_requested_or_used_names(keys: Keys) -> None:
    key = await keys.create("ci")
    fallback = AdmissionTarget(prefix="groq", model="llama", max_output_tokens=9)
    await keys.change_rules("ci", models=("CLAUDE-haiku-*", "openai/gpt-4.1*"))
    await keys.admit(key, model="claude-haiku-4-5", targets=[fallback])
    await keys.admit(key, model="claude-opus-4-5")
    denied = await keys.refuse(key, 403, model="claude-opus-4-5", targets=[*PRICED["targets"], fallback])
    assert (denied.error_type, denied.message) == (
        "permission_error",
        "The key 'ci' does not allow the model 'claude-opus-4-5' (groq/llama). Allowed: CLAUDE-haiku-*, "
        "openai/gpt-4.1*. Another list:  anthropic-proxy keys change ci --models LIST",
    )
    prefixed = {"model": "anthropic/claude-haiku-4-5", "mapped_model": "claude-haiku-4-5"}
    await keys.admit(key, **prefixed, targets=[fallback])
    await keys.change_rules("ci", models=("anthropic/*",))
    await keys.admit(key, **prefixed, targets=[fallback])
    await keys.refuse(key, 403, model="claude-haiku-4-5", targets=[fallback])
    alias = {"model": "claude-openai/gpt-5-pro", "normalized_model": "openai/gpt-5-pro"}
    expensive = AdmissionTarget(prefix="openai", model="gpt-5-pro", max_output_tokens=9)
    await keys.change_rules("ci", models=("claude-*",))
    assert (await keys.refuse(key, 403, **alias, targets=[expensive])).message == (
        "The key 'ci' does not allow the model 'claude-openai/gpt-5-pro' (openai/gpt-5-pro). Allowed: claude-*. "
        "Another list:  anthropic-proxy keys change ci --models LIST"
    )
    joined = "gpt-4.1-mini,gpt-5-pro"  # some gateways read two models
    await keys.change_rules("ci", models=("gpt-4.1*", "openai/gpt-4.1*"))
    await keys.admit(key, model="gpt-4.1-mini", targets=PRICED["targets"])
    await keys.refuse(
        key, 403, model=joined, targets=[AdmissionTarget(prefix="openai", model=joined, max_output_tokens=9)]
    )
    await keys.change_rules("ci", models=(), providers=("openai",))
    await keys.admit(key)
    assert (await keys.refuse(key, 403, targets=[*PRICED["targets"], fallback])).message == (
        "The key 'ci' does not allow the provider 'groq', to which 'claude-haiku-4-5' is sent. Allowed: openai. "
        "Another list:  anthropic-proxy keys change ci --providers LIST"
    )


async def test_brackets_in_the_model_of_a_key_are_no_wildcards(keys: Keys) -> None:
    key = await keys.create("ci")
    target = [AdmissionTarget(prefix="groq", model="llama", max_output_tokens=9)]
    await keys.change_rules("ci", models=("claude-opus-4-5[1M]", "own[ab]"))
    await keys.admit(key, model="claude-opus-4-5[1m]", normalized_model="claude-opus-4-5", targets=target)
    await keys.admit(key, model="own[ab]", targets=target)
    for model in ("claude-opus-4-51", "claude-opus-4-5m", "owna"):
        await keys.refuse(key, 403, model=model, targets=target)


async def test_a_key_or_team_allows_only_its_routes(keys: Keys) -> None:
    key = await keys.create("ci", team="build", rules=Rules(routes=("cheap", "long context")))
    await keys.admit(key, route="long context")
    await keys.admit(key, model="", purpose="resource", has_reply=False, targets=())
    assert (await keys.refuse(key, 403, purpose="token_count", has_reply=False)).code == "key-routes"
    denied = await keys.refuse(key, 403, route="night")
    assert (denied.error_type, denied.message) == (
        "permission_error",
        "The key 'ci' does not allow the route 'night', which matches this request. Allowed: cheap, long context. "
        "Another list:  anthropic-proxy keys change ci --routes LIST",
    )
    change_team(keys.administration, "build", {"routes": ("cheap",)})
    await keys.change_rules("ci", routes=())
    await keys.admit(key, route="cheap")
    assert (await keys.refuse(key, 403)).message == (
        "The team 'build' allows only requests of certain routes, and no route matches this one. Allowed: cheap. "
        "Another list:  anthropic-proxy keys team build --routes LIST"
    )


async def test_keys_of_a_team_share_its_limits(keys: Keys) -> None:
    change_team(keys.administration, "build", {"requests_per_minute": 3})
    first, second = await keys.create("one", team="build"), await keys.create("two", team="build")
    await keys.change_rules("one", requests_per_minute=2)
    assert (await keys.admit(first)).headers["anthropic-ratelimit-requests-limit"] == "2"
    assert (await keys.admit(second)).headers["anthropic-ratelimit-requests-remaining"] == "1"
    await keys.admit(second)
    assert (await keys.refuse(second, 429)).message == (
        "The team 'build' has reached its limit of 3 requests per minute. Try again in 61 s. Another limit:  "
        "anthropic-proxy keys team build --rpm N"
    )


@pytest.mark.parametrize(("own", "shared", "limit"), [(2, 5, "2"), (5, 3, "3")])
async def test_the_headers_are_of_the_limit_with_less_room_of_key_and_team(
    keys: Keys, own: int, shared: int, limit: str
) -> None:
    change_team(keys.administration, "build", {"requests_per_minute": shared})
    key = await keys.create("ci", team="build", rules=Rules(requests_per_minute=own))
    headers = (await keys.admit(key)).headers
    shown = {name.rpartition("-")[2]: value for name, value in headers.items()}
    assert (shown["limit"], shown["remaining"]) == (limit, str(int(limit) - 1))


async def test_concurrent_requests_exceed_a_budget_by_less_than_the_amount_in_flight(keys: Keys) -> None:
    key = await keys.create("ci", rules=Rules(budgets=(Budget(50_000, "tokens", "total"),)))
    spent, in_flight, peak = 0, 0, 0

    async def use() -> None:
        nonlocal spent, in_flight, peak
        for _ in range(10):
            try:
                admitted = await keys.admit(key, estimate_input_tokens=lambda: 200)
            except LimitReached:
                return
            in_flight += 1
            peak = max(peak, in_flight)
            await asyncio.sleep(0)
            spent += 1_100
            admitted.finish(input_tokens=200, output_tokens=900)
            in_flight -= 1

    await asyncio.gather(*(use() for _ in range(200)))
    await keys.settled()
    assert 50_000 - 1_200 * peak <= spent <= 50_000 + 1_200 * peak
    assert keys.now == NOON


async def test_a_cancelled_call_of_a_tool_loop_is_counted_at_its_own_context(keys: Keys) -> None:
    """Input of several calls is never added up for the price of a long context."""
    key = await keys.create("ci", rules=Rules(budgets=(Budget(10, "usd", "total"), Budget(10**7, "tokens", "total"))))
    model = {"provider": "google", "prefix": "gemini", "model": "gemini-2.5-pro"}  # a higher price above 200,000 tokens
    call = {"provider": "google", "model": "gemini-2.5-pro", "host": "127.0.0.1", "port": 9, "offset_seconds": 0.0}
    admitted = await keys.admit(key, estimate_input_tokens=lambda: 100_000)
    admitted.finish(
        **model,
        outcome="cancelled",
        input_tokens=300_000,
        output_tokens=120,
        attempts=[
            UpstreamAttempt(**call, input_tokens=150_000, output_tokens=100),
            UpstreamAttempt(**call, input_tokens=150_000, output_tokens=20),
        ],
    )
    await keys.settled()
    later = await keys.admit(key, estimate_input_tokens=lambda: 0, **FREE)
    assert later.settle is not None
    used = [counter.used for counter in keys.store._counters.values() if counter.used]
    assert used == [round((300_000 * 1.25 + 120 * 10) * 1_000), 300_120]


async def test_a_budget_counts_the_searches_of_a_provider_also_in_a_tier_without_a_known_price(keys: Keys) -> None:
    key = await keys.create("ci", rules=Rules(budgets=(Budget(0.01, "usd", "day"),)))
    admitted = await keys.admit(key, estimate_input_tokens=lambda: 10)
    admitted.finish(input_tokens=10, output_tokens=0, billed_searches=1, service_tier="scale")  # $10 per 1,000 searches
    await keys.settled()
    spent = await keys.refuse(key, 429, estimate_input_tokens=lambda: 10)
    assert spent.message == (
        "The key 'ci' has used up its budget of $0.01 per day · resets Nov 22 · "
        "Another budget:  anthropic-proxy keys change ci --budget AMOUNT/day"
    )


async def test_the_state_of_a_budget_is_that_of_the_key_or_its_team(keys: Keys) -> None:
    start = "anthropic-ratelimit-unified-"
    key = await keys.create("ci", team="build", rules=Rules(budgets=(Budget(1_000, "tokens", "day"),)))
    change_team(keys.administration, "build", {"budgets": (Budget(1_000, "tokens", "month"),)})
    await keys.table.refresh()
    first = await keys.admit(key)
    assert first.headers[f"{start}overage-utilization"] == "0"  # what running requests reserve does not count
    await keys.finish(first, input_tokens=100, output_tokens=700)
    second = await keys.admit(key)
    assert {name.removeprefix(start): value for name, value in second.headers.items()} == {
        "status": "allowed_warning",
        "overage-utilization": "0.8",
        "reset": "1795305600",
        "overage-reset": "1795305600",
        "overage-surpassed-threshold": "0.75",
        "representative-claim": "overage",
        "overage-status": "allowed_warning",
    }
    await keys.finish(second, input_tokens=0, output_tokens=200)
    assert "used up its budget" in (await keys.refuse(key, 429)).message
