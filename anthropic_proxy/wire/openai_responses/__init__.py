"""OpenAI's Responses, without any state on the server, as OpenAI and those who took it up speak it.

Source: the API reference (2026-11), the types of the official SDK `openai` 3.51, and recorded traffic.
"""

from collections.abc import Mapping
from typing import Literal

from anthropic_proxy.messages.deltas import Delta
from anthropic_proxy.messages.types import DocumentBlock, ImageBlock
from anthropic_proxy.wire.contract import Call, Decoder
from anthropic_proxy.wire.failures import decode_fault
from anthropic_proxy.wire.openai_responses.dialect import Dialect
from anthropic_proxy.wire.openai_responses.faults import find_reply, judge_fault
from anthropic_proxy.wire.openai_responses.healing import find_healing, heal
from anthropic_proxy.wire.openai_responses.request import encode_request
from anthropic_proxy.wire.openai_responses.stream import ResponsesDecoder

FRAMING: Literal["sse"] = "sse"

__all__ = ["FRAMING", "Dialect", "decode_error", "encode_request", "find_healing", "heal", "new_decoder", "takes_link"]


def takes_link(_dialect: Dialect, _block: ImageBlock | DocumentBlock) -> bool:
    """Whether the server fetches pictures and files at their addresses: both."""
    return True


def new_decoder(call: Call) -> Decoder:
    """Return a fresh decoder for one answer."""
    return ResponsesDecoder(call)


def decode_error(call: Call, status: int, headers: Mapping[str, str], body: bytes) -> Exception | list[Delta]:
    """Read an answer whose status is not 2xx: an `UpstreamError`, or the refusal that it is after all."""
    fault = decode_fault(status, headers, body)
    reply = find_reply(fault, call)
    return judge_fault(fault, call) if reply is None else reply
