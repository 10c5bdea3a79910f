"""Running requests in memory that the supervisor can read, because a blocked worker could not send them to it."""

from struct import Struct

HEARTBEAT_INTERVAL_SECONDS = 1.0
"""Interval at which the event loop writes a heartbeat. The supervisor kills a worker without heartbeats."""
_BEAT_BYTES = 8
_NEWEST = _BEAT_BYTES
"""Offset in the memory of the byte that has the index of the latest slot."""
_TEXT_BYTES = 256
"""Number of bytes in a slot for method, path and request id."""
MAX_FIELD_LENGTH = 80
"""Maximum characters of a URL path, and maximum bytes of a model id, in a slot. Longer text is cut."""
_SLOT_BYTES = _TEXT_BYTES + MAX_FIELD_LENGTH
_SLOTS = 32
_STARTS = tuple(_NEWEST + 1 + number * _SLOT_BYTES for number in range(_SLOTS))
SHARED_MEMORY_BYTES = _NEWEST + 1 + _SLOTS * _SLOT_BYTES
MAX_LISTED_REQUESTS = 3
"""Maximum number of requests that `describe_requests` lists. Further requests are only counted."""
_write_slot = Struct(f"{_TEXT_BYTES}s{MAX_FIELD_LENGTH}s").pack_into
_write_model = Struct(f"{MAX_FIELD_LENGTH}s").pack_into


class SharedRequestTable:
    """List of the running client requests of this process, and its count of heartbeats, in shared memory.
    `shared_memory` is the memory that the supervisor can read. None: private memory, until `use_shared_memory` is
    called.
    """

    def __init__(self, shared_memory: memoryview | None = None) -> None:
        self._memory = memoryview(bytearray(SHARED_MEMORY_BYTES)) if shared_memory is None else shared_memory
        self._beats = 0
        self._number = 0
        """Requests so far. The slot of a request is its number modulo `_SLOTS`."""
        self.draining = False
        """True if this process stops, so that load balancers should send no new requests (`/readyz`)."""

    def use_shared_memory(self, shared_memory: memoryview) -> None:
        """Call this before the first request."""
        self._memory = shared_memory

    def write_heartbeat(self) -> None:
        self._beats += 1
        self._memory[:_BEAT_BYTES] = self._beats.to_bytes(_BEAT_BYTES, "little")

    def add_request(self, request_id: str, method: str, path: str) -> int:
        """Return its number for `set_model` and `remove_request`. Only the 32 newest are listed."""
        self._number = number = self._number + 1
        slot = number % _SLOTS
        text = f"{method} {path[:MAX_FIELD_LENGTH]} {request_id}".encode("utf-8", "replace")
        _write_slot(self._memory, _STARTS[slot], text, b"")
        self._memory[_NEWEST] = slot
        return number

    def set_model(self, request_number: int, model: str) -> None:
        if self._number - request_number < _SLOTS:
            place = _STARTS[request_number % _SLOTS] + _TEXT_BYTES
            _write_model(self._memory, place, model[:MAX_FIELD_LENGTH].encode("utf-8", "replace"))

    def remove_request(self, request_number: int) -> None:
        if self._number - request_number < _SLOTS:
            self._memory[_STARTS[request_number % _SLOTS]] = 0

    def describe(self) -> str:
        return describe_requests(self._memory)


def read_heartbeat_count(shared_memory: memoryview) -> int:
    return int.from_bytes(shared_memory[:_BEAT_BYTES], "little")


def describe_requests(shared_memory: memoryview) -> str:
    """The three newest running requests. "": no request is listed."""
    found = []
    for age in range(_SLOTS):
        start = _STARTS[(shared_memory[_NEWEST] - age) % _SLOTS]
        if text := _read(shared_memory[start : start + _TEXT_BYTES]):
            model = _read(shared_memory[start + _TEXT_BYTES : start + _SLOT_BYTES])
            found.append(f"{text} for {model}" if model else text)
    named = ", ".join(found[:MAX_LISTED_REQUESTS])
    return f"{named} and {len(found) - MAX_LISTED_REQUESTS} more" if len(found) > MAX_LISTED_REQUESTS else named


def _read(place: memoryview) -> str:
    return bytes(place).partition(b"\0")[0].decode(errors="replace")
