"""`EngineOptions`: what the engine is told about providers, models and routes.

The settings of the server (`gateway.settings`) are a subclass with fields for everything else. A description names the
environment variable by which users of the server set the field; `<PROVIDER>` stands for a name such as OPENAI. Some
fields map the name of a provider to a value, such as its keys or its base URL.

The tables `[[routes]]` of `anthropic-proxy.toml` choose the models for matching requests: `RouteTable` is one table of
the file, `RouteConditions` its conditions on the request, and `ConfiguredRoute` a table with its place. The targets of
a route are the models to try, in order. In patterns of users, `*` stands for any characters and `?` for one.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import tzinfo
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal, get_args
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Meta, Struct, structs

from anthropic_proxy.engine.efforts import Effort
from anthropic_proxy.engine.messages.fidelity import Fidelity
from anthropic_proxy.engine.messages.purpose import KnownKind
from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.secrets import Secret

SECRET_HEADER = compile_later(
    r"(?:^|[-_])(?:key|token|secret|password|auth|authorization|credentials?|cookie|jwt|signature)(?:$|[-_])"
)
"""Names of headers, in lower case, which say that the value is a secret."""


class CallOptions(Struct, frozen=True, kw_only=True):
    """What a table `[providers.NAME]` adds to the calls to its provider, which may also be a built-in one."""

    headers: Mapping[str, str] = {}
    """Header in lower case → value. They replace headers that the proxy sets itself, except that of the key."""
    secret_headers: Mapping[str, Secret] = {}
    """Header in lower case → secret value, which logs and errors mask."""
    copied_headers: Mapping[str, str] = {}
    """Header in lower case → client header whose value it gets. Without that client header, it is not sent."""
    body: Mapping[str, object] = {}
    """Fields that are merged into the JSON body of messages. Tables are merged, unless their `type` differs; other
    values are replaced. A `Secret` at any depth is a text, which logs and errors mask."""
    key_header: str | None = None
    """Header with the API key, in lower case. None: that of the provider."""
    proxy: Secret | None = None
    """URL of the proxy (http, https, socks5, socks5h) that all calls use. An empty one: none, also not that of the
    environment. None: the proxy of the environment."""
    ca_file: str = ""
    """PEM file with further certificate authorities. "": only those of the system."""
    certificate_file: str = ""
    """PEM file with the certificate that identifies the proxy to the server. "": none."""
    certificate_key_file: str = ""
    """PEM file with the private key. "": `certificate_file` contains it."""
    files_digest: str = ""
    """Digest of these files, so that a reload notices a renewed certificate."""
    requests_per_minute: int | None = None
    """Maximum number of calls for messages within 60 s. Further calls wait. None: no limit."""
    shown: Mapping[str, str] = {}
    """Name of a setting → its text without secrets, for lists of settings."""

    def reveal_secrets(self) -> Sequence[str]:
        """Return the unredacted values that logs and errors must not contain."""
        login = urlsplit(self.proxy.reveal() if self.proxy is not None else "").netloc.rpartition("@")[0]
        # not the whole address: its host is named in errors
        hidden = [login, unquote(login.partition(":")[2])] if login else []
        return [*(value.reveal() for value in self.secret_headers.values()), *hidden, *_reveal_in(self.body)]

    def reveal_copied_secrets(self, client_headers: Mapping[str, str]) -> Sequence[str]:
        """Return the values of copied client headers whose names say that they are secrets."""
        names = (source for name, source in self.copied_headers.items() if SECRET_HEADER.search(f"{name}-{source}"))
        return [client_headers[source] for source in names if client_headers.get(source)]

    def mask_secrets(self) -> "CallOptions":
        """Return options with which a request that is only shown contains no secret."""
        headers = {name: Secret(str(secret)) for name, secret in self.secret_headers.items()}
        body = msgspec.json.decode(msgspec.json.encode(self.body, enc_hook=str))
        return structs.replace(self, secret_headers=headers, body=body)

    @property
    def connection(self) -> tuple[object, ...]:
        """What the connections of the provider depend on. All values empty: it uses the common connections."""
        return self.proxy, self.ca_file, self.certificate_file, self.certificate_key_file, self.files_digest


def _reveal_in(value: object) -> Iterator[str]:
    if isinstance(value, Secret):
        yield value.reveal()
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _reveal_in(inner)


TokenCount = Annotated[int, Meta(ge=1, le=100_000_000)]
"""Type of a field with a number of tokens, from 1 to 100 million."""


class ModelTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits and features of models. A field that is not set keeps the value that the proxy already knows."""

    model_of: Annotated[str, Meta(min_length=1)] | None = None
    """Known model behind these names, such as a deployment of Azure: `gpt-5.6-sol`, or `anthropic/claude-opus-5`.

    Its limits, rules and prices apply, and without `wire` its API. Other fields of the table take precedence.
    """
    context_window: TokenCount | None = None
    """Maximum tokens of input and output together."""
    max_input: TokenCount | None = None
    """Maximum tokens of input alone, if it is lower than the context window."""
    max_output: TokenCount | None = None
    """Maximum tokens of one reply."""
    efforts: tuple[Effort, ...] | None = None
    """Supported levels of reasoning effort. Empty: the model has no levels."""
    default_effort: Effort | None = None
    """Reasoning effort that the model uses if a request has no level."""
    accepts_images: bool | None = None
    """True if the model accepts images."""
    accepts_pdf: bool | None = None
    """True if the model accepts PDF documents."""
    tools: bool | None = None
    """True if the model supports tool calls."""
    dialect: dict[str, object] = {}
    """Deviations of these models from the API, in addition to the deviations of the server."""

    @property
    def capabilities(self) -> Mapping[str, object]:
        """The limits and features that are set."""
        names = [name for name in self.__struct_fields__ if name not in ("model_of", "dialect")]
        return {name: value for name in names if (value := getattr(self, name)) is not None}


