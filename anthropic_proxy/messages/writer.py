"""`MessageWriter`: deltas in, Anthropic's events out; the only owner of block state.

A stream may have one block open at a time, but an upstream may say things at once: arguments of several calls in turn,
text between them. The writer therefore keeps an order: the first block is being written; what cannot be written yet
waits, as the deltas it was, and is taken up again when the open call ends. The table at the end of this file says what
each delta does in each state.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import msgspec

from anthropic_proxy.errors import InternalError, ProxyError, UpstreamProtocolError
from anthropic_proxy.messages.deltas import (
    Block,
    Citation,
    Delta,
    Stop,
    Text,
    Thinking,
    ToolArgs,
    ToolCall,
    ToolEnd,
    Usage,
)
from anthropic_proxy.messages.events import (
    BlockStop,
    CallStart,
    CitationDelta,
    Event,
    Failure,
    InputDelta,
    MessageDelta,
    MessageStart,
    MessageStop,
    SignatureDelta,
    TextDelta,
    TextStart,
    ThinkingDelta,
    ThinkingStart,
    Totals,
    spell_block,
)
from anthropic_proxy.messages.types import MessagesResponse, UsageBody
from anthropic_proxy.messages.usage import count_totals, with_later

KEEP_ALIVE_SIGNATURE = "px1.ka.e30"
"""Signs a thinking block that only `keep_alive` opened; always dropped on the way in."""

_NONE, _TEXT, _THINKING, _CALL = range(4)


class _WaitingCall(msgspec.Struct):
    """A call that has begun upstream while another is being written."""

    call: ToolCall
    arguments: list[ToolArgs] = []  # a struct copies it
    ended: bool = False


class MessageWriter:
    """Writes one reply: `start` once, `feed` and `keep_alive` as often as needed, then `finish` or `fail`.

    Each method gives the events to send now. Nothing here reads a clock, invents an identifier or does I/O. A call out
    of turn (`feed` before `start`, anything after the end) is our own bug and raises `InternalError`; after any raise
    only `fail` may follow, because the events of that call were never given.
    """

    def __init__(self, *, message_id: str, model: str, signature: str) -> None:
        self.message_id = message_id
        self.model = model
        """The name that the client asked for."""
        self.signature = signature
        """Signs our thinking blocks where the upstream gave nothing to carry. May be set anew when an attempt succeeds
        on another wire than the one that was expected at the start."""
        self.started = False
        self.finished = False
        """Whether `message_stop` or an error was written."""
        self.calls = 0
        """Tool calls begun so far, waiting ones included."""
        self.stop: Stop | None = None
        """What the upstream gave as its end; the first one counts."""
        self.usage = Usage()
        """What the upstream said of its cost so far; `totals` fills the gaps."""
        self.estimate = 0
        """The input in tokens, as `start` was told; counts where the upstream never says. May be set anew."""
        self._final: Totals | None = None
        """What the message has cost in the end, once that was said."""
        self._characters = 0
        self._events: list[Event] = []
        self._state = _NONE
        self._index = 0  # of the open block, or of the next
        self._filled = False  # whether the open thinking block or call holds anything
        self._key: int | str = 0  # of the open call
        self._keys: set[int | str] = set()
        self._waiting: deque[Delta | _WaitingCall] = deque()
        self._waiting_calls: dict[int | str, _WaitingCall] = {}

    @property
    def stop_reason(self) -> str | None:
        """Why the reply ended, in the words that the client reads; None: the upstream has not said.

        Some upstreams call an answer with tool calls an ordinary end, and some say `tool_use` without a call.
        """
        if self.stop is None:
            return None
        reason = self.stop.reason
        if reason == "end_turn" and self.calls:
            return "tool_use"
        if reason == "tool_use" and not self.calls:
            return "end_turn"
        return reason

    @property
    def totals(self) -> Totals:
        """What the message has cost so far, in tokens; gaps filled from the estimate and from what was written."""
        if self._final is not None:
            return self._final
        cut = self.stop is not None and self.stop.reason == "stop_sequence"
        return count_totals(self.usage, estimate=self.estimate, characters=self._characters, cut=cut)

    def start(self, estimate: int) -> list[Event]:
        """Begin the message; `estimate` is the input in tokens, as far as it can be known before the upstream says."""
        if self.started:
            raise InternalError("The message was started twice.")
        self.started = True
        self.estimate = max(estimate, 0)
        usage = UsageBody(input_tokens=self.estimate)
        message = MessagesResponse(id=self.message_id, model=self.model, content=[], stop_reason=None, usage=usage)
        return [MessageStart(message)]

    def feed(self, deltas: Iterable[Delta]) -> list[Event]:
        """Write what one network read brought."""
        if not self.started or self.finished:
            self._expect_open()
        for delta in deltas:
            _RULES[type(delta)][self._state](self, delta)
        events, self._events = self._events, []
        return events

    def keep_alive(self) -> list[Event]:
        """Write something that says nothing into the open block, or open a thinking block for it.

        Pings alone do not hold a client for longer than ten minutes; a delta in an open block does.
        """
        self._expect_open()
        if self._state == _TEXT:
            return [TextDelta(self._index, "")]
        if self._state == _CALL:
            return [InputDelta(self._index, "")]
        if self._state == _NONE:
            self._open(_THINKING, ThinkingStart)
        self._events.append(ThinkingDelta(self._index, ""))
        return self._take_events()

    def finish(self) -> list[Event]:
        """Close what is open, write what waited, say why the reply ended and what it cost.

        Raises `UpstreamProtocolError` without a `Stop`: silence is not success.
        """
        self._expect_open()
        reason = self.stop_reason
        if self.stop is None or reason is None:
            raise UpstreamProtocolError("The provider's answer ended without saying that it is complete.")
        self._close()
        while self._waiting:
            self._release()
            self._close()
        self._final = self.totals
        self._events += [MessageDelta(reason, self.stop.sequence, self.stop.details, self._final), MessageStop()]
        self.finished = True
        return self._take_events()

    def fail(self, error: ProxyError) -> list[Event]:
        """End the reply with an error; nothing at all where it has ended already."""
        if self.finished:
            return []
        self.finished = True
        return [Failure(error)]

    def _expect_open(self) -> None:
        if not self.started:
            raise InternalError("The message was written before it was started.")
        if self.finished:
            raise InternalError("The message was written after its end.")

    def _take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _open(self, state: int, start: Callable[[int], Event]) -> None:
        self._close()
        self._state = state
        self._filled = False
        self._events.append(start(self._index))

    def _close(self, signature: str = "") -> None:
        if self._state == _NONE:
            return
        if self._state == _THINKING:
            signature = signature or (self.signature if self._filled else KEEP_ALIVE_SIGNATURE)
            self._events.append(SignatureDelta(self._index, signature))
        elif self._state == _CALL and not self._filled:
            self._events.append(InputDelta(self._index, "{}"))
        self._events.append(BlockStop(self._index))
        self._index += 1
        self._state = _NONE

    def _release(self) -> None:
        """Take up what waited, until a call is open that has not ended."""
        while self._waiting and self._state != _CALL:
            item = self._waiting.popleft()
            if not isinstance(item, _WaitingCall):
                _RULES[type(item)][self._state](self, item)
                continue
            del self._waiting_calls[item.call.key]
            self._write_call(item.call)
            for arguments in item.arguments:
                self._write_arguments(arguments)
            if item.ended:
                self._close()

    def _find_waiting(self, delta: ToolArgs | ToolEnd) -> _WaitingCall:
        waiting = self._waiting_calls.get(delta.key)
        if waiting is None or waiting.ended:
            self._refuse(delta)
        return waiting

    # The rules. Each is one verb of the table.

    def _drop(self, _: Delta) -> None:
        pass

    def _wait(self, delta: Delta) -> None:
        self._waiting.append(delta)

    def _refuse(self, delta: ToolArgs | ToolEnd) -> NoReturn:
        raise InternalError(f"A tool call was continued that is not open: key {delta.key!r}.")

    def _open_text(self, delta: Text) -> None:
        if delta.text:
            self._open(_TEXT, TextStart)
            self._write_text(delta)

    def _write_text(self, delta: Text) -> None:
        text = delta.text
        if text:
            self._characters += len(text)
            self._events.append(TextDelta(self._index, text))

    def _write_citation(self, delta: Citation) -> None:
        self._events.append(CitationDelta(self._index, delta.raw))

    def _open_thinking(self, delta: Thinking) -> None:
        if delta.text or delta.signature:
            self._open(_THINKING, ThinkingStart)
            self._write_thinking(delta)

    def _write_thinking(self, delta: Thinking) -> None:
        if delta.text:
            self._filled = True
            self._characters += len(delta.text)
            self._events.append(ThinkingDelta(self._index, delta.text))
        if delta.signature:
            self._close(delta.signature)

    def _claim_key(self, call: ToolCall) -> None:
        if call.key in self._keys:
            raise InternalError(f"Two tool calls of one message have the same key: {call.key!r}.")
        self._keys.add(call.key)
        self.calls += 1

    def _open_call(self, delta: ToolCall) -> None:
        self._claim_key(delta)
        self._write_call(delta)

    def _write_call(self, call: ToolCall) -> None:
        self._open(_CALL, lambda index: CallStart(index, call.id, call.name))
        self._key = call.key
        self._characters += len(call.name)

    def _wait_call(self, delta: ToolCall) -> None:
        self._claim_key(delta)
        waiting = self._waiting_calls[delta.key] = _WaitingCall(delta)
        self._waiting.append(waiting)

    def _write_arguments(self, delta: ToolArgs) -> None:
        json = delta.json
        if delta.key != self._key:
            self._find_waiting(delta).arguments.append(delta)
        elif json and (self._filled or not json.isspace()):
            # The official SDKs read the arguments at each delta and fail where the first is white space alone.
            self._filled = True
            self._characters += len(json)
            self._events.append(InputDelta(self._index, json))

    def _end_call(self, delta: ToolEnd) -> None:
        if delta.key != self._key:
            self._find_waiting(delta).ended = True
            return
        self._close()
        self._release()

    def _write_block(self, delta: Block) -> None:
        self._close()
        self._events += spell_block(self._index, delta.raw)
        self._index += 1

    def _remember_usage(self, delta: Usage) -> None:
        self.usage = with_later(self.usage, delta)

    def _remember_stop(self, delta: Stop) -> None:
        if self.stop is None:
            self.stop = delta


_Rule = Callable[[MessageWriter, Any], None]
_W = MessageWriter

_RULES: Mapping[type, tuple[_Rule, _Rule, _Rule, _Rule]] = {
    # first block: none             text                thinking            tool call, open
    Text: (_W._open_text, _W._write_text, _W._open_text, _W._wait),
    Citation: (_W._drop, _W._write_citation, _W._drop, _W._wait),
    Thinking: (_W._open_thinking, _W._open_thinking, _W._write_thinking, _W._wait),
    ToolCall: (_W._open_call, _W._open_call, _W._open_call, _W._wait_call),
    ToolArgs: (_W._refuse, _W._refuse, _W._refuse, _W._write_arguments),
    ToolEnd: (_W._refuse, _W._refuse, _W._refuse, _W._end_call),
    Block: (_W._write_block, _W._write_block, _W._write_block, _W._wait),
    Usage: (_W._remember_usage, _W._remember_usage, _W._remember_usage, _W._remember_usage),
    Stop: (_W._remember_stop, _W._remember_stop, _W._remember_stop, _W._remember_stop),
}
