"""The requests that a process is working on, and its heartbeat, in memory that another process can read.

A blocked process cannot report anything, so everything is written in advance: 32 slots of text, no allocation.
"""

from struct import Struct

HEARTBEAT_INTERVAL_SECONDS = 1.0
"""Interval of heartbeats, which the event loop writes."""
_BEAT_BYTES = 8
_NEWEST = _BEAT_BYTES
"""Place of the number of the newest slot."""
_TEXT_BYTES = 256
"""Method, path and id of a request."""
MAX_FIELD_LENGTH = 80
"""Characters of a path, and bytes of a model, that are written."""
_SLOT_BYTES = _TEXT_BYTES + MAX_FIELD_LENGTH
_SLOTS = 32
_STARTS = tuple(_NEWEST + 1 + number * _SLOT_BYTES for number in range(_SLOTS))
SHARED_MEMORY_BYTES = _NEWEST + 1 + _SLOTS * _SLOT_BYTES
MAX_LISTED_REQUESTS = 3
"""Requests that a message names."""
_write_slot = Struct(f"{_TEXT_BYTES}s{MAX_FIELD_LENGTH}s").pack_into
"""Cuts what is too long, and fills the rest with zeros."""
_write_model = Struct(f"{MAX_FIELD_LENGTH}s").pack_into


class RequestsInProgress:
    """Requests in progress. `board`: `SHARED_MEMORY_BYTES` of shared memory; None: nothing is shared."""

    def __init__(self, board: memoryview | None = None) -> None:
        self._board = memoryview(bytearray(SHARED_MEMORY_BYTES)) if board is None else board
        self._beats = 0
        self._number = 0
        """Requests so far. The slot of a request is its number modulo `_SLOTS`."""

    def use_shared_memory(self, board: memoryview) -> None:
        """Write to this memory from here on; called before the first request."""
        self._board = board

    def write_heartbeat(self) -> None:
        """Write a heartbeat."""
        self._beats += 1
        self._board[:_BEAT_BYTES] = self._beats.to_bytes(_BEAT_BYTES, "little")

    def add_request(self, request_id: str, method: str, path: str) -> int:
        """Add a request, in place of the oldest one if all slots are used; return its number."""
        self._number = number = self._number + 1
        slot = number % _SLOTS
        text = f"{method} {path[:MAX_FIELD_LENGTH]} {request_id}".encode("utf-8", "replace")
        _write_slot(self._board, _STARTS[slot], text, b"")
        self._board[_NEWEST] = slot
        return number

    def set_model(self, number: int, model: str) -> None:
        """Add the model that a request names."""
        if self._number - number < _SLOTS:
            place = _STARTS[number % _SLOTS] + _TEXT_BYTES
            _write_model(self._board, place, model[:MAX_FIELD_LENGTH].encode("utf-8", "replace"))

    def remove_request(self, number: int) -> None:
        """Remove a request."""
        if self._number - number < _SLOTS:
            self._board[_STARTS[number % _SLOTS]] = 0

    def describe(self) -> str:
        """Return the requests in progress of this process."""
        return describe_requests(self._board)


def read_heartbeat_count(board: memoryview) -> int:
    """Return the number of heartbeats written so far."""
    return int.from_bytes(board[:_BEAT_BYTES], "little")


def describe_requests(board: memoryview) -> str:
    """Return the newest three requests on a board and the number of the others; empty: there are none."""
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