THIS_MACHINE = "localhost,127.0.0.1,127.0.0.0/8,0.0.0.0,::1,::,::ffff:127.0.0.0/104"
"""Entries of `NO_PROXY` for names and addresses of loopback: those of a proxy are its own machine. Not every library
knows networks."""
_MAX_SUGGESTED_NAME = 50
"""Leaves room for a number behind the name of a table, which has at most 63 characters."""


def format_origin_in_sentence(origin: str) -> str:
    """Return the origin of a setting as a part of a sentence: `.env, line 4` of `.env line 4`."""
    place, line = split_origin(origin)
    return f"{place}, line {line}" if line else origin


def split_origin(origin: str) -> tuple[str, str]:
    """Return place and line of the origin of a setting: `.env` and `4` of `.env line 4`. Without a line: it and ""."""
    place, found, line = origin.rpartition(" line ")
    return (place.removesuffix(","), line) if found else (origin, "")


_NOT_IN_NAMES = compile_later(r"[^a-z0-9_-]+")


def suggest_provider_name(text: str) -> str:
    """Return a name for the table of a server that a user calls `text`. "": no character can be used."""
    return _NOT_IN_NAMES.sub("-", text.lower()).strip("-_")[:_MAX_SUGGESTED_NAME].rstrip("-_")


_NOT_IN_VARIABLES = compile_later(r"\W+", re.ASCII)


def suggest_key_variable(name: str, field: str = "api_key") -> str:
    """Return a variable for a key of a server that has a table of this name: `MY_SERVER_API_KEY`."""
    variable = _NOT_IN_VARIABLES.sub("_", f"{name}_{field}").strip("_").upper()
    return f"PROVIDER_{variable}" if variable[0].isdigit() else variable


