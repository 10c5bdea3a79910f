"""Runs Claude Code in a terminal, as a person does: types, and reads the screen's text as it scrolls by."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.claude import CLIENT_KEY, environment
from tests.support.waiting import WAIT_SECONDS

ROWS, COLUMNS = 50, 160
QUIET_SECONDS, MAX_WAIT_SECONDS = 0.4, 4.0
"""Silence after which the screen is taken to stand still, and the longest wait for it: while the model is at work
something always moves."""
MAX_ECHO_SECONDS = 20.0
"""Longest wait for the typed words on the screen, which does not show each key."""
_CONTROLS = re.compile(
    rb"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[P_^].*?\x1b\\|\x1b\[[0-9;?<>=$ ]*[a-zA-Z@]|\x1b[=>()][0B]?"
)


class Terminal:
    """A session on a screen."""

    def __init__(self, descriptor: int, process: "subprocess.Popen[bytes]") -> None:
        self._descriptor = descriptor
        self._process = process
        self._shown = b""
        self._typed_at = 0
        self._columns = COLUMNS

    @property
    def text(self) -> str:
        """Everything that was drawn so far, without colours and with single spaces."""
        return _readable(self._shown)

    def type(self, words: str) -> None:
        """Type a line and send it, each key when the screen has shown the one before."""
        self._typed_at = len(self._shown)
        os.write(self._descriptor, words.encode())
        # a busy program that reads the words and the end of the line together takes them as pasted, and sends nothing
        deadline = time.monotonic() + MAX_ECHO_SECONDS
        while words[-8:].strip() not in _readable(self._shown[self._typed_at :]) and time.monotonic() < deadline:
            self._read(QUIET_SECONDS)
        self._settle()
        os.write(self._descriptor, b"\r")
        self._settle()

    def wait_for(self, words: str) -> None:
        """Read until the words were drawn."""
        deadline = time.monotonic() + WAIT_SECONDS
        while words not in self.text:
            assert time.monotonic() < deadline, f"{words!r} was not shown:\n{self.text[-3_000:]}"
            assert self._process.poll() is None, f"it ended:\n{self.text[-3_000:]}"
            self._read(0.2)

    def wait_for_answer(self, words: str) -> None:
        """Read until the words were drawn since the last line was typed, also if they are no longer on the screen."""
        deadline = time.monotonic() + WAIT_SECONDS
        while words not in (text := _readable(self._shown[self._typed_at :])):
            assert time.monotonic() < deadline, f"{words!r} was not shown:\n{text[-3_000:]}"
            assert self._process.poll() is None, f"it ended:\n{text[-3_000:]}"
            self._read(0.2)

    def redraw_until(self, accept: Callable[[str], object]) -> str:
        """Return the first accepted text of the screen. The program draws all of it when the size has changed, and may
        start its commands again then. The time between two redraws doubles, so that the commands end also on a busy
        machine.
        """
        seconds, waited = 1.0, 0.0
        while not accept(text := self._redraw(seconds)):
            assert waited < WAIT_SECONDS, f"not shown within {waited:.0f} s; the screen:\n{text}"
            waited += seconds
            seconds *= 2
        return text

    def _redraw(self, after_seconds: float) -> str:
        deadline = time.monotonic() + after_seconds
        while (seconds := deadline - time.monotonic()) > 0:
            self._read(seconds)
        start = len(self._shown)
        self._columns = COLUMNS - 1 if self._columns == COLUMNS else COLUMNS
        fcntl.ioctl(self._descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, self._columns, 0, 0))
        os.killpg(self._process.pid, signal.SIGWINCH)
        self._settle()
        return _readable(self._shown[start:])

    def _settle(self) -> None:
        deadline = time.monotonic() + MAX_WAIT_SECONDS
        while self._read(QUIET_SECONDS) and time.monotonic() < deadline:
            pass

    def _read(self, seconds: float) -> bool:
        ready, _, _ = select.select([self._descriptor], [], [], seconds)
        if not ready:
            return False
        try:
            self._shown += os.read(self._descriptor, 65_536)
        except OSError:  # the other end is closed
            return False
        return True


def _readable(shown: bytes) -> str:
    return re.sub(r"\s+", " ", _CONTROLS.sub(b" ", shown).decode("utf-8", "replace"))


def introduce(home: Path, work: Path) -> None:
    """Answer the questions to a new user: theme, key, trust in the folder."""
    trusted = {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True}
    known = {
        "hasCompletedOnboarding": True,
        "theme": "dark",
        "customApiKeyResponses": {"approved": [CLIENT_KEY[-20:]], "rejected": []},
        "projects": {str(work): trusted},
    }
    (home / ".claude.json").write_text(json.dumps(known))


@contextmanager
def terminal(
    program: Path, url: str, work: Path, *options: str, is_new_user: bool = False, home: Path | None = None, **more: str
) -> Iterator[Terminal]:
    """Start Claude Code in a directory of work; `more` are further variables of its environment.

    `is_new_user`: its home is empty, so it first asks for theme and trust. `home`: default: beside the directory.
    """
    home = home or work.parent / "home"
    home.mkdir(exist_ok=True)
    if not is_new_user and not (home / ".claude.json").exists():
        introduce(home, work)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(
        [str(program), *options],
        cwd=work,
        env=environment(url, home, TERM="xterm-256color", **more),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        session = Terminal(ours, process)
        session.wait_for("Claude Code")
        session.wait_for("❯")
        yield session
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(ours)
