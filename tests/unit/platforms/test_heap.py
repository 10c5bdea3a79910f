"""Memory that large requests have used is kept for the next ones, and given back in a pause."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from anthropic_proxy.platforms.heap import (
    RETAINED_FREE_BYTES,
    TRIM_AFTER_IDLE_SECONDS,
    HeapTrimmer,
    free_heap_bytes,
    retain_freed_memory,
    trim_heap,
)
from anthropic_proxy.server.request_body import MAX_BODY_BYTES as LARGEST
from tests.support.paths import ROOT

BODY_BYTES = 1_000_000
PAGES_OF_A_BODY = BODY_BYTES // 4096

PROGRAM = f"""
import resource
from pathlib import Path
from anthropic_proxy.server.request_body import MAX_BODY_BYTES as LARGEST
from anthropic_proxy.platforms.heap import TRIM_AFTER_IDLE_SECONDS, HeapTrimmer, free_heap_bytes, retain_freed_memory

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
trimmer.note_freed(1)
trimmer.trim_if_due(0.0)
kept = held()
trimmer.trim_if_due(TRIM_AFTER_IDLE_SECONDS - 1)
meanwhile = held()
assert free_heap_bytes() > 7 * {BODY_BYTES}
trimmer.trim_if_due(TRIM_AFTER_IDLE_SECONDS)
print(faults, kept, meanwhile, held())
assert free_heap_bytes() < {BODY_BYTES}
"""

with_glibc = pytest.mark.skipif(
    not (sys.platform == "linux" and hasattr(os, "confstr") and "CS_GNU_LIBC_VERSION" in os.confstr_names),
    reason="platform: only glibc has settings of its heap",
)


@with_glibc
def test_freed_memory_is_kept_for_the_next_request_and_given_back_in_a_pause() -> None:
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    faults, kept, meanwhile, given_back = map(int, said.stdout.split())
    assert faults < PAGES_OF_A_BODY, "ten requests of eight buffers each take no pages anew"
    assert meanwhile >= kept - BODY_BYTES
    assert given_back <= kept - 7 * BODY_BYTES


def test_another_c_library_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: None) -> Callable[..., int]:
        raise OSError

    monkeypatch.setattr("ctypes.CDLL", refuse)
    retain_freed_memory()
    trim_heap()
    assert free_heap_bytes() == float("inf")


def test_as_much_is_kept_as_the_largest_body_takes() -> None:
    assert RETAINED_FREE_BYTES == LARGEST


MB = 1_000_000


class Heap:
    """A heap with so many bytes free, looked at once a second; remembers when memory was given back."""

    def __init__(self, free: float) -> None:
        self.given_back: list[int] = []
        self._slack = HeapTrimmer(lambda: free, lambda: self.given_back.append(self._now))
        self._now = 0

    def live(self, seconds: float, *, letting_go: int = 0) -> None:
        for _ in range(int(seconds)):
            self._now += 1
            self._slack.note_freed(letting_go)
            self._slack.trim_if_due(self._now)


def test_memory_is_given_back_as_soon_as_a_rush_is_over_and_once() -> None:
    heap = Heap(free=20 * MB)
    heap.live(3, letting_go=7 * MB)
    heap.live(60)
    assert heap.given_back == [4]


def test_single_requests_do_not_hide_that_a_rush_is_over() -> None:
    heap = Heap(free=20 * MB)
    heap.live(3, letting_go=7 * MB)
    heap.live(3, letting_go=MB // 10)
    assert heap.given_back == [4]


def test_what_a_rush_needs_is_kept_while_it_lasts() -> None:
    heap = Heap(free=RETAINED_FREE_BYTES)
    heap.live(60, letting_go=50 * MB)
    assert heap.given_back == []


def test_more_than_may_be_kept_is_given_back_in_a_rush_too_now_and_then() -> None:
    heap = Heap(free=RETAINED_FREE_BYTES + MB)
    heap.live(60, letting_go=50 * MB)
    assert 3 <= len(heap.given_back) <= 60 / 4


def test_what_a_rush_left_since_is_given_back_at_its_end() -> None:
    heap = Heap(free=RETAINED_FREE_BYTES + MB)
    heap.live(10)
    heap.live(1, letting_go=7 * MB)
    heap.live(60)
    assert heap.given_back == [11, 12]


def test_a_rush_that_left_little_is_followed_by_a_pause_like_any_other_request() -> None:
    heap = Heap(free=5 * MB)
    heap.live(1, letting_go=40 * MB)
    heap.live(60)
    assert heap.given_back == [1 + TRIM_AFTER_IDLE_SECONDS]


def test_a_server_that_does_nothing_gives_nothing_back() -> None:
    heap = Heap(free=100 * MB)
    heap.live(60)
    assert heap.given_back == []
