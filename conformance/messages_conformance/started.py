"""Starts the server under test with a command, and stops it at the end."""

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from messages_conformance.client import Server
from messages_conformance.rows import SuiteError

_STOP_SECONDS = 10
_SHOWN_BYTES = 3000


@contextmanager
def start_server(command: str, server: Server, timeout: float) -> Iterator[None]:
    """Run a command until the block ends. The block begins when the server accepts connections.

    Raises `SuiteError` if it does not, with the end of what the command printed.
    """
    if server.accepts_connections():
        raise SuiteError(f"a server is at {server.url} already: stop it, or leave out --start")
    words: str | list[str] = command if sys.platform == "win32" else shlex.split(command)
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:
            raise SuiteError(f"the command {command!r} cannot be started: {error}") from error
        try:
            _wait(process, server, timeout, output)
            yield
        finally:
            _stop(process)


def _wait(process: "subprocess.Popen[bytes]", server: Server, timeout: float, output: IO[bytes]) -> None:
    deadline = time.monotonic() + timeout
    while not server.accepts_connections():
        if process.poll() is not None:
            raise SuiteError(f"the command has ended with the status {process.returncode}:\n{_read_end(output)}")
        if time.monotonic() > deadline:
            raise SuiteError(f"nothing is at {server.url} after {timeout:g} seconds:\n{_read_end(output)}")
        time.sleep(0.05)


def _read_end(output: IO[bytes]) -> str:
    output.seek(max(0, output.seek(0, os.SEEK_END) - _SHOWN_BYTES))
    return output.read().decode("utf-8", "replace")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Stop the command, with all processes of its session where there are sessions."""
    if sys.platform == "win32":
        process.terminate()
        process.wait()
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
            return
