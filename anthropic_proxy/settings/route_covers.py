"""Search for routes of the configuration file that are never used, because an earlier route matches all their requests.

Only the first route that matches a request is used. A route covers a later one if it matches all requests of the later
one. `EarlierRoutes.find_covering_route` returns a route that covers a given one. `matches_every_request` detects
conditions that exclude no request.
"""

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import islice

from msgspec import Struct, structs

from anthropic_proxy.settings.route_format import ConfiguredRoute, RouteConditions, TimePeriod, list_condition_texts

_WILDCARDS = "*?["
_FLAGS = ("thinking", "images", "pdfs", "web_search", "background", "subagent")
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MINUTES_PER_DAY = 24 * 60
_MAX_COMPARED = 50
"""Maximum number of earlier routes with a common condition text with which a route is compared."""
_IndexKey = tuple[str, str]
"""Key of the index: name of a condition, and a name or the beginning of a pattern. "": any text."""


class _Compared(Struct, frozen=True, eq=False):
    """A route with its conditions, prepared for the comparison in `_covers`."""

    route: ConfiguredRoute
    texts: Mapping[str, Sequence[str]]
    """Condition that compares a text (`header x-team`) → its names and patterns."""
    flags: Mapping[str, bool]
    """Condition with a boolean value (`thinking`, `images`) → this value."""


class EarlierRoutes:
    """Set of earlier routes, with which each later route is compared.

    Call `find_covering_route` for each route in the order of the file. If the result is None, call `add`, so that later
    routes are compared with this route too.
    """

    def __init__(self) -> None:
        self._identical: dict[str, ConfiguredRoute] = {}
        self._index: dict[_IndexKey, list[_Compared]] = {}

    def add(self, route: ConfiguredRoute) -> None:
        """Add `route` to the routes with which later routes are compared."""
        # a route for a share of the sessions cannot match all requests of another route
        if not _matches_every_session(route.when):
            return
        self._identical.setdefault(repr(route.when), route)
        compared = _prepare(route)
        for key in _list_index_keys(compared):
            self._index.setdefault(key, []).append(compared)

    def find_covering_route(self, route: ConfiguredRoute) -> ConfiguredRoute | None:
        """Return an earlier route that matches all requests of `route`, so that `route` is never used.

        None: no such route was found.
        """
        if (identical := self._identical.get(repr(route.when))) is not None:
            return identical
        compared = _prepare(route)
        for key in _list_searched_keys(compared):
            for earlier in islice(self._index.get(key, ()), _MAX_COMPARED):
                if _covers(earlier, compared):
                    return earlier.route
        return None


def matches_every_request(when: RouteConditions) -> bool:
    """Return True if `when`, the conditions of a route, match every request.

    A `share` of 100 % counts as no condition.
    """
    return _matches_every_session(when) and structs.replace(when, share=None) == RouteConditions()


def _matches_every_session(when: RouteConditions) -> bool:
    return when.share is None or when.share >= 100


def _prepare(route: ConfiguredRoute) -> _Compared:
    """Return a route prepared for comparisons. Conditions with many different texts come first, as index keys."""
    when = route.when
    texts = {name: list_condition_texts(getattr(when, name)) for name in ("key", "team", "project")}
    texts |= {f"header {name.lower()}": list_condition_texts(value) for name, value in (when.header or {}).items()}
    texts |= {
        "model": [text.lower() for text in list_condition_texts(when.model)],
        "tier": list_condition_texts(when.tier),
    }
    values = (when.thinking, when.images, when.pdfs, when.web_search, when.background, when.subagent)
    flags = {name: flag for name, flag in zip(_FLAGS, values, strict=True) if flag is not None}
    return _Compared(route, {name: found for name, found in texts.items() if found}, flags)


def _list_index_keys(compared: _Compared) -> Iterator[_IndexKey]:
    """Yield the index keys under which an earlier route is stored, so that later routes find it."""
    for name, texts in compared.texts.items():
        yield from {(name, _literal_start(text)) for text in texts}
        return
    yield next(_list_other_names(compared), ""), ""


def _list_searched_keys(compared: _Compared) -> Iterator[_IndexKey]:
    """Yield the index keys under which those earlier routes are stored that may cover this route."""
    yield "", ""
    for name in _list_other_names(compared):
        yield name, ""
    for name, texts in compared.texts.items():
        start = _literal_start(texts[0])
        for length in range(len(start) + 1):
            yield name, start[:length]


def _list_other_names(compared: _Compared) -> Iterator[str]:
    when = compared.route.when
    if when.time is not None or when.weekdays is not None:
        yield "time"
    for name, value in (("input_above", when.input_above), ("input_below", when.input_below)):
        if value is not None:
            yield name
    yield from compared.flags


def _literal_start(text: str) -> str:
    """Return the characters of a pattern before its first wildcard."""
    return text[: min((place for char in _WILDCARDS if (place := text.find(char)) >= 0), default=len(text))]


def _covers(earlier: _Compared, later: _Compared) -> bool:
    """Return True if all requests that meet the conditions of the later route meet those of the earlier one."""
    wide, narrow = earlier.route.when, later.route.when
    if wide.input_above is not None and (narrow.input_above is None or narrow.input_above < wide.input_above):
        return False
    if wide.input_below is not None and (narrow.input_below is None or narrow.input_below > wide.input_below):
        return False
    if not earlier.flags.items() <= later.flags.items():
        return False
    for name, patterns in earlier.texts.items():
        if name not in later.texts:
            return False
        for text in later.texts[name]:
            if text not in patterns and not any(_contains(wider, text) for wider in patterns):
                return False
    return _covers_time(earlier.route, later.route)


def _contains(pattern: str, other: str) -> bool:
    """Return True if the name or pattern `pattern` matches every text that the name or pattern `other` matches."""
    if pattern == other:
        return True
    if not other:
        return False  # a pattern does not match an empty text
    start = _literal_start(pattern)
    if pattern == f"{start}*":
        return _literal_start(other).startswith(start)
    return _literal_start(other) == other and fnmatchcase(other, pattern)


def _covers_time(earlier: ConfiguredRoute, later: ConfiguredRoute) -> bool:
    wide, narrow = earlier.when, later.when
    if wide.time is None and wide.weekdays is None:
        return True
    if (narrow.time is None and narrow.weekdays is None) or wide.time_zone != narrow.time_zone:
        return False
    if not set(list_condition_texts(narrow.weekdays) or _DAYS) <= set(list_condition_texts(wide.weekdays) or _DAYS):
        return False
    whole_day = (TimePeriod(0, _MINUTES_PER_DAY),)
    return all(
        any(_contains_period(wider, period) for wider in earlier.periods or whole_day)
        for period in later.periods or whole_day
    )


def _contains_period(wide: TimePeriod, narrow: TimePeriod) -> bool:
    """Return True if the period `wide` contains `narrow`, if both begin on the same day. Both may pass midnight."""

    def end(period: TimePeriod) -> int:
        return period.end if period.start < period.end else period.end + _MINUTES_PER_DAY

    return wide.start <= narrow.start and end(narrow) <= end(wide)
