"""`RouteRules`: the routes of the configuration file, with a fast search for the first one that matches a request.

A route matches if the request meets all its conditions. `find_matching_route` returns the first such route.
`check_routes` explains the search to users by a `RouteCheck` for each checked route. `describe_conditions` returns the
conditions of a route as text.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import translate
from itertools import accumulate
from operator import or_

from msgspec import Struct

from anthropic_proxy.routing.rules.request_facts import DRAW_COUNT, RequestFacts, draw_factor, share_threshold
from anthropic_proxy.settings import ConfiguredRoute, TimePeriod, list_condition_texts
from anthropic_proxy.settings.values import join_with_or

WILDCARDS = frozenset("*?[")
"""Characters that make a text a pattern of `fnmatch`. A text without them is a name, compared in full."""
_CONDITIONS_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_NAMES = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_CONDITIONS_MINUTES_PER_DAY = 24 * 60
MAX_PATTERN_TEXT = 256
"""Maximum characters of a value that is compared with patterns, because longer comparisons take too long. Patterns with
only a fixed beginning (`gpt-*`) have no maximum."""
READS_BODY = frozenset({"thinking", "background", "images", "pdfs", "input"})
"""Names of conditions that need the decoded messages or other fields of the request body."""


class Condition(Struct, frozen=True, eq=False):
    """One condition of a route, as a function that checks a request, and as text for users.

    A route matches a request that meets all its conditions.
    """

    name: str
    """Name of the field of `when`. `input` and `time` are conditions that join several fields."""
    requirement: str
    """The required value as text for users: `input above 200,000 tokens`."""
    is_met: Callable[[RequestFacts], bool]
    """Returns True if a request meets the condition."""
    describe_value: Callable[[RequestFacts], str]
    """Returns the actual value of a request as text for users: `the input has about 1,234 tokens`."""


class TextPattern:
    """Names and `fnmatch` patterns of a condition, one of which must match a text of the request.

    If `ignores_case` is True (for model ids), the compared text must be in lower case.
    """

    def __init__(self, patterns: Sequence[str], *, ignores_case: bool = False) -> None:
        texts = [text.lower() for text in patterns] if ignores_case else list(patterns)
        self._names = {text for text in texts if not WILDCARDS.intersection(text)}
        self._beginnings = tuple(text[:-1] for text in texts if text[-1:] == "*" and not WILDCARDS & {*text[:-1]})
        others = [text for text in texts if text not in self._names and text[:-1] not in self._beginnings]
        self._others = [re.compile(translate(text)) for text in others]

    def matches(self, text: str) -> bool:
        """Return True if one of the names and patterns matches the text. A pattern never matches an empty text."""
        if text in self._names or (text and text.startswith(self._beginnings)):
            return True
        return 0 < len(text) <= MAX_PATTERN_TEXT and any(pattern.match(text) for pattern in self._others)


def compile_conditions(route: ConfiguredRoute) -> tuple[Condition, ...]:
    """Return the conditions of a route in the order of their checks.

    The first condition that is not met ends the checks. So those with little work come first, and the token count is
    last.
    """
    when = route.when
    found = [
        *_compile_names(route),
        *_compile_headers(route),
        *_compile_time(route),
        *_compile_share(route),
        *_compile_flag("subagent", when.subagent, "a sub-agent", "no sub-agent", lambda facts: facts.subagent),
        *_compile_flag("web_search", when.web_search, "web search", "no web search", lambda facts: facts.web_search),
        *_compile_flag("thinking", when.thinking, "thinking", "no thinking", lambda facts: facts.thinking),
        *_compile_flag(
            "background", when.background, "a background call", "no background call", lambda facts: facts.background
        ),
        *_compile_flag("images", when.images, "images", "no images", lambda facts: facts.images),
        *_compile_flag("pdfs", when.pdfs, "PDFs", "no PDFs", lambda facts: facts.pdfs),
        *_compile_input(when.input_above, when.input_below),
    ]
    return tuple(found)


def _compile_names(route: ConfiguredRoute) -> list[Condition]:
    """Return the conditions of a route on Claude tier, model id, client key, team and project."""
    when, found = route.when, []
    if tiers := list_condition_texts(when.tier):
        allowed = frozenset(tiers)
        found.append(
            Condition(
                "tier",
                f"tier {join_with_or(tiers)}",
                lambda facts: facts.tier in allowed,
                lambda facts: f"the tier is {facts.tier}" if facts.tier else "the model has no tier",
            )
        )
    if models := list_condition_texts(when.model):
        pattern = TextPattern(models, ignores_case=True)
        found.append(_name_condition("model", models, pattern, lambda facts: facts.model))
    if keys := list_condition_texts(when.key):
        found.append(_name_condition("key", keys, TextPattern(keys), lambda facts: facts.key))
    if teams := list_condition_texts(when.team):
        found.append(_name_condition("team", teams, TextPattern(teams), lambda facts: facts.team))
    if projects := list_condition_texts(when.project):
        found.append(_name_condition("project", projects, TextPattern(projects), lambda facts: facts.project))
    return found


def _name_condition(
    name: str, texts: Sequence[str], pattern: TextPattern, read: Callable[[RequestFacts], str]
) -> Condition:
    def describe_value(facts: RequestFacts) -> str:
        return f"the {name} is {text}" if (text := read(facts)) else f"there is no {name}"

    return Condition(name, f"{name} {join_with_or(texts)}", lambda facts: pattern.matches(read(facts)), describe_value)


def _compile_headers(route: ConfiguredRoute) -> list[Condition]:
    found = []
    for given, value in (route.when.header or {}).items():
        texts, name = list_condition_texts(value), given.lower()
        found.append(_header_condition(name, texts, TextPattern(texts)))
    return found


def _header_condition(name: str, texts: Sequence[str], pattern: TextPattern) -> Condition:
    def is_met(facts: RequestFacts) -> bool:
        return (text := facts.headers.get(name)) is not None and pattern.matches(text)

    def describe_value(facts: RequestFacts) -> str:
        text = facts.headers.get(name)
        return "the header is absent" if text is None else f"the header is {text or 'empty'}"

    return Condition(f"header {name}", f"header {name} {join_with_or(texts)}", is_met, describe_value)


def _compile_time(route: ConfiguredRoute) -> list[Condition]:
    when = route.when
    days = frozenset(_CONDITIONS_DAYS.index(day) for day in list_condition_texts(when.weekdays)) or frozenset(range(7))
    periods, zone = route.periods or (TimePeriod(0, _CONDITIONS_MINUTES_PER_DAY),), when.time_zone
    words = [" or ".join(list_condition_texts(when.time)), " or ".join(list_condition_texts(when.weekdays))]
    if not any(words):
        return []

    def is_met(facts: RequestFacts) -> bool:
        day, minute = facts.local_weekday_and_minute(zone)
        return any(_contains(period, day, minute, days) for period in periods)

    def describe_value(facts: RequestFacts) -> str:
        day, minute = facts.local_weekday_and_minute(zone)
        return f"it is {_DAY_NAMES[day]} {minute // 60:02}:{minute % 60:02}{place}"

    place = f" ({zone})" if zone else ""
    return [Condition("time", f"time {' on '.join(filter(None, words))}{place}", is_met, describe_value)]


def _contains(period: TimePeriod, day: int, minute: int, days: frozenset[int]) -> bool:
    """Return True if a time of day on a day of the week is in a period, for example 22:00 to 06:00.

    `day`: 0 is Monday. `minute`: minutes since midnight. `days`: days on which the period may start. The time after
    midnight belongs to a period that started the day before.
    """
    if period.start < period.end:
        return period.start <= minute < period.end and day in days
    if minute >= period.start:
        return day in days
    return minute < period.end and (day - 1) % 7 in days


def _compile_share(route: ConfiguredRoute) -> list[Condition]:
    share, name = route.when.share, route.name
    if share is None:
        return []
    factor, threshold = draw_factor(name), share_threshold(share)
    return [
        Condition(
            "share",
            f"{share:g} % of the sessions",
            lambda facts: facts.draw_integer(factor) < threshold,
            lambda facts: f"this session is at {facts.draw_percent(name):.1f} %",
        )
    ]


def _compile_flag(
    name: str, wanted: bool | None, positive: str, negative: str, read: Callable[[RequestFacts], bool]
) -> list[Condition]:
    if wanted is None:
        return []
    return [
        Condition(
            name,
            positive if wanted else negative,
            lambda facts: read(facts) is wanted,
            lambda facts: f"the request has {positive if read(facts) else negative}",
        )
    ]


def _compile_input(above: int | None, below: int | None) -> list[Condition]:
    limits = [f"above {above:,}" if above is not None else "", f"below {below:,}" if below is not None else ""]
    if not any(limits):
        return []
    lower, upper = -1 if above is None else above, float("inf") if below is None else below
    return [
        Condition(
            "input",
            f"input {' and '.join(filter(None, limits))} tokens",
            lambda facts: lower < facts.input_tokens < upper,
            lambda facts: f"the input has about {facts.input_tokens:,} tokens",
        )
    ]


class RouteCheck(Struct, frozen=True):
    """Explanation for users why a route of the configuration file matches a request, or does not."""

    route: ConfiguredRoute
    """Route of the configuration file of which the conditions were checked."""
    failed: str = ""
    """First condition that the request does not meet, with the request's value. "": the route matches."""
    met: Sequence[str] = ()
    """Conditions that the request meets, with the request's values. Empty: no match, or the route has no conditions."""


