"""Answers of Responses, streamed or whole → deltas."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from anthropic_proxy.errors import UpstreamProtocolError
from anthropic_proxy.messages.deltas import Delta, Text, Thinking
from anthropic_proxy.wire.carry import bare_signature, encode_carry
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.late_thinking import LateThinking
from anthropic_proxy.wire.mending import UNREADABLE, FrameMender, decode_mended, mend_json
from anthropic_proxy.wire.openai_responses.calls import CallReader, OpenCall
from anthropic_proxy.wire.openai_responses.dialect import Dialect
from anthropic_proxy.wire.openai_responses.events import (
    Counts,
    Event,
    Item,
    Part,
    Response,
    decode_event,
    decode_item,
    decode_or_mend,
    decode_response,
    decode_sound_event,
    is_said,
)
from anthropic_proxy.wire.openai_responses.faults import find_reply, judge_fault, read_failure
from anthropic_proxy.wire.openai_responses.hosted import HOSTED, Hosted
from anthropic_proxy.wire.openai_responses.in_words import item_in_words
from anthropic_proxy.wire.openai_responses.limit import LocalLimit
from anthropic_proxy.wire.openai_responses.said import Said
from anthropic_proxy.wire.openai_responses.search import Search
from anthropic_proxy.wire.openai_responses.stops import find_stop
from anthropic_proxy.wire.openai_responses.thoughts import Thoughts, find_carry
from anthropic_proxy.wire.openai_responses.usage import decode_usage

_DONE = b"[DONE]"
_CALLS = ("function_call", "custom_tool_call")
_TEXT = ("text", 0)  # no index: parts of a text follow each other without a paragraph between
_PARAGRAPH = "\n\n"


class ResponsesDecoder:
    """Reads one answer. Items are known by their place in the output: some gateways change ids between events."""

    def __init__(self, call: Call) -> None:
        dialect: Dialect = call.dialect
        self._call = call
        self._tag = dialect.carry_tag
        self.signature = bare_signature(dialect.carry_tag)
        """Signs thinking that came without anything to carry."""
        self.finished = False
        """Whether the last frame has come."""
        asked = call.request.max_tokens
        self._limit = LocalLimit(asked) if asked < dialect.least_output else None
        self._calls = CallReader(call)
        self._search = Search(call)
        self._thoughts = Thoughts(self.signature)
        self._late = LateThinking()
        self._mender = FrameMender()
        self._items: dict[int, Said] = {}
        self._complete_items = 0
        self._last = 0
        """The place of the item of the last event, for those that do not say it."""
        self._spoken: int | None = None
        """The place of the item that said the last text; None: something else was said since."""
        self._refusal = ""
        self._stopped = False

    def decode_frame(self, frame: bytes) -> list[Delta]:
        """Read one data field. Raises `UpstreamError` where it is an error or no JSON."""
        if frame == _DONE:
            self.finished = True
            return []
        try:
            event = decode_sound_event(frame)
        except UNREADABLE:
            event = self._decode(decode_event, frame, self._mender.mend)
        deltas: list[Delta] = []
        read = _READERS.get(event.type)
        if read is not None:
            read(self, event, deltas)
        elif event.type == "error" or (not event.type and is_said(event.error)):
            deltas += self._fail(decode_mended(frame))
        return self._late.feed(deltas if self._limit is None else self._limit.feed(deltas))

    def decode_body(self, body: bytes) -> list[Delta]:
        """Read an answer that was not streamed."""
        deltas: list[Delta] = []
        self._read_end(self._decode(decode_response, body), deltas)
        return self._late.feed(deltas if self._limit is None else self._limit.feed(deltas)) + self.decode_end()

    def decode_end(self) -> list[Delta]:
        """Raise `UpstreamProtocolError` where the answer never said that it was complete."""
        if not self._stopped:
            raise self._broken("ended its answer before it was complete")
        return []

    def _decode(self, decode: Callable[[Any], Any], data: Any, mend: Callable[[bytes], bytes] = mend_json) -> Any:
        try:
            return decode_or_mend(decode, data, mend)
        except UNREADABLE as error:
            raise self._broken("sent what is no JSON") from error

    def _broken(self, what: str) -> UpstreamProtocolError:
        return UpstreamProtocolError(f"{self._call.provider} {what}.", provider=self._call.provider)

    def _find(self, event: Event) -> Said:
        if event.output_index is not None:
            self._last = event.output_index
        said = self._items.get(self._last)
        if said is None:
            said = self._items[self._last] = Said()
        return said

    # Fragments.

    def _read_text(self, event: Event, deltas: list[Delta]) -> None:
        said = self._find(event)
        if event.delta and not said.done:
            said.text = True
            self._say(event.delta, said, deltas)
            if self._search.listens:
                self._search.hear(event.delta, (self._last, event.content_index))

    def _read_annotation(self, event: Event, deltas: list[Delta]) -> None:
        said = self._find(event)
        found = self._search.cite(event.annotation, (self._last, event.content_index))
        said.cited += len(found)
        deltas += found

    def _read_refusal(self, event: Event, deltas: list[Delta]) -> None:
        if event.delta:
            self._refusal += event.delta
            self._read_text(event, deltas)

    def _read_summary(self, event: Event, deltas: list[Delta]) -> None:
        self._read_thought(event, ("summary", event.summary_index), deltas)

    def _read_reasoning(self, event: Event, deltas: list[Delta]) -> None:
        self._read_thought(event, ("reasoning", event.content_index), deltas)

    def _read_thought(self, event: Event, part: tuple[str, int], deltas: list[Delta]) -> None:
        said = self._find(event)
        if event.delta and not said.done:
            self._think(event.delta, part, said, deltas)

    def _read_arguments(self, event: Event, deltas: list[Delta]) -> None:
        said = self._find(event)
        if said.call is not None and event.delta:
            said.call.feed(event.delta, deltas)

    def _read_whole_arguments(self, event: Event, deltas: list[Delta]) -> None:
        said = self._find(event)
        if said.call is not None and event.arguments:
            said.call.complete(event.arguments, deltas)
        elif said.hosted is not None:
            self._put_hosted(said.hosted.announce(event.arguments or event.code or ""), deltas)

    # Items.

    def _begin_item(self, event: Event, deltas: list[Delta]) -> None:
        said = self._find(event)
        item = self._decode(decode_item, event.item)
        if said.done:  # a server that gives every item the same place
            said = self._items[self._last] = Said()
        said.item_id = item.id
        if item.type in _CALLS and said.call is None:
            self._begin_call(said, item, deltas)
        elif item.type in HOSTED:
            said.hosted = Hosted(self._call, item)

    def _begin_call(self, said: Said, item: Item, deltas: list[Delta]) -> None:
        self._put(self._thoughts.release(), deltas)
        deltas += self._search.release()
        self._spoken = None
        said.call = OpenCall(self._calls)
        said.call.begin(item, deltas)

    def _end_item(self, event: Event, deltas: list[Delta]) -> None:
        self._complete(self._find(event), self._decode(decode_item, event.item), deltas)

    def _complete(self, said: Said, item: Item, deltas: list[Delta]) -> None:
        """Say what the complete item holds and no fragment brought."""
        if said.done:
            return
        said.done = True
        self._complete_items += 1
        if item.type == "reasoning":
            self._end_thinking(said, item, deltas)
        elif item.type == "message":
            self._end_message(said, item, deltas)
        elif item.type in _CALLS:
            if said.call is None:
                self._begin_call(said, item, deltas)
            if said.call is not None:
                said.call.end(item, deltas)
        elif item.type == "web_search_call":
            self._put_hosted([], deltas)
            deltas += self._search.begin(item)
        elif item.type in HOSTED:
            self._put_hosted((said.hosted or Hosted(self._call, item)).end(item), deltas)
        elif (words := item_in_words(item)) is not None:
            self._say(words, said, deltas)

    def _end_thinking(self, said: Said, item: Item, deltas: list[Delta]) -> None:
        if said.part is None:
            kind, parts = ("summary", item.summary) if item.summary else ("reasoning", item.content)
            for index, part in enumerate(parts or ()):
                if part.text:
                    self._think(part.text, (kind, index), said, deltas)
        carry = find_carry(item, said)
        if carry.encrypted or said.part is not None:
            self._put_thought(Thinking(signature=encode_carry(self._tag, carry)), said, deltas)

    def _end_message(self, said: Said, item: Item, deltas: list[Delta]) -> None:
        parts = item.content or []
        if said.text:
            deltas += self._search.end_message(parts, said.cited)
        else:
            for part in parts:
                self._say_part(part, said, deltas)
        deltas += self._search.release()

    def _say_part(self, part: Part, said: Said, deltas: list[Delta]) -> None:
        if part.type == "refusal":
            self._refusal += part.refusal or ""
        for piece in self._search.with_citations(part):
            if isinstance(piece, Text):
                self._say(piece.text, said, deltas)
            else:
                self._put([piece], deltas)

    # What is said, in its order.

    def _say(self, text: str, said: Said, deltas: list[Delta]) -> None:
        if self._spoken != self._last:
            if self._spoken is not None:
                text = _PARAGRAPH + text  # another message follows at once
            self._spoken = self._last
        said.part = _TEXT
        if self._thoughts.kept or self._search.holds:
            self._put([*self._thoughts.release(), Text(text)], deltas)
        else:
            deltas.append(Text(text))

    def _think(self, text: str, part: tuple[str, int], said: Said, deltas: list[Delta]) -> None:
        if said.part is not None and said.part != part:
            text = _PARAGRAPH + text
        said.part, self._spoken = part, None
        if self._thoughts.kept or self._search.holds:
            self._put_thought(Thinking(text), said, deltas)
        else:
            deltas.append(Thinking(text))

    def _put_thought(self, thought: Thinking, said: Said, deltas: list[Delta]) -> None:
        self._spoken = None
        if not self._thoughts.keep(thought, shown=said.part is not None):
            self._put([thought], deltas)

    def _put_hosted(self, some: Iterable[Delta], deltas: list[Delta]) -> None:
        """Say what the server ran itself; reasoning that led there has nothing to carry, for it goes back as text."""
        self._spoken = None
        self._put(self._thoughts.forget(), deltas)
        self._put(some, deltas)

    def _put(self, some: Iterable[Delta], deltas: list[Delta]) -> None:
        if self._search.holds:
            self._search.hold(some)
        else:
            deltas += some

    # The end.

    def _read_last(self, event: Event, deltas: list[Delta]) -> None:
        self.finished = True
        self._read_end(self._decode(decode_response, event.response), deltas)

    def _read_end(self, response: Response, deltas: list[Delta]) -> None:
        if self._stopped:
            return
        if response.status is None and response.output is None and not is_said(response.error):
            raise self._broken("sent an answer without any output")
        if is_said(response.error):
            self._read_usage(response.usage, deltas)
            deltas += self._fail(decode_mended(response.error))
            return
        if response.status in ("failed", "cancelled", "in_progress", "queued"):
            raise judge_fault(read_failure({"message": f"the response ended as {response.status!r}"}), self._call)
        missing = () if self._complete_items >= len(response.output or ()) else response.output or ()
        items = [self._decode(decode_item, raw) for raw in missing]
        self._search.read_ahead(items)
        for place, item in enumerate(items):
            if item.type == "reasoning" and any(later > place for later in self._items):
                continue  # too late: thinking may not stand behind what it led to
            self._last = place
            self._complete(self._items.setdefault(place, Said()), item, deltas)
        self._end_open(deltas)
        self._read_usage(response.usage, deltas)
        self._stopped = True
        deltas.append(find_stop(response, self._refusal, self._call))

    def _end_open(self, deltas: list[Delta]) -> None:
        """End what the answer left open, because it was cut or the server does not say its end."""
        for said in self._items.values():
            if said.call is not None and not said.done:
                said.call.end(None, deltas)
            elif said.hosted is not None and not said.done:
                self._put_hosted(said.hosted.cut(), deltas)
        self._put(self._thoughts.release(), deltas)
        deltas += self._search.release()

    def _read_usage(self, counts: Counts | None, deltas: list[Delta]) -> None:
        if counts is not None and (counts.input_tokens is not None or counts.output_tokens is not None):
            deltas.append(decode_usage(counts))

    def _fail(self, error: Any) -> list[Delta]:
        """Raise the error that this is, or return the refusal."""
        if self._stopped:
            return []
        fault = read_failure(error)
        reply = find_reply(fault, self._call)
        if reply is None:
            raise judge_fault(fault, self._call)
        deltas: list[Delta] = []
        self._end_open(deltas)
        self.finished = self._stopped = True
        return deltas + reply


_READERS: Mapping[str, Callable[[ResponsesDecoder, Event, list[Delta]], None]] = {
    "response.output_text.delta": ResponsesDecoder._read_text,
    "response.output_text.annotation.added": ResponsesDecoder._read_annotation,
    "response.function_call_arguments.delta": ResponsesDecoder._read_arguments,
    "response.reasoning_summary_text.delta": ResponsesDecoder._read_summary,
    "response.reasoning_text.delta": ResponsesDecoder._read_reasoning,
    "response.refusal.delta": ResponsesDecoder._read_refusal,
    "response.function_call_arguments.done": ResponsesDecoder._read_whole_arguments,
    "response.mcp_call_arguments.done": ResponsesDecoder._read_whole_arguments,
    "response.code_interpreter_call_code.done": ResponsesDecoder._read_whole_arguments,
    "response.output_item.added": ResponsesDecoder._begin_item,
    "response.output_item.done": ResponsesDecoder._end_item,
    "response.completed": ResponsesDecoder._read_last,
    "response.incomplete": ResponsesDecoder._read_last,
    "response.failed": ResponsesDecoder._read_last,
}
"""Events that say something new; all others repeat it, or tell of progress."""
