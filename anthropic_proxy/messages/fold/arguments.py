"""A call's arguments as one JSON object, where a whole message needs one and the model wrote something else."""

import re

import msgspec
from msgspec import Raw

_object_decoder = msgspec.json.Decoder(dict[str, Raw])


def whole_input(text: str) -> Raw:
    """Return a call's arguments as one JSON object, whatever the model wrote.

    An object passes as it was written. One that was cut short, or that something follows, is taken as far as it is
    complete: that is what the official SDKs accumulate from a stream. Anything else gets the shape in which Claude Code
    itself sends such arguments back, so that the tool refuses them and the model sees what it wrote.
    """
    if not text or text.isspace():
        return Raw(b"{}")
    for candidate in (text, _readable_part(text)):
        if candidate is not None and _is_object(candidate):
            return Raw(candidate.encode())
    length = len(text.encode("utf-16-le")) // 2  # JavaScript's length of a string
    return Raw(msgspec.json.encode({"__unparsedToolInput": {"raw": text, "len": length}}))


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
    """Reads the object with which a text begins, and remembers how far it is complete."""

    def __init__(self) -> None:
        # What may come next: "{" the object itself, "k" a key, "v" a value, ":", ",", or "e", a container's end.
        self._expected = "{"
        self._closers: list[str] = []
        self.complete = 0
        """Characters up to the end of the last complete value, or to the last bracket that opened."""

    @property
    def whole(self) -> bool:
        """Whether the object has ended."""
        return not self._closers

    @property
    def closing(self) -> str:
        """The brackets that are missing."""
        return "".join(reversed(self._closers))

    def expects(self, word: str) -> bool:
        """Whether a token, or its beginning, may stand here."""
        expected = self._expected
        if word in ("}", "]"):
            return "e" in expected and word == self._closers[-1]
        if word in (":", ","):
            return word in expected
        if "k" in expected:
            return word[0] == '"'
        return "v" in expected or word == expected

    def feed(self, word: str, end: int) -> None:
        """Take the next token, which ends at `end`."""
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


def _readable_part(text: str) -> str | None:
    """Return the object with which `text` begins, closed where the text ends too early; None: there is none."""
    reader, position = _Reader(), 0
    while True:
        space = _space.match(text, position)
        position = space.end() if space else position
        token = _token.match(text, position)
        if token is None:
            rest = text[position:]
            if not reader.complete or (rest and not (reader.expects(rest) and _cut_token.fullmatch(rest))):
                return None
            return text[: reader.complete] + reader.closing
        if not reader.expects(token.group()):
            return None
        position = token.end()
        reader.feed(token.group(), position)
        if reader.whole:
            return text[:position]