class _CompiledRoute(Struct, frozen=True, eq=False):
    route: ConfiguredRoute
    conditions: tuple[Condition, ...]


class RouteRules:
    """The routes of the configuration file in its order, prepared for a fast search."""

    def __init__(self, routes: Sequence[ConfiguredRoute]) -> None:
        self._routes = [_CompiledRoute(route, compile_conditions(route)) for route in routes]
        names = {condition.name for compiled in self._routes for condition in compiled.conditions}
        self.reads_body = bool(names & READS_BODY)
        """True if a condition needs the messages or other fields of the body."""
        self.uses_session = "share" in names or any(route.balance != "order" and route.sticky for route in routes)
        """True if the session of a request decides about its target."""
        filters = build_filters(routes)
        self._all = (1 << len(routes)) - 1
        unchecked = [*accumulate((each.routes for each in reversed(filters)), or_, initial=0)][::-1]
        self._filters = list(zip(filters, unchecked[:-1], strict=True))
        """Filters, each with the routes that this filter or a later one checks."""

    def find_matching_route(self, facts: RequestFacts) -> ConfiguredRoute | None:
        """Return the first route that matches a request. None: no route matches."""
        candidates = self._all
        for each, unchecked in self._filters:
            if matching := candidates & ~unchecked:  # later routes than the first of these have no effect
                candidates &= (matching & -matching) * 2 - 1
            if asked := candidates & each.routes:
                candidates ^= asked & ~each.find(facts, asked)
        return self._routes[(candidates & -candidates).bit_length() - 1].route if candidates else None

    def check_routes(self, facts: RequestFacts) -> list[RouteCheck]:
        """Return an explanation for each route in order, up to the first route that matches the request.

        The explanation of the matching route lists its conditions. The others have the first condition that is not met.
        """
        checks: list[RouteCheck] = []
        for compiled in self._routes:
            failed = next((each for each in compiled.conditions if not each.is_met(facts)), None)
            if failed is None:
                met = [f"{each.requirement}: {each.describe_value(facts)}" for each in compiled.conditions]
                return [*checks, RouteCheck(compiled.route, met=met)]
            checks.append(RouteCheck(compiled.route, f"needs {failed.requirement}, but {failed.describe_value(facts)}"))
        return checks


