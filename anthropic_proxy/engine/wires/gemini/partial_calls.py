"""`PartialCall`: a function call whose arguments arrive as values at paths (`partialArgs` of Vertex AI).

Example: the pieces `{"jsonPath": "$.files[0].name", "stringValue": "a."}` and `{…, "stringValue": "md"}` make the
arguments `{"files": [{"name": "a.md"}]}`. Source: google-genai 3.6.1, `types.PartialArg`; docs.cloud.google.com,
"Function calling", streamed arguments (read 2026-11).
"""

import itertools
import re
from typing import Any

import msgspec
from msgspec import Struct

from anthropic_proxy.engine.patterns import compile_anchored, compile_later

_STEP = compile_anchored(
    r"""\.(?P<name>[^.\[\]'"]{1,1000})|\[(?P<index>\d{1,9})\]|\[(?P<quoted>'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+")\]""",
    re.DOTALL,
)
_ESCAPE = compile_later(r"\\(.)", re.DOTALL)
_MAX_DEPTH = 100
"""Maximum number of steps of a path."""


class PartialArg(Struct, rename="camel", gc=False):
    """One value, or a piece of a text."""

    json_path: str = ""
    string_value: str | None = None
    number_value: int | float | None = None
    bool_value: bool | None = None
    null_value: str | None = None
    """`NULL_VALUE`: null."""

    @property
    def value(self) -> Any:
        """`_Pieces` for a text. None: null, or no value."""
        if self.string_value is not None:
            return _Pieces([self.string_value])
        return self.number_value if self.bool_value is None else self.bool_value


class _Pieces:
    """A text. No struct, so that the encoder asks for it (`_join`)."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts


class PartialCall:
    def __init__(self, name: str, call_id: str | None, signature: str) -> None:
        self.name, self.id, self.signature = name, call_id, signature
        self._root: dict[str, Any] = {}

    def feed(self, piece: PartialArg) -> None:
        """Raises `ValueError` for a path that is invalid, or names no place of the arguments so far."""
        path, end, value = piece.json_path, 1, piece.value
        steps: list[str | int] = []
        while path.startswith("$") and end < len(path) and len(steps) < _MAX_DEPTH:
            if (found := _STEP.match(path, end)) is None:
                break
            end = found.end()
            if (quoted := found["quoted"]) is not None:
                steps.append(_ESCAPE.sub(r"\1", quoted[1:-1]))
            else:
                steps.append(int(found["index"]) if found["index"] else found["name"])
        if end != len(path) or not steps:
            raise ValueError
        if value is None and piece.null_value is None:
            return
        place: Any = self._root
        for step, following in itertools.pairwise(steps):
            inner = _find_member(place, step)
            if inner is None:
                inner = [] if isinstance(following, int) else {}
                _set_member(place, step, inner)
            place = inner
        known = _find_member(place, steps[-1])
        if isinstance(known, _Pieces) and isinstance(value, _Pieces):
            known.texts += value.texts
        else:
            _set_member(place, steps[-1], value)

    def encode_arguments(self) -> str:
        return msgspec.json.encode(self._root, enc_hook=_join).decode(errors="replace")


def _join(value: Any) -> str:
    return "".join(value.texts)


def _find_member(place: Any, step: str | int) -> Any:
    if isinstance(place, dict) and isinstance(step, str):
        return place.get(step)
    if isinstance(place, list) and isinstance(step, int) and step <= len(place):
        return place[step] if step < len(place) else None
    raise ValueError


def _set_member(place: Any, step: str | int, value: Any) -> None:
    if isinstance(place, list) and step == len(place):
        place.append(value)
    else:
        place[step] = value
