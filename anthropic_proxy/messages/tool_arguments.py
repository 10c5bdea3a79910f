"""Conversion of tool call arguments to the JSON object that a reply without streaming must contain.

Models sometimes write truncated or invalid JSON. `build_arguments_object` returns an object for any text.
`is_truncated_object` detects an object without its end, and `means_no_arguments` a call without arguments. In a stream,
the client receives other text of the model unchanged instead.
"""

import re

import msgspec
from msgspec import Raw

_NO_ARGUMENTS = ("", "null", "None")
_object_decoder = msgspec.json.Decoder(dict[str, Raw])


def build_arguments_object(text: str) -> Raw:
    """Return the JSON object for the arguments of a tool call, which the model may have truncated.

    A truncated object keeps its complete members. Empty text and `null` become an empty object. For any other text,
    also for valid JSON that is no object, the result is an object with the text in the field `__unparsedToolInput`.
    """
    if means_no_arguments(text):
        return Raw(b"{}")
    # a truncated object keeps its complete members, as in the official SDKs
    for candidate in (text, _close_truncated(text)):
        if candidate is not None and _is_object(candidate):
            return Raw(candidate.encode())
    # as in Claude Code
    length = len(text.encode("utf-16-le")) // 2  # JavaScript's length of a string
    return Raw(msgspec.json.encode({"__unparsedToolInput": {"raw": text, "len": length}}))


def means_no_arguments(text: str) -> bool:
    """Return True if the text of a model for a call without arguments is no object: `null` (Groq, recorded), or `None`.

    Empty text and white space mean the same.
    """
    return text.strip() in _NO_ARGUMENTS


def may_mean_no_arguments(beginning: str) -> bool:
    """Return True if a text that begins like this may turn out to be `null` or `None`."""
    return any(text.startswith(beginning.strip()) for text in _NO_ARGUMENTS)


def is_truncated_object(text: str) -> bool:
    """Return True if a text begins a JSON object but does not contain its end."""
    if _is_object(text):
        return False
    closed = _close_truncated(text)
    return closed is not None and not text.startswith(closed)


def _is_object(text: str) -> bool:
    try:
        _object_decoder.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


# Possessive (`*+`) only over single characters: over a group, early releases of 3.11 (Debian 12 has one) match wrongly.
_STRING = r'"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*'
_NUMBER = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_token = re.compile(rf'(?:{_STRING}")|(?:(?:{_NUMBER}|true|false|null)(?![0-9a-zA-Z.+-]))|[{{}}\[\]:,]')
_cut_token = re.compile(
    rf"{_STRING}(?:\\(?:u[0-9a-fA-F]{{0,3}})?)?"
    r"|-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*|(?:\.[0-9]+)?[eE][+-]?[0-9]*)?)?"
    r"|t(?:r(?:u)?)?|f(?:a(?:l(?:s)?)?)?|n(?:u(?:l)?)?"
)
_space = re.compile(r"[ \t\r\n]*")


class _Reader:
    """Parser of a JSON object that may be truncated. It records where the last complete member ends."""

    def __init__(self) -> None:
        # allowed next tokens: "{" the object itself, "k" a key, "v" a value, ":", ",", "e" the end of a container
        self._expected = "{"
        self._closers: list[str] = []
        self.complete = 0
        """Number of characters up to the end of the last complete value, or up to the last opening bracket."""

    @property
    def ended(self) -> bool:
        """True after the closing bracket of the JSON object was read."""
        return not self._closers

    @property
    def closing(self) -> str:
        """Closing brackets that complete the text read so far, in order: `]}`."""
        return "".join(reversed(self._closers))

    def expects(self, word: str) -> bool:
        """Return True if JSON allows `word` after the text read so far.

        `word`: a JSON token or the beginning of one.
        """
        expected = self._expected
        if word in ("}", "]"):
            return "e" in expected and word == self._closers[-1]
        if word in (":", ","):
            return word in expected
        if "k" in expected:
            return word[0] == '"'
        return "v" in expected or word == expected

    def feed(self, word: str, end: int) -> None:
        """Read the next JSON token `word`. `end`: number of characters of the text up to the end of the token."""
        if word == ",":
            self._expected = "k" if self._closers[-1] == "}" else "v"
        elif word == ":" or ("k" in self._expected and word != "}"):
            self._expected = "v" if word == ":" else ":"
        else:
            if word in ("{", "["):
                self._closers.append("}" if word == "{" else "]")
                self._expected = "ke" if word == "{" else "ve"
            else:
                if word in ("}", "]"):
                    self._closers.pop()
                self._expected = ",e"
            self.complete = end


def _close_truncated(text: str) -> str | None:
    """Return the JSON object at the beginning of `text`. None: the text does not begin with an object.

    If the end of the object is missing, the object ends after its last complete member, with added closing brackets.
    """
    reader, position = _Reader(), 0
    while True:
        space = _space.match(text, position)
        position = space.end() if space else position
        token = _token.match(text, position)
        if token is None:
            remainder = text[position:]
            is_cut = not remainder or (reader.expects(remainder) and _cut_token.fullmatch(remainder))
            if not reader.complete or not is_cut:
                return None
            return text[: reader.complete] + reader.closing
        if not reader.expects(token.group()):
            return None
        position = token.end()
        reader.feed(token.group(), position)
        if reader.ended:
            return text[:position]