class ConfiguredProvider(Struct, frozen=True, kw_only=True, eq=False):
    """A checked `[providers.NAME]` table of the configuration file. Its API keys are in `Settings.keys`.

    Objects are compared and hashed by identity, because the mappings in their fields cannot be hashed for caches.
    """

    name: str
    """Name of the provider, from `[providers.NAME]`. It is the prefix of model ids."""
    base_url: str
    """Base URL of the server, without a trailing slash."""
    wire: str
    """API of the server: `chat`, `responses` and others. `providers.lookup` checks the name."""
    has_wire: bool = True
    """True if `wire` is in the file. False: it is a default, which `model_of` of a model may replace."""
    has_key: bool
    """True if the table of the provider has an `api_key`."""
    key_variable: str = ""
    """Variable that `api_key` names, or for a table without `api_key` a name for it. "": a file or command."""
    has_key_command: bool = False
    """True if the output of a command is the key. Such a key may be another one at each start or reload."""
    models: Mapping[str, ModelTable] = {}
    """Model id, or pattern of ids for `matches_model` → limits and deviations, in the order of the file. A later match
    overrides an earlier one."""
    dialect: Mapping[str, object] = {}
    """Dialect field → value as in the file. `providers.lookup` checks the names."""
    json_text: str = ""
    """The table as JSON text, by which a reload finds changes. Contains no key."""

    @property
    def known_models(self) -> tuple[str, ...]:
        """Model ids of the table, without patterns, in the order of the file."""
        return tuple(name.removesuffix(LONG_CONTEXT_SUFFIX) for name in self.models if WILDCARDS.isdisjoint(name))

    def collect_wire_and_model_values(self) -> dict[tuple[str, ...], object]:
        """Return the values in this table for the API (`wire`), the dialect and the models.

        The key of each value is its path within the table, such as `("models", "qwen3-*", "max_output")`. Lists of
        settings show the values with their lines in the file.
        """
        details: dict[tuple[str, ...], object] = {("wire",): self.wire}
        details |= {("dialect", name): value for name, value in self.dialect.items()}
        for pattern, model in self.models.items():
            place = ("models", pattern)
            details |= {(*place, "model_of"): model.model_of} if model.model_of else {}
            details |= {(*place, name): value for name, value in model.capabilities.items()}
            details |= {(*place, "dialect", name): value for name, value in model.dialect.items()}
        return details

    def format_setting_name(self, field: str) -> str:
        """Return the full name of a setting of this provider, such as `wire of [providers.vllm]` for `wire`."""
        # also a key of `Settings.origins`
        return f"{field} of [providers.{self.name}]"

    @property
    def base_url_setting(self) -> str:
        """Full name of the setting `base_url`, for messages and `Settings.origins`: `base_url of [providers.NAME]`."""
        return self.format_setting_name("base_url")

    @property
    def api_key_setting(self) -> str:
        """Full name of the setting `api_key`, for messages and `Settings.origins`: `api_key of [providers.NAME]`."""
        return self.format_setting_name("api_key")


Tier = Literal["haiku", "sonnet", "opus", "fable"]
"""A family of Claude models that settings map to models of providers."""
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
"""A day of the week."""
WEEKDAYS: tuple[Weekday, ...] = get_args(Weekday)
Balance = Literal["order", "weighted", "latency", "cost"]
"""Rule that selects the first model of a request: the listed order, random by weight, lowest latency, or lowest
price."""
BALANCE_TEXTS = {"weighted": "by weight", "latency": "lowest latency first", "cost": "lowest price first"}
"""Value of the field `balance` → text about the order of the targets, for users. `order` has no text."""
AutoModeChoice = Literal["check", "client", "off"]
"""Who checks tool calls in auto mode: the proxy, or the client with its own classifier; `off`: the client is told that
there is no check."""
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
NAME = compile_anchored(NAME_PATTERN)
"""Regular expression of valid route names. A name is also the value of a response header."""
Weight = Annotated[float, Meta(gt=0, le=1_000_000)]
"""Type of a relative share of requests, above 0. Only the ratio of the weights matters."""


