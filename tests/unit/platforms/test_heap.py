"""Memory of large requests: kept for the next ones, and returned to the system when the server is idle."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from anthropic_proxy.gateway.platforms.heap import (
    RETAINED_FREE_BYTES,
    TRIM_AFTER_IDLE_SECONDS,
    HeapTrimmer,
    measure_unallocated_heap_bytes,
    retain_freed_memory,
    trim_heap,
)
from anthropic_proxy.gateway.server.request_body import MAX_BODY_BYTES
from tests.support.paths import ROOT
from tests.support.waiting import WAIT_SECONDS

BODY_BYTES = 1_000_000
PAGES_OF_A_BODY = BODY_BYTES // 4096

PROGRAM = f"""
import resource
from pathlib import Path
from anthropic_proxy.gateway.server.request_body import MAX_BODY_BYTES as LARGEST
from anthropic_proxy.gateway.platforms.heap import TRIM_AFTER_IDLE_SECONDS, HeapTrimmer
from anthropic_proxy.gateway.platforms.heap import measure_unallocated_heap_bytes, retain_freed_memory

def serve():
    buffers = [bytearray({BODY_BYTES}) for _ in range(8)]

def count():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

retain_freed_memory()
serve()
before = count()
for _ in range(10):
    serve()
faults = count() - before
trimmer = HeapTrimmer()
trimmer.count_freed_bytes(1)
trimmer.trim_if_due(0.0)
kept = held()
trimmer.trim_if_due(TRIM_AFTER_IDLE_SECONDS - 1)
meanwhile = held()
assert measure_unallocated_heap_bytes() > 7 * {BODY_BYTES}
trimmer.trim_if_due(TRIM_AFTER_IDLE_SECONDS)
print(faults, kept, meanwhile, held())
assert measure_unallocated_heap_bytes() < {BODY_BYTES}
"""

with_glibc = pytest.mark.skipif(
    not (sys.platform == "linux" and hasattr(os, "confstr") and "CS_GNU_LIBC_VERSION" in os.confstr_names),
    reason="platform: only glibc has settings of its heap",
)


@with_glibc
def test_freed_memory_is_kept_for_the_next_request_and_given_back_in_a_pause() -> None:
    completed = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=WAIT_SECONDS, check=True
    )
    faults, kept, meanwhile, given_back = map(int, completed.stdout.split())
    assert faults < PAGES_OF_A_BODY, "ten requests of eight buffers each take no pages anew"
    assert meanwhile >= kept - BODY_BYTES
    assert given_back <= kept - 7 * BODY_BYTES


def test_another_c_library_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: None) -> Callable[..., int]:
        raise OSError

    monkeypatch.setattr("ctypes.CDLL", refuse)
    retain_freed_memory()
    trim_heap()
    assert measure_unallocated_heap_bytes() == float("inf")


def test_the_memory_of_a_body_of_maximum_size_is_kept() -> None:
    assert RETAINED_FREE_BYTES == MAX_BODY_BYTES


MB = 1_000_000


class Heap:
    """A heap with so many bytes free, looked at once a second; remembers when memory was given back."""

    def __init__(self, free: float) -> None:
        self.given_back: list[int] = []
        self._trimmer = HeapTrimmer(lambda: free, lambda: self.given_back.append(self._now))
        self._now = 0

    def live(self, seconds: float, *, letting_go: int = 0) -> None:
        for _ in range(int(seconds)):
            self._now += 1
            self._trimmer.count_freed_bytes(letting_go)
            self._trimmer.trim_if_due(self._now)


def test_memory_is_given_back_once_after_a_burst() -> None:
    heap = Heap(free=20 * MB)
    heap.live(3, letting_go=7 * MB)
    heap.live(60)
    assert heap.given_back == [4]


def test_single_requests_do_not_hide_the_end_of_a_burst() -> None:
    heap = Heap(free=20 * MB)
    heap.live(3, letting_go=7 * MB)
    heap.live(3, letting_go=MB // 10)
    assert heap.given_back == [4]


def test_memory_of_a_burst_is_kept_during_the_burst() -> None:
    heap = Heap(free=RETAINED_FREE_BYTES)
    heap.live(60, letting_go=50 * MB)
    assert heap.given_back == []


def test_excess_memory_is_given_back_at_intervals_during_a_burst() -> None:
    heap = Heap(free=RETAINED_FREE_BYTES + MB)
    heap.live(60, letting_go=50 * MB)
    assert 3 <= len(heap.given_back) <= 60 / 4


def test_memory_freed_since_is_given_back_at_the_end_of_a_burst() -> None:
    heap = Heap(free=RETAINED_FREE_BYTES + MB)
    heap.live(10)
    heap.live(1, letting_go=7 * MB)
    heap.live(60)
    assert heap.given_back == [11, 12]


def test_a_burst_that_freed_little_is_followed_by_a_normal_pause() -> None:
    heap = Heap(free=5 * MB)
    heap.live(1, letting_go=40 * MB)
    heap.live(60)
    assert heap.given_back == [1 + TRIM_AFTER_IDLE_SECONDS]


def test_a_server_that_does_nothing_gives_nothing_back() -> None:
    heap = Heap(free=100 * MB)
    heap.live(60)
    assert heap.given_back == []
