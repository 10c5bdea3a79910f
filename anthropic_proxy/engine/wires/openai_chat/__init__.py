"""Wire of the Chat Completions API of OpenAI and of servers of other vendors with the same API.

Differences of servers and models are fields of `Dialect`.
"""

from collections.abc import Mapping

from anthropic_proxy.engine.messages.models import DocumentBlock, ImageBlock
from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.contract import DecodedError, Wire
from anthropic_proxy.engine.wires.failures import (
    decode_error_body,
    read_own_words,
)
from anthropic_proxy.engine.wires.openai_chat.dialect import Dialect
from anthropic_proxy.engine.wires.openai_chat.errors import (
    PARTS,
    apply_adaptation,
    classify_fault,
    decode_reply_in_error,
    find_adaptation,
)
from anthropic_proxy.engine.wires.openai_chat.request import COUNTED_FIELDS, encode_request
from anthropic_proxy.engine.wires.openai_chat.stream import ChatDecoder

__all__ = ["WIRE", "Dialect"]


class ChatWire(Wire[Dialect, TranslatedCall[Dialect]]):
    dialect_type = Dialect
    framing = "sse"
    encode_request = staticmethod(encode_request)
    counted_fields = COUNTED_FIELDS
    new_decoder = staticmethod(ChatDecoder)
    parts = PARTS
    find_adaptation = staticmethod(find_adaptation)
    apply_adaptation = staticmethod(apply_adaptation)

    def decode_error(
        self, call: TranslatedCall[Dialect], status: int, headers: Mapping[str, str], body: bytes
    ) -> DecodedError:
        fault = read_own_words(decode_error_body(status, headers, body), call, may_postpone=True)
        reply = decode_reply_in_error(fault, call)
        return classify_fault(fault, call) if reply is None else reply

    def accepts_media_url(self, dialect: Dialect, block: ImageBlock | DocumentBlock) -> bool:
        return dialect.accepts_image_urls if isinstance(block, ImageBlock) else dialect.accepts_pdf_urls


WIRE = ChatWire()
"""The only instance of `ChatWire`, shared by all client requests."""
