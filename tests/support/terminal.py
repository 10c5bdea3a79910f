"""A command of the proxy in a terminal, with answers to its questions."""

import os
import select
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import anthropic_proxy.cli.output  # noqa: F401  # once compiled, no command says that the first start takes time
from tests.support.forked_command import NO_LOCAL_SERVERS, can_fork, start_forked, wait_forked, with_set_up
from tests.support.process_checks import is_sleeping
from tests.support.server_process import ending, environment_of, reserve_closed_port
from tests.support.waiting import WAIT_SECONDS, wait_for


@dataclass(frozen=True)
class Screen:
    """Text on the terminal, and the exit status of the command."""

    text: str
    status: int

    @property
    def lines(self) -> list[str]:
        return self.text.replace("\r\n", "\n").splitlines()


def answer_questions(
    *words: str, answers: Iterable[tuple[str, str]], directory: Path, settings: Mapping[str, str], columns: int = 0
) -> Screen:
    """Run a command in a terminal. Each of `answers` is an expected text and the keys to type once it is shown.

    The answer is typed without a line end, which belongs to the keys: `\\r`. `\\x03` is Ctrl+C.
    `columns`: 0: the terminal does not state its width, so that the lengths of folders do not matter.
    """
    pty = pytest.importorskip("pty", reason="platform: no terminals with signals")
    termios = pytest.importorskip("termios", reason="platform: no terminals with signals")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24 if columns else 0, columns))
    environment = {**environment_of(directory), "NO_COLOR": "1"}
    environment["PORT"] = reserve_closed_port()  # a proxy of the user is not found
    environment |= NO_LOCAL_SERVERS
    environment |= settings
    if can_fork(environment):
        command = start_forked(words, directory, environment, [theirs] * 3, owns_terminal=True)
        shown = _answer(ours, theirs, answers, command.pid)
        return Screen(shown, wait_forked(command, WAIT_SECONDS))
    process = subprocess.Popen(
        [sys.executable, "-c", _IN_OWN_TERMINAL, *words],
        cwd=directory,
        env=with_set_up(environment),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    with ending(process):
        shown = _answer(ours, theirs, answers, process.pid)
        return Screen(shown, process.wait(WAIT_SECONDS))


def _answer(ours: int, theirs: int, answers: Iterable[tuple[str, str]], command: int | None) -> str:
    """Type the answers at our end of a terminal. Return the text on it when the command has ended.

    A key is typed only when the command waits for input. `input()` prints its question first: a signal that arrives
    between the two does not end the read.
    """
    os.close(theirs)
    shown = ""
    try:
        for expected, keys in answers:
            start = len(shown)
            while expected not in shown[start:]:
                received = read_output(ours, f" before {expected!r}: {shown}")
                assert received, f"the command ended before {expected!r}: {shown}"
                shown += received
            wait_for(lambda: command is None or is_sleeping(command))
            os.write(ours, keys.encode())
        while received := read_output(ours, f" after the last answer: {shown}"):
            shown += received
    finally:
        os.close(ours)
    return shown


_IN_OWN_TERMINAL = """
import fcntl, runpy, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
sys.argv = ["anthropic_proxy", *sys.argv[1:]]
runpy.run_module("anthropic_proxy", run_name="__main__", alter_sys=True)
"""
"""Program that runs the proxy with its standard input as the terminal of the process, so that Ctrl+C reaches it."""


def read_output(descriptor: int, place: str = "") -> str:
    """Return the next output. "": the command has ended. `place`: words for the error of a command that waits."""
    ready, _, _ = select.select([descriptor], [], [], WAIT_SECONDS)
    if not ready:
        raise TimeoutError(f"the command printed nothing for {WAIT_SECONDS} s{place}")
    try:
        return os.read(descriptor, 65_536).decode()
    except OSError:  # Linux reports the end of the last process as an error
        return ""
