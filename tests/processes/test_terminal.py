"""SIGHUP in a terminal: the end of the terminal or its shell stops the server, a reload under a live one does not."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.process_checks import is_alive
from tests.support.server_process import environment_of, hold_port
from tests.support.terminal import answer_questions
from tests.support.waiting import WAIT_SECONDS, wait_for

pty = pytest.importorskip("pty", reason="platform: no terminals with signals")
SHELLS = {"a shell at work": ("bash", "--norc", "-i"), "the leader of a script": ("sh", "-c", "{command}; true")}
CLAIM_TERMINAL = (
    "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "signal.signal(signal.SIGHUP, signal.{disposition}); os.execvp(sys.argv[1], sys.argv[1:])"
)


@dataclass
class Window:
    """A terminal in which a shell runs the server. Nothing reads it: the output fits into its buffer."""

    shell: "subprocess.Popen[bytes]"
    master: int
    port: int
    server: int = 0

    def close(self) -> None:
        if self.master >= 0:
            os.close(self.master)
            self.master = -1

    def serves(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_SECONDS) as client:
                client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                return client.recv(100).startswith(b"HTTP/1.1 200")
        except OSError:
            return False


@contextmanager
def window(
    directory: Path, settings: Mapping[str, str], shell: str, workers: int, disposition: str = "SIG_DFL"
) -> Iterator[Window]:
    """Start a server in a terminal in which the shell begins with this disposition of SIGHUP."""
    environment = {**environment_of(directory), **settings}
    master, slave = pty.openpty()
    with hold_port() as port:
        command = f"{sys.executable} -m anthropic_proxy serve --port {port} --workers {workers}"
        words = [word.format(command=command) for word in SHELLS[shell]]
        process = subprocess.Popen(
            [sys.executable, "-c", CLAIM_TERMINAL.format(disposition=disposition), *words],
            cwd=directory,
            env=environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        found = Window(process, master, port)
        if shell == "a shell at work":
            os.write(master, f"{command}\n".encode())
        try:
            wait_for(found.serves)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            found.server = int(children[0])
            yield found
        finally:
            found.close()
            process.kill()
            process.wait()
            if found.server and is_alive(found.server):
                with suppress(ProcessLookupError):
                    os.kill(found.server, signal.SIGKILL)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("pause", [None, 0.05, 2.0])
def test_a_terminal_that_closes_after_its_shell_got_the_signal_ends_the_server(
    settings: dict[str, str], tmp_path: Path, shell: str, pause: float | None, workers: int
) -> None:
    """None: the terminal stays open, and only the shell is ended by the signal."""
    with window(tmp_path, settings, shell, workers) as terminal:
        os.kill(terminal.shell.pid, signal.SIGHUP)
        if pause is not None:
            time.sleep(pause)
            terminal.close()
        wait_for(lambda: not is_alive(terminal.server))
        assert not terminal.serves()


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_a_shell_that_is_killed_ends_the_server(settings: dict[str, str], tmp_path: Path, sign: int) -> None:
    with window(tmp_path, settings, "the leader of a script", 1) as terminal:
        os.kill(terminal.shell.pid, sign)
        os.kill(terminal.server, signal.SIGHUP)
        wait_for(lambda: not is_alive(terminal.server))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("shell", SHELLS)
def test_a_reload_under_a_live_terminal_is_no_end(
    settings: dict[str, str], tmp_path: Path, shell: str, workers: int
) -> None:
    with window(tmp_path, settings, shell, workers) as terminal:
        for _ in range(2):
            os.kill(terminal.server, signal.SIGHUP)
            time.sleep(3)
        assert terminal.serves()
        terminal.close()
        wait_for(lambda: not is_alive(terminal.server))


def test_a_server_started_with_sighup_ignored_outlives_its_terminal(settings: dict[str, str], tmp_path: Path) -> None:
    with window(tmp_path, settings, "the leader of a script", 1, "SIG_IGN") as terminal:
        os.kill(terminal.shell.pid, signal.SIGKILL)
        os.kill(terminal.server, signal.SIGHUP)
        time.sleep(3)
        assert terminal.serves()


def test_the_program_name_alone_says_that_it_serves(tmp_path: Path) -> None:
    with hold_port() as port:
        settings = {"PORT": str(port)}
        screen = answer_questions(answers=[("hello", "\x03")], directory=tmp_path, settings=settings)
    assert screen.lines[0] == (
        "  This starts the proxy, which runs in this terminal until Ctrl+C. All commands:  anthropic-proxy --help"
    )
