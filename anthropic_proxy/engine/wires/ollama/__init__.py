"""`OllamaWire`: wire for Ollama's own API, `/api/chat`.

Source: the structs and handlers of Ollama itself (its repository, `api/types.go` and `server/routes.go`, 2026-08), its
documentation (docs.ollama.com, 2026-11) and recorded replies.
"""

from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.contract import Wire
from anthropic_proxy.engine.wires.ollama.dialect import Dialect
from anthropic_proxy.engine.wires.ollama.errors import PARTS, apply_adaptation, decode_error, find_adaptation
from anthropic_proxy.engine.wires.ollama.request import encode_request
from anthropic_proxy.engine.wires.ollama.stream import OllamaDecoder

__all__ = ["WIRE", "Dialect"]


class OllamaWire(Wire[Dialect, TranslatedCall[Dialect]]):
    """Wire of Ollama's `/api/chat`."""

    dialect_type = Dialect
    framing = "ndjson"
    accepts_pdf = False
    encode_request = staticmethod(encode_request)
    new_decoder = staticmethod(OllamaDecoder)
    decode_error = staticmethod(decode_error)
    parts = PARTS
    find_adaptation = staticmethod(find_adaptation)
    apply_adaptation = staticmethod(apply_adaptation)


WIRE = OllamaWire()
"""The only instance, shared by all client requests."""
