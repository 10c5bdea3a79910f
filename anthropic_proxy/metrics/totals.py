"""Totals of one process, and the sum of several. An exchange costs one look-up and a few additions."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

import msgspec
from msgspec import Struct, field

from anthropic_proxy.hooks import Receipt

BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0)
"""Seconds: upper limits of the classes into which times are sorted; a last one has none."""
MOST_MODELS = 100
"""Models that are told apart; clients choose their names, so that there is no end to them."""
MOST_ROWS = 2_000
"""Kinds of exchanges that are told apart: a provider's stop reasons are its own."""
MOST_OUTCOMES = 500
"""Kinds of failed attempts that are told apart."""
LONGEST_NAME = 100
OTHER, NONE = "other", "none"
"""In place of a name: one of the many, and that there is none."""
_ANSWERED = 200
"""The one status by which a model is known to exist: a name that nobody has answered for takes no place from others."""

Key = tuple[str, str, bool, int, str]
"""Provider, model, whether it streams, status, outcome."""


def _no_times() -> list[int]:
    return [0] * (len(BUCKETS) + 1)


class Row(Struct, array_like=True):
    """Exchanges of one kind. Tokens are in Anthropic's meaning; times in seconds, each counted in one class."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    thinking_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    approximated: int = 0
    emulated: int = 0
    dropped: int = 0
    seconds: float = 0.0
    times: list[int] = field(default_factory=_no_times)
    first_seconds: float = 0.0
    first_times: list[int] = field(default_factory=_no_times)

    def add(self, other: "Row") -> None:
        """Add what another process counted of the same kind."""
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.times = [ours + theirs for ours, theirs in zip(self.times, other.times, strict=True)]
        self.first_times = [ours + theirs for ours, theirs in zip(self.first_times, other.first_times, strict=True)]


_NUMBERS = tuple(name for name in Row.__struct_fields__ if not name.endswith("times"))


class Now(Struct, array_like=True):
    """How a process is at this moment; nothing of it stays when it has ended. 0 where the system does not say."""

    started: float
    """Seconds since the epoch."""
    serving: int = 1
    """Processes that serve."""
    under_way: int = 0
    """HTTP requests that are being answered."""
    upstreams_resting: int = 0
    keys_resting: int = 0
    memory: int = 0
    """Bytes."""
    descriptors: int = 0
    most_descriptors: int = 0

    def add(self, other: "Now") -> None:
        """Add another process: what rests is known to all of them and is not more for that."""
        self.started = min(self.started, other.started)
        self.upstreams_resting = max(self.upstreams_resting, other.upstreams_resting)
        self.keys_resting = max(self.keys_resting, other.keys_resting)
        for name in ("serving", "under_way", "memory", "descriptors", "most_descriptors"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Reading(Struct):
    """What was counted since the start, as it is told from process to process."""

    rows: dict[Key, Row] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    """Failed attempts that another one followed, in words: `groq 429`."""
    cpu_seconds: float = 0.0
    now: Now | None = None
    """None: it has ended."""

    def find_row(self, key: Key) -> Row:
        """Return the row of this kind, made where there is none, or that of all others where there are too many."""
        row = self.rows.get(key)
        if row is None:
            if len(self.rows) >= MOST_ROWS:
                key = (OTHER, OTHER, False, 0, OTHER)
            row = self.rows.setdefault(key, Row())
        return row

    def count_attempt(self, words: str, times: int = 1) -> None:
        """Count an attempt that failed."""
        if words not in self.attempts and len(self.attempts) >= MOST_OUTCOMES:
            words = f"{OTHER} {OTHER}"
        self.attempts[words] = self.attempts.get(words, 0) + times

    def add(self, other: "Reading") -> None:
        """Add what another process counted."""
        for key, row in other.rows.items():
            self.find_row(key).add(row)
        for words, times in other.attempts.items():
            self.count_attempt(words, times)
        self.cpu_seconds += other.cpu_seconds
        if self.now is None:
            self.now = other.now
        elif other.now is not None:
            self.now.add(other.now)


class Totals:
    """Counts the exchanges of this process; an `Observer`. `tells_key`: whether a word that others chose holds one."""

    def __init__(self, tells_key: Callable[[str], bool]) -> None:
        self.reading = Reading()
        self._tells_key = tells_key
        self._models: set[tuple[str, str]] = set()
        """Provider and model that are told apart."""

    async def record(self, receipt: Receipt) -> None:
        """Add one exchange."""
        key = (receipt.provider, receipt.model, receipt.stream, receipt.status, receipt.outcome)
        row = self.reading.rows.get(key) or self._find_row(receipt)
        row.requests += 1
        row.input_tokens += receipt.input_tokens
        row.output_tokens += receipt.output_tokens
        row.thinking_tokens += receipt.thinking_tokens
        row.cache_read_tokens += receipt.cache_read_tokens
        row.cache_write_tokens += receipt.cache_write_tokens
        row.seconds += receipt.seconds
        row.times[bisect_left(BUCKETS, receipt.seconds)] += 1
        if receipt.first_delta_seconds is not None:
            row.first_seconds += receipt.first_delta_seconds
            row.first_times[bisect_left(BUCKETS, receipt.first_delta_seconds)] += 1
        report = receipt.fidelity
        if report.notes:
            row.approximated += report.approximated
            row.emulated += report.emulated
            row.dropped += report.dropped
        for words in receipt.tried:
            self.reading.count_attempt(words)

    def _find_row(self, receipt: Receipt) -> Row:
        provider = receipt.provider or NONE
        outcome = self._name(receipt.outcome) if receipt.outcome else NONE
        return self.reading.find_row((provider, self._name_model(receipt), receipt.stream, receipt.status, outcome))

    def _name_model(self, receipt: Receipt) -> str:
        """Return what a model is called here: what clients choose must neither fill the memory nor tell a key."""
        if not receipt.model:
            return NONE
        known = (receipt.provider, receipt.model)
        if known in self._models:
            return receipt.model
        if receipt.status != _ANSWERED or len(self._models) >= MOST_MODELS:
            return OTHER
        if (name := self._name(receipt.model)) != OTHER:
            self._models.add(known)
        return name

    def _name(self, word: str) -> str:
        fits = len(word) <= LONGEST_NAME and word.isprintable() and not self._tells_key(word)
        return word if fits else OTHER


_encode = msgspec.msgpack.Encoder().encode
decode_reading = msgspec.msgpack.Decoder(Reading).decode
"""Bytes → the reading that another process told."""


def encode_reading(reading: Reading) -> bytes:
    """Return a reading as it is told to another process."""
    return _encode(reading)


def add_up(readings: Iterable[bytes], ended: Sequence[bytes] = ()) -> Reading:
    """Return the sum of what several processes told; of those that have ended only what they counted."""
    total = Reading()
    for told in ended:
        reading = decode_reading(told)
        reading.now = None
        total.add(reading)
    for told in readings:
        total.add(decode_reading(told))
    return total
