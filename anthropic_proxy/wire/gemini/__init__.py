"""Google's `generateContent`, as AI Studio and Vertex AI speak it.

Source: the API reference of both (2026-11), the types of the official SDK `google-genai` 3.3, and recorded traffic.
"""

from collections.abc import Mapping
from typing import Literal

from anthropic_proxy.messages.deltas import Delta, Usage
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.failures import blocked, decode_fault, is_policy_refusal, judge
from anthropic_proxy.wire.gemini.dialect import Dialect
from anthropic_proxy.wire.gemini.healing import find_healing, heal
from anthropic_proxy.wire.gemini.media import takes_link
from anthropic_proxy.wire.gemini.request import encode_request
from anthropic_proxy.wire.gemini.stream import new_decoder

FRAMING: Literal["sse"] = "sse"

__all__ = ["FRAMING", "Dialect", "decode_error", "encode_request", "find_healing", "heal", "new_decoder", "takes_link"]


def decode_error(call: Call, status: int, headers: Mapping[str, str], body: bytes) -> Exception | list[Delta]:
    """Read an answer whose status is not 2xx: an `UpstreamError`, or the refusal that it is."""
    fault = decode_fault(status, headers, body)
    if is_policy_refusal(fault):
        return [Usage(output_tokens=0), blocked(call.provider, fault.message)]
    return judge(fault, call.provider, window=call.most_input, estimate=call.estimate, asked=call.request.max_tokens)
