"""Conversion of tool call arguments to the JSON object that a reply without streaming must contain.

Models sometimes write truncated or invalid JSON. In a stream, the client receives text that begins an object unchanged
and repairs it itself. A reply without streaming must contain an object, so it contains what the official SDKs and
Claude Code make of the same text. A truncated object keeps its complete members.
"""

from contextlib import suppress

import msgspec
from msgspec import Raw

from anthropic_proxy.engine.patterns import compile_later

_NO_ARGUMENTS = ("", "null", "None", "[]")
_object_decoder = msgspec.json.Decoder(dict[str, Raw])
_decode_string = msgspec.json.Decoder(str).decode


def build_arguments_object(text: str) -> Raw:
    """Return the arguments as a JSON object. Other text becomes its field `__unparsedToolInput`."""
    if means_no_arguments(text):
        return Raw(b"{}")
    # a truncated object keeps its complete members, as in the official SDKs
    for candidate in (text, _close_truncated(text)):
        if candidate is not None and _is_object(candidate):
            return Raw(candidate.encode())
    with suppress(msgspec.DecodeError):  # some models write the object as a JSON string
        inner = _decode_string(text)
        if means_no_arguments(inner) or _is_object(inner):
            return build_arguments_object(inner)
    # as in Claude Code
    length = len(text.encode("utf-16-le")) // 2  # JavaScript's length of a string
    return Raw(msgspec.json.encode({"__unparsedToolInput": {"raw": text, "len": length}}))


def means_no_arguments(text: str) -> bool:
    """Return True for a text that models write instead of `{}`.

    `null` (Groq, recorded), `None`, `[]` (servers in PHP, which has no other empty object), or white space.
    """
    return text.strip() in _NO_ARGUMENTS


def is_truncated_object(text: str) -> bool:
    """Return True if a text begins a JSON object but does not contain its end."""
    if _is_object(text):
        return False
    closed = _close_truncated(text)
    return closed is not None and not text.startswith(closed)


_IN_STRING = compile_later(r'["\\]')
_OUTSIDE = compile_later(r'["{}\[\]]')


class ObjectEnd:
    """Finds the end of a JSON object that arrives in pieces, by its brackets and quotes. It may be invalid JSON."""

    __slots__ = ("_depth", "_escaped", "_in_string", "is_reached")

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._escaped = self.is_reached = False

    def feed(self, text: str) -> int:
        """Return the number of characters in `text` that belong to the object."""
        if self.is_reached or not text:
            return 0
        place = 0
        if self._escaped:
            place, self._escaped = 1, False
        while mark := (_IN_STRING if self._in_string else _OUTSIDE).search(text, place):
            place = mark.end()
            if mark[0] == "\\":
                self._escaped = place == len(text)
                place += 1
            elif mark[0] == '"':
                self._in_string = not self._in_string
            elif mark[0] in "{[":
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth <= 0:
                    self.is_reached = True
                    return place
        return len(text)


def _is_object(text: str) -> bool:
    try:
        _object_decoder.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


# `_token` matches a complete JSON token, and `_cut_token` the beginning of a token at the end of the text.
# Possessive (`*+`) only over single characters: over a group, early releases of 3.11 (Debian 12 has one) match wrongly.
_STRING = r'"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*'
_NUMBER = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_token = compile_later(rf'(?:{_STRING}")|(?:(?:{_NUMBER}|true|false|null)(?![0-9a-zA-Z.+-]))|[{{}}\[\]:,]')
_cut_token = compile_later(
    rf"{_STRING}(?:\\(?:u[0-9a-fA-F]{{0,3}})?)?"
    r"|-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*|(?:\.[0-9]+)?[eE][+-]?[0-9]*)?)?"
    r"|t(?:r(?:u)?)?|f(?:a(?:l(?:s)?)?)?|n(?:u(?:l)?)?"
)
_space = compile_later(r"[ \t\r\n]*")


def _close_truncated(text: str) -> str | None:
    """Return the JSON object at the beginning of `text`. None: the text does not begin with an object.

    If the end of the object is missing, the object ends after its last complete member, with added closing brackets.
    """
    expected = "{"  # next tokens: "{" the object itself, "k" a key, "v" a value, ":", ",", "e" the end of a container
    closers: list[str] = []
    position = complete = 0  # complete: end of the last complete value or opening bracket

    def is_expected(word: str) -> bool:
        if word in ("}", "]"):
            return "e" in expected and word == closers[-1]
        if word in (":", ","):
            return word in expected
        if "k" in expected:
            return word[0] == '"'
        return "v" in expected or word == expected

    while True:
        space = _space.match(text, position)
        position = space.end() if space else position
        token = _token.match(text, position)
        if token is None:
            remainder = text[position:]
            is_cut = not remainder or (is_expected(remainder) and _cut_token.fullmatch(remainder))
            return text[:complete] + "".join(reversed(closers)) if complete and is_cut else None
        word, position = token.group(), token.end()
        if not is_expected(word):
            return None
        if word == ",":
            expected = "k" if closers[-1] == "}" else "v"
        elif word == ":":
            expected = "v"
        elif "k" in expected and word != "}":
            expected = ":"
        else:
            complete = position
            if word in ("{", "["):
                closers.append("}" if word == "{" else "]")
                expected = "ke" if word == "{" else "ve"
            else:
                if word in ("}", "]"):
                    closers.pop()
                expected = ",e"
            if not closers:
                return text[:position]
