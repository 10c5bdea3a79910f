"""Relay wire for the Messages API: bytes are forwarded unchanged and only inspected.

Encoding a request again would lose signatures, citations, the provider's prompt cache and unknown fields. Only `model`
is replaced, and blocks with signatures of other backends, which the API would reject, are removed. Deviations of other
servers are fields of the `Dialect`.
"""

from anthropic_proxy.wire.anthropic.dialect import Dialect
from anthropic_proxy.wire.anthropic.inspector import (
    RelayInspector,
    apply_adaptation,
    decode_error,
    find_adaptation,
    frames_to_inspect,
    remove_events,
    remove_message_start,
    replace_reply_model,
    split_after_message_end,
)
from anthropic_proxy.wire.anthropic.request import encode_request
from anthropic_proxy.wire.contract import Call, Decoder, RelayWire

__all__ = ["WIRE", "Dialect"]


class AnthropicWire(RelayWire[Dialect]):
    """The relay wire of the Messages API."""

    dialect_type = Dialect
    framing = "sse"
    encode_request = staticmethod(encode_request)
    decode_error = staticmethod(decode_error)
    find_adaptation = staticmethod(find_adaptation)
    apply_adaptation = staticmethod(apply_adaptation)
    replace_reply_model = staticmethod(replace_reply_model)
    remove_message_start = staticmethod(remove_message_start)
    split_after_message_end = staticmethod(split_after_message_end)
    remove_events = staticmethod(remove_events)
    frames_to_inspect = staticmethod(frames_to_inspect)

    def new_decoder(self, call: Call[Dialect]) -> Decoder:
        """Return a new decoder for one response."""
        return RelayInspector(call)


WIRE = AnthropicWire()
