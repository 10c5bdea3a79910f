"""`AnthropicWire`: relay for providers with the Messages API, which forwards requests and responses with few edits.

Encoding a request again would lose signatures, citations and unknown fields. The relay replaces `model`, and removes
content that the provider would reject, such as signatures of other providers.
"""

from collections.abc import Mapping

from anthropic_proxy.engine.messages.models import DocumentBlock, ImageBlock
from anthropic_proxy.engine.wires.anthropic.batches import encode_batch, remove_results_host
from anthropic_proxy.engine.wires.anthropic.dialect import Dialect
from anthropic_proxy.engine.wires.anthropic.errors import apply_adaptation, decode_error, find_adaptation
from anthropic_proxy.engine.wires.anthropic.reply_forms import (
    StreamRepair,
    convert_events_to_message,
    convert_message_to_events,
)
from anthropic_proxy.engine.wires.anthropic.request import encode_request
from anthropic_proxy.engine.wires.anthropic.stream import (
    MEDIA_TYPE,
    EventStreamReader,
    RelayInspector,
    remove_events_after_end,
    remove_message_start,
    replace_reply_model,
    select_frames_to_inspect,
    split_after_message_end,
)
from anthropic_proxy.engine.wires.contract import RelayWire, StreamConverter

__all__ = ["WIRE", "Dialect"]


class AnthropicWire(RelayWire[Dialect]):
    """Wire that forwards requests and responses of the Messages API with few edits."""

    dialect_type = Dialect
    framing = "sse"
    encode_request = staticmethod(encode_request)
    new_decoder = staticmethod(RelayInspector)
    decode_error = staticmethod(decode_error)
    find_adaptation = staticmethod(find_adaptation)
    apply_adaptation = staticmethod(apply_adaptation)
    encode_batch = staticmethod(encode_batch)
    remove_results_host = staticmethod(remove_results_host)
    new_stream_repair = staticmethod(StreamRepair)
    convert_message_to_events = staticmethod(convert_message_to_events)
    convert_events_to_message = staticmethod(convert_events_to_message)
    replace_reply_model = staticmethod(replace_reply_model)
    remove_message_start = staticmethod(remove_message_start)
    split_after_message_end = staticmethod(split_after_message_end)
    remove_events_after_end = staticmethod(remove_events_after_end)
    select_frames_to_inspect = staticmethod(select_frames_to_inspect)

    def accepts_media_url(self, dialect: Dialect, block: ImageBlock | DocumentBlock) -> bool:
        return dialect.accepts_media_urls

    def new_stream_converter(self, headers: Mapping[str, str]) -> StreamConverter | None:
        return EventStreamReader() if headers.get("content-type", "").startswith(MEDIA_TYPE) else None


WIRE = AnthropicWire()
"""The only instance, shared by all client requests."""
