"""The edits of `context_management` in the bytes of a body, for servers with the Messages API that do not make them.

What the edits remove is found before (`messages/context_editing.py`), by places in the messages. All other bytes stay,
and the field is removed, because the server does not know it. The reply of the server gets the reports.
"""

from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from anthropic_proxy.engine.messages.context_editing import CLEARED_RESULT, SERVER_RESULT_TYPES, Removed
from anthropic_proxy.engine.messages.models import json_string
from anthropic_proxy.engine.messages.server_tools import CALL_TYPES
from anthropic_proxy.engine.wires.anthropic import json_spans
from anthropic_proxy.engine.wires.anthropic.conversation import THINKING_TYPES
from anthropic_proxy.engine.wires.anthropic.json_spans import Edit, JsonSpan
from anthropic_proxy.engine.wires.anthropic.stream_repair import StreamRepair
from anthropic_proxy.errors import InvalidRequest

_FIELD = "context_management"


class _Typed(Struct):
    type: str


_decode_type = msgspec.json.Decoder(_Typed).decode


def edit_conversation(body: bytes, removed: Removed | None) -> bytes:
    """Return a body without what the edits remove, and without the field that asks for them. None: they keep all."""
    return json_spans.edit(body, lambda text: _find_edits(text, removed))


def remove_context_edit(body: bytes, kind: str) -> bytes:
    """Return a body whose field `context_management` has no edit of this type."""

    def find(text: bytes) -> list[Edit]:
        edits: list[Edit] = []
        for member in json_spans.find_members(text):
            if member.key == _FIELD and text[member.value] == ord("{"):
                parts = json_spans.find_listed(text, "edits", member.value, member.end)
                stays = [_read_type(text, part) != kind for part in parts]
                edits += json_spans.build_removal_edits(parts, stays)
        return edits

    return json_spans.edit(body, find)


def _find_edits(body: bytes, removed: Removed | None) -> list[Edit]:
    members = json_spans.find_members(body)
    edits = json_spans.build_removal_edits(members, [member.key != _FIELD for member in members])
    if removed is None:
        return edits
    for messages in json_spans.find_lists(body, "messages"):
        for place in sorted({*removed.emptied, *removed.thinking}):
            emptied = removed.emptied.get(place, ())
            for blocks in json_spans.find_lists(body, "content", messages[place].value, messages[place].end):
                edits += _edit_blocks(body, blocks, emptied, drops_thinking=place in removed.thinking)
    return edits


def _edit_blocks(
    body: bytes, blocks: Sequence[JsonSpan], emptied: Collection[int], *, drops_thinking: bool
) -> list[Edit]:
    """`emptied`: places of the blocks that lose their content."""
    edits = [edit for place in sorted(emptied) for edit in _empty(body, blocks[place])]
    if drops_thinking:
        kept = [_read_type(body, block) not in THINKING_TYPES for block in blocks]
        edits += json_spans.build_removal_edits(blocks, kept)
    return edits


def _read_type(body: bytes, span: JsonSpan) -> str:
    """Return the type of a block or an edit. Each has one, because the request was decoded."""
    return _decode_type(memoryview(body)[span.value : span.end]).type


def _empty(body: bytes, block: JsonSpan) -> list[Edit]:
    kind = _read_type(body, block)
    field = "input" if kind in CALL_TYPES else "content"
    return [
        Edit(member.value, member.end, _write_cleared(kind, is_list=body[member.value] == ord("[")))
        for member in json_spans.find_members(body, block.value, block.end)
        if member.key == field
    ]


def _write_cleared(kind: str, *, is_list: bool) -> bytes:
    """Return what is in place of an input or a content, in a form that the API allows for this type of block."""
    if kind in CALL_TYPES:
        return b"{}"
    if kind not in SERVER_RESULT_TYPES:
        return bytes(CLEARED_RESULT)
    return b"[]" if is_list else b'{"type":%b,"error_code":"unavailable"}' % json_string(f"{kind}_error")


# The reply


class EditedStreamRepair(StreamRepair):
    """The repair of a stream whose end reports the edits."""

    def __init__(self, applied: Sequence[dict[str, Any]], *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._applied = applied

    def _end_message(self) -> None:
        self._ending = {**self._read_ending(), _FIELD: {"applied_edits": self._applied}}
        if self._ending_events:
            self._ending_events[0] = b""  # it has changed
        super()._end_message()


def add_applied_edits(reply: bytes, applied: Sequence[dict[str, Any]]) -> bytes:
    """Return a message that is not streamed with the reports of the edits."""
    report = b'{"applied_edits":%b}' % msgspec.json.encode(applied)

    def find(text: bytes) -> list[Edit]:
        members = json_spans.find_members(text)
        if found := [Edit(member.value, member.end, report) for member in members if member.key == _FIELD]:
            return found
        end = members[-1].end
        return [Edit(end, end, b',"%b":%b' % (_FIELD.encode(), report))]

    try:
        return json_spans.edit(reply, find)
    except InvalidRequest:  # what is no JSON is not ours to judge
        return reply
