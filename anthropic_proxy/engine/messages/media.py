"""Images and documents of a conversation, wherever the API allows them: in messages, in tool results, in documents.

Both functions get a `mark`, a text that the JSON of each wanted block has. A result or document without it is not
decoded.
"""

from collections.abc import Callable, Iterator, Sequence

import msgspec
from msgspec import Raw, structs

from anthropic_proxy.engine.messages.models import (
    Block,
    CleanMessages,
    DocumentBlock,
    ImageBlock,
    Message,
    MessagesRequest,
    ToolResultBlock,
    decode_nested_content,
)

MediaBlock = ImageBlock | DocumentBlock
_LIST = b"["[0]
_LEVELS = 2
"""Levels in a block at which a file may be: a result, a document in it, and an image in this."""


def may_have_media(messages: Sequence[Message]) -> bool:
    """Return False if the messages are known to have neither images nor documents."""
    return not isinstance(messages, CleanMessages) or messages.has_media


def list_media(messages: Sequence[Message], mark: bytes) -> Iterator[tuple[str, MediaBlock]]:
    """Yield each image and document with its path in the request."""
    for place, message in enumerate(messages):
        if isinstance(message.content, list):
            yield from _list_in(message.content, f"messages.{place}.content", mark, _LEVELS)


def _list_in(content: list[Block], path: str, mark: bytes, levels: int) -> Iterator[tuple[str, MediaBlock]]:
    for place, block in enumerate(content):
        if levels and (inner := _find_content(block, mark)) is not None:
            within = f"{path}.{place}.{block.__struct_config__.tag}.content"
            yield from _list_in(decode_nested_content(inner), within, mark, levels - 1)
        elif isinstance(block, ImageBlock | DocumentBlock):
            yield f"{path}.{place}", block


def replace_media(
    request: MessagesRequest, mark: bytes, replace: Callable[[MediaBlock], Sequence[Block]]
) -> MessagesRequest:
    """Return the request with what `replace` returns in place of each image and document: blocks, or only itself."""
    messages = []
    for message in request.messages:
        content = message.content
        if isinstance(content, list):
            changed = _replace_in(content, content, mark, replace, _LEVELS)
            messages.append(message if changed is None else structs.replace(message, content=changed))
        else:
            messages.append(message)
    return structs.replace(request, messages=messages)


def _replace_in(
    blocks: list[Block],
    unchanged: Sequence[object],
    mark: bytes,
    replace: Callable[[MediaBlock], Sequence[Block]],
    levels: int,
) -> list[object] | None:
    """`unchanged`: the form of each block that stays. None: all stay."""
    result = list[object]()
    has_changed = False
    for block, same in zip(blocks, unchanged, strict=True):
        if levels and (content := _find_content(block, mark)) is not None:
            raws = msgspec.json.decode(content, type=list[Raw])  # unchanged blocks keep their bytes
            inner = _replace_in(decode_nested_content(content), raws, mark, replace, levels - 1)
            if inner is not None:
                has_changed = True
                result.append(_with_content(block, Raw(msgspec.json.encode(inner))))
                continue
        elif isinstance(block, ImageBlock | DocumentBlock):
            new = replace(block)
            if len(new) != 1 or new[0] is not block:
                has_changed = True
                result += new
                continue
        result.append(same)
    return result if has_changed else None


def _find_content(block: Block, mark: bytes) -> Raw | None:
    """Return the blocks in a result or a document. None: there are none that have the mark."""
    if isinstance(block, ToolResultBlock):
        content = block.content
    elif isinstance(block, DocumentBlock) and block.source.type == "content":
        content = block.source.content
    else:
        return None
    view = memoryview(content)
    return content if view.nbytes and view[0] == _LIST and mark in bytes(view) else None


def _with_content(block: Block, content: Raw) -> Block:
    if isinstance(block, DocumentBlock):
        return structs.replace(block, source=structs.replace(block.source, content=content))
    return structs.replace(block, content=content)
