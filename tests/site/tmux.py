"""A program in a terminal of tmux, of which the screen is read with its colors."""

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.site.terminal_drawing import COLUMNS
from tests.support.waiting import wait_for

_QUIET_SECONDS = 0.5


class Tmux:
    def __init__(self, server: str) -> None:
        self._server = server

    @property
    def text(self) -> str:
        return "\n".join(self._capture())

    def read(self) -> list[str]:
        """Return the lines of the screen with their colors."""
        return self._capture("-e")

    def wait_for(self, *words: str) -> list[str]:
        """Return the screen when it shows all of `words`, and stands still."""
        wait_for(lambda: self.text, lambda text: all(word in text for word in words))
        return self.settle()

    def settle(self) -> list[str]:
        """Return the screen when its text stands still. Colors of the logo move for ever."""
        shown = None
        while shown != (shown := self.text):
            time.sleep(_QUIET_SECONDS)
        return self.read()

    def type(self, words: str) -> None:
        """Type a line, and send it when the screen has shown it."""
        self.press("-l", words)
        wait_for(lambda: self.text, lambda text: words in text)
        self.press("Enter")

    def press(self, *keys: str) -> None:
        self.run("send-keys", *keys)

    def run(self, *words: str) -> str:
        command = ("tmux", "-L", self._server, "-f", "/dev/null", *words)
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def _capture(self, *options: str) -> list[str]:
        return self.run("capture-pane", "-p", *options).strip("\n").splitlines()


@contextmanager
def running_in_tmux(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], rows: int = 24
) -> Iterator[Tmux]:
    """Run a program on a terminal of `COLUMNS`, until the block ends."""
    server = f"picture-{os.getpid()}-{time.monotonic_ns()}"  # a server that ends keeps its name for a moment
    size = ("-x", str(COLUMNS), "-y", str(rows))
    kept = ("sh", "-c", '"$0" "$@"; exec sleep 600', *command)  # the screen outlives the program
    focus = (";", "set-option", "-g", "focus-events", "on")  # else Claude Code shows a hint about it
    start = ("tmux", "-L", server, "-f", "/dev/null", "new-session", "-d", *size, *kept, *focus)
    subprocess.run(start, cwd=folder, env=environment, check=True)
    tmux = Tmux(server)
    try:
        yield tmux
    finally:
        subprocess.run(("tmux", "-L", server, "kill-server"), check=False)
