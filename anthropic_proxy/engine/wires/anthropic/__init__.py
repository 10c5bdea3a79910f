"""`AnthropicWire`: relay for providers with the Messages API, which forwards requests and responses with few edits.

Encoding a request again would lose signatures, citations and unknown fields. The relay replaces `model`, and removes
content that the provider would reject, such as signatures of other providers.
"""

from collections.abc import Mapping, Sequence

from anthropic_proxy.engine.messages.models import DocumentBlock, ImageBlock
from anthropic_proxy.engine.wires.anthropic.betas import list_beta_parts, list_betas, names_beta
from anthropic_proxy.engine.wires.anthropic.dialect import Dialect
from anthropic_proxy.engine.wires.anthropic.errors import PARTS, apply_adaptation, decode_error, find_adaptation
from anthropic_proxy.engine.wires.anthropic.request import encode_request
from anthropic_proxy.engine.wires.anthropic.stream import RelayInspector
from anthropic_proxy.engine.wires.calls import RelayCall
from anthropic_proxy.engine.wires.contract import Wire
from anthropic_proxy.engine.wires.dialect import RequestPart
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest

__all__ = ["WIRE", "Dialect"]


class AnthropicWire(Wire[Dialect, RelayCall[Dialect]]):
    """What only a relay does is in `batches.py`, `reply_forms.py` and `stream.py`."""

    dialect_type = Dialect
    framing = "sse"
    is_relay = True
    encode_request = staticmethod(encode_request)
    new_decoder = staticmethod(RelayInspector)
    decode_error = staticmethod(decode_error)
    parts = PARTS
    find_adaptation = staticmethod(find_adaptation)
    apply_adaptation = staticmethod(apply_adaptation)

    def list_parts(self, dialect: Dialect, headers: Mapping[str, str], body: bytes) -> Sequence[RequestPart]:
        return (*list_beta_parts(dialect, headers, body), *self.parts)

    def has_part(self, call: RelayCall[Dialect], name: str, plainer: Dialect, sent: UpstreamRequest) -> bool:
        if beta := names_beta(name):
            return beta in list_betas(sent.headers, sent.body)
        return super().has_part(call, name, plainer, sent)

    def accepts_media_url(self, dialect: Dialect, block: ImageBlock | DocumentBlock) -> bool:
        return dialect.accepts_media_urls


WIRE = AnthropicWire()
"""The only instance, shared by all client requests."""
