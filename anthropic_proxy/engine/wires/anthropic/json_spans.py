"""Edits of JSON text at byte positions. All other bytes of a client request stay unchanged.

A value is found in two steps: `msgspec` decodes one level of the text to `Raw` values, and these are aligned with the
text again, because `msgspec` states no positions. An object with a repeated key cannot be aligned, so its text is
encoded again, and then edited (`client_json.py`).
"""

import codecs
import re
from collections.abc import Callable, Sequence

import msgspec
from msgspec import Raw, Struct

from anthropic_proxy.engine.messages.models import require_bounded_members
from anthropic_proxy.engine.messages.models.client_json import RepeatedKeyError, read_with_source
from anthropic_proxy.engine.messages.models.raw_json import MAX_MEMBERS
from anthropic_proxy.engine.messages.work_budget import WorkPostponed
from anthropic_proxy.engine.patterns import compile_anchored

_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_list = msgspec.json.Decoder(list[Raw]).decode
_decode_string = msgspec.json.Decoder(str).decode
_MIN_COUNTED_BYTES = MAX_MEMBERS * len('"":0,')
"""Size from which an object can have too many members."""

_OPEN = compile_anchored(rb"[ \t\r\n]*[\[{][ \t\r\n]*")
_KEY = compile_anchored(rb'("(?:[^"\\]|\\.)*+")[ \t\r\n]*:[ \t\r\n]*')
_NEXT = compile_anchored(rb"[ \t\r\n]*(?:,[ \t\r\n]*|[\]}])")


class JsonSpan(Struct, frozen=True):
    start: int
    value: int
    end: int
    key: str = ""
    """Key of the object member. "": a list element."""


class Edit(Struct, frozen=True):
    """Replacement of the bytes from offset `start` to `end` by `text`."""

    start: int
    end: int
    text: bytes = b""
    """JSON text to insert in place of the old bytes. b"": the bytes are removed."""


def find_members(text: bytes, offset: int = 0, end: int | None = None, *, most: int | None = None) -> list[JsonSpan]:
    """Return the position of each member (key and value) of the JSON object in `text[offset:end]`.

    Raises `WorkPostponed` for more than `most` members, `RepeatedKeyError` for a key with two different values,
    `msgspec.DecodeError` for invalid JSON, and `InvalidRequest` for an object of too many members.
    """
    end = len(text) if end is None else end
    view = memoryview(text)[offset:end]
    if len(view) >= _MIN_COUNTED_BYTES:
        require_bounded_members(text[offset:end], counts_nested=False)
    values = _decode_object(view)
    if most is not None and len(values) > most:
        raise WorkPostponed
    found: list[JsonSpan] = []
    position = _end(_OPEN.match(view, 0))
    while key := _KEY.match(view, position):
        name = _decode_string(key[1])
        value = values[name]
        start = key.end()
        stop = start + memoryview(value).nbytes
        following = _NEXT.match(view, stop)
        if Raw(view[start:stop]) != value or following is None:  # views would be compared byte by byte
            raise RepeatedKeyError(name)
        found.append(JsonSpan(offset + position, offset + start, offset + stop, name))
        position = following.end()
    return found


def find_elements(text: bytes, offset: int, end: int) -> list[JsonSpan]:
    """Return the elements of the JSON list in `text[offset:end]`. Raises like `find_members`."""
    view = memoryview(text)[offset:end]
    require_bounded_members(text[offset:end], counts_nested=False)
    found: list[JsonSpan] = []
    position = _end(_OPEN.match(view, 0))
    for raw in _decode_list(view):
        stop = position + memoryview(raw).nbytes
        found.append(JsonSpan(offset + position, offset + position, offset + stop))
        position = _end(_NEXT.match(view, stop))
    return found


def find_lists(text: bytes, key: str, offset: int = 0, end: int | None = None) -> list[list[JsonSpan]]:
    """Return the elements of each list that is the member `key` of the object in `text[offset:end]`: of one, or of none
    if there is no such list, or of several if the object repeats it. Raises like `find_members`.
    """
    members = find_members(text, offset, end)
    return [
        find_elements(text, member.value, member.end)
        for member in members
        if member.key == key and text[member.value] == ord("[")
    ]


def find_listed(text: bytes, key: str, offset: int = 0, end: int | None = None) -> list[JsonSpan]:
    """Return the elements of all lists of `find_lists`."""
    return [element for elements in find_lists(text, key, offset, end) for element in elements]


def edit(text: bytes, find_edits: Callable[[bytes], Sequence[Edit]]) -> bytes:
    """Return JSON text with the edits that `find_edits` returns for it, and then without a byte order mark.

    `find_edits` gets a text of the same length that can be decoded, and may be called again if it has raised an error.
    Raises `InvalidRequest` for text that is not JSON or cannot be decoded.
    """
    edits, source = read_with_source(text, find_edits)
    if edits:
        return apply_edits(source, edits)
    return text if source == text.removeprefix(codecs.BOM_UTF8) else source  # the latter without repeated keys


def build_removal_edits(spans: Sequence[JsonSpan], kept: Sequence[bool]) -> list[Edit]:
    """Return the edits that remove some of the members or elements in `spans`, each with its comma.

    `spans` has all members of one object, or all elements of one list. `kept` has a value for each of them. False: it
    is removed.
    """
    edits: list[Edit] = []
    begin: int | None = None
    for span, keeps in zip(spans, kept, strict=True):
        if not keeps and begin is None:
            begin = span.start
        elif keeps and begin is not None:
            edits.append(Edit(begin, span.start))
            begin = None
    if begin is not None:
        before = [span.end for span, keeps in zip(spans, kept, strict=True) if keeps and span.end <= begin]
        edits.append(Edit(max(before, default=begin), spans[-1].end))
    return edits


def find_removal_edits(text: bytes, span: JsonSpan, key: str) -> list[Edit]:
    """Return the edits that remove a member of the object that is the value of `span`."""
    members = find_members(text, span.value, span.end)
    return build_removal_edits(members, [member.key != key for member in members])


def contains(text: bytes, mark: bytes) -> bool:
    return text.rfind(mark) >= 0  # from its end a long text is searched at a quarter of what `in` costs


def apply_edits(text: bytes, edits: Sequence[Edit]) -> bytes:
    if not edits:
        return text
    view = memoryview(text)
    pieces: list[bytes | memoryview] = []
    position = 0
    for edit in sorted(edits, key=lambda edit: edit.start):
        pieces += (view[position : edit.start], edit.text)
        position = edit.end
    return b"".join((*pieces, view[position:]))


def _end(match: re.Match[bytes] | None) -> int:
    assert match is not None, "the decoder has read this text"
    return match.end()
