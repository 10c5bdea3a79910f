"""`CacheMarks`: search for the cache marks (`cache_control`) of a client in its request body."""

from msgspec import Struct

_CACHE_MARK = b'"cache_control"'


class CacheMarks(Struct):
    """Body of a client request that may contain cache marks. Only a wire that sends cache marks searches the body."""

    body: bytes
    """Bytes of the client request body."""

    def has_mark(self) -> bool:
        """Return True if the body contains a `cache_control`. Takes time linear in the body."""
        return _CACHE_MARK in self.body
