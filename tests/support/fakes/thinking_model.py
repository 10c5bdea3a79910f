"""Fake providers that think before each call, and refuse a request in which a call lacks the thinking before it.

They have a prefix cache (`prefix_cache.py`), so that a test can compare what conversations cost.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from tests.support.fakes.prefix_cache import STREAMS, CachingProvider, wire_of
from tests.support.harness import FakeResponse

THOUGHT = "I look at it first."
WORDS = "Hello!"


@dataclass
class ThinkingProvider(CachingProvider):
    """Its state of each call has `state_characters` characters. A text gets thinking too, which nobody needs."""

    state_characters: int = 200
    states: dict[str, str] = field(default_factory=dict)
    """Id of a call → the state that belongs to it."""
    refusals: list[str] = field(default_factory=list)

    def __call__(self, base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        if not (wire := wire_of(request.path)):  # a question about the server or the model
            return FakeResponse(404, b'{"error":"not found"}')
        body = json.loads(request.body)
        missing = [call_id for call_id, state in list_states(wire, body) if self.states.get(call_id) != state]
        if missing:
            self.refusals.append(f"{wire}: the calls {missing} lack their thinking")
            return FakeResponse(400, json.dumps({"error": {"message": self.refusals[-1]}}).encode())
        reply = self.reply(wire, body, request.headers)
        streams = body.get("stream") or "streamGenerateContent" in request.path
        chunks = [*STREAMS[wire](reply)] if streams else [json.dumps(reply).encode()]
        kind = "application/x-ndjson" if wire == "ollama" else "text/event-stream"
        return FakeResponse(200, *chunks, headers={"content-type": kind if streams else "application/json"})

    def reply(self, wire: str, body: dict[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
        reply = super().reply(wire, body, headers)
        call_id = f"call_{len(self.calls)}"
        self.states[call_id] = state = _new_state(call_id, self.state_characters)
        _ADDED[wire](reply, state)
        return reply


def _new_state(call_id: str, characters: int) -> str:
    """Return text as it is in a state: it cannot be compressed."""
    digests = (hashlib.sha512(f"{call_id} {number}".encode()).hexdigest() for number in range(characters // 128 + 1))
    return "".join(digests)[:characters]


def _add_to_chat(reply: dict[str, Any], state: str) -> None:
    reply["choices"][0]["message"]["reasoning_content"] = state


def _add_to_responses(reply: dict[str, Any], state: str) -> None:
    summary = [{"type": "summary_text", "text": THOUGHT}]
    reply["output"].insert(0, {"type": "reasoning", "id": "rs_1", "summary": summary, "encrypted_content": state})


def _add_to_gemini(reply: dict[str, Any], state: str) -> None:
    parts = reply["candidates"][0]["content"]["parts"]
    parts[0]["thoughtSignature"] = state
    parts.insert(0, {"text": THOUGHT, "thought": True})


def _add_to_ollama(reply: dict[str, Any], state: str) -> None:
    reply["message"]["thinking"] = state


_ADDED = {
    "chat": _add_to_chat,
    "responses": _add_to_responses,
    "gemini": _add_to_gemini,
    "ollama": _add_to_ollama,
}


def list_states(wire: str, body: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Yield the id and the state of each call in a request."""
    if wire == "gemini":
        for content in body["contents"]:
            for part in content["parts"]:
                if "functionCall" in part:
                    yield part["functionCall"]["id"], part.get("thoughtSignature")
    elif wire == "responses":
        before: dict[str, Any] = {}
        for item in body["input"]:
            if item["type"] == "function_call":
                yield item["call_id"], before.get("encrypted_content")
            before = item
    else:
        name = "thinking" if wire == "ollama" else "reasoning_content"
        for message in body["messages"]:
            for call in message.get("tool_calls") or ():
                yield call["id"], message.get(name)
