"""What the ledger stores of a client request: its properties (`StoredRequest`), their sums, and filters.

`RowBuilder` builds a record from the receipt of a finished request. Tables, insertion, sums, export, API and pages
follow from the structs and from `FACETS` of this module, so that a new column is declared here and in a migration.

Keys are redacted, and characters that a database would reject are replaced. In a text, "" means that a value is
missing. Money is in nano-dollars, a duration in microseconds, and a time in microseconds since the epoch.
"""

import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, cast

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.console import formats
from anthropic_proxy.console.units import MICROSECONDS_PER_HOUR, to_microseconds
from anthropic_proxy.engine.bounded import BoundedDict
from anthropic_proxy.engine.messages.deltas import TokenCounts
from anthropic_proxy.engine.messages.fidelity import TOOL_CALL_FIELDS
from anthropic_proxy.engine.messages.purpose import CONVERSATION_KINDS
from anthropic_proxy.gateway.money import UNKNOWN_AMOUNT, format_cost
from anthropic_proxy.gateway.telemetry.outcomes import VERDICTS, classify_outcome, find_verdict
from anthropic_proxy.plugins import (
    BlockMark,
    CallCheck,
    Cost,
    InspectionRecord,
    ModelUsage,
    Receipt,
    UpstreamAttempt,
)
from anthropic_proxy.secrets import list_secret_encodings, redact_key_patterns, redact_secrets

REPLACEMENT = "other"
"""Value in place of those that clients choose beyond the limit of a facet."""
OF_OTHER_PEOPLE = "others"
"""Value of `StoredRequest.texts_of`."""
NOT_SENT = "not sent"
"""Name of the provider and the model of requests that were sent to none."""


class Facet(NamedTuple):
    """Property by which requests are filtered and grouped. Its column in `requests` has an index with the time."""

    column: str
    title: str
    none_text: str = "none"
    """Text for the value ""."""
    common_value: str | None = None
    """Value that most requests have. The index leaves it out. None: no value is that common."""
    sums: Sequence[Literal["hourly", "session_hours"]] = ("hourly",)
    """Tables of sums that have the column as a key. Empty: sums are those of single requests as long as they are
    stored."""
    max_values: int | None = None
    """Maximum number of values of a key in an hour, if clients choose them: each adds rows to the sums. `FacetLimits`
    replaces further ones by `REPLACEMENT`. None: only the settings and keys of the proxy have the values."""
    is_group: bool = True
    """True if the command `usage` and the API group sums by it."""


FACETS: Mapping[str, Facet] = {
    "outcome": Facet("outcome_class", "Outcome", common_value="ok", is_group=False),
    "provider": Facet("provider", "Provider", NOT_SENT),
    "model": Facet("model", "Model used", NOT_SENT, max_values=500),
    "requested": Facet("requested_model", "Requested", max_values=500),
    "project": Facet("project", "Project", common_value="", sums=("hourly", "session_hours"), max_values=500),
    "session": Facet("session", "Session", common_value="", sums=("session_hours",), max_values=5_000),
    "kind": Facet("kind", "Kind", "unknown", max_values=20),
    "agent": Facet("agent_type", "Agent", common_value="", max_values=50),
    "prompt": Facet("prompt_id", "Prompt", "unknown", common_value="", sums=()),
    "verdict": Facet("verdict", "Verdict", common_value=""),
    "key": Facet("key_label", "Key", common_value="local", sums=("hourly", "session_hours")),
    "owner": Facet("owner", "Owner", common_value="", sums=("hourly", "session_hours")),
    "team": Facet("team", "Team", common_value="", sums=("hourly", "session_hours")),
    "cost-center": Facet("cost_center", "Cost center", common_value="", max_values=2_000),
    "route": Facet("route", "Route", common_value=""),
}
"""Parameter of the URL → facet."""
_MAX_VALUES = {facet.column: facet.max_values for facet in FACETS.values() if facet.max_values is not None}
_UNSERVED_MODELS = "model without a reply"
_MAX_HOURS = 3
"""Maximum number of hours whose values are kept: a long request of an earlier hour can end in the present one."""
COMMON_VALUES = {facet.column: facet.common_value for facet in FACETS.values() if facet.common_value is not None}
HOURLY_KEYS = tuple(facet.column for facet in FACETS.values() if "hourly" in facet.sums)
SESSION_KEYS = tuple(facet.column for facet in FACETS.values() if "session_hours" in facet.sums)
GROUP_NAMES = ("day", "hour", *(name for name, facet in FACETS.items() if facet.is_group))
SPLIT_NAMES = tuple(name for name, facet in FACETS.items() if facet.is_group and "hourly" in facet.sums)
if TYPE_CHECKING:
    GroupName = str
    SplitName = str
