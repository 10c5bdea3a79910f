"""Decoding of a complete response body, as the exchange does it."""

from anthropic_proxy.messages.deltas import Delta
from anthropic_proxy.wire.contract import Decoder


def decode_whole(decoder: Decoder, body: bytes) -> list[Delta]:
    return [*decoder.decode_body(body), *decoder.decode_end()]
