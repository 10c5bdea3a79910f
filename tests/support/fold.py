"""The message of a request without streaming, from all deltas of a reply."""

from collections.abc import Iterable

from anthropic_proxy.engine.messages.call_states import HiddenThinking
from anthropic_proxy.engine.messages.deltas import Delta
from anthropic_proxy.engine.messages.fold import Fold
from anthropic_proxy.engine.messages.models import MessagesResponse
from anthropic_proxy.engine.messages.writer import MessageWriter


def fold(
    deltas: Iterable[Delta],
    *,
    message_id: str,
    model: str,
    signature: str,
    estimated_input_tokens: int = 0,
    hidden: HiddenThinking | None = None,
) -> MessagesResponse:
    """Return the complete message. `estimated_input_tokens` counts if the provider reports none. `hidden`: that of the
    writer.
    """
    writer = MessageWriter(message_id=message_id, model=model, signature=signature, hidden=hidden)
    writer.estimate = estimated_input_tokens
    message = Fold(writer)
    message.feed(deltas)
    return message.finish()
