"""Positions of values in JSON text, for edits that keep every other byte.

Sizes come from the decoder, positions from adding them up. Each value is visited once.
"""

import re
from collections.abc import Sequence

import msgspec
from msgspec import Raw, Struct

_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_list = msgspec.json.Decoder(list[Raw]).decode
_decode_string = msgspec.json.Decoder(str).decode

_OPEN = re.compile(rb"[ \t\r\n]*[\[{][ \t\r\n]*")
_KEY = re.compile(rb'("(?:[^"\\]|\\.)*+")[ \t\r\n]*:[ \t\r\n]*')
_NEXT = re.compile(rb"[ \t\r\n]*(?:,[ \t\r\n]*|[\]}])")


class RepeatedKeyError(ValueError):
    """An object repeats a key with different values."""


class JsonSpan(Struct, frozen=True):
    """A member of an object or an element of a list; positions count from the start of the whole text."""

    start: int
    """Start of the span, including the key of a member."""
    value: int
    """Start of the value."""
    end: int
    key: str = ""


class Edit(Struct, frozen=True):
    """Bytes to put in the place of others."""

    start: int
    end: int
    text: bytes = b""


def find_members(text: bytes, at: int = 0, end: int | None = None) -> list[JsonSpan]:
    """Return the members of the object in `text[at:end]`. Raises `msgspec.DecodeError`, `RepeatedKeyError`."""
    view = memoryview(text)[at : len(text) if end is None else end]
    values = _decode_object(view)
    found: list[JsonSpan] = []
    position = _after(_OPEN, view, 0)
    while key := _KEY.match(view, position):
        name = _decode_string(key[1])
        value, start = values[name], key.end()
        stop = start + memoryview(value).nbytes
        following = _NEXT.match(view, stop)
        if Raw(view[start:stop]) != value or following is None:  # views would be compared byte by byte
            raise RepeatedKeyError(name)
        found.append(JsonSpan(at + position, at + start, at + stop, name))
        position = following.end()
    return found


def find_elements(text: bytes, at: int, end: int) -> list[JsonSpan]:
    """Return the elements of the list in `text[at:end]`. Raises `msgspec.DecodeError`."""
    view = memoryview(text)[at:end]
    found: list[JsonSpan] = []
    position = _after(_OPEN, view, 0)
    for raw in _decode_list(view):
        stop = position + memoryview(raw).nbytes
        found.append(JsonSpan(at + position, at + position, at + stop))
        position = _after(_NEXT, view, stop)
    return found


def removal_edits(parts: Sequence[JsonSpan], kept: Sequence[bool]) -> list[Edit]:
    """Return the edits that take the parts out which are not kept, each with a comma of its own."""
    edits: list[Edit] = []
    begin: int | None = None
    for part, keeps in zip(parts, kept, strict=True):
        if not keeps and begin is None:
            begin = part.start
        elif keeps and begin is not None:
            edits.append(Edit(begin, part.start))
            begin = None
    if begin is not None:
        before = [part.end for part, keeps in zip(parts, kept, strict=True) if keeps and part.end <= begin]
        edits.append(Edit(max(before, default=begin), parts[-1].end))
    return edits


def apply_edits(text: bytes, edits: Sequence[Edit]) -> bytes:
    """Return the text with these edits, which do not overlap; the same object where there are none."""
    if not edits:
        return text
    view = memoryview(text)
    pieces: list[bytes | memoryview] = []
    position = 0
    for edit in sorted(edits, key=lambda edit: edit.start):
        pieces += (view[position : edit.start], edit.text)
        position = edit.end
    return b"".join((*pieces, view[position:]))


def _after(pattern: re.Pattern[bytes], view: memoryview, position: int) -> int:
    match = pattern.match(view, position)
    assert match is not None, "the decoder has read this text"
    return match.end()
