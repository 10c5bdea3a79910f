"""Messages in protobuf, field by field, without their schema (protobuf.dev, "Encoding")."""

from collections.abc import Iterator

MAX_FIELDS = 100_000
"""Maximum number of fields of a message."""
TOO_MANY_PARTS = "the message has too many parts"
BYTES_TYPE = 2
"""Wire type of texts and nested messages."""
_FIXED = {1: 8, 5: 4}
"""Wire type → its number of bytes."""
_MAX_FIELD_NUMBER = 2**29 - 1
"""Largest number of a field (protobuf.dev, "Assigning Field Numbers"). Some programs read only 32 bits of a larger one,
which is then another field."""


class FieldReader:
    """Reads one message with all that is nested in it. Raises `ValueError` above `MAX_FIELDS`."""

    def __init__(self) -> None:
        self._left = MAX_FIELDS

    def split(self, message: bytes) -> Iterator[tuple[int, bytes, bytes | None]]:
        """Yield number, bytes and content of each field. The content of a number is None."""
        position = 0
        length = len(message)
        while position < length:
            self._left -= 1
            if self._left < 0:
                raise ValueError(TOO_MANY_PARTS)
            tag = message[position]
            start = position + 1
            if tag > 127:
                tag, start = decode_number(message, position)
            if not 1 <= tag >> 3 <= _MAX_FIELD_NUMBER:
                raise ValueError("a field has an invalid number")
            content = None
            if tag & 7 == BYTES_TYPE:
                size, start = decode_number(message, start)
                end = start + size
                content = message[start:end]
            elif tag & 7 == 0:
                _, end = decode_number(message, start)
            elif tag & 7 in _FIXED:
                end = start + _FIXED[tag & 7]
            else:
                raise ValueError("unknown wire type")
            if end > length:
                raise ValueError("the message is incomplete")
            yield tag >> 3, message[position:end], content
            position = end


def decode_number(message: bytes, position: int) -> tuple[int, int]:
    """Return a number (varint) and the position behind it."""
    if position < len(message) and message[position] < 128:
        return message[position], position + 1
    value = shift = 0
    for index in range(position, min(position + 10, len(message))):
        value |= (message[index] & 127) << shift
        if message[index] < 128:
            return value, index + 1
        shift += 7
    raise ValueError("the message is incomplete")


def decode_bits(piece: bytes) -> int:
    """Return the bits of a number, of which `piece` is the whole field: a varint, or 4 or 8 bytes."""
    tag, start = decode_number(piece, 0)
    return int.from_bytes(piece[start:], "little") if tag & 7 in _FIXED else decode_number(piece, start)[0]
