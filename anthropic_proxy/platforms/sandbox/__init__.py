"""Sandboxed programs of the proxy, each run in its own process.

A regular expression of a model or a fetched page can keep C code busy without end while it holds the interpreter lock.
A process can be killed then, a thread cannot. A program is a file with a function `main` from one JSON value to
another. It imports nothing of this project, for a fast start.
"""

import asyncio
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

_LAUNCHER = str(Path(__file__).with_name("launcher.py"))
_CPU_LIMIT_EXIT = -getattr(signal, "SIGXCPU", 0) or None


class SandboxedProgram(Struct, frozen=True, kw_only=True):
    """A Python program file that runs in its own process, with its limits."""

    path: str
    """Path of the program file."""
    timeout_seconds: float
    """Time limit of a run, including the start of the process. A loaded machine needs a generous limit."""
    cpu_seconds: int
    """Limit of CPU time; not enforced on Windows."""
    memory_bytes: int
    """Limit of the address space; not enforced on Windows."""
    imports_packages: bool = False
    """True if the program imports installed packages. Without them it starts faster."""


class SandboxFailed(Exception):
    """A sandboxed program ended with an error, mostly for lack of memory."""


async def run_sandboxed(program: SandboxedProgram, input_value: Any) -> bytes:
    """Run a program and return its JSON output. A cancellation kills the process.

    Raises `TimeoutError` at a time limit, `SandboxFailed`, and `OSError` if no process can be started.
    """
    flags = ("-I",) if program.imports_packages else ("-I", "-S")
    limits = (str(program.memory_bytes), str(program.cpu_seconds))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *flags, _LAUNCHER, program.path, *limits), stdin=PIPE, stdout=PIPE, stderr=DEVNULL
    )
    try:
        async with asyncio.timeout(program.timeout_seconds):
            output, _ = await process.communicate(msgspec.json.encode(input_value))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == _CPU_LIMIT_EXIT:
        raise TimeoutError
    if process.returncode != 0:
        raise SandboxFailed(f"{Path(program.path).stem} ended with {process.returncode}")
    return output
