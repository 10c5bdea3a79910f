"""Player of a scenario in which the bytes pass unchanged: through the real relay, without a socket."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from anthropic_proxy.engine.background import BackgroundWork
from anthropic_proxy.engine.exchange.client_side import encode_error, encode_events, error_headers
from anthropic_proxy.engine.exchange.relay import RelayStream, build_relay_call, forwarded_headers
from anthropic_proxy.engine.exchange.usage_bounds import UsageBounds
from anthropic_proxy.engine.exchange.watchdog import Watchdog
from anthropic_proxy.engine.messages.deltas import MAX_COUNT
from anthropic_proxy.engine.messages.fidelity import FidelityReport
from anthropic_proxy.engine.messages.models import MessagesRequest
from anthropic_proxy.engine.routing.targets import Target
from anthropic_proxy.engine.wires.calls import RelayCall
from anthropic_proxy.errors import ProxyError, UpstreamError
from tests.support.harness import FakeResponse, new_client_request

ANY_USAGE = UsageBounds(
    max_input=MAX_COUNT, max_output=MAX_COUNT, estimated_input=None, provider="", report=FidelityReport()
)
"""Bounds that no count exceeds."""


def new_call(
    target: Target, request: MessagesRequest, posted: bytes, headers: Mapping[str, str], query: str
) -> RelayCall:
    inbound = new_client_request(posted, headers=headers, query=query)
    return build_relay_call(inbound, request, target)


def play(
    target: Target, call: RelayCall, status: int, headers: Mapping[str, str], chunks: Sequence[bytes]
) -> dict[str, bytes]:
    """Return the response that the client receives: the fields of `ReplayResult`."""
    return asyncio.run(_play(target, call, status, headers, chunks))


async def _play(
    target: Target, call: RelayCall, status: int, headers: Mapping[str, str], chunks: Sequence[bytes]
) -> dict[str, bytes]:
    watch = Watchdog(wait_disconnected=asyncio.Event().wait, on_idle=None, first_byte_seconds=600, idle_seconds=600)
    response = FakeResponse(status, *(chunk for chunk in chunks if chunk), headers=headers)
    answer = RelayStream(call, response, watch, BackgroundWork().of("key local"), bounds=ANY_USAGE)
    try:
        if status != 200:
            error = target.wire.decode_error(call, status, headers, b"".join(chunks))
            error.headers = forwarded_headers(headers)
            raise error
        await answer.wait_for_content()
        received = b""
        while (data := await answer.read()) is not None:
            received += data
    except ProxyError as error:
        return {"error": _refusal(error)}
    finally:
        watch.stop()
    if not call.streams_upstream:
        return {"message": readable(msgspec.json.decode(received))}
    if answer.ending is not None:
        received += encode_events([answer.ending], "req_golden")
    return {"events": received}


def _refusal(error: ProxyError) -> bytes:
    headers = error_headers(error, "req_golden")
    body = encode_error(error, "req_golden")
    if isinstance(error, UpstreamError):
        body, headers = error.body or body, {**headers, **error.headers}
    del headers["content-type"]
    return readable({"status": error.status, "headers": headers, "body": msgspec.json.decode(body)})


def readable(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
