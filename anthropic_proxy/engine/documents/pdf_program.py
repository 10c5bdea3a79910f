"""Program in a separate process that reads a PDF: the text of each page, and pictures of pages.

PDFium, the library that reads it, is written in C++ and gets files of strangers. In a process of its own it can be
killed, and its memory is limited. `main` is the entry point of the process.
"""

import base64
import struct
import zlib
from collections.abc import Iterable, Iterator
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
PAGES_AT_ONCE = 50
"""PDFium keeps the objects of each page that it has read until the document is closed. So it is opened again after so
many pages: a document of 382 pages then needs 80 MiB in place of 210, and about 3 % more time."""
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

    def read_pages(numbers: Iterable[int]) -> Iterator[tuple[int, Any]]:
        """Yield each page with its number."""
        document = pypdfium2.PdfDocument(file)
        for place, number in enumerate(numbers):
            if place and place % PAGES_AT_ONCE == 0:
                document.close()
                document = pypdfium2.PdfDocument(file)
            page = document[number]
            yield number, page
            page.close()
        document.close()

    try:
        file = base64.b64decode(query.pop("data"), validate=False)
        count = len(pypdfium2.PdfDocument(file))
        if count > query["max_pages"]:
            return {"page_count": count}
        texts, is_cut = _read_texts(page for _, page in read_pages(range(count)))
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
    for number, page in read_pages(sorted(chosen[: query["max_pictures"]])):
        try:
            picture = _draw(page)
        except pypdfium2.PdfiumError:  # a page that cannot be drawn may still have a text
            continue
        if 0 < len(picture) <= left:
            left -= len(picture)
            pages[number]["picture"] = base64.b64encode(picture).decode()
    return {"pages": pages, "is_cut": is_cut}


def _read_texts(pages: Iterable[Any]) -> tuple[list[str], bool]:
    """Return the text of each page, and whether it is shorter than that of the document."""
    left, texts, is_cut = MAX_CHARACTERS, list[str](), False
    for page in pages:
        text_page = page.get_textpage()
        count = text_page.count_chars()
        length = min(count, MAX_PAGE_CHARACTERS, left)
        texts.append(text_page.get_text_range(0, length).translate(_CHARACTERS).strip() if length > 0 else "")
        is_cut = is_cut or length < count
        left -= max(length, 0)
        text_page.close()
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
