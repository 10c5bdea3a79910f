"""Errors (400) for invalid request bodies, in the format of Anthropic's API.

A message has the path of the invalid value (`messages.0.content`), the violated rule and the value. `validation_error`
converts an exception of the JSON library. `wrong_type_error` and `missing_field_error` build two frequent errors.
`decode_lenient_fields` drops optional fields of a wrong type instead of raising an error.
"""

import functools
import re
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.messages.models.raw_kinds import MAX_MEMBERS, has_too_many_members

T = TypeVar("T")

_PLACED = re.compile(r"(?P<what>.*?)(?: - at `\$(?P<place>[^`]*)`)?", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_ROOT = re.compile(r" - at `\$\.([^.\[`]+)")
_EXPECTED = re.compile(r"Expected `(?P<wanted>[^`]*)`, got `[^`]*`")
_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]*)`")
_WORDS = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
}
_decode_list = msgspec.json.Decoder(list[Raw]).decode
_MAX_SHOWN_CHARACTERS = 60
"""Maximum characters of an invalid value in an error message."""


def short_json(value: Any) -> str:
    """Return a value as JSON text of at most 60 characters, for an error message."""
    try:
        encoded = bytes(value) if isinstance(value, Raw) else msgspec.json.encode(value)
    except (RecursionError, UnicodeEncodeError):
        return "a deep value"
    text = encoded[: 4 * _MAX_SHOWN_CHARACTERS + 4].decode(errors="ignore")
    return text if len(text) <= _MAX_SHOWN_CHARACTERS else f"{text[: _MAX_SHOWN_CHARACTERS - 1]}…"


def require_bounded_members(text: bytes, *, counts_nested: bool = True) -> None:
    """Raise `InvalidRequest` for JSON text with more than `MAX_MEMBERS` list elements and object members.

    If `counts_nested` is False, only the members of the outermost list or object count.
    """
    if has_too_many_members(text, counts_nested=counts_nested):
        raise InvalidRequest(f"The request body contains more than {MAX_MEMBERS:,} list elements and object members.")


def wrong_type_error(path: str, allowed: str, value: Any) -> InvalidRequest:
    """Return the error for a value of the wrong type. `allowed`: allowed type, such as `a string`."""
    return InvalidRequest(f"{path}: Input should be {allowed}, got {short_json(value)}")


def missing_field_error(path: str) -> InvalidRequest:
    """Return the error for a missing field. `path`: path of the field in the request body."""
    return InvalidRequest(f"{path}: Field required")


def decode_lenient_fields(
    fields: dict[str, Raw], decode: Callable[[bytes], T], optional: Collection[str], path: str = ""
) -> tuple[T, list[str]]:
    """Decode a JSON object, and drop optional fields that have a wrong type.

    Return the decoded object and the names of the dropped fields. `optional` has the names of the fields that may be
    dropped. Raises `InvalidRequest` for any other invalid field.
    """
    dropped: list[str] = []
    fields = dict(fields)
    while True:
        encoded = msgspec.json.encode(fields)
        try:
            return decode(encoded), dropped
        except msgspec.ValidationError as error:
            root = _ROOT.search(str(error))
            if root is None or root[1] not in optional or root[1] not in fields:
                raise validation_error(error, encoded, path) from None
            del fields[root[1]]
            dropped.append(root[1])


def validation_error(error: Exception, raw: Raw | bytes, path: str = "") -> InvalidRequest:
    """Return the error to send for an exception of the JSON library.

    `raw`: the JSON value that was decoded. `path`: path of this value in the request body.
    """
    match = _PLACED.fullmatch(str(error))
    what, place = (match["what"], match["place"] or "") if match else (str(error), "")
    steps = [name or index for name, index in _STEP.findall(place)]
    where = ".".join(filter(None, (path, *steps)))
    if absent := _MISSING.fullmatch(what):
        return missing_field_error(".".join(filter(None, (where, absent["name"]))))
    if expected := _EXPECTED.fullmatch(what):
        wanted = [_WORDS.get(word, word) for word in expected["wanted"].split(" | ") if word != "null"]
        return wrong_type_error(where or "body", " or ".join(wanted), _value_at(raw, steps))
    return InvalidRequest(f"{where or 'body'}: {what}, got {short_json(_value_at(raw, steps))}")


@functools.lru_cache(maxsize=256)
def _field_decoder(name: str) -> Callable[[Raw], Any]:
    """Return a function that decodes one field of an object as its attribute `value`, and skips all other fields."""
    return msgspec.json.Decoder(msgspec.defstruct("Field", [("value", Raw)], rename={"value": name})).decode


def _value_at(raw: Raw | bytes, steps: list[str]) -> Raw:
    """Return the JSON text at a path inside `raw`. `steps`: the keys and indexes of the path."""
    value = Raw(raw)
    try:
        for step in steps:
            value = _decode_list(value)[int(step)] if step.isdigit() else _field_decoder(step)(value).value
    except (msgspec.DecodeError, IndexError, RecursionError, UnicodeDecodeError):
        pass
    return value
