"""`MessageWriter`: converts the deltas of a reply (its decoded pieces) to events of the Messages API.

Theory of operation. Upstreams interleave text and several tool calls, but a stream to the client has at most one open
content block. The state of the writer is the kind of the open block, or none, and the table `_RULES` at the end of this
file has the rule for each delta in each state. While a tool call is open, the deltas of other blocks are queued; they
are written when the call ends, so that no upstream can cause an invalid stream. Every other change of state closes the
open block. A delta that no correct decoder sends, such as arguments of an unknown call, raises `InternalError`.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from msgspec import UNSET, Struct, structs

from anthropic_proxy.engine.messages.call_states import HiddenThinking
from anthropic_proxy.engine.messages.deltas import (
    CHARACTERS_PER_TOKEN,
    NO_USAGE,
    BilledUsage,
    Block,
    Citation,
    Delta,
    Iteration,
    Stop,
    Text,
    TextEnd,
    Thinking,
    ToolArgs,
    ToolCall,
    ToolEnd,
    Usage,
    clamp_count,
    merge_latest,
    merge_stops,
    sum_usages,
)
from anthropic_proxy.engine.messages.events import (
    BlockStop,
    CitationDelta,
    ErrorEvent,
    Event,
    InputDelta,
    MessageDelta,
    MessageStart,
    MessageStop,
    SignatureDelta,
    TextDelta,
    TextStart,
    ThinkingDelta,
    ThinkingStart,
    ToolCallStart,
    block_events,
    replace_surrogates,
)
from anthropic_proxy.engine.messages.models import MessagesResponse, UsageBody
from anthropic_proxy.engine.messages.models.tool_arguments import build_arguments_object
from anthropic_proxy.engine.messages.server_tools import NO_COUNTS, USAGE_COUNTERS, read_counts
from anthropic_proxy.errors import InternalError, ProxyError, UpstreamProtocolError

KEEP_ALIVE_SIGNATURE = "px1.ka.e30"
"""Signature of a thinking block that `keep_alive` opened. The proxy removes such blocks from later requests."""

_NONE, _TEXT, _THINKING, _CALL = range(4)
_KINDS = ("text", "text", "thinking", "tool call")
MAX_MARKS = 101
"""Maximum number of rows in `MessageWriter.marks`. The ledger stores 100 blocks, and one more row marks the end
of the last."""
MAX_REPLY_CHARACTERS = 64 * 1024 * 1024
"""Maximum number of characters of one reply in memory. The limit applies to the queue, and to a reply without
streaming."""


def require_bounded_reply(characters: int) -> None:
    """Raise `UpstreamProtocolError` if `characters`, the length of a reply, is above `MAX_REPLY_CHARACTERS`."""
    if characters > MAX_REPLY_CHARACTERS:
        raise UpstreamProtocolError(
            f"the reply is larger than {MAX_REPLY_CHARACTERS >> 20} MiB", retryable=False, code="reply-too-large"
        )


class _QueuedCall(Struct):
    call: ToolCall
    arguments: list[ToolArgs] = []  # a struct copies it
    ended: bool = False


class MessageWriter:
    """Converts the deltas of one reply to the events that the client receives.

    Call `start` once, then `feed` repeatedly, and at the end `finish` or `fail`.
    """

    started = False
    finished = False
    calls = 0
    stop: Stop | None = None
    """`Stop` delta of the upstream reply that counts. None: not received yet."""
    usage = NO_USAGE
    """Usage of the running call that the upstream reported so far. `running` estimates missing counts."""
    estimate = 0
    """Estimated input tokens, used if the upstream reports none. It may change after `start`."""
    applied_edits: list[dict[str, Any]] | None = None
    """Edits of the conversation, which the client is told at the end. None: it requested none."""
    summaries: list[Iteration] | None = None
    """Calls for summaries, of which the client is told apart from the reply. None: it requested no summary."""
    is_summary = False
    """True if the reply is a summary of the conversation or nothing, so that it has no call of its own."""
    _final: BilledUsage | None = None
    """Final value of `running`."""
    _told: BilledUsage | None = None
    """That of `counts`."""
    characters = 0
    """Number of characters so far: text, thinking, and names and arguments of tool calls."""
    _earlier_characters = 0
    """Those of the ended calls."""
    _state = _NONE
    _index = 0  # of the open block, or of the next
    _filled = False  # True if the open thinking block or call has content
    _key: int | str = 0  # of the open call
    queued_characters = 0  # that were ever queued
    _queued_end = 0  # index behind the blocks that the queue becomes; it counts no thinking
    _queues_text = False  # True if the last of these blocks is a text that more text continues

    def __init__(
        self,
        *,
        message_id: str,
        model: str,
        signature: str,
        clock: Callable[[], float] | None = None,
        hidden: HiddenThinking | None = None,
    ) -> None:
        """`clock`: that for the times in `marks`. None: `marks` stays empty. `hidden`: gets the thinking in place of
        the client. None: the client gets it.
        """
        self.message_id = message_id
        self.model = model
        self.signature = signature
        """Signature for thinking blocks that the upstream did not sign. It changes if the reply comes from another API
        than expected."""
        self._clock = clock
        self._hidden = hidden
        self._rules = _RULES if hidden is None else _HIDING_RULES
        self.marks: list[tuple[str, str, float, int]] = []
        """Rows: kind of a content block, tool name, start time, number of characters before it. The kind "" marks the
        end of the reply. At most `MAX_MARKS` rows are kept."""
        self._events: list[Event] = []
        self._held: list[str] = []  # arguments of the open call that do not begin an object
        self._keys: set[int | str] = set()
        self._queue: deque[Delta | _QueuedCall] = deque()
        self._queued_calls: dict[int | str, _QueuedCall] = {}

    @property
    def stop_reason(self) -> str | None:
        """Stop reason for the client. None: no `Stop` so far.

        Some upstreams send `end_turn` after tool calls, or `tool_use` without a call. Both are corrected.
        """
        if self.stop is None:
            return None
        reason = self.stop.reason
        if reason == "end_turn" and self.calls:
            return "tool_use"
        if reason == "tool_use" and not (self.calls or self.is_summary):
            return "end_turn"
        return reason

    @property
    def call_characters(self) -> int:
        """Those of the running call."""
        return self.characters - self._earlier_characters

    @property
    def counts(self) -> BilledUsage:
        """Token counts of the reply so far, as the client is told: those of the running call and of the ended ones."""
        if self._told is not None:
            return self._told
        earlier = self.usage.earlier
        if earlier is None:
            return self.running
        counts = BilledUsage()
        counts.copy_usage(self.running)
        counts.add_usage(earlier)
        if self.usage.input_tokens is None:
            counts.input_tokens += self.estimate
        return counts

    @property
    def running(self) -> BilledUsage:
        """Token counts of the running call so far. Counts that the upstream did not report are estimated, except the
        input of a call that is not the first.
        """
        if self._final is not None:
            return self._final
        usage = self.usage
        output = usage.output_tokens
        # a report that precedes the end of the reply is partial, so the output is at least its estimate
        if output is None or self.stop is None or self.stop.reason == "stop_sequence":
            output = max(output or 0, -(-(self.characters - self._earlier_characters) // CHARACTERS_PER_TOKEN))
        counts = BilledUsage(output_tokens=clamp_count(output), service_tier=usage.billed_tier or "")
        if cached := usage.cache_read_tokens:
            counts.cache_read_tokens = clamp_count(cached)
        if written := usage.cache_write_tokens:
            counts.cache_write_tokens = clamp_count(written)
            counts.cache_write_1h_tokens = min(clamp_count(usage.cache_write_1h_tokens), counts.cache_write_tokens)
        if thinking := usage.thinking_tokens:
            counts.thinking_tokens = min(clamp_count(thinking), counts.output_tokens)
        if searches := usage.billed_searches:
            counts.billed_searches = clamp_count(searches)
        if cost := usage.stated_cost:
            counts.stated_cost = clamp_count(cost)
        if usage.region:
            counts.region = usage.region
        if (tokens := usage.input_tokens) is None:
            estimate = self.estimate if usage.earlier is None else 0
            tokens = estimate - counts.cache_read_tokens - counts.cache_write_tokens
        counts.input_tokens = clamp_count(tokens)
        return counts

    def start(self, estimate: int) -> list[Event]:
        """Return `message_start`. `estimate`: estimated input tokens. A second call raises `InternalError`."""
        if self.started:
            raise InternalError("The message was started twice.")
        self.started = True
        self.estimate = max(estimate, 0)
        usage = UsageBody(input_tokens=self.estimate, output_tokens_details={"thinking_tokens": 0})
        message = MessagesResponse(id=self.message_id, model=self.model, content=[], stop_reason=None, usage=usage)
        return [MessageStart(message)]

    def skip_start(self) -> None:
        """Take the place of `start` if the client gets one message, so that nobody reads `message_start`."""
        self.started = True

    def take_usage(self, usage: Usage) -> None:
        """Take the usage of a whole reply that the client gets without this writer."""
        self.usage = usage
        self._final = self._told = self.running

    def feed(self, deltas: Iterable[Delta]) -> list[Event]:
        """Return the events for the deltas of one network read. Deltas that cannot be written yet are queued.

        The events follow those of `start`, which may be called afterwards.
        """
        if self.finished:
            self._require_open()
        for delta in deltas:
            self._rules[type(delta)][self._state](self, delta)
        events, self._events = self._events, []
        return events

    def keep_alive(self) -> list[Event]:
        """Return events without content, which keep the client's connection open."""
        # pings do not suffice: clients time out after ten minutes of pings alone
        self._require_open()
        if self._state == _TEXT:
            return [TextDelta(self._index, "")]
        if self._state == _CALL:
            return [InputDelta(self._index, "")]
        empty: Event
        if self._hidden is not None:
            self._open(_TEXT, TextStart)
            empty = TextDelta(self._index, "")
        else:
            if self._state == _NONE:
                self._open(_THINKING, ThinkingStart)
            empty = ThinkingDelta(self._index, "")
        events = [*self._events, empty]
        self._events = []
        return events

    def finish(self) -> list[Event]:
        """Return the last events: end of the open block, queued deltas, `message_delta` and `message_stop`.

        Raises `UpstreamProtocolError` if the upstream sent no end of the reply (`Stop`).
        """
        if not self.started or self.finished:
            self._require_open()
        reason = self.stop_reason
        if self.stop is None or reason is None:
            raise UpstreamProtocolError("The provider's reply ended before it was complete.", code="incomplete-reply")
        self._close()
        while self._queue:
            self._write_queued()
            self._close()
        self._mark("")
        usage = self.usage
        running = counts = self.running
        if usage.earlier is not None:
            usage, counts = sum_usages(usage.earlier, usage), self.counts
        totals = UsageBody(
            input_tokens=counts.input_tokens,
            cache_creation_input_tokens=counts.cache_write_tokens,
            cache_read_input_tokens=counts.cache_read_tokens,
            output_tokens=counts.output_tokens,
            output_tokens_details={"thinking_tokens": counts.thinking_tokens},
            service_tier=UNSET if usage.service_tier is None else usage.service_tier,
        )
        if usage.cache_write_1h_tokens is not None:
            long = counts.cache_write_1h_tokens
            short = counts.cache_write_tokens - long
            totals.cache_creation = {"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": long}
        if (tool_counts := read_counts(usage)) != NO_COUNTS:
            totals.server_tool_use = dict(zip(USAGE_COUNTERS, map(clamp_count, tool_counts), strict=True))
        if self.summaries is not None:
            of_reply = [] if self.is_summary else [Iteration.from_counts("message", counts)]
            totals.iterations = [*map(describe_call, (*self.summaries, *of_reply))]
        self._final, self._told = running, counts
        self.finished = True
        events, self._events = self._events, []
        ending = MessageDelta(reason, self.stop.sequence, self.stop.details, totals, None, self.applied_edits)
        return [*events, ending, MessageStop()]

    def fail(self, error: ProxyError) -> list[Event]:
        """Return the error event that ends the reply after a failure. Empty list: the reply has already ended."""
        if self.finished:
            return []
        self.finished = True
        return [ErrorEvent(error)]

    def _require_open(self) -> None:
        if not self.started:
            raise InternalError("The message was written before it was started.")
        if self.finished:
            raise InternalError("The message was written after its end.")

    def _open(self, state: int, start: Callable[[int], Event], name: str = "") -> None:
        if self._state != _NONE:
            self._close()
        self._state = state
        self._filled = False
        self._events.append(start(self._index))
        self._mark(_KINDS[state], name)

    def _mark(self, kind: str, name: str = "") -> None:
        if self._clock is not None and len(self.marks) < MAX_MARKS:
            self.marks.append((kind, name, self._clock(), self.characters))

    def _close(self, signature: str = "") -> None:
        if self._state == _NONE:
            return
        if self._state == _THINKING:
            signature = signature or (self.signature if self._filled else KEEP_ALIVE_SIGNATURE)
            self._events.append(SignatureDelta(self._index, signature))
        elif self._state == _CALL and not self._filled:
            text = replace_surrogates("".join(self._held))
            self._held = []
            self._events.append(InputDelta(self._index, str(build_arguments_object(text), "utf-8")))
        self._events.append(BlockStop(self._index))
        self._index += 1
        self._state = _NONE

    def _write_queued(self) -> None:
        """Write the queued deltas, until the queue is empty or an incomplete tool call is open."""
        while self._queue and self._state != _CALL:
            item = self._queue.popleft()
            if not isinstance(item, _QueuedCall):
                self._rules[type(item)][self._state](self, item)
                continue
            del self._queued_calls[item.call.key]
            self._write_call(item.call)
            for arguments in item.arguments:
                self._write_arguments(arguments)
            if item.ended:
                self._close()

    def _count_queued(self, characters: int) -> None:
        self.queued_characters += characters
        require_bounded_reply(self.queued_characters)

    def _find_queued(self, delta: ToolArgs | ToolEnd) -> _QueuedCall:
        queued = self._queued_calls.get(delta.key)
        if queued is None or queued.ended:
            self._reject(delta)
        return queued

    # The rules of the table.

    def _drop(self, _: Delta) -> None:
        pass

    def _enqueue(self, delta: Text | TextEnd | Thinking | Citation | Block) -> None:
        if not isinstance(delta, TextEnd):
            self._count_queued(len(delta.raw if isinstance(delta, Citation | Block) else delta.text))
        if not self._queue:
            self._queued_end, self._queues_text = self._next_place, False
        if isinstance(delta, Block):
            self._begin_queued_block()
        elif isinstance(delta, TextEnd):
            self._queues_text = False
        elif isinstance(delta, Text) and delta.text and not self._queues_text:
            self._begin_queued_block(is_text=True)
        self._queue.append(delta)

    def _begin_queued_block(self, *, is_text: bool = False) -> None:
        self._queued_end = self._next_place + 1
        self._queues_text = is_text

    def _reject(self, delta: ToolArgs | ToolEnd) -> NoReturn:
        raise InternalError(f"A tool call was continued that is not open: key {delta.key!r}.")

    def _open_text(self, delta: Text) -> None:
        if delta.text:
            self._open(_TEXT, TextStart)
            self._write_text(delta)

    def _write_text(self, delta: Text) -> None:
        text = delta.text
        if text:
            self.characters += len(text)
            self._events.append(TextDelta(self._index, text))

    def _end_text(self, _: TextEnd) -> None:
        self._close()

    def _write_citation(self, delta: Citation) -> None:
        self._events.append(CitationDelta(self._index, delta.raw))

    def _open_thinking(self, delta: Thinking) -> None:
        if delta.text or delta.signature:
            self._open(_THINKING, ThinkingStart)
            self._write_thinking(delta)

    def _write_thinking(self, delta: Thinking) -> None:
        if delta.text:
            self._filled = True
            self.characters += len(delta.text)
            self._events.append(ThinkingDelta(self._index, delta.text))
        if delta.signature:
            self._close(delta.signature)

    def _hide_thinking(self, delta: Thinking) -> None:
        assert self._hidden is not None
        if self._state == _NONE and (not self.marks or self.marks[-1][0] != "thinking"):
            self._mark("thinking")
        self.characters += len(delta.text)
        self._hidden.add(delta, self._next_place)

    def _open_call_with_state(self, delta: ToolCall) -> None:
        self._open_call(self._add_state(delta))

    def _enqueue_call_with_state(self, delta: ToolCall) -> None:
        self._enqueue_call(self._add_state(delta))

    def _add_state(self, call: ToolCall) -> ToolCall:
        assert self._hidden is not None
        call_id = self._hidden.assign_id(call.id, self._next_place, self.signature)
        return call if call_id == call.id else structs.replace(call, id=call_id)

    @property
    def _next_place(self) -> int:
        """Index of a block that begins now. The queue has no thinking."""
        return self._queued_end if self._queue else self._index + (self._state != _NONE)

    def _claim_key(self, call: ToolCall) -> None:
        if call.key in self._keys:
            raise InternalError(f"Two tool calls of one message have the same key: {call.key!r}.")
        self._keys.add(call.key)
        self.calls += 1

    def _open_call(self, delta: ToolCall) -> None:
        self._claim_key(delta)
        self._write_call(delta)

    def _write_call(self, call: ToolCall) -> None:
        self._open(_CALL, lambda index: ToolCallStart(index, call.id, call.name), call.name)
        self._key = call.key
        self.characters += len(call.name)

    def _enqueue_call(self, delta: ToolCall) -> None:
        self._claim_key(delta)
        self._count_queued(len(delta.name))
        self._begin_queued_block()
        queued = self._queued_calls[delta.key] = _QueuedCall(delta)
        self._queue.append(queued)

    def _write_arguments(self, delta: ToolArgs) -> None:
        json = delta.json
        if delta.key != self._key:
            queued = self._find_queued(delta)
            self._count_queued(len(json))
            queued.arguments.append(delta)
        elif json and (self._filled or self._held or not json.isspace()):
            # The official SDKs decode the arguments at each delta and fail if the first is white space only.
            self.characters += len(json)
            if not self._filled:
                # Clients send arguments that are no object back as they are, and no provider accepts them.
                if self._held or not json.lstrip().startswith("{"):
                    self._count_queued(len(json))
                    self._held.append(json)
                    return
                self._filled = True
            self._events.append(InputDelta(self._index, json))

    def _end_call(self, delta: ToolEnd) -> None:
        if delta.key != self._key:
            self._find_queued(delta).ended = True
            return
        self._close()
        self._write_queued()

    def _write_block(self, delta: Block) -> None:
        self._close()
        self._events += block_events(self._index, delta.raw)
        self._index += 1
        self._mark("server tool")

    def _store_usage(self, delta: Usage) -> None:
        if delta.earlier is not None and delta.earlier is not self.usage.earlier:
            self._earlier_characters = self.characters
        self.usage = merge_latest(self.usage, delta)

    def _store_stop(self, delta: Stop) -> None:
        self.stop = merge_stops(self.stop, delta)


