"""Metrics of all server processes for Prometheus, which `serve_metrics` serves at `/metrics`."""

import asyncio
import platform
import sys
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from itertools import product
from operator import add, attrgetter
from typing import TYPE_CHECKING, Literal, get_args

import msgspec
from msgspec import Struct, field

from anthropic_proxy import __version__
from anthropic_proxy.engine.model_calls import list_calls
from anthropic_proxy.gateway.money import NANO_DOLLARS
from anthropic_proxy.plugins import (
    InspectedPart,
    InspectionDecision,
    LedgerState,
    Receipt,
    RouteRequest,
    RouteResponse,
    StoreState,
)

if TYPE_CHECKING:
    from prometheus_client.core import Metric

BUCKET_LIMITS_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0)
"""A last bucket counts longer durations."""
MAX_MODEL_LABELS = 100
"""Maximum number of model labels, because clients choose model names. Further models are counted as `other`."""
MAX_LABEL_SETS = 2_000
"""Maximum number of different label combinations (`LabelSet`). Further combinations are counted as `other`, because
labels contain texts from providers."""
MAX_FAILED_ATTEMPT_LABELS = 500
"""Maximum number of pairs of provider and status of failed attempts. Further pairs are counted as `other`."""
MAX_LABEL_CHARACTERS = 100
"""Maximum characters of a label. A longer name is counted as `other`."""
OTHER_LABEL = "other"
"""Label for a name above a maximum."""
NONE_LABEL = "none"
"""Label for an empty name."""
_ANSWERED = 200
"""HTTP status of a successful reply. Only a model with such a reply exists for certain, and gets a label of its own."""

LabelSet = tuple[str, str, bool, int, str]
"""Labels of exchanges that are counted together: provider, model, streaming, HTTP status, outcome."""


MetricKind = Literal["counter", "gauge", "histogram"]
Labels = tuple[str, ...]
"""Label names of a metric, or label values of one sample in the same order."""


class MetricFamily(Struct, frozen=True):
    """Definition of one Prometheus metric: its name, type, labels and description. Units are seconds and bytes."""

    name: str
    label_names: Labels
    help: str
    kind: MetricKind = "counter"
    max_labels: int = sys.maxsize
    """Maximum number of different labels. Further ones are counted as `other`."""
    join: Callable[[float, float], float] = add
    """Function that makes one value of the values of two processes."""
    shared: Collection[Labels] = ()
    """Labels of values that all processes read at the same place: the highest one counts."""
    divisor: int = 1
    """Units of the counted values in one unit of the metric."""


