"""Columns that a terminal needs for a text: two for a Chinese character or an emoji, none for a combining mark."""

import textwrap
from collections.abc import Iterator
from types import ModuleType

from anthropic_proxy.engine.patterns import compile_anchored, compile_later

_COLOR = compile_later(r"\x1b\[[0-9;]*m")
_NARROW = compile_anchored(
    "[ -~\xa0-\xac\xae-\u02ff\u0370-\u0482\u048a-\u052f"
    "\u2010-\u2027\u2030-\u205e\u20a0-\u20bf\u2190-\u2211\u2264\u2265\u2500-\u25fc\u2713\u2715]*"
)
"""A text of characters with one column each: Latin, Greek and Cyrillic letters, and the symbols of the program."""
_UNSPACED = "\u2e80-\ua4cf\uac00-\ud7ff\uf900-\ufaff\uff00-\uff60"
"""Characters of languages in which a line may end anywhere: Chinese, Japanese, Korean."""
_GAPS = compile_later(r"( {2,})")
_QUESTION = "Did you mean:"
SIGN_LETTERS = {"✓": "ok", "✕": "xx", "!": "!!"}
"""Sign before a text → the letters in its place where the encoding of the output lacks signs."""
_SPACE = compile_later(r"\s")
_PIECE = compile_later(rf"(?<! )( *)([{_UNSPACED}]|[^ {_UNSPACED}]+)")


def count_columns(text: str) -> int:
    """Colors need no columns."""
    text = _COLOR.sub("", text)
    if _NARROW.fullmatch(text):
        return len(text)
    return int(_import_wcwidth().width(text))


def _import_wcwidth() -> ModuleType:
    import wcwidth  # noqa: PLC0415  # needs 30 ms

    return wcwidth


def pad(text: str, columns: int) -> str:
    return text + " " * (columns - count_columns(text))


def cut(text: str, columns: int) -> str:
    """Return `text`, which has no colors, with `…` in place of what exceeds `columns`."""
    if count_columns(text) <= columns:
        return text
    most = max(columns - 1, 0)
    if _NARROW.fullmatch(text):
        return f"{text[:most]}…"
    return f"{_import_wcwidth().clip(text, 0, most, fillchar='')}…"


def wrap_words(text: str, columns: int) -> list[str]:
    """Return `text` as lines of at most `columns` columns, if no word is longer."""
    if _NARROW.fullmatch(text):
        return textwrap.wrap(text, columns, break_long_words=False, break_on_hyphens=False) or [""]
    first, *others = list(split_words(_SPACE.sub(" ", text))) or [("", "")]
    lines = [first[1]]
    for gap, word in others:
        if count_columns(lines[-1] + gap + word) <= columns:
            lines[-1] += gap + word
        else:
            lines.append(word)
    return lines


def split_words(text: str) -> Iterator[tuple[str, str]]:
    """Yield the parts of `text` between which a line may end, each after the spaces before it."""
    return ((piece[1], piece[2]) for piece in _PIECE.finditer(text))


def wrap_text(text: str, width: int | None) -> list[str]:
    """Return `text` as lines of at most `width` columns, which may contain colors. None: one line.

    What follows two spaces is a command: it is never divided, so that it can be copied, and gets a line of its own if
    it does not fit. So does `Did you mean:` with what follows. Further lines begin below the text, after a sign such as
    ✕; a long command begins further left.
    """
    if width is None or count_columns(text) <= width:
        return [text]
    body = text.lstrip(" ")
    start = " " * (len(text) - len(body))
    sentence, *rest = _GAPS.split(body)
    sign = _COLOR.sub("", sentence.partition(" ")[0])
    lines = [start]
    is_sign = sign in SIGN_LETTERS.values() or (len(sign) == 1 and not sign.isalnum())
    further = start + (" " * (len(sign) + 1) if is_sign else "")
    words = [*split_words(sentence.removesuffix(_QUESTION))]
    if sentence.endswith(_QUESTION):  # it is read, and copied, with the suggestion behind it
        words.append(("", _QUESTION))
    for gap, word in (*words, *zip(rest[::2], rest[1::2], strict=True)):
        if not lines[-1].strip():
            lines[-1] += word
        elif word is not _QUESTION and count_columns(lines[-1] + gap + word) <= width:
            lines[-1] += gap + word
        else:
            needs = count_columns(word)
            is_long_command = len(gap) > 1 and needs <= width < len(further) + needs
            lines.append((further[: width - needs] if is_long_command else further) + word)
    return lines
