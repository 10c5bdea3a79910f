"""The index of the routes: it finds the same route as a check of all routes in their order."""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from anthropic_proxy.messages.models import MessagesRequest
from anthropic_proxy.routing.rules import RequestFacts, RouteRules
from anthropic_proxy.settings import ConfiguredRoute, RouteConditions, TimePeriod
from bench.routes import SETS
from bench.routes import new_facts as new_bench_facts

MODELS = ["claude-opus-5", "GPT-5", "gpt-5-mini", "claude-*", "claude-opus-*", "*-mini", "gpt-?", "*-5-*", "[cg]*5*i"]
NAMES = [
    "a",
    "ab",
    "abc",
    "a*",
    "ab*",
    "*c",
    "b",
    "*",
    "?",
    "*b*",
    "a?c",
    "[ab]",
    "[!a]*",
    "*[bc]",
    "a[",
    "[]a]b",
    "**c",
]
TEXTS = ["", "a", "ab", "abc", "acb", "b", "c", "a[", "]b", "abc" * 100]
ROUTE_COUNT = 2_000
MAX_STEPS = 1_200
"""Upper limit of the bytecode instructions to find a route. A check of all routes needs 10 for each."""


def one_or_more(texts: list[str]) -> st.SearchStrategy[Any]:
    return st.none() | st.sampled_from(texts) | st.lists(st.sampled_from(texts), min_size=1, max_size=3)


CONDITIONS = st.builds(
    RouteConditions,
    tier=one_or_more(["opus", "sonnet"]),
    model=one_or_more(MODELS),
    key=one_or_more(NAMES),
    team=one_or_more(NAMES),
    project=one_or_more(NAMES),
    header=st.none() | st.dictionaries(st.sampled_from(["x-a", "X-B"]), st.sampled_from(NAMES), max_size=2),
    subagent=st.none() | st.booleans(),
    web_search=st.none() | st.booleans(),
    thinking=st.none() | st.booleans(),
    background=st.none() | st.booleans(),
    images=st.none() | st.booleans(),
    weekdays=one_or_more(["mon", "thu", "sun"]),
    time_zone=st.sampled_from(["UTC", "Asia/Tokyo"]),
    share=st.none() | st.sampled_from([1, 50, 100]),
    input_above=st.none() | st.sampled_from([0, 10, 20]),
    input_below=st.none() | st.sampled_from([10, 20]),
)
MINUTES = st.sampled_from([0, 480, 481, 1_439])
PERIODS = st.lists(st.builds(TimePeriod, MINUTES, MINUTES), max_size=2).map(tuple)
ROUTES = st.builds(
    lambda when, periods: ConfiguredRoute(
        name="",
        when=structs.replace(when, time="08:00-09:00" if periods else None),
        periods=periods,
        targets=("haiku",),
    ),
    CONDITIONS,
    PERIODS,
)
FACTS = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["claude-opus-5", "claude-opus-5-5", "gpt-5-mini", "gpt-5", "o3"]),
        "tier": st.sampled_from(["opus", "sonnet", ""]),
        "key": st.sampled_from(TEXTS),
        "team": st.sampled_from(TEXTS),
        "headers": st.dictionaries(
            st.sampled_from(["x-a", "x-b", "x-project", "x-claude-code-agent-id", "x-claude-code-session-id"]),
            st.sampled_from(TEXTS),
        ),
        "now": st.integers(0, 14 * 24 * 60).map(lambda minutes: minutes * 60.0),
        "tokens": st.sampled_from([0, 5, 10, 15, 25]),
    }
)


def new_facts(drawn: Mapping[str, Any]) -> RequestFacts:
    return RequestFacts(
        MessagesRequest(model=drawn["model"], messages=[]),
        model=drawn["model"],
        tier=drawn["tier"],
        headers=drawn["headers"],
        key=drawn["key"],
        team=drawn["team"],
        now=drawn["now"],
        count_tokens=lambda _: int(drawn["tokens"]),
    )


def require_first_match(routes: list[ConfiguredRoute], requests: list[dict[str, Any]]) -> None:
    routes = [structs.replace(route, name=str(number)) for number, route in enumerate(routes)]
    rules = RouteRules(routes)
    for drawn in requests:
        checks = rules.check_routes(new_facts(drawn))  # checks all routes in their order
        expected = checks[-1].route if checks and not checks[-1].failed else None
        assert rules.find_matching_route(new_facts(drawn)) is expected


@settings(deadline=None)
@given(st.lists(ROUTES, max_size=12), st.lists(FACTS, min_size=1, max_size=8))
def test_the_index_finds_the_first_matching_route(
    routes: list[ConfiguredRoute], requests: list[dict[str, Any]]
) -> None:
    require_first_match(routes, requests)


@settings(deadline=None)
@given(st.data(), st.sampled_from(RouteConditions.__struct_fields__), st.lists(FACTS, min_size=1, max_size=8))
def test_the_index_of_one_kind_of_condition_finds_the_first_matching_route(
    data: st.DataObject, name: str, requests: list[dict[str, Any]]
) -> None:
    """Many routes with the same kind of condition, of which any may match."""

    def keep_one(route: ConfiguredRoute) -> ConfiguredRoute:
        kept = {name: getattr(route.when, name), "time_zone": route.when.time_zone}
        return structs.replace(route, when=RouteConditions(**kept))

    require_first_match(data.draw(st.lists(ROUTES.map(keep_one), max_size=80)), requests)


def count_steps(function: Callable[[], object]) -> int:
    """Return the number of bytecode instructions that a function executes."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("name", SETS)
def test_thousands_of_routes_need_little_work(name: str) -> None:
    routes = [ConfiguredRoute(name=f"r{n}", when=SETS[name](n), targets=("haiku",)) for n in range(ROUTE_COUNT)]
    RouteRules(routes[:12]).find_matching_route(new_bench_facts())  # it imports modules and loads the time zone
    assert count_steps(partial(RouteRules(routes).find_matching_route, new_bench_facts())) < MAX_STEPS