class RouteConditions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
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
    """True: a call of Claude Code beside the conversation, such as for a session title: `auxiliary` or `classifier` by
    the hint headers, or without them a call without tools and thinking. False: any other request."""
    subagent: bool | None = None
    """True: a call of a sub-agent of Claude Code. False: any other request."""
    request: KnownKind | list[KnownKind] | None = None
    """What the request is for, by the hint headers of Claude Code, or as the proxy guesses without them."""
    agent: str | list[str] | None = None
    """Name or pattern of the kind of sub-agent of Claude Code: `Explore`. Only hint headers name it."""
    header: dict[str, str | list[str]] | None = None
    """Header name → value or pattern. The request must have all listed headers with a matching value."""
    key: str | list[str] | None = None
    """Name or pattern of the client key, as the log shows it."""
    team: str | list[str] | None = None
    """Name or pattern of the team of the virtual key."""
    owner: str | list[str] | None = None
    """Name or pattern of the owner of the virtual key."""
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
    """Chooses the models of the requests that meet its conditions. The first match in the file is used."""

    name: Annotated[str, Meta(extra_json_schema={"pattern": NAME_PATTERN})]
    """Name of the route, for the log, the ledger and the header `x-proxy-route`."""
    when: RouteConditions = RouteConditions()
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
    auto_mode: AutoModeChoice | None = None
    """Who checks tool calls for these requests in auto mode. By default that of `[auto_mode]`."""
    auto_mode_model: str | None = None
    """Model that checks tool calls for these requests. By default that of `[auto_mode]`, if it is one of the
    `targets`, else the targets."""
    auto_mode_timeout: Annotated[float, Meta(gt=0, le=600)] | None = None
    """Seconds that a reply waits for these checks. By default that of `[auto_mode]`."""
    image_model: str | None = None
    """Model that describes the pictures of these requests for models that do not see. By default that of `[images]`, if
    it is one of the `targets`, else none."""
    web: bool = True
    """False: for these requests, the proxy neither searches the web nor fetches pages and files."""
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


class ConfiguredRoute(RouteTable, frozen=True, kw_only=True, eq=False):
    """A table `[[routes]]` with its place in the file.

    Two objects are equal only if they are the same object.
    """

    origin: str = ""
    """File and line of the table: `anthropic-proxy.toml line 4`."""

    def find_weight(self, target: str) -> float:
        """Return the relative share of requests of a target, with `balance = "weighted"`."""
        return dict(zip(self.targets, self.weights, strict=False)).get(target, 1.0)

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


_PERIOD = compile_anchored(r"([01]\d|2[0-3]):([0-5]\d)-(?:([01]\d|2[0-3]):([0-5]\d)|(24):(00))")


def decode_period(text: str) -> TimePeriod | None:
    """Return the period of a text such as `08:00-18:00`. None: it is no period."""
    match = _PERIOD.fullmatch(text)
    if match is None:
        return None
    hour, minute, end_hour, end_minute = (int(number) for number in match.groups() if number is not None)
    return TimePeriod(hour * 60 + minute, end_hour * 60 + end_minute)


def list_periods(when: RouteConditions) -> Sequence[TimePeriod]:
    """Empty: no condition on the time of day."""
    found = map(decode_period, list_condition_texts(when.time))
    return [period for period in found if period is not None]


def load_time_zone(name: str | None) -> tzinfo | None:
    """Return the time zone with this name, such as `Europe/Berlin`. None: the time zone of the server.

    Raises `KeyError`, `ValueError` or `OSError` for an unknown name.
    """
    if name is None:
        return None
    from zoneinfo import ZoneInfo  # noqa: PLC0415  # most installations have no routes

    return ZoneInfo(name)


TIERS = ("haiku", "sonnet", "opus", "fable")
"""Families of Claude models. A tier in a requested id, such as `claude-opus-5`, is mapped to a backend model."""
LONG_CONTEXT_SUFFIX = "[1m]"
"""Suffix of a model id by which Claude Code assumes a window of 1,000,000 tokens. It usually does not send the suffix,
and no price list contains it."""


WILDCARDS = frozenset("*?")
"""Characters that make a text of a user a pattern. Brackets are text."""


def escape_brackets(pattern: str) -> str:
    """Return a pattern of a user as one of `fnmatch`."""
    return pattern.replace("[", "[[]")


def normalize_model_pattern(pattern: str) -> str:
    """Return a pattern of a user without case and `[1m]` suffix, which the ids of requests do not have either."""
    return pattern.lower().removesuffix(LONG_CONTEXT_SUFFIX)


def convert_model_pattern(pattern: str) -> str:
    """Return a pattern of a user for model ids as one of `fnmatch` for ids in lower case."""
    return escape_brackets(normalize_model_pattern(pattern))


