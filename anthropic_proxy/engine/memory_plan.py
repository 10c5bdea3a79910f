"""`divide_memory`: what the parts of a worker may use of the memory of the deployment.

What a client sends must not end the process of all. So the bounds of all parts together are below the memory that the
deployment states, such as the limit of its container:

    1,824 MiB, one worker: 400 for it, one process each for patterns (128), pages (160) and PDFs (320), 320 for bodies,
    192 for small bodies, 256 for 1,024 connections, 48 for what waits for clients

The processes of a sandbox have a bound of their address space, which is about twice the largest that was measured.
Bodies have one of their bytes: a body with everything made of it needs up to `BODY_FACTOR` times as much, and so does
what is read of its PDFs, the many short texts of it that inspectors read, and the states that the ids of its calls
bring back. Small ones, usual ones and larger ones each have a part of their own, so that nobody's larger bodies make
smaller ones wait.
"""

from msgspec import Struct, structs

MIB = 1024 * 1024
DEFAULT_BYTES = 2048 * MIB
"""Memory of each worker, if nothing states another one: the limit of the chart in `deploy/`, which has one worker."""
WORKER_BYTES = 400 * MIB
"""A worker without requests. What it keeps (each `MAX_KEPT_BYTES`, and texts that wait for the ledger) needs at most
299 MiB. The remainder is for the program: 30 MiB idle, 22 more with the dashboard, and prices."""
SUPERVISOR_BYTES = 192 * MIB
"""The process that starts several workers, with the values that they share."""
PATTERN_BYTES = 128 * MIB
"""Process for patterns of a model. 3,000 tools with the longest definitions need 49 MiB."""
PAGE_BYTES = 160 * MIB
"""Process for a fetched page. The largest of 60 pages of documentation needs 35 MiB, and a page of emoji 80."""
PDF_BYTES = 320 * MIB
"""Process for a PDF. Of 210 manuals of TeX Live 2022 with pictures of their pages, the largest needs 151 MiB (24 MB),
and the median 45."""
BODY_FACTOR = 8
"""Bytes for each byte of a body. A text of 30 MB needs 4, 79,000 messages of 26 MB need 6, and a text with one emoji 8:
Python keeps four bytes for each of its characters then."""
LARGEST_BODY_BYTES = 32 * MIB
UNCOUNTED_BODY_BYTES = 16 * 1024
"""Size up to which a body has the memory of its connection."""
SMALL_BODY_BYTES = 128 * 1024
"""Size up to which a body has the part of small ones, once it is complete. Larger ones have theirs before they are
read."""
UNCOUNTED_BODIES = 64
"""Number of running requests up to which nobody counts small bodies. Their part has room for so many of the largest
besides."""
USUAL_BODY_BYTES = 4 * MIB
"""Size up to which a body has the part of usual ones."""
MIN_BODY_BYTES, MAX_BODY_BYTES = LARGEST_BODY_BYTES + 8 * MIB, 512 * MIB
SMALL_BODY_FACTOR = 12
"""Bytes for each byte of a small body. Plain text of 120 KB needs 4, with one emoji 9, 740 search results that are
cited 12, and 2,000 tools 14."""
MIN_SMALL_BYTES, MAX_SMALL_BYTES = 16 * MIB, 128 * MIB
UNBEGUN_BYTES = 16 * MIB
"""Heads that are not complete, and requests behind another one of their connection."""
UNREAD_BYTES, MAX_UNREAD_BYTES = 32 * MIB, 512 * MIB
"""Replies that wait for clients which do not read. More than the first is what no other part needs."""
CONNECTION_BYTES = 256 * 1024
"""For a connection with a request. An idle one needs 8 KiB, one with a stream 160."""
MIN_CONNECTIONS, MAX_CONNECTIONS = 1_024, 32_768
_SANDBOX_BYTES = PATTERN_BYTES + PAGE_BYTES + PDF_BYTES
MAX_PROCESSES = 2
"""Maximum number of processes of each kind in a worker at the same time. More need more processors."""


class MemoryPlan(Struct, frozen=True, kw_only=True):
    """The part of one worker."""

    processes: int
    """Number of processes of each kind at the same time."""
    body_bytes: int
    """Bytes of the bodies of requests, without small ones."""
    small_bytes: int
    """Bytes of small bodies."""
    unread_bytes: int
    """Bytes of replies that wait for their clients."""
    connections: int
    """Maximum number of connections."""

    def divide_body_bytes(self) -> tuple[int, int]:
        """Return the part of usual bodies, and that of larger ones, in which the largest body has room."""
        usual = max(
            min(self.body_bytes // 4, self.body_bytes - LARGEST_BODY_BYTES), MIN_BODY_BYTES - LARGEST_BODY_BYTES
        )
        return usual, max(self.body_bytes - usual, LARGEST_BODY_BYTES)

    def sum_bytes(self) -> int:
        """Return the bounds of all parts together."""
        bodies = BODY_FACTOR * self.body_bytes + SMALL_BODY_FACTOR * self.small_bytes
        clients = CONNECTION_BYTES * self.connections + UNBEGUN_BYTES + self.unread_bytes
        return WORKER_BYTES + self.processes * _SANDBOX_BYTES + bodies + clients


_LEAST = MemoryPlan(
    processes=1,
    body_bytes=MIN_BODY_BYTES,
    small_bytes=MIN_SMALL_BYTES,
    unread_bytes=UNREAD_BYTES,
    connections=MIN_CONNECTIONS,
)
MIN_BYTES = _LEAST.sum_bytes()
"""What one worker needs."""


def find_supervisor_bytes(worker_count: int) -> int:
    return SUPERVISOR_BYTES if worker_count > 1 else 0


def divide_memory(total_bytes: int, worker_count: int = 1) -> MemoryPlan:
    """Return the plan of one of the workers that share the memory. If that is less than `MIN_BYTES` for each, the sum
    is above it, and the start warns.
    """
    own_bytes = max((total_bytes - find_supervisor_bytes(worker_count)) // worker_count, MIN_BYTES)
    left = own_bytes - MIN_BYTES
    more = min(left // _SANDBOX_BYTES, MAX_PROCESSES - 1)
    left -= more * _SANDBOX_BYTES
    plan = MemoryPlan(
        processes=1 + more,
        body_bytes=min(MIN_BODY_BYTES + left // 3 // BODY_FACTOR, MAX_BODY_BYTES),
        small_bytes=min(MIN_SMALL_BYTES + left // 3 // SMALL_BODY_FACTOR, MAX_SMALL_BYTES),
        unread_bytes=UNREAD_BYTES,
        connections=min(MIN_CONNECTIONS + left // 3 // CONNECTION_BYTES, MAX_CONNECTIONS),
    )
    return structs.replace(plan, unread_bytes=min(UNREAD_BYTES + own_bytes - plan.sum_bytes(), MAX_UNREAD_BYTES))
