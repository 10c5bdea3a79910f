"""The requests that a process is working on, and its heartbeat, in memory that another process can read.

A blocked process cannot report anything, so everything is written in advance: 32 slots of text, no allocation.
"""

from struct import Struct

BEAT_SECONDS = 1.0
"""Interval of heartbeats, which the event loop writes."""
_BEAT_BYTES = 8
_NEWEST = _BEAT_BYTES
"""Place of the number of the newest slot."""
_TEXT_BYTES = 256
"""Method, path and id of a request."""
MAX_WORD = 80
"""Characters of a path, and bytes of a model, that are written."""
_SLOT_BYTES = _TEXT_BYTES + MAX_WORD
_SLOTS = 32
_STARTS = tuple(_NEWEST + 1 + number * _SLOT_BYTES for number in range(_SLOTS))
BOARD_BYTES = _NEWEST + 1 + _SLOTS * _SLOT_BYTES
MAX_NAMED = 3
"""Requests that a message names."""
_write_slot = Struct(f"{_TEXT_BYTES}s{MAX_WORD}s").pack_into
"""Cuts what is too long, and fills the rest with zeros."""
_write_model = Struct(f"{MAX_WORD}s").pack_into


class InProgress:
    """Requests in progress. `board`: `BOARD_BYTES` of shared memory; None: nothing is shared."""

    def __init__(self, board: memoryview | None = None) -> None:
        self._board = memoryview(bytearray(BOARD_BYTES)) if board is None else board
        self._beats = 0
        self._number = 0
        """Requests so far. The slot of a request is its number modulo `_SLOTS`."""

    def share(self, board: memoryview) -> None:
        """Write to this memory from here on; called before the first request."""
        self._board = board

    def beat(self) -> None:
        """Write a heartbeat."""
        self._beats += 1
        self._board[:_BEAT_BYTES] = self._beats.to_bytes(_BEAT_BYTES, "little")

    def begin(self, request_id: str, method: str, path: str) -> int:
        """Add a request, in place of the oldest one if all slots are used; return its number."""
        self._number = number = self._number + 1
        slot = number % _SLOTS
        text = f"{method} {path[:MAX_WORD]} {request_id}".encode("utf-8", "replace")
        _write_slot(self._board, _STARTS[slot], text, b"")
        self._board[_NEWEST] = slot
        return number

    def name(self, number: int, model: str) -> None:
        """Add the model that a request names."""
        if self._number - number < _SLOTS:
            place = _STARTS[number % _SLOTS] + _TEXT_BYTES
            _write_model(self._board, place, model[:MAX_WORD].encode("utf-8", "replace"))

    def end(self, number: int) -> None:
        """Remove a request."""
        if self._number - number < _SLOTS:
            self._board[_STARTS[number % _SLOTS]] = 0

    def describe(self) -> str:
        """Return the requests in progress of this process."""
        return describe_requests(self._board)


def count_beats(board: memoryview) -> int:
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
    named = ", ".join(found[:MAX_NAMED])
    return f"{named} and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else named


def _read(place: memoryview) -> str:
    return bytes(place).partition(b"\0")[0].decode(errors="replace")
