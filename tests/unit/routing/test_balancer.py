"""The order of the targets of a route for each kind of balance, with a session and without."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

from anthropic_proxy.engine.hooks import Client
from anthropic_proxy.engine.options import ConfiguredRoute
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.routing.router import RoutingQuery, build_plan
from anthropic_proxy.engine.routing.routes import RequestFacts, RouteBalancer
from anthropic_proxy.engine.routing.targets import Target
from anthropic_proxy.gateway.stores.memory import MemoryStore
from tests.support.routes import load_routes, new_facts

A, B, C = "openai/gpt-4.1", "gemini/gemini-2.5-pro", "groq/llama-3.3-70b-versatile"
LOOP = asyncio.new_event_loop()
"""One event loop for thousands of short calls: `asyncio.run` costs a hundred times as much as the call."""


class Balanced:
    """A route with three targets, and a balancer with a clock that tests set."""

    def __init__(self, folder: Path, fields: str, *, prices: dict[str, float] | None = None) -> None:
        text = f'[[routes]]\nname = "r"\ntargets = ["{A}", "{B}", "{C}"]\n{fields}\n'
        self.settings = load_routes(folder, text, GROQ_API_KEY="gsk-test")
        self.route: ConfiguredRoute = self.settings.routes[0]
        plan = build_plan(RoutingQuery("claude-opus-5", route=self.route), self.settings, Catalog())
        self.targets: Sequence[Target] = plan.targets
        self.now = 0.0
        self.store = MemoryStore(clock=lambda: self.now)
        self.balancer = RouteBalancer(self.store, prices or {}, random=Random(7).random)

    def order(self, session: str = "", key: str = "local") -> list[str]:
        facts = self.facts(session, key)
        ordered = LOOP.run_until_complete(self.balancer.order_targets(self.targets, self.route, facts))
        return [f"{target.provider.prefix}/{target.model}" for target in ordered]

    def record(self, name: str, seconds: float | None, session: str = "") -> None:
        """Record the latency of a target, or its failure."""
        (target,) = (each for each in self.targets if name.endswith(f"/{each.model}"))
        if seconds is None:
            LOOP.run_until_complete(self.balancer.record_failure(target))
            return
        facts = self.facts(session)
        scope = facts.client.scope_session(facts.session)
        LOOP.run_until_complete(self.balancer.record_reply(target, self.route, scope, seconds))

    def facts(self, session: str, key: str = "local") -> RequestFacts:
        return new_facts(self.settings, headers={"x-claude-code-session-id": session} if session else {}, key=key)


def test_without_balance_the_order_is_that_of_the_file(tmp_path: Path) -> None:
    assert Balanced(tmp_path, "").order("s") == [A, B, C]


def test_weights_decide_the_share_of_each_first_target(tmp_path: Path) -> None:
    balanced = Balanced(tmp_path, 'balance = "weighted"\nweights = [6, 3, 1]\nsticky = false')
    first = Counter(balanced.order("s")[0] for _ in range(2_000))
    assert 1_120 < first[A] < 1_280
    assert 530 < first[B] < 670
    assert 150 < first[C] < 250
    assert sorted(balanced.order("s")) == sorted([A, B, C])


def test_a_session_keeps_its_weighted_target_and_the_shares_stay_exact(tmp_path: Path) -> None:
    balanced = Balanced(tmp_path, 'balance = "weighted"\nweights = [6, 3, 1]')
    first = {f"s{number}": balanced.order(f"s{number}")[0] for number in range(1_000)}
    assert all(balanced.order(session)[0] == target for session, target in first.items())
    counts = Counter(first.values())
    assert 540 < counts[A] < 660
    assert 60 < counts[C] < 140
    again = Balanced(tmp_path, 'balance = "weighted"\nweights = [6, 3, 1]')  # another process
    assert all(again.order(session) == balanced.order(session) for session in list(first)[:20])


def test_weighted_requests_without_a_session_are_spread(tmp_path: Path) -> None:
    balanced = Balanced(tmp_path, 'balance = "weighted"')
    assert len({balanced.order()[0] for _ in range(50)}) == 3


def test_the_lowest_latency_is_first_after_each_target_was_measured(tmp_path: Path) -> None:
    balanced = Balanced(tmp_path, 'balance = "latency"')
    balanced.record(A, 2.0)
    balanced.record(B, 0.5)
    assert balanced.order() == [C, B, A]  # no measurement: first
    balanced.record(C, 1.0)
    assert balanced.order() == [B, C, A]


def test_latency_is_a_moving_average(tmp_path: Path) -> None:
    balanced = Balanced(tmp_path, 'balance = "latency"')
    for name, seconds in ((A, 1.0), (B, 1.1), (C, 9.0)):
        balanced.record(name, seconds)
    balanced.record(A, 1.2)  # the average is 1.06
    assert balanced.order() == [A, B, C]
    balanced.record(A, 3.0)
    assert balanced.order() == [B, A, C]


def test_a_failed_target_is_last_until_its_latency_expires(tmp_path: Path) -> None:
    balanced = Balanced(tmp_path, 'balance = "latency"')
    for name, seconds in ((A, None), (B, 1.0), (C, 2.0)):
        balanced.record(name, seconds)
    assert balanced.order() == [B, C, A]
    balanced.now = 61.0
    assert balanced.order() == [A, B, C]


def test_a_limit_that_one_request_may_exceed_concerns_its_client_until_a_second_one_meets_it(tmp_path: Path) -> None:
    balanced = Balanced(tmp_path, 'balance = "latency"')
    for name, seconds in ((A, 1.0), (B, 2.0), (C, 3.0)):
        balanced.record(name, seconds)

    def limit(client: str) -> list[str]:
        record = balanced.balancer.record_failure(balanced.targets[0], client, may_limit_all=True)
        LOOP.run_until_complete(record)
        return [balanced.order(key=key)[0] for key in ("ann", "bob", "cid")]

    for _ in range(5):
        assert limit("ann") == [B, A, A]
        balanced.now += 50
    balanced.now += 11
    assert limit("bob") == [A, B, A], "the minute of ann has ended"
    balanced.now += 59
    assert limit("ann") == [B, B, B]


def test_without_keys_such_a_limit_concerns_its_session_until_a_second_one_meets_it(tmp_path: Path) -> None:
    balanced = Balanced(tmp_path, 'balance = "latency"\nsticky = false')
    for name, seconds in ((A, 1.0), (B, 2.0), (C, 3.0)):
        balanced.record(name, seconds)
    client = Client(credential_forwardable=True)
    sessions = "one", "two", "three", ""

    def limit(session: str) -> list[str]:
        name = client.name_learner(session)
        LOOP.run_until_complete(balanced.balancer.record_failure(balanced.targets[0], name, may_limit_all=True))
        facts = [balanced.facts(session) for session in sessions]
        for each in facts:
            each.client = client
        orders = [balanced.balancer.order_targets(balanced.targets, balanced.route, each) for each in facts]
        return [LOOP.run_until_complete(order)[0].provider.prefix for order in orders]

    assert limit("one") == limit("one") == ["gemini", "openai", "openai", "openai"]
    assert limit("two") == ["gemini"] * 4


def test_a_session_keeps_the_target_that_served_it(tmp_path: Path) -> None:
    balanced = Balanced(tmp_path, 'balance = "latency"')
    for name, seconds in ((B, 1.0), (C, 2.0), (A, 3.0)):
        balanced.record(name, seconds, session="s" if name == A else "")
    assert balanced.order("s") == [A, B, C]
    assert balanced.order("other") == [B, C, A]
    balanced.now = 3_601.0
    balanced.record(B, 1.0)
    balanced.record(A, 3.0)
    balanced.record(C, 2.0)
    assert balanced.order("s") == [B, C, A]


def test_a_session_id_of_another_client_keeps_no_target(tmp_path: Path) -> None:
    balanced = Balanced(tmp_path, 'balance = "latency"')
    for name, seconds in ((A, 3.0), (B, 1.0), (C, 2.0)):
        balanced.record(name, seconds, session="s" if name == A else "")
    assert (balanced.order("s")[0], balanced.order("s", key="other")[0]) == (A, B)


def test_the_key_of_a_session_in_the_store_is_short_and_random(tmp_path: Path) -> None:
    balanced = Balanced(tmp_path, 'balance = "latency"')
    keys: list[str] = []
    balanced.store.publish_to(lambda key, value, seconds: keys.append(key))
    balanced.record(A, 3.0, session="secret " * 8_000)
    balanced.record(B, 1.0)
    balanced.record(C, 1.0)
    assert balanced.order("secret " * 8_000)[0] == A
    assert max(map(len, keys)) < 80
    assert not any("secret" in key for key in keys)


def test_without_sticky_a_session_moves_to_the_lowest_latency(tmp_path: Path) -> None:
    balanced = Balanced(tmp_path, 'balance = "latency"\nsticky = false')
    for name, seconds in ((B, 1.0), (C, 2.0), (A, 3.0)):
        balanced.record(name, seconds, session="s")
    assert balanced.order("s") == [B, C, A]


def test_the_lowest_price_is_first(tmp_path: Path) -> None:
    balanced = Balanced(tmp_path, 'balance = "cost"', prices={A: 30.0, B: 20.0, C: 10.0})
    assert balanced.order("s") == [C, B, A]
