"""`EditedRelay`: a relayed reply, with what the proxy adds because it has edited the conversation.

The server does not know of the edits. So the proxy writes what they add to a reply of the API: the summary as first
block, the calls in `usage.iterations`, and the reports in `context_management`. The index of each block of the server
rises by one behind a summary. All other bytes pass as the relay gives them.

The summary is written with the first block, because it is no content of the server: until this comes, another target
may be called.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from anthropic_proxy.engine.background import PayerWork
from anthropic_proxy.engine.exchange.client_side import encode_events
from anthropic_proxy.engine.exchange.relay import RelayStream
from anthropic_proxy.engine.exchange.relayed_calls import (
    OF_BLOCKS,
    RelayedEvent,
    edit_data,
    find_data,
    join_data_lines,
    read_event,
)
from anthropic_proxy.engine.messages.deltas import Iteration, TokenCounts, Usage
from anthropic_proxy.engine.messages.events import block_events
from anthropic_proxy.engine.messages.writer import describe_call
from anthropic_proxy.engine.slices import MAX_REPLY_BYTES_ON_LOOP
from anthropic_proxy.engine.wires.anthropic import json_spans
from anthropic_proxy.engine.wires.anthropic.json_spans import Edit, JsonSpan
from anthropic_proxy.engine.wires.framing import divide_events
from anthropic_proxy.errors import InvalidRequest

_END = "message_delta"
_MARK_OF_BLOCKS, _MARK_OF_END = b"content_block_", _END.encode()


class EditedRelay:
    """Reads `relay` in its place."""

    def __init__(
        self,
        relay: RelayStream,
        background: PayerWork,
        *,
        block: Raw | None,
        summaries: Sequence[Iteration] | None,
        count_reply: Callable[[], TokenCounts],
        applied: Sequence[dict[str, Any]],
        streams: bool,
    ) -> None:
        """`block`: the summary. None: there is none. `summaries`: calls for it. None: the client has requested none.

        `count_reply`: returns the tokens of the reply, at its end. `applied`: the reports of the edits.
        """
        self._relay = relay
        self._background = background
        self._block = block
        self._summaries = summaries
        self._count_reply = count_reply
        self._applied = applied
        self._streams = streams
        self._is_written = block is None
        """True if the client has the summary, or gets none."""
        self._marks = (_MARK_OF_END,) if block is None else (_MARK_OF_END, _MARK_OF_BLOCKS)
        """One of them is in each event that is edited."""

    @property
    def complete(self) -> bool:
        return self._relay.complete

    def end_early(self, stop_reason: str) -> Usage:
        return self._relay.end_early(stop_reason)

    async def read(self) -> bytes | None:
        """Return the next bytes for the client. None: the response is complete."""
        data = await self._relay.read()
        if data is None:
            return None
        if self._streams:
            return b"".join(map(self._edit_event, divide_events(data)))
        is_large = len(data) > MAX_REPLY_BYTES_ON_LOOP
        return await self._background.run_in_thread_if_large(is_large, self._edit_message, data)

    def _edit_event(self, frame: bytes) -> bytes:
        if not any(map(frame.__contains__, self._marks)):
            return frame
        received = join_data_lines(frame)
        event = read_event(find_data(received))
        if event.type == _END:
            return self._write_block() + edit_data(received, self._find_ending_edits)
        if event.type not in OF_BLOCKS or self._block is None:
            return frame
        return self._write_block() + edit_data(received, lambda text: [*_find_index_edits(text, event)])

    def _write_block(self) -> bytes:
        if self._is_written or self._block is None:
            return b""
        self._is_written = True
        return encode_events(block_events(0, self._block))

    def _edit_message(self, body: bytes) -> bytes:
        def find(text: bytes) -> list[Edit]:
            edits = self._find_ending_edits(text)
            if self._block is not None:
                edits += _find_content_edits(text, bytes(self._block))
            return edits

        try:
            return json_spans.edit(body, find)
        except InvalidRequest:  # what is no JSON is not ours to judge
            return body

    def _find_ending_edits(self, text: bytes) -> list[Edit]:
        """Return the edits of a message, or of the last event but one of a stream."""
        members = json_spans.find_members(text)
        edits = _set(members, "context_management", {"applied_edits": self._applied})
        if self._summaries is None:
            return edits
        for usage in members:
            if usage.key == "usage" and text[usage.value] == ord("{"):
                stated = json_spans.find_members(text, usage.value, usage.end)
                edits += _set(stated, "iterations", self._list_calls(text, stated))
        return edits

    def _list_calls(self, text: bytes, usage: Sequence[JsonSpan]) -> list[Any]:
        """Return the calls for the reply: those that the server states, else one."""
        summaries: list[Any] = [*map(describe_call, self._summaries or ())]
        for member in usage:
            if member.key == "iterations" and text[member.value] == ord("["):
                stated = json_spans.find_elements(text, member.value, member.end)
                return [*summaries, *(Raw(text[call.value : call.end]) for call in stated)]
        return [*summaries, describe_call(Iteration.from_counts("message", self._count_reply()))]


def _find_index_edits(text: bytes, event: RelayedEvent) -> Iterator[Edit]:
    for member in json_spans.find_members(text):
        if member.key == "index":
            yield Edit(member.value, member.end, b"%d" % (event.index + 1))


def _find_content_edits(text: bytes, block: bytes) -> list[Edit]:
    edits = list[Edit]()
    for member in json_spans.find_members(text):
        if member.key == "content" and text[member.value] == ord("["):
            has_others = bool(json_spans.find_elements(text, member.value, member.end))
            edits.append(Edit(member.value + 1, member.value + 1, block + b"," * has_others))
    return edits


def _set(members: Sequence[JsonSpan], key: str, value: object) -> list[Edit]:
    """Return the edits that give an object a member. `members`: those that it has, at least one."""
    written = msgspec.json.encode(value)
    if found := [Edit(member.value, member.end, written) for member in members if member.key == key]:
        return found
    end = members[-1].end
    return [Edit(end, end, b',"%b":%b' % (key.encode(), written))]
