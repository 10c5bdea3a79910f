"""Google's `generateContent`, as AI Studio and Vertex AI speak it.

Source: the API reference of both (2026-11), the types of the official SDK `google-genai` 3.3, and recorded traffic.
"""

from collections.abc import Mapping
from typing import Literal

from anthropic_proxy.messages.deltas import Delta, Usage
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.failures import blocked, classify, decode_error_body, is_policy_refusal
from anthropic_proxy.wire.gemini.adaptation import apply_adaptation, find_adaptation
from anthropic_proxy.wire.gemini.dialect import Dialect
from anthropic_proxy.wire.gemini.media import accepts_url
from anthropic_proxy.wire.gemini.request import encode_request
from anthropic_proxy.wire.gemini.stream import new_decoder

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


def decode_error(call: Call, status: int, headers: Mapping[str, str], body: bytes) -> Exception | list[Delta]:
    """Decode a response with a status other than 2xx: an `UpstreamError`, or the deltas of a refusal."""
    fault = decode_error_body(status, headers, body)
    if is_policy_refusal(fault):
        return [Usage(output_tokens=0), blocked(call.provider, fault.message)]
    return classify(
        fault, call.provider, window=call.max_input_tokens, estimate=call.estimate, asked=call.request.max_tokens
    )