REQUESTS = MetricFamily(
    "anthropic_proxy_requests_total",
    ("provider", "model", "stream", "status", "outcome"),
    "Requests for a reply by outcome: a stop reason (succeeded), error (failed), cancelled. Status 0: before a reply.",
)
TOKENS = MetricFamily(
    "anthropic_proxy_tokens_total",
    ("provider", "model", "kind"),
    "Tokens as Anthropic counts them: input excludes cached tokens, output includes thinking. Each model of a reply "
    "has its own.",
)
REQUEST_SECONDS = MetricFamily(
    "anthropic_proxy_request_duration_seconds",
    ("provider", "model", "stream"),
    "Time from the request to the last byte of its reply, for every outcome.",
    kind="histogram",
)
FIRST_TOKEN_SECONDS = MetricFamily(
    "anthropic_proxy_time_to_first_token_seconds",
    ("provider", "model", "stream"),
    "Time from the request to the first delta of its reply.",
    kind="histogram",
)
FAILED_ATTEMPTS = MetricFamily(
    "anthropic_proxy_failed_attempts_total",
    ("provider", "status"),
    "Failed calls that another provider followed. Status circuit_open: the provider was not called.",
    max_labels=MAX_FAILED_ATTEMPT_LABELS,
)
ERRORS = MetricFamily(
    "anthropic_proxy_errors_total",
    ("provider", "code", "status"),
    "Failed requests by the entry of the error catalog, and the status that the client got.",
    max_labels=MAX_LABEL_SETS,
)
FIDELITY_NOTES = MetricFamily(
    "anthropic_proxy_fidelity_notes_total",
    ("provider", "model", "handling"),
    "Request fields that were approximated, emulated or dropped.",
)
PLAIN_FORMS = MetricFamily(
    "anthropic_proxy_plain_forms_total",
    ("provider", "model", "part"),
    "Requests without a part that the provider refuses in unknown words, or of which this is suspected.",
    max_labels=MAX_LABEL_SETS,
)
PREFIX_CHANGES = MetricFamily(
    "anthropic_proxy_prefix_changes_total",
    ("provider", "part"),
    "Prompts that did not begin like the one before, by what changed first: tools, system, messages, settings.",
)
PREFIX_CHANGE_TOKENS = MetricFamily(
    "anthropic_proxy_prefix_change_tokens_total",
    ("provider", "part"),
    "Estimated input tokens behind these changes, which the cache of the provider could not serve.",
)
CHECKS = MetricFamily(
    "anthropic_proxy_tool_call_checks_total",
    ("verdict", "kind"),
    "Tool calls in auto mode by verdict. Kind: who gave it (model, rule, provider), or why it is unavailable.",
)
INSPECTIONS = MetricFamily(
    "anthropic_proxy_inspections_total",
    ("inspector", "part", "decision"),
    "Requests and replies by what an inspector decided: passed, redacted, refused, or failed (it gave no decision).",
)
INSPECTION_SECONDS = MetricFamily(
    "anthropic_proxy_inspection_seconds_total", ("inspector", "part", "decision"), "Seconds that these decisions took."
)
REJECTED_REQUESTS = MetricFamily(
    "anthropic_proxy_rejected_requests_total",
    ("status",),
    "Requests that got an error without an exchange: unauthorized, malformed, too large, or an unknown path.",
)
DROPPED_RECEIPTS = MetricFamily(
    "anthropic_proxy_receipts_dropped_total",
    ("observer",),
    "Receipts dropped because the queue of an observer was full.",
)
LEDGER_ROWS = MetricFamily(
    "anthropic_proxy_ledger_rows_total",
    ("result",),
    "Requests that the ledger has written, and those that it has dropped.",
)
_SPENDING_LABELS = ("team", "cost_center", "provider", "kind")
STORED_REQUESTS = MetricFamily(
    "anthropic_proxy_stored_requests_total",
    _SPENDING_LABELS,
    "Requests that the ledger has written, by team and cost center of their virtual key at that time, and by what "
    "they are for.",
    max_labels=MAX_LABEL_SETS,
)
COST = MetricFamily(
    "anthropic_proxy_cost_dollars_total",
    _SPENDING_LABELS,
    "Cost of these requests in US dollars. Those without a known price are missing in it.",
    max_labels=MAX_LABEL_SETS,
    divisor=NANO_DOLLARS,
)
UNKNOWN_COST_REQUESTS = MetricFamily(
    "anthropic_proxy_unknown_cost_requests_total",
    _SPENDING_LABELS,
    "Requests among them without a known price.",
    max_labels=MAX_LABEL_SETS,
)
LEDGER_UP = MetricFamily(
    "anthropic_proxy_ledger_up",
    (),
    "1: the ledger stores requests; 0: the last transaction failed, or its disk is full.",
    join=min,
    kind="gauge",
)
LEDGER_QUEUED_ROWS = MetricFamily(
    "anthropic_proxy_ledger_queued_rows",
    ("place",),
    "Requests that the ledger has not yet written. Place: memory of a worker, or the file that all workers share.",
    shared=(("file",),),
    kind="gauge",
)
REDIS_UP = MetricFamily(
    "anthropic_proxy_redis_up",
    (),
    "1: all processes use Redis; 0: at least one works without it.",
    join=min,
    kind="gauge",
)
REDIS_PENDING_SETTLEMENTS = MetricFamily(
    "anthropic_proxy_redis_pending_settlements",
    (),
    "Settled amounts of limits that are not yet in Redis.",
    kind="gauge",
)
TELEMETRY_REQUESTS = MetricFamily(
    "anthropic_proxy_telemetry_requests_total",
    ("result",),
    "Requests with telemetry of clients: forwarded to a collector, stored in the ledger, or dropped.",
)
TELEMETRY_DROPS = MetricFamily(
    "anthropic_proxy_telemetry_dropped_total",
    ("person",),
    "Dropped requests among them, by the owner of the key, or its label.",
    max_labels=MAX_LABEL_SETS,
)
BUDGET_USED_RATIO = MetricFamily(
    "anthropic_proxy_budget_used_ratio",
    ("scope", "name", "unit", "period", "models", "mode"),
    "Share of a budget of a virtual key, a team or the proxy that ended requests have used, from 0.8 on, until a day "
    "after the last one.",
    join=max,
    kind="gauge",
)
REQUESTS_IN_FLIGHT = MetricFamily("anthropic_proxy_requests_in_flight", (), "HTTP requests in progress.", kind="gauge")
OPEN_CIRCUITS = MetricFamily(
    "anthropic_proxy_open_circuits",
    (),
    "Upstreams with an open circuit, which are called for no client.",
    join=max,
    kind="gauge",
)
KEYS_IN_COOLDOWN = MetricFamily(
    "anthropic_proxy_keys_in_cooldown",
    (),
    "Provider keys in cooldown: rejected or rate limited, for all clients or for one.",
    join=max,
    kind="gauge",
)
CONDITIONS = MetricFamily(
    "anthropic_proxy_conditions",
    ("check",),
    "1: the server has a problem that `/readyz` names, such as `siem`: a destination does not accept events.",
    join=max,
    kind="gauge",
)
WORKERS = MetricFamily("anthropic_proxy_workers", (), "Serving processes.", kind="gauge")
WORKERS_UNRESPONSIVE = MetricFamily(
    "anthropic_proxy_workers_unresponsive",
    (),
    "Workers that did not report within a second. Their last report is used.",
    kind="gauge",
)
BUILD_INFO = MetricFamily(
    "anthropic_proxy_build_info", ("version", "python"), "Always 1; the labels are the versions.", kind="gauge"
)
CPU_SECONDS = MetricFamily("process_cpu_seconds_total", (), "CPU time, user and system, of all processes.")
START_TIME = MetricFamily(
    "process_start_time_seconds", (), "When the server started, in seconds since the epoch.", join=min, kind="gauge"
)
RESIDENT_MEMORY = MetricFamily("process_resident_memory_bytes", (), "Resident memory of all processes.", kind="gauge")
OPEN_FDS = MetricFamily("process_open_fds", (), "Open file descriptors of all processes.", kind="gauge")
MAX_FDS = MetricFamily("process_max_fds", (), "Maximum number of open file descriptors of all processes.", kind="gauge")

