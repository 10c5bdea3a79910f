"""`GeminiWire`: wire of Google's `generateContent` API, which AI Studio and Vertex AI offer.

A wire encodes upstream requests and decodes upstream responses of one API. Source: the API reference of both (2026-11),
the types of the official SDK `google-genai` 3.3, and recorded traffic.
"""

from collections.abc import Mapping

from anthropic_proxy.errors import UpstreamError
from anthropic_proxy.messages.deltas import Delta, Usage
from anthropic_proxy.wire.contract import Call, Decoder, Wire
from anthropic_proxy.wire.failures import (
    build_upstream_error,
    decode_error_body,
    find_reply_end,
)
from anthropic_proxy.wire.gemini.adaptation import apply_adaptation, find_adaptation
from anthropic_proxy.wire.gemini.dialect import Dialect
from anthropic_proxy.wire.gemini.request import accepts_media_url, encode_request
from anthropic_proxy.wire.gemini.stream import GeminiDecoder

__all__ = ["WIRE", "Dialect"]


class GeminiWire(Wire[Dialect]):
    """Wire of Google's `generateContent` API."""

    dialect_type = Dialect
    framing = "sse"
    encode_request = staticmethod(encode_request)
    accepts_media_url = staticmethod(accepts_media_url)
    find_adaptation = staticmethod(find_adaptation)
    apply_adaptation = staticmethod(apply_adaptation)

    def new_decoder(self, call: Call[Dialect]) -> Decoder:
        """Return a new decoder for one response of the provider to the upstream request of `call`."""
        return GeminiDecoder(call)

    def decode_error(
        self, call: Call[Dialect], status: int, headers: Mapping[str, str], body: bytes
    ) -> UpstreamError | list[Delta]:
        """Decode a response with a status other than 2xx. Return the error, or the deltas of a reply that it ends."""
        fault = decode_error_body(status, headers, body)
        if (end := find_reply_end(fault, call.provider)) is not None:
            return [Usage(output_tokens=0), end]
        return build_upstream_error(
            fault,
            call.provider,
            context_window=call.effective_max_input_tokens,
            estimate_input=call.estimate_input_tokens,
            output_limit=call.request.max_tokens,
        )


WIRE = GeminiWire()
"""The only instance of `GeminiWire`, shared by all client requests."""