else:
    GroupName = Literal[GROUP_NAMES]
    SplitName = Literal[SPLIT_NAMES]
"""`GroupName`: time or facet by which sums are grouped. `SplitName`: facet by which each group is divided."""


def name_missing(by: str) -> str:
    """Return the text for requests without a value of the facet `by`: `no cost center`, `not sent`."""
    facet = FACETS[by]
    return f"no {facet.title.lower()}" if facet.none_text == "none" else facet.none_text


class RequestCounts(TokenCounts):
    """Numbers that are stored with a request, and summed over requests."""

    tool_results: int = 0
    """Results of client tools in a request that got a reply."""
    tool_errors: int = 0
    """Those with `is_error`: the tool failed."""
    malformed_replies: int = 0
    """Replies with a tool call that has an unknown name, or arguments that are no JSON object. 0 if the proxy does not
    repair the tool calls of the server."""


class StoredRequest(RequestCounts, gc=False):
    """One client request: a row of the table `requests`. A number that is None is unknown or missing, never zero."""

    id: str = ""
    """`request-id` that the client received."""
    started_at: int = 0
    client: str = ""
    """Product name in the user agent."""
    key_label: str = ""
    """Label of the key that the client presented, or `local`."""
    project: str = ""
    session: str = ""
    agent: str = ""
    user_agent: str = ""
    path: str = ""
    stream: bool = False
    requested_model: str = ""
    provider: str = ""
    prefix: str = ""
    model: str = ""
    route_reason: str = ""
    attempts: int = 0
    failed_attempts: str = ""
    """JSON list, as `notes`, `adaptations`, `attempt_times` and `reply_blocks`. "": an empty list."""
    status: int = 0
    outcome: str = ""
    outcome_class: str = ""
    """An `OutcomeClass`. Refusals that an earlier version stored are `ok`, or `retried`."""
    error_type: str = ""
    error: str = ""
    tool_count: int = 0
    message_count: int = 0
    cost: int | None = None
    """Price of tokens and billed searches at the used model."""
    requested_cost: int | None = None
    """The same at the requested model."""
    price_source: str = ""
    """Origin of the price, with service tier and number of billed searches."""
    first_token: int | None = None
    """Time to the first token. None: the reply has no content."""
    duration: int = 0
    output_rate: float | None = None
    """Output tokens per second after the first token."""
    notes: str = ""
    note_count: int = 0
    adaptations: str = ""
    instance: str = ""
    """Host name of the proxy."""
    worker: int = 0
    """Process id."""
    attempt_times: str = ""
    reply_blocks: str = ""
    route: str = ""
    """Name of the `[[routes]]` table that chose the target. "": none, or stored by an earlier version."""
    method: str = ""
    """HTTP method. "": stored by an earlier version."""
    error_code: str = ""
    """Entry of the error catalog. "": no entry, or stored by an earlier version."""
    owner: str = ""
    """Owner of the virtual key when the request was sent. "": none, or stored by an earlier version."""
    texts_of: str = ""
    """`others`: the key's text (secret) was given out before the key got this owner, who therefore does not read the
    texts of the request. "": the texts are the owner's."""
    team: str = ""
    """Team of the virtual key when the request was sent. "": none, or stored by an earlier version."""
    prefix_change: str = ""
    """First part of the prompt that differs from the request before in the conversation: `tool 3 (WebFetch)`. "": none,
    or stored by an earlier version."""
    prefix_change_tokens: int = 0
    """Input tokens behind this part, which the provider could not read from its cache."""
    billed_searches: int = 0
    """Web searches that providers ran and bill. 0: none, or stored by an earlier version."""
    kind: str = ""
    """A `RequestKind`. "": unknown, or stored by an earlier version."""
    parent: str = ""
    """Id of the request to which a check of the proxy belongs. "": a request of a client."""
    checks: str = ""
    """Checks of the tool calls of the reply, as JSON. "": none, or stored by an earlier version."""
    agent_type: str = ""
    """Kind of sub-agent, such as `Explore`. "": none, or stored by an earlier version."""
    prompt_id: str = ""
    """Prompt of the user that led to the request. "": unknown, or stored by an earlier version."""
    verdict: str = ""
    """The most serious verdict of `checks`. "": there are none, or stored by an earlier version."""
    tool_times: str = ""
    """Durations of the tools whose results the request has, as JSON. "": the client sent none, or stored by an earlier
    version.
    """
    inspections: str = ""
    """What the inspectors did with the request and its reply, as JSON. "": there are none, or stored by an earlier
    version.
    """
    remedy: str = ""
    """Own remedy at the end of `error`. "": that of the error catalog, or stored by an earlier version."""
    model_usage: str = ""
    """What each model has used of the request, as JSON (`ModelUsage`). "": all of it is of `model`, or stored by an
    earlier version."""
    cost_center: str = ""
    """Cost center of the virtual key when the request was sent. "": none, or stored by an earlier version."""


