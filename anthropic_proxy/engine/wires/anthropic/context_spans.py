"""The edits of `context_management` in the bytes of a body, for servers with the Messages API that do not make them.

What the edits remove is found before (`messages/context_editing.py`), by places in the messages. All other bytes stay,
and the field is removed, because the server does not know it.
"""

from collections.abc import Collection, Sequence

import msgspec
from msgspec import Struct

from anthropic_proxy.engine.messages.context_editing import CLEARED_RESULT, SERVER_RESULT_TYPES, Removed
from anthropic_proxy.engine.messages.models import json_string
from anthropic_proxy.engine.messages.server_tools import CALL_TYPES
from anthropic_proxy.engine.wires.anthropic import json_spans
from anthropic_proxy.engine.wires.anthropic.conversation import THINKING_TYPES, write_summary_message
from anthropic_proxy.engine.wires.anthropic.json_spans import Edit, JsonSpan

_FIELD = "context_management"


class _Typed(Struct):
    type: str


_decode_type = msgspec.json.Decoder(_Typed).decode


def edit_conversation(body: bytes, removed: Removed | None) -> bytes:
    """Return a body without what the edits remove, and without the field that asks for them. None: they keep all."""
    return json_spans.edit(body, lambda text: _find_edits(text, removed))


def replace_conversation(body: bytes, summary: str) -> bytes:
    """Return a body with a summary in place of the messages, and without the field that asks for it."""

    def find(text: bytes) -> list[Edit]:
        members = json_spans.find_members(text)
        messages = b"[%b]" % write_summary_message(summary)
        edits = [Edit(member.value, member.end, messages) for member in members if member.key == "messages"]
        return edits + json_spans.build_removal_edits(members, [member.key != _FIELD for member in members])

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
