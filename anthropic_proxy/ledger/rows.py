"""Rows of the table `requests`, built from the records of finished requests.

`RowBuilder.build` returns the row for one record (receipt). Keys are redacted, and characters that a database would
reject are replaced.
"""

import os
import platform
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec

from anthropic_proxy.ledger.attempt_times import build_attempt_times, shorten_attempt_errors
from anthropic_proxy.ledger.block_times import build_block_times
from anthropic_proxy.ledger.costs import Cost
from anthropic_proxy.ledger.units import to_microseconds
from anthropic_proxy.messages.fidelity import TOOL_CALL_FIELDS
from anthropic_proxy.plugins import Receipt
from anthropic_proxy.redaction import list_secret_encodings, redact_key_patterns, redact_secrets

Row = dict[str, Any]
"""One row of the table `requests`: column name → value."""
MAX_LABEL_CHARACTERS = 200
"""Maximum number of stored characters of a name that a client or a provider chooses."""
MAX_ERROR_CHARACTERS = 2_000
"""Maximum number of stored characters of an error message."""
_LISTS = frozenset({"failed_attempts", "notes", "adaptations", "attempt_times", "reply_blocks"})
"""Columns with a list as JSON text, which is not shortened."""
_NO_OWN_TEXTS = dict.fromkeys(("id", "error", *_LISTS), "")
"""Columns with texts that differ from request to request, with the values that they have without a text."""
_REJECTED_CLIENTS = frozenset({"authentication_error", "permission_error"})
"""Types of errors of requests by clients without access to the proxy."""
_LABELS = (
    *("key_label", "project", "session", "agent", "user_agent", "path", "requested_model"),
    *("provider", "prefix", "model", "route", "route_reason", "outcome", "error_type"),
)
"""Columns with names that many requests share."""
_MAX_CACHED_LABELS = 1_000
_TOKENS = (
    *("input_tokens", "cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens"),
    *("output_tokens", "thinking_tokens"),
)
_read_tokens = attrgetter(*_TOKENS)
_MAX_COUNT = (2**63 - 1) >> 16
"""Maximum stored number of tokens or nano-dollars."""
_TRUNCATED_OUTCOMES = frozenset({"max_tokens", "model_context_window_exceeded"})
_HOST, _PROCESS = platform.node(), os.getpid()
_encode = msgspec.json.Encoder().encode
_NO_CONTROL_CHARACTERS = dict.fromkeys((*range(32), 127), " ")


