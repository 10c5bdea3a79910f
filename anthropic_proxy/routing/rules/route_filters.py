"""`build_filters`: builds filters that find the routes that match a request, for many routes at once.

There is one `RouteFilter` for each kind of condition, such as the model id. A set of routes is stored as an integer, in
which bit n is route n of the configuration file. `list_week_intervals` returns the times at which a route matches.
"""

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from anthropic_proxy.routing.rules.condition_index import (
    Interval,
    IntervalIndex,
    ShareIndex,
    TextIndex,
    build_route_set,
)
from anthropic_proxy.routing.rules.request_facts import RequestFacts
from anthropic_proxy.settings import ConfiguredRoute, list_condition_texts

_MINUTES_PER_DAY = 24 * 60
_MINUTES_PER_WEEK = 7 * _MINUTES_PER_DAY
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class RouteFilter(Struct, frozen=True, eq=False):
    """Filter that removes routes with an unmet condition of one kind, such as the model id.

    It checks all routes at once. Routes without a condition of this kind pass the filter.
    """

    routes: int
    """Set of the routes that have this kind of condition. All other routes pass the filter."""
    find: Callable[[RequestFacts, int], int]
    """Returns the set of those `routes` with a condition of this kind that a request meets.

    The second argument is the set of routes that still match. The filter may ignore all other routes."""


def build_filters(routes: Sequence[ConfiguredRoute]) -> Sequence[RouteFilter]:
    """Return one filter for each kind of condition that the routes contain.

    Filters with little work come first, so that few routes remain for the others.
    """
    found = [
        _filter_texts(routes, lambda route: route.when.tier, lambda facts: facts.tier),
        _filter_texts(routes, lambda route: route.when.model, lambda facts: facts.model, ignores_case=True),
        _filter_texts(routes, lambda route: route.when.key, lambda facts: facts.key),
        _filter_texts(routes, lambda route: route.when.team, lambda facts: facts.team),
        _filter_texts(routes, lambda route: route.when.project, lambda facts: facts.project),
        *_filter_headers(routes),
        *_filter_times(routes),
        _filter_flag(routes, lambda route: route.when.subagent, lambda facts: facts.subagent),
        _filter_flag(routes, lambda route: route.when.web_search, lambda facts: facts.web_search),
        _filter_flag(routes, lambda route: route.when.thinking, lambda facts: facts.thinking),
        _filter_flag(routes, lambda route: route.when.background, lambda facts: facts.background),
        _filter_shares(routes),
        _filter_flag(routes, lambda route: route.when.images, lambda facts: facts.images),
        _filter_flag(routes, lambda route: route.when.pdfs, lambda facts: facts.pdfs),
        _filter_input(routes),
    ]
    return [each for each in found if each.routes]


def _filter_texts(
    routes: Sequence[ConfiguredRoute],
    list_texts: Callable[[ConfiguredRoute], str | Sequence[str] | None],
    read: Callable[[RequestFacts], str],
    *,
    ignores_case: bool = False,
) -> RouteFilter:
    texts = {
        position: found for position, route in enumerate(routes) if (found := list_condition_texts(list_texts(route)))
    }
    index = TextIndex(texts, ignores_case=ignores_case)
    return RouteFilter(build_route_set(texts), lambda facts, _: index.find_routes(read(facts)))


def _filter_headers(routes: Sequence[ConfiguredRoute]) -> list[RouteFilter]:
    """Return filters that find the routes with conditions on request headers that a request meets.

    The first filter checks the first header condition of each route, the second filter the second condition, and so on.
    Only headers that the request has are searched, so routes with other header names cost nothing.
    """
    filters = []
    given = [[*(route.when.header or {}).items()] for route in routes]
    for number in range(max(map(len, given), default=0)):
        texts: dict[str, dict[int, Sequence[str]]] = {}
        for position, headers in enumerate(given):
            if number < len(headers):
                name, value = headers[number]
                texts.setdefault(name.lower(), {})[position] = list_condition_texts(value)
        indexes = {name: TextIndex(found) for name, found in texts.items()}
        asked = build_route_set(position for found in texts.values() for position in found)
        filters.append(RouteFilter(asked, _header_search(indexes)))
    return filters


def _header_search(indexes: Mapping[str, TextIndex]) -> Callable[[RequestFacts, int], int]:
    def find(facts: RequestFacts, _: int) -> int:
        found = 0
        for name in facts.headers.keys() & indexes.keys():
            found |= indexes[name].find_routes(facts.headers[name])
        return found

    return find


def _filter_times(routes: Sequence[ConfiguredRoute]) -> list[RouteFilter]:
    """Return one filter per time zone in the routes.

    A filter finds the routes with a condition on the time of day or the weekday that holds at the time of the request.
    """
    zones: dict[str | None, dict[int, Sequence[Interval]]] = {}
    for position, route in enumerate(routes):
        if list_condition_texts(route.when.time) or list_condition_texts(route.when.weekdays):
            zones.setdefault(route.when.time_zone, {})[position] = list_week_intervals(route)
    return [
        RouteFilter(build_route_set(found), _time_search(zone, IntervalIndex(found))) for zone, found in zones.items()
    ]


def _time_search(zone: str | None, index: IntervalIndex) -> Callable[[RequestFacts, int], int]:
    def find(facts: RequestFacts, _: int) -> int:
        day, minute = facts.local_weekday_and_minute(zone)
        return index.find_routes(day * _MINUTES_PER_DAY + minute)

    return find


def list_week_intervals(route: ConfiguredRoute) -> Sequence[Interval]:
    """Return the times of the week at which a route matches, as intervals in minutes since Monday 00:00."""
    days = [_DAYS.index(day) for day in list_condition_texts(route.when.weekdays)] or range(7)
    found: list[Interval] = []
    for period in route.periods or ():
        length = (period.end - period.start) % _MINUTES_PER_DAY or _MINUTES_PER_DAY
        for day in days:
            start = day * _MINUTES_PER_DAY + period.start
            found += (start, min(start + length, _MINUTES_PER_WEEK)), (0, max(start + length - _MINUTES_PER_WEEK, 0))
    return found or [(day * _MINUTES_PER_DAY, (day + 1) * _MINUTES_PER_DAY) for day in days]


def _filter_flag(
    routes: Sequence[ConfiguredRoute],
    wanted: Callable[[ConfiguredRoute], bool | None],
    read: Callable[[RequestFacts], bool],
) -> RouteFilter:
    with_flag = build_route_set(position for position, route in enumerate(routes) if wanted(route) is True)
    without = build_route_set(position for position, route in enumerate(routes) if wanted(route) is False)
    return RouteFilter(with_flag | without, lambda facts, _: with_flag if read(facts) else without)


def _filter_shares(routes: Sequence[ConfiguredRoute]) -> RouteFilter:
    index = ShareIndex(
        {
            position: (route.name, route.when.share)
            for position, route in enumerate(routes)
            if route.when.share is not None
        }
    )
    return RouteFilter(index.routes, lambda facts, candidates: index.find_routes(facts.session_hash, candidates))


def _filter_input(routes: Sequence[ConfiguredRoute]) -> RouteFilter:
    intervals: dict[int, Sequence[Interval]] = {}
    for position, route in enumerate(routes):
        above, below = route.when.input_above, route.when.input_below
        if above is not None or below is not None:
            end = float("inf") if below is None else below
            intervals[position] = [(0 if above is None else above + 1, end)]
    index = IntervalIndex(intervals)
    return RouteFilter(build_route_set(intervals), lambda facts, _: index.find_routes(facts.input_tokens))
