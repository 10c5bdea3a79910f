"""Replies in another form than clients read: events without names, a message for a stream, a stream for a message.

`StreamRepair` gives clients what the decoder understands. Deltas in the usual form, nearly all events, pass after two
searches; the others are decoded, and pass unchanged too if nothing is missing. It writes the line `event:` that a
server leaves out, the `type` that only this line states, the `usage` of `message_start` and `message_delta`, and the
end of a block. An event without data is left out, because clients stop at it. Some servers ignore `stream`:
`convert_message_to_events` and `convert_events_to_message` write their reply in the form that was asked for.
"""

from typing import Any

import msgspec

from anthropic_proxy.engine.messages.server_tools import CALL_TYPES
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.wires.framing import SSEReader
from anthropic_proxy.engine.wires.json_repair import DECODE_ERRORS, decode_repaired, replace_non_numbers

_EVENT_ENDS = compile_later(rb"(?<=\n\n)|(?<=\r\n\r\n)|(?<=\r\r)")
_LINE_ENDS = compile_later(rb"\r\n|\n|\r")
_USUAL_DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta"'
_USUAL_NEXT = b"\n\n" + _USUAL_DELTA
_CR = ord("\r")
_BOM = b"\xef\xbb\xbf"
_NO_USAGE = {"input_tokens": 0, "output_tokens": 0}


def encode_event(event: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), msgspec.json.encode(event))


class StreamRepair:
    """The repair of one stream. `feed` takes whole events."""

    def __init__(self) -> None:
        self._open: Any = None
        """Index of the block that has begun and not ended. None: no block."""

    def feed(self, events: bytes) -> bytes:
        # each event is the two usual lines: clients read another line, such as a second name, before they read the data
        if events.startswith(_USUAL_DELTA) and _CR not in events:
            number = events.count(_USUAL_NEXT) + 1
            if number == events.count(b"\n\n") and 3 * number == events.count(b"\n"):
                return events
        return b"".join([self._repair(event) for event in _EVENT_ENDS.split(events)])

    def _repair(self, event: bytes) -> bytes:
        event = event.removeprefix(_BOM)  # behind the first event, it is a part of a name to clients
        name, data, is_named = "", list[bytes](), False
        for line in _LINE_ENDS.split(event):
            field, _, value = line.partition(b":")
            if field == b"event":
                name, is_named = value.removeprefix(b" ").decode(errors="replace"), True
            elif field == b"data":
                data.append(value.removeprefix(b" "))
        if not any(map(bytes.strip, data)):
            return b"" if data or is_named else event
        text = b"\n".join(data)
        is_changed = False
        try:
            content = msgspec.json.decode(text)
        except DECODE_ERRORS:
            is_changed = True
            try:
                content = msgspec.json.decode(replace_non_numbers(text))
            except DECODE_ERRORS:
                return event  # the decoder judges it
        if not isinstance(content, dict) or name == "error":
            return event
        event_type = content.get("type")
        if (
            name in _EVENT_TYPES
            and (not isinstance(event_type, str) or event_type not in _EVENT_TYPES)
            and "error" not in content
        ):
            content = {**content, "type": name}
            event_type, is_changed = name, True
        if not isinstance(event_type, str) or event_type not in _EVENT_TYPES:
            return event
        is_changed = self._add_usage(content, event_type) or is_changed
        before = self._end_block(content, event_type)
        if is_changed or (is_named and name != event_type):
            return before + encode_event(content)
        return before + (event if is_named else b"event: %b\n%b" % (event_type.encode(), event))

    def _add_usage(self, content: dict[str, Any], event_type: str) -> bool:
        if event_type == "message_start":
            holder = content.get("message")
        else:
            holder = content if event_type == "message_delta" else None
        if not isinstance(holder, dict) or holder.get("usage") is not None:
            return False
        holder["usage"] = dict(_NO_USAGE) if event_type == "message_start" else {"output_tokens": 0}
        return True

    def _end_block(self, content: dict[str, Any], event_type: str) -> bytes:
        """Return the end of the open block that this event should follow. b"": nothing is missing."""
        index = content.get("index")
        if event_type == "content_block_stop":
            self._open = None
        if event_type not in ("content_block_start", "message_delta", "message_stop"):
            return b""
        open_index, self._open = self._open, index if event_type == "content_block_start" else None
        return b"" if open_index is None else encode_event({"type": "content_block_stop", "index": open_index})


