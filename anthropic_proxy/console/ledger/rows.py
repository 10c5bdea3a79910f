"""Rows of the table `requests`, built from the receipts of finished requests.

Keys are redacted, and characters that a database would reject are replaced. The columns `attempt_times` and
`reply_blocks` have a JSON text each.
"""

import os
import platform
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.console.ledger.sums import TOKEN_COUNTS
from anthropic_proxy.console.ledger.tables import HOURLY_KEYS, SESSION_KEYS, StoredRequest
from anthropic_proxy.console.ledger.units import to_microseconds
from anthropic_proxy.engine.messages.fidelity import TOOL_CALL_FIELDS
from anthropic_proxy.plugins import BlockMark, Cost, Receipt, UpstreamAttempt
from anthropic_proxy.secrets import list_secret_encodings, redact_key_patterns, redact_secrets

MAX_LABEL_CHARACTERS = 200
MAX_ERROR_CHARACTERS = 2_000
_REJECTED_CLIENTS = frozenset({"authentication_error", "permission_error"})
"""Types of errors of requests by clients without access to the proxy."""
_LABELS = (
    *("client.name", "project", "session", "agent", "user_agent", "method", "path", "requested_model"),
    *("provider", "prefix", "model", "route", "route_reason", "outcome", "error_type", "error_code"),
)
_read_labels = attrgetter(*_LABELS)
CHOSEN_BY_PROXY = frozenset({"key_label", "outcome_class"})
"""Key columns of the sums whose values a client without access cannot choose. All others are "" in its rows, because
each new value would add a row to the sums."""
_HIDDEN_LABELS = frozenset({*HOURLY_KEYS, *SESSION_KEYS, "agent"}) - CHOSEN_BY_PROXY
_MAX_CACHED_LABELS = 10_000
_read_tokens = attrgetter(*TOKEN_COUNTS)
_MAX_COUNT = (2**63 - 1) >> 16
"""Maximum stored number of tokens or nano-dollars."""
_TRUNCATED_OUTCOMES = frozenset({"max_tokens", "model_context_window_exceeded"})
_HOST, _PROCESS = platform.node(), os.getpid()
_encode = msgspec.json.Encoder().encode
_NO_CONTROL_CHARACTERS = dict.fromkeys((*range(32), 127), " ")


def is_rejected_by_limit(row: StoredRequest) -> bool:
    """Return True if a limit or budget of a key or team rejected the request, so that no provider was called."""
    return row.error_type == "rate_limit_error" and not row.provider and row.outcome_class == "error"


class RowBuilder:
    def __init__(self, secrets: Sequence[str]) -> None:
        self._secrets = secrets
        self._spellings = list_secret_encodings(secrets)
        self._labels = _Labels(self._redact)

    def build(self, receipt: Receipt, cost: Cost) -> StoredRequest:
        row = StoredRequest(id=receipt.request_id, instance=_HOST, worker=_PROCESS)
        names = _read_labels(receipt)
        if receipt.error_type in _REJECTED_CLIENTS and not receipt.provider:
            names = tuple("" if label in _HIDDEN_LABELS else name for label, name in zip(_LABELS, names, strict=True))
        labels = map(self._labels.__getitem__, names)
        row.key_label, row.project, row.session, row.agent, row.user_agent, row.method, row.path, *models = labels
        (
            row.requested_model,
            row.provider,
            row.prefix,
            row.model,
            row.route,
            row.route_reason,
            row.outcome,
            row.error_type,
            row.error_code,
        ) = models
        row.client = row.user_agent.partition("/")[0]
        attempts, blocks = receipt.attempts, receipt.blocks
        texts = (
            receipt.error,
            _json(receipt.failed_attempts),
            _json(receipt.fidelity.notes),
            _json(receipt.adaptations),
            _json(build_attempt_times(attempts)) if attempts else "",
            _json(build_block_times(blocks, receipt.started_at)) if blocks else "",
        )
        if any(texts):
            error, row.failed_attempts, row.notes, row.adaptations, times, row.reply_blocks = self._redact(texts)
            row.error = _cut(error, MAX_ERROR_CHARACTERS)
            row.attempt_times = shorten_attempt_errors(times)  # after the removal of keys
        row.stream, row.status, row.outcome_class = receipt.stream, receipt.status, classify_outcome(receipt)
        row.cost = None if cost.cost is None else _limit(cost.cost)
        row.requested_cost = None if cost.requested_cost is None else _limit(cost.requested_cost)
        row.price_source = cost.source
        tokens = _read_tokens(receipt)
        if min(tokens) < 0 or max(tokens) > _MAX_COUNT:
            tokens = tuple(map(_limit, tokens))
        row.input_tokens, row.cache_read_tokens, row.cache_write_tokens = tokens[:3]
        row.cache_write_1h_tokens, row.output_tokens, row.thinking_tokens = tokens[3:]
        row.attempts = len(receipt.failed_attempts) + bool(receipt.provider)
        row.tool_count, row.message_count = receipt.tool_count, receipt.message_count
        if receipt.outcome not in ("error", "cancelled"):  # the client sends such a request and its results again
            row.tool_results, row.tool_errors = receipt.tool_results, receipt.tool_errors
        if notes := receipt.fidelity.notes:
            row.note_count = len(notes)
            row.malformed_replies = int(any(note.field in TOOL_CALL_FIELDS for note in notes))
        first, total = receipt.first_token_seconds, receipt.duration_seconds
        row.started_at, row.duration = to_microseconds(receipt.started_at), to_microseconds(total)
        if first is not None:
            row.first_token = to_microseconds(first)
            if total - first > 0.001 and receipt.output_tokens:
                row.output_rate = receipt.output_tokens / (total - first)
        return row

    def _redact(self, texts: Sequence[str]) -> Sequence[str]:
        together = " ".join(texts)
        if not (together.isascii() and together.isprintable()):
            texts = list(map(_clean, texts))
            together = " ".join(texts)
        if any(map(together.__contains__, self._spellings)) or redact_key_patterns(together) != together:
            return [redact_secrets(text, self._secrets) for text in texts]
        return texts


