"""OpenAI's Chat Completions, and the many servers that speak it with an accent."""

from collections.abc import Mapping
from typing import Literal

from anthropic_proxy.messages.deltas import Delta
from anthropic_proxy.messages.types import DocumentBlock, ImageBlock
from anthropic_proxy.wire.contract import Call, Decoder
from anthropic_proxy.wire.failures import decode_fault
from anthropic_proxy.wire.openai_chat.dialect import Dialect
from anthropic_proxy.wire.openai_chat.faults import find_reply, judge_fault
from anthropic_proxy.wire.openai_chat.healing import find_healing, heal
from anthropic_proxy.wire.openai_chat.request import encode_request
from anthropic_proxy.wire.openai_chat.stream import ChatDecoder

FRAMING: Literal["sse"] = "sse"

__all__ = ["FRAMING", "Dialect", "decode_error", "encode_request", "find_healing", "heal", "new_decoder", "takes_link"]


def takes_link(dialect: Dialect, block: ImageBlock | DocumentBlock) -> bool:
    """Whether the server fetches a picture at its address; files can only be sent."""
    return isinstance(block, ImageBlock) and dialect.image_urls


def new_decoder(call: Call) -> Decoder:
    """Return a fresh decoder for one answer."""
    return ChatDecoder(call)


def decode_error(call: Call, status: int, headers: Mapping[str, str], body: bytes) -> Exception | list[Delta]:
    """Read an answer whose status is not 2xx: an `UpstreamError`, or the reply that it is after all."""
    fault = decode_fault(status, headers, body)
    reply = find_reply(fault, call)
    return judge_fault(fault, call) if reply is None else reply
