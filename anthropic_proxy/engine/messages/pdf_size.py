"""Pages and characters of a PDF, found without a PDF library, for the estimate of its tokens.

A PDF consists of objects. A page is an object with the type `Page`, which may be inside a compressed object stream
(`ObjStm`, PDF 1.5 and later). The text of a page is in a compressed content stream, in strings that operators such as
`Tj` show. Only a few streams are decompressed, and each only in part; the rest is extrapolated.
"""

import re
import zlib
from collections.abc import Callable
from contextlib import suppress

from msgspec import Struct

_PAGE = re.compile(rb"/Type\s*/Page(?![A-Za-z])")
_STREAM = re.compile(rb"(?<!end)stream\r?\n")
_DICTIONARY = 512
"""Maximum bytes before a stream that are read as its dictionary."""
_WITHOUT_TEXT = re.compile(rb"/(?:Image|Length1|XRef|Metadata|FunctionType|Alternate)\b")
"""Keys of dictionaries of streams without text: pictures, fonts, tables, functions, color profiles."""
_STRING = re.compile(rb"\(((?:[^()\\]|\\.)*)\)|<([0-9A-Fa-f\s]+)>", re.DOTALL)
_MAX_STREAMS = 8
"""Maximum streams of one kind that are decompressed. The others are assumed to contain as much as those."""
_MAX_INFLATED = 32 * 1024
"""Maximum bytes that are decompressed of one stream."""


class PdfSize(Struct):
    pages: int = 0
    characters: float = 0
    """Estimated characters of the text. 0: none was found, as in scanned pages and encrypted files."""


def measure_pdf(data: bytes, *, inflates: bool = True) -> PdfSize:
    """Return pages and characters of a PDF, or of its beginning. `inflates`: False reads no compressed streams."""
    objects: list[int] = []
    contents: list[int] = []
    for match in _STREAM.finditer(data) if inflates else ():
        dictionary = data[max(0, match.start() - _DICTIONARY) : match.start()].rpartition(b"obj")[2]
        if b"/FlateDecode" not in dictionary:
            continue
        if b"/ObjStm" in dictionary:
            objects.append(match.end())
        elif not _WITHOUT_TEXT.search(dictionary):
            contents.append(match.end())
    pages = len(_PAGE.findall(data)) + round(_count_in_streams(data, objects, _count_pages))
    return PdfSize(pages, _count_in_streams(data, contents, _count_characters))


def _count_in_streams(data: bytes, starts: list[int], count: Callable[[bytes], float]) -> float:
    """Return the sum of `count` over all streams, estimated from a few of them at equal distances."""
    sample = starts[:: len(starts) // _MAX_STREAMS + 1]
    total = 0.0
    for start in sample:
        with suppress(zlib.error):
            total += count(zlib.decompressobj().decompress(data[start : start + _MAX_INFLATED], _MAX_INFLATED))
    return total * len(starts) / max(len(sample), 1)


def _count_pages(objects: bytes) -> int:
    return len(_PAGE.findall(objects))


def _count_characters(content: bytes) -> float:
    """Return the characters that a content stream shows. A string in hexadecimal has one or two bytes for each."""
    if b"BT" not in content or not (b"Tj" in content or b"TJ" in content):
        return 0
    literal = digits = 0
    is_wide = True
    for match in _STRING.finditer(content):
        if match[1] is not None:
            literal += len(match[1]) - match[1].count(b"\\")
        else:
            length = len(match[2]) - match[2].count(b"\n") - match[2].count(b" ")
            digits += length
            is_wide = is_wide and length % 4 == 0
    return literal + digits / (4 if is_wide else 2)