class FacetLimits:
    """Bounds the values of facets that clients choose in each hour, so that the sums do not grow with the requests.

    Each key has its own values, so that those of one client replace none of another one. Models that have replied do
    not share their places with names that nobody serves. The request has the same value as its sums. A restart, and
    each further process, begins anew.
    """

    def __init__(self) -> None:
        self._hours: dict[int, dict[tuple[str, str], set[str]]] = {}
        """Hour since the epoch → label of a key and column → its values."""

    def apply(self, row: StoredRequest) -> None:
        """Replace values of `row` beyond the limits."""
        hour = row.started_at // MICROSECONDS_PER_HOUR
        if (known := self._hours.get(hour)) is None:
            if len(self._hours) >= _MAX_HOURS:
                del self._hours[min(self._hours)]
            known = self._hours[hour] = {}
        has_replied = bool(row.all_tokens or row.cost)
        for column, maximum in _MAX_VALUES.items():
            place = _UNSERVED_MODELS if column == "model" and not has_replied else column
            values = known.setdefault((row.key_label, place), {""})
            setattr(row, column, _limit_value(getattr(row, column), values, maximum))
        if row.model_usage:
            values = known.setdefault((row.key_label, "model"), {""})
            parts = decode_model_usage(row.model_usage)
            for part in parts:  # a provider chooses the names
                part.model = _limit_value(part.model, values, _MAX_VALUES["model"])
            row.model_usage = _json(parts)


def _limit_value(value: str, values: set[str], maximum: int) -> str:
    if value in values:
        return value
    if len(values) > maximum:
        return REPLACEMENT
    values.add(value)
    return value


class UsageSums(RequestCounts):
    """Numbers of requests and tokens, and costs, summed over several requests. The tables of sums have its fields."""

    requests: int = 0
    errors: int = 0
    cancelled: int = 0
    """Number of requests that ended early, because the client disconnected. They have neither succeeded nor failed."""
    cost: int = 0
    unknown_cost_requests: int = 0
    """Number of requests to models without a known price. Their costs are missing in `cost`."""
    requested_cost: int = 0
    """Cost of the same tokens at the prices of the models that the clients requested."""
    unknown_requested_cost_requests: int = 0

    @property
    def cached_input_share(self) -> float | None:
        """0 to 1. None: there are none."""
        return self.cache_read_tokens / self.all_input_tokens if self.all_input_tokens else None

    @property
    def tool_error_share(self) -> float | None:
        """0 to 1. None: there are none."""
        return self.tool_errors / self.tool_results if self.tool_results else None

    @property
    def error_share(self) -> float | None:
        """0 to 1. None: there are no requests."""
        return self.errors / self.requests if self.requests else None

    @property
    def has_replies(self) -> bool:
        """True if a model was used. Otherwise no request has a cost: this is not the same as a cost of 0."""
        return bool(self.all_tokens or self.cost or self.unknown_cost_requests)

    @property
    def succeeded(self) -> int:
        return self.requests - self.errors - self.cancelled

    @property
    def known_cost(self) -> int | None:
        """Cost in nano-dollars of the requests with a known price. None: the cost is 0, but some prices are unknown."""
        return known_cost_or_none(self.cost, self.unknown_cost_requests)


