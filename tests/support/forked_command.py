"""Commands of the proxy in processes that are forked from one in which the command line is imported.

The imports take more processor time than most commands. Only Linux: elsewhere the test starts an interpreter.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.support.clocks import with_clock
from tests.support.machine.sitecustomize import SERVERS, set_up
from tests.support.paths import ROOT

_READ_AT_START = ("PYTHON", "LC_", "LANG")
"""Beginnings of the variables that an interpreter reads when it starts."""
_CHARSET = "PYTHONIOENCODING"
NO_LOCAL_SERVERS = {SERVERS: ""}
"""Variables with which a program meets no model server of this machine on its usual port, such as localhost:11434."""


def with_set_up(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a process that is not forked, with which its interpreter imports `sitecustomize`."""
    folders = [environment.get("PYTHONPATH", ""), str(ROOT / "tests/support/machine")]
    return {**with_clock(environment), "PYTHONPATH": os.pathsep.join(filter(None, folders))}


def can_fork(environment: Mapping[str, str]) -> bool:
    others = environment.keys() - {_CHARSET}
    usual = {"PYTHONPATH": str(ROOT)}
    given = any(name.startswith(_READ_AT_START) and usual.get(name) != environment[name] for name in others)
    return sys.platform == "linux" and hasattr(os, "fork") and not given


def run_forked(
    words: Sequence[str], directory: Path, environment: Mapping[str, str], stdin: str, timeout: float
) -> "subprocess.CompletedProcess[bytes]":
    """Run a command as `subprocess.run` does, with files as its standard streams."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        given.write(stdin.encode())
        given.seek(0)
        process = start_forked(words, directory, environment, [file.fileno() for file in (given, output, errors)])
        status = wait_forked(process, timeout)
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(list(words), status, output.read(), errors.read())


def start_forked(
    words: Sequence[str],
    directory: Path,
    environment: Mapping[str, str],
    streams: Sequence[int],
    *,
    owns_terminal: bool = False,
    start_up: str = "",
) -> BaseProcess:
    """Start a command with three descriptors as its standard streams.

    `owns_terminal`: the first one is a terminal, and becomes the one of the process, so that Ctrl+C reaches it.
    `start_up`: a module that the process imports before the command.
    """
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.support.preloaded_commands", __name__])
    process = processes.Process(
        target=_Command(words, directory, with_clock(environment), streams, owns_terminal, start_up)
    )
    process.start()
    return process


def wait_forked(process: BaseProcess, timeout: float) -> int:
    """Return the exit status. A process that is still running after the timeout is killed, and an error is raised."""
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        process.join(timeout)
        raise TimeoutError(f"the command did not end within {timeout:.0f} s")
    return process.exitcode


class ForkedProcess:
    """A forked command that goes on running, with the methods of `subprocess.Popen`."""

    def __init__(self, process: BaseProcess) -> None:
        assert process.pid
        self.pid = process.pid
        self._process = process

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return self.returncode

    def send_signal(self, sign: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, sign)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self._process.kill()


class _Command:
    """A command line, with the directory, the environment and the three streams of its process."""

    def __init__(
        self,
        words: Sequence[str],
        directory: Path,
        environment: Mapping[str, str],
        streams: Sequence[int],
        owns_terminal: bool,
        start_up: str,
    ) -> None:
        self._words = words
        self._directory = directory
        self._environment = dict(environment)
        self._streams = streams
        self._owns_terminal = owns_terminal
        self._start_up = start_up

    def __getstate__(self) -> dict[str, object]:
        from multiprocessing.reduction import DupFd  # Windows does not have it

        return {**vars(self), "_streams": [DupFd(number) for number in self._streams]}

    def __call__(self) -> None:
        for number, stream in enumerate(self._streams):
            os.dup2(stream.detach(), number)  # type: ignore[attr-defined]
        if self._owns_terminal:
            import fcntl
            import termios

            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        charset = self._environment.get(_CHARSET, "utf-8")
        on_error = "strict" if _CHARSET in self._environment else "surrogateescape"
        sys.stdin = os.fdopen(0, encoding=charset, errors=on_error, closefd=False)
        sys.stdout = os.fdopen(1, "w", encoding=charset, errors=on_error, closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding=charset, errors="backslashreplace", buffering=1, closefd=False)
        os.environ.clear()
        os.environ.update(self._environment)
        set_up()
        os.chdir(self._directory)
        sys.argv = ["", *self._words]
        if self._start_up:
            import_module(self._start_up)
        try:
            runpy.run_module("anthropic_proxy", run_name="__main__", alter_sys=True)
        finally:
            atexit._run_exitfuncs()  # multiprocessing ends a process without them
