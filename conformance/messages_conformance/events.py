"""Server-sent events, read as they arrive, and the message that they contain."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_LINE_END = re.compile(rb"\r\n|\n|\r(?!$)")


class Event(NamedTuple):
    seconds: float
    """Time of its last byte, from the start of the request."""
    name: str
    """Field `event`. "": there is none."""
    data: Any
    """Decoded JSON. A text: the data is no JSON."""

    @property
    def type(self) -> str:
        """The type in the data. "": there is none."""
        kind = self.data.get("type") if isinstance(self.data, dict) else None
        return kind if isinstance(kind, str) else ""


class EventReader:
    """Parser of a stream of server-sent events; comments are not kept."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._rest = b""
        self._name = ""
        self._data: list[bytes] = []

    def feed(self, seconds: float, data: bytes) -> None:
        """Read the next bytes, which may begin or end inside a line."""
        *lines, self._rest = _LINE_END.split(self._rest + data)
        for line in lines:
            self._feed_line(seconds, line)

    def _feed_line(self, seconds: float, line: bytes) -> None:
        if not line:
            if self._name or self._data:
                text = b"\n".join(self._data).decode("utf-8", "replace")
                self.events.append(Event(seconds, self._name, decode(text)))
            self._name = ""
            self._data = []
            return
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            self._name = value.decode("utf-8", "replace")
        elif field == b"data":
            self._data.append(value)


def decode(text: str) -> Any:
    """Return the value of a JSON text, else the text itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def join_message(events: Sequence[Event]) -> dict[str, Any] | None:
    """Return the message that a stream contains, as far as it came. None: the stream has no message_start.

    What does not fit, such as a delta without a block, is left out: the grammar reports it.
    """
    message: dict[str, Any] | None = None
    blocks: dict[Any, dict[str, Any]] = {}
    arguments: dict[Any, list[str]] = {}
    for event in events:
        data = event.data
        if not isinstance(data, dict):
            continue
        match data.get("type"):
            case "message_start" if message is None and isinstance(data.get("message"), dict):
                message = {**data["message"], "content": []}
            case "content_block_start" if message is not None and isinstance(data.get("content_block"), dict):
                block = dict(data["content_block"])
                message["content"].append(block)
                blocks[str(data.get("index"))] = block
            case "content_block_delta" if isinstance(data.get("delta"), dict):
                index = str(data.get("index"))
                if (open_block := blocks.get(index)) is not None:
                    _add_delta(open_block, data["delta"], arguments.setdefault(index, []))
            case "content_block_stop":
                index = str(data.get("index"))
                if (text := "".join(arguments.pop(index, ()))) and index in blocks:
                    blocks[index]["input"] = decode(text)
            case "message_delta" if message is not None:
                _add_end(message, data)
            case _:
                pass
    return message


_TEXT_FIELDS = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}


def _add_delta(block: dict[str, Any], delta: Mapping[str, Any], arguments: list[str]) -> None:
    kind = delta.get("type")
    if isinstance(kind, str) and (field := _TEXT_FIELDS.get(kind)):
        block[field] = f"{block.get(field) or ''}{delta.get(field) or ''}"
    elif kind == "input_json_delta":
        arguments.append(str(delta.get("partial_json") or ""))
    elif kind == "citations_delta":
        given = block.get("citations")
        block["citations"] = [*(given if isinstance(given, list) else ()), delta.get("citation")]


def _add_end(message: dict[str, Any], data: Mapping[str, Any]) -> None:
    for field in ("delta", "usage"):
        given = data.get(field)
        if not isinstance(given, dict):
            continue
        if field == "delta":
            message.update(given)
        else:
            old = message.get("usage")
            message["usage"] = {**(old if isinstance(old, dict) else {}), **given}
