"""A body, named by what it is and decoded as text."""

import codecs
import re
from collections.abc import Collection

from anthropic_proxy.upstream.errands import PDF

HTML = ("text/html", "application/xhtml+xml")
_MAGIC = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp"),
    (re.compile(rb"%PDF-"), PDF),
)
_BY_MAGIC = frozenset(kind for _, kind in _MAGIC)
_SAYS_NOTHING = ("", "application/octet-stream", "binary/octet-stream", "application/x-download")
_TEXTS = ("application/xhtml+xml", "application/json", "application/xml")
_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s{0,9}=\s{0,9}["']?([\w.:-]{1,40})""", re.IGNORECASE)
_CHARSET_WITHIN = 1024
"""Bytes of an HTML page in which its charset may stand (HTML Standard, "encoding sniffing algorithm")."""
_TEXT_CODECS = re.compile(r"utf-(8|16|32)|iso8859|cp\d|euc|gb|big5|shift_jis|iso2022|koi8|mac-|tis")
"""Python's codecs that a page may ask for: not those that take a text apart, some of them slowly (punycode)."""
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def may_be(said: str, wanted: Collection[str]) -> bool:
    """Whether a body that calls itself so may turn out to be of a wanted type; judged before it is read."""
    if said in _SAYS_NOTHING or is_wanted(said, wanted):
        return True
    return any(kind.partition("/")[0] == said.partition("/")[0] for kind in wanted if kind in _BY_MAGIC - {PDF})


def is_wanted(kind: str, wanted: Collection[str]) -> bool:
    """Whether a media type is among the wanted ones; `text/*` among them means every text."""
    return kind in wanted or (kind.startswith("text/") and "text/*" in wanted)


def find_type(said: str, body: bytes) -> str:
    """Return what a body is: its first bytes know it better than its server; "" where that says something else."""
    found = next((kind for magic, kind in _MAGIC if magic.match(body)), "")
    if found or said not in _BY_MAGIC:
        return found or said
    return ""


def is_text(kind: str) -> bool:
    """Whether a body of this type is given as text."""
    return kind.startswith("text/") or kind in _TEXTS or kind.endswith(("+json", "+xml"))


def decode_text(body: bytes, charset: str | None, *, is_html: bool) -> str:
    """Return a text in the charset that it begins with, that its server says, or that it says itself; else UTF-8."""
    marked = next((name for mark, name in _MARKS if body.startswith(mark)), None)
    if marked is None and not charset and is_html and (found := _CHARSET.search(body[:_CHARSET_WITHIN])):
        charset = found[1].decode("ascii", "replace")
    return body.decode(marked or _codec(charset or ""), "replace")


def _codec(charset: str) -> str:
    try:
        name = codecs.lookup(charset.strip("\"' ")).name
    except (LookupError, ValueError):
        return "utf-8"
    if name in ("ascii", "iso8859-1"):
        return "cp1252"  # what the Encoding Standard reads under these names
    return name if _TEXT_CODECS.match(name) else "utf-8"