def describe_conditions(route: ConfiguredRoute) -> str:
    """Return the conditions of a route as text for users: `tier opus, input above 200,000 tokens`."""
    return ", ".join(condition.requirement for condition in compile_conditions(route)) or "every request"


Interval = tuple[int, float]
"""First integer of an interval, and the first integer after it. Infinity: the interval has no upper limit."""
_WILDCARD = re.compile(r"[*?]|\[!?+\]?+[^\]]*\]")
"""Pattern of one wildcard of `fnmatch`: `*`, `?` or `[…]`. A bracket that is not closed is a literal character."""
_BLOCK = 64
"""Number of sorted interval limits for which one set of routes is stored. A search starts at the nearest stored set."""
_MAX_SINGLE_DRAWS = 64
"""Maximum number of routes for which draws are computed one by one. For more routes, one multiplication is used."""
_LANE_BYTES = 8
"""Bytes for one route in the large integers in which the numbers of all routes are joined."""
_CARRY_BYTE = 4
"""Index of the byte that contains bit 32 of a route's number, counted from the lowest byte of its `_LANE_BYTES`."""
_IS_SET = bytes([ord("0"), ord("1"), *[ord("0")] * 254])
"""Table for `bytes.translate`: byte 1 becomes the digit `1`, every other byte becomes `0`."""


