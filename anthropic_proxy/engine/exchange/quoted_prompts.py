"""`note_quotes`: the words of a request in the text of a provider's error.

Validators print the value that they refuse, and filters the sentence that they have found. The client gets these words
back, and nobody else may store them. A text of a provider has no mark for them, so it is compared with the request:
what stands in both is a quote, unless it is the name of something, which is a whole string of the request.
"""

import re

import msgspec

from anthropic_proxy.engine.patterns import compile_anchored, compile_later
from anthropic_proxy.errors import UpstreamError

_WINDOW, _STEP = 24, 12
"""Characters that are compared at a time, and the distance of their beginnings. A shorter quote is found between marks
of a quotation."""
_COMPARED_BYTES = 1 << 20
"""Number of bytes at each end of a request in which its words are searched."""
_LITERAL = compile_later(r"\"[^\"\n]{8,}+\"|'[^'\n]{8,}+'|`[^`\n]{8,}+`")
_NAME = compile_anchored(r"[\w.:/@\[\]-]+", re.ASCII)


MAX_COMPARISONS_ON_LOOP = 200_000_000
"""Maximum product of the lengths of a text and a request that are compared on the event loop: at most 25 ms."""


def note_quotes(error: UpstreamError, body: bytes) -> None:
    """Note which words of an error are those of the request, so that nobody stores them. `body`: see `find_quotes`."""
    told = "\n".join((error.message, *getattr(error, "__notes__", ())))
    error.quotes = {**error.quotes, **find_quotes(told, body)}
    error.is_compared = True


def find_quotes(text: str, body: bytes) -> dict[str, str]:
    """Return `ProxyError.quotes` for the text of a provider. `body`: the request of the client. b"": it is no longer
    known, so that each sentence between marks of a quotation is one.
    """
    sought = body if len(body) <= 2 * _COMPARED_BYTES else body[:_COMPARED_BYTES] + body[-_COMPARED_BYTES:]
    found = [literal[0][1:-1] for literal in _LITERAL.finditer(text)]
    quotes = [each for each in found if (_is_quote(each, sought) if body else not _NAME.fullmatch(each))]
    end = 0
    for place in range(0, len(text) - _WINDOW + 1, _STEP) if body else ():
        if place < end or not _contains(sought, text[place : place + _WINDOW]):
            continue
        begin, end = _grow(text, place, place + _WINDOW, sought)
        if _is_quote(quote := text[begin:end], sought):
            quotes.append(quote)
    return {quote: f"({len(quote)} characters of the request)" for quote in quotes if quote.strip()}


def _is_quote(text: str, body: bytes) -> bool:
    encoded = _encode(text)
    return encoded in body and not (_NAME.fullmatch(text) and b'"%b"' % encoded in body)


def _grow(text: str, begin: int, end: int, body: bytes) -> tuple[int, int]:
    """Return the longest part of a text around a quote that stands in the body, in steps that become smaller."""
    for step in (_WINDOW * 8, _WINDOW, 1):
        while end < len(text) and _contains(body, text[begin : end + step]):
            end = min(end + step, len(text))
        while begin > 0 and _contains(body, text[max(begin - step, 0) : end]):
            begin = max(begin - step, 0)
    return begin, end


def _contains(body: bytes, text: str) -> bool:
    return _encode(text) in body


def _encode(text: str) -> bytes:
    return msgspec.json.encode(text.encode(errors="replace").decode())[1:-1]
