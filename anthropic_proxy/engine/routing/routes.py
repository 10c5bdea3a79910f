"""Routes of the configuration file (`[[routes]]`), which choose providers and models by properties of a request.

The first route is used of which a request meets all conditions. `RequestFacts` computes each property only if a
condition needs it, and only once. `RouteBalancer` orders the targets of the route by weight, latency or price.

The time of a check is in proportion to the number of routes and conditions. A request cannot make it longer, because
patterns are compared only with short values.
"""

import asyncio
import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from fnmatch import translate
from functools import cached_property
from hashlib import blake2b
from operator import attrgetter
from urllib.parse import unquote

from msgspec import Struct

from anthropic_proxy.engine.hooks import Client, StoreUnavailable, ValueStore
from anthropic_proxy.engine.json_decoding import InvalidJson, decode_json
from anthropic_proxy.engine.messages.models import (
    DocumentBlock,
    ImageBlock,
    MessagesRequest,
    ToolResultBlock,
    decode_nested_content,
)
from anthropic_proxy.engine.messages.preparation import find_session_id, server_tool_kinds, shorten_id
from anthropic_proxy.engine.messages.purpose import (
    AGENT_HEADER,
    BACKGROUND_KINDS,
    SESSION_HEADER,
    RequestKind,
    read_purpose,
)
from anthropic_proxy.engine.options import (
    WEEKDAYS,
    WILDCARDS,
    ConfiguredRoute,
    TimePeriod,
    escape_brackets,
    list_condition_texts,
    list_periods,
    load_time_zone,
    normalize_model_pattern,
)
from anthropic_proxy.engine.patterns import compile_anchored
from anthropic_proxy.engine.routing.targets import Target
from anthropic_proxy.errors import ClientError, join_with_or

PROJECT_HEADER = "x-project"
_MEDIA_WORDS = (b'"image"', b'"document"')
_TEXT_SOURCES = ("text", "content")
"""Source types of documents that contain text. A document with another source type is a PDF."""
_DRAW_COUNT = 1 << 32
"""Number of different draws of `RequestFacts.draw_integer`."""


def read_project(headers: Mapping[str, str]) -> str:
    """Return the project of a request. A client can percent-encode a name that is no valid header."""
    if not (text := headers.get(PROJECT_HEADER, "")):
        return ""
    decoded = unquote(text)
    return decoded if decoded.isprintable() else text


