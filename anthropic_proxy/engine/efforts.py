"""Levels of reasoning effort: their names, their order, and which of them an error message lists."""

import re
from collections.abc import Container
from typing import Literal, get_args

from anthropic_proxy.engine.patterns import compile_later

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
"""Level of reasoning effort, from no reasoning to the maximum, of all providers."""
EFFORTS: tuple[Effort, ...] = get_args(Effort)
"""All levels in ascending order."""
REASONING_EFFORTS = EFFORTS[1:]
_EFFORT = compile_later(rf"\b({'|'.join(EFFORTS)})\b", re.IGNORECASE)


def list_named_efforts(text: str) -> list[Effort]:
    """Return the levels that a text contains as words, in ascending order."""
    named = {word.lower() for word in _EFFORT.findall(text)}
    return [level for level in EFFORTS if level in named]


def nearest_effort(requested: str, supported: Container[str]) -> str:
    """Return the highest supported level that is not above `requested`, else the lowest one. `default`: there is none.

    `requested` is a level above `none`.
    """
    place = REASONING_EFFORTS.index(requested)
    nearest_first = (*reversed(REASONING_EFFORTS[: place + 1]), *REASONING_EFFORTS[place + 1 :])
    return next((level for level in nearest_first if level in supported), "default")
