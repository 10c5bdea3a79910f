"""Contents of messages: a JSON string, or a list of parts."""

import itertools
from collections.abc import Sequence
from typing import Any

from msgspec import Raw, Struct

from anthropic_proxy.messages.models import DocumentBlock, ImageBlock
from anthropic_proxy.wire.json_strings import join_texts
from anthropic_proxy.wire.openai_chat.dialect import Dialect

CACHE_MARK = {"type": "ephemeral"}
"""A mark for the provider's cache. Without a lifetime it holds for five minutes, at every provider that has marks."""

_PDF = "application/pdf"
_EMPTY = (b"null", b'""')


class TextPart(Struct, tag="text", tag_field="type", gc=False):
    """A text among other parts."""

    text: Raw


class _MarkedTextPart(Struct, tag="text", tag_field="type", gc=False):
    text: Raw
    cache_control: dict[str, str]


def encode_image(block: ImageBlock, dialect: Dialect) -> Any:
    """Return the part for an image; None: the server does not accept it in this form."""
    source = block.source
    if source.type == "base64" and source.media_type in dialect.image_types:
        url = f"data:{source.media_type};base64,{source.data}"
    elif source.type == "url" and dialect.image_urls:
        url = source.url
    else:
        return None
    return {"type": "image_url", "image_url": {"url": url}}


def encode_file(block: DocumentBlock, dialect: Dialect) -> Any:
    """Return the part for a PDF; None: the server does not accept it in this form."""
    source = block.source
    if source.type == "base64" and source.media_type == _PDF:
        place = f"data:{_PDF};base64,{source.data}"
    elif source.type == "url" and dialect.accepts_pdf_urls:
        place = source.url
    else:
        return None
    if dialect.pdf_form == "document_url":
        return {"type": "document_url", "document_url": place}
    name = block.title or "document"
    return {"type": "file", "file": {"filename": name if name.endswith(".pdf") else f"{name}.pdf", "file_data": place}}


def encode_thoughts(thoughts: str, content: Any) -> list[Any]:
    """Return the content of an assistant message that begins with its reasoning."""
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": thoughts}]}
    return [thinking, TextPart(content)] if isinstance(content, Raw) and bytes(content) not in _EMPTY else [thinking]


def mark_last_text(content: Any) -> Any:
    """Return a message's content with a mark on its last text; unchanged where it has none that is not empty."""
    if isinstance(content, Raw):
        return content if bytes(content) in _EMPTY else [_MarkedTextPart(content, CACHE_MARK)]
    texts = [
        place for place, part in enumerate(content) if isinstance(part, TextPart) and bytes(part.text) not in _EMPTY
    ]
    if not texts:
        return content
    return [
        _MarkedTextPart(part.text, CACHE_MARK) if place == texts[-1] else part for place, part in enumerate(content)
    ]


def join_contents(contents: Sequence[Any]) -> Any:
    """Return the contents of neighboring messages as one: texts before the first list become one text."""
    texts = [*itertools.takewhile(lambda content: isinstance(content, Raw), contents)]
    if len(texts) == len(contents):
        return join_texts(texts)
    first = [TextPart(join_texts(texts))] if texts else []
    remaining = ([TextPart(content)] if isinstance(content, Raw) else content for content in contents[len(texts) :])
    return [*first, *itertools.chain.from_iterable(remaining)]
