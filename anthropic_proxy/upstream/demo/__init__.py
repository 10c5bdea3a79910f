"""The demonstration: a built-in "model" that answers as a Chat Completions server does, in process, without a socket.

It is a set of rules. It says what it is, calls the tools that the user plainly asks for, and repeats what they return,
so that the whole path of the proxy can be tried before a provider is configured.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from anthropic_proxy.wire.contract import Credential, Send, UpstreamRequest, UpstreamResponse

PACE_SECONDS = 0.01
"""Pause before each piece of a streamed reply in a real run, so that one sees it stream."""
KEY_VARIABLES = (
    "OPENAI_API_KEY",
    "GEMINI_API_KEY",
    "GROQ_API_KEY",
    "MOONSHOT_API_KEY",
    "XAI_API_KEY",
    "ANTHROPIC_API_KEY",
    "OLLAMA_API_BASE",
)
"""Settings that the replies name as the way to a real model, the likeliest first."""


class DemoResponse:
    """An answer that is made up while it is read: an `UpstreamResponse`."""

    def __init__(self, status: int, content_type: str, chunks: Iterable[bytes], pace: float) -> None:
        self.status = status
        self.headers: Mapping[str, str] = {"content-type": content_type}
        self._chunks = iter(chunks)
        self._pace = pace

    async def read(self) -> bytes:
        """Return the next piece, b"" at the end."""
        chunk = next(self._chunks, b"")
        if chunk and self._pace:
            await asyncio.sleep(self._pace)
        return chunk

    async def close(self, *, complete: bool = False) -> None:
        """Forget what was not read."""
        self._chunks = iter(())


def new_demo(
    *,
    key_variables: Sequence[str] = KEY_VARIABLES,
    pace: float = 0.0,
    new_id: Callable[[str], str] = lambda prefix: prefix + secrets.token_hex(12),
    clock: Callable[[], float] = time.time,
) -> Send:
    """Return the way out that leads to the demonstration.

    `pace`: seconds before each piece of a streamed reply. `clock`: seconds since the epoch.
    """

    async def send(base_url: str, request: UpstreamRequest, credential: Credential | None) -> UpstreamResponse:
        return _answer(request, key_variables, pace, new_id, clock)

    return send


send: Send = new_demo(pace=PACE_SECONDS)
"""The demonstration as a real run uses it."""


def _answer(
    request: UpstreamRequest,
    key_variables: Sequence[str],
    pace: float,
    new_id: Callable[[str], str],
    clock: Callable[[], float],
) -> DemoResponse:
    # Loaded with the first request, because most processes never ask the demo anything.
    from anthropic_proxy.upstream.demo import conversation, reply, stream  # noqa: PLC0415

    if request.path.partition("?")[0] != "/chat/completions":
        return _refusal(404, f"Unknown request URL: {request.method} {request.path}.")
    try:
        asked = conversation.decode_conversation(request.body, datetime.fromtimestamp(clock(), UTC).date())
    except msgspec.DecodeError:
        return _refusal(400, "We could not parse the JSON body of your request.")
    answer = reply.find_answer(asked, key_variables)
    spoken = stream.speak(answer, asked, [new_id("call_") for _ in answer.calls])
    reply_id, created = new_id("chatcmpl-"), int(clock())
    if asked.stream:
        chunks = stream.encode_chunks(spoken, asked, reply_id, created)
        return DemoResponse(200, "text/event-stream; charset=utf-8", chunks, pace)
    body = stream.encode_completion(spoken, asked, reply_id, created)
    return DemoResponse(200, "application/json", [body], 0.0)


def _refusal(status: int, message: str) -> DemoResponse:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return DemoResponse(status, "application/json", [msgspec.json.encode({"error": error})], 0.0)
