"""Estimated tokens of images and PDFs in a request.

`image_tokens` estimates by the size in pixels, which is in the header of the image. `pdf_tokens` estimates by the
number of pages, which are counted in the file.
"""

import re
import struct
from base64 import b64decode
from binascii import Error as NotBase64

from anthropic_proxy.messages.models import ImageBlock, Source

MAX_IMAGE_TOKENS = 1_600
"""Maximum estimated tokens of an image. An image of unknown size counts as the maximum."""
_PIXELS_PER_TOKEN = 750
_TOKENS_PER_PAGE = 2_000
_HEADER = 64 * 1024
"""Maximum base64 characters of an image that are decoded to find its size. A photo may contain a preview before its
size."""
_PDF_READ = 4 * 1024 * 1024
"""Maximum base64 characters of a PDF that are decoded to count its pages. A longer PDF is extrapolated."""
_PAGE = re.compile(rb"/Type\s*/Page(?![A-Za-z])")


def image_tokens(block: ImageBlock) -> int:
    """Return the estimated tokens of an image: one per 750 pixels, at most 1600. Unknown size: 1600."""
    source = block.source
    size = _size_of(_decoded(source.data[:_HEADER])) if source.type == "base64" else None
    if size is None:
        return MAX_IMAGE_TOKENS
    return max(1, min(size[0] * size[1] // _PIXELS_PER_TOKEN, MAX_IMAGE_TOKENS))


def pdf_tokens(source: Source) -> int:
    """Return the estimated tokens of a PDF: 2000 per page. Unknown number of pages: one page."""
    data = source.data
    pages = len(_PAGE.findall(_decoded(data[:_PDF_READ])))
    if len(data) > _PDF_READ:
        pages = pages * len(data) // _PDF_READ
    return max(pages, 1) * _TOKENS_PER_PAGE


def _decoded(data: str) -> bytes:
    try:
        return b64decode(data[: len(data) // 4 * 4])
    except (NotBase64, ValueError):
        return b""


def _size_of(head: bytes) -> tuple[int, int] | None:
    """Return width and height in pixels from the first bytes of an image. None: unknown format.

    Sources: the specifications of PNG, GIF89a, JPEG (T.81, B.2.2) and the WebP container.
    """
    if head.startswith(b"\x89PNG") and len(head) >= 24:
        width, height = struct.unpack(">II", head[16:24])
    elif head.startswith(b"GIF8") and len(head) >= 10:
        width, height = struct.unpack("<HH", head[6:10])
    elif head.startswith(b"\xff\xd8"):
        return _jpeg_size(head)
    elif head[:4] == b"RIFF" and head[8:12] == b"WEBP" and len(head) >= 30:
        return _webp_size(head)
    else:
        return None
    return width, height


def _jpeg_size(head: bytes) -> tuple[int, int] | None:
    place = 2
    while place + 9 <= len(head) and head[place] == 0xFF:
        marker = head[place + 1]
        if marker == 0xFF:
            place += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", head[place + 5 : place + 9])
            return width, height
        else:
            place += 2 + int.from_bytes(head[place + 2 : place + 4])
    return None


def _webp_size(head: bytes) -> tuple[int, int] | None:
    kind = head[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", head[26:30])
        return width & 0x3FFF, height & 0x3FFF
    return None
