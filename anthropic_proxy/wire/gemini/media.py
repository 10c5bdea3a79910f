"""Encoder of images and documents: parts of the Gemini request, or a text if the model cannot read the file.

`encode_media` returns the part, which is one element of a message. It contains the file in base64 (`inlineData`) or its
URL (`fileData`). `accepts_media_url` is True if the model reads a file from its URL.
"""

import posixpath
from typing import Any
from urllib.parse import urlsplit

from anthropic_proxy.messages.fidelity import FidelityNote
from anthropic_proxy.messages.models import DocumentBlock, ImageBlock, name_url
from anthropic_proxy.wire.contract import Call
from anthropic_proxy.wire.gemini.dialect import Dialect
from anthropic_proxy.wire.shared_notes import media_as_text_note

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
"""Media types of images that the models accept; GIF is not accepted ("Image understanding", 2026-11)."""
_OWN_PLACES = ("gs://", "https://generativelanguage.googleapis.com/")
"""URL prefixes of Google's own file storage, from which every model reads files."""


def has_inline_data(part: dict[str, Any]) -> bool:
    """Return True if a part contains the file itself (`inlineData`). False: a text, or the URL of a file."""
    return "inlineData" in part


def accepts_media_url(dialect: Dialect, block: ImageBlock | DocumentBlock) -> bool:
    """Return True if the model reads an image or document from its URL. False for an unknown media type."""
    if not (dialect.accepts_file_urls or block.source.url.startswith(_OWN_PLACES)):
        return False
    return _media_type(block) in _allowed(block)


def encode_media(call: Call[Dialect], block: ImageBlock | DocumentBlock, notes: list[FidelityNote]) -> dict[str, Any]:
    """Return the part (element of a message) for an image or document.

    If the model cannot read the file, the part is a text instead, and a note is appended to `notes`.
    """
    source = block.source
    kind = "image" if isinstance(block, ImageBlock) else "document"
    media_type = _media_type(block)
    sees = call.request.accepts_images if kind == "image" else call.request.accepts_pdf
    title = block.title if isinstance(block, DocumentBlock) else None
    if source.type == "url":
        if sees and accepts_media_url(call.dialect, block):
            return {"fileData": {"mimeType": media_type, "fileUri": source.url}}
        notes.append(media_as_text_note(kind, "", has_url=True))
        return {"text": f"[{kind}: {name_url(source.url)}]"}
    if sees and media_type in _allowed(block):
        return {"inlineData": {"mimeType": media_type, "data": source.data}}
    notes.append(media_as_text_note(kind, media_type, has_url=False))
    return {"text": f"[{kind} omitted: {title or media_type}]"}


def _allowed(block: ImageBlock | DocumentBlock) -> tuple[str, ...]:
    return _PICTURES if isinstance(block, ImageBlock) else (_PDF,)


def _media_type(block: ImageBlock | DocumentBlock) -> str:
    source = block.source
    return source.media_type or _type_of(source.url) or (_PDF if isinstance(block, DocumentBlock) else "")


def _type_of(url: str) -> str:
    return _TYPES.get(posixpath.splitext(urlsplit(url).path)[1].lower(), "")
