"""`OpenCalls`: function calls of a reply whose further parts are expected (`partialArgs` of Vertex AI).

The arguments of a `PartialCall` arrive as values at paths.

Example: the pieces `{"jsonPath": "$.files[0].name", "stringValue": "a."}` and `{…, "stringValue": "md"}` make the
arguments `{"files": [{"name": "a.md"}]}`. Source: google-genai 3.6.1, `types.PartialArg`; docs.cloud.google.com,
"Function calling", streamed arguments (read 2026-11).
"""

import itertools
import re
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.engine.wires.json_repair import decode_repaired
from anthropic_proxy.engine.wires.tools import is_other_call

_STEP = compile_anchored(
    r"""\.(?P<name>[^.\[\]'"]{1,1000})|\[(?P<index>\d{1,9})\]|\[(?P<quoted>'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+")\]""",
    re.DOTALL,
)
_ESCAPE = compile_later(r"\\(.)", re.DOTALL)
_MAX_DEPTH = 100
"""Maximum number of steps of a path."""
_MAX_OPEN = 64
"""Maximum number of calls that are open at the same time. A further one ends the oldest of them."""


class PartialArg(Struct, rename="camel", gc=False):
    """One value, or a piece of a text."""

    json_path: str = ""
    string_value: str | None = None
    number_value: int | float | None = None
    bool_value: bool | None = None
    null_value: str | None = None
    """`NULL_VALUE`: null."""
    will_continue: bool = False
    """True for a piece of a text that is not its last one. The last one is often empty (recorded)."""

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
    is_ended = False
    """True if no further part is expected."""

    def __init__(self, name: str, call_id: str | None, signature: str) -> None:
        self.name, self.id, self.signature = name, call_id, signature
        self._root: dict[str, Any] = {}
        self._whole = ""
        """JSON text of the complete arguments. "": they are in `_root`."""
        self._open_texts: set[str] = set()
        """Paths of the texts whose last piece has not come."""

    @property
    def is_cut(self) -> bool:
        return bool(self._open_texts) and not self._whole

    @property
    def _parts(self) -> dict[str, Any]:
        return _divide(decode_repaired(self._whole.encode())) if self._whole else self._root

    def feed(self, piece: PartialArg) -> None:
        """Raises `ValueError` for a path that is invalid, or names no place of the arguments so far."""
        self._root, self._whole = self._parts, ""
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
        if piece.will_continue:
            self._open_texts.add(path)
        else:
            self._open_texts.discard(path)
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

    def complete(self, arguments: str) -> bool:
        """Replace the arguments by the JSON text of all of them. Return False if it differs from the values so far."""
        known = self._parts
        if known and not _is_beginning(known, decode_repaired(arguments.encode())):
            return False
        self._whole = arguments
        return True

    def encode_arguments(self) -> str:
        return self._whole or msgspec.json.encode(self._root, enc_hook=_join).decode(errors="replace")


class OpenCalls:
    """The calls of one reply that are not delivered yet, in order of their beginning.

    Ids and names decide which call a part continues: the call with its id, else the latest one with its name, or the
    latest one for a part without a name, whose id some servers give each part anew. Calls with ids can be open at the
    same time; without ids, a new call ends the one before it.
    """

    def __init__(self) -> None:
        self.calls: deque[PartialCall] = deque()
        self._open: list[PartialCall] = []

    def find(self, call_id: str | None, name: str | None) -> PartialCall | None:
        """Return the call that a part continues. None: it begins a new one, or has no name and no call is open."""
        latest: PartialCall | None = None
        for call in reversed(self._open):
            if call.is_ended or (name and name != call.name):
                continue
            if call_id and call.id == call_id:
                return call
            if latest is None and not (name and is_other_call(call_id, call.id)):
                latest = call
        return latest

    def begin(self, name: str, call_id: str | None, signature: str) -> PartialCall:
        if len(self._open) >= _MAX_OPEN:
            self._open[0].is_ended = True
        for known in self._open:
            if not (known.id and call_id):
                known.is_ended = True
        call = PartialCall(name, call_id, signature)
        self._open = [*(known for known in self._open if not known.is_ended), call]
        self.calls.append(call)
        return call

    def pop_ended(self) -> Iterator[PartialCall]:
        """Remove and return the calls at the beginning that have ended. The others wait for the calls before them."""
        while self.calls and self.calls[0].is_ended:
            yield self.calls.popleft()

    def end(self, *, is_complete: bool) -> None:
        """End all calls with the reply, or remove the open ones: only a complete reply has all their arguments."""
        self.calls = deque(call for call in self.calls if is_complete or call.is_ended)
        for call in self.calls:
            call.is_ended = True


def _is_beginning(part: Any, whole: Any) -> bool:
    """Return True if a value so far may become `whole`."""
    if isinstance(part, dict):
        return isinstance(whole, Mapping) and all(
            name in whole and _is_beginning(part[name], whole[name]) for name in part
        )
    if isinstance(part, list):
        is_list = isinstance(whole, list) and len(part) <= len(whole)
        return is_list and all(map(_is_beginning, part, whole))
    if isinstance(part, _Pieces):
        return isinstance(whole, str) and whole.startswith("".join(part.texts))
    return bool(part == whole)


def _divide(value: Any) -> Any:
    """Return a decoded value with texts to which pieces can be added."""
    if isinstance(value, dict):
        return {name: _divide(member) for name, member in value.items()}
    if isinstance(value, list):
        return list(map(_divide, value))
    return _Pieces([value]) if isinstance(value, str) else value


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
