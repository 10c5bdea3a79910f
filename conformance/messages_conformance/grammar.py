"""The grammar of an event stream of the Messages API: the order of its events, and their forms.

Source: the API reference, "Streaming messages", recorded streams, and the types of the official SDK `anthropic` 2.10,
read 2026-11. No code and no table is shared with a writer of such streams, so that one hides no defect of the other.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from messages_conformance.texts import show_json

Event = Mapping[str, Any]

DELTAS: Mapping[str, tuple[str, str]] = {
    "text_delta": ("text", "text"),
    "citations_delta": ("text", "citation"),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("thinking", "signature"),
    "input_json_delta": ("tool_use", "partial_json"),
}
"""Type of a delta → type of the content block to which it belongs, and name of its field with the content."""
EMPTY_STARTS: Mapping[str, Mapping[str, Any]] = {
    "text": {"text": ""},
    "thinking": {"thinking": "", "signature": ""},
    "tool_use": {"input": {}},
}
"""Block type → required fields of its `content_block_start`."""
CALL_TYPES = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
"""Types of the content blocks with a call of a tool."""
CUTTING_REASONS = frozenset({"max_tokens", "model_context_window_exceeded", "stop_sequence", "refusal", "pause_turn"})
"""Stop reasons after which a tool call may be incomplete, because the reply was cut."""
COUNTS = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
"""Token counts of `usage`."""
_STOP_REASONS = frozenset(
    {"end_turn", "tool_use", "max_tokens", "stop_sequence", "pause_turn", "refusal"}
    | {"model_context_window_exceeded", "compaction"}
)
_ERROR_KINDS = frozenset(
    {"invalid_request_error", "authentication_error", "billing_error", "permission_error", "not_found_error"}
    | {"conflict_error", "request_too_large", "rate_limit_error", "api_error", "overloaded_error", "timeout_error"}
)
_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True)
class Violation:
    """One deviation of a stream from the event order and formats of the Messages API."""

    rule: str
    """Name of the rule: `block-order`."""
    message: str
    """Text with the found and the required value."""
    event: int = 0
    """Number of the event, from 1. 0: the violation concerns the stream."""
    line: int = 0
    """Number of the line with the data of the event, from 1. 0: not read from bytes."""

    def __str__(self) -> str:
        return f"event {self.event}: {self.message}" if self.event else self.message


class EventGrammar:
    """Checker of one event stream, which collects its deviations from the Messages API in `violations`.

    With `requires_json_arguments=False`, tool arguments may be any text, because models sometimes write invalid JSON.
    """

    def __init__(self, *, requires_json_arguments: bool = True) -> None:
        self.violations: list[Violation] = []
        self.event_count = 0
        """Number of events so far."""
        self._requires_json_arguments = requires_json_arguments
        self._line = 0
        """Number of the line with the data of the current event. 0: events are passed decoded, without lines."""
        self._begun = False
        self._end_problems: list[Violation] | None = None
        """What is wrong with the end that the last message_delta names; a later one replaces it, as in SDKs. None:
        there was no message_delta."""
        self._ended = ""
        """Type of the last event of the stream. "": the stream has not ended."""
        self._next_index = 0
        self._open: _OpenBlock | None = None
        self._identifiers: set[str] = set()
        self._call_count = 0
        self._invalid_arguments: list[int] = []
        """Indexes of tool calls with arguments that are no JSON object."""
        self._pieces: list[bytes] = []
        """Of the line that has not ended."""
        self._ended_in_return = False
        """What came ended in a carriage return, behind which a line feed ends no other line."""
        self._lines_read = 0
        self._frame: list[tuple[int, bytes, bytes]] = []
        """Number, field and value of the lines of the frame that has not ended."""

    def feed_bytes(self, data: bytes) -> None:
        """Check the next bytes of the stream. They may begin or end inside an event."""
        if self._ended_in_return:
            data = data.removeprefix(b"\n")
        self._ended_in_return = data.endswith(b"\r")
        first, *lines = _LINE_END.split(data)
        self._pieces.append(first)
        for line in lines:
            self._feed_line(b"".join(self._pieces))
            self._pieces = [line]

    def feed(self, event: Event) -> None:
        self.event_count += 1
        kind = event.get("type")
        if not isinstance(kind, str) or kind not in _CHECKS:
            self._add("event-type", f"{_to_json(kind)} is no event" if kind is not None else "the data has no type")
            return
        if self._ended:
            self._add("event-order", f"{kind} after {self._ended}")
        elif kind in ("ping", "error"):
            _CHECKS[kind](self, event)
        elif kind != "message_start" and not self._begun:
            self._add("event-order", f"{kind} before message_start")
        elif self._end_problems is not None and kind not in ("message_delta", "message_stop"):
            self._add("event-order", f"{kind} after message_delta")
        else:
            _CHECKS[kind](self, event)

    def finish(self) -> list[Violation]:
        """End the stream and return all violations."""
        unfinished = b"".join(self._pieces).rstrip()
        if unfinished or self._frame:
            line = self._lines_read + bool(unfinished)
            self.violations.append(Violation("frame", "the stream ends inside a frame", line=line))
        if not self._ended:
            self.violations += self._end_problems or ()
            problem = "ends without message_stop or error" if self._begun else "has no message_start"
            self.violations.append(Violation("end", f"the stream {problem}", line=self._line))
        return self.violations

    def _add(self, rule: str, message: str) -> None:
        self.violations.append(Violation(rule, message, self.event_count, self._line))

    def _require(self, condition: bool, rule: str, message: str) -> None:
        if not condition:
            self._add(rule, message)

    def _feed_line(self, line: bytes) -> None:
        self._lines_read += 1
        if line:
            field, _, value = line.partition(b":")
            if field in (b"event", b"data"):
                self._frame.append((self._lines_read, field, value.removeprefix(b" ")))
            return
        frame, self._frame = self._frame, []
        values = [value for _, field, value in frame if field == b"data"]
        if values:  # without data, it is no event
            self._line = next(number for number, field, _ in frame if field == b"data")
            names = [value for _, field, value in frame if field == b"event"]
            self._feed_frame(names[-1].decode("utf-8", "replace") if names else "", b"\n".join(values))

    def _feed_frame(self, name: str, data: bytes) -> None:
        problem = "the data is no JSON object"
        try:
            event = json.loads(data.decode("utf-8"))
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            event = None
            problem = f"the data is not valid UTF-8: 0x{byte:02x} at byte {error.start}"
        except (ValueError, RecursionError):
            event = None
        if not isinstance(event, dict):
            self.event_count += 1
            self._add("frame", problem)
            return
        self.feed(event)
        kind = event.get("type")
        if kind is None:
            return  # reported by `feed`
        self._require(
            name == kind, "frame", f"the field event is {_to_json(name)}, the type in the data {_to_json(kind)}"
        )

    def _check_message_start(self, event: Event) -> None:
        self._require(not self._begun, "event-order", "a second message_start")
        self._begun = True
        message = event.get("message")
        if not isinstance(message, dict):
            self._add("message-start", "message_start without a message")
            return
        for field, value in (("type", "message"), ("role", "assistant"), ("content", []), ("stop_reason", None)):
            sent_value = message.get(field, "absent")
            text = f"{field} of the message is {_to_json(sent_value)} instead of {_to_json(value)}"
            self._require(sent_value == value, "message-start", text)
        for field in ("id", "model"):
            is_text = isinstance(message.get(field), str) and message[field] != ""
            self._require(is_text, "message-start", f"the message has no {field}")
        self._check_usage(message.get("usage"), ("input_tokens", "output_tokens"))

    def _check_content_block_start(self, event: Event) -> None:
        index = event.get("index")
        started = event.get("content_block")
        self._require(self._open is None, "block-order", f"block {index} begins inside another")
        is_next = _is_count(index) and index == self._next_index
        self._require(is_next, "block-index", f"index {_to_json(index)} instead of {self._next_index}")
        self._next_index += 1
        if not isinstance(started, dict) or not isinstance(started.get("type"), str):
            self._add("block-start", f"block {index} has no type")
            started = {"type": ""}
        self._open = _OpenBlock(index, started["type"])
        for field, value in EMPTY_STARTS.get(self._open.kind, {}).items():
            sent_value = started.get(field)
            self._require(
                sent_value == value, "block-start", f"block {index} begins with {field} {_to_json(sent_value)}"
            )
        if self._open.kind == "tool_use":
            self._call_count += 1
        if self._open.kind not in CALL_TYPES:
            return
        for field in ("id", "name"):
            is_text = isinstance(started.get(field), str) and started[field] != ""
            self._require(is_text, "tool-call", f"a call without {field}")
        identifier = str(started.get("id"))
        is_new = identifier not in self._identifiers
        self._require(is_new, "tool-call", f"two calls with the id {_to_json(identifier)}")
        self._identifiers.add(identifier)

    def _check_content_block_delta(self, event: Event) -> None:
        block = self._find_open(event)
        delta = event.get("delta")
        if block is None:
            return
        delta_kind = delta.get("type") if isinstance(delta, dict) else None
        if not isinstance(delta, dict) or not isinstance(delta_kind, str) or delta_kind not in DELTAS:
            # blocks that the API adds later may have deltas of their own
            is_new = isinstance(delta_kind, str) and block.kind not in EMPTY_STARTS
            self._require(is_new, "delta", f"{_to_json(delta_kind)} in a {block.kind} block")
            return
        required, field = DELTAS[delta_kind]
        fits = block.kind == required or (required == "tool_use" and block.kind in CALL_TYPES)
        self._require(fits, "delta", f"{delta_kind} in a {block.kind} block")
        value = delta.get(field)
        has_type = isinstance(value, dict if field == "citation" else str)
        self._require(has_type, "delta", f"{delta_kind} with {field} {_to_json(value)}")
        self._require(not block.signed, "signature", f"{delta_kind} after the signature of block {block.index}")
        if delta_kind == "signature_delta":
            block.signed = True
            self._require(value != "", "signature", f"block {block.index} has an empty signature")
        elif delta_kind == "input_json_delta" and isinstance(value, str):
            block.arguments.append(value)

    def _check_content_block_stop(self, event: Event) -> None:
        block = self._find_open(event)
        self._open = None
        if block is not None and block.kind == "thinking":
            self._require(block.signed, "signature", f"thinking block {block.index} is not signed")
        if block is not None and block.kind == "tool_use" and (text := "".join(block.arguments)):
            try:
                arguments = json.loads(text)
            except (ValueError, RecursionError):
                arguments = None
            if not isinstance(arguments, dict):
                self._invalid_arguments.append(block.index)

    def _check_message_delta(self, event: Event) -> None:
        self._require(self._open is None, "block-order", "message_delta while a block is open")
        self._check_usage(event.get("usage"), ("output_tokens",))
        delta = event.get("delta")
        if isinstance(delta, dict):
            found = self._find_end_problems(delta.get("stop_reason"), delta.get("stop_sequence"))
        else:
            found = iter([("stop-reason", "message_delta without a delta")])
        self._end_problems = [Violation(rule, text, self.event_count, self._line) for rule, text in found]

    def _find_end_problems(self, reason: Any, sequence: Any) -> Iterator[tuple[str, str]]:
        """Yield rule and text of what is wrong with the end of the message."""
        if not isinstance(reason, str) or reason not in _STOP_REASONS:
            yield "stop-reason", f"stop_reason {_to_json(reason)}"
        if (reason == "stop_sequence") != isinstance(sequence, str):
            yield "stop-reason", f"{reason} with stop_sequence {_to_json(sequence)}"
        if reason == "tool_use" and not self._call_count:
            yield "stop-reason", "stop_reason tool_use without a call"
        if reason == "end_turn" and self._call_count:
            yield "stop-reason", "stop_reason end_turn although there is a call"
        for index in self._invalid_arguments if self._requires_json_arguments else []:
            cut = isinstance(reason, str) and reason in CUTTING_REASONS and index == self._next_index - 1
            if not cut:
                yield "tool-arguments", f"the arguments of block {index} are no JSON object"

    def _check_message_stop(self, event: Event) -> None:
        self._require(self._end_problems is not None, "event-order", "message_stop without message_delta")
        self.violations += self._end_problems or ()
        self._ended = "message_stop"

    def _check_ping(self, event: Event) -> None:
        """Accept it: pings come anywhere before the end."""

    def _check_error(self, event: Event) -> None:
        self._ended = "error"
        error = event.get("error")
        if not isinstance(error, dict):
            self._add("error", "error without an error")
            return
        kind = error.get("type")
        is_known = isinstance(kind, str) and kind in _ERROR_KINDS
        self._require(is_known, "error", f"error of the type {_to_json(kind)}")
        self._require(isinstance(error.get("message"), str), "error", "error without a message")

    def _check_usage(self, usage: Any, required: Iterable[str]) -> None:
        if not isinstance(usage, dict):
            self._add("usage", "usage is missing")
            return
        for field in required:
            self._require(usage.get(field) is not None, "usage", f"usage without {field}")
        for field in COUNTS:
            count = usage.get(field)
            self._require(count is None or _is_count(count), "usage", f"{field} is {_to_json(count)}")

    def _find_open(self, event: Event) -> "_OpenBlock | None":
        block = self._open
        index = event.get("index")
        if block is None:
            self._add("block-order", f"{event['type']} while no block is open")
        else:
            self._require(index == block.index, "block-index", f"index {_to_json(index)}, but {block.index} is open")
        return block


_CHECKS: Mapping[str, Callable[[EventGrammar, Event], None]] = {
    "message_start": EventGrammar._check_message_start,
    "content_block_start": EventGrammar._check_content_block_start,
    "content_block_delta": EventGrammar._check_content_block_delta,
    "content_block_stop": EventGrammar._check_content_block_stop,
    "message_delta": EventGrammar._check_message_delta,
    "message_stop": EventGrammar._check_message_stop,
    "error": EventGrammar._check_error,
    "ping": EventGrammar._check_ping,
}
"""Type of an event → the check of its content and place."""


class _OpenBlock:
    def __init__(self, index: Any, kind: str) -> None:
        self.index = index
        self.kind = kind
        self.signed = False
        self.arguments: list[str] = []


def _to_json(value: Any) -> str:
    """Return a value for a message as JSON, because streams contain JSON. A long value is shortened."""
    return show_json(value, 100)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
