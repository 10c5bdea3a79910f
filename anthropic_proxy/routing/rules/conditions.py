"""`compile_conditions`: converts the conditions of a route in the configuration file to functions that check a request.

The table `when` of a route has the conditions. Each becomes a `Condition`. A `TextPattern` compares a text, such as the
model id, with names and patterns.
"""

import re
from collections.abc import Callable, Sequence
from fnmatch import translate

from msgspec import Struct

from anthropic_proxy.routing.rules.request_facts import RequestFacts, draw_factor, share_threshold
from anthropic_proxy.settings import ConfiguredRoute, TimePeriod, list_condition_texts
from anthropic_proxy.settings.values import join_with_or

WILDCARDS = frozenset("*?[")
"""Characters that make a text a pattern of `fnmatch`. A text without them is a name, compared in full."""
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_NAMES = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MINUTES_PER_DAY = 24 * 60
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
    days = frozenset(_DAYS.index(day) for day in list_condition_texts(when.weekdays)) or frozenset(range(7))
    periods, zone = route.periods or (TimePeriod(0, _MINUTES_PER_DAY),), when.time_zone
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