_REJECTED_STATUSES = (400, 401, 403, 404, 405, 408, 413, 414, 415, 429, 431, 500, 503, 529)
"""Statuses of requests without an exchange."""


FAMILIES = tuple(value for value in tuple(globals().values()) if isinstance(value, MetricFamily))
"""Definitions of all metrics, in the order of the page `/metrics`."""
_BY_NAME = {family.name: family for family in FAMILIES}


_TOKEN_KINDS = ("input", "output", "thinking", "cache_read", "cache_write")
"""Kinds of tokens as in Anthropic's API: input excludes cached tokens, and output includes thinking."""
_read_tokens = attrgetter(*(f"{kind}_tokens" for kind in _TOKEN_KINDS))


def _no_times() -> list[int]:
    return [0] * (len(BUCKET_LIMITS_SECONDS) + 1)


class ExchangeCounters(Struct, array_like=True):
    """Counters of the exchanges with the same labels (provider, model, streaming, HTTP status, outcome)."""

    # Token counts are floats, as in Prometheus: sums of invalid usage numbers can exceed 64-bit integers, which no
    # encoder accepts.
    requests: int = 0
    tokens: list[float] = field(default_factory=lambda: [0.0] * len(_TOKEN_KINDS))
    """In the order of `_TOKEN_KINDS`."""
    approximated_fields: int = 0
    emulated_fields: int = 0
    dropped_fields: int = 0
    duration_sum_seconds: float = 0.0
    duration_buckets: list[int] = field(default_factory=_no_times)
    first_token_sum_seconds: float = 0.0
    first_token_buckets: list[int] = field(default_factory=_no_times)

    def add_counters(self, other: "ExchangeCounters") -> None:
        for name in self.__struct_fields__:
            ours = getattr(self, name)
            theirs = getattr(other, name)
            if isinstance(ours, list):
                setattr(self, name, [count + other for count, other in zip(ours, theirs, strict=True)])
            else:
                setattr(self, name, ours + theirs)


