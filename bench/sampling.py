"""Samples the stacks of the process that imports it, by the CPU time that its main thread uses.

`bench.flame` has the proxy import it. The kernel's own clock of the thread sends a signal (`perf_event_open`, Linux),
so that samples fall where the time goes: another process that looks from outside would have to wait for a core, and
would mostly see the places where one becomes free. SIGUSR2 begins and ends the sampling.
"""

import ctypes
import fcntl
import os
import platform
import signal
import struct
import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType

PERIOD_NANOSECONDS = 997_000
_SYSCALLS = {"x86_64": 298, "aarch64": 241}
_SIZE = 128
"""Bytes of `struct perf_event_attr`."""
_SOFTWARE, _CPU_CLOCK = 1, 0
_REFRESH, _RESET = 0x2402, 0x2403
_SET_SIGNAL = 10
"""`F_SETSIG`: which signal an open file sends."""
_LIBRARIES = ("site-packages/", f"/lib/python3.{sys.version_info.minor}/")


class Sampler:
    """Counts the stacks of the main thread while it is switched on, and writes them to a file when switched off."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stacks: Counter[tuple[CodeType, ...]] = Counter()
        self._clock: int | None = None

    def listen(self) -> None:
        """Begin to listen to the signals."""
        signal.signal(signal.SIGPROF, self._count)
        signal.signal(signal.SIGUSR2, self._switch)

    def _switch(self, *_: object) -> None:
        if self._clock is None:
            self._clock = _open_clock()
            return
        os.close(self._clock)
        self._clock = None
        lines = (f"{';'.join(map(_name, reversed(stack)))} {count}\n" for stack, count in self._stacks.items())
        written = self._file.with_suffix(".part")
        written.write_text("".join(lines))
        written.replace(self._file)  # a reader that waits for the file finds it whole

    def _count(self, _: int, frame: FrameType | None) -> None:
        stack: list[CodeType] = []
        while frame is not None:
            stack.append(frame.f_code)
            frame = frame.f_back
        self._stacks[tuple(stack)] += 1
        if self._clock is not None:
            fcntl.ioctl(self._clock, _REFRESH, 1)


def _open_clock() -> int:
    """Return an open clock of this thread's CPU time. Raises `OSError` where the kernel gives none."""
    attributes = ctypes.create_string_buffer(_SIZE)
    struct.pack_into("IIQQ", attributes, 0, _SOFTWARE, _SIZE, _CPU_CLOCK, PERIOD_NANOSECONDS)
    struct.pack_into("Q", attributes, 40, 1)  # switched off at first
    struct.pack_into("I", attributes, 48, 1)  # a signal after each period
    library = ctypes.CDLL(None, use_errno=True)
    clock = int(library.syscall(_SYSCALLS[platform.machine()], attributes, 0, -1, -1, 0))
    if clock < 0:
        raise OSError(ctypes.get_errno(), "the kernel gives no clock for samples (kernel.perf_event_paranoid)")
    fcntl.fcntl(clock, _SET_SIGNAL, signal.SIGPROF)
    fcntl.fcntl(clock, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(clock, fcntl.F_SETFL, fcntl.fcntl(clock, fcntl.F_GETFL) | os.O_ASYNC)
    fcntl.ioctl(clock, _RESET, 0)
    fcntl.ioctl(clock, _REFRESH, 1)
    return clock


def _name(code: CodeType) -> str:
    file = code.co_filename.rpartition("/anthropic_proxy/")
    path = f"anthropic_proxy/{file[2]}" if file[1] else code.co_filename
    for library in _LIBRARIES:
        path = path.rpartition(library)[2]
    return f"{code.co_qualname} ({path})"


if target := os.environ.get("BENCH_STACKS"):
    Sampler(Path(target)).listen()
