"""OpenAI's Chat Completions, and the many servers that speak it with an accent."""

from collections.abc import Mapping

from anthropic_proxy.messages.deltas import Delta
from anthropic_proxy.wire.contract import Call, Decoder, UpstreamRequest
from anthropic_proxy.wire.openai_chat.dialect import Dialect

FRAMING = "sse"

__all__ = ["FRAMING", "Dialect", "decode_error", "encode_request", "new_decoder"]


def encode_request(call: Call) -> UpstreamRequest:
    """Say the request as a Chat Completions body."""
    raise NotImplementedError


def new_decoder(call: Call) -> Decoder:
    """Return a fresh decoder for one answer."""
    raise NotImplementedError


def decode_error(call: Call, status: int, headers: Mapping[str, str], body: bytes) -> Exception | list[Delta]:
    """Read an answer whose status is not 2xx."""
    raise NotImplementedError
