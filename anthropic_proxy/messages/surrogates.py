"""Halves of characters in JSON text: `\\ud83d` without the `\\ude00` that belongs to it."""

import re

_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)
"""A pair of surrogates, one alone (the group), or any other escape."""


def replace_halves(text: str) -> tuple[str, int]:
    """Return JSON text in which every half stands for U+FFFD, and how many there were."""
    lone = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal lone
        lone += match[1] is not None
        return match[0] if match[1] is None else "\\ufffd"

    return (_ESCAPE.sub(replace, text), lone) if "\\u" in text else (text, 0)
