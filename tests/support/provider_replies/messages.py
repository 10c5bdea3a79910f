"""Streams of the Messages API. Source: platform.claude.com, streaming messages."""

import json
from typing import Any

from tests.support.provider_replies.content import PLAN, WORDS


def event(kind: str, padding: int = 0, **fields: Any) -> bytes:
    """Return one event. `padding`: spaces before the last brace, which Anthropic adds in varying number."""
    data = json.dumps({"type": kind, **fields}, separators=(",", ":"), ensure_ascii=False)
    return f"event: {kind}\ndata: {data[:-1]}{' ' * padding}}}\n\n".encode()


def message_start(**counts: Any) -> bytes:
    given = {"input_tokens": 43, "output_tokens": 1, **counts}
    message = {"model": "claude-sonnet-4-5", "id": "msg_1", "type": "message", "role": "assistant", "content": []}
    return event("message_start", 4, message={**message, "stop_reason": None, "stop_sequence": None, "usage": given})


def block(index: int, opening: dict[str, Any], *pieces: dict[str, Any]) -> bytes:
    deltas = (event("content_block_delta", 7, index=index, delta=piece) for piece in pieces)
    return b"".join(
        (
            event("content_block_start", 10, index=index, content_block=opening),
            PING,
            *deltas,
            event("content_block_stop", index=index),
        )
    )


def message_end(stop: str, **counts: Any) -> bytes:
    delta = {"stop_reason": stop, "stop_sequence": None}
    return event("message_delta", 6, delta=delta, usage={"output_tokens": 282, **counts}) + event("message_stop", 9)


def text_block(index: int) -> bytes:
    return block(index, {"type": "text", "text": ""}, *({"type": "text_delta", "text": word} for word in WORDS))


PING = b'event: ping\ndata: {"type": "ping"}\n\n'
NO_CACHE = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
BY_AGE = {"cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}, "inference_geo": "us"}
OPUS = "claude-opus-5-5"
MESSAGE_STREAMS: dict[str, bytes] = {
    "thinking": b"".join(
        (
            message_start(**NO_CACHE, **BY_AGE, service_tier="standard"),
            block(
                0,
                {"type": "thinking", "thinking": "", "signature": ""},
                *({"type": "thinking_delta", "thinking": piece} for piece in PLAN),
                {"type": "signature_delta", "signature": "ErUB" * 50},
            ),
            text_block(1),
            message_end("end_turn", input_tokens=43, **NO_CACHE),
        )
    ),
    "a call without arguments": b"".join(
        (
            message_start(**NO_CACHE, **BY_AGE),
            text_block(0),
            PING,
            block(
                1,
                {"type": "tool_use", "id": "toolu_1", "name": "refresh", "input": {}},
                {"type": "input_json_delta", "partial_json": ""},
            ),
            message_end("tool_use", input_tokens=43, **NO_CACHE),
        )
    ),
    "input tokens counted at the end": message_start() + text_block(0) + message_end("end_turn", input_tokens=61),
    "a fallback to another model": b"".join(
        (
            message_start(**NO_CACHE),
            block(0, {"type": "fallback", "from": {"model": "claude-sonnet-4-5"}, "to": {"model": OPUS}}),
            text_block(1),
            message_end(
                "end_turn",
                **NO_CACHE,
                input_tokens=412,
                iterations=[
                    {
                        "type": "message",
                        "model": "claude-sonnet-4-5",
                        "input_tokens": 43,
                        "output_tokens": 0,
                        **NO_CACHE,
                    },
                    {"type": "fallback_message", "model": OPUS, "input_tokens": 412, "output_tokens": 282, **NO_CACHE},
                ],
            ),
        )
    ),
}
"""Streams of Anthropic; each begins with `message_start` and ends with `message_stop`."""
DOUBLE_START = message_start() + message_start() + text_block(0) + message_end("end_turn")
"""A malformed stream, seen from a server with the Messages API: `message_start` occurs twice."""
