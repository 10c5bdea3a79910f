"""Checks of the tables `[[routes]]` of the configuration file, and warnings about routes that no request can reach.

A route is never used if an earlier one matches all its requests. Comparing each pair would take time in proportion to
the square of their number, so earlier routes are found by an index of a text in their conditions.
"""

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import islice

from msgspec import Struct, structs

from anthropic_proxy.engine.options import (
    DEFAULT_TARGET,
    TIERS,
    WEEKDAYS,
    WILDCARDS,
    ConfiguredRoute,
    RouteConditions,
    RouteTable,
    TimePeriod,
    decode_period,
    escape_brackets,
    list_condition_texts,
    list_periods,
    load_time_zone,
    normalize_model_pattern,
)
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import values
from anthropic_proxy.gateway.settings.config_file import ConfigFile
from anthropic_proxy.gateway.settings.file_format import KeyPath
from anthropic_proxy.gateway.settings.sources import ErrorList, Sources
from anthropic_proxy.secrets import Secret

_CREDENTIAL_HEADERS = ("authorization", "x-api-key")
"""Names of headers with the key of the client. Conditions cannot use them, because routes do not receive keys."""


def load_routes(file: ConfigFile, sources: Sources) -> tuple[ConfiguredRoute, ...]:
    """Errors are added to those of `sources`, and warnings to `file.warnings`."""
    routes: dict[str, ConfiguredRoute] = {}
    for path, table in file.list_tables("routes", RouteTable):
        route = ConfiguredRoute(**structs.asdict(table), origin=file.describe_origin(path))
        with sources.errors.collect():
            errors = ErrorList()
            with errors.collect():
                file.require_name(path, route.name)
            _check_conditions(file, (*path, "when"), route.when, errors)
            with errors.collect():
                _check_targets(file, path, route)
            errors.require_empty()
            if route.name in routes:
                raise ConfigurationError(
                    f"Two routes have the name {route.name}: {routes[route.name].origin} and {route.origin}. "
                    "Use different names.",
                    code="route-invalid",
                )
            routes[route.name] = route
            sources.origins[route.targets_setting] = file.describe_origin((*path, "targets"))
    if routes:
        sources.given["routes"] = Secret(str(file.find_value(("routes",))))
    earlier = EarlierRoutes()
    for route in routes.values():
        if (cover := earlier.find_covering_route(route)) is not None:
            extent = "every request" if matches_every_request(cover.when) else "the same requests"
            file.warnings.append(
                f"The {route.label} is never used: the {cover.label} before it matches {extent}. "
                f'Move [[routes]] "{route.name}" up, or remove it.'
            )
        else:
            earlier.add(route)
    return tuple(routes.values())


def _check_conditions(file: ConfigFile, path: KeyPath, when: RouteConditions, errors: ErrorList) -> None:
    for name in RouteConditions.__struct_fields__:
        with errors.collect():
            if getattr(when, name) in ([], {}):
                raise file.rejection(
                    (*path, name),
                    "is empty, so the route never matches. Add a value or remove the condition.",
                    code="route-invalid",
                )
    with errors.collect():
        if when.input_above is not None and when.input_below is not None and when.input_below <= when.input_above + 1:
            raise file.rejection(
                (*path, "input_below"),
                f"is {when.input_below}, but input_above is "
                f"{when.input_above}, so the route never matches. Use a larger input_below.",
                code="route-invalid",
            )
    for header in when.header or {}:
        with errors.collect():
            if header.lower() in _CREDENTIAL_HEADERS:
                place = (*path, "header", header)
                raise file.rejection(
                    place,
                    "cannot be a condition: the header contains the key of the client. "
                    "Use the condition key with the name of the key.",
                    code="route-invalid",
                )
    for text in list_condition_texts(when.time):
        with errors.collect():
            if decode_period(text) is None:
                raise file.invalid_value_error(
                    (*path, "time"), text, "Use a period of hours and minutes, such as 08:00-18:00 or 22:00-06:00."
                )
    with errors.collect():
        place = (*path, "time_zone")
        if when.time_zone is not None and when.time is None and when.weekdays is None:
            raise file.rejection(
                place,
                "has no effect without time or weekdays. Add one of them or remove time_zone.",
                code="route-invalid",
            )
        try:
            if when.time_zone is not None:
                load_time_zone(when.time_zone)
        except (KeyError, ValueError, OSError):
            raise file.invalid_value_error(
                place,
                when.time_zone,
                "Use a name of the IANA time zone database, such as Europe/Berlin or UTC. If this system has no such "
                "database, install the Python package tzdata.",
            ) from None


