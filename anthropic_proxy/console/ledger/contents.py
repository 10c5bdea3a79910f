"""Texts of requests and replies as rows of the table `contents`, compressed and without API keys.

The text fragments of a streamed reply are joined first, because an API key that is split over two of them would not be
found. Of a request to a provider, only the structure is stored, with lengths in place of texts.
"""

import json
import zlib
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.console import formats
from anthropic_proxy.console.ledger.receipt_queue import MAX_CONTENT_BYTES, BufferedContent
from anthropic_proxy.engine.messages.models.client_json import decode_values, read_json
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.secrets import new_redactor, redact_json_value, redact_secrets

_DELTA = b"event: content_block_delta\ndata: "
_PING = b"event: ping\n"
_TEXT_FIELDS = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "input_json_delta": "partial_json",
    "signature_delta": "signature",
}

ContentRow = dict[str, Any]


class StoredContent(Struct, frozen=True):
    kind: str
    """`request`, `reply`, or `sent`: the structure of the request to the provider."""
    size: int
    """Number of bytes of the complete text."""
    data: bytes
    """First bytes of the text, at most `MAX_CONTENT_BYTES`, with API keys redacted."""

    @property
    def is_cut(self) -> bool:
        return self.size > MAX_CONTENT_BYTES


def build_content_rows(
    request_id: str, started_at: int, content: BufferedContent, secrets: Sequence[str]
) -> list[ContentRow]:
    texts = [
        ("request", content.request_size, content.request),
        ("reply", content.reply_size, join_deltas(bytes(content.reply))),
        ("sent", len(content.upstream), outline_json(content.upstream).encode()),
    ]
    whose = {"request_id": request_id, "started_at": started_at}
    return [
        {**whose, "kind": kind, "size": size, "data": zlib.compress(_redact(data, secrets))}
        for kind, size, data in texts
        if data
    ]


_TITLE = "title"
"""Kind of a row with the title of a session, which is stored in a table of its own."""
MAX_TITLE_CHARACTERS = 80


def build_title_row(
    request_id: str, started_at: int, content: BufferedContent, secrets: Sequence[str]
) -> list[ContentRow]:
    """Return a row with the title of a session, as `build_content_rows` does. Empty: the reply has no title."""
    title = redact_secrets(read_title(bytes(content.reply)), secrets)
    row = {"request_id": request_id, "started_at": started_at, "kind": _TITLE, "size": len(title)}
    return [{**row, "data": title.encode()}] if title else []


def divide_titles(rows: Iterable[ContentRow]) -> tuple[list[ContentRow], list[ContentRow]]:
    """Return the rows with titles, and those of the table `contents`."""
    titles = list[ContentRow]()
    others = list[ContentRow]()
    for row in rows:
        (titles if row["kind"] == _TITLE else others).append(row)
    return titles, others


class _Text(Struct, frozen=True):
    text: str = ""


class _Event(Struct):
    content: Sequence[_Text] = ()
    """Of a message that is not streamed."""
    delta: _Text = _Text()


class _Title(Struct):
    title: str


def read_title(reply: bytes) -> str:
    """Return the title in the reply to a request for one, on one line. "": there is none."""
    lines = [line.removeprefix(b"data:") for line in reply.splitlines() if line.startswith(b"data:")]
    try:
        events = [msgspec.json.decode(line, type=_Event) for line in lines or [reply]]
        text = "".join(event.delta.text + "".join(block.text for block in event.content) for event in events)
        # a model that does not obey the schema may put the object into a block of code
        title = msgspec.json.decode(text[text.find("{") : text.rfind("}") + 1], type=_Title).title
    except (msgspec.DecodeError, RecursionError):
        return ""
    return formats.shorten("".join(filter(str.isprintable, " ".join(title.split()))), MAX_TITLE_CHARACTERS)