BUDGET_TOKENS = ("input_tokens", "cache_write_tokens", "output_tokens")
"""Kinds of tokens that limits and budgets count: all but those that are read from a cache."""
_read_budget_tokens: Callable[[TokenCounts], tuple[int, ...]] = attrgetter(*BUDGET_TOKENS)


def count_budget_tokens(counts: TokenCounts) -> int:
    """Return the number of tokens that limits and budgets count."""
    return sum(_read_budget_tokens(counts))


def describe_part(part: ModelUsage) -> str:
    """`claude-opus-4-5 (advisor message)`"""
    return f"{part.model} ({part.kind.replace('_', ' ')})" if part.kind else part.model


class MovedSums(NamedTuple):
    """Tokens and costs that are added to the sums of a model."""

    provider: str
    model: str
    sums: UsageSums
    is_added: bool
    """True if the provider has called this model for a request of another one. False: the sums are negative, because
    the tokens are those of another model."""


MOVED_COLUMNS = ("provider", "model", "cost", "requested_cost", "model_usage")
"""Columns of a request that are the arguments of `move_sums`."""


def move_sums(
    provider: str, model: str, cost: int | None, requested_cost: int | None, model_usage: str
) -> Sequence[MovedSums]:
    """Return what is added to the sums of a request so that each model has its own tokens and costs. All of it together
    is 0, and the request itself counts for its `model`.

    A cost that is unknown is missing in the sums of all its models, and counts as unknown for the first of those
    without a price.
    """
    moved = list[MovedSums]()
    try:
        parts = decode_model_usage(model_usage)
    except (msgspec.DecodeError, TypeError):  # SQLite stores any value in any column
        return moved
    unpriced = next((part for part in parts if part.cost is None), None)
    unlisted = next((part for part in parts if part.requested_cost is None), None)
    for part in parts:
        if (part.provider, part.model) == (provider, model):
            continue
        sums = UsageSums(*(getattr(part, name) for name in TokenCounts.__struct_fields__))
        sums.cost = 0 if cost is None else part.cost or 0
        sums.requested_cost = 0 if requested_cost is None else part.requested_cost or 0
        sums.unknown_cost_requests = int(part is unpriced)
        sums.unknown_requested_cost_requests = int(part is unlisted)
        moved.append(MovedSums(part.provider, part.model, sums, is_added=True))
        rest = UsageSums(*(-amount for amount in structs.astuple(sums)))
        moved.append(MovedSums(provider, model, rest, is_added=False))
    return moved


def describe_claude_cost(sums: UsageSums) -> str:
    """Return what the same tokens cost at the prices of the requested models: `≥ $0.26 at Claude's prices`. "": it is
    unknown, the clients requested the used models, or the cost of fewer requests is known.
    """
    cost = sums.requested_cost
    unknown = sums.unknown_requested_cost_requests
    text = format_cost(cost, unknown)
    is_same = (cost, unknown) == (sums.cost, sums.unknown_cost_requests)
    is_partial = sums.unknown_cost_requests > unknown
    return "" if not cost or is_same or is_partial or text == UNKNOWN_AMOUNT else f"{text} at Claude's prices"


SUM_NAMES: Sequence[str] = UsageSums.__struct_fields__
KeyT = TypeVar("KeyT")
ItemT = TypeVar("ItemT")


def add_up(sums: Iterable[UsageSums]) -> UsageSums:
    return UsageSums(*map(sum, zip(*map(structs.astuple, sums), strict=True)))


def add_up_groups(groups: Iterable[tuple[KeyT, UsageSums]]) -> dict[KeyT, UsageSums]:
    sums_by_key: dict[KeyT, list[UsageSums]] = {}
    for key, sums in groups:
        sums_by_key.setdefault(key, []).append(sums)
    return {key: add_up(several) for key, several in sums_by_key.items()}


def known_cost_or_none(cost: int, unknown_requests: int) -> int | None:
    """Return `cost` in nano-dollars, or None if it is 0 and some requests (`unknown_requests`) have no known price."""
    return None if unknown_requests and not cost else cost