def describe_call(call: Iteration) -> dict[str, Any]:
    return {
        "type": call.kind,
        "input_tokens": call.input_tokens,
        "cache_creation_input_tokens": call.cache_write_tokens,
        "cache_read_input_tokens": call.cache_read_tokens,
        "output_tokens": call.output_tokens,
    }


_Rule = Callable[[MessageWriter, Any], None]
_W = MessageWriter

_RULES: Mapping[type, tuple[_Rule, _Rule, _Rule, _Rule]] = {
    # first block: none             text                thinking            tool call, open
    Text: (_W._open_text, _W._write_text, _W._open_text, _W._enqueue),
    TextEnd: (_W._drop, _W._end_text, _W._drop, _W._enqueue),
    Citation: (_W._drop, _W._write_citation, _W._drop, _W._enqueue),
    Thinking: (_W._open_thinking, _W._open_thinking, _W._write_thinking, _W._enqueue),
    ToolCall: (_W._open_call, _W._open_call, _W._open_call, _W._enqueue_call),
    ToolArgs: (_W._reject, _W._reject, _W._reject, _W._write_arguments),
    ToolEnd: (_W._reject, _W._reject, _W._reject, _W._end_call),
    Block: (_W._write_block, _W._write_block, _W._write_block, _W._enqueue),
    Usage: (_W._store_usage, _W._store_usage, _W._store_usage, _W._store_usage),
    Stop: (_W._store_stop, _W._store_stop, _W._store_stop, _W._store_stop),
}
_HIDING_RULES: Mapping[type, tuple[_Rule, _Rule, _Rule, _Rule]] = {
    **_RULES,
    Thinking: (_W._hide_thinking, _W._hide_thinking, _W._hide_thinking, _W._hide_thinking),
    ToolCall: (
        *(_W._open_call_with_state, _W._open_call_with_state, _W._open_call_with_state),
        _W._enqueue_call_with_state,
    ),
}
"""Rules of a reply whose client gets no thinking. It has no open thinking."""
