"""Conversion of tool call arguments to the JSON object that a reply without streaming must contain.

Models sometimes write truncated or invalid JSON. In a stream, the client receives text that begins an object unchanged
and repairs it itself. A reply without streaming must contain an object, so it contains what the official SDKs and
Claude Code make of the same text. A truncated object keeps its complete members.
"""

from contextlib import suppress
from itertools import islice
from typing import Any

import msgspec
from msgspec import Raw

from anthropic_proxy.engine.messages.models.raw_json import replace_lone_escapes
from anthropic_proxy.engine.patterns import compile_anchored, compile_later

_NO_ARGUMENTS = ("", "null", "None", "[]")
_object_decoder = msgspec.json.Decoder(dict[str, Raw])
_decode_string = msgspec.json.Decoder(str).decode


def build_arguments_object(text: str) -> Raw:
    """Return the arguments as a JSON object. Other text becomes its field `__unparsedToolInput`."""
    if means_no_arguments(text):
        return Raw(b"{}")
    if "\\u" in text:
        text = replace_lone_escapes(text)
    reader = ArgumentsReader()
    passed, end = reader.feed(text)
    if end == len(text):  # else another object follows
        text = passed + reader.finish()  # without the empty objects before another one
    if _is_object(text):
        return Raw(text.encode())
    closed = _close_truncated(text)  # a truncated object keeps its complete members, as in the official SDKs
    if closed is not None and _is_object(closed):
        return Raw(closed.encode())
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