def _check_targets(file: ConfigFile, path: KeyPath, table: RouteTable) -> None:
    place = (*path, "targets")
    errors = ErrorList()
    with errors.collect():
        if not table.targets:
            raise file.rejection(
                place, "is empty. Use at least one model, such as openai/gpt-4.1.", code="route-invalid"
            )
    for target in table.targets:
        with errors.collect():
            values.decode_model(file.build_setting(place, target))
    for name in ("auto_mode_model", "image_model"):
        if (model := getattr(table, name)) is not None:
            with errors.collect():
                values.decode_model(file.build_setting((*path, name), model))
    with errors.collect():
        mapped = next((target for target in table.targets if target in (*TIERS, DEFAULT_TARGET)), None)
        if table.balance != "order" and mapped is not None:
            raise file.rejection(
                place,
                f'contains "{mapped}", which stands for several models. With balance = '
                f'"{table.balance}", use models with prefix, such as openai/gpt-4.1.',
                code="route-invalid",
            )
    with errors.collect():
        if table.balance != "order" and len(set(table.targets)) < 2:
            raise file.rejection(
                (*path, "balance"),
                "needs at least two different targets. Add a target or remove balance.",
                code="route-invalid",
            )
    with errors.collect():
        if table.weights and table.balance != "weighted":
            raise file.rejection(
                (*path, "weights"),
                f'has no effect with balance = "{table.balance}". Use balance = "weighted".',
                code="route-invalid",
            )
        if table.weights and len(table.weights) != len(table.targets):
            raise file.rejection(
                (*path, "weights"),
                f"has {len(table.weights)} numbers, but targets has "
                f"{len(table.targets)} models. Use one number for each model.",
                code="route-invalid",
            )
    errors.require_empty()


_FLAGS = ("thinking", "images", "pdfs", "web_search", "background", "subagent")
_MINUTES_PER_DAY = 24 * 60
_MAX_COMPARED = 50
"""Maximum number of earlier routes with a common condition text with which a route is compared."""
_IndexKey = tuple[str, str]
"""Key of the index: name of a condition, and a name or the beginning of a pattern. "": any text."""


class _Compared(Struct, frozen=True, eq=False):
    route: ConfiguredRoute
    texts: Mapping[str, Sequence[str]]
    """Condition that compares a text (`header x-team`) → its names and patterns."""
    flags: Mapping[str, bool]
    """Condition with a boolean value (`thinking`, `images`) → this value."""


class EarlierRoutes:
    """Call `find_covering_route` for each route in the order of the file, then `add` if the result is None."""

    def __init__(self) -> None:
        self._identical: dict[str, ConfiguredRoute] = {}
        self._index: dict[_IndexKey, list[_Compared]] = {}

    def add(self, route: ConfiguredRoute) -> None:
        # a route for a share of the sessions cannot match all requests of another route
        if not _matches_every_session(route.when):
            return
        self._identical.setdefault(repr(route.when), route)
        compared = _prepare(route)
        name, texts = next(iter(compared.texts.items()), ("", ()))
        keys = {(name, _literal_start(text)) for text in texts}
        for key in keys or {(next(_list_other_names(compared), ""), "")}:
            self._index.setdefault(key, []).append(compared)

    def find_covering_route(self, route: ConfiguredRoute) -> ConfiguredRoute | None:
        """Return an earlier route that matches all requests of `route`. None: none was found."""
        if (identical := self._identical.get(repr(route.when))) is not None:
            return identical
        compared = _prepare(route)
        keys: list[_IndexKey] = [("", ""), *((name, "") for name in _list_other_names(compared))]
        for name, texts in compared.texts.items():
            start = _literal_start(texts[0])
            keys += [(name, start[:length]) for length in range(len(start) + 1)]
        for key in keys:
            for earlier in islice(self._index.get(key, ()), _MAX_COMPARED):
                if _covers(earlier, compared):
                    return earlier.route
        return None


