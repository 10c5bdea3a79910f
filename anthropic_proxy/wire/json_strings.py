"""`join_json_strings`: joins several encoded JSON strings to one for an upstream request, without decoding them."""

from collections.abc import Sequence

from msgspec import Raw


def join_json_strings(texts: Sequence[Raw], before: bytes = b"", after: bytes = b"") -> Raw:
    """Return one JSON string with the content of all `texts`, separated by blank lines.

    `before` and `after` are added at the start and end of the content. Both must be escaped for a JSON string.
    """
    if len(texts) == 1 and not before and not after:
        return texts[0]
    inner = b"\\n\\n".join([memoryview(text)[1:-1] for text in texts])
    return Raw(b'"%b%b%b"' % (before, inner, after))
