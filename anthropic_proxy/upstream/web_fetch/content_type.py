"""Media types and charsets of fetched web pages.

Servers often declare a wrong media type. `may_match_media_types` checks the declared type before the body is read.
Afterwards, `detect_media_type` recognizes images and PDFs by their first bytes, and `matches_media_types` checks the
detected type. `decode_text` decodes a body as text.
"""

import codecs
import re
from collections.abc import Collection

from anthropic_proxy.upstream.contract import PDF_MEDIA_TYPE

HTML_MEDIA_TYPES = ("text/html", "application/xhtml+xml")
"""Media types of HTML pages."""
_MAGIC = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp"),
    (re.compile(rb"%PDF-"), PDF_MEDIA_TYPE),
)
_BY_MAGIC = frozenset(media_type for _, media_type in _MAGIC)
_GENERIC_TYPES = ("", "application/octet-stream", "binary/octet-stream", "application/x-download")
_TEXTS = ("application/xhtml+xml", "application/json", "application/xml")
_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s{0,9}=\s{0,9}["']?([\w.:-]{1,40})""", re.IGNORECASE)
_PARAMETER = re.compile(r""";\s*charset\s*=\s*["']?([^\s;"']+)""", re.IGNORECASE)
_MAX_CHARSET_OFFSET_BYTES = 1024
"""Bytes at the start of an HTML page that are searched for a charset (HTML Standard, "encoding sniffing algorithm")."""
_TEXT_CODECS = re.compile(r"utf-(8|16|32)|iso8859|cp\d|euc|gb|big5|shift_jis|iso2022|koi8|mac-|tis")
"""Pattern of the names of Python codecs that decode text. Other codecs are not used; some of them are slow
(punycode)."""
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def may_match_media_types(declared: str, wanted: Collection[str]) -> bool:
    """Return True if a body with the media type `declared` may have one of the `wanted` types.

    Generic types are accepted too, because declarations are often wrong.
    """
    if declared in _GENERIC_TYPES or matches_media_types(declared, wanted):
        return True
    return any(
        media_type.partition("/")[0] == declared.partition("/")[0]
        for media_type in wanted
        if media_type in _BY_MAGIC - {PDF_MEDIA_TYPE}
    )


def matches_media_types(media_type: str, wanted: Collection[str]) -> bool:
    """Return True if a media type is one of the `wanted` types. The wanted type `text/*` stands for all text types."""
    return media_type in wanted or (media_type.startswith("text/") and "text/*" in wanted)


def detect_media_type(declared: str, body: bytes) -> str:
    """Return the media type of a fetched body. The type that the server declared may be wrong.

    Images (PNG, JPEG, GIF, WebP) and PDFs are recognized by their first bytes. Any other body has the type `declared`.
    If `declared` is nevertheless one of these image types or PDF, it is wrong, and the result is "".
    """
    found = next((media_type for magic, media_type in _MAGIC if magic.match(body)), "")
    if found or declared not in _BY_MAGIC:
        return found or declared
    return ""


def is_text_media_type(media_type: str) -> bool:
    """Return True if a page with this media type is returned as text, not as bytes."""
    return media_type.startswith("text/") or media_type in _TEXTS or media_type.endswith(("+json", "+xml"))


def find_charset_parameter(content_type: str) -> str | None:
    """Return the parameter `charset` of a `Content-Type` header. None: the header has no `charset`."""
    found = _PARAMETER.search(content_type)
    return found[1] if found else None


def decode_text(body: bytes, charset: str | None, *, is_html: bool) -> str:
    """Return the body of a web page as text.

    The charset comes from the first of these sources: a byte order mark, `charset`, or a `<meta>` tag of an HTML page.
    The default is UTF-8. `charset` is the parameter of the `Content-Type` header.
    """
    mark_charset = next((name for mark, name in _MARKS if body.startswith(mark)), None)
    if (
        mark_charset is None
        and not charset
        and is_html
        and (found := _CHARSET.search(body[:_MAX_CHARSET_OFFSET_BYTES]))
    ):
        charset = found[1].decode("ascii", "replace")
    return body.decode(mark_charset or _codec(charset or ""), "replace")


def _codec(charset: str) -> str:
    try:
        name = codecs.lookup(charset.strip("\"' ")).name
    except (LookupError, ValueError):
        return "utf-8"
    if name in ("ascii", "iso8859-1"):
        return "cp1252"  # as defined by the Encoding Standard
    return name if _TEXT_CODECS.match(name) else "utf-8"
