"""Tool arguments that are no JSON object, made one where nobody could read them otherwise.

A library (`json_repair`) proposes, and a rule of our own disposes: what it guessed counts only if the object says the
same words in the same order as the model did. Commas, the style of quotes and the brackets at the very end may differ,
nothing else. It is loaded when the first arguments are broken, which most servers never send.
"""

import json
import re
from typing import Any, NamedTuple

import msgspec

LONGEST = 64 * 1024
"""Characters of arguments that are looked at, a fifth of a second at worst; longer ones pass as they are."""
_DEEPEST = 200
"""Objects and lists within each other; the library takes a second and more for thousands of open braces."""
_NESTED = 2
"""How often arguments may be encoded once more."""

_TOKEN = re.compile(
    r"""
    (?P<space>[\s\ufeff]+)
  | (?P<string>"[^"\\]*(?:\\.[^"\\]*)*" | '[^'\\]*(?:\\.[^'\\]*)*')
  | (?P<open>  "[^"\\]*(?:\\.[^"\\]*)*\Z | '[^'\\]*(?:\\.[^'\\]*)*\Z)
  | (?P<number>-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![\w.]))
  | (?P<word>[A-Za-z_$][\w$-]*)
  | (?P<mark>[{}\[\]:,])
    """,
    re.VERBOSE | re.DOTALL,
)
_LITERALS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
_QUOTED = re.compile(r"""["'{}\[\]]""")
"""What text around an object may not hold, because it could be part of a larger one."""
_ESCAPE = re.compile(r"\\.|\"", re.DOTALL)
_OPENERS = ("{", "[")
_CLOSERS = ("}", "]")
_COLON = re.compile(r"\s*:")
_SPACE = re.compile(r"\s*")
_scan = json.JSONDecoder(strict=False).raw_decode


def is_object(text: str) -> bool:
    """Whether a text is one JSON object and nothing else."""
    try:
        msgspec.json.decode(text, type=dict)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return False
    return True


def mend_arguments(text: str, *, alone: bool = False) -> str | None:
    """Return the one JSON object that a text must mean, as JSON text; None where there are two ways to read it.

    Mended are: a comma too many or too few, brackets missing or too many at the end, quotes and words as Python and
    JavaScript write them, an object encoded once more as a string. Unless it stands `alone`, between marks that say
    where it ends, also: a string that the text ends in, an object said twice, text or a fence around it.

    >>> mend_arguments('{"path": "a",}')
    '{"path": "a"}'
    """
    text = text.strip().removeprefix("\ufeff")
    if len(text) > LONGEST:
        return None
    for _ in range(_NESTED):
        if is_object(text):
            return text
        if not (inner := _decode_text(text)):
            break
        text = inner.strip()
    if alone:
        return _repair(text, closes_strings=False) if text.startswith("{") else None
    begin, end = text.find("{"), text.rfind("}") + 1
    if begin < 0 or _QUOTED.search(text, 0, begin):
        return None
    if whole := _repair(text[begin:], closes_strings=True):
        return whole
    inside = text[begin:end]
    if not inside or _QUOTED.search(text, end):
        return None
    return _find_repeated(inside) or _repair(inside, closes_strings=False)


def _decode_text(text: str) -> str | None:
    """Return what a JSON string holds."""
    if text[:1] != '"':
        return None
    try:
        return msgspec.json.decode(text, type=str)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None


def _find_repeated(text: str) -> str | None:
    """Return the object that a text says once or again and again; empty ones before it say nothing."""
    said, position, found = "", 0, None
    while position < len(text):
        try:
            value, end = _scan(text, position)
        except (ValueError, RecursionError):
            return None
        if not isinstance(value, dict) or (found and value != found):
            return None
        said, found = text[position:end], value
        gap = _SPACE.match(text, end)
        position = gap.end() if gap else end
    return said if is_object(said) else None


class _Token(NamedTuple):
    kind: str
    value: Any


def _repair(text: str, *, closes_strings: bool) -> str | None:
    """Return the library's reading of a text that begins with a brace, if it keeps to the rule."""
    said = _read_words(text, closes_strings=closes_strings)
    if said is None:
        return None
    import json_repair  # noqa: PLC0415  # most servers never need it

    try:
        repaired = json_repair.loads(text, skip_json_loads=True)
        if not isinstance(repaired, dict):
            return None
        mended = json.dumps(repaired, ensure_ascii=False, allow_nan=False)
        mended.encode()
    except (ValueError, RecursionError):  # half a character is a ValueError too
        return None
    return mended if _read_words(mended, closes_strings=False) == said else None


def _read_words(text: str, *, closes_strings: bool) -> list[_Token] | None:
    """Return what a text says, without commas and without the brackets at its end; None: no reader is sure of it."""
    tokens: list[_Token] = []
    position = depth = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or (match.lastgroup == "open" and not closes_strings):
            return None
        position = match.end()
        depth += (match.group() in _OPENERS) - (match.group() in _CLOSERS)
        if depth > _DEEPEST:
            return None
        if match.lastgroup == "space" or match.group() == ",":
            continue
        try:
            token = _read_token(str(match.lastgroup), match.group(), names=_COLON.match(text, position) is not None)
        except ValueError:  # an escape that is none, a number too large
            return None
        if token is None:
            return None
        tokens.append(token)
    while tokens and tokens[-1].kind == "mark" and tokens[-1].value in _CLOSERS:
        tokens.pop()
    return tokens


def _read_token(kind: str, said: str, *, names: bool) -> _Token | None:
    if kind == "mark":
        return _Token(kind, said)
    if kind == "number":
        return _Token(kind, json.loads(said))
    if kind == "word":
        if names:
            return _Token("string", said)
        return _Token(kind, _LITERALS[said]) if said in _LITERALS else None
    body = said[1:] if kind == "open" else said[1:-1]
    return _Token("string", json.loads('"' + _ESCAPE.sub(_as_json, body) + '"', strict=False))


def _as_json(escape: re.Match[str]) -> str:
    """Return an escape as JSON has it: single quotes need none; double ones, bare between single ones, do."""
    return {"\\'": "'", '"': '\\"'}.get(escape.group(), escape.group())
