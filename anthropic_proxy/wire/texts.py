"""JSON strings that are put together without being read: text that only moves stays as it came."""

from collections.abc import Sequence

from msgspec import Raw


def join_texts(texts: Sequence[Raw], before: bytes = b"", after: bytes = b"") -> Raw:
    """Return JSON strings as one, a blank line between them; `before` and `after` are escaped already."""
    if len(texts) == 1 and not before and not after:
        return texts[0]
    inner = b"\\n\\n".join([memoryview(text)[1:-1] for text in texts])
    return Raw(b'"%b%b%b"' % (before, inner, after))