def build_route_set(positions: Iterable[int]) -> int:
    """Return a set of route numbers as one integer, in which bit n is set if `positions` contains n."""
    digits = bytearray()
    for position in positions:
        if position // 8 >= len(digits):
            digits.extend(bytes(position // 8 + 1 - len(digits)))
        digits[position // 8] |= 1 << position % 8
    return int.from_bytes(digits, "little")


class IntervalIndex:
    """Index of routes with a condition on a number, such as 1,000 to 2,000 input tokens.

    `intervals` maps the position of a route in the file to its allowed intervals.
    """

    def __init__(self, intervals: Mapping[int, Iterable[Interval]]) -> None:
        limits = sorted(
            (limit, position)
            for position, found in intervals.items()
            for interval in _merge(found)
            for limit in interval
            if limit != float("inf")
        )
        self._limits = [limit for limit, _ in limits]
        self._positions = [position for _, position in limits]
        blocks = [self._positions[start : start + _BLOCK] for start in range(0, len(limits), _BLOCK)]
        self._sets = list(accumulate(blocks, _change, initial=0))
        """For each block of sorted interval limits: set of the routes with an interval that contains its beginning."""

    def find_routes(self, number: int) -> int:
        """Return the routes with an interval that contains `number`, as an integer with one bit for each route."""
        count = bisect_right(self._limits, number)
        block = count // _BLOCK
        return _change(self._sets[block], self._positions[block * _BLOCK : count])


def _change(routes: int, positions: Iterable[int]) -> int:
    """Return a set of routes after some interval limits. `positions`: route of each limit.

    A limit is the start or the end of an interval: it adds its route to the set, or removes the route.
    """
    for position in positions:
        routes ^= 1 << position
    return routes


def _merge(intervals: Iterable[Interval]) -> Iterator[Interval]:
    """Yield intervals in ascending order, with overlapping ones joined to one."""
    merged: list[list[float]] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        elif start < end:
            merged.append([start, end])
    yield from ((int(start), end) for start, end in merged)


class _Pattern(Struct, frozen=True):
    """A pattern of one or more routes. A search compares a text with it only if the text contains its literal piece.

    The literal piece is the text of the pattern between two wildcards.
    """

    routes: int
    match: Callable[[str], object] | None
    """Function that compares a text with the pattern. None: a text with the literal piece matches without a
    comparison."""


class TextIndex:
    """Index of routes with a condition on a text, such as the model id.

    If `ignores_case` is True, `find_routes` must be called with texts in lower case.
    """

    # A pattern is stored under one of its literal pieces (text between wildcards), which as few other patterns as
    # possible contain.

    def __init__(self, texts: Mapping[int, Sequence[str]], *, ignores_case: bool = False) -> None:
        positions: dict[str, list[int]] = {}
        for position, alternatives in texts.items():
            for text in alternatives:
                positions.setdefault(text.lower() if ignores_case else text, []).append(position)
        routes = {text: build_route_set(found) for text, found in positions.items()}
        self._names = {text: found for text, found in routes.items() if not WILDCARDS.intersection(text)}
        self._beginnings = {text[:-1]: found for text, found in routes.items() if _is_beginning(text)}
        self._lengths = sorted({len(text) for text in self._beginnings})
        self._patterns: dict[str, dict[str, list[_Pattern]]] = {"start": {}, "end": {}, "inner": {}}
        self._add_patterns({text: found for text, found in routes.items() if not _is_simple(text)})
        self._pattern_lengths = {kind: sorted({*map(len, found)}) for kind, found in self._patterns.items()}

    def find_routes(self, text: str) -> int:
        """Return the routes with a name or pattern that matches `text`, as an integer with one bit for each route.

        A pattern does not match an empty text.
        """
        found = self._names.get(text, 0)
        if not text:
            return found
        for length in self._lengths:
            if length > len(text):
                break
            found |= self._beginnings.get(text[:length], 0)
        if len(text) <= MAX_PATTERN_TEXT:
            for pattern in self._list_candidates(text):
                if pattern.match is None or pattern.match(text):
                    found |= pattern.routes
        return found

    def _add_patterns(self, patterns: Mapping[str, int]) -> None:
        pieces = {text: _list_pieces(text) for text in patterns}
        counts = Counter(piece for found in pieces.values() for piece in found)
        for text, routes in patterns.items():
            kind, piece = min(pieces[text], key=lambda each: (counts[each], -len(each[1])))
            is_enough = text == {"start": f"{piece}*", "end": f"*{piece}", "inner": f"*{piece}*"}[kind]
            match = None if is_enough and piece else re.compile(translate(text)).match
            self._patterns[kind].setdefault(piece, []).append(_Pattern(routes, match))

    def _list_candidates(self, text: str) -> Iterator[_Pattern]:
        """Yield the patterns with a literal piece that is in the text at the required place: start, end or inside."""
        start, end, inner = self._patterns["start"], self._patterns["end"], self._patterns["inner"]
        if start:
            for length in self._pattern_lengths["start"]:
                yield from start.get(text[:length], ())
        if end:
            for length in self._pattern_lengths["end"]:
                yield from end.get(text[-length:], ())
        if inner:
            for piece in self._list_inner(text):
                yield from inner[piece]

    def _list_inner(self, text: str) -> Iterable[str]:
        """Return the literal pieces from inside of patterns that the text contains.

        Either each piece is searched in the text, or each substring of the text among the pieces; the faster method is
        used.
        """
        pieces, lengths = self._patterns["inner"], self._pattern_lengths["inner"]
        if len(pieces) <= len(lengths) * len(text):
            return [piece for piece in pieces if piece in text]
        found = {text[start : start + length] for length in lengths for start in range(len(text) - length + 1)}
        return found & pieces.keys()


def _is_beginning(text: str) -> bool:
    return text.endswith("*") and not WILDCARDS.intersection(text[:-1])


def _is_simple(text: str) -> bool:
    return not WILDCARDS.intersection(text) or _is_beginning(text)


def _list_pieces(pattern: str) -> Sequence[tuple[str, str]]:
    """Return the texts between the wildcards of a pattern, each after its place: `start`, `end` or `inner`."""
    start, *inner, end = _WILDCARD.split(pattern) if _WILDCARD.search(pattern) else (pattern, pattern)
    found = [("start", start), ("end", end), *(("inner", piece) for piece in inner)]
    return [piece for piece in found if piece[1]] or [("start", "")]


class ShareIndex:
    """Index of routes that match only a share of the sessions, for example 10 %.

    `shares` maps the position of a route in the file to its name and its share in percent.
    """

    # A draw has 32 bits: the lower half of the route's factor times the number of the session. For many routes, one
    # multiplication of a large integer, in which the factors of all routes are joined, computes all draws.

    def __init__(self, shares: Mapping[int, tuple[str, float]]) -> None:
        self._draws = {
            position: (draw_factor(name), share_threshold(share)) for position, (name, share) in shares.items()
        }
        self.routes = build_route_set(shares)
        self._count = max(shares, default=-1) + 1
        rows = [self._draws.get(position, (0, 0)) for position in range(self._count)]
        self._lower_half = self._join([DRAW_COUNT - 1] * self._count)
        self._factors = self._join(factor for factor, _ in rows)
        self._limits = self._join(threshold + DRAW_COUNT - 1 for _, threshold in rows)

    def find_routes(self, session_hash: int, candidate_routes: int) -> int:
        """Return the routes among `candidate_routes` that match a session, because it belongs to their share.

        Both sets of routes are integers with one bit for each route.
        """
        asked = candidate_routes & self.routes
        if asked.bit_count() > _MAX_SINGLE_DRAWS:
            return asked & self._find_all(session_hash)
        found = 0
        while asked:
            bit = asked & -asked
            asked ^= bit
            factor, threshold = self._draws[bit.bit_length() - 1]
            if factor * session_hash % DRAW_COUNT < threshold:
                found |= bit
        return found

    def _find_all(self, session_hash: int) -> int:
        """Return the set of all routes that match the session `session_hash`, because its draw is below their share.

        For these routes, bit 32 of the sum limit + 2**32 - 1 - draw is 1.
        """
        differences = self._limits - (self._factors * session_hash & self._lower_half)
        carries = differences.to_bytes(_LANE_BYTES * self._count, "big")[_LANE_BYTES - 1 - _CARRY_BYTE :: _LANE_BYTES]
        return int(carries.translate(_IS_SET), 2)

    def _join(self, numbers: Iterable[int]) -> int:
        return int.from_bytes(b"".join(number.to_bytes(_LANE_BYTES, "little") for number in numbers), "little")


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
