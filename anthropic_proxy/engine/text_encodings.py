"""The encoding of a text that arrives as bytes or in base64, such as a file.

Editors save texts in UTF-16 and in the 8-bit encodings of a country. A byte order mark states it, or the charset of the
media type, or nothing. Whatever reads a file finds its encoding here, so that all of them read the same text.
"""

import codecs
import re
import string
from base64 import b64encode
from binascii import a2b_base64
from collections.abc import Iterator

from msgspec import Struct

from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.errors import InvalidRequest

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # the mark of UTF-16 is its beginning
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_ANY_MARK = tuple(mark for mark, _ in _MARKS)
_CHARSET = compile_later(r";\s*charset\s*=\s*[\"']?([^\s;\"']+)", re.IGNORECASE)
_TEXT_CODECS = compile_anchored(r"utf-(8|16|32)|iso8859|cp\d|euc|gb|big5|shift_jis|iso2022|koi8|mac-|tis")
"""Names of Python codecs that decode text. Some of the others are slow (punycode)."""
_ALIASES = {"ascii": "cp1252", "iso8859-1": "cp1252", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}
"""As defined by the Encoding Standard. UTF-32 is not in it."""
_EIGHT_BITS = ("cp1252", "latin-1")
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\v\f\r"))
"""Bytes that texts in UTF-8 seldom have. In UTF-16, half of the bytes of most alphabets are such bytes."""
_NO_TEXT = compile_later(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
"""A character that texts do not have. The escape begins the colors of a terminal."""
_NOT_BASE64 = bytes(set(range(256)) - {*(string.ascii_letters + string.digits + "+/-_=").encode()})
_BASE64 = compile_anchored(r"[A-Za-z0-9+/_=\t\r\n-]*")
_URL_ALPHABET = bytes.maketrans(b"-_", b"+/")
_MAX_FEW_PIECES, _CHARACTERS_OF_PIECE = 8, 32
"""An encoder that encodes a file in pieces leaves padding within the data. Its pieces take some time each, so there may
be a few, or one for this number of characters."""


class TextEncoding(Struct, frozen=True):
    codec: str
    mark: bytes = b""
    """The byte order mark in front of the text, which is no part of it."""

    def decode(self, data: bytes) -> str:
        return data[len(self.mark) :].decode(self.codec, "replace")

    def encode(self, text: str) -> bytes:
        return self.mark + text.encode(self.codec, "replace")


UTF_8 = TextEncoding("utf-8")
ANY_BYTES = TextEncoding("latin-1")
"""Reads any data, and writes the same again."""


def find_charset(media_type: str) -> str:
    """Return the parameter `charset`. "": there is none."""
    found = _CHARSET.search(media_type)
    return found[1] if found else ""


def find_codec(charset: str) -> str:
    """Return the name of Python's codec for the name of a charset. "": the charset is none of a text, or unknown."""
    try:
        name = codecs.lookup(charset.strip("\"' ")).name
    except (LookupError, ValueError):
        return ""
    return _ALIASES.get(name, name if _TEXT_CODECS.match(name) else "")


def find_mark(data: bytes) -> TextEncoding | None:
    if not data.startswith(_ANY_MARK):
        return None
    return next((TextEncoding(codec, mark) for mark, codec in _MARKS if data.startswith(mark)), None)


def find_encoding(data: bytes, charset: str = "") -> TextEncoding | None:
    """Return the encoding of a text. None: the data is no text.

    Data that can be UTF-8 is UTF-8, whatever is stated, unless it has the zero bytes of UTF-16 or UTF-32.
    """
    if (marked := find_mark(data)) is not None:
        return marked
    is_utf8 = _decode(data, "utf-8") is not None
    if is_utf8 and not _count_controls(data):
        return UTF_8
    for codec in _list_codecs(data, charset, is_utf8):
        text = _decode(data, codec)
        if text is not None and not _NO_TEXT.search(text):
            return TextEncoding(codec)
    return UTF_8 if is_utf8 else None


def _list_codecs(data: bytes, charset: str, is_utf8: bool) -> Iterator[str]:
    codec = find_codec(charset)
    if codec and (not is_utf8 or codec.startswith("iso2022")):  # these begin their characters with an escape
        yield codec
    halves = {"le": data[1::2], "be": data[::2]} if is_utf8 or 0 in data else {}
    for order in sorted(halves, key=lambda order: -_count_controls(halves[order])):
        high = halves[order]
        if _count_controls(high) * 2 >= len(high) if is_utf8 else 0 in high:
            yield from (f"utf-16-{order}", f"utf-32-{order}")
    if not is_utf8:
        yield from _EIGHT_BITS


def _count_controls(data: bytes) -> int:
    return len(data) - len(data.translate(None, _CONTROLS))


def _decode(data: bytes, codec: str) -> str | None:
    try:
        return data.decode(codec)
    except ValueError:
        return None


def decode_base64(text: str) -> bytes:
    """Return what other programs may find in base64, also if it is damaged: they skip what is not of its alphabet.

    Raises `InvalidRequest` for data in too many pieces, which would be read in part otherwise.
    """
    try:
        return a2b_base64(text, strict_mode=True)
    except ValueError:  # it is damaged
        pass
    encoded = text.encode("ascii", "replace").translate(_URL_ALPHABET, _NOT_BASE64).rstrip(b"=")
    most = _MAX_FEW_PIECES + len(encoded) // _CHARACTERS_OF_PIECE
    pieces = encoded.split(b"=", most)
    if b"=" in pieces[-1]:
        raise InvalidRequest(
            f"A document of {len(text):,} characters in base64 has padding (`=`) in more than {most:,} places within "
            "its data. Encode the document as a whole.",
            code="invalid-field",
        )
    return b"".join(map(_decode_piece, pieces))


def _decode_piece(encoded: bytes) -> bytes:
    whole = encoded[:-1] if len(encoded) % 4 == 1 else encoded
    return a2b_base64(whole + b"=" * (-len(whole) % 4))


def encode_base64(data: bytes) -> str:
    return b64encode(data).decode()


def is_base64(text: str) -> bool:
    """Return True for the letters of base64 in both alphabets, and line ends."""
    return _BASE64.fullmatch(text) is not None


def read_base64_text(text: str, charset: str = "") -> tuple[str, TextEncoding] | None:
    """Return the text in base64 data, and its encoding. None: the data is no text."""
    data = decode_base64(text)
    encoding = find_encoding(data, charset) if data or not text else None
    # anything is a text of eight bits, also what a text yields that is no base64
    if encoding is None or (encoding.codec in _EIGHT_BITS and not is_base64(text)):
        return None
    return encoding.decode(data), encoding
