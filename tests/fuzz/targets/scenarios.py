"""The golden scenarios as seats for an input: a real request, a real target, every quirk of every dialect."""

import json
from functools import cache
from itertools import count
from typing import Any

from msgspec import structs

from anthropic_proxy.engine.wires.contract import Call
from anthropic_proxy.errors import ProxyError
from tests.support.golden_runner import GoldenCase, find_cases
from tests.support.provider_replies.chat import CHAT_REPLIES, CHAT_STREAMS
from tests.support.provider_replies.gemini import GEMINI_REPLIES, GEMINI_STREAMS
from tests.support.provider_replies.messages import MESSAGE_STREAMS
from tests.support.provider_replies.ollama import OLLAMA_STREAMS
from tests.support.provider_replies.responses import RESPONSE_STREAMS, RESPONSES

WIRES = ("openai_chat", "openai_responses", "gemini", "ollama", "anthropic")
MAX_SEED_BYTES = 16 * 1024
COMPLETE_REPLIES: dict[str, tuple[dict[str, bytes], dict[str, Any]]] = {
    "openai_chat": (CHAT_STREAMS, CHAT_REPLIES),
    "openai_responses": (RESPONSE_STREAMS, RESPONSES),
    "gemini": (GEMINI_STREAMS, GEMINI_REPLIES),
    "ollama": (OLLAMA_STREAMS, {}),
    "anthropic": (MESSAGE_STREAMS, {}),
}
"""Wire → streams and replies that are not streamed."""


@cache
def folders_of(wire: str) -> tuple[str, ...]:
    return tuple(sorted(folder.name for folder in find_cases(wire)))


@cache
def scenario_of(wire: str, name: str) -> GoldenCase:
    return GoldenCase(*find_cases(wire, name))


@cache
def _call_of(wire: str, name: str) -> Call | None:
    scenario = scenario_of(wire, name)
    try:
        call = scenario.call()
        scenario.target.wire.encode_request(call)
    except ProxyError:  # some scenarios show a refusal, by which no upstream is asked
        return None
    return call


@cache
def playable(wire: str) -> tuple[str, ...]:
    return tuple(name for name in folders_of(wire) if _call_of(wire, name) is not None)


def call_of(wire: str, name: str) -> Call:
    call = _call_of(wire, name)
    assert call is not None
    numbers = count(1)
    return structs.replace(call, new_id=lambda prefix: f"{prefix}{next(numbers):022d}")


def complete_replies(wire: str) -> list[bytes]:
    streams, bodies = COMPLETE_REPLIES[wire]
    return [*streams.values(), *(json.dumps(body).encode() for body in bodies.values())]
