"""Calls of the wires, and the decoding of what comes back, as the exchange does it."""

import itertools
from typing import Any

import msgspec

from anthropic_proxy.engine.messages.deltas import Delta
from anthropic_proxy.engine.messages.models import decode_request
from anthropic_proxy.engine.messages.preparation import TargetLimits, prepare
from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.contract import Decoder
from anthropic_proxy.engine.wires.framing import NDJSONReader, SSEReader


def new_limits(**fields: Any) -> TargetLimits:
    """Return the limits of a model about which nothing is known, with these fields."""
    usual = {
        "provider": "the provider",
        "loaded_tools": "listed",
        "tool_name_pattern": r"[a-zA-Z0-9_-]+",
        "max_tool_name_length": 64,
    }
    return msgspec.convert(usual | fields, TargetLimits)


def new_call(
    wire: Any,
    *,
    stream: bool = True,
    provider: str = "somebody",
    dialect: dict[str, Any] | None = None,
    limits: TargetLimits | None = None,
    **fields: Any,
) -> TranslatedCall:
    """Return a call of the wire of a module, such as `openai_chat`. `fields` are those of the client request."""
    body = {"model": "claude", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}], **fields}
    prepared = prepare(decode_request(msgspec.json.encode(body)), limits or new_limits())
    count = itertools.count(1)
    return TranslatedCall(
        request=prepared.request,
        model="m",
        dialect=wire.Dialect(**(dialect or {})),
        streams_upstream=stream,
        client_tool_names=prepared.aliases,
        new_id=lambda prefix: f"{prefix}{next(count):022d}",
        provider_prefix=provider,
    )


def functions(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "input_schema": {"type": "object"}} for name in names]


def decode_whole(decoder: Decoder, body: bytes) -> list[Delta]:
    return [*decoder.decode_body(body), *decoder.decode_end()]


def decode_frames(decoder: Decoder, *frames: bytes) -> list[Delta]:
    deltas = [delta for frame in frames for delta in decoder.decode_frame(frame)]
    return [*deltas, *decoder.decode_kept(), *decoder.decode_end()]


def decode_stream(wire: Any, body: bytes, call: TranslatedCall) -> list[Delta]:
    reader = NDJSONReader() if wire.__name__.endswith("ollama") else SSEReader()
    return decode_frames(wire.WIRE.new_decoder(call), *reader.feed(body), *reader.finish())