def matches_model(name: str, pattern: str) -> bool:
    """Return True if a pattern of a user matches a model id."""
    return fnmatchcase(name.lower(), convert_model_pattern(pattern))


class Timeouts(Struct, frozen=True):
    """Time limits of a call to a provider, in seconds. The total duration of the call is unlimited."""

    connect_seconds: float = 10.0
    """`UPSTREAM_CONNECT_TIMEOUT`: maximum time to connect to the provider."""
    first_byte_seconds: float = 600.0
    """`UPSTREAM_FIRST_BYTE_TIMEOUT`: maximum time without a byte before the first content. Reasoning models may
    need minutes."""
    idle_seconds: float = 300.0
    """`UPSTREAM_IDLE_TIMEOUT`: maximum time between two received pieces of the reply, from its first content on."""


class AutoMode(Struct, frozen=True, kw_only=True):
    """Check of tool calls for Claude Code's auto mode, if the provider does none itself."""

    mode: AutoModeChoice = "check"
    """Who checks the calls."""
    model: str | None = None
    """Model of the check. None: that of the sonnet tier."""
    timeout_seconds: float = 12.0
    """Maximum time that the end of a reply waits for its checks."""
    confirm_with: str | None = None
    """Second model, which must agree that a call is not dangerous. None: one model decides."""
    deny: tuple[str, ...] = ()
    """Sentences of a company about actions that are flagged. Sentences of the user cannot weaken them."""
    allow: tuple[str, ...] = ()
    """Sentences of a company about actions that are not flagged."""
    environment: tuple[str, ...] = ()
    """Sentences of a company about its surroundings, such as its hosts and repositories."""


class ImageDescriptions(Struct, frozen=True, kw_only=True):
    """Descriptions of pictures, by a model that sees, for models that do not."""

    model: str | None = None
    """Model that describes the pictures. None: only routes name one."""
    timeout_seconds: float = 60.0
    """Maximum time of one description."""
    max_per_request: int = 100
    """Maximum number of pictures that are described anew for one request."""


SearchServiceName = Literal["searxng", "brave", "tavily", "exa"]
"""Name of a search service."""


class SearchService(Struct, frozen=True, kw_only=True):
    """Service that runs web searches for models, selected by the table `[search]` of the configuration file."""

    service: SearchServiceName
    """Name of the search service, which selects its client."""
    base_url: str | None = None
    """Address of the search service without a trailing slash. None: the public address of the service."""
    key: Secret | None = None
    """API key of the search service. None: the service needs no key (SearXNG), or `problem` has the reason why it is
    missing."""
    problem: str = ""
    """Reason why the table `[search]` gives no key, with a remedy, for clients and the log. "": none."""
    problem_details: str = ""
    """Longer text of `problem` for the user's terminal. It quotes the reference to the key."""


class KeySource(Struct, frozen=True, kw_only=True):
    """File or command from which the API key of a provider is read, at the start and again while the proxy runs."""

    origin: str
    """File or command with its place in the configuration file, for messages."""
    folder: str
    """Folder of the configuration file."""
    file: str = ""
    """Path of the file, absolute or below `folder`. "": a command."""
    command: tuple[str, ...] = ()
    """Program with its arguments. Empty: a file."""
    refresh_seconds: float | None = None
    """Age in seconds at which the key is read again. None: only after the provider has rejected it."""