MAX_LABEL_CHARACTERS = 200
MAX_ERROR_CHARACTERS = 2_000
_REJECTED_CLIENTS = frozenset({"authentication_error", "permission_error"})
"""Types of errors of requests by clients without access to the proxy."""
_LABELS: Mapping[str, str] = {
    "key_label": "client.name",
    "owner": "client.owner",
    "team": "client.team",
    "cost_center": "client.cost_center",
    "project": "project",
    "session": "session",
    "agent": "agent",
    "user_agent": "user_agent",
    "method": "method",
    "path": "path",
    "requested_model": "requested_model",
    "provider": "provider",
    "prefix": "prefix",
    "model": "model",
    "route": "route",
    "route_reason": "route_reason",
    "outcome": "outcome",
    "error_type": "error_type",
    "error_code": "error_code",
    "kind": "kind",
    "agent_type": "agent_type",
    "prompt_id": "prompt_id",
    "parent": "parent",
}
"""Field of `StoredRequest` with a short text → field of the receipt."""
_read_labels = cast(Callable[[Receipt], tuple[str, ...]], attrgetter(*_LABELS.values()))
_HIDDEN_COLUMNS = frozenset({*HOURLY_KEYS, *SESSION_KEYS, "agent", "prompt_id"}) - {"key_label", "outcome_class"}
"""Columns that are "" in the rows of clients without access: each new value would add a row to the sums."""
_MAX_CACHED = 1_000
"""Maximum number of each kind of text that the builder of rows keeps."""
_MAX_CACHED_CHARACTERS = 1_000
_copy = cast(Callable[[StoredRequest], StoredRequest], attrgetter("__copy__")(StoredRequest))
"""`copy.copy` without the search for a function."""
_MAX_COUNT = (2**63 - 1) >> 16
"""Maximum stored number of tokens or nano-dollars."""
_HOST = platform.node()
_PROCESS = os.getpid()
_encode = msgspec.json.Encoder().encode
_NO_CONTROL_CHARACTERS = dict.fromkeys((*range(32), 127), " ")


_REPEATED_ERRORS = ("rate_limit_error", "billing_error", "authentication_error")


def is_refused(row: StoredRequest) -> bool:
    """Return True if no provider was called, because a limit or budget was reached, or the key was missing or wrong. A
    client may repeat such a request thousands of times a second.
    """
    return row.error_type in _REPEATED_ERRORS and not row.provider and row.outcome_class == "error"


class _Texts(NamedTuple):
    """Columns that few requests have a value for: texts, and lists as JSON."""

    error: str
    failed_attempts: str
    notes: str
    adaptations: str
    prefix_change: str
    checks: str
    tool_times: str
    inspections: str
    remedy: str
    model_usage: str


def _has_texts(receipt: Receipt, cost: Cost) -> bool:
    """Return True if the request has what few requests have: texts, and lists that are stored as texts."""
    return bool(
        (receipt.error or receipt.failed_attempts or receipt.fidelity.notes or receipt.adaptations)
        or (receipt.prefix_change or receipt.checks or receipt.tool_times or receipt.inspections or cost.parts)
    )


def _encode_texts(receipt: Receipt, cost: Cost) -> _Texts:
    change = receipt.prefix_change
    return _Texts(
        error=receipt.error,
        failed_attempts=_json(receipt.failed_attempts),
        notes=_json(receipt.fidelity.notes),
        adaptations=_json(receipt.adaptations),
        prefix_change="" if change is None else change.part,
        checks=_json(_select_checks(receipt.checks)),
        tool_times=_json(build_tool_times(receipt.tool_times)),
        inspections=_json(receipt.inspections),
        remedy=receipt.remedy,
        model_usage=_json([_limit_part(part) for part in cost.parts]),
    )