class _Labels(dict[str, str]):
    def __init__(self, redact: Callable[[Sequence[str]], Sequence[str]]) -> None:
        super().__init__()
        self._redact = redact

    def __missing__(self, name: str) -> str:
        (text,) = self._redact([name])
        text = _cut(text, MAX_LABEL_CHARACTERS)
        if len(name) <= MAX_LABEL_CHARACTERS:  # clients send names of any length
            if len(self) >= _MAX_CACHED_LABELS:
                self.clear()
            self[name] = text
        return text


def classify_outcome(receipt: Receipt) -> str:
    """Return the value of the column `outcome_class` for `receipt`, the record of one request."""
    if receipt.outcome in ("error", "cancelled"):
        return receipt.outcome
    if receipt.outcome in _TRUNCATED_OUTCOMES:
        return "truncated"
    return "retried" if receipt.failed_attempts else "ok"


def _cut(text: str, max_characters: int) -> str:
    """Return `text`, cut to a maximum length. Keys must be redacted before."""
    return text if len(text) <= max_characters else f"{text[: max_characters - 1]}…"


def _clean(text: str) -> str:
    return text.translate(_NO_CONTROL_CHARACTERS).encode(errors="replace").decode()


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


MAX_ATTEMPT_ERROR_CHARACTERS = 300


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
    """Number of input tokens of the attempt, cached ones included. 0: failed, or stored by an earlier version."""


_decode_attempts = msgspec.json.Decoder(list[AttemptTime]).decode


def build_attempt_times(attempts: Sequence[UpstreamAttempt]) -> list[AttemptTime]:
    return [
        AttemptTime(
            to_microseconds(one.offset_seconds),
            to_microseconds(one.duration_seconds),
            one.provider,
            one.model,
            one.status,
            one.error_type,
            one.error,
            one.input_tokens + one.cache_read_tokens + one.cache_write_tokens,
        )
        for one in attempts
    ]


def shorten_attempt_errors(text: str) -> str:
    """API keys in `text` must already be redacted: the rest of a shortened key is not recognized."""
    if len(text) <= MAX_ATTEMPT_ERROR_CHARACTERS:
        return text
    cut = [structs.replace(one, error=one.error[:MAX_ATTEMPT_ERROR_CHARACTERS]) for one in _decode_attempts(text)]
    return msgspec.json.encode(cut).decode()


def decode_attempt_times(text: str) -> list[AttemptTime]:
    return _decode_attempts(text) if text else []


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


_decode_blocks = msgspec.json.Decoder(list[BlockTime]).decode


def build_block_times(marks: Sequence[BlockMark], started_at: float) -> list[BlockTime]:
    """`started_at`: by the same clock as `marks`."""
    found: list[BlockTime] = []
    for index, (kind, name, at, characters) in enumerate(marks[:MAX_BLOCKS]):
        if kind:
            block = BlockTime(kind, name[:MAX_NAME_CHARACTERS], to_microseconds(at - started_at))
            if index + 1 < len(marks):
                _, _, end, after = marks[index + 1]
                block.duration, block.characters = to_microseconds(end - at), after - characters
            found.append(block)
    return [one for one in found if one.kind != "thinking" or one.characters]  # an empty one kept the connection open


def decode_block_times(text: str) -> list[BlockTime]:
    return _decode_blocks(text) if text else []
