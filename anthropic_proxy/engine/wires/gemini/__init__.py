"""`GeminiWire`: wire of Google's `generateContent` API, which AI Studio and Vertex AI offer.

Source: the API reference of both (2026-11),
the types of the official SDK `google-genai` 3.3, and recorded traffic.
"""

from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.contract import Wire
from anthropic_proxy.engine.wires.gemini.dialect import Dialect
from anthropic_proxy.engine.wires.gemini.errors import PARTS, apply_adaptation, decode_error, find_adaptation
from anthropic_proxy.engine.wires.gemini.request import accepts_media_url, encode_count, encode_request
from anthropic_proxy.engine.wires.gemini.stream import GeminiDecoder

__all__ = ["WIRE", "Dialect"]


class GeminiWire(Wire[Dialect, TranslatedCall[Dialect]]):
    """Wire of Google's `generateContent` API."""

    dialect_type = Dialect
    framing = "sse"
    encode_request = staticmethod(encode_request)
    encode_count = staticmethod(encode_count)
    new_decoder = staticmethod(GeminiDecoder)
    accepts_media_url = staticmethod(accepts_media_url)
    decode_error = staticmethod(decode_error)
    parts = PARTS
    find_adaptation = staticmethod(find_adaptation)
    apply_adaptation = staticmethod(apply_adaptation)


WIRE = GeminiWire()
"""The only instance, shared by all client requests."""
