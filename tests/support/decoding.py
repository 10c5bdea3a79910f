"""Decoding of a complete response body, as the exchange does it."""

from anthropic_proxy.engine.messages.deltas import Delta
from anthropic_proxy.engine.wires.contract import Decoder


def decode_whole(decoder: Decoder, body: bytes) -> list[Delta]:
    return [*decoder.decode_body(body), *decoder.decode_end()]
