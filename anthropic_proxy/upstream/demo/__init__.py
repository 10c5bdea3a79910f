"""Demo: a built-in provider without a model, for trying the proxy without a key.

Its replies follow fixed rules: a text about the demo, a tool call for a few simple requests, or a repeated tool result.
`new_demo_transport` returns the function that receives the requests; no connection is opened. `DemoResponse` is the
response, in the format of Chat Completions.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from anthropic_proxy.messages.work_budget import WorkLimitExceeded
from anthropic_proxy.wire.contract import Credential, Transport, UpstreamRequest, UpstreamResponse

CHUNK_INTERVAL_SECONDS = 0.01
"""Pause before each chunk of a streamed demo reply, so that users see the reply arrive in fragments."""


class DemoResponse:
    """Response of the demo, which is produced while it is read.

    `chunk_interval_seconds` is the pause before each chunk.
    """

    body_received = False
    """Always False: whether the body has ended is not known before `DemoResponse.read` returns its end."""

    def __init__(
        self, status: int, content_type: str, chunks: Iterable[bytes], chunk_interval_seconds: float = 0.0
    ) -> None:
        self.status = status
        self.headers: Mapping[str, str] = {"content-type": content_type}
        self._chunks = iter(chunks)
        self._chunk_interval_seconds = chunk_interval_seconds

    async def read(self) -> bytes:
        """Return the next chunk of the response body after a pause of `chunk_interval_seconds`. b"": the end."""
        chunk = next(self._chunks, b"")
        if chunk and self._chunk_interval_seconds:
            await asyncio.sleep(self._chunk_interval_seconds)
        return chunk

    async def close(self, *, wait_for_end: bool = False) -> None:
        """Drop the unread chunks of the body. `wait_for_end` has no effect."""
        self._chunks = iter(())


def new_demo_transport(
    setup_variables: Sequence[str],
    *,
    chunk_interval_seconds: float = 0.0,
    new_id: Callable[[str], str] = lambda prefix: prefix + secrets.token_hex(12),
    clock: Callable[[], float] = time.time,
) -> Transport:
    """Return the function that passes a request to the demo and returns its reply.

    Some replies mention `setup_variables`, the settings that configure a real provider. `chunk_interval_seconds` is the
    pause before each chunk of a stream. `new_id` returns a new id that begins with its argument.
    """

    async def send(base_url: str, request: UpstreamRequest, credential: Credential | None) -> UpstreamResponse:
        return _respond(request, setup_variables, chunk_interval_seconds, new_id, int(clock()))

    return send


def _respond(
    request: UpstreamRequest,
    setup_variables: Sequence[str],
    chunk_interval_seconds: float,
    new_id: Callable[[str], str],
    created: int,
) -> DemoResponse:
    # Loaded with the first request, because most processes never send one to the demo.
    from anthropic_proxy.upstream.demo import reply  # noqa: PLC0415

    if request.path.partition("?")[0] != "/chat/completions":
        return _refuse(404, f"Unknown request URL: {request.method} {request.path}.")
    try:
        demo_request = reply.decode_request(request.body)
        demo_reply = reply.build_reply(demo_request, setup_variables)
    except msgspec.DecodeError:
        return _refuse(400, "We could not parse the JSON body of your request.")
    except WorkLimitExceeded as error:
        return _refuse(400, error.message)
    head = {"id": new_id("chatcmpl-"), "created": created, "model": demo_request.model}
    chunks = reply.encode_reply(demo_reply, demo_request, head, new_id("call_"))
    if demo_request.stream:
        return DemoResponse(200, "text/event-stream; charset=utf-8", chunks, chunk_interval_seconds)
    return DemoResponse(200, "application/json", chunks)


def _refuse(status: int, message: str) -> DemoResponse:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return DemoResponse(status, "application/json", [msgspec.json.encode({"error": error})])