class EngineOptions(Struct, frozen=True, kw_only=True):
    """Options of the engine. The default of each field is that of the server."""

    keys: Mapping[str, Sequence[Secret]] = {}
    """Provider name → API keys for the provider (`OPENAI_API_KEY`, …; separated by commas). Calls use the keys in turn.
    """
    base_urls: Mapping[str, str] = {}
    """Provider name → URL that replaces the default base URL, without a trailing slash (`<PROVIDER>_BASE_URL`)."""
    wires: Mapping[str, str] = {}
    """Provider name → API with which it is called: `chat`, `responses` (`<PROVIDER>_WIRE`).

    Absent: the default of the provider, which may depend on the model (`auto`).
    """
    extra_models: Mapping[str, Sequence[str]] = {}
    """Provider name → model ids in addition to the built-in list of the provider (`<PROVIDER>_KNOWN_MODELS`)."""
    preferred_provider: str | None = None
    """`PREFERRED_PROVIDER`: provider of tiers and of model ids without a prefix.

    None: the first provider with a key or project, else Ollama if it replies, else the demo.
    """
    big_model: str | None = None
    """`BIG_MODEL`: backend model for sonnet, opus and fable requests. None: the default of the preferred provider."""
    middle_model: str | None = None
    """`MIDDLE_MODEL`: backend model for sonnet requests, instead of `BIG_MODEL`. None: `BIG_MODEL` applies."""
    small_model: str | None = None
    """`SMALL_MODEL`: backend model for haiku requests. None: the default of the preferred provider."""
    tier_models: Mapping[str, str] = {}
    """Tier (`opus`) → backend model, overriding BIG_MODEL, MIDDLE_MODEL and SMALL_MODEL (`MODEL_<TIER>`)."""
    limit_contact: str = ""
    """Where people ask for what only an administrator can change. "": errors name an administrator."""
    configured_providers: tuple[ConfiguredProvider, ...] = ()
    """Tables `[providers.NAME]` of `anthropic-proxy.toml`. Their keys and addresses are in `keys` and `base_urls`."""
    call_options: Mapping[str, CallOptions] = {}
    """Provider name → headers, body fields and connection of its calls, from `[providers.NAME]`. Absent: none."""
    key_sources: Mapping[str, KeySource] = {}
    """Provider name → file or command from which its key in `keys` was read."""
    key_problems: Mapping[str, str] = {}
    """Provider name → reason why its `api_key` of the configuration file gives no key, with a remedy.

    It is sent to clients, so it does not quote `api_key`, which may be a key.
    """
    fallbacks: Mapping[str, Sequence[str]] = {}
    """Tier → backend models tried in order if the first model fails (`FALLBACK_<TIER>`)."""
    use_vertex_auth: bool = False
    """`USE_VERTEX_AUTH`: True if Gemini models are called at Vertex AI with Application Default Credentials."""
    vertex_project: str | None = None
    """`VERTEX_PROJECT`, `VERTEX_PROJECT_ID`: id of the Google Cloud project. None: the project of the credentials."""
    vertex_location: str = "us-central1"
    """`VERTEX_LOCATION`: region of Vertex AI, or `global`."""
    google_credentials_file: str | None = None
    """`GOOGLE_APPLICATION_CREDENTIALS`: path of the credentials file for Vertex AI. None: the path of gcloud."""
    aws_region: str | None = None
    """`AWS_REGION`, `AWS_DEFAULT_REGION`: region of Amazon Bedrock. None: Bedrock is not set up."""
    foundry_resource: str | None = None
    """`ANTHROPIC_FOUNDRY_RESOURCE`: name of the resource in Microsoft Foundry. None: Foundry is not set up."""
    cloud_variables: Mapping[str, Secret] = {}
    """Variables `AWS_…` and `AZURE_…` that are only in `.env`, with credentials of these clouds."""
    ollama_context_length: int | None = None
    """`OLLAMA_CONTEXT_LENGTH`: context window in tokens, sent to Ollama as `num_ctx`.

    None: `num_ctx` of the Modelfile, else the window of the model, at most 65,536.
    """
    ollama_keep_alive: str | None = None
    """`OLLAMA_KEEP_ALIVE`: time that Ollama keeps a model in memory after a reply, in seconds (`300`) or as `10m`.

    `-1`: no limit. None: the default of the Ollama server.
    """
    serve_demo: bool = False
    """`SERVE_DEMO`: True if the built-in demo model `demo/…` is served beside other providers.

    False: only if the demo is the preferred provider.
    """
    timeouts: Timeouts = Timeouts()
    """Time limits of provider calls (`UPSTREAM_…_TIMEOUT`). `UPSTREAM_TIMEOUT` is the default of `first_byte_seconds`
    and `idle_seconds`."""
    fidelity: Fidelity = "best-effort"
    """`FIDELITY`: `strict` rejects a request that the backend can serve only with losses; `best-effort` serves it."""
    tier_fidelities: Mapping[str, Fidelity] = {}
    """Tier → policy that overrides `fidelity` for requests of the tier (`FIDELITY_<TIER>`)."""
    check_context_window: bool = False
    """`CHECK_WINDOW`: True if a request above the context window of the model is rejected before an upstream call."""
    search_url: str | None = None
    """`SEARCH_URL`: URL of the search service for web searches run by the proxy. None: the proxy runs none."""
    search: SearchService | None = None
    """`[search]` of `anthropic-proxy.toml`: search service for web searches. `search_url` takes precedence."""
    auto_mode: AutoMode = AutoMode()
    """Table `[auto_mode]` of `anthropic-proxy.toml`."""
    images: ImageDescriptions | None = None
    """Table `[images]` of `anthropic-proxy.toml`. None: no picture is described, because neither it nor a route names a
    model."""
    routes: tuple[ConfiguredRoute, ...] = ()
    """Tables `[[routes]]` of `anthropic-proxy.toml`, in the order of the file. The first match is used."""
    fetch_urls: bool = False
    """`FETCH_URLS`: True if the proxy may run the web fetch tool: download a web page for the model."""
    max_upstream_calls: int | None = None
    """`MAX_UPSTREAM_CALLS`: maximum concurrent calls to providers, in all workers together. None: no limit."""
    http_proxies: Mapping[str, Secret] = {}
    """Scheme of a provider URL (`https`) → URL of the HTTP proxy for calls to it (`HTTPS_PROXY`, else `ALL_PROXY`)."""
    no_proxy_hosts: str = THIS_MACHINE
    """`NO_PROXY`: comma-separated hosts that are called without an HTTP proxy of the environment."""
    data_directory: Path | None = None
    """Directory for files of this user (`XDG_DATA_HOME`, `HOME`, `LOCALAPPDATA`). None: the environment names none."""
    other_secrets: Sequence[Secret] = ()
    """Secrets of other programs in the environment, recognized by variable names such as `…_TOKEN`. The log masks
    them."""
    origins: Mapping[str, str] = {}
    """Variable, or key of the configuration file → source of its value, for messages: `environment`, `.env line 4`."""
    session_command: str = ""
    """Command that has started the proxy for one session and ends it: `code`. Changed files apply at once. "": a proxy
    that several clients use, which only its user starts again."""

    @property
    def start_again(self) -> str:
        """What a user does after a change that a running proxy does not notice, as the end of a sentence."""
        if not self.session_command:
            return "start the proxy again"
        command = f"anthropic-proxy {self.session_command}"
        return f"start Claude Code again with {command}" if self.session_command == "code" else f"run {command} again"

    @property
    def variables_file(self) -> str:
        """The file in which the user sets variables, as texts name it."""
        return ".env"

    @property
    def set_variable(self) -> str:
        """The sentence about where to set a missing key, project or the like."""
        if self.session_command:
            place = f"in {self.variables_file}, which applies at once, or in the environment"
            return f"Set it {place} and {self.start_again}."
        return "Set it in .env and reload the proxy, or in the environment and start it again."

    @property
    def requires_client_key(self) -> bool:
        """True if every client needs a key of its own. Its credentials are then not those of a provider."""
        return False

    def reveal_proxy_keys(self) -> Sequence[str]:
        """Return the unredacted keys that clients send. The engine masks them in what it relays."""
        return ()

    def reveal_all_secrets(self) -> Sequence[str]:
        """Return the unredacted text of every key and other secret, so that logs can mask them."""
        searching = [self.search.key] if self.search is not None and self.search.key is not None else []
        own = (*(key for keys in self.keys.values() for key in keys), *searching, *self.other_secrets)
        calls = (secret for options in self.call_options.values() for secret in options.reveal_secrets())
        return [*(key.reveal() for key in own), *calls, *self.reveal_proxy_keys()]

    def export_to_litellm(self, exported: dict[str, Secret] | None = None) -> None:
        """Set the environment variables from which LiteLLM reads keys. A program without the server sets its own.

        `exported` contains the variables that the previous call has set.
        """
