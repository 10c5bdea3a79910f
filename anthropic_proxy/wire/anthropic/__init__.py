"""The Messages API itself: bytes pass as they are and are only read along. The one wire that relays.

Encoding a request anew would lose signatures, citations, the provider's prompt cache and every field invented after us.
So of a body only `model` is replaced, and what other backends signed, which the API would refuse, is cut out. What
servers of the same language mend or lack is a field of the `Dialect`.
"""

from typing import Literal

from anthropic_proxy.wire.anthropic.dialect import Dialect
from anthropic_proxy.wire.anthropic.reply import (
    decode_error,
    find_healing,
    find_telling,
    heal,
    new_decoder,
    with_reply_model,
    without_start,
)
from anthropic_proxy.wire.anthropic.request import encode_request

__all__ = [
    "FRAMING",
    "RELAY",
    "Dialect",
    "decode_error",
    "encode_request",
    "find_healing",
    "find_telling",
    "heal",
    "new_decoder",
    "with_reply_model",
    "without_start",
]

FRAMING: Literal["sse"] = "sse"
RELAY: Literal[True] = True