class RequestFacts:
    """Properties of one client request. `headers` have names in lower case; `now` is in seconds since the epoch."""

    def __init__(
        self,
        request: MessagesRequest,
        *,
        model: str,
        tier: str,
        headers: Mapping[str, str],
        client: Client,
        now: float,
        count_tokens: Callable[[MessagesRequest], int],
        request_id: str = "",
        own_kind: RequestKind = "",
    ) -> None:
        self._request = request
        self.model = model.lower()
        self.tier = tier
        self.headers = headers
        self.client = client
        self.key, self.owner, self.team = client.name, client.owner, client.team
        self.now = now
        self._count_tokens = count_tokens
        self._request_id = request_id
        self.purpose = read_purpose(headers, request, own_kind)
        self._times: dict[str | None, tuple[int, int]] = {}
        # no `cached_property` for long computations: until Python 3.12, all objects share its lock
        self._input_tokens: int | None = None
        self._media: tuple[bool, bool] | None = None
        self._web_search: bool | None = None

    @property
    def project(self) -> str:
        return read_project(self.headers)

    @property
    def subagent(self) -> bool:
        return bool(self.headers.get(AGENT_HEADER)) or self.purpose.kind == "subagent"

    @property
    def agent(self) -> str:
        return self.purpose.agent_type

    @property
    def thinking(self) -> bool:
        return self._request.thinking is not None and self._request.thinking.type != "disabled"

    @property
    def web_search(self) -> bool:
        if self._web_search is None:
            self._web_search = "web_search" in server_tool_kinds(self._request.tools)
        return self._web_search

    @property
    def background(self) -> bool:
        """True if Claude Code sent the call beside the conversation, such as for a title."""
        return self.purpose.kind in BACKGROUND_KINDS

    @property
    def input_tokens(self) -> int:
        """Estimated input tokens. If the request cannot be decoded: the size of its body in bytes, divided by 4."""
        if self._input_tokens is None:
            try:
                self._input_tokens = self._count_tokens(self._request)
            except ClientError:
                self._input_tokens = self._request.body_bytes // 4
        return self._input_tokens

    @property
    def images(self) -> bool:
        return self._find_media()[0]

    @property
    def pdfs(self) -> bool:
        return self._find_media()[1]

    def _find_media(self) -> tuple[bool, bool]:
        """Return two flags: a message or tool result contains an image; one contains a PDF document."""
        if self._media is not None:
            return self._media
        images = pdfs = False
        for message in self._request.messages:
            if isinstance(message.content, str):
                continue
            for outer in message.content:
                blocks = [outer]
                if isinstance(outer, ToolResultBlock):
                    content = bytes(outer.content)
                    if any(word in content for word in _MEDIA_WORDS):  # the others are not decoded
                        with suppress(ClientError):
                            blocks = decode_nested_content(outer.content)
                for block in blocks:
                    images = images or isinstance(block, ImageBlock)
                    pdfs = pdfs or (isinstance(block, DocumentBlock) and block.source.type not in _TEXT_SOURCES)
        self._media = images, pdfs
        return self._media

    def local_weekday_and_minute(self, zone: str | None) -> tuple[int, int]:
        """Return the time of the request in a zone as day of the week (0: Monday) and minutes since midnight."""
        if zone not in self._times:
            moment = datetime.fromtimestamp(self.now, load_time_zone(zone))
            self._times[zone] = moment.weekday(), moment.hour * 60 + moment.minute
        return self._times[zone]

    @cached_property
    def session(self) -> str:
        if session := self.headers.get(SESSION_HEADER):
            return shorten_id(session)
        metadata = self._request.metadata
        return (metadata and metadata.user_id and find_session_id(metadata.user_id)) or ""

    def draw_percent(self, name: str) -> float:
        return self.draw_integer(draw_factor(name)) * 100 / _DRAW_COUNT

    def draw_integer(self, factor: int) -> int:
        """Return a pseudo-random integer below `_DRAW_COUNT`, the same for all requests of a session.

        A route with a share of 10 % matches if the integer is below 10 % of `_DRAW_COUNT`. So a session stays in the
        share or outside of it, on all workers and instances. `factor` is the result of `draw_factor` for the route.
        """
        return factor * _hash(self.session or self._request_id) % _DRAW_COUNT


def draw_factor(name: str) -> int:
    """Return the argument of `RequestFacts.draw_integer` for a route.

    Routes with the same share would otherwise match the same sessions.
    """
    return _hash(name) | 1


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(errors="replace"), digest_size=4).digest())


_MAX_PATTERN_TEXT = 256
"""Maximum characters of a value that is compared with patterns, because longer comparisons take too long. Patterns with
only a fixed beginning (`gpt-*`) have no maximum."""
_FLAGS = {
    "subagent": ("a sub-agent", "no sub-agent"),
    "web_search": ("web search", "no web search"),
    "thinking": ("thinking", "no thinking"),
    "background": ("a background call", "no background call"),
    "images": ("images", "no images"),
    "pdfs": ("PDFs", "no PDFs"),
}
"""Conditions that are true or false, as fields of `when` and of `RequestFacts` → their texts for users."""
_READS_BODY = frozenset({"thinking", "background", "request", "images", "pdfs", "input"})
"""Names of conditions that need the decoded messages or other fields of the request body."""
_DAY_NAMES = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MINUTES_PER_DAY = 24 * 60


class Condition(Struct, frozen=True, eq=False):
    """One condition of a route."""

    name: str
    """Name of the field of `when`. `input` and `time` are conditions that join several fields."""
    requirement: str
    """The required value as text for users: `input above 200,000 tokens`."""
    is_met: Callable[[RequestFacts], bool]
    describe_value: Callable[[RequestFacts], str]
    """Returns the actual value of a request as text for users: `the input has about 1,234 tokens`."""