_EVENT_TYPES = frozenset(
    (
        *("message_start", "message_delta", "message_stop", "ping"),
        *("content_block_start", "content_block_delta", "content_block_stop"),
    )
)


def convert_message_to_events(body: bytes) -> bytes:
    """Return a message as the events of a stream. `body` is an object with `content`, which may be a text."""
    message = decode_repaired(body)
    content, usage = message["content"], message.get("usage")
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    blocks = blocks if isinstance(blocks, list) else []
    usage = usage if isinstance(usage, dict) else _NO_USAGE
    ending = {"stop_reason": message.get("stop_reason") or "end_turn", "stop_sequence": message.get("stop_sequence")}
    ending |= {name: message.pop(name) for name in _OF_THE_END if name in message}
    started = {**message, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": started}]
    for index, block in enumerate(blocks):
        if not isinstance(block, dict):
            continue
        is_text = block.get("type") in ("text", "thinking")
        texts = {kind: field for kind, field in _TEXTS.items() if is_text and block.get(field)}
        texts = {kind: field for kind, field in texts.items() if isinstance(block[field], str)}
        deltas = [{"type": kind, field: block[field]} for kind, field in texts.items()]
        emptied = {**block, **dict.fromkeys(texts.values(), "")}
        if block.get("type") in CALL_TYPES and block.get("input"):
            deltas.append({"type": "input_json_delta", "partial_json": msgspec.json.encode(block["input"]).decode()})
            emptied["input"] = {}
        events.append({"type": "content_block_start", "index": index, "content_block": emptied})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    events += [{"type": "message_delta", "delta": ending, "usage": usage}, {"type": "message_stop"}]
    return b"".join(map(encode_event, events))


_OF_THE_END = ("stop_details", "safeguard_results")
"""Further fields of a message that a stream has in `message_delta`."""
_TEXTS = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}
"""Type of a delta → field of the delta and of its block."""


def convert_events_to_message(body: bytes) -> bytes:
    """Return the message of a stream, or the error in it. A body that is no complete stream is returned unchanged."""
    reader = SSEReader()
    message: dict[str, Any] | None = None
    cited = dict[str, list[Any]]()
    blocks = dict[Any, dict[str, Any]]()
    pieces = dict[tuple[str, str], list[str]]()
    """Texts of the deltas, by the index of the block and the field."""
    for frame in (*reader.feed(body), *reader.finish()):
        event = decode_repaired(frame)
        if not isinstance(event, dict):
            continue
        index = str(event.get("index"))
        match event:
            case {"error": dict()} | {"type": "error"}:
                return frame
            case {"type": "message_start", "message": dict(begun)}:
                message = begun
            case {"type": "content_block_start", "content_block": dict(block)}:
                blocks[index] = block
            case {"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": str(text)}}:
                pieces.setdefault((index, "input"), []).append(text)
            case {"type": "content_block_delta", "delta": {"type": "citations_delta", "citation": citation}}:
                cited.setdefault(index, []).append(citation)
            case {"type": "content_block_delta", "delta": {"type": str(kind), **values}} if kind in _TEXTS:
                field = _TEXTS[kind]
                if isinstance(piece := values.get(field), str):
                    pieces.setdefault((index, field), []).append(piece)
            case {"type": "message_delta", "delta": dict(ending)} if message is not None:
                message |= ending
                if isinstance(counts := event.get("usage"), dict):
                    message["usage"] = {**(message.get("usage") or {}), **counts}
    if message is None or not message.get("stop_reason"):
        return body
    for (index, field), texts in pieces.items():
        if index in blocks and field == "input":
            blocks[index][field] = decode_repaired("".join(texts).encode() or b"{}")
        elif index in blocks:
            blocks[index][field] = str(blocks[index].get(field) or "") + "".join(texts)
    for index, citations in cited.items():
        if index in blocks:
            blocks[index]["citations"] = citations
    message["content"] = list(blocks.values())
    message.setdefault("usage", dict(_NO_USAGE))
    return msgspec.json.encode(message)
