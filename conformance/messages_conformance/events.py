"""Server-sent events, read as they arrive, and the message that they contain."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_LINE_END = re.compile(rb"\r\n|\n|\r")
_MAX_DEPTH = 100
"""Maximum depth of a JSON value: deeper ones would end the recursion of what reads them."""


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
        self._pieces: list[bytes] = []
        """Of the line that has not ended."""
        self._ended_in_return = False
        """What came ended in a carriage return, behind which a line feed ends no other line."""
        self._name = ""
        self._data: list[bytes] = []

    def feed(self, seconds: float, data: bytes) -> Sequence[Event]:
        """Read the next bytes, which may begin or end inside a line, and return the events that they complete."""
        known = len(self.events)
        if self._ended_in_return:
            data = data.removeprefix(b"\n")
        self._ended_in_return = data.endswith(b"\r")
        first, *lines = _LINE_END.split(data)
        self._pieces.append(first)
        for line in lines:
            self._feed_line(seconds, b"".join(self._pieces))
            self._pieces = [line]
        return self.events[known:]

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
    """Return the value of a JSON text, else the text itself, also for a value that is too deep."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return text
    return value if text.count("[") + text.count("{") <= _MAX_DEPTH or _is_flat(value) else text


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _is_flat(value: Any) -> bool:
    """Tell whether the value has not more than the maximum depth."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(_MAX_DEPTH):
        members = [element.values() if isinstance(element, dict) else element for element in level]
        level = [inner for element in members for inner in element if isinstance(inner, (dict, list))]
        if not level:
            return True
    return False


def join_message(events: Sequence[Event]) -> dict[str, Any] | None:
    """Return the message that a stream contains, as far as it came. None: the stream has no message_start.

    What does not fit, such as a delta without a block, is left out: the grammar reports it.
    """
    message: dict[str, Any] | None = None
    blocks: dict[str, _Block] = {}
    for event in events:
        data = event.data
        if not isinstance(data, dict):
            continue
        index = str(data.get("index"))
        match data.get("type"):
            case "message_start" if message is None and isinstance(data.get("message"), dict):
                message = {**data["message"], "content": []}
                if isinstance(message.get("usage"), dict):
                    message["usage"] = dict(message["usage"])
            case "content_block_start" if message is not None and isinstance(data.get("content_block"), dict):
                block = dict(data["content_block"])
                message["content"].append(block)
                if index in blocks:
                    blocks[index].join()
                blocks[index] = _Block(block)
            case "content_block_delta" if isinstance(data.get("delta"), dict) and index in blocks:
                blocks[index].add(data["delta"])
            case "content_block_stop" if index in blocks:
                blocks[index].join_arguments()
            case "message_delta" if message is not None:
                _add_end(message, data)
            case _:
                pass
    for begun in blocks.values():
        begun.join()
    return message


_TEXT_FIELDS = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}


class _Block:
    """A content block whose deltas are joined at the end, because each join copies what came before."""

    def __init__(self, value: dict[str, Any]) -> None:
        self._value = value
        self._texts: dict[str, list[str]] = {}
        self._arguments: list[str] = []
        self._citations: list[Any] = []

    def add(self, delta: Mapping[str, Any]) -> None:
        kind = delta.get("type")
        if isinstance(kind, str) and (field := _TEXT_FIELDS.get(kind)):
            pieces = self._texts.setdefault(field, [str(self._value.get(field) or "")])
            pieces.append(str(delta.get(field) or ""))
        elif kind == "input_json_delta":
            self._arguments.append(str(delta.get("partial_json") or ""))
        elif kind == "citations_delta":
            self._citations.append(delta.get("citation"))
        elif kind == "compaction_delta":
            self._value["content"] = delta.get("content")

    def join(self) -> None:
        for field, pieces in self._texts.items():
            self._value[field] = "".join(pieces)
        if self._citations:
            given = self._value.get("citations")
            self._value["citations"] = [*(given if isinstance(given, list) else ()), *self._citations]

    def join_arguments(self) -> None:
        if text := "".join(self._arguments):
            self._value["input"] = decode(text)
        self._arguments.clear()


def _add_end(message: dict[str, Any], data: Mapping[str, Any]) -> None:
    if isinstance(data.get("delta"), dict):
        message.update(data["delta"])
    if "context_management" in data:
        message["context_management"] = data["context_management"]
    usage = data.get("usage")
    if not isinstance(usage, dict):
        return
    if isinstance(message.get("usage"), dict):
        message["usage"].update(usage)
    else:
        message["usage"] = dict(usage)