def compile_conditions(route: ConfiguredRoute) -> tuple[Condition, ...]:
    """Return the conditions of a route in the order of their checks: those with little work come first."""
    when = route.when
    found: list[Condition] = []

    def add(
        name: str, requirement: str, is_met: Callable[[RequestFacts], bool], describe: Callable[[RequestFacts], str]
    ) -> None:
        found.append(Condition(name, requirement, is_met, describe))

    if tiers := list_condition_texts(when.tier):
        allowed = frozenset(tiers)
        add(
            "tier",
            f"tier {join_with_or(tiers)}",
            lambda facts: facts.tier in allowed,
            lambda facts: f"the tier is {facts.tier}" if facts.tier else "the model has no tier",
        )
    found += [
        _compile_name(name, texts)
        for name in ("model", "key", "team", "owner", "project", "agent")
        if (texts := list_condition_texts(getattr(when, name)))
    ]
    if kinds := list_condition_texts(when.request):
        chosen = frozenset(kinds)
        add(
            "request",
            f"a request of the kind {join_with_or(kinds)}",
            lambda facts: facts.purpose.kind in chosen,
            lambda facts: f"the kind is {facts.purpose.kind or 'unknown'}",
        )
    for header, value in (when.header or {}).items():
        found.append(_compile_header(header.lower(), list_condition_texts(value)))
    if list_condition_texts(when.time) or list_condition_texts(when.weekdays):
        found.append(_compile_time(route))
    if (share := when.share) is not None:
        factor = draw_factor(route.name)
        limit = round(share / 100 * _DRAW_COUNT)
        add(
            "share",
            f"{share:g} % of the sessions",
            lambda facts: facts.draw_integer(factor) < limit,
            lambda facts: f"this session is at {facts.draw_percent(route.name):.1f} %",
        )
    for name, (positive, negative) in _FLAGS.items():
        if (wanted := getattr(when, name)) is not None:
            found.append(_compile_flag(name, wanted, positive, negative))
    above, below = when.input_above, when.input_below
    if above is not None or below is not None:
        limits = [f"above {above:,}" if above is not None else "", f"below {below:,}" if below is not None else ""]
        lower = -1 if above is None else above
        upper = math.inf if below is None else below
        add(
            "input",
            f"input {' and '.join(filter(None, limits))} tokens",
            lambda facts: lower < facts.input_tokens < upper,
            lambda facts: f"the input has about {facts.input_tokens:,} tokens",
        )
    return tuple(found)


def _compile_patterns(patterns: Sequence[str]) -> Callable[[str], bool]:
    names = frozenset(text for text in patterns if not WILDCARDS.intersection(text))
    beginnings = tuple(text[:-1] for text in patterns if text[-1:] == "*" and not WILDCARDS.intersection(text[:-1]))
    others = [
        compile_anchored(translate(escape_brackets(text))).match
        for text in patterns
        if text not in names and not (text[-1:] == "*" and text[:-1] in beginnings)
    ]

    def matches(text: str) -> bool:
        if text in names or (text and text.startswith(beginnings)):
            return True
        return 0 < len(text) <= _MAX_PATTERN_TEXT and any(match(text) for match in others)

    return matches


def _compile_name(name: str, texts: Sequence[str]) -> Condition:
    matches = _compile_patterns([normalize_model_pattern(text) for text in texts] if name == "model" else texts)
    read: Callable[[RequestFacts], str] = attrgetter(name)

    def describe_value(facts: RequestFacts) -> str:
        return f"the {name} is {text}" if (text := read(facts)) else f"there is no {name}"

    return Condition(name, f"{name} {join_with_or(texts)}", lambda facts: matches(read(facts)), describe_value)


