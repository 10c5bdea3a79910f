"""Sandbox: runs a small Python program file in its own process, with limits of time, CPU and memory.

It is used for regular expressions that a model wrote, for fetched web pages and for PDF documents. Unlike a thread, a
process can be killed while C code runs. It has no variable of the server's environment, which has keys, and an empty
directory of its own.
"""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from msgspec import Struct

_LAUNCHER = str(Path(__file__).with_name("launcher.py"))
_READ_BYTES = 64 * 1024
_ENVIRONMENT = {name: os.environ[name] for name in ("SYSTEMROOT",) if sys.platform == "win32" and name in os.environ}
"""Python starts on Windows only with `SYSTEMROOT`."""
_CPU_LIMIT_EXIT = -getattr(signal, "SIGXCPU", 0) or None


class SandboxedProgram(Struct, frozen=True, kw_only=True):
    """Path and limits of a Python program file that `run_sandboxed` runs in its own process."""

    path: str
    timeout_seconds: float
    """Maximum seconds of a run, including the start of the process."""
    cpu_seconds: int
    """Maximum CPU seconds of a run. Not enforced on Windows."""
    memory_bytes: int
    """Maximum bytes of address space of the process. Not enforced on Windows."""
    max_output_bytes: int = 16 * 1024 * 1024
    """Maximum size of the result."""
    imports_packages: bool = False
    """True if the program imports installed packages. False: only the standard library, for a faster start."""


class SandboxFailed(Exception):
    """A sandboxed program ended with an error status, mostly because it exceeded its memory limit."""


async def run_sandboxed(program: SandboxedProgram, input_value: Any) -> bytes:
    """Run a program in its own process and return its output as JSON text.

    Raises `TimeoutError`, `SandboxFailed` if the program fails, or `OSError` if it cannot be started.
    """
    flags = ("-I", "-B") if program.imports_packages else ("-I", "-B", "-S")
    limits = (str(program.memory_bytes), str(program.cpu_seconds))
    with TemporaryDirectory(prefix="anthropic-proxy-", ignore_cleanup_errors=True) as directory:
        # a process and not a thread, because a process can be killed while C code runs
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *flags, _LAUNCHER, program.path, *limits),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            cwd=directory,
            env=_ENVIRONMENT,
        )
        try:
            async with asyncio.timeout(program.timeout_seconds):
                output = await _exchange(process, msgspec.json.encode(input_value), program)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    if process.returncode == _CPU_LIMIT_EXIT:
        raise TimeoutError
    if process.returncode != 0:
        raise SandboxFailed(f"{Path(program.path).stem} ended with {process.returncode}")
    return output


async def _exchange(process: Process, sent: bytes, program: SandboxedProgram) -> bytes:
    """Write the input, and return the output when the process has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(sent)
    process.stdin.write_eof()
    output = bytearray()
    while data := await process.stdout.read(_READ_BYTES):
        output += data
        if len(output) > program.max_output_bytes:
            raise SandboxFailed(f"{Path(program.path).stem} wrote more than {program.max_output_bytes} bytes")
    with suppress(BrokenPipeError, ConnectionResetError):  # it ended without reading its input
        await process.stdin.drain()
    await process.wait()
    return bytes(output)