def join_deltas(reply: bytes) -> bytes:
    """Join the text fragments of each content block in a streamed reply, and return the joined reply. Otherwise an API
    key that is split over two fragments would not be found. A reply that is not streamed is returned unchanged.
    """
    if not reply.startswith(b"event: "):
        return reply
    joined: list[bytes] = []
    frames = [frame for frame in reply.split(b"\n\n") if not frame.startswith(_PING)]
    decoded = ((frame, _decode_delta(frame)) for frame in frames)

    def find_block(frame_and_event: tuple[bytes, dict[str, Any]]) -> tuple[int, str] | None:
        """Return index and type of the delta. None: it is no delta of a text."""
        _, event = frame_and_event
        return (event["index"], event["delta"]["type"]) if event else None

    for block, group in groupby(decoded, find_block):
        if block is None:
            joined += [frame for frame, _ in group]
        else:
            field = _TEXT_FIELDS[block[1]]
            _, first = next(group)
            text = first["delta"][field] + "".join([event["delta"][field] for _, event in group])
            joined.append(_DELTA + msgspec.json.encode({**first, "delta": {**first["delta"], field: text}}))
    return b"\n\n".join(joined)


def _decode_delta(frame: bytes) -> dict[str, Any]:
    """Empty: it is no delta of a text."""
    if not frame.startswith(_DELTA):
        return {}
    try:
        event = msgspec.json.decode(frame[len(_DELTA) :], type=dict[str, Any])
        delta = event["delta"]
        is_text = isinstance(delta[_TEXT_FIELDS[delta["type"]]], str) and isinstance(event["index"], int)
    except (msgspec.DecodeError, KeyError, TypeError):
        return {}
    return event if is_text else {}


def _redact(data: bytes, secrets: Sequence[str]) -> bytes:
    """Valid JSON stays valid."""
    redacted = redact_secrets(data.decode(errors="replace"), secrets).encode()
    if _is_json(data) and not _is_json(redacted):  # a mark replaced a part of an escape
        return msgspec.json.encode(redact_json_value(decode_values(data), new_redactor(secrets)))
    return redacted


def _is_json(data: bytes) -> bool:
    try:
        msgspec.json.decode(data, type=Raw)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


MAX_LIST_ITEMS = 40
MAX_WORD_CHARACTERS = 64
_SHOWN_FIELDS = frozenset(
    ("model", "role", "type", "name", "id", "call_id", "tool_call_id", "tool_use_id", "effort", "tool_choice", "mode")
)
_TOOL_LISTS = frozenset(("tools", "functionDeclarations", "function_declarations"))
_FIRST_ITEMS = 5


def outline_json(body: bytes) -> str:
    """One line for each field or list item. "": `body` is no JSON object, or is nested too deeply."""
    try:
        if not isinstance(fields := read_json(body, decode_values), dict):
            return ""
        lines = []
        for name, value in fields.items():
            if isinstance(value, list) and value and name not in _TOOL_LISTS and isinstance(value[0], dict):
                items = _shorten([_outline(item, name) for item in value])
                lines.append("\n".join([f"  {_quote(name)}: [", *(f"    {text}," for text in items), "  ]"]))
            else:
                lines.append(f"  {_quote(name)}: {_outline(value, name)}")
        return "\n".join(["{", ",\n".join(lines), "}"]) if lines else "{\n}"
    except (InvalidRequest, RecursionError):
        return ""


def _outline(value: Any, name: str) -> str:
    """Return the JSON value `value` on one line, with texts of the conversation replaced by their lengths."""
    if isinstance(value, str):
        is_word = len(value) <= MAX_WORD_CHARACTERS and not any(map(str.isspace, value))
        return _quote(value) if name in _SHOWN_FIELDS and is_word else f"[text, {len(value):,} characters]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_quote(key)}: {_outline(item, key)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        if name in _TOOL_LISTS:
            return f"[{len(value):,} tools]"
        return "[" + ", ".join(_shorten([_outline(item, name) for item in value])) + "]"
    return bytes(value).decode() if isinstance(value, Raw) else json.dumps(value)


def _shorten(items: Sequence[str]) -> Sequence[str]:
    hidden = len(items) - MAX_LIST_ITEMS
    if hidden <= 0:
        return items
    return [*items[:_FIRST_ITEMS], f"[{hidden:,} more]", *items[_FIRST_ITEMS + hidden :]]


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