def _compile_header(name: str, texts: Sequence[str]) -> Condition:
    matches = _compile_patterns(texts)

    def is_met(facts: RequestFacts) -> bool:
        return (text := facts.headers.get(name)) is not None and matches(text)

    def describe_value(facts: RequestFacts) -> str:
        text = facts.headers.get(name)
        return "the header is absent" if text is None else f"the header is {text or 'empty'}"

    return Condition(f"header {name}", f"header {name} {join_with_or(texts)}", is_met, describe_value)


def _compile_time(route: ConfiguredRoute) -> Condition:
    when = route.when
    zone = route.when.time_zone
    times, weekdays = list_condition_texts(when.time), list_condition_texts(when.weekdays)
    days = frozenset(map(WEEKDAYS.index, weekdays)) or frozenset(range(7))
    periods = list_periods(when) or (TimePeriod(0, _MINUTES_PER_DAY),)
    place = f" ({zone})" if zone else ""

    def is_met(facts: RequestFacts) -> bool:
        day, minute = facts.local_weekday_and_minute(zone)
        for period in periods:
            if period.start < period.end:
                if period.start <= minute < period.end and day in days:
                    return True
            elif minute >= period.start:
                if day in days:
                    return True
            elif minute < period.end and (day - 1) % 7 in days:  # the period started the day before
                return True
        return False

    def describe_value(facts: RequestFacts) -> str:
        day, minute = facts.local_weekday_and_minute(zone)
        return f"it is {_DAY_NAMES[day]} {minute // 60:02}:{minute % 60:02}{place}"

    words = " on ".join(filter(None, (" or ".join(times), " or ".join(weekdays))))
    return Condition("time", f"time {words}{place}", is_met, describe_value)


def _compile_flag(name: str, wanted: bool, positive: str, negative: str) -> Condition:
    read: Callable[[RequestFacts], bool] = attrgetter(name)
    return Condition(
        name,
        positive if wanted else negative,
        lambda facts: read(facts) is wanted,
        lambda facts: f"the request has {positive if read(facts) else negative}",
    )


def describe_conditions(route: ConfiguredRoute) -> str:
    return ", ".join(condition.requirement for condition in compile_conditions(route)) or "every request"


_CONVERSATION = {"thinking": True, "background": False, "subagent": False, "web_search": False}
"""Properties of each request of a conversation in Claude Code. Images, PDFs and a long input can come later."""


_KINDS_OF_CONVERSATION = frozenset(("main", "compaction"))


class RouteForecast(Struct, frozen=True):
    """The routes that a conversation in Claude Code meets."""

    route: ConfiguredRoute | None = None
    """The route for all its requests. None: there is none."""
    others: Sequence[ConfiguredRoute] = ()
    """Routes before it that some of its requests or some conversations meet, such as those with a long input."""

    @property
    def is_conditional(self) -> bool:
        """True if other requests for the same model, such as those without thinking, do not meet the route."""
        names = ("request", *_CONVERSATION)
        return self.route is not None and any(getattr(self.route.when, name) is not None for name in names)

    @property
    def long_input_routes(self) -> Mapping[ConfiguredRoute, int]:
        """Routes of `others` that get every request with more input tokens than this number."""
        found = {route: find_long_input(route) for route in self.others}
        return {route: tokens for route, tokens in found.items() if tokens is not None}


_USABLE_SHARE = 0.95
"""Share of a window that an input can have by its estimate, which can be too low."""


def find_long_input(route: ConfiguredRoute) -> int | None:
    """Return the number of input tokens above which the route gets every request of its tiers. None: it does not."""
    names = {one.name for one in compile_conditions(route)}
    is_limited = route.when.input_below is not None or names - {"tier", "input"}
    return None if is_limited else route.when.input_above


def can_exceed(tokens: int, window: int) -> bool:
    """Return True if an input of `tokens`, by its estimate, can be larger than a window."""
    return tokens > window * _USABLE_SHARE