class MetricsSnapshot(Struct):
    """Metrics of one process since its start, or of several together."""

    counters: dict[LabelSet, ExchangeCounters] = field(default_factory=dict)
    values: dict[str, dict[Labels, float]] = field(default_factory=dict)
    """Name of a metric → labels → value, for the metrics that are not calculated from `counters`."""

    def find_or_add_counters(self, key: LabelSet) -> ExchangeCounters:
        """Above `MAX_LABEL_SETS`, new combinations share the counters with the labels `other`."""
        row = self.counters.get(key)
        if row is None:
            if len(self.counters) >= MAX_LABEL_SETS:
                key = (OTHER_LABEL, OTHER_LABEL, False, 0, OTHER_LABEL)
            row = self.counters.setdefault(key, ExchangeCounters())
        return row

    def add(self, family: MetricFamily, number: float = 1, labels: Labels = ()) -> None:
        numbers = self.values.setdefault(family.name, {})
        if labels not in numbers and len(numbers) >= family.max_labels:
            labels = (OTHER_LABEL,) * len(labels)
        join = max if labels in family.shared else family.join
        numbers[labels] = join(numbers[labels], number) if labels in numbers else number

    def replace(self, family: MetricFamily, number: float, labels: Labels = ()) -> None:
        self.values.setdefault(family.name, {})[labels] = number

    def remove_gauges(self) -> None:
        """Gauges describe the state of a running process."""
        for family in FAMILIES:
            if family.kind == "gauge":
                self.values.pop(family.name, None)

    def add_snapshot(self, other: "MetricsSnapshot") -> None:
        for key, row in other.counters.items():
            self.find_or_add_counters(key).add_counters(row)
        for name, numbers in other.values.items():
            for labels, number in numbers.items():
                self.add(_BY_NAME[name], number, labels)


def add_first_counts(snapshot: MetricsSnapshot, observers: Iterable[str], inspectors: Iterable[str]) -> None:
    """Add 0 to each counter of events that may never happen, if its labels are known.

    Prometheus finds no increase in a counter that begins with its first event, so an alert would not fire.
    """
    for observer in observers:
        snapshot.add(DROPPED_RECEIPTS, 0, (observer,))
    for status in _REJECTED_STATUSES:
        snapshot.add(REJECTED_REQUESTS, 0, (str(status),))
    for labels in product(inspectors, get_args(InspectedPart), get_args(InspectionDecision)):
        snapshot.add(INSPECTIONS, 0, labels)


