"""Programs of ours that run in a process of their own, since what they are given may hold them up without end.

A model's regular expression or a stranger's page can keep a library in C longer than anybody lives, with the
interpreter's lock held all the while: a thread cannot be stopped there, a process can. A program is a file with a
function `answer`, from one value of JSON to another; it imports nothing of this project, so that it starts soon.
"""

import asyncio
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

_LAUNCHER = str(Path(__file__).with_name("launch.py"))
_OUT_OF_TIME = -getattr(signal, "SIGXCPU", 0) or None


class Program(Struct, frozen=True, kw_only=True):
    """A file to run, and what it may take."""

    path: str
    seconds: float
    """For all of a run, the start of the process included; then it is killed. A busy machine may need many."""
    processor_seconds: int
    """What it may use of a processor; not enforced on Windows."""
    memory_bytes: int
    """Of address space; not enforced on Windows."""
    packages: bool = False
    """Whether it imports what is installed; without, it starts sooner."""


class ProgramFailed(Exception):
    """The program ended without an answer; mostly its memory was not enough."""


async def run(program: Program, question: Any) -> bytes:
    """Return what the program answers, as JSON. Whoever is cancelled meanwhile leaves no process behind.

    Raises `TimeoutError` where it took too long, `ProgramFailed`, and `OSError` where the machine gives no process.
    """
    flags = ("-I",) if program.packages else ("-I", "-S")
    limits = (str(program.memory_bytes), str(program.processor_seconds))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *flags, _LAUNCHER, program.path, *limits), stdin=PIPE, stdout=PIPE, stderr=DEVNULL
    )
    try:
        async with asyncio.timeout(program.seconds):
            said, _ = await process.communicate(msgspec.json.encode(question))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == _OUT_OF_TIME:
        raise TimeoutError
    if process.returncode != 0:
        raise ProgramFailed(f"{Path(program.path).stem} ended with {process.returncode}")
    return said
