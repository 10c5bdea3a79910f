"""Arguments that come in pieces, addressed by JSON path (Vertex AI does that only if asked, and we never ask)."""

import re
from itertools import pairwise
from typing import Any

from anthropic_proxy.wire.gemini.frames import PartialArgument

_STEP = re.compile(r"""\.([^.\[\]]+)|\[(\d+)\]|\[(?:'([^']*)'|"([^"]*)")\]""")
_MAX_LIST_LENGTH = 10_000
"""A place in a list beyond this is refused, because the places before it would be filled."""


class PartialArguments:
    """Puts the pieces of one call's arguments together."""

    def __init__(self) -> None:
        self.whole: dict[str, Any] = {}

    def feed(self, pieces: list[PartialArgument]) -> None:
        """Take pieces: the text at one path grows, any other value is set.

        Raises `ValueError` for a path that we cannot read.
        """
        for piece in pieces:
            steps = _steps_of(piece.json_path or "")
            spot = _spot(self.whole, steps)
            value: Any = piece.string_value
            if value is not None:
                before = _child_at(spot, steps[-1])
                value = before + value if isinstance(before, str) else value
            elif piece.number_value is not None:
                value = piece.number_value
            else:
                value = piece.bool_value
            _set(spot, steps[-1], value)


def _steps_of(path: str) -> list[str | int]:
    steps: list[str | int] = []
    position = 1
    while position < len(path):
        match = _STEP.match(path, position)
        if match is None or (match[2] and int(match[2]) > _MAX_LIST_LENGTH):
            raise ValueError(path)
        steps.append(int(match[2]) if match[2] else next(name for name in match.group(1, 3, 4) if name is not None))
        position = match.end()
    if not steps or isinstance(steps[0], int) or not path.startswith("$"):
        raise ValueError(path)
    return steps


def _spot(whole: dict[str, Any], steps: list[str | int]) -> Any:
    """Return the object or list that holds the last step; make what is missing on the way."""
    spot: Any = whole
    for step, following in pairwise(steps):
        inner = _child_at(spot, step)
        if not isinstance(inner, list if isinstance(following, int) else dict):
            inner = [] if isinstance(following, int) else {}
            _set(spot, step, inner)
        spot = inner
    return spot


def _child_at(spot: Any, step: str | int) -> Any:
    if isinstance(step, int):
        return spot[step] if step < len(spot) else None
    return spot.get(step)


def _set(spot: Any, step: str | int, value: Any) -> None:
    if isinstance(step, int):
        spot.extend([None] * (step + 1 - len(spot)))
    spot[step] = value