class RowBuilder:
    def __init__(self, secrets: Sequence[str]) -> None:
        self._secrets = secrets
        self._spellings = list_secret_encodings(secrets)
        self._labeled = BoundedDict[tuple[str, ...], StoredRequest](_MAX_CACHED)
        """Names of a receipt → row with their labels. Most requests of a session have the same names."""
        self._sound_texts: set[str] = set()
        """Texts that are stored as they are, such as names of models and tools."""

    def build(self, receipt: Receipt, cost: Cost) -> StoredRequest:
        names = _read_labels(receipt)
        row = _copy(self._labeled.get(names) or self._build_labeled(names))
        row.input_tokens = _limit(receipt.input_tokens)
        row.output_tokens = _limit(receipt.output_tokens)
        if receipt.cache_read_tokens or receipt.cache_write_tokens:
            row.cache_read_tokens = _limit(receipt.cache_read_tokens)
            row.cache_write_tokens = _limit(receipt.cache_write_tokens)
            row.cache_write_1h_tokens = _limit(receipt.cache_write_1h_tokens)
        if receipt.thinking_tokens:
            row.thinking_tokens = _limit(receipt.thinking_tokens)
        attempts = receipt.attempts
        attempt_times = _json(build_attempt_times(attempts))
        reply_blocks = _json(build_block_times(receipt.blocks, receipt.started_at))
        texts = _encode_texts(receipt, cost) if _has_texts(receipt, cost) else None
        words = [name for _, name, _, _ in receipt.blocks]
        for attempt in attempts:
            words += attempt.model, attempt.error
        if texts is not None:
            words += texts
        if not self._sound_texts.issuperset(words):
            encoded = (attempt_times, reply_blocks, *(texts or ()))
            stored = self._redact(encoded)
            if stored == encoded and max(map(len, words)) <= _MAX_CACHED_CHARACTERS:
                if len(self._sound_texts) >= _MAX_CACHED:
                    self._sound_texts = set()
                self._sound_texts.update(words)
            attempt_times, reply_blocks, *others = stored
            texts = _Texts(*others) if others else None
        row.attempt_times = shorten_attempt_errors(attempt_times)  # after the removal of keys
        row.reply_blocks = reply_blocks
        if texts is not None:
            row.error = formats.shorten(texts.error, MAX_ERROR_CHARACTERS)  # after the removal of keys
            row.failed_attempts = texts.failed_attempts
            row.notes = texts.notes
            row.adaptations = texts.adaptations
            row.prefix_change = texts.prefix_change
            row.checks = shorten_checks(texts.checks)  # after the removal of keys
            row.tool_times = texts.tool_times
            row.inspections = texts.inspections
            row.remedy = texts.remedy
            row.model_usage = texts.model_usage
            notes = receipt.fidelity.notes
            change = receipt.prefix_change
            row.verdict = find_verdict(receipt.checks)
            row.note_count = len(notes)
            row.malformed_replies = int(any(note.field in TOOL_CALL_FIELDS for note in notes))
            if change is not None:
                row.prefix_change_tokens = _limit(change.tokens)
        row.id = receipt.request_id
        row.stream = receipt.stream
        row.status = receipt.status
        row.outcome_class = classify_outcome(receipt)
        row.texts_of = OF_OTHER_PEOPLE if receipt.client.has_foreign_texts else ""
        row.cost = None if cost.cost is None else _limit(cost.cost)
        row.requested_cost = None if cost.requested_cost is None else _limit(cost.requested_cost)
        row.price_source = cost.source
        row.billed_searches = _limit(receipt.billed_searches)
        row.attempts = len(receipt.failed_attempts) + bool(receipt.provider)
        row.tool_count = receipt.tool_count
        row.message_count = receipt.message_count
        if receipt.outcome not in ("error", "cancelled"):  # the client sends such a request and its results again
            row.tool_results = receipt.tool_results
            row.tool_errors = receipt.tool_errors
        first = receipt.first_token_seconds
        total = receipt.duration_seconds
        row.started_at = to_microseconds(receipt.started_at)
        row.duration = to_microseconds(total)
        if first is not None:
            row.first_token = to_microseconds(first)
            if total - first > 0.001 and receipt.output_tokens:
                row.output_rate = receipt.output_tokens / (total - first)
        return row

    def _build_labeled(self, names: tuple[str, ...]) -> StoredRequest:
        """Return a row that has only the labels."""
        labels = [formats.shorten(label, MAX_LABEL_CHARACTERS) for label in self._redact(names)]
        row = StoredRequest(instance=_HOST, worker=_PROCESS)
        for name, label in zip(_LABELS, labels, strict=True):
            setattr(row, name, label)
        row.client = row.user_agent.partition("/")[0]
        if row.error_type in _REJECTED_CLIENTS and not row.provider:
            for name in _HIDDEN_COLUMNS:
                setattr(row, name, "")
        elif max(map(len, names)) <= MAX_LABEL_CHARACTERS:  # clients send names of any length
            self._labeled[names] = row
        return row

    def _redact(self, texts: Sequence[str]) -> Sequence[str]:
        together = " ".join(texts)
        if not (together.isascii() and together.isprintable()):
            texts = tuple(
                text.translate(_NO_CONTROL_CHARACTERS).encode(errors="replace").decode()  # lone surrogates become "?"
                for text in texts
            )
            together = " ".join(texts)
        if any(map(together.__contains__, self._spellings)) or redact_key_patterns(together) != together:
            return tuple(redact_secrets(text, self._secrets) for text in texts)
        return texts


