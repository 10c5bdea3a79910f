"""Pictures and documents of earlier turns: a sentence takes their place if a server has refused them."""

from msgspec import Raw, structs

from anthropic_proxy.engine.messages.fidelity import FidelityNote
from anthropic_proxy.engine.messages.models import (
    Block,
    DocumentBlock,
    ImageBlock,
    Message,
    TextBlock,
    ToolResultBlock,
    decode_nested_content,
    json_string,
)
from anthropic_proxy.engine.messages.models.raw_json import ABOVE_STRINGS
from anthropic_proxy.engine.wires.calls import TranslatedCall
from anthropic_proxy.engine.wires.dialect import DialectT

OMIT_PAST_MEDIA = "drop media of earlier turns"
"""Name of the adaptation that sets `BaseDialect.omits_past_media`."""


def omit_past_media(call: TranslatedCall[DialectT], notes: list[FidelityNote]) -> TranslatedCall[DialectT]:
    """Return the call without the media of the turns before its newest one, which begins behind the last reply."""
    messages = call.request.messages
    roles = [message.role for message in messages]
    newest = len(roles) - roles[::-1].index("assistant") if "assistant" in roles else 0
    past = [_omit_in_message(message, notes) for message in messages[:newest]]
    request = structs.replace(call.request, messages=[*past, *messages[newest:]], known=None)
    return structs.replace(call, request=request)


def _omit_in_message(message: Message, notes: list[FidelityNote]) -> Message:
    if message.role != "user":
        return message
    content = [_omit_in_block(block, notes) for block in message.blocks]
    return structs.replace(message, content=content)


def _omit_in_block(block: Block, notes: list[FidelityNote]) -> Block:
    if isinstance(block, ToolResultBlock) and not block.content < ABOVE_STRINGS:
        inner = [_omit_in_block(part, notes) for part in decode_nested_content(block.content)]
        texts = [part.text for part in inner if isinstance(part, TextBlock)]
        is_text = len(texts) == len(inner) and texts
        return structs.replace(block, content=_join(texts)) if is_text else block
    if isinstance(block, ImageBlock | DocumentBlock):
        kind = "image" if isinstance(block, ImageBlock) else "document"
        return TextBlock(json_string(describe_omitted(kind, notes)))
    return block


def describe_omitted(kind: str, notes: list[FidelityNote]) -> str:
    """Return the sentence in place of a picture or document, and note its loss. `kind`: `image` or `document`."""
    notes.append(FidelityNote("dropped", f"messages.{kind}", "the server refused the conversation with it"))
    return f"[{kind} omitted: the server refuses this conversation with it. Say so if it is needed.]"


def _join(texts: list[Raw]) -> Raw:
    return Raw(b'"%b"' % rb"\n\n".join(bytes(text)[1:-1] for text in texts))
