"""Lone surrogates in JSON text: `\\ud83d` without a following `\\ude00`."""

import re

_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)
"""A pair of surrogates, one alone (the group), or any other escape."""


def replace_lone_surrogates(text: str) -> tuple[str, int]:
    """Replace lone surrogates in JSON text by U+FFFD. Return the text and their number."""
    lone = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal lone
        lone += match[1] is not None
        return match[0] if match[1] is None else "\\ufffd"

    return (_ESCAPE.sub(replace, text), lone) if "\\u" in text else (text, 0)
