"""What is wrong with a body, said the way Anthropic's own API says it: path, rule, and the value that broke it."""

import re
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from anthropic_proxy.errors import InvalidRequest

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
_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_list = msgspec.json.Decoder(list[Raw]).decode
_SHOWN = 60
"""Characters of a wrong value that a message shows."""


def shown(value: Any) -> str:
    """Return a value as short JSON text."""
    try:
        text = bytes(value) if isinstance(value, Raw) else msgspec.json.encode(value)
    except (RecursionError, UnicodeEncodeError):
        return "a deep value"
    words = text[: 4 * _SHOWN + 4].decode(errors="ignore")
    return words if len(words) <= _SHOWN else f"{words[: _SHOWN - 1]}…"


def wrong_type(path: str, allowed: str, value: Any) -> InvalidRequest:
    """Return the refusal of a value of the wrong type; `allowed` in words: `a string`."""
    return InvalidRequest(f"{path}: Input should be {allowed}, got {shown(value)}")


def missing(path: str) -> InvalidRequest:
    """Return the refusal of a body that lacks the field at `path`."""
    return InvalidRequest(f"{path}: Field required")


def decode_fields(
    fields: dict[str, Raw], decode: Callable[[bytes], T], spare: Collection[str], path: str = ""
) -> tuple[T, list[str]]:
    """Decode an object from its fields, without those of `spare` that have a wrong type; return it and their names.

    Raises `InvalidRequest` where another field is wrong; `path` is the object's place in the body.
    """
    left_out: list[str] = []
    fields = dict(fields)
    while True:
        whole = msgspec.json.encode(fields)
        try:
            return decode(whole), left_out
        except msgspec.ValidationError as error:
            root = _ROOT.search(str(error))
            if root is None or root[1] not in spare or root[1] not in fields:
                raise explain(error, whole, path) from None
            del fields[root[1]]
            left_out.append(root[1])


def explain(error: Exception, raw: Raw | bytes, path: str = "") -> InvalidRequest:
    """Turn what the JSON library said of `raw`, which stands at `path`, into a refusal of field, value and rule."""
    match = _PLACED.fullmatch(str(error))
    what, place = (match["what"], match["place"] or "") if match else (str(error), "")
    steps = [name or index for name, index in _STEP.findall(place)]
    where = ".".join(filter(None, (path, *steps)))
    if absent := _MISSING.fullmatch(what):
        return missing(".".join(filter(None, (where, absent["name"]))))
    if expected := _EXPECTED.fullmatch(what):
        wanted = [_WORDS.get(word, word) for word in expected["wanted"].split(" | ") if word != "null"]
        return wrong_type(where or "body", " or ".join(wanted), _value_at(raw, steps))
    return InvalidRequest(f"{where or 'body'}: {what}, got {shown(_value_at(raw, steps))}")


def _value_at(raw: Raw | bytes, steps: list[str]) -> Raw:
    """Return a value as it was sent: numbers of JSON may be larger than any that we can hold."""
    value = Raw(raw)
    try:
        for step in steps:
            value = _decode_list(value)[int(step)] if step.isdigit() else _decode_object(value)[step]
    except (msgspec.DecodeError, KeyError, IndexError, RecursionError, UnicodeDecodeError):
        pass
    return value