class MetricsTotals:
    """Metrics of this process, to which each finished request is added. `contains_secret` finds names with a secret,
    such as an API key. Their label is `other`.
    """

    def __init__(self, contains_secret: Callable[[str], bool]) -> None:
        self.snapshot = MetricsSnapshot()
        self._contains_secret = contains_secret
        self._models: set[tuple[str, str]] = set()

    def count_rejected_request(self, receipt: Receipt) -> None:
        self.snapshot.add(REJECTED_REQUESTS, labels=(str(receipt.status),))

    def count_dropped_receipt(self, observer: str) -> None:
        self.snapshot.add(DROPPED_RECEIPTS, labels=(observer,))

    def copy_ledger_state(self, state: LedgerState) -> None:
        snapshot = self.snapshot
        snapshot.replace(LEDGER_UP, int(state.condition == "ok"))
        snapshot.replace(LEDGER_QUEUED_ROWS, state.queued_rows - state.spooled_rows, ("memory",))
        snapshot.replace(LEDGER_QUEUED_ROWS, state.spooled_rows, ("file",))
        snapshot.replace(LEDGER_ROWS, state.written_rows, ("written",))
        snapshot.replace(LEDGER_ROWS, state.dropped_rows, ("dropped",))
        sums = (STORED_REQUESTS, COST, UNKNOWN_COST_REQUESTS)
        for family in sums:
            snapshot.values.pop(family.name, None)
        for names, spent in dict(state.spending).items():  # a copy, because the writer's thread adds to it
            labels = tuple(self._name(name or NONE_LABEL) for name in names)
            for family, number in zip(sums, spent, strict=True):
                snapshot.add(family, number, labels)

    def copy_store_state(self, state: StoreState) -> None:
        if state.kind == "redis":
            self.snapshot.replace(REDIS_UP, int(state.available))
            self.snapshot.replace(REDIS_PENDING_SETTLEMENTS, state.pending_settlements)

    def count_exchange(self, receipt: Receipt) -> None:
        row = self._find_row(receipt, receipt.provider, receipt.model)
        row.requests += 1
        if len(receipt.attempts) < 2 and not receipt.iterations:
            row.tokens = list(map(add, row.tokens, _read_tokens(receipt)))
        else:
            for call in list_calls(receipt):
                used = self._find_row(receipt, call.provider or receipt.provider, call.model or receipt.model)
                used.tokens = list(map(add, used.tokens, _read_tokens(call.tokens)))
        row.duration_sum_seconds += receipt.duration_seconds
        row.duration_buckets[bisect_left(BUCKET_LIMITS_SECONDS, receipt.duration_seconds)] += 1
        if receipt.first_token_seconds is not None:
            row.first_token_sum_seconds += receipt.first_token_seconds
            row.first_token_buckets[bisect_left(BUCKET_LIMITS_SECONDS, receipt.first_token_seconds)] += 1
        report = receipt.fidelity
        if report.notes:
            row.approximated_fields += report.approximated
            row.emulated_fields += report.emulated
            row.dropped_fields += report.dropped
        if receipt.error_code:
            labels = receipt.provider or NONE_LABEL, self._name(receipt.error_code), str(receipt.status)
            self.snapshot.add(ERRORS, labels=labels)
        for attempt in receipt.failed_attempts:
            provider, _, status = attempt.partition(" ")
            self.snapshot.add(FAILED_ATTEMPTS, labels=(provider, status))
        if receipt.plain_form:
            is_known = (receipt.provider, receipt.model) in self._models
            model = receipt.model if is_known else OTHER_LABEL
            for part in receipt.plain_form:
                self.snapshot.add(PLAIN_FORMS, labels=(receipt.provider, model, part))
        if (change := receipt.prefix_change) is not None:
            self.snapshot.add(PREFIX_CHANGES, labels=(receipt.provider, change.kind))
            self.snapshot.add(PREFIX_CHANGE_TOKENS, change.tokens, (receipt.provider, change.kind))
        if receipt.checks and not receipt.parent:  # the request of a check has its verdict too
            for check in receipt.checks:
                self.snapshot.add(CHECKS, labels=(check.verdict, check.kind))
        for record in receipt.inspections:
            decided = record.inspector, record.part, record.decision
            self.snapshot.add(INSPECTIONS, labels=decided)
            self.snapshot.add(INSPECTION_SECONDS, record.seconds, decided)

    def _find_row(self, receipt: Receipt, provider: str, model: str) -> ExchangeCounters:
        """Return the counters of a model that the request has called."""
        row = self.snapshot.counters.get((provider, model, receipt.stream, receipt.status, receipt.outcome))
        if row is not None:
            return row
        label = model or NONE_LABEL
        known = (provider, model)
        if model and known not in self._models:  # clients choose names, so their number is limited
            is_new = receipt.status == _ANSWERED and len(self._models) < MAX_MODEL_LABELS
            label = self._name(model) if is_new else OTHER_LABEL
            if label != OTHER_LABEL:
                self._models.add(known)
        outcome = self._name(receipt.outcome) if receipt.outcome else NONE_LABEL
        labels = (provider or NONE_LABEL, label, receipt.stream, receipt.status, outcome)
        return self.snapshot.find_or_add_counters(labels)

    def _name(self, word: str) -> str:
        fits = len(word) <= MAX_LABEL_CHARACTERS and word.isprintable() and not self._contains_secret(word)
        return word if fits else OTHER_LABEL


_encode = msgspec.msgpack.Encoder().encode
decode_snapshot = msgspec.msgpack.Decoder(MetricsSnapshot).decode


def encode_snapshot(snapshot: MetricsSnapshot) -> bytes:
    return _encode(snapshot)


def sum_snapshots(snapshots: Iterable[bytes], ended_snapshots: Sequence[bytes] = ()) -> MetricsSnapshot:
    """The gauges of `ended_snapshots` are left out, because they describe the state of running processes."""
    total = MetricsSnapshot()
    for encoded in ended_snapshots:
        snapshot = decode_snapshot(encoded)
        snapshot.remove_gauges()
        total.add_snapshot(snapshot)
    for encoded in snapshots:
        total.add_snapshot(decode_snapshot(encoded))
    return total


