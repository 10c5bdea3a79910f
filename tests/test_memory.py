"""Memory that large requests have used is kept for the next ones, and given back in a pause."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from anthropic_proxy.memory import KEPT_BYTES, count_free, give_back, keep_freed
from anthropic_proxy.server.body import BODY_BYTES as LARGEST

BODY_BYTES = 1_000_000
PAGES_OF_A_BODY = BODY_BYTES // 4096

PROGRAM = f"""
import resource
from pathlib import Path
from anthropic_proxy.server.body import BODY_BYTES as LARGEST
from anthropic_proxy.memory import count_free, keep_freed
from anthropic_proxy.server.pauses import QUIET_SECONDS, Pauses

def serve():
    buffers = [bytearray({BODY_BYTES}) for _ in range(8)]

def count():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

pauses = Pauses()
keep_freed()
serve()
before = count()
for _ in range(10):
    serve()
faults = count() - before
pauses.look(11, 0.0)
kept = held()
pauses.look(11, QUIET_SECONDS - 1)
meanwhile = held()
assert count_free() > 7 * {BODY_BYTES}
pauses.look(11, QUIET_SECONDS)
print(faults, kept, meanwhile, held())
assert count_free() < {BODY_BYTES}
"""

with_glibc = pytest.mark.skipif(
    not (sys.platform == "linux" and hasattr(os, "confstr") and "CS_GNU_LIBC_VERSION" in os.confstr_names),
    reason="only glibc lets its heap be told what to keep",
)


@with_glibc
def test_freed_memory_is_kept_for_the_next_request_and_given_back_in_a_pause() -> None:
    checkout = Path(__file__).resolve().parent.parent
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=checkout, capture_output=True, text=True, timeout=60, check=True
    )
    faults, kept, meanwhile, given_back = map(int, said.stdout.split())
    assert faults < PAGES_OF_A_BODY, "ten requests of eight buffers each take no pages anew"
    assert meanwhile >= kept - BODY_BYTES
    assert given_back <= kept - 7 * BODY_BYTES


def test_another_c_library_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: None) -> Callable[..., int]:
        raise OSError

    monkeypatch.setattr("ctypes.CDLL", refuse)
    keep_freed()
    give_back()
    assert count_free() == float("inf")


def test_as_much_is_kept_as_the_largest_body_takes() -> None:
    assert KEPT_BYTES == LARGEST