def _json(items: Sequence[object]) -> str:
    """Return the list `items` as JSON text. "": the list is empty."""
    if not items:
        return ""
    try:
        return _encode(items).decode().replace("\\u0000", "")
    except UnicodeEncodeError:  # a lone surrogate
        texts = msgspec.to_builtins(items)
        return msgspec.json.encode(_without_surrogates(texts)).decode().replace("\\u0000", "")


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, dict):
        return {name: _without_surrogates(item) for name, item in value.items()}
    return [_without_surrogates(item) for item in value] if isinstance(value, list | tuple) else value


def _limit(count: int) -> int:
    # a provider may report an invalid number that exceeds the column
    return count if 0 <= count <= _MAX_COUNT else max(0, min(count, _MAX_COUNT))


def _limit_part(part: ModelUsage) -> ModelUsage:
    limited = structs.replace(part)
    for name in (*TokenCounts.__struct_fields__, "searches", "cost", "requested_cost"):
        if (number := getattr(part, name)) is not None:
            setattr(limited, name, _limit(number))
    return limited


MAX_ATTEMPT_ERROR_CHARACTERS = 300


def list_decoder(kind: type[ItemT]) -> Callable[[str], list[ItemT]]:
    """Return the decoder of a column that has a list as JSON text. "": an empty list."""
    decode = msgspec.json.Decoder(GenericAlias(list, (kind,))).decode
    return lambda text: decode(text) if text else []


class AttemptTime(Struct, frozen=True, array_like=True):
    offset: int
    """Time from the start of the client request."""
    duration: int
    """Time to the failure, or to the last byte of the reply."""
    provider: str
    model: str
    status: int
    """HTTP status of the provider's response. 0: no response."""
    error_type: str
    """Type of the failure in Anthropic's format, such as `rate_limit_error`. "": the attempt did not fail."""
    error: str
    """Error message of the failure. "": the attempt did not fail."""
    context: int = 0
    """Number of input tokens of the attempt, cached ones included. Of several iterations, that of the largest one.
    0: failed, or stored by an earlier version."""


decode_attempt_times = list_decoder(AttemptTime)


def build_attempt_times(attempts: Sequence[UpstreamAttempt]) -> list[AttemptTime]:
    return [
        AttemptTime(
            to_microseconds(attempt.offset_seconds),
            to_microseconds(attempt.duration_seconds),
            attempt.provider,
            attempt.model,
            attempt.status,
            attempt.error_type,
            attempt.error,
            attempt.context_tokens,
        )
        for attempt in attempts
    ]


def find_session_context(row: StoredRequest) -> int:
    """Return what `find_context` returns. 0: the request is beside the conversation of its session."""
    return find_context(row) if row.kind in CONVERSATION_KINDS else 0


def find_context(row: StoredRequest) -> int:
    """Return the number of input tokens of the largest call of a model."""
    # the tokens of a request are the sum over its calls, which can exceed the context window
    highest = max((call.context for call in decode_attempt_times(row.attempt_times)), default=0)
    return min(highest, row.all_input_tokens) or row.all_input_tokens


def shorten_attempt_errors(text: str) -> str:
    """API keys in `text` must already be redacted: the rest of a shortened key is not recognized."""
    if len(text) <= MAX_ATTEMPT_ERROR_CHARACTERS:
        return text
    cut = [
        structs.replace(attempt, error=attempt.error[:MAX_ATTEMPT_ERROR_CHARACTERS])
        for attempt in decode_attempt_times(text)
    ]
    return msgspec.json.encode(cut).decode()


