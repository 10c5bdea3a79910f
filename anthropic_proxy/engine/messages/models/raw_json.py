"""JSON text that is not decoded (`Raw`): its type, size and depth, repairs, and the errors for an invalid value.

Most of a request is only forwarded, so it is stored as `Raw`, whose type is judged by its first character. Errors have
the format of Anthropic's API: the path of the invalid value (`messages.0.content`), the violated rule and the value.
"""

import functools
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sized
from itertools import accumulate, compress
from operator import countOf
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.slices import give_way
from anthropic_proxy.errors import InvalidRequest

T = TypeVar("T")

_NULL = b"n"[0]
_decode_string = msgspec.json.Decoder(str).decode

ABSENT = Raw(b"")
"""Value of a `Raw` field that was not sent. It is used because msgspec allows no union of `Raw` and None."""
EMPTY_STRING_LENGTH = 2  # bytes of JSON: two quotes
ABOVE_STRINGS = bytearray(b"#")
"""Upper bound of JSON strings. A `Raw` below it is a string or absent, because `"` is the lowest first character of a
JSON value."""
MIN_OBJECT = bytearray(b"{")
"""Lower bound of JSON objects. A `Raw` below it is no object, because `{` is the highest first character of a JSON
value."""


def is_present(raw: Raw) -> bool:
    """Return True if the field was sent and its value is not null."""
    return raw is not ABSENT and bytes(raw) != b"null"


def is_string_or_absent(raw: Raw) -> bool:
    """Return True if the `Raw` value is a JSON string, or `ABSENT` (the client did not send the field)."""
    return raw < ABOVE_STRINGS


def is_json_object(raw: Raw) -> bool:
    return raw >= MIN_OBJECT


def json_string(text: str) -> Raw:
    return Raw(msgspec.json.encode(text))


def build_fields_decoder(names: Iterable[str]) -> Callable[[Raw | bytes], dict[str, Raw]]:
    """Return a function that returns these fields of a JSON object, except fields with the value null.

    In the Messages API, null means absent. Other fields are skipped, because a dict of all of them takes about 20 times
    the size of the object.
    """
    attributes = {f"field{index}": name for index, name in enumerate(sorted(set(names)))}
    fields = msgspec.defstruct("Fields", [(attribute, Raw, ABSENT) for attribute in attributes], rename=attributes)
    decode = msgspec.json.Decoder(fields).decode

    def decode_fields(raw: Raw | bytes) -> dict[str, Raw]:
        found = zip(attributes.values(), msgspec.structs.astuple(decode(raw)), strict=True)
        return {name: value for name, value in found if len(value) and memoryview(value)[0] != _NULL}

    return decode_fields


def decode_string(raw: Raw) -> str | None:
    return _decode_string(raw) if is_string_or_absent(raw) else None


_SURROGATES = compile_later(
    rb"\\(?:\\|u[dD](?:[89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|([89a-fA-F][0-9a-fA-F]{2})))"
)
"""Pattern of JSON escapes: a backslash, a pair of surrogates, or a lone surrogate (group 1)."""
_ESCAPES_OF_SLICE = 10_000


def replace_lone_surrogates(text: bytes) -> tuple[bytes, int]:
    """Return JSON text with U+FFFD in place of lone surrogates, and the number of replacements."""
    replaced = bytearray()
    end = 0
    lone = 0
    for number, escape in enumerate(_SURROGATES.finditer(text)):
        if not number % _ESCAPES_OF_SLICE:
            give_way()
        if escape[1] is not None:
            replaced += memoryview(text)[end : escape.start()]
            replaced += b"\\ufffd"
            end = escape.end()
            lone += 1
    return (bytes(replaced + memoryview(text)[end:]), lone) if lone else (text, 0)


def replace_lone_escapes(text: str) -> str:
    """Return JSON text with U+FFFD in place of lone surrogates, of which no other text can have the code points."""
    return replace_lone_surrogates(text.encode())[0].decode() if "\\u" in text else text


