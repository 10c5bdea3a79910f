"""Replies a request may ask the upstream of the bench for, and the check that a reply is complete.

The model's name sets it: `bench-whole`, `bench-text-100`, `bench-text-100-paced`, `bench-args-100`, `bench-think-100`,
with anything before it. A whole body, or a stream of so many pieces: of text, of the arguments of a call, or of
thinking before a text. Without a further word pieces are sent two by two and none waits; `packed` sends all in one
write; `paced` sends each by itself and waits a moment before it, `slow` as long as a model does, `idle` longer.
"""

import json
import re
from functools import cache
from typing import Literal

from msgspec import Struct

PAUSE_SECONDS = 0.002
"""Between two pieces of a paced stream: long enough that each travels in a packet of its own."""
SLOW_PAUSE_SECONDS = 1 / 45
"""Between two pieces of a slow stream: about as fast as a large model writes."""
IDLE_PAUSE_SECONDS = 1.0
"""Between two pieces of a stream that is mostly silent."""
WHOLE = "All of it was read, and this is the answer."
"""The text of a whole body, and the one that follows thinking."""
BEGINNING = b"00000 "
"""Beginning of the first piece; nothing else in a stream holds these bytes."""
_PAUSES = {"paced": PAUSE_SECONDS, "slow": SLOW_PAUSE_SECONDS, "idle": IDLE_PAUSE_SECONDS}
_NAME = re.compile(r"bench-(whole|text|args|think)(?:-(\d+))?(?:-(\w+))?$")
_PIECE = re.compile(
    rb'"(?:text|content|partial_json|arguments|thinking|reasoning_content)": ?"((?:[^"\\]|\\.)+)"(?! ?:)'
)
_STOP_REASON = re.compile(rb'"(?:stop|finish)_reason": ?"(\w+)"')
_REASONS = {"args": (b"tool_use", b"tool_calls")}

Kind = Literal["whole", "text", "args", "think"]


class Wanted(Struct, frozen=True):
    """Reply that a model's name asks for."""

    kind: Kind
    pieces: int = 0
    """0: a whole body."""
    pause: float = 0.0
    """Seconds before each piece."""
    packed: bool = False
    """True if all pieces are sent as one."""


@cache
def read_wanted(model: str) -> Wanted:
    """Read a model's name. Raises `ValueError` where it asks for nothing."""
    found = _NAME.search(model)
    if found is None:
        raise ValueError(f"{model!r} does not say what is wanted")
    kind, pieces, pace = found.groups()
    return Wanted(kind, int(pieces or 0), _PAUSES.get(pace, 0.0), pace == "packed")


def piece(number: int) -> str:
    """Return the text of one piece, all different, and about as long as a token."""
    return f"{number:05} "


def argument_pieces(pieces: int) -> list[str]:
    """Return JSON text in so many pieces."""
    texts = ['{"text":"' + piece(0), *(piece(number) for number in range(1, pieces))]
    return [*texts[:-1], texts[-1] + '"}']


@cache
def expected_text(wanted: Wanted) -> bytes:
    """Return the text of all fragments together, as in JSON."""
    if not wanted.pieces:
        return _quoted(WHOLE)
    if wanted.kind == "args":
        return _quoted("".join(argument_pieces(wanted.pieces)))
    text = "".join(piece(number) for number in range(wanted.pieces))
    return _quoted(text + WHOLE if wanted.kind == "think" else text)


def find_defect(body: bytes, wanted: Wanted, *, separate: bool) -> str:
    """Return the error in a reply of the Messages API; "": complete, in order, with one end.

    `separate`: whether each piece must have come by itself, as it was sent.
    """
    pieces = [found for found in _PIECE.findall(body) if found not in (b"text", b"thinking")]
    if b"".join(pieces) != expected_text(wanted):
        return "its text is not what was sent"
    if not any(reason in _REASONS.get(wanted.kind, (b"end_turn", b"stop")) for reason in _STOP_REASON.findall(body)):
        return "it does not say why it stopped"
    if wanted.pieces:
        ends = body.count(b"event: message_stop"), body.count(b"data: [DONE]")
        if ends not in ((1, 0), (0, 1)):
            return f"it ends {sum(ends)} times"
        if separate and len(pieces) != wanted.pieces + (wanted.kind == "think"):
            return f"{wanted.pieces} pieces came as {len(pieces)}"
    return ""


def _quoted(text: str) -> bytes:
    return json.dumps(text)[1:-1].encode()