def forecast_route(routes: Sequence[ConfiguredRoute], tier: str, models: Collection[str]) -> RouteForecast:
    """Return the routes of a conversation that requests one of `models`. `tier`: that of the models; "": none."""
    others: list[ConfiguredRoute] = []
    for route in routes:
        when = route.when
        tiers, patterns = list_condition_texts(when.tier), list_condition_texts(when.model)
        matches = _compile_patterns([text.lower() for text in patterns])
        matching = [model for model in models if not patterns or matches(model.lower())]
        if (tiers and tier not in tiers) or not matching:
            continue
        if any(getattr(when, name) not in (None, value) for name, value in _CONVERSATION.items()) or when.agent:
            continue
        kinds = list_condition_texts(when.request)
        if kinds and _KINDS_OF_CONVERSATION.isdisjoint(kinds):
            continue
        known = {"tier", "model", *_CONVERSATION, *(("request",) if "main" in kinds else ())}
        if len(matching) < len(models) or any(one.name not in known for one in compile_conditions(route)):
            others.append(route)
        else:
            return RouteForecast(route, others)
    return RouteForecast(None, others)


class RouteCheck(Struct, frozen=True):
    """Explanation for users why a route of the configuration file matches a request, or does not."""

    route: ConfiguredRoute
    failed: str = ""
    """First condition that the request does not meet, with the request's value. "": the route matches."""
    met: Sequence[str] = ()
    """Conditions that the request meets, with the request's values. Empty: no match, or the route has no conditions."""


class CompiledRoutes:
    """The routes of the configuration file in its order, with compiled conditions."""

    def __init__(self, routes: Sequence[ConfiguredRoute]) -> None:
        self._routes = [(route, compile_conditions(route)) for route in routes]
        names = {condition.name for _, conditions in self._routes for condition in conditions}
        self.reads_body = bool(names & _READS_BODY)
        """True if a condition needs the messages or other fields of the body."""

    def find_matching_route(self, facts: RequestFacts) -> ConfiguredRoute | None:
        for route, conditions in self._routes:
            for condition in conditions:
                if not condition.is_met(facts):
                    break
            else:
                return route
        return None

    def check_routes(self, facts: RequestFacts) -> list[RouteCheck]:
        """Return an explanation for each route in order, up to the first route that matches the request."""
        checks: list[RouteCheck] = []
        for route, conditions in self._routes:
            failed = next((each for each in conditions if not each.is_met(facts)), None)
            if failed is None:
                met = [f"{each.requirement}: {each.describe_value(facts)}" for each in conditions]
                return [*checks, RouteCheck(route, met=met)]
            checks.append(RouteCheck(route, f"needs {failed.requirement}, but {failed.describe_value(facts)}"))
        return checks


LATENCY_SECONDS = 600.0
"""Seconds until a measured latency expires. Afterwards the next request measures the target again."""
SESSION_SECONDS = 3600.0
"""Seconds for which an idle session keeps its target. Prompt caches of providers expire earlier."""
FAILURE_LATENCY_SECONDS = 60.0
"""Seconds of latency assumed for a failed call, so that the target comes last until the next measurement."""
FAILURE_SECONDS = 60.0
"""Seconds until the assumed latency of a failed call expires."""
_NEW_MEASUREMENT = 0.3
"""Weight (0 to 1) of the latest measurement in the moving average of a target's latency."""


