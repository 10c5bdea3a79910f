"""`RelayedCheck`: the verdicts in a relayed reply, of its server or of the proxy.

A server that got the field `safeguards` may answer it, so nothing is checked before the end of its reply shows that it
did not. If the field was left out for this server, the checks start with each complete call. The server has judged what
it sent. So its verdict is removed if the client gets the call in another form (`find_doubt_of_provider`), or may run by
it what an earlier call has in another form.
"""

from collections.abc import Collection, Iterator
from functools import partial
from typing import Any

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.exchange.final_calls import FinalCall, finish_call
from anthropic_proxy.engine.exchange.relayed_calls import (
    RelayedCalls,
    edit_data,
    find_data,
    join_data_lines,
    read_event,
)
from anthropic_proxy.engine.exchange.safeguards.check import MAX_CALLS, ReplyCheck
from anthropic_proxy.engine.exchange.safeguards.hidden_texts import MAY_RUN, NO_PLAIN_WORD, find_doubt_of_provider
from anthropic_proxy.engine.exchange.safeguards.verdict import NO_VERDICTS, TYPE
from anthropic_proxy.engine.messages.models.raw_json import replace_lone_surrogates
from anthropic_proxy.engine.wires.anthropic import json_spans
from anthropic_proxy.engine.wires.anthropic.json_spans import Edit, JsonSpan
from anthropic_proxy.engine.wires.framing import EVENT_BORDER, divide_events
from anthropic_proxy.engine.wires.json_repair import DECODE_ERRORS
from anthropic_proxy.errors import InvalidRequest

_FIELD = "safeguard_results"
_NO_ANSWER = (b"", b"null", b"[]")
"""Values of the field from a server that does not check calls."""
_WITHOUT_VERDICT = ("unavailable", "unsupported")
"""Types of a status that lets no call run."""
_MAX_HELD_BYTES = 1024 * 1024
"""Maximum bytes of the events that wait for the verdicts. `message_stop` is the only one behind `message_delta`."""
_READ_ALWAYS = (b"message_start", b"message_delta")
_READ_FOR_CALLS = (*_READ_ALWAYS, b"content_block_start", b"partial_json")
"""Marks of events that are read if no call is open. Within a call, all events are read."""


_ESCAPE = b"\\u"
"""Mark of an event that is read too, because an escape can hide the other marks from the proxy, but not from clients.
"""


class _Delta(Struct):
    safeguard_results: Raw = Raw()  # immutable


class _Event(Struct):
    delta: _Delta | None = None


_decode_event = msgspec.json.Decoder(_Event).decode