MAX_REASON_CHARACTERS = 300
MAX_BLOCKS = 100
MAX_NAME_CHARACTERS = 128


class BlockTime(Struct, array_like=True):
    """One content block of a reply. Times are microseconds."""

    kind: str
    """`text`, `thinking`, `tool call` or `server tool`."""
    name: str
    """Name of the called tool. "": the block is no tool call."""
    offset: int
    duration: int = 0
    """Time in microseconds until the next block or the end of the reply. 0: the reply was interrupted."""
    characters: int = 0
    """Number of characters of the text, or of the name and the arguments of the tool call. 0: unknown."""


decode_block_times = list_decoder(BlockTime)


def build_block_times(marks: Sequence[BlockMark], started_at: float) -> list[BlockTime]:
    """`started_at`: by the same clock as `marks`."""
    block_times: list[BlockTime] = []
    for index, (kind, name, at, characters) in enumerate(marks[:MAX_BLOCKS], 1):
        _, _, end, after = marks[index] if index < len(marks) else ("", "", at, characters)
        if kind and (kind != "thinking" or after != characters):  # an empty one kept the connection open
            offset = to_microseconds(at - started_at)
            duration = to_microseconds(end - at)
            block_times.append(BlockTime(kind, name[:MAX_NAME_CHARACTERS], offset, duration, after - characters))
    return block_times


MAX_CHECKS = 100


def _select_checks(checks: Sequence[CallCheck]) -> Sequence[CallCheck]:
    """Leave out the least serious ones of too many, so that the verdict about the reply is one of the stored ones."""
    if len(checks) <= MAX_CHECKS:
        return checks
    ranks = {verdict: rank for rank, verdict in enumerate(VERDICTS)}
    kept = sorted(range(len(checks)), key=lambda place: ranks[checks[place].verdict])[:MAX_CHECKS]
    return [checks[place] for place in sorted(kept)]


decode_checks = list_decoder(CallCheck)


def shorten_checks(text: str) -> str:
    """Bound what models and servers wrote. API keys in `text` must already be redacted."""
    if not text:
        return ""
    bounds = {"call": MAX_LABEL_CHARACTERS, "tool": MAX_NAME_CHARACTERS}
    bounds |= dict.fromkeys(("reason", "rule"), MAX_REASON_CHARACTERS)
    cut = [
        structs.replace(check, **{name: getattr(check, name)[:most] for name, most in bounds.items()})
        for check in decode_checks(text)
    ]
    return _encode(cut).decode()


decode_inspections = list_decoder(InspectionRecord)


class ToolTime(Struct, frozen=True, array_like=True):
    """How long a tool of the client took."""

    name: str
    duration: int


def build_tool_times(times: Sequence[tuple[str, float]]) -> list[ToolTime]:
    return [
        ToolTime(name[:MAX_NAME_CHARACTERS], _limit(to_microseconds(seconds))) for name, seconds in times[:MAX_BLOCKS]
    ]


decode_tool_times = list_decoder(ToolTime)
decode_model_usage = list_decoder(ModelUsage)


_MIN_LOST_TOKENS = 1_024
"""Shortest beginning that most providers cache. A short prompt beside a conversation, such as one for a title, has less
to lose."""


def count_lost_tokens(rows: Iterable[StoredRequest]) -> Iterator[tuple[StoredRequest, int]]:
    """Yield each completed request, and the number of tokens that it read again. 0: its cache was used.

    `rows`: requests of one conversation in order of time. A change of the prompt is stored with its request; without
    one, a request breaks the cache if it read less than half of what was left there.
    """
    before: StoredRequest | None = None
    for row in rows:
        if row.outcome_class in ("error", "cancelled"):  # no provider has counted what it read from its cache
            continue
        tokens = row.prefix_change_tokens
        if not row.prefix_change and before is not None and before.model == row.model:
            left = min(before.cache_read_tokens + before.cache_write_tokens, row.all_input_tokens)
            lost = left - row.cache_read_tokens
            tokens = lost if lost > max(row.cache_read_tokens, _MIN_LOST_TOKENS) else 0
        yield row, tokens
        before = row