class RouteBalancer:
    """Orders the targets of a route for each request, by the route's field `balance`.

    While the store of latencies and sessions is unavailable, requests are served as if nothing was stored.
    """

    def __init__(
        self, store: ValueStore, prices: Mapping[str, float], *, random: Callable[[], float] = random.random
    ) -> None:
        self._store = store
        self._prices = prices
        self._random = random

    async def order_targets(
        self, targets: Sequence[Target], route: ConfiguredRoute, facts: RequestFacts
    ) -> Sequence[Target]:
        if route.balance == "order" or len(targets) < 2:
            return targets
        session = facts.client.scope_session(facts.session) if route.sticky else ""
        match route.balance:
            case "cost":
                return sorted(targets, key=lambda target: self._prices.get(target.prefixed_id, math.inf))
            case "weighted":
                return self._order_by_weight(targets, route, facts, session)
            case "latency":
                clients = dict.fromkeys((facts.client.id, facts.client.name_learner(facts.session)))
                return await self._order_by_latency(targets, route, session, [*clients])

    def _order_by_weight(
        self, targets: Sequence[Target], route: ConfiguredRoute, facts: RequestFacts, session: str
    ) -> Sequence[Target]:
        def draw(target: Target) -> float:
            # so each target is first as often as its weight requires; a session has the same numbers everywhere
            number = facts.draw_percent(f"{route.name} {target.prefixed_id}") / 100 if session else self._random()
            return -math.log(max(number, 1e-12)) / target.weight

        return sorted(targets, key=draw)

    async def _order_by_latency(
        self, targets: Sequence[Target], route: ConfiguredRoute, session: str, clients: Sequence[str]
    ) -> Sequence[Target]:
        keys = [*map(_latency_key, targets)]
        for client in clients:
            keys += (_failure_key(target, client) for target in targets)
        if session:
            keys.append(_session_key(route, session))
        stored = await asyncio.gather(*map(self._find, keys))  # at the same time: a store may be on another host
        kept = stored[-1] if session else None
        # the target of the session is first, then those without a measurement, which have the latency 0
        count = len(targets)
        ranks = {
            target: (
                target.prefixed_id != kept,
                max(_decode_latency(text) for text in stored[place : count * (1 + len(clients)) : count]),
            )
            for place, target in enumerate(targets)
        }
        return sorted(targets, key=ranks.__getitem__)

    async def record_reply(self, target: Target, route: ConfiguredRoute, session: str, seconds: float) -> None:
        """Add the seconds until the first content to the average of a target, and keep the target of the session.

        `session` is the one of `Client.scope_session`.
        """
        key = _latency_key(target)
        stored = _decode_latency(await self._find(key))
        average = seconds * _NEW_MEASUREMENT + stored * (1 - _NEW_MEASUREMENT) if stored else seconds
        await self._put(key, f"{average:.6f}", LATENCY_SECONDS)
        if route.sticky and session:
            await self._put(_session_key(route, session), target.prefixed_id, SESSION_SECONDS)

    async def record_failure(self, target: Target, client: str = "", *, may_limit_all: bool = False) -> None:
        """Record a failed call to a target, so that an order by latency puts it last for `FAILURE_SECONDS`.

        `client`: `Client.id` or `Client.name_learner` of the client whose requests alone may be the reason. "": other
        clients are concerned too. `may_limit_all`: True if they are concerned after such a failure of a second client.
        """
        if client and may_limit_all:
            key, name = _limited_key(target), _shorten(client)
            limited = await self._find(key)
            await self._put(key, name, FAILURE_SECONDS)
            if limited not in (None, name):
                client = ""
        key = _failure_key(target, client) if client else _latency_key(target)
        await self._put(key, f"{FAILURE_LATENCY_SECONDS}", FAILURE_SECONDS)

    async def _find(self, key: str) -> str | None:
        try:
            return await self._store.get(key)
        except StoreUnavailable:
            return None

    async def _put(self, key: str, value: str, seconds: float) -> None:
        with suppress(StoreUnavailable):
            await self._store.put(key, value, seconds)


def _decode_latency(text: str | None) -> float:
    try:
        return decode_json(text or "0", float)
    except InvalidJson:
        return 0.0


def _latency_key(target: Target) -> str:
    return f"route/latency/{target.upstream}/{target.model}"


def _failure_key(target: Target, client: str) -> str:
    return f"route/failure/{target.upstream}/{target.model}/{_shorten(client)}"


def _limited_key(target: Target) -> str:
    return f"route/limited/{target.upstream}/{target.model}"


def _session_key(route: ConfiguredRoute, session: str) -> str:
    return f"route/session/{route.name}/{_shorten(session)}"


def _shorten(text: str) -> str:
    """Return a digest of a name or session id of a client, which may be long."""
    return blake2b(text.encode(errors="replace"), digest_size=16).hexdigest()
