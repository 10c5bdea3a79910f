"""Wire for OpenAI's Responses, without state on the server, and for compatible servers.

Source: the API reference (2026-11), the types of the official SDK `openai` 3.51, and recorded traffic.
"""

from collections.abc import Mapping
from typing import Literal

from anthropic_proxy.messages.deltas import Delta
from anthropic_proxy.messages.models import DocumentBlock, ImageBlock
from anthropic_proxy.wire.contract import Call, Decoder
from anthropic_proxy.wire.failures import decode_error_body
from anthropic_proxy.wire.openai_responses.adaptation import apply_adaptation, find_adaptation
from anthropic_proxy.wire.openai_responses.dialect import Dialect
from anthropic_proxy.wire.openai_responses.errors import classify_fault, reply_in_error
from anthropic_proxy.wire.openai_responses.request import encode_request
from anthropic_proxy.wire.openai_responses.stream import ResponsesDecoder

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


def accepts_url(_dialect: Dialect, _block: ImageBlock | DocumentBlock) -> bool:
    """Return True: the server fetches images and files from URLs."""
    return True


def new_decoder(call: Call) -> Decoder:
    """Return a fresh decoder for one answer."""
    return ResponsesDecoder(call)


def decode_error(call: Call, status: int, headers: Mapping[str, str], body: bytes) -> Exception | list[Delta]:
    """Decode a response with a status other than 2xx: an `UpstreamError`, or the deltas of a refusal."""
    fault = decode_error_body(status, headers, body)
    reply = reply_in_error(fault, call)
    return classify_fault(fault, call) if reply is None else reply
