"""What a line says: counts, names and times of one exchange."""

import functools
import json
import re
import time
from collections.abc import Callable

from msgspec import structs

from anthropic_proxy.hooks import Receipt
from anthropic_proxy.messages.notes import Note
from anthropic_proxy.redaction import mask_keys

FIRST_COLUMN, SECOND_COLUMN = 49, 34
PATH_CHARACTERS = 120
INDENT = " " * 10

_INDEX = re.compile(r"\d+")
_PLAIN_SIGNS = str.maketrans({"✓": "ok", "✕": "xx", "→": "->", "…": "...", "–": "-", "↻": "re", "’": "'"})
_WARNING_SIGN = re.compile(r"(?<!\S)!(?!\S)")

_OF_CLIENTS = ("path", "asked_model", "model", "why", "error")
"""Fields of a receipt that hold words of the client's."""

Paint = Callable[[str, str], str]
"""Text and role → text in the role's colour."""


def clean(text: str) -> str:
    """Return `text` with all that does not print escaped, so that no header or name can write lines of its own, or
    turn those of others round.
    """
    return text if text.isprintable() else "".join(map(_escape, text))


def clean_json(text: str) -> str:
    """Return JSON text with all that does not print escaped: who reads it with other tools is in a terminal too."""
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def without_keys(receipt: Receipt) -> Receipt:
    """Return the receipt without what looks like a key in words that are the client's own."""
    words = (receipt.path, receipt.asked_model, receipt.model, receipt.why, receipt.error)
    masked = _without_keys(words)
    return receipt if masked is None else structs.replace(receipt, **dict(zip(_OF_CLIENTS, masked, strict=True)))


@functools.lru_cache(maxsize=64)
def _without_keys(words: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the words without what looks like a key; None: there is nothing of that. Most requests say the same."""
    masked = tuple(map(mask_keys, words))
    return None if masked == words else masked


def _escape(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def with_plain_signs(text: str) -> str:
    """Return `text` as a terminal can show it that has no Unicode."""
    return _WARNING_SIGN.sub("!!", text.translate(_PLAIN_SIGNS))


def clock_of(seconds: float) -> str:
    """Return the time of day."""
    return _clock_of(int(seconds))


@functools.lru_cache(maxsize=4)
def _clock_of(seconds: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))


def describe_request(receipt: Receipt, paint: Paint) -> str:
    """Return the first line: when, what was asked, the status, what is unusual, the id."""
    status = receipt.status
    role = "ok" if status < 400 else "warn" if status < 500 else "error"
    path = receipt.path if len(receipt.path) <= PATH_CHARACTERS else receipt.path[: PATH_CHARACTERS - 1] + "…"
    head = f"{receipt.method} {clean(path)} "
    said = paint(str(status), role) if status else "–"
    return (
        f"{paint(clock_of(receipt.started), 'quiet')}  {head}{said}"
        f"{' ' * max(FIRST_COLUMN - 10 - len(head) - 3, 2)}{clean(_unusual(receipt)):<{SECOND_COLUMN}}  "
        f"{paint(receipt.request_id, 'quiet')}"
    )


def describe_exchange(receipt: Receipt) -> str:
    """Return the second line: who answered, sizes, tokens, times."""
    target = f" → {receipt.provider}/{receipt.model}" if receipt.model else ""
    context = receipt.input_tokens + receipt.cache_read_tokens + receipt.cache_write_tokens
    first = "–" if receipt.first_delta_seconds is None else f"{receipt.first_delta_seconds:.2f}s"
    return INDENT + clean(
        f"{receipt.asked_model or '–'}{target}  {receipt.tools} tools {receipt.messages} msgs"
        f"{' stream' if receipt.stream else ''}  in {_count(context)} out {_count(receipt.output_tokens)}"
        f"  {first} {receipt.seconds:.1f}s"
    )


def cause_of(note: Note, provider: str) -> tuple[str, str, str]:
    """Return what is said once a run of a note, however many requests have it."""
    # every tool has a name of its own, so there the reason is the cause
    field = note.reason if note.field.startswith("tools") else _INDEX.sub("0", note.field)
    return provider, field, note.fate


def describe_note(note: Note, provider: str) -> str:
    """Return the line of what did not reach the provider as it was asked."""
    sign = "✕" if note.fate == "dropped" else "~"
    return f"{sign} {provider or 'here'}: {note.field} {note.fate}: {note.reason}"


def _unusual(receipt: Receipt) -> str:
    tried = ", ".join(receipt.tried)
    if receipt.error:
        return (f"↻ {tried}; " if tried else "") + f"✕ {receipt.error[:160]}"
    if receipt.outcome == "cancelled":
        return "– client left" if receipt.status else "– client left before the reply"
    if tried:
        return f"↻ {tried}, then {receipt.provider}"
    return {"max_tokens": "! cut off", "refusal": "! refused"}.get(receipt.outcome, "")


def _count(tokens: int) -> str:
    return f"{tokens / 1000:.1f}k" if tokens >= 10_000 else str(tokens)