class RowBuilder:
    """Builder of rows of the table `requests`.

    `secrets` are API keys that are redacted in each row, besides texts that look like API keys.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        self._secrets = secrets
        self._spellings = list_secret_encodings(secrets)
        self._labels: dict[tuple[str, ...], dict[str, str]] = {}
        """Names in earlier receipts → columns with these names. Most requests of a session have the same names."""

    def build(self, receipt: Receipt, cost: Cost) -> Row:
        """Return the row of the table `requests` for `receipt` (record of one request) and its cost."""
        texts = self._build_texts(receipt)
        texts["attempt_times"] = shorten_attempt_errors(texts["attempt_times"])  # after the removal of keys
        first, total = receipt.first_token_seconds, receipt.duration_seconds
        generating = 0.0 if first is None else total - first
        has_rate = generating > 0.001 and receipt.output_tokens
        return {
            **texts,
            **_count(receipt),
            "stream": receipt.stream,
            "outcome_class": classify_outcome(receipt),
            "cost": None if cost.cost is None else _limit(cost.cost),
            "requested_cost": None if cost.requested_cost is None else _limit(cost.requested_cost),
            "price_source": cost.source,
            "instance": _HOST,
            "worker": _PROCESS,
            "first_token": None if first is None else to_microseconds(first),
            "duration": to_microseconds(total),
            "output_rate": receipt.output_tokens / generating if has_rate else None,
        }

    def _build_texts(self, receipt: Receipt) -> dict[str, str]:
        """Return the text columns of `receipt` (record of one request), without keys."""
        key = _list_labels(receipt)
        labels, own = self._labels.get(key), _own_texts(receipt)
        if labels is not None:
            own = _clean(own)
            if not self._has_key(own):
                return {**labels, **_shorten(own)}
        named = _name_labels(key)
        texts = _clean({**_NO_OWN_TEXTS, **named, **own})
        if self._has_key(texts):
            return _shorten({name: redact_secrets(text, self._secrets) for name, text in texts.items()})
        if len(self._labels) >= _MAX_CACHED_LABELS:
            self._labels.clear()
        self._labels[key] = {**_NO_OWN_TEXTS, **_shorten({name: texts[name] for name in named})}
        return _shorten(texts)

    def _has_key(self, texts: Mapping[str, str]) -> bool:
        together = "\n".join(texts.values())
        return any(map(together.__contains__, self._spellings)) or redact_key_patterns(together) != together


def classify_outcome(receipt: Receipt) -> str:
    """Return the value of the column `outcome_class` for `receipt`, the record of one request.

    Values are `ok`, `retried` (served after a failed call), `truncated`, `error` and `cancelled`.
    """
    if receipt.outcome in ("error", "cancelled"):
        return receipt.outcome
    if receipt.outcome in _TRUNCATED_OUTCOMES:
        return "truncated"
    return "retried" if receipt.failed_attempts else "ok"


def _list_labels(receipt: Receipt) -> tuple[str, ...]:
    """Return the names in `receipt` that other requests share, such as model and project, in the order of `_LABELS`."""
    # anyone can send these headers without access, and each new value would add a row to the hourly sums
    is_rejected = receipt.error_type in _REJECTED_CLIENTS and not receipt.provider
    return (
        receipt.client.name,
        "" if is_rejected else receipt.project,
        "" if is_rejected else receipt.session,
        "" if is_rejected else receipt.agent,
        receipt.user_agent,
        receipt.path,
        receipt.requested_model,
        receipt.provider,
        receipt.prefix,
        receipt.model,
        receipt.route,
        receipt.route_reason,
        receipt.outcome,
        receipt.error_type,
    )


def _name_labels(labels: Sequence[str]) -> dict[str, str]:
    """Return column → text for `labels`, the result of `_list_labels`."""
    named = dict(zip(_LABELS, labels, strict=True))
    named["client"] = named["user_agent"].partition("/")[0]
    return named


def _own_texts(receipt: Receipt) -> dict[str, str]:
    """Return column → text for the texts in `receipt` that differ from request to request, without empty ones."""
    texts = {"id": receipt.request_id}
    if receipt.error:
        texts["error"] = receipt.error
    if receipt.failed_attempts:
        texts["failed_attempts"] = _json(receipt.failed_attempts)
    if receipt.notes:
        texts["notes"] = _json(receipt.notes)
    if receipt.adaptations:
        texts["adaptations"] = _json(receipt.adaptations)
    if receipt.attempts:
        texts["attempt_times"] = _json(build_attempt_times(receipt.attempts))
    if receipt.blocks:
        texts["reply_blocks"] = _json(build_block_times(receipt.blocks, receipt.started_at))
    return texts


def _count(receipt: Receipt) -> dict[str, int]:
    """Return column → number for the counts in `receipt` and its start."""
    notes, tokens = receipt.notes, _read_tokens(receipt)
    if min(tokens) < 0 or max(tokens) > _MAX_COUNT:
        tokens = tuple(map(_limit, tokens))
    has_reply = receipt.outcome not in ("error", "cancelled")  # the client sends such a request and its results again
    return {
        "started_at": to_microseconds(receipt.started_at),
        "attempts": len(receipt.failed_attempts) + bool(receipt.provider),
        "status": receipt.status,
        "tool_count": receipt.tool_count,
        "message_count": receipt.message_count,
        "note_count": len(notes),
        "input_tokens": tokens[0],
        "cache_read_tokens": tokens[1],
        "cache_write_tokens": tokens[2],
        "cache_write_1h_tokens": tokens[3],
        "output_tokens": tokens[4],
        "thinking_tokens": tokens[5],
        "tool_results": receipt.tool_results if has_reply else 0,
        "tool_errors": receipt.tool_errors if has_reply else 0,
        "malformed_replies": int(any(note.field in TOOL_CALL_FIELDS for note in notes)) if notes else 0,
    }


def _shorten(texts: dict[str, str]) -> dict[str, str]:
    """Cut each of `texts` (column → text) to the maximum length of its column. Keys must be redacted before."""
    if max(map(len, texts.values())) <= MAX_LABEL_CHARACTERS:
        return texts
    return {
        name: text if name in _LISTS else _cut(text, MAX_ERROR_CHARACTERS if name == "error" else MAX_LABEL_CHARACTERS)
        for name, text in texts.items()
    }


def _cut(text: str, max_characters: int) -> str:
    return text if len(text) <= max_characters else f"{text[: max_characters - 1]}…"


def _clean(texts: dict[str, str]) -> dict[str, str]:
    """Return `texts` (column → text) without control characters and lone surrogates, which some databases reject."""
    together = " ".join(texts.values())
    if together.isascii() and together.isprintable():
        return texts
    return {
        name: text.translate(_NO_CONTROL_CHARACTERS).encode(errors="replace").decode() for name, text in texts.items()
    }


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
    """Return `count`, or the highest number of the column if it is lower."""
    # a provider may report an invalid number that exceeds the column
    return count if 0 <= count <= _MAX_COUNT else max(0, min(count, _MAX_COUNT))
