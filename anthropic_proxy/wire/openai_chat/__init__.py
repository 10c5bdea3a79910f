"""OpenAI's Chat Completions, and the many servers that speak it with an accent."""

from collections.abc import Mapping
from typing import Literal

from anthropic_proxy.messages.deltas import Delta
from anthropic_proxy.messages.models import DocumentBlock, ImageBlock
from anthropic_proxy.wire.contract import Call, Decoder
from anthropic_proxy.wire.failures import decode_error_body
from anthropic_proxy.wire.openai_chat.adaptation import apply_adaptation, find_adaptation
from anthropic_proxy.wire.openai_chat.dialect import Dialect
from anthropic_proxy.wire.openai_chat.errors import classify_fault, reply_in_error
from anthropic_proxy.wire.openai_chat.request import encode_request
from anthropic_proxy.wire.openai_chat.stream import ChatDecoder

FRAMING: Literal["sse"] = "sse"

__all__ = [
    "FRAMING",
    "Dialect",
    "accepts_url",
    "apply_adaptation",
    "decode_error",
    "encode_request",
    "find_adaptation",
    "new_decoder",
]


def accepts_url(dialect: Dialect, block: ImageBlock | DocumentBlock) -> bool:
    """Return True if the server fetches an image or a PDF from a URL."""
    return dialect.image_urls if isinstance(block, ImageBlock) else dialect.accepts_pdf_urls


def new_decoder(call: Call) -> Decoder:
    """Return a fresh decoder for one answer."""
    return ChatDecoder(call)


def decode_error(call: Call, status: int, headers: Mapping[str, str], body: bytes) -> Exception | list[Delta]:
    """Decode a response with a status other than 2xx: an `UpstreamError`, or the reply in its body."""
    fault = decode_error_body(status, headers, body)
    reply = reply_in_error(fault, call)
    return classify_fault(fault, call) if reply is None else reply
