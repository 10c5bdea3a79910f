"""`python -m bench.routes`: CPU time to find the route of a request among 10,000, and to read the routes at the start.

Each set of routes is built so that the request matches no early route. The last column explains every route.
"""

import statistics
import time
from collections.abc import Callable

from anthropic_proxy.engine.hooks import Client
from anthropic_proxy.engine.messages.models import MessagesRequest
from anthropic_proxy.engine.options import ConfiguredRoute, RouteConditions
from anthropic_proxy.engine.routing.routes import CompiledRoutes, RequestFacts

COUNT = 10_000
_ROUNDS = 51
_HEADERS = {
    "user-agent": "claude-cli/2.1.328 (external, cli)",
    "x-claude-code-session-id": "8c7d3a52-60c7-4e32-9d5a-1f0f0c2b7e11",
    "x-project": "project-9999",
    "x-team": "team-9999-web",
    "x-long": "inner-" * 7_000,
    **{f"x-stainless-{number}": "value" for number in range(12)},
}
MAX_INPUT = 1_000_000

SETS: dict[str, Callable[[int], RouteConditions]] = {
    "one key each": lambda n: RouteConditions(key=f"key-{n}"),
    "one model and tier each": lambda n: RouteConditions(model=f"claude-opus-{n}", tier="opus"),
    "one project, thinking, input": lambda n: RouteConditions(project=f"project-{n}", thinking=True, input_above=n + 1),
    "one header pattern each": lambda n: RouteConditions(header={"x-team": f"team-{n}-*"}),
    "100 keys × 100 thresholds": lambda n: RouteConditions(key=f"key-{n // 100}", input_above=MAX_INPUT - n),
    "100 keys × 100 projects, times": lambda n: RouteConditions(
        key=f"key-{n // 100}", project=f"project-{n % 100}*", weekdays="mon"
    ),
    "a mixture of those above": lambda n: (
        RouteConditions(input_above=MAX_INPUT - n) if n % 500 == 0 else [*SETS.values()][n % 6](n)
    ),
    "thresholds only": lambda n: RouteConditions(input_above=MAX_INPUT - n),
    "one tier, thresholds": lambda n: RouteConditions(tier="opus", input_above=MAX_INPUT - n),
    "one pattern *…* each": lambda n: RouteConditions(project=f"*inner-{n}-*"),
    "one pattern *…*…* each": lambda n: RouteConditions(header={"x-long": f"*inner-{n}-*-*"}),
    "one expression each: a period, a pattern, a flag": lambda n: RouteConditions(
        header={"x-team": f"team-?{n}*[a-z]b"}, subagent=False, weekdays=["sat", "sun"], time_zone="UTC"
    ),
    "four headers each": lambda n: RouteConditions(
        header={f"x-stainless-{place}": f"value{'*' * (n % 2)}" if place < 3 else f"v{n}" for place in range(4)}
    ),
    "shares only": lambda n: RouteConditions(share=1e-6),
}
"""Name of a set → conditions of its route with a number."""


def new_facts() -> RequestFacts:
    """Return the facts about the request of the bench."""
    return RequestFacts(
        MessagesRequest(model="claude-opus-9999", messages=[]),
        model="claude-opus-9999",
        tier="opus",
        headers=_HEADERS,
        client=Client(name="key-99"),
        now=1_763_640_000.0,
        count_tokens=lambda _: 120_000,
    )


def _measure(find: Callable[[RequestFacts], object]) -> float:
    """Return the median CPU time of one call in milliseconds."""
    times = []
    for _ in range(_ROUNDS):
        facts, begun = new_facts(), time.process_time_ns()
        find(facts)
        times.append((time.process_time_ns() - begun) / 1e6)
    return statistics.median(times)


def main() -> None:
    """Print one row of a Markdown table for each set of routes."""
    print("| 10,000 routes | ms of CPU per request | compile, ms | explain, ms |")
    print("| --- | ---: | ---: | ---: |")
    for name, conditions in SETS.items():
        routes = [ConfiguredRoute(name=f"r{n}", when=conditions(n), targets=("haiku",)) for n in range(COUNT)]
        begun = time.process_time()
        rules = CompiledRoutes(routes)
        compiled = (time.process_time() - begun) * 1e3
        search, check = _measure(rules.find_matching_route), _measure(rules.check_routes)
        print(f"| {name} | {search:.3f} | {compiled:.0f} | {check:.1f} |")


if __name__ == "__main__":
    main()
