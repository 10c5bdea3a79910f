"""`ResponsesWire`: wire of the Responses API of OpenAI and of other servers with this API.

Each request contains the complete history, because the server stores no conversation. Source: the API reference
(2026-11), the types of the official SDK `openai` 3.51, and recorded traffic.
"""

from collections.abc import Mapping

from anthropic_proxy.engine.messages.models import DocumentBlock, ImageBlock
from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.contract import DecodedError, Decoder, Wire
from anthropic_proxy.engine.wires.failures import (
    decode_error_body,
    find_reply_end,
    read_own_words,
)
from anthropic_proxy.engine.wires.openai_responses.decisions import DecisionDecoder, is_decision
from anthropic_proxy.engine.wires.openai_responses.dialect import Dialect
from anthropic_proxy.engine.wires.openai_responses.errors import (
    PARTS,
    apply_adaptation,
    classify_fault,
    find_adaptation,
)
from anthropic_proxy.engine.wires.openai_responses.request import COUNTED_FIELDS, encode_request
from anthropic_proxy.engine.wires.openai_responses.stream import ResponsesDecoder

__all__ = ["WIRE", "Dialect"]


class ResponsesWire(Wire[Dialect, TranslatedCall[Dialect]]):
    dialect_type = Dialect
    framing = "sse"
    encode_request = staticmethod(encode_request)
    counted_fields = COUNTED_FIELDS
    parts = PARTS
    find_adaptation = staticmethod(find_adaptation)
    apply_adaptation = staticmethod(apply_adaptation)

    def new_decoder(self, call: TranslatedCall[Dialect]) -> Decoder:
        return DecisionDecoder(call) if is_decision(call) else ResponsesDecoder(call)

    def decode_error(
        self, call: TranslatedCall[Dialect], status: int, headers: Mapping[str, str], body: bytes
    ) -> DecodedError:
        fault = read_own_words(decode_error_body(status, headers, body), call, may_postpone=True)
        end = find_reply_end(fault, call.provider_prefix)
        return classify_fault(fault, call) if end is None else [end]

    def accepts_media_url(self, dialect: Dialect, block: ImageBlock | DocumentBlock) -> bool:
        return True  # servers of this API download images and documents


WIRE = ResponsesWire()
"""The only instance of `ResponsesWire`, shared by all client requests."""
