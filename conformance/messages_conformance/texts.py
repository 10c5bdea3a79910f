"""Texts of requests and replies for people: without secrets, without what could change a terminal, shortened.

All outputs of the suite show what a server has sent by the functions of this module only.
"""

import json
import re
import unicodedata
from collections.abc import Iterable
from functools import cache

CUT = "…"
"""Stands where a text was shortened."""
_MIN_SECRET_CHARACTERS = 7
"""Shorter values are no secrets: `any` and `none` stand in keys of servers that check none, and in many words."""
_MIN_PART_CHARACTERS = 4
"""Minimum length of the beginning of a secret that is hidden before a cut."""
_MAX_ESCAPE_CHARACTERS = 8
"""Maximum length of an escape that can be cut."""


def shorten(text: str, limit: int) -> str:
    """Return the first characters of a long text, with a mark behind them."""
    return text if len(text) <= limit else f"{text[:limit]}{CUT}"


def show_json(value: object, limit: int) -> str:
    """Return a value as shortened JSON."""
    return shorten(json.dumps(value, ensure_ascii=False, default=str), limit)


def escape_unprintable(text: str) -> str:
    """Return the text with escapes for what a server could do to a terminal or a file: controls, half characters."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter in "\n\t" else _escape(letter) for letter in text)


def _escape(letter: str) -> str:
    number = ord(letter)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def find_control(text: str) -> str:
    """Return the escape of the first control or half character of a text. "": it has none."""
    return next((_escape(letter) for letter in text if unicodedata.category(letter) in ("Cc", "Cs")), "")


class Cleaner:
    """Makes texts fit for all outputs: hides the secrets of a run, and escapes what is not printable."""

    def __init__(self, secrets: Iterable[tuple[str, str]]) -> None:
        """`secrets`: each value that may not be shown, with what is shown instead."""
        known = {secret: shown for secret, shown in secrets if len(secret) >= _MIN_SECRET_CHARACTERS}
        # the longest one first, because a secret can begin with another one
        self._secrets = [_Secret(secret, known[secret]) for secret in sorted(known, key=len, reverse=True)]

    def clean(self, text: str) -> str:
        """Return a text without secrets, controls and half characters."""
        for secret in self._secrets:
            text = secret.hide(text)
        return escape_unprintable(text)


class _Secret:
    """A value that is hidden in each form that a reply or a report gives it: escaped, in other case, cut."""

    def __init__(self, value: str, shown: str) -> None:
        self._shown = shown
        self._letters = [_find_forms(letter) for letter in value]

    def hide(self, text: str) -> str:
        pieces = list[str]()
        done = 0
        for begin in self._letters[0].finditer(text):
            if begin.start() >= done and (end := self._find_end(text, begin.start())):
                pieces += (text[done : begin.start()], self._shown)
                done = end
        return "".join((*pieces, text[done:]))

    def _find_end(self, text: str, begin: int) -> int:
        """Return where the secret ends that begins there, or the text that was cut in it. 0: it is another text."""
        place = begin
        for number, letter in enumerate(self._letters):
            match = letter.match(text, place)
            if match is None:
                cut = text.find(CUT, place, place + _MAX_ESCAPE_CHARACTERS)
                return cut if number >= _MIN_PART_CHARACTERS and cut >= 0 else 0
            place = match.end()
        return place


@cache
def _find_forms(letter: str) -> re.Pattern[str]:
    """Return the pattern of a letter as it is, and as JSON, Python and URLs escape it."""
    in_url = "".join(f"%{byte:02x}" for byte in letter.encode("utf-8", "replace"))
    forms = (re.escape(letter), f"u{ord(letter):04x}", f"x{ord(letter):02x}", in_url)
    return re.compile(rf"{forms[0]}|{forms[3]}|\\{{1,8}}(?:{'|'.join(forms[:3])})", re.IGNORECASE)