class RelayedCheck:
    """The verdicts of one reply.

    `check`: None if the client requested none that the proxy can read. `calls`: the calls of the reply. `reads_calls`:
    True if nothing before has read them. `answers`: True if the server got the field, so that it may answer.
    `hides_texts`: True if a text of the conversation is redacted.
    """

    def __init__(
        self,
        check: ReplyCheck | None,
        calls: RelayedCalls,
        *,
        reads_calls: bool,
        answers: bool,
        hides_texts: bool,
    ) -> None:
        self._check = check
        self._hides_texts = hides_texts
        self._calls = calls
        self._reads_calls = reads_calls
        self._answers = answers
        self._marks = _READ_FOR_CALLS if reads_calls else _READ_ALWAYS
        self._taken: list[FinalCall] = []
        """The complete calls so far."""
        self._started = 0
        """Number of calls whose checks were started."""
        self._held = bytearray()
        """Bytes from the end of the reply on, which wait for the verdicts."""
        self._is_message = False
        self._doubts: dict[str, str] = {}
        """Id of a call about which no verdict of the server holds → the reason."""
        self.answered: bool | None = None
        """True: the server has answered. False: it got the field, and its reply has calls but no answer."""

    @property
    def is_waiting(self) -> bool:
        return bool(self._held)

    async def feed(self, data: bytes) -> bytes:
        """Return what can be forwarded of the next bytes of a stream."""
        if self._held:
            if len(self._held) < _MAX_HELD_BYTES:
                self._held += data
            return b""
        if not (self._reads_calls or self._answers):
            self._take_calls()
            self._start_checks()
        is_open = self._reads_calls and self._calls.is_open
        if not is_open and _ESCAPE not in data and not any(mark in data for mark in self._marks):
            return data
        sent: list[bytes] = []
        start = 0
        for border in EVENT_BORDER.finditer(data):
            frame = await self._read(data[start : border.end()])
            if frame is None:
                self._held += data[start:]
                break
            sent.append(frame)
            start = border.end()
        else:
            sent.append(data[start:])
        return b"".join(sent)

    async def feed_message(self, data: bytes) -> bytes:
        """Return a reply that is not streamed, if its server has answered. Otherwise it waits for `finish`."""
        try:
            if self._reads_calls:
                data = self._calls.read_message(data, data)
            results = _read_field(data)
        except InvalidRequest:
            return data
        self._take_calls()
        if results not in _NO_ANSWER:
            doubts = await self._take_answer(results)
            return json_spans.edit(data, partial(_find_verdict_edits, calls=doubts, holder="")) if doubts else data
        if self._check is None:
            return data
        self._start_checks()
        self._is_message = True
        self._held += data
        return b""

    async def finish(self) -> bytes:
        """Return the held bytes with the verdicts."""
        assert self._check is not None, "only checks make the reply wait"
        held, self._held = bytes(self._held), bytearray()
        if self._is_message:
            results = await self._check.finish(self._calls.ambiguous)
            return json_spans.edit(held, partial(_find_additions, results=results, holder=""))
        ending, *later = divide_events(held)
        if self._reads_calls:  # clients may add what comes behind the end to a call
            for frame in later:
                await self._calls.read(read_event(find_data(join_data_lines(frame))), frame)
        results = await self._check.finish(self._calls.ambiguous)
        ending = edit_data(join_data_lines(ending), partial(_find_additions, results=results, holder="delta"))
        return ending + b"".join(map(_remove_answer, later))

    async def _read(self, frame: bytes) -> bytes | None:
        """Return an event for the client. None: the reply waits from here on."""
        joined = join_data_lines(frame)
        event = read_event(find_data(joined))
        if self._reads_calls and await self._calls.read(event, frame) is not None:
            if not self._answers:
                self._take_calls()
                self._start_checks()
            return frame
        if event.type == "message_start":
            return _remove_answer(frame)
        if event.type != "message_delta":
            return frame
        self._take_calls()
        if (results := _read_answer(find_data(joined))) not in _NO_ANSWER:
            doubts = await self._take_answer(results)
            return edit_data(joined, partial(_find_verdict_edits, calls=doubts, holder="delta")) if doubts else frame
        if self._check is None or self.answered:
            return frame
        self._start_checks()
        return None

    def _take_calls(self) -> None:
        for call in self._calls.take_complete():
            if doubt := find_doubt_of_provider(call) or (MAY_RUN if self._doubts else ""):
                self._doubts[call.id] = doubt
            is_checked = len(self._taken) < MAX_CALLS
            self._taken.append(call if is_checked else finish_call(call.id, call.name, "", None))

    async def _take_answer(self, results: bytes) -> Collection[str]:
        """Record the verdicts of the server. Return the ids of the calls about which they do not hold."""
        self.answered = True
        if self._check is not None:
            doubt = await self._check.find_doubt_of_conversation()
        else:  # nobody has read the earlier calls
            doubt = MAY_RUN if self._hides_texts else ""
        if doubt:
            self._doubts = dict.fromkeys((call.id for call in self._taken), doubt) | self._doubts
        if not self._reads_calls:  # texts were restored, also in what the server has sent behind the end of a call
            self._doubts |= dict.fromkeys(self._calls.ambiguous, NO_PLAIN_WORD)
        if self._check is not None:
            self._check.take_answer(results, self._taken, self._doubts)
        return self._doubts.keys()

    def _start_checks(self) -> None:
        """Start the checks of calls that the server has not answered."""
        if self._answers and self._taken:
            self.answered = False
        if self._check is not None:
            for call in self._taken[self._started :]:
                self._check.start_check(call)
        self._started = len(self._taken)


def _read_answer(data: bytes) -> bytes:
    """Return the field in the data of an event. b"": it is absent."""
    for readable in (data, replace_lone_surrogates(data)[0]):
        try:
            event = _decode_event(readable)
        except DECODE_ERRORS:
            continue
        return b"" if event.delta is None else bytes(event.delta.safeguard_results)
    return b""


