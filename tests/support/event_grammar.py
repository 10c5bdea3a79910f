"""Checker for the grammar of event streams.

It shares no code with the writer, so that a defect of one of them does not hide in the other.
Source: the API reference, "Streaming messages", and recorded streams, read 2026-11.

    stream  := message_start (block | ping)* message_delta message_stop
             | message_start (beginning of blocks | ping)* error
    block   := content_block_start content_block_delta* content_block_stop
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

_STOP_REASONS = {
    "end_turn",
    "tool_use",
    "max_tokens",
    "stop_sequence",
    "pause_turn",
    "refusal",
    "model_context_window_exceeded",
    "compaction",
}
_ERROR_KINDS = {
    "invalid_request_error",
    "authentication_error",
    "billing_error",
    "permission_error",
    "not_found_error",
    "conflict_error",
    "request_too_large",
    "rate_limit_error",
    "api_error",
    "overloaded_error",
    "timeout_error",
}
_CUTTING_REASONS = {"max_tokens", "model_context_window_exceeded", "stop_sequence", "refusal", "pause_turn"}
"""Stop reasons of a message that may end inside the arguments of a call."""

_COUNTS = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")

_frame_end = re.compile(rb"\r?\n\r?\n")

_DELTAS = {
    "text_delta": ("text", "text"),
    "citations_delta": ("text", "citation"),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("thinking", "signature"),
    "input_json_delta": ("tool_use", "partial_json"),
}
"""Delta → the kind of block that it belongs to, and the field that it carries."""
_CALLS = {"tool_use", "server_tool_use", "mcp_tool_use"}
_EMPTY_STARTS: Mapping[str, Mapping[str, Any]] = {
    "text": {"text": ""},
    "thinking": {"thinking": "", "signature": ""},
    "tool_use": {"input": {}},
}
"""Block type → required fields of its `content_block_start`."""


def check_events(events: Iterable[Mapping[str, Any]], *, whole_arguments: bool = True) -> list[str]:
    """Return the violations of a finished stream of decoded events."""
    grammar = EventGrammar(whole_arguments=whole_arguments)
    for event in events:
        grammar.feed(event)
    return grammar.finish()


def check_bytes(stream: bytes, *, whole_arguments: bool = True) -> list[str]:
    """Return the violations of a finished stream of SSE bytes."""
    grammar = EventGrammar(whole_arguments=whole_arguments)
    grammar.feed_bytes(stream)
    return grammar.finish()


class EventGrammar:
    """Collects the violations of one stream in `violations`.

    `whole_arguments=False` allows arguments that are no JSON object: a model can write such, and sent text stays sent.
    """

    def __init__(self, *, whole_arguments: bool = True) -> None:
        self.violations: list[str] = []
        self._whole_arguments = whole_arguments
        self._count = 0
        self._begun = False
        self._ending = False
        self._ended = ""
        self._next_index = 0
        self._open: _OpenBlock | None = None
        self._identifiers: set[str] = set()
        self._calls = 0
        self._torn: list[int] = []
        self._buffer = b""

    def feed_bytes(self, data: bytes) -> None:
        """Read the next bytes of the stream, cut anywhere."""
        *frames, self._buffer = _frame_end.split(self._buffer + data)
        for frame in frames:
            self._feed_frame(frame)

    def feed(self, event: Mapping[str, Any]) -> None:
        """Read the next event, decoded."""
        self._count += 1
        kind = event.get("type")
        rule = _RULES.get(kind) if isinstance(kind, str) else None
        if rule is None:
            self._add_violation(f"{kind!r} is no event")
        elif self._ended:
            self._add_violation(f"{kind} after {self._ended}")
        elif kind != "message_start" and not self._begun:
            self._add_violation(f"{kind} before message_start")
        elif self._ending and kind != "message_stop":
            self._add_violation(f"{kind} after message_delta")
        else:
            rule(self, event)

    def finish(self) -> list[str]:
        """End the stream and return all violations."""
        if self._buffer.strip():
            self.violations.append("the stream ends inside a frame")
        if not self._begun:
            self.violations.append("the stream has no message_start")
        elif not self._ended:
            self.violations.append("the stream ends without message_stop or error")
        return self.violations

    def _add_violation(self, what: str) -> None:
        self.violations.append(f"event {self._count}: {what}")

    def _check(self, fact: bool, what: str) -> None:
        if not fact:
            self._add_violation(what)

    def _feed_frame(self, frame: bytes) -> None:
        name, data = "", list[bytes]()
        for line in frame.splitlines():
            field, _, value = line.partition(b":")
            if field == b"event":
                name = value.strip().decode("utf-8", "replace")
            elif field == b"data":
                data.append(value.removeprefix(b" "))
        if not name and not data:
            return
        try:
            event = json.loads(b"\n".join(data))
        except (ValueError, RecursionError):
            event = None
        if not isinstance(event, dict):
            self._count += 1
            self._add_violation("the data is no JSON object")
            return
        self.feed(event)
        self._check(len(data) == 1, "the data takes more than one line")
        self._check(name == event.get("type"), f"the frame is called {name!r}, its data {event.get('type')!r}")

    def _ping(self, _: Mapping[str, Any]) -> None:
        pass

    def _message_start(self, event: Mapping[str, Any]) -> None:
        self._check(not self._begun, "a second message_start")
        self._begun = True
        message = event.get("message")
        if not isinstance(message, dict):
            self._add_violation("message_start without a message")
            return
        for field, value in (("type", "message"), ("role", "assistant"), ("content", []), ("stop_reason", None)):
            self._check(message.get(field, "absent") == value, f"{field} of the message is not {value!r}")
        for field in ("id", "model"):
            self._check(bool(message.get(field)) and isinstance(message[field], str), f"the message has no {field}")
        self._check_usage(message.get("usage"), ("input_tokens", "output_tokens"))

    def _check_usage(self, usage: Any, required: Iterable[str]) -> None:
        if not isinstance(usage, dict):
            self._add_violation("usage is missing")
            return
        for field in required:
            self._check(usage.get(field) is not None, f"usage without {field}")
        for field in _COUNTS:
            self._check(_is_count(usage.get(field, 0)) or usage[field] is None, f"{field} is {usage.get(field)!r}")

    def _block_start(self, event: Mapping[str, Any]) -> None:
        index, block = event.get("index"), event.get("content_block")
        self._check(self._open is None, f"block {index} begins inside another")
        self._check(_is_count(index) and index == self._next_index, f"index {index!r} instead of {self._next_index}")
        self._next_index += 1
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            self._add_violation(f"block {index} has no type")
            block = {"type": ""}
        kind = block["type"]
        self._open = _OpenBlock(index, kind)
        for field, value in _EMPTY_STARTS.get(kind, {}).items():
            self._check(block.get(field) == value, f"block {index} begins with {field} {block.get(field)!r}")
        if kind == "tool_use":
            self._calls += 1
        if kind in _CALLS:
            self._check_call(block)

    def _check_call(self, block: Mapping[str, Any]) -> None:
        for field in ("id", "name"):
            self._check(isinstance(block.get(field), str) and block[field] != "", f"a call without {field}")
        identifier = str(block.get("id"))
        self._check(identifier not in self._identifiers, f"two calls with the id {identifier!r}")
        self._identifiers.add(identifier)

    def _block_delta(self, event: Mapping[str, Any]) -> None:
        block, delta = self._find_open(event), event.get("delta")
        if block is None:
            return
        kind = delta.get("type") if isinstance(delta, dict) else None
        if not isinstance(delta, dict) or kind not in _DELTAS:
            # Blocks that come after this was written may have deltas of their own.
            self._check(isinstance(kind, str) and block.kind not in _EMPTY_STARTS, f"{kind!r} in a {block.kind} block")
            return
        home, field = _DELTAS[kind]
        fits = block.kind == home or (home == "tool_use" and block.kind in _CALLS)
        self._check(fits, f"{kind} in a {block.kind} block")
        value = delta.get(field)
        self._check(isinstance(value, dict if field == "citation" else str), f"{kind} with {field} {value!r}")
        self._check(not block.signed, f"{kind} after the signature of block {block.index}")
        if kind == "signature_delta":
            block.signed = True
            self._check(value != "", f"block {block.index} has an empty signature")
        elif kind == "input_json_delta" and isinstance(value, str):
            block.arguments.append(value)

    def _block_stop(self, event: Mapping[str, Any]) -> None:
        block = self._find_open(event)
        self._open = None
        if block is None:
            return
        if block.kind == "thinking":
            self._check(block.signed, f"thinking block {block.index} is not signed")
        if block.kind == "tool_use" and not _is_object("".join(block.arguments)):
            self._torn.append(block.index)

    def _find_open(self, event: Mapping[str, Any]) -> "_OpenBlock | None":
        if self._open is None:
            self._add_violation(f"{event['type']} while no block is open")
        else:
            self._check(
                event.get("index") == self._open.index, f"index {event.get('index')!r}, but {self._open.index} is open"
            )
        return self._open

    def _message_delta(self, event: Mapping[str, Any]) -> None:
        self._check(self._open is None, "message_delta while a block is open")
        self._ending = True
        self._check_usage(event.get("usage"), ("output_tokens",))
        delta = event.get("delta")
        if not isinstance(delta, dict):
            self._add_violation("message_delta without a delta")
            return
        reason, sequence = delta.get("stop_reason"), delta.get("stop_sequence")
        self._check(reason in _STOP_REASONS, f"stop_reason {reason!r}")
        self._check(
            (reason == "stop_sequence") == isinstance(sequence, str), f"{reason} with stop_sequence {sequence!r}"
        )
        if reason == "tool_use":
            self._check(self._calls > 0, "stop_reason tool_use without a call")
        if reason == "end_turn":
            self._check(self._calls == 0, "stop_reason end_turn although there is a call")
        for index in self._torn if self._whole_arguments else []:
            cut = reason in _CUTTING_REASONS and index == self._next_index - 1
            self._check(cut, f"the arguments of block {index} are no JSON object")

    def _message_stop(self, _: Mapping[str, Any]) -> None:
        self._check(self._ending, "message_stop without message_delta")
        self._ended = "message_stop"

    def _error(self, event: Mapping[str, Any]) -> None:
        self._ended = "error"
        error = event.get("error")
        if not isinstance(error, dict):
            self._add_violation("error without an error")
            return
        self._check(error.get("type") in _ERROR_KINDS, f"error of the kind {error.get('type')!r}")
        self._check(isinstance(error.get("message"), str), "error without a message")


class _OpenBlock:
    def __init__(self, index: Any, kind: str) -> None:
        self.index = index
        self.kind = kind
        self.signed = False
        self.arguments: list[str] = []


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_object(text: str) -> bool:
    try:
        return text == "" or isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


_RULES: Mapping[str, Callable[[EventGrammar, Mapping[str, Any]], None]] = {
    "ping": EventGrammar._ping,
    "message_start": EventGrammar._message_start,
    "content_block_start": EventGrammar._block_start,
    "content_block_delta": EventGrammar._block_delta,
    "content_block_stop": EventGrammar._block_stop,
    "message_delta": EventGrammar._message_delta,
    "message_stop": EventGrammar._message_stop,
    "error": EventGrammar._error,
}
