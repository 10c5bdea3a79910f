"""What the upstream of the bench answers, built once, and how a reply is recognised as complete.

The model's name says what is wanted: `bench-whole`, `bench-text-100`, `bench-text-100-paced`, `bench-args-100`: a whole
body, or a stream of so many pieces, as text or as the arguments of a call, at once or with a pause before each, short
(`paced`), as long as a model's (`slow`) or longer (`idle`).
"""

import json
import re
from functools import cache

from msgspec import Struct

PAUSE_SECONDS = 0.002
"""Between two pieces of a paced stream: long enough that each travels in a packet of its own."""
SLOW_PAUSE_SECONDS = 1 / 45
"""Between two pieces of a slow stream: about as fast as a large model writes."""
IDLE_PAUSE_SECONDS = 1.0
"""Between two pieces of a stream that is mostly silent."""
WHOLE = "All of it was read, and this is the answer."
_HEAD = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1700000000, "model": "bench"}
_USAGE = {"prompt_tokens": 30000, "completion_tokens": 100, "total_tokens": 30100}
_PIECE = re.compile(rb'"(?:text|content|partial_json|arguments)":"((?:[^"\\]|\\.)*)"')
_ENDS = (b"event: message_stop\n", b"data: [DONE]")


class Wanted(Struct, frozen=True):
    """What a model's name asks for."""

    pieces: int
    """0: a whole body."""
    arguments: bool
    pause: float
    """Seconds before each piece; 0: everything at once."""


@cache
def read_wanted(model: str) -> Wanted:
    """Read a model's name."""
    words = model.split("-")
    pauses = {"paced": PAUSE_SECONDS, "slow": SLOW_PAUSE_SECONDS, "idle": IDLE_PAUSE_SECONDS}
    pieces = int(words[2]) if len(words) > 2 else 0
    return Wanted(pieces, words[1] == "args", pauses.get(words[-1], 0.0))


def piece(number: int) -> str:
    """Return the text of one piece, all different, and about as long as a token."""
    return f"{number:05} "


@cache
def expected_text(wanted: Wanted) -> str:
    """Return what all pieces give together."""
    if not wanted.pieces:
        return WHOLE
    text = "".join(piece(number) for number in range(wanted.pieces))
    return '{"text":"' + text + '"}' if wanted.arguments else text


@cache
def whole_reply() -> bytes:
    """Return the HTTP response with a whole body."""
    message = {"role": "assistant", "content": WHOLE, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    body = _encode({**_HEAD, "object": "chat.completion", "choices": [choice], "usage": _USAGE})
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


@cache
def stream_reply(wanted: Wanted) -> list[bytes]:
    """Return the HTTP response of a stream: the head with the first event, each piece, and the end, as chunks."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
    deltas: list[dict[str, object]] = [{"content": piece(number)} for number in range(wanted.pieces)]
    first: dict[str, object] = {"role": "assistant", "content": "", "refusal": None}
    finish = "stop"
    if wanted.arguments:
        texts = ['{"text":"' + piece(0), *(piece(number) for number in range(1, wanted.pieces))]
        texts[-1] += '"}'
        deltas = [{"tool_calls": [{"index": 0, "function": {"arguments": text}}]} for text in texts]
        function = {"name": "Tool0", "arguments": ""}
        first["tool_calls"] = [{"index": 0, "id": "call_bench", "type": "function", "function": function}]
        first["content"] = None
        finish = "tool_calls"
    usage = _encode({**_HEAD, "choices": [], "usage": _USAGE})
    end = _event({}, finish) + _chunk(b"data: %b\n\n" % usage) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    return [head + _event(first), *map(_event, deltas), end]


def is_complete(body: bytes, wanted: Wanted) -> bool:
    """Say whether a reply, in either language, holds all that was sent, in order, and ends as it should."""
    if not wanted.pieces:
        return WHOLE.encode() in body
    text = b"".join(_PIECE.findall(body))
    said = json.dumps(expected_text(wanted))[1:-1].encode()
    return said == text and any(body.rstrip().endswith(end) or end in body[-200:] for end in _ENDS)


def _event(delta: dict[str, object], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return _chunk(b"data: %b\n\n" % _encode({**_HEAD, "choices": [choice], "usage": None}))


def _encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)
