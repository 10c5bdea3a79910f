"""The cache marks of a client."""

from msgspec import Struct

_CACHE_MARK = b'"cache_control"'


class CacheMarks(Struct):
    """Bytes of a request body. A wire that sends cache marks searches them."""

    body: bytes

    def found(self) -> bool:
        """Return True if the request contains a `cache_control`. Takes time linear in the body."""
        return _CACHE_MARK in self.body
