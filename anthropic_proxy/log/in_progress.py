"""Memory with the client requests in progress of one process and its heartbeat, which the supervisor can read.

A blocked worker cannot report its requests, so each request is written at its start. The memory has 32 slots of text
with fixed size.
"""

from struct import Struct

HEARTBEAT_INTERVAL_SECONDS = 1.0
"""Interval at which the event loop writes a heartbeat. The supervisor kills a worker without heartbeats."""
_BEAT_BYTES = 8
_NEWEST = _BEAT_BYTES
"""Offset in the memory of the byte with the index of the newest slot."""
_TEXT_BYTES = 256
"""Bytes of a slot for method, path and request id."""
MAX_FIELD_LENGTH = 80
"""Maximum characters of a URL path, and maximum bytes of a model id, in a slot. Longer text is cut."""
_SLOT_BYTES = _TEXT_BYTES + MAX_FIELD_LENGTH
_SLOTS = 32
_STARTS = tuple(_NEWEST + 1 + number * _SLOT_BYTES for number in range(_SLOTS))
SHARED_MEMORY_BYTES = _NEWEST + 1 + _SLOTS * _SLOT_BYTES
"""Size of the memory of one process: heartbeat count, index of the newest slot, and the slots."""
MAX_LISTED_REQUESTS = 3
"""Maximum number of requests that `describe_requests` lists. Further requests are only counted."""
_write_slot = Struct(f"{_TEXT_BYTES}s{MAX_FIELD_LENGTH}s").pack_into
"""Writes the two texts of a slot. Text that is too long is cut; unused bytes become zeros."""
_write_model = Struct(f"{MAX_FIELD_LENGTH}s").pack_into


class RequestsInProgress:
    """Client requests in progress of this process, and its heartbeat.

    `board`: `SHARED_MEMORY_BYTES` of memory that is shared with the supervisor. None: memory of this process only.
    """

    def __init__(self, board: memoryview | None = None) -> None:
        self._board = memoryview(bytearray(SHARED_MEMORY_BYTES)) if board is None else board
        self._beats = 0
        self._number = 0
        """Requests so far. The slot of a request is its number modulo `_SLOTS`."""

    def use_shared_memory(self, board: memoryview) -> None:
        """Replace the memory by `board`, which the supervisor can read. Call this before the first request."""
        self._board = board

    def write_heartbeat(self) -> None:
        """Add 1 to the heartbeat count in the memory."""
        self._beats += 1
        self._board[:_BEAT_BYTES] = self._beats.to_bytes(_BEAT_BYTES, "little")

    def add_request(self, request_id: str, method: str, path: str) -> int:
        """Write a client request into the next slot and return its number.

        `set_model` and `remove_request` require the number. If all slots are used, the oldest request is overwritten.
        """
        self._number = number = self._number + 1
        slot = number % _SLOTS
        text = f"{method} {path[:MAX_FIELD_LENGTH]} {request_id}".encode("utf-8", "replace")
        _write_slot(self._board, _STARTS[slot], text, b"")
        self._board[_NEWEST] = slot
        return number

    def set_model(self, number: int, model: str) -> None:
        """Write the model id of a request. `number`: result of `add_request`. No effect if the slot was overwritten."""
        if self._number - number < _SLOTS:
            place = _STARTS[number % _SLOTS] + _TEXT_BYTES
            _write_model(self._board, place, model[:MAX_FIELD_LENGTH].encode("utf-8", "replace"))

    def remove_request(self, number: int) -> None:
        """Remove a finished request. `number`: result of `add_request`. No effect if the slot was overwritten."""
        if self._number - number < _SLOTS:
            self._board[_STARTS[number % _SLOTS]] = 0

    def describe(self) -> str:
        """Return the requests in progress of this process as text, as `describe_requests` does."""
        return describe_requests(self._board)


def read_heartbeat_count(board: memoryview) -> int:
    """Return the number of heartbeats in the memory of a worker. It grows while the worker's event loop runs."""
    return int.from_bytes(board[:_BEAT_BYTES], "little")


def describe_requests(board: memoryview) -> str:
    """Return as text the three newest requests of a process and the number of the others. "": no requests."""
    found = []
    for age in range(_SLOTS):
        start = _STARTS[(board[_NEWEST] - age) % _SLOTS]
        if text := _read(board[start : start + _TEXT_BYTES]):
            model = _read(board[start + _TEXT_BYTES : start + _SLOT_BYTES])
            found.append(f"{text} for {model}" if model else text)
    named = ", ".join(found[:MAX_LISTED_REQUESTS])
    return f"{named} and {len(found) - MAX_LISTED_REQUESTS} more" if len(found) > MAX_LISTED_REQUESTS else named


def _read(place: memoryview) -> str:
    return bytes(place).partition(b"\0")[0].decode(errors="replace")
