"""Format of the tables `[[routes]]` of `anthropic-proxy.toml`: rules that choose the models for matching requests.

`RouteTable` is one table of the file, and `RouteConditions` its conditions on the request. `ConfiguredRoute` is a table
after the checks. The targets of a route are the models to try, in order. A tier is a family of Claude models (haiku,
sonnet, opus, fable). Patterns are those of `fnmatch`: `*` stands for any characters.
"""

from collections.abc import Mapping, Sequence
from datetime import tzinfo
from typing import Annotated, Literal

from msgspec import Meta, Struct

Tier = Literal["haiku", "sonnet", "opus", "fable"]
"""A family of Claude models that settings map to models of providers."""
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
"""A day of the week."""
Balance = Literal["order", "weighted", "latency", "cost"]
"""Rule that selects the first model of a request: the listed order, random by weight, lowest latency, or lowest
price."""
BALANCE_TEXTS = {"weighted": "by weight", "latency": "lowest latency first", "cost": "lowest price first"}
"""Value of the field `balance` → text about the order of the targets, for users. `order` has no text."""
InputTokens = Annotated[int, Meta(ge=1, le=100_000_000)]
"""Type of a limit on input tokens, from 1 to 100 million."""
Percent = Annotated[float, Meta(gt=0, le=100)]
"""Type of a percentage above 0 and up to 100."""
TARGETS_SETTING = "targets of route"
"""Beginning of the name of a route's setting `targets` in messages, before the name of the route: `targets of route
"night"`."""
DEFAULT_TARGET = "default"
"""Target of a route that stands for the models that a request would have without routes."""
NAME_PATTERN = "^[A-Za-z0-9][A-Za-z0-9 ._-]{0,62}$"
"""Regular expression of valid route names. A name is also the value of a response header."""
Weight = Annotated[float, Meta(gt=0, le=1_000_000)]
"""Type of a relative share of requests, above 0. Only the ratio of the weights matters."""


class RouteConditions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Conditions of a route. The route matches a request that meets all conditions that are set.

    A condition with a list is met if one item of the list matches.
    """

    tier: Tier | list[Tier] | None = None
    """Claude tier of the requested model. A model with the prefix of a provider has no tier."""
    model: str | list[str] | None = None
    """Requested model id or pattern: `claude-opus-*`. Case and a `[1m]` suffix are ignored."""
    thinking: bool | None = None
    """True: the request enables thinking. False: it does not."""
    input_above: InputTokens | None = None
    """Number of input tokens. The route matches if the estimated input of the request is larger."""
    input_below: InputTokens | None = None
    """Number of input tokens. The route matches if the estimated input of the request is smaller."""
    images: bool | None = None
    """True: a message contains an image. False: no message contains one."""
    pdfs: bool | None = None
    """True: a message contains a PDF document. False: no message contains one."""
    web_search: bool | None = None
    """True: the request offers the web search tool of the API. False: it does not."""
    background: bool | None = None
    """True: a call of Claude Code beside the conversation, without tools and thinking, such as for a session title.
    False: any other request."""
    subagent: bool | None = None
    """True: a call of a sub-agent of Claude Code. False: any other request."""
    header: dict[str, str | list[str]] | None = None
    """Header name → value or pattern. The request must have all listed headers with a matching value."""
    key: str | list[str] | None = None
    """Name or pattern of the client key, as the log shows it."""
    team: str | list[str] | None = None
    """Name or pattern of the team of the virtual key."""
    project: str | list[str] | None = None
    """Value or pattern of the header `x-project`."""
    time: str | list[str] | None = None
    """Time of day: `08:00-18:00`. A period may pass midnight: `22:00-06:00`. The end is not included."""
    weekdays: Weekday | list[Weekday] | None = None
    """Days of the week. If a period of `time` passes midnight, the hours after midnight belong to the day on which it
    began."""
    time_zone: str | None = None
    """Time zone of `time` and `weekdays`: `Europe/Berlin`. By default the time zone of the server."""
    share: Percent | None = None
    """Percent of the sessions that the route matches, for a trial. All requests of a session get the same result."""


class RouteTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule that chooses the models of a request. If several rules match, the first one in the file is used."""

    name: Annotated[str, Meta(extra_json_schema={"pattern": NAME_PATTERN})]
    """Name of the route, for the log, the ledger and the header `x-proxy-route`."""
    when: RouteConditions | None = None
    """Conditions of the route. Without conditions, every request matches."""
    targets: Annotated[tuple[str, ...], Meta(extra_json_schema={"minItems": 1})]
    """Models with prefix, in the order of attempts. A tier name (`haiku`) or `default` stands for the models that the
    settings map the tier or the requested model to.
    """
    balance: Balance = "order"
    """Selection of the first target of a request: `order` as listed, `weighted` by `weights`, lowest `latency`, lowest
    `cost`."""
    weights: tuple[Weight, ...] = ()
    """Relative shares of requests for the targets, in the order of `targets`, with `balance = "weighted"`. By default
    equal."""
    sticky: bool = True
    """True if a session keeps its first target with `weighted` or `latency`, so that its prompt cache stays usable."""


class TimePeriod(Struct, frozen=True):
    """A period of the day, from `start` to `end` in minutes since midnight.

    It passes midnight if `end` is not after `start`.
    """

    start: int
    """First minute of the period, in minutes since midnight."""
    end: int
    """Minute after the end of the period, in minutes since midnight."""


class ConfiguredRoute(Struct, frozen=True, kw_only=True, eq=False):
    """A checked `[[routes]]` table: a rule that chooses the models for matching requests.

    Two objects are equal only if they are the same object.
    """

    name: str
    """Name of the route, for the log and the response header `x-proxy-route`."""
    when: RouteConditions
    """Conditions of the route. Lists in it have at least one item."""
    periods: Sequence[TimePeriod] = ()
    """Periods of the day in `when.time`, decoded. Empty: no condition on the time of day."""
    targets: Sequence[str]
    """Models to try, in this order: ids with provider prefix, names of tiers, or `default`.

    A tier name (`haiku`) stands for the models that the settings map the tier to, `default` for the models that the
    request would have without routes."""
    weights: Mapping[str, float] = {}
    """Target → relative share of requests, with `balance = "weighted"`. Empty: equal shares."""
    balance: Balance = "order"
    """Selection of the first target of a request: listed order, weight, latency or price."""
    sticky: bool = True
    """True if a session keeps its first target, so that its prompt cache stays usable."""
    origin: str = ""
    """File and line of the table: `anthropic-proxy.toml line 4`."""

    @property
    def label(self) -> str:
        """Name and place for messages: `route "night" (anthropic-proxy.toml line 4)`."""
        return f'route "{self.name}" ({self.origin})'

    @property
    def targets_setting(self) -> str:
        """Name of the setting `targets` in messages and in `Settings.origins`: `targets of route "night"`."""
        return f'{TARGETS_SETTING} "{self.name}"'


def list_condition_texts(value: str | Sequence[str] | None) -> Sequence[str]:
    """Return the value of a route condition as a sequence of texts.

    `value` is one text, a sequence of texts, or None if the condition is not set. None gives an empty sequence.
    """
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else value


def load_time_zone(name: str | None) -> tzinfo | None:
    """Return the time zone with this name, such as `Europe/Berlin`. None: the time zone of the server.

    Raises `KeyError`, `ValueError` or `OSError` for an unknown name.
    """
    if name is None:
        return None
    from zoneinfo import ZoneInfo  # noqa: PLC0415  # most installations have no routes

    return ZoneInfo(name)