def _read_field(message: bytes) -> bytes:
    """Return the field in a message that is not streamed. b"": it is absent. Raises `InvalidRequest`."""
    values: list[bytes] = []

    def collect(text: bytes) -> list[Edit]:
        values[:] = [
            text[member.value : member.end] for member in json_spans.find_members(text) if member.key == _FIELD
        ]
        return []

    json_spans.edit(message, collect)
    return values[-1] if values else b""


def _find_additions(text: bytes, *, results: list[dict[str, Any]], holder: str) -> list[Edit]:
    """Return the edits that add the verdicts to an object. `holder`: the member that gets them. "": `text` itself."""
    value = msgspec.json.encode(results)
    field = b'"%b":%b' % (_FIELD.encode(), value)
    members = json_spans.find_members(text)
    if holder:
        holders = [member for member in members if member.key == holder]
        if not holders:
            end = members[-1].end
            return [Edit(end, end, b',"%b":{%b}' % (holder.encode(), field))]
        place = holders[-1]
        members = []
        if text[place.value : place.value + 1] == b"{":
            members = json_spans.find_members(text, place.value, place.end)
        if not members:
            return [Edit(place.value, place.end, b"{%b}" % field)]
    present = [member for member in members if member.key == _FIELD]
    if present:
        return [Edit(member.value, member.end, value) for member in present]
    return [Edit(members[-1].end, members[-1].end, b"," + field)]


def _remove_answer(frame: bytes) -> bytes:
    """Return an event without the field, which clients would read too, at a place where no server answers."""
    joined = join_data_lines(frame)
    if not find_data(joined):
        return frame
    try:
        edited = edit_data(joined, _find_removals)
    except InvalidRequest:
        return frame
    return frame if edited == joined else edited


def _find_removals(event: bytes) -> list[Edit]:
    return [
        edit
        for holder in json_spans.find_members(event)
        if holder.key in ("message", "delta") and event[holder.value : holder.value + 1] == b"{"
        for edit in json_spans.find_removal_edits(event, holder, _FIELD)
    ]


def _find_verdict_edits(text: bytes, *, calls: Collection[str], holder: str) -> list[Edit]:
    """Return the edits that remove the verdicts about `calls`.

    `holder`: name of the member that has the field. "": `text` has it.
    """
    members = json_spans.find_members(text)
    if holder:
        delta = next(member for member in reversed(members) if member.key == holder)
        members = json_spans.find_members(text, delta.value, delta.end)
    return [edit for member in members if member.key == _FIELD for edit in _reduce_answer(text, member, calls)]


def _reduce_answer(text: bytes, answer: JsonSpan, calls: Collection[str]) -> Iterator[Edit]:
    if text[answer.value : answer.value + 1] != b"[":  # nobody knows which calls it is about
        yield Edit(answer.value, answer.end, msgspec.json.encode(NO_VERDICTS))
        return
    for entry in json_spans.find_elements(text, answer.value, answer.end):
        if text[entry.value : entry.value + 1] != b"{":
            continue
        members = {member.key: member for member in json_spans.find_members(text, entry.value, entry.end)}
        kind, place = (members.get(name) for name in ("type", "status"))
        if place is None:
            continue
        status = msgspec.json.decode(text[place.value : place.end])
        is_of_calls = kind is not None and msgspec.json.decode(text[kind.value : kind.end]) == TYPE
        if is_of_calls or (isinstance(status, dict) and "tool_uses" in status):
            reduced = _reduce_status(status, calls)
            if reduced != status:
                yield Edit(place.value, place.end, msgspec.json.encode(reduced))


def _reduce_status(status: Any, calls: Collection[str]) -> dict[str, Any]:
    """Return a status without verdicts about `calls`. One that is not about single calls must let no call run."""
    given = status if isinstance(status, dict) else {}
    if given.get("type") in _WITHOUT_VERDICT:
        return {name: value for name, value in given.items() if name != "tool_uses"}
    uses = given.get("tool_uses")
    kept = {call: verdict for call, verdict in uses.items() if call not in calls} if isinstance(uses, dict) else {}
    return {"type": "available", "tool_uses": kept}
