"""Concatenation of JSON strings without decoding them."""

from collections.abc import Sequence

from msgspec import Raw


def join_texts(texts: Sequence[Raw], before: bytes = b"", after: bytes = b"") -> Raw:
    """Return JSON strings joined by blank lines. `before` and `after` are already escaped."""
    if len(texts) == 1 and not before and not after:
        return texts[0]
    inner = b"\\n\\n".join([memoryview(text)[1:-1] for text in texts])
    return Raw(b'"%b%b%b"' % (before, inner, after))