def matches_every_request(when: RouteConditions) -> bool:
    """A `share` of 100 % counts as no condition."""
    return _matches_every_session(when) and structs.replace(when, share=None) == RouteConditions()


def _matches_every_session(when: RouteConditions) -> bool:
    return when.share is None or when.share >= 100


def _prepare(route: ConfiguredRoute) -> _Compared:
    """Conditions with many different texts come first, as index keys."""
    when = route.when
    names = ("key", "team", "owner", "project", "request", "agent")
    texts = {name: list_condition_texts(getattr(when, name)) for name in names}
    texts |= {f"header {name.lower()}": list_condition_texts(value) for name, value in (when.header or {}).items()}
    texts |= {
        "model": [normalize_model_pattern(text) for text in list_condition_texts(when.model)],
        "tier": list_condition_texts(when.tier),
    }
    values = (when.thinking, when.images, when.pdfs, when.web_search, when.background, when.subagent)
    flags = {name: flag for name, flag in zip(_FLAGS, values, strict=True) if flag is not None}
    return _Compared(
        route, {name: condition_texts for name, condition_texts in texts.items() if condition_texts}, flags
    )


def _list_other_names(compared: _Compared) -> Iterator[str]:
    when = compared.route.when
    if when.time is not None or when.weekdays is not None:
        yield "time"
    for name, value in (("input_above", when.input_above), ("input_below", when.input_below)):
        if value is not None:
            yield name
    yield from compared.flags


def _literal_start(text: str) -> str:
    """The characters before the first wildcard."""
    return text[: min((place for char in WILDCARDS if (place := text.find(char)) >= 0), default=len(text))]


def _covers(earlier: _Compared, later: _Compared) -> bool:
    """Return True if all requests that meet the conditions of the later route meet those of the earlier one."""
    wide = earlier.route.when
    narrow = later.route.when
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
    return _covers_times(wide, narrow)


def _covers_times(wide: RouteConditions, narrow: RouteConditions) -> bool:
    if wide.time is None and wide.weekdays is None:
        return True
    if (narrow.time is None and narrow.weekdays is None) or wide.time_zone != narrow.time_zone:
        return False
    if not set(list_condition_texts(narrow.weekdays) or WEEKDAYS) <= set(
        list_condition_texts(wide.weekdays) or WEEKDAYS
    ):
        return False
    whole_day = (TimePeriod(0, _MINUTES_PER_DAY),)

    def end(period: TimePeriod) -> int:
        """A period that passes midnight ends on the next day."""
        return period.end if period.start < period.end else period.end + _MINUTES_PER_DAY

    return all(
        any(wider.start <= period.start and end(period) <= end(wider) for wider in list_periods(wide) or whole_day)
        for period in list_periods(narrow) or whole_day
    )


def _contains(pattern: str, other: str) -> bool:
    """Return True if the name or pattern `pattern` matches every text that the name or pattern `other` matches."""
    if pattern == other:
        return True
    if not other:
        return False  # a pattern does not match an empty text
    start = _literal_start(pattern)
    if pattern == f"{start}*":
        return _literal_start(other).startswith(start)
    return _literal_start(other) == other and fnmatchcase(other, escape_brackets(pattern))
