"""Every metric that there is: its name, its kind, its labels and what it says. `docs/running.md` has the same table."""

from typing import Literal

from msgspec import Struct

from anthropic_proxy.metrics.totals import BUCKETS, Reading, Row

Kind = Literal["counter", "gauge", "histogram"]
Labels = tuple[str, ...]
Samples = dict[Labels, float]
_TOKENS = ("input", "output", "thinking", "cache_read", "cache_write")
_FATES = ("approximated", "emulated", "dropped")


class Family(Struct, frozen=True):
    """One metric. Units are the base ones: seconds, bytes."""

    name: str
    kind: Kind
    labels: Labels
    help: str


REQUESTS = Family(
    "anthropic_proxy_requests_total",
    "counter",
    ("provider", "model", "stream", "status", "outcome"),
    "Requests for a reply, by what became of them: a stop reason, error or cancelled. Status 0: the client had left.",
)
TOKENS = Family(
    "anthropic_proxy_tokens_total",
    "counter",
    ("provider", "model", "kind"),
    "Tokens as Anthropic counts them: what was cached is not among input; thinking is among output too.",
)
SECONDS = Family(
    "anthropic_proxy_request_seconds",
    "histogram",
    ("provider", "model", "stream"),
    "From the request to the last byte of its reply, whatever became of it.",
)
FIRST_SECONDS = Family(
    "anthropic_proxy_first_delta_seconds",
    "histogram",
    ("provider", "model", "stream"),
    "From the request to the first piece of its reply.",
)
ATTEMPTS = Family(
    "anthropic_proxy_failed_attempts_total",
    "counter",
    ("provider", "status"),
    "Calls of a provider that failed and that another one followed. Status resting: it was left alone.",
)
FIDELITY = Family(
    "anthropic_proxy_fidelity_notes_total",
    "counter",
    ("provider", "model", "fate"),
    "Fields of requests that did not reach the provider as they were written: approximated, emulated or dropped.",
)
UNDER_WAY = Family("anthropic_proxy_requests_under_way", "gauge", (), "HTTP requests that are being answered.")
UPSTREAMS_RESTING = Family(
    "anthropic_proxy_upstreams_resting", "gauge", (), "Providers that failed so often that they are left alone."
)
KEYS_RESTING = Family(
    "anthropic_proxy_keys_resting", "gauge", (), "Keys of providers that are not used for a while, refused or spent."
)
WORKERS = Family("anthropic_proxy_workers", "gauge", (), "Processes that serve.")
SILENT = Family(
    "anthropic_proxy_workers_silent",
    "gauge",
    (),
    "Workers that did not answer within a second: their share is what they said before.",
)
BUILD = Family("anthropic_proxy_build_info", "gauge", ("version", "python"), "1; which proxy this is.")
CPU = Family("process_cpu_seconds_total", "counter", (), "Processor time, user and system, of all processes.")
STARTED = Family("process_start_time_seconds", "gauge", (), "When the server started, in seconds since the epoch.")
MEMORY = Family("process_resident_memory_bytes", "gauge", (), "Resident memory of all processes.")
DESCRIPTORS = Family("process_open_fds", "gauge", (), "Open file descriptors of all processes.")
MOST_DESCRIPTORS = Family("process_max_fds", "gauge", (), "File descriptors that they may have open.")

FAMILIES = (
    REQUESTS,
    TOKENS,
    SECONDS,
    FIRST_SECONDS,
    ATTEMPTS,
    FIDELITY,
    UNDER_WAY,
    UPSTREAMS_RESTING,
    KEYS_RESTING,
    WORKERS,
    SILENT,
    BUILD,
    CPU,
    STARTED,
    MEMORY,
    DESCRIPTORS,
    MOST_DESCRIPTORS,
)


class Times(Struct):
    """A histogram: how many times were in each class, and their sum."""

    counts: list[int]
    seconds: float

    def add(self, counts: list[int], seconds: float) -> None:
        """Add another one of the same classes."""
        self.counts = [ours + theirs for ours, theirs in zip(self.counts, counts, strict=True)]
        self.seconds += seconds

    def cumulative(self) -> list[tuple[str, float]]:
        """Return upper limit and how many were at most that long, as the format wants it."""
        total, found = 0, []
        for limit, count in zip((*map(str, BUCKETS), "+Inf"), self.counts, strict=True):
            total += count
            found.append((limit, float(total)))
        return found


def add_up_samples(reading: Reading, silent: int, build: Labels) -> dict[Family, Samples]:
    """Return the values of every counter and gauge that has any, by its labels."""
    samples: dict[Family, Samples] = {family: {} for family in FAMILIES if family.kind != "histogram"}
    for (provider, model, stream, status, outcome), row in reading.rows.items():
        labels = (provider, model, _say(stream), str(status), outcome)
        _add(samples[REQUESTS], labels, row.requests)
        for kind in _TOKENS:
            _add(samples[TOKENS], (provider, model, kind), getattr(row, f"{kind}_tokens"))
        for fate in _FATES:
            _add(samples[FIDELITY], (provider, model, fate), getattr(row, fate))
    for words, times in reading.attempts.items():
        provider, _, status_word = words.rpartition(" ")
        samples[ATTEMPTS][provider, status_word] = times
    samples[BUILD][build] = 1
    samples[SILENT][()] = silent
    samples[CPU][()] = reading.cpu_seconds
    if (now := reading.now) is not None:
        for family, value in (
            (UNDER_WAY, now.under_way),
            (UPSTREAMS_RESTING, now.upstreams_resting),
            (KEYS_RESTING, now.keys_resting),
            (WORKERS, now.serving),
            (STARTED, now.started),
            (MEMORY, now.memory),
            (DESCRIPTORS, now.descriptors),
            (MOST_DESCRIPTORS, now.most_descriptors),
        ):
            samples[family][()] = value
    return samples


def add_up_times(reading: Reading) -> dict[Family, dict[Labels, Times]]:
    """Return the histograms by their labels: rows differ in status and outcome too, times need not."""
    found: dict[Family, dict[Labels, Times]] = {SECONDS: {}, FIRST_SECONDS: {}}
    for (provider, model, stream, _, _), row in reading.rows.items():
        labels = (provider, model, _say(stream))
        for family, (counts, seconds) in _times_of(row).items():
            found[family].setdefault(labels, Times([0] * len(counts), 0.0)).add(counts, seconds)
    return found


def _times_of(row: Row) -> dict[Family, tuple[list[int], float]]:
    return {SECONDS: (row.times, row.seconds), FIRST_SECONDS: (row.first_times, row.first_seconds)}


def _add(samples: Samples, labels: Labels, value: float) -> None:
    samples[labels] = samples.get(labels, 0) + value


def _say(stream: bool) -> str:
    return "true" if stream else "false"
