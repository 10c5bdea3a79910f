"""Memory of large requests: kept for the next ones, and returned to the system when the server is idle."""

import gc
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
    permanent_objects,
    retain_freed_memory,
    trim_heap,
)
from anthropic_proxy.gateway.server.auth import MAX_REQUEST_BYTES
from tests.support.paths import ROOT
from tests.support.waiting import WAIT_SECONDS

BODY_BYTES = 1_000_000
PAGES_OF_A_BODY = BODY_BYTES // 4096

PROGRAM = f"""
import resource
from pathlib import Path
from anthropic_proxy.gateway.server.auth import MAX_REQUEST_BYTES as LARGEST
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


THREAD_PROGRAM = """
import threading
from pathlib import Path
from anthropic_proxy.gateway.platforms.heap import retain_freed_memory

retain_freed_memory()
blocks = []
thread = threading.Thread(target=lambda: blocks.extend(bytes(1_000) for _ in range(5_000)))
thread.start()
thread.join()
heap = next(line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("[heap]"))
first, last = (int(address, 16) for address in heap.split()[0].split("-"))
print(sum(first <= id(block) < last for block in blocks))
"""


@with_glibc
def test_threads_share_the_heap_so_that_they_use_the_memory_that_requests_have_freed() -> None:
    completed = subprocess.run(
        [sys.executable, "-c", THREAD_PROGRAM],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=True,
    )
    assert completed.stdout == "5000\n"


def test_permanent_objects_are_not_examined_by_later_collections() -> None:
    with permanent_objects():
        loaded = [[number] for number in range(1_000)]
    assert gc.isenabled()
    examined = {id(each) for each in gc.get_objects()}
    assert not examined & {id(each) for each in loaded}


def test_another_c_library_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: None) -> Callable[..., int]:
        raise OSError

    monkeypatch.setattr("ctypes.CDLL", refuse)
    retain_freed_memory()
    trim_heap()
    assert measure_unallocated_heap_bytes() == float("inf")


def test_the_memory_of_a_body_of_maximum_size_is_kept() -> None:
    assert RETAINED_FREE_BYTES == MAX_REQUEST_BYTES


MB = 1_000_000


@pytest.mark.parametrize(
    ("free", "steps", "given_back"),
    [
        pytest.param(20 * MB, [(3, 7 * MB), (60, 0)], [4], id="once after a burst"),
        pytest.param(20 * MB, [(3, 7 * MB), (3, MB // 10)], [4], id="single requests do not hide its end"),
        pytest.param(RETAINED_FREE_BYTES, [(60, 50 * MB)], [], id="memory of a burst is kept during it"),
        pytest.param(RETAINED_FREE_BYTES + MB, [(10, 0), (1, 7 * MB), (60, 0)], [11, 12], id="what was freed since"),
        pytest.param(5 * MB, [(1, 40 * MB), (60, 0)], [1 + TRIM_AFTER_IDLE_SECONDS], id="little freed: a normal pause"),
        pytest.param(100 * MB, [(60, 0)], [], id="nothing was done"),
    ],
)
def test_memory_is_given_back_after_bursts(free: float, steps: list[tuple[int, int]], given_back: list[int]) -> None:
    assert live(free, steps) == given_back


def test_excess_memory_is_given_back_at_intervals_during_a_burst() -> None:
    assert 3 <= len(live(RETAINED_FREE_BYTES + MB, [(60, 50 * MB)])) <= 60 / 4


def live(free: float, steps: list[tuple[int, int]]) -> list[int]:
    """Return the seconds at which memory is given back. `steps`: numbers of seconds, and bytes freed in each."""
    given_back: list[int] = []
    now = 0
    trimmer = HeapTrimmer(lambda: free, lambda: given_back.append(now))
    for seconds, freed in steps:
        for _ in range(seconds):
            now += 1
            trimmer.count_freed_bytes(freed)
            trimmer.trim_if_due(now)
    return given_back
