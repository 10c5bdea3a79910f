"""`CacheMarks`: detects cache marks, which are the fields `cache_control` in the body of a client request."""

from msgspec import Struct

_CACHE_MARK = b'"cache_control"'


class CacheMarks(Struct):
    """Body of a client request, which is searched for cache marks (fields `cache_control`) only on demand."""

    body: bytes
    """Bytes of the client request body."""

    def has_mark(self) -> bool:
        """Return True if the body contains a field `cache_control`. The search time grows with the size of the body."""
        return _CACHE_MARK in self.body
