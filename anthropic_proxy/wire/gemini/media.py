"""Pictures and documents → parts, or a text in their place."""

import posixpath
from typing import Any
from urllib.parse import urlsplit

from anthropic_proxy.messages.notes import Note
from anthropic_proxy.messages.types import DocumentBlock, ImageBlock
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.gemini.dialect import Dialect
from anthropic_proxy.wire.standing_notes import omitted

_PDF = "application/pdf"
_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".heic": "image/heic",
    ".heif": "image/heif",
    ".pdf": _PDF,
}
_PICTURES = ("image/png", "image/jpeg", "image/webp", "image/heic", "image/heif")
"""Pictures that the models read ("Image understanding", 2026-11): no GIF."""
_OWN_PLACES = ("gs://", "https://generativelanguage.googleapis.com/")
"""Where the provider keeps files itself; every model reads those."""


def inline_part(part: dict[str, Any]) -> bool:
    """Whether a part holds the bytes themselves, as a function's response may."""
    return "inlineData" in part


def takes_link(dialect: Dialect, block: ImageBlock | DocumentBlock) -> bool:
    """Whether the model reads a picture or document at its address, whose type must be known."""
    if not (dialect.file_urls or block.source.url.startswith(_OWN_PLACES)):
        return False
    return _said_type(block) in _allowed(block)


def media_part(call: Call, block: ImageBlock | DocumentBlock, notes: list[Note]) -> dict[str, Any]:
    """Return the part for a picture or a document, or a text in its place with a note."""
    source = block.source
    kind = "image" if isinstance(block, ImageBlock) else "document"
    said = _said_type(block)
    sees = call.request.vision if kind == "image" else call.request.pdf
    title = block.title if isinstance(block, DocumentBlock) else None
    if source.type == "url":
        if sees and takes_link(call.dialect, block):
            return {"fileData": {"mimeType": said, "fileUri": source.url}}
        notes.append(omitted(kind, "", by_address=True))
        return {"text": f"[{kind}: {source.url}]"}
    if sees and said in _allowed(block):
        return {"inlineData": {"mimeType": said, "data": source.data}}
    notes.append(omitted(kind, said, by_address=False))
    return {"text": f"[{kind} omitted: {title or said}]"}


def _allowed(block: ImageBlock | DocumentBlock) -> tuple[str, ...]:
    return _PICTURES if isinstance(block, ImageBlock) else (_PDF,)


def _said_type(block: ImageBlock | DocumentBlock) -> str:
    source = block.source
    return source.media_type or _type_of(source.url) or (_PDF if isinstance(block, DocumentBlock) else "")


def _type_of(url: str) -> str:
    return _TYPES.get(posixpath.splitext(urlsplit(url).path)[1].lower(), "")