def load_json(text: str, read_members: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Return the value of JSON text of strangers as `json.loads` does, with U+FFFD in place of lone surrogates.

    `msgspec` admits none, but it hides repeated members, and `json.loads` admits texts that nothing can encode later.
    `read_members` returns an object for its members. Raises `ValueError` and `RecursionError`.
    """
    return json.loads(replace_lone_escapes(text), object_pairs_hook=read_members)


MAX_MEMBERS = 250_000
"""Maximum number of list elements and object members in a request body. Decoding one takes up to 250 bytes and 2 µs,
and a call of the decoder blocks all other threads until it returns."""
MIN_COUNTED_BYTES = 1 << 21
"""Size of a body in bytes from which its parts are counted before it is decoded. The parts of a smaller one are few, so
only the lists and objects that may be decoded twice are counted."""
_COUNTED_BYTES = 1 << 16
"""Size of the pieces in which the parts of a text are counted. Other threads run between two pieces."""
_AS_LIST = bytes.maketrans(b"{}", b"[]")
_DEPTH_STEPS = bytes.maketrans(b"[],", b"\x01\xff\x00")
"""Change of the depth at each character, as signed bytes."""
_IS_COMMA = bytes.maketrans(b"[],", b"\x00\x00\x01")
_NO_STRUCTURE = bytes(set(range(256)) - set(b"[]{},"))


def require_bounded_members(text: bytes, *, counts_nested: bool = True) -> None:
    """Raise `InvalidRequest` if `has_too_many_members` for this text."""
    if has_too_many_members(text, counts_nested=counts_nested):
        raise InvalidRequest(
            f"The request body contains more than {MAX_MEMBERS:,} list elements and object members.",
            code="request-body",
        )


def has_too_many_members(text: bytes, *, counts_nested: bool = True) -> bool:
    """Return True if JSON text has more than `MAX_MEMBERS` commas outside of its strings. It is not decoded.

    If `counts_nested` is False, only the commas between the members of the outermost list or object count.
    """
    if len(text) < 2 * MAX_MEMBERS or text.count(b",") < MAX_MEMBERS:
        return False
    members = depth = 0
    for piece in _find_structure(text):
        if counts_nested:
            members += piece.count(b",")
        else:
            structure = piece
            while len(collapsed := structure.replace(b"[]", b"")) < 0.9 * len(structure):
                structure = collapsed
            steps = memoryview(structure.translate(_DEPTH_STEPS)).cast("b")
            depths = accumulate(steps, initial=depth)
            members += countOf(compress(depths, structure.translate(_IS_COMMA)), 1)
            depth += structure.count(b"[") - structure.count(b"]")
        if members >= MAX_MEMBERS:
            return True
    return False


def _find_structure(text: bytes) -> Iterator[bytes]:
    """Yield the brackets and commas of JSON text that are outside of its strings, piece by piece. Braces are brackets.

    A call for the whole text would block all other threads until it returns.
    """
    text = text.replace(rb"\\", b"").replace(rb"\"", b"")  # then each quote begins or ends a string
    open_quote = b""
    for start in range(0, len(text), _COUNTED_BYTES):
        texts = (open_quote + text[start : start + _COUNTED_BYTES]).split(b'"')
        open_quote = b"" if len(texts) % 2 else b'"'
        yield b"".join(texts[::2]).translate(_AS_LIST, _NO_STRUCTURE)


MAX_JSON_DEPTH = 200
"""Maximum nesting of lists and objects in a schema or in the input of a tool call. Deeper JSON is rejected with 400."""
MAX_SCHEMA_BYTES = 4 * 1024 * 1024
"""Maximum size of a JSON Schema. A larger one is rejected with 400, because decoding needs about 20 times its size."""
TOO_DEEP_MESSAGE = "nests lists and objects too deeply; at most 200 levels are allowed"
SHALLOW_BYTES = 2 * MAX_JSON_DEPTH
"""Size in bytes up to which JSON needs no check of its depth, because each level of nesting needs two bytes."""
_OPENING = ord("[")


def is_raw_too_deep(tree: Raw) -> bool:
    return len(tree) > SHALLOW_BYTES and is_json_text_too_deep(bytes(tree))


def find_schema_size_error(schema: Sized) -> str:
    if len(schema) <= MAX_SCHEMA_BYTES:
        return ""
    return f"has {len(schema):,} bytes; at most {MAX_SCHEMA_BYTES:,} are allowed"


def find_schema_error(schema: bytes) -> str:
    if large := find_schema_size_error(schema):
        return large
    if is_json_text_too_deep(schema):
        return TOO_DEEP_MESSAGE
    try:
        msgspec.json.decode(schema or b"null")
    except msgspec.ValidationError:
        return "holds a number out of range"
    return ""


def is_json_text_too_deep(text: bytes) -> bool:
    """Return True if a JSON text nests lists and objects deeper than `MAX_JSON_DEPTH`."""
    if text.count(b"{") + text.count(b"[") <= MAX_JSON_DEPTH:
        return False
    depth = 0
    for structure in _find_structure(text):
        begin, brackets = depth, structure.replace(b",", b"")
        for bracket in brackets.replace(b"[]", b""):  # most lists and objects have none inside
            depth += 1 if bracket == _OPENING else -1
            if depth >= MAX_JSON_DEPTH:  # one that was left out may be too deep
                break
        else:
            continue
        depth = begin
        for bracket in brackets:
            depth += 1 if bracket == _OPENING else -1
            if depth > MAX_JSON_DEPTH:
                return True
    return False


_PLACED = compile_anchored(r"(?P<what>.*?)(?: - at `\$(?P<place>[^`]*)`)?", re.DOTALL)
_STEP = compile_later(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_ROOT = compile_later(r" - at `\$\.([^.\[`]+)")
_EXPECTED = compile_anchored(r"Expected `(?P<wanted>[^`]*)`, got `[^`]*`")
_MISSING = compile_anchored(r"Object missing required field `(?P<name>[^`]*)`")
_NAMED = compile_later(r"'.*'|\".*\"", re.DOTALL)
"""A value in the words of the decoder, as Python prints it: `Invalid enum value 'x'`."""
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


def wrong_type_error(path: str, allowed: str, value: Any) -> InvalidRequest:
    got = _Got(value)
    return InvalidRequest(
        f"{path}: Input should be {allowed}, got {got.shown}", code="invalid-field", quotes=got.quotes
    )


def missing_field_error(path: str) -> InvalidRequest:
    return InvalidRequest(f"{path}: Field required", code="invalid-field")


def validation_error(error: Exception, raw: Raw | bytes, path: str = "") -> InvalidRequest:
    """Return the error to send for an exception of the JSON library. `path`: path of `raw` in the body."""
    match = _PLACED.fullmatch(str(error))
    what, place = (match["what"], match["place"] or "") if match else (str(error), "")
    steps = [name or index for name, index in _STEP.findall(place)]
    where = ".".join(filter(None, (path, *steps)))
    if absent := _MISSING.fullmatch(what):
        return missing_field_error(".".join(filter(None, (where, absent["name"]))))
    value = Raw(raw)
    try:
        for step in steps:
            value = _decode_list(value)[int(step)] if step.isdigit() else _field_decoder(step)(value).value
    except (msgspec.DecodeError, IndexError, RecursionError, UnicodeDecodeError):
        pass
    if expected := _EXPECTED.fullmatch(what):
        wanted = [_WORDS.get(word, word) for word in expected["wanted"].split(" | ") if word != "null"]
        return wrong_type_error(where or "body", " or ".join(wanted), value)
    got, named = _Got(value), _NAMED.search(what)
    quotes = got.quotes if named is None else got.quotes | quote_text(named[0])
    return InvalidRequest(f"{where or 'body'}: {what}, got {got.shown}", code="invalid-field", quotes=quotes)


def decode_lenient_fields(
    fields: dict[str, Raw], decode: Callable[[bytes], T], optional: Collection[str], path: str = ""
) -> tuple[T, list[str]]:
    """Decode a JSON object, and drop the fields among `optional` that have a wrong type.

    Return the decoded object and the names of the dropped fields. Raises `InvalidRequest` for any other invalid field.
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


@functools.lru_cache(maxsize=256)
def _field_decoder(name: str) -> Callable[[Raw], Any]:
    """Return a function that decodes one field of an object as its attribute `value`, and skips all other fields."""
    return msgspec.json.Decoder(msgspec.defstruct("Field", [("value", Raw)], rename={"value": name})).decode


class _Got:
    """A value of a body in an error. `shown`: its beginning, for the client. `quotes`: see `ProxyError`."""

    def __init__(self, value: Any) -> None:
        try:
            encoded = bytes(value) if isinstance(value, Raw) else msgspec.json.encode(value)
        except (RecursionError, UnicodeEncodeError):
            encoded = b""
        text = encoded[: 4 * _MAX_SHOWN_CHARACTERS + 4].decode(errors="ignore")
        if len(text) > _MAX_SHOWN_CHARACTERS:
            text = f"{text[: _MAX_SHOWN_CHARACTERS - 1]}…"
        self.shown = text or "a deep value"
        self.quotes = {} if encoded in _CONSTANTS else {f", got {text}": f", got {describe_json(encoded)}"}


_CONSTANTS = (b"", b"null", b"true", b"false")
_KINDS_OF_JSON = {b'"': "a string", b"[": "a list", b"{": "an object"}


def describe_json(text: bytes) -> str:
    """Return type and length of a JSON value."""
    return f"{_KINDS_OF_JSON.get(text[:1], 'a number')} of {len(text)} bytes"


def quote_text(text: str) -> dict[str, str]:
    """Return `ProxyError.quotes` for a text of the client in a message: a name, or the words of a library about it."""
    return {text: f"(a text of {len(text)} characters)"} if text else {}
