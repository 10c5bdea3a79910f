"""The one reader of JSON text that a client has written: the body of a request, or a part of it as it was sent.

Theory of operation. Clients write what no decoder accepts, and what decoders read in different ways. Each part of the
proxy that reads a body reads it here, so that a body means the same to all of them, and a fault of it is an
`InvalidRequest` everywhere:

    in the text                     what is read
    byte order mark                 the text behind it
    half of a surrogate pair        U+FFFD
    a key twice in one object       its last value
    a number beyond 64 bits         the number as it is written; an error only where it is used
    no UTF-8, no JSON, too deep     `InvalidRequest`

A relay sends the bytes of its client. So the readable text has the length of these bytes, and positions in one are
positions in the other; only a text with a repeated key is written again. `tests/architecture.py` finds a decoder of a
body outside of this module and of `decode.py`, which decodes messages at once.
"""

import codecs
import json
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from anthropic_proxy.engine.messages.models.raw_json import (
    TOO_DEEP_MESSAGE,
    replace_lone_surrogates,
    require_bounded_members,
    validation_error,
)
from anthropic_proxy.errors import InvalidRequest

T = TypeVar("T")

_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**64 - 1
"""Range of the integers that msgspec decodes and encodes."""
_INTEGER_DIGITS = 20
_INFINITY = float("inf")


class RepeatedKeyError(ValueError):
    """An object in a JSON text has the same key twice, with different values."""


READ_ERRORS = (RepeatedKeyError, RecursionError, UnicodeDecodeError, msgspec.DecodeError)
"""What decoders of JSON text raise, and `RepeatedKeyError`."""


def read_json(text: bytes, read: Callable[[bytes], T]) -> T:
    """Return what `read` finds in JSON text of a client. It gets the readable text, and may be called again if it has
    raised an error of a decoder or `RepeatedKeyError`.

    Raises `InvalidRequest` for text that cannot be read, and for values of types that `read` does not expect.
    """
    return read_with_source(text, read)[0]


def read_with_source(text: bytes, read: Callable[[bytes], T]) -> tuple[T, bytes]:
    """The same, and the bytes at the same positions that a relay sends: those of the client, without a byte order
    mark.
    """
    source = readable = text.removeprefix(codecs.BOM_UTF8)
    while True:
        try:
            return read(readable), source
        except READ_ERRORS as error:
            readable = _repair_text(readable, error)
            if isinstance(error, RepeatedKeyError):
                source = readable


def _repair_text(text: bytes, error: Exception) -> bytes:
    """Return a text that can be read in place of one for which `read` has raised one of `READ_ERRORS`: of the same
    length, or without repeated keys. Raises `InvalidRequest` if there is none.
    """
    try:
        if isinstance(error, RepeatedKeyError):
            return merge_repeated_keys(text)
        if isinstance(error, msgspec.DecodeError):
            readable, lone = replace_lone_surrogates(text)
            if lone:
                return readable
    except READ_ERRORS as further:
        error = further
    raise build_body_error(error, text) from None


def build_body_error(error: Exception, text: bytes) -> InvalidRequest:
    """Return the error to send for an exception of a decoder about a body. `text`: what it has decoded."""
    if isinstance(error, msgspec.ValidationError):
        return validation_error(error, text)
    if isinstance(error, RecursionError):
        return InvalidRequest(f"The request body {TOO_DEEP_MESSAGE}.", code="request-body")
    if isinstance(error, UnicodeDecodeError):
        return InvalidRequest(f"The request body is not valid UTF-8: {error.reason}.", code="request-body")
    reason = str(error).removeprefix("JSON is malformed: ")
    return InvalidRequest(f"The request body is not valid JSON: {reason}.", code="request-body")


def decode_values(text: bytes | Raw) -> Any:
    """Return the value of readable JSON text. A number that Python or JSON cannot have is a `Raw`, which is encoded as
    it was written.

    Raises like `msgspec.json.decode`.
    """
    try:
        return msgspec.json.decode(text)
    except msgspec.ValidationError:  # a number is out of range
        pass
    try:
        return json.loads(
            bytes(text).decode(), parse_int=_read_integer, parse_float=_read_float, parse_constant=_refuse_constant
        )
    except json.JSONDecodeError as error:
        raise msgspec.DecodeError(str(error)) from None


def merge_repeated_keys(text: bytes) -> bytes:
    """Return JSON text in which each key of an object occurs once, with its last value.

    Other parsers may use another of the repeated values. Raises `InvalidRequest` for too many members in the text.
    """
    require_bounded_members(text)
    return msgspec.json.encode(decode_values(text))


def _read_integer(digits: str) -> int | Raw:
    if len(digits) <= _INTEGER_DIGITS and _MIN_INTEGER <= (number := int(digits)) <= _MAX_INTEGER:
        return number
    return Raw(digits.encode())


def _read_float(digits: str) -> float | Raw:
    number = float(digits)
    return Raw(digits.encode()) if number in (_INFINITY, -_INFINITY) else number


def _refuse_constant(name: str) -> Any:
    raise msgspec.DecodeError(f"{name} is no number of JSON")