class Histogram(Struct):
    bucket_counts: list[int]
    """Number of durations in each bucket of `BUCKET_LIMITS_SECONDS`, not cumulative."""
    sum_seconds: float

    def add_counts(self, counts: list[int], sum_seconds: float) -> None:
        self.bucket_counts = [ours + theirs for ours, theirs in zip(self.bucket_counts, counts, strict=True)]
        self.sum_seconds += sum_seconds

    def cumulative_counts(self) -> list[tuple[str, float]]:
        """Upper limit and number of durations up to it, for each bucket. Prometheus requires cumulative counts."""
        total = 0
        cumulative = []
        for limit, count in zip((*map(str, BUCKET_LIMITS_SECONDS), "+Inf"), self.bucket_counts, strict=True):
            total += count
            cumulative.append((limit, float(total)))
        return cumulative


def collect_values(
    snapshot: MetricsSnapshot, unresponsive_workers: int, versions: Labels
) -> dict[str, dict[Labels, float]]:
    """Return the values of all metrics but histograms. A counter without values has none."""
    page = MetricsSnapshot(values=dict(snapshot.values))
    for (provider, model, stream, status, outcome), row in snapshot.counters.items():
        page.add(REQUESTS, row.requests, (provider, model, _boolean_label(stream), str(status), outcome))
        for kind, count in zip(_TOKEN_KINDS, row.tokens, strict=True):
            page.add(TOKENS, count, (provider, model, kind))
        for handling in ("approximated", "emulated", "dropped"):
            page.add(FIDELITY_NOTES, getattr(row, f"{handling}_fields"), (provider, model, handling))
    page.add(BUILD_INFO, 1, versions)
    page.add(WORKERS_UNRESPONSIVE, unresponsive_workers)
    return page.values


def collect_histograms(snapshot: MetricsSnapshot) -> dict[MetricFamily, dict[Labels, Histogram]]:
    histograms: dict[MetricFamily, dict[Labels, Histogram]] = {REQUEST_SECONDS: {}, FIRST_TOKEN_SECONDS: {}}
    for (provider, model, stream, _, _), row in snapshot.counters.items():
        labels = (provider, model, _boolean_label(stream))
        for family, counts, seconds in (
            (REQUEST_SECONDS, row.duration_buckets, row.duration_sum_seconds),
            (FIRST_TOKEN_SECONDS, row.first_token_buckets, row.first_token_sum_seconds),
        ):
            histograms[family].setdefault(labels, Histogram([0] * len(counts), 0.0)).add_counts(counts, seconds)
    return histograms


def _boolean_label(stream: bool) -> str:
    return "true" if stream else "false"


CollectSnapshot = Callable[[], Awaitable[tuple[MetricsSnapshot, int]]]
"""Returns the sum over all processes, and the number of unresponsive workers."""


async def serve_metrics(collect: CollectSnapshot, request: RouteRequest) -> RouteResponse:
    """Return the page `/metrics`, in text format 0.0.4 or in OpenMetrics if the header `Accept` requests it."""
    snapshot, unresponsive_workers = await collect()
    accept = request.headers.get("accept", "")
    versions = __version__, platform.python_version()
    # in a thread, because the import and thousands of lines would delay the event loop
    body, media_type = await asyncio.to_thread(encode_page, snapshot, unresponsive_workers, versions, accept)
    return RouteResponse(headers={"content-type": media_type}, body=body)


def encode_page(
    snapshot: MetricsSnapshot, unresponsive_workers: int, versions: Labels, accept: str
) -> tuple[bytes, str]:
    """`unresponsive_workers` did not report in time. `versions`: of the proxy and Python. `accept`: request header."""
    from prometheus_client import exposition, metrics_core, registry  # noqa: PLC0415  # most processes serve no page

    values = collect_values(snapshot, unresponsive_workers, versions)
    times = collect_histograms(snapshot)

    class Collected(registry.Collector):
        def collect(self) -> "Iterator[Metric]":
            for family in FAMILIES:
                metric: Metric
                if family.kind == "histogram":
                    metric = metrics_core.HistogramMetricFamily(family.name, family.help, labels=family.label_names)
                    for labels, histogram in times[family].items():
                        metric.add_metric(labels, histogram.cumulative_counts(), histogram.sum_seconds)
                else:
                    is_counter = family.kind == "counter"
                    new = metrics_core.CounterMetricFamily if is_counter else metrics_core.GaugeMetricFamily
                    metric = new(family.name, family.help, labels=family.label_names)
                    for labels, value in values.get(family.name, {}).items():
                        metric.add_metric(labels, value / family.divisor)
                yield metric

    write, media_type = exposition.choose_encoder(accept)
    return write(Collected()), media_type
