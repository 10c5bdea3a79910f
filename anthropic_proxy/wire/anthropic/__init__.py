"""Relay wire for the Messages API: bytes are forwarded unchanged and only inspected.

Encoding a request again would lose signatures, citations, the provider's prompt cache and unknown fields. Only `model`
is replaced, and blocks with signatures of other backends, which the API would reject, are removed. Deviations of other
servers are fields of the `Dialect`.
"""

from typing import Literal

from anthropic_proxy.wire.anthropic.dialect import Dialect
from anthropic_proxy.wire.anthropic.inspector import (
    apply_adaptation,
    decode_error,
    find_adaptation,
    frames_to_inspect,
    new_decoder,
    split_end,
    with_reply_model,
    without_events,
    without_message_start,
)
from anthropic_proxy.wire.anthropic.request import encode_request

__all__ = [
    "FRAMING",
    "RELAY",
    "Dialect",
    "apply_adaptation",
    "decode_error",
    "encode_request",
    "find_adaptation",
    "frames_to_inspect",
    "new_decoder",
    "split_end",
    "with_reply_model",
    "without_events",
    "without_message_start",
]

FRAMING: Literal["sse"] = "sse"
RELAY: Literal[True] = True
