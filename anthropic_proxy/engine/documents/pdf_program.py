"""Program in a separate process that reads a PDF: the text of each page, and pictures of pages.

PDFium, the library that reads it, is written in C++ and gets files of strangers. In a process of its own it can be
killed, and its memory is limited. `main` is the entry point of the process.
"""

import base64
import struct
import zlib
from typing import Any

MAX_PAGE_CHARACTERS = 100_000
"""Maximum characters of one page. The remainder is cut."""
MAX_CHARACTERS = 4_000_000
"""Maximum characters of a document: more than a window of 1,000,000 tokens holds."""
MAX_PICTURE_BYTES = 1024 * 1024
MAX_PICTURES_BYTES = 8 * 1024 * 1024
"""Maximum size of one picture, and of those of a document together. Servers limit the size of a request."""
_FORMS = ((1_400, False), (1_400, True), (1_000, True))
"""Pixels of the longer edge, and whether the picture is gray: the first form is used whose size is allowed."""
_PASSWORD_ERROR = 4
"""`FPDF_ERR_PASSWORD` of PDFium's header `fpdfview.h`. All other errors mean that the file is no valid PDF."""
_LINE_END_HYPHENS = {"\ufffe": "-", "\x02": "-", "\r": None, "\x00": None}
"""What PDFium returns for a hyphen at the end of a line, and characters that have no meaning in a text."""
_CHARACTERS = str.maketrans(_LINE_END_HYPHENS)


def main(query: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a `PdfContent`, with its pages or the reason why there are none.

    `query`: `data` (in base64), `max_pages`, and `max_pictures` with the pages that get one in `pictures`: `all`, or
    `scanned` for those without text.
    """
    import pypdfium2  # type: ignore[import-untyped]  # noqa: PLC0415  # few installations have it

    try:
        document = pypdfium2.PdfDocument(base64.b64decode(query["data"], validate=False))
        count = len(document)
        if count > query["max_pages"]:
            return {"page_count": count}
        texts, is_cut = _read_texts(document)
    except pypdfium2.PdfiumError as error:
        return {"error": "password" if getattr(error, "err_code", 0) == _PASSWORD_ERROR else "invalid"}
    except ValueError:  # no base64
        return {"error": "invalid"}
    if not texts:
        return {"error": "invalid"}
    pages = [{"text": text} for text in texts]
    scanned = [number for number, page in enumerate(pages) if not page["text"]]
    chosen = scanned if query["pictures"] == "scanned" else [*scanned, *(set(range(count)) - set(scanned))]
    left = MAX_PICTURES_BYTES
    for number in sorted(chosen[: query["max_pictures"]]):
        try:
            picture = _draw(document[number])
        except pypdfium2.PdfiumError:  # a page that cannot be drawn may still have a text
            continue
        if 0 < len(picture) <= left:
            left -= len(picture)
            pages[number]["picture"] = base64.b64encode(picture).decode()
    return {"pages": pages, "is_cut": is_cut}


def _read_texts(document: Any) -> tuple[list[str], bool]:
    """Return the text of each page, and whether it is shorter than that of the document."""
    left, texts, is_cut = MAX_CHARACTERS, list[str](), False
    for number in range(len(document)):
        page = document[number]
        text_page = page.get_textpage()
        count = text_page.count_chars()
        length = min(count, MAX_PAGE_CHARACTERS, left)
        texts.append(text_page.get_text_range(0, length).translate(_CHARACTERS).strip() if length > 0 else "")
        is_cut = is_cut or length < count
        left -= max(length, 0)
        text_page.close()
        page.close()
    return texts, is_cut


def _draw(page: Any) -> bytes:
    """Return a page as a PNG file of a limited size. Empty: the page has no size."""
    edge = max(page.get_size())
    if not edge > 0:
        return b""
    for pixels, is_gray in _FORMS:
        bitmap = page.render(scale=pixels / edge, grayscale=is_gray, rev_byteorder=True)
        picture = encode_png(bitmap.buffer, bitmap.width, bitmap.height, bitmap.stride, bitmap.n_channels)
        bitmap.close()
        if len(picture) <= MAX_PICTURE_BYTES:
            return picture
    return b""


_COLOR_TYPES = {1: 0, 3: 2, 4: 6}
"""Number of channels → color type of PNG: gray, RGB, RGBA."""


def encode_png(pixels: Any, width: int, height: int, stride: int, channels: int) -> bytes:
    """`stride`: bytes of a row in `pixels`, which may be more than its pixels need."""
    view = memoryview(pixels).cast("B")
    used = width * channels
    rows = b"".join(b"\0" + view[start : start + used] for start in range(0, height * stride, stride))
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOR_TYPES[channels], 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_encode_chunk(kind, data) for kind, data in parts)


def _encode_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
