"""`ContentBuffer`: the bytes of client requests and replies in memory, until the thread of the ledger stores them.

The buffer exists only with `LEDGER_CONTENT=true`. `record` adds bytes while a request runs. `pop` removes the bytes of
a finished request, to store them; `discard` removes them without storage.
"""

import time
from collections.abc import Callable

from msgspec import Struct, field

from anthropic_proxy.plugins import RecordPoint

MAX_CONTENT_BYTES = 1 << 20
"""Maximum number of stored bytes of each request, and of each reply. The remainder is cut off."""
MAX_BUFFERED_BYTES = 64 << 20
"""Maximum number of bytes in the buffer, over all running and waiting requests of one process. Above this number,
requests are stored without their texts."""
ABANDONED_SECONDS = 3600.0
"""Age in seconds after which the bytes of a request are dropped if the buffer is full."""


class BufferedContent(Struct):
    """First bytes of one client request and of its reply, and the complete last request to a provider."""

    started_at: float
    """Time of the first `record` for the request, in seconds by the clock of the buffer."""
    request: bytes = b""
    request_size: int = 0
    """Number of bytes of the complete client request. `request` has at most the first `MAX_CONTENT_BYTES` of them."""
    reply: bytearray = field(default_factory=bytearray)
    reply_size: int = 0
    """Number of bytes of the complete reply. `reply` has at most the first `MAX_CONTENT_BYTES` of them."""
    upstream: bytes = b""
    """Body of the last request to a provider. b"": no provider was called, or the body did not fit."""


class ContentBuffer:
    """Buffer with the first bytes of each client request and reply, and with a limit for their total size.

    `warn` is called if a new client request or reply does not fit into the full buffer. The ledger then stores this
    request without its texts.
    """

    def __init__(
        self,
        warn: Callable[[], None],
        *,
        max_content_bytes: int = MAX_CONTENT_BYTES,
        max_bytes: int = MAX_BUFFERED_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._warn = warn
        self._max_content_bytes = max_content_bytes
        self._max_bytes = max_bytes
        self._clock = clock
        self._contents: dict[str, BufferedContent] = {}
        # each counter is changed by one thread only, so no lock is needed
        self._added = 0
        """Number of all bytes added since the start, counted in the event loop."""
        self._popped = 0
        """Number of all bytes popped since the start, counted in the thread of the ledger."""
        self._discarded = 0
        """Number of all bytes discarded since the start, counted in the event loop."""

    @property
    def total_bytes(self) -> int:
        """Number of bytes now in the `ContentBuffer`, over all requests."""
        return self._added - self._popped - self._discarded

    def record(self, request_id: str, point: RecordPoint, data: bytes) -> None:
        """Add `data`, bytes of a client request, reply or provider request, to the buffer.

        Only the first bytes of a client request and of its reply are kept. If these do not fit into the buffer, all
        bytes of this client request are dropped. If a provider request does not fit, only the provider request is
        dropped.
        """
        if point == "client request":
            kept = data[: self._max_content_bytes]
            if self._reserve(len(kept)):
                self._contents[request_id] = BufferedContent(self._clock(), kept, len(data))
        elif point == "upstream request":
            self._replace_upstream(request_id, data)
        elif content := self._contents.get(request_id):
            content.reply_size += len(data)
            if piece := data[: self._max_content_bytes - len(content.reply)]:
                if not self._reserve(len(piece)):
                    self.discard(request_id)
                elif request_id in self._contents:
                    content.reply += piece
                else:  # the request itself was the oldest one and has been discarded
                    self._discarded += len(piece)

    def pop(self, request_id: str) -> BufferedContent | None:
        """Remove the bytes of the finished request `request_id` from the buffer and return them.

        None: the buffer has no bytes of this request. Called in the thread of the ledger.
        """
        content = self._contents.pop(request_id, None)
        if content is not None:
            self._popped += _count_bytes(content)
        return content

    def discard(self, request_id: str) -> None:
        """Remove the bytes of the request `request_id` from the buffer without storing them.

        Called in the event loop.
        """
        content = self._contents.pop(request_id, None)
        if content is not None:
            self._discarded += _count_bytes(content)

    def _replace_upstream(self, request_id: str, body: bytes) -> None:
        """Keep `body`, the newest body that was sent to a provider, in place of the body of an earlier attempt."""
        content = self._contents.get(request_id)
        if content is None:
            return
        self._discarded += len(content.upstream)
        content.upstream = b""
        if len(body) <= self._max_content_bytes and self.total_bytes + len(body) <= self._max_bytes:
            self._added += len(body)
            content.upstream = body

    def _reserve(self, count: int) -> bool:
        """Count `count` bytes as added and return True. False: the buffer is full."""
        if self.total_bytes + count > self._max_bytes:
            for request_id, oldest in [*self._contents.items()][:1]:  # the thread changes the dict
                if self._clock() - oldest.started_at > ABANDONED_SECONDS:
                    self.discard(request_id)
            if self.total_bytes + count > self._max_bytes:
                self._warn()
                return False
        self._added += count
        return True


def _count_bytes(content: BufferedContent) -> int:
    return len(content.request) + len(content.reply) + len(content.upstream)