def normalize_arguments(text: str) -> bytes:
    """Return arguments in a form that is equal for equal values."""
    if means_no_arguments(text):
        return b"{}"
    with suppress(msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return msgspec.json.encode(msgspec.json.decode(replace_lone_escapes(text)), order="deterministic")
    return text.strip().encode(errors="surrogatepass")


def is_truncated_object(text: str) -> bool:
    """Return True if a text begins a JSON object but does not contain its end. It may be invalid elsewhere."""
    if text.lstrip(" \t\r\n")[:1] != "{":
        return False
    # the decoder takes a number that is cut behind its sign, point or exponent for an invalid one
    for part in (text, text.rstrip("0123456789.eE+-")):
        try:
            _object_decoder.decode(part)
        except RecursionError:
            return False
        except msgspec.DecodeError as error:
            if str(error) == _TRUNCATED:
                return True
    return False


_TRUNCATED = "Input data was truncated"
"""Text of the error of the decoder for JSON without its end."""


_IN_STRING = compile_later(r'["\\]')
_OUTSIDE = compile_later(r'["{}\[\]]')
_MAX_SKIPPED_PIECES, _MAX_SKIPPED_CHARACTERS = 32, 4_096
"""Maximum number of pieces that are read together, and of the characters of one."""


class ObjectEnd:
    """Finds the end of a JSON object that arrives in pieces, by its brackets and quotes. It may be invalid JSON."""

    __slots__ = ("_depth", "_escaped", "_in_string", "_skipped", "is_reached")

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._escaped = self.is_reached = False
        self._skipped: list[str] = []
        """Pieces without a bracket that could end the object. They are read together, with a later piece."""

    def skip(self, text: str) -> bool:
        """Take a piece that cannot end the object, or return False."""
        if "}" in text or "]" in text or len(text) > _MAX_SKIPPED_CHARACTERS:
            return False
        if len(self._skipped) == _MAX_SKIPPED_PIECES:
            self._read_skipped()
        self._skipped.append(text)
        return True

    def expects_value(self, text: str) -> bool:
        """Return True if a value must follow. `text`: the end of what was read."""
        if self._skipped:
            self._read_skipped()
        return not self._in_string and text.rstrip(" \t\r\n").endswith((":", ",", "["))

    def _read_skipped(self) -> None:
        text = "".join(self._skipped)
        self._skipped.clear()
        self.feed(text)

    def feed(self, text: str, start: int = 0) -> int:
        """Return the index behind the characters of `text`, from `start` on, that belong to the object."""
        if self._skipped:
            self._read_skipped()
        place = start
        if self.is_reached or place == len(text):
            return place
        if self._escaped:
            place, self._escaped = start + 1, False
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


def is_same_object(text: str, other: str) -> bool:
    """Return True if two texts are the same JSON object, perhaps written in another way."""
    if text.strip() == other.strip():
        return True
    with suppress(RecursionError):
        return _read_arguments(text) == _read_arguments(other)
    return False


def divide_arguments(text: str) -> list[str]:
    """Return the arguments of each call that a server has joined. An object that is repeated counts once."""
    found: list[str] = []
    end = 0
    while end < len(text):
        reader = ArgumentsReader()
        passed, end = reader.feed(text, end)
        one = passed + reader.finish()
        if not found or not is_same_object(found[-1], one):
            found.append(one)
    return found


def repeats_arguments(written: str, whole: str, *, is_named: bool) -> bool:
    """Return True if the arguments in a final object are those that were written, perhaps in another way, or are those
    of one of the calls that were joined. LM Studio repeats any object as an empty one (earendil-works/pi pull 917).
    `is_named`: True if both are those of one id.
    """
    if written == whole:
        return True
    known, repeated = ([*map(_read_arguments, divide_arguments(text))] for text in (written, whole))
    with suppress(RecursionError):
        is_empty = is_named and repeated == [("", {})] and all(isinstance(value, dict) for _, value in known)
        return is_empty or known == repeated or (len(repeated) == 1 and repeated[0] in known)
    return False


def _read_arguments(text: str) -> tuple[str, Any]:
    """Return JSON as its value, and any other text as it is."""
    with suppress(msgspec.DecodeError, RecursionError):
        return "", msgspec.json.decode(text)
    return text.strip(), None


def _is_object(text: str) -> bool:
    try:
        _object_decoder.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


_EMPTY_OBJECTS = compile_anchored(r"(?:\{[ \t\r\n]*+\}[ \t\r\n]*+)+(?=\{)")
_NOT_SPACE = compile_later(r"[^ \t\r\n]")
_LETTER = compile_later(r"\S")
_MAX_SPACE = 32
"""Maximum length of white space in front of a value."""
_MAX_COMPARED = 16
"""Maximum number of fragments that are compared with all arguments before them."""


def find_missing(known: str, text: str) -> str | None:
    """Return what arguments lack of a text that has all of them once more, as an object or as a JSON string of it.

    White space may differ. None: the text is something else.
    """
    if text.startswith('"'):
        try:
            text = _decode_string(text)
        except msgspec.DecodeError:
            return None
    letters = "".join(known.split())
    if not ("".join(text.split()).startswith(letters) and _is_object(text)):
        return None
    last = next(islice(_LETTER.finditer(text), len(letters) - 1, None))
    missing, space = text[last.end() :], known[len(known.rstrip()) :]
    return missing.removeprefix(space) if missing.startswith(space) else missing.lstrip()


class ArgumentsReader:
    """Reads the arguments of a tool call as they arrive, and finds the end of the JSON object.

    Some servers join calls: `{}{"city": "Paris"}`, `{"path": "a"}{"path": "b"}` (OpenRouter with Venice and with
    gemini-2.5-flash-lite, recorded; unslothai/unsloth issue 10059). An empty object before another one is dropped. Text
    that begins another object behind one with members belongs to the next call. Of a fragment that has all arguments
    once more, what they lack is read (vLLM at the end of a call: its issues 42167 and 51697, pull 35421; SGLang issue
    23071). Text that is no valid JSON passes unchanged.
    """

    __slots__ = ("_again", "_compared", "_end", "_held", "_passes", "_pieces", "_spaces", "is_whole")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._held = ""
        """End of an empty object, which is dropped if another object follows."""
        self._spaces: list[str] = []
        """White space behind it."""
        self._end: ObjectEnd | None = None
        """End of the object that has begun. None: none is open."""
        self._passes = False
        """True if the text is not divided, because it is not a JSON object."""
        self._again: tuple[ObjectEnd, str] | None = None
        """The open object and a fragment that has all arguments once more, if no other one follows it: else it is a
        value in them. `_held` has what they lack of it."""
        self._compared = 0
        self.is_whole = False
        """True if the text is a whole JSON object."""

    @property
    def is_open(self) -> bool:
        """True if an object has begun and not ended."""
        return self._end is not None

    @property
    def is_empty(self) -> bool:
        """True if there is nothing but white space, or an empty object, behind which another one may follow."""
        return self._end is None and not self.text.strip(" \t\r\n{}")

    def may_continue_with(self, text: str) -> bool:
        """Return True if `text` is more likely the next part of the arguments than the beginning of other ones."""
        if self._end is None:
            return not (self.is_whole or self._passes)  # there is white space at most
        return text.lstrip()[:1] != "{" or self._end.expects_value(self._pieces[-1][-_MAX_SPACE:])

    @property
    def passed(self) -> str:
        """What the client may have got so far."""
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    @property
    def text(self) -> str:
        return "".join((self.passed, self._held, *self._spaces))

    def feed(self, text: str, start: int = 0) -> tuple[str, int]:
        """Read `text` from `start` on. Return what the client may get of it now, and where the next call begins: at the
        end of the text, if it has no other call.
        """
        position = start
        passed: list[str] = []
        if self._again is not None and not text.isspace():
            self._end, value = self._again
            self._end.feed(value)
            self._again, self._held = None, ""
            self._pass(value, passed)
        while position < len(text):
            if self._passes:
                self._pass(text[position:], passed)
                break
            if self._end is not None:
                may_be_whole = text.startswith(("{", '"{'), position) and text.endswith(("}", '}"'))
                if may_be_whole and self._reads_again(text[position:], passed):
                    break
                end = self._end.feed(text, position)
                self._pass(text[position:end], passed)
                position = end
                if self._end.is_reached:
                    self._end = None
                    self._end_object(passed)
                continue
            first = _NOT_SPACE.search(text, position)
            begin = first.start() if first is not None else len(text)
            if self._held:
                self._spaces.append(text[position:begin])
            else:
                self._pass(text[position:begin], passed)
            position = begin
            if first is None:
                break
            if first[0] == "{" and (empty := _EMPTY_OBJECTS.match(text, position)) is not None:
                position = empty.end()  # they are dropped, as other ones follow
            if first[0] == '"' and self.is_whole and find_missing(self.text, text[position:]) == "":
                break
            if first[0] != "{":
                self._passes, self.is_whole = True, False
                passed.append(self.finish())
                continue
            if self.is_whole and not self._held:
                return "".join(passed), position
            if not self._held.startswith("}"):  # else the client has the `{` of the empty object
                self._pass("{", passed)
            self._held, self.is_whole = "", False
            self._spaces.clear()
            self._end = ObjectEnd()
            self._end.feed("{")
            position += 1
        return "".join(passed), len(text)

    def take(self, text: str) -> bool:
        """Read a text that cannot end the object, so that the client may get it, or return False."""
        if self._end is None or not self._end.skip(text):
            return False
        self._pieces.append(text)
        return True

    def finish(self) -> str:
        """Return the text that was held."""
        held = "".join((self._held, *self._spaces))
        self._held = ""
        self._spaces.clear()
        self._pieces.append(held)
        return held

    def _pass(self, text: str, passed: list[str]) -> None:
        self._pieces.append(text)
        passed.append(text)

    def _reads_again(self, text: str, passed: list[str]) -> bool:
        """Read a fragment that has all arguments once more, while their object is open, or return False."""
        if (end := self._end) is None or self._compared == _MAX_COMPARED:
            return False
        self._compared += 1
        known = self.passed
        missing = find_missing(known, text)
        if not missing:
            return False
        self._end = None
        if end.expects_value(known[-_MAX_SPACE:]):
            self._again, self._held = (end, text), missing
        else:
            self._pass(missing, passed)
            self._end_object(passed)
        return True

    def _end_object(self, passed: list[str]) -> None:
        whole = self.text
        if not _is_object(whole):
            self._passes = True
            return
        self.is_whole = True
        if not whole.strip(" \t\r\n{}"):
            now = "".join(passed)
            self._held = now[now.rfind("{") if "{" in now else -1 :]
            self._pieces, passed[:] = [whole[: -len(self._held)]], [now[: -len(self._held)]]


# `_token` matches a complete JSON token, and `_cut_token` the beginning of a token at the end of the text.
# Possessive (`*+`) only over single characters: over a group, early releases of 3.11 (Debian 12 has one) match wrongly.
_STRING = r'"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*'
_NUMBER = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_token = compile_anchored(rf'(?:{_STRING}")|(?:(?:{_NUMBER}|true|false|null)(?![0-9a-zA-Z.+-]))|[{{}}\[\]:,]')
_cut_token = compile_anchored(
    rf"{_STRING}(?:\\(?:u[0-9a-fA-F]{{0,3}})?)?"
    r"|-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*|(?:\.[0-9]+)?[eE][+-]?[0-9]*)?)?"
    r"|t(?:r(?:u)?)?|f(?:a(?:l(?:s)?)?)?|n(?:u(?:l)?)?"
)
_space = compile_anchored(r"[ \t\r\n]*")


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
