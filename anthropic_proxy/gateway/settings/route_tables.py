"""Checks of the tables `[[routes]]` of the configuration file, and warnings about routes that no request can reach.

A route is a rule that chooses the models (targets) of matching requests. `load_routes` returns the checked routes.
`load_time_zone` returns the time zone of a route with a condition on the time.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import islice

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.engine.options import TIERS
from anthropic_proxy.engine.options.routes import (
    DEFAULT_TARGET,
    NAME_PATTERN,
    ConfiguredRoute,
    RouteConditions,
    RouteTable,
    TimePeriod,
    list_condition_texts,
    load_time_zone,
)
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import values
from anthropic_proxy.gateway.settings.config_file import ConfigFile, KeyPath, format_key_path
from anthropic_proxy.gateway.settings.error_list import ErrorList
from anthropic_proxy.gateway.settings.sources import Sources
from anthropic_proxy.secrets import Secret

_PERIOD = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-(?:([01]\d|2[0-3]):([0-5]\d)|(24):(00))")
_CREDENTIAL_HEADERS = ("authorization", "x-api-key")
"""Names of headers with the key of the client. Conditions cannot use them, because routes do not receive keys."""


def load_routes(file: ConfigFile, sources: Sources) -> tuple[ConfiguredRoute, ...]:
    """Return the valid routes of the configuration file in the order of the file.

    Errors are added to those of `sources`, and warnings to `file.warnings`.
    """
    tables = file.find_value(("routes",))
    found: dict[str, ConfiguredRoute] = {}
    for index, table in enumerate(tables if isinstance(tables, list) else ()):
        with sources.errors.collect():
            route = _load_route(file, (f"routes[{index}]",), table)
            if route.name in found:
                raise ConfigurationError(
                    f"Two routes have the name {route.name}: {found[route.name].origin} and {route.origin}. "
                    "Use different names."
                )
            found[route.name] = route
            sources.origins[route.targets_setting] = route.origin
    if found:
        sources.given["routes"] = Secret(str(tables))
    routes = tuple(found.values())
    file.warnings += _warn_of_unused_routes(routes)
    return routes


def _warn_of_unused_routes(routes: Sequence[ConfiguredRoute]) -> list[str]:
    """Return one warning for each route that no request reaches, because an earlier route matches all its requests."""
    earlier, warnings = EarlierRoutes(), []
    for route in routes:
        if (cover := earlier.find_covering_route(route)) is not None:
            extent = "every request" if matches_every_request(cover.when) else "the same requests"
            warnings.append(
                f"The {route.label} is never used: the {cover.label} before it matches {extent}. "
                f'Move [[routes]] "{route.name}" up, or remove it.'
            )
        else:
            earlier.add(route)
    return warnings


def _load_route(file: ConfigFile, path: KeyPath, value: object) -> ConfiguredRoute:
    file.require_valid_value(path, value, RouteTable)
    table, errors = msgspec.convert(value, RouteTable), ErrorList()
    with errors.collect():
        if not re.fullmatch(NAME_PATTERN, table.name):
            raise file.invalid_value_error(
                (*path, "name"),
                table.name,
                "Use at most 63 letters, digits, spaces, dots, hyphens and underscores of ASCII.",
            )
    when = table.when or RouteConditions()
    periods = _check_conditions(file, (*path, "when"), when, errors)
    with errors.collect():
        _check_targets(file, path, table)
    errors.require_empty()
    return ConfiguredRoute(
        name=table.name,
        when=when,
        periods=periods,
        targets=table.targets,
        weights=dict(zip(table.targets, table.weights, strict=False)),
        balance=table.balance,
        sticky=table.sticky,
        origin=file.describe_origin(path),
    )


def _check_conditions(file: ConfigFile, path: KeyPath, when: RouteConditions, errors: ErrorList) -> list[TimePeriod]:
    """Check the conditions `when` of a route. Return its decoded periods of the day, and add errors to `errors`."""
    for name in RouteConditions.__struct_fields__:
        with errors.collect():
            if getattr(when, name) in ([], {}):
                raise ConfigurationError(
                    f"{format_key_path((*path, name))} is empty, so the route never matches. Add a value or remove the "
                    f"condition. It is in {file.describe_origin_in_sentence((*path, name))}."
                )
    with errors.collect():
        if when.input_above is not None and when.input_below is not None and when.input_below <= when.input_above + 1:
            raise ConfigurationError(
                f"{format_key_path((*path, 'input_below'))} is {when.input_below}, but input_above is "
                f"{when.input_above}, so the route never matches. Use a larger input_below. It is in "
                f"{file.describe_origin_in_sentence((*path, 'input_below'))}."
            )
    for header in when.header or {}:
        with errors.collect():
            _check_header(file, (*path, "header", header))
    periods = []
    for text in list_condition_texts(when.time):
        with errors.collect():
            periods.append(_decode_period(file, (*path, "time"), text))
    with errors.collect():
        _check_time_zone(file, (*path, "time_zone"), when)
    return periods


def _check_header(file: ConfigFile, path: KeyPath) -> None:
    if path[-1].lower() in _CREDENTIAL_HEADERS:
        raise ConfigurationError(
            f"{format_key_path(path)} cannot be a condition: the header contains the key of the client. "
            f"Use the condition key with the name of the key. It is in {file.describe_origin_in_sentence(path)}."
        )


def _decode_period(file: ConfigFile, path: KeyPath, text: str) -> TimePeriod:
    match = _PERIOD.fullmatch(text)
    if match is None:
        raise file.invalid_value_error(
            path, text, "Use a period of hours and minutes, such as 08:00-18:00 or 22:00-06:00."
        )
    hour, minute, end_hour, end_minute = (int(number) for number in match.groups() if number is not None)
    return TimePeriod(hour * 60 + minute, end_hour * 60 + end_minute)


def _check_time_zone(file: ConfigFile, path: KeyPath, when: RouteConditions) -> None:
    if when.time_zone is None:
        return
    if when.time is None and when.weekdays is None:
        raise ConfigurationError(
            f"{format_key_path(path)} has no effect without time or weekdays. Add one of them or remove time_zone. "
            f"It is in {file.describe_origin_in_sentence(path)}."
        )
    try:
        load_time_zone(when.time_zone)
    except (KeyError, ValueError, OSError):
        raise file.invalid_value_error(
            path,
            when.time_zone,
            "Use a name of the IANA time zone database, such as Europe/Berlin or UTC. If this system has no such "
            "database, install the Python package tzdata.",
        ) from None


def _check_targets(file: ConfigFile, path: KeyPath, table: RouteTable) -> None:
    """Raise `ConfigurationError` for an invalid model name, and for `balance` or `weights` that cannot be applied."""
    place, errors = (*path, "targets"), ErrorList()
    with errors.collect():
        if not table.targets:
            raise ConfigurationError(
                f"{format_key_path(place)} is empty. Use at least one model, such as openai/gpt-4.1. "
                f"It is in {file.describe_origin_in_sentence(place)}."
            )
    for target in table.targets:
        with errors.collect():
            values.decode_model(file.build_setting(place, target))
    with errors.collect():
        mapped = next((target for target in table.targets if target in (*TIERS, DEFAULT_TARGET)), None)
        if table.balance != "order" and mapped is not None:
            raise ConfigurationError(
                f'{format_key_path(place)} contains "{mapped}", which stands for several models. With balance = '
                f'"{table.balance}", use models with prefix, such as openai/gpt-4.1. '
                f"It is in {file.describe_origin_in_sentence(place)}."
            )
    with errors.collect():
        if table.balance != "order" and len(set(table.targets)) < 2:
            raise ConfigurationError(
                f"{format_key_path((*path, 'balance'))} needs at least two different targets. Add a target or remove "
                f"balance. It is in {file.describe_origin_in_sentence((*path, 'balance'))}."
            )
    with errors.collect():
        _check_weights(file, (*path, "weights"), table)
    errors.require_empty()


def _check_weights(file: ConfigFile, path: KeyPath, table: RouteTable) -> None:
    if not table.weights:
        return
    if table.balance != "weighted":
        raise ConfigurationError(
            f'{format_key_path(path)} has no effect with balance = "{table.balance}". Use balance = "weighted". '
            f"It is in {file.describe_origin_in_sentence(path)}."
        )
    if len(table.weights) != len(table.targets):
        raise ConfigurationError(
            f"{format_key_path(path)} has {len(table.weights)} numbers, but targets has {len(table.targets)} models. "
            f"Use one number for each model. It is in {file.describe_origin_in_sentence(path)}."
        )


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
