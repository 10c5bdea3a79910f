"""A private Redis or Valkey server for tests: on loopback, in a temporary directory, stopped at the end."""

import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from tests.support.debian_packages import find_program
from tests.support.server_process import hold_port
from tests.support.waiting import WAIT_SECONDS, reporting_log, wait_for

PROGRAM_VARIABLE = "TEST_REDIS_PROGRAM"
"""Variable with the path of the server to test, if it is not the installed one."""


def find_redis() -> str | None:
    """Return the path of the server. None: it is not installed."""
    return os.environ.get(PROGRAM_VARIABLE) or find_program("redis-server") or find_program("valkey-server")


class RedisServer:
    """A server that tests stop, pause and start again, with the same port."""

    def __init__(self, folder: Path, port: int, *options: str) -> None:
        program = find_redis()
        assert program is not None
        self.port, self._folder = port, folder
        self._command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)]
        self._command += ["--save", "", "--appendonly", "no", *options]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address for REDIS_URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        with (self._folder / "redis.log").open("ab") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=output)
        process = self._process

        def answers() -> bytes:
            assert process.poll() is None, (self._folder / "redis.log").read_text("utf-8")
            with suppress(OSError), closing(socket.create_connection(("127.0.0.1", self.port), 5)) as connection:
                connection.settimeout(5)
                connection.sendall(b"PING\r\n")
                return connection.recv(64)
            return b""

        with reporting_log(process, self._folder / "redis.log"):
            wait_for(answers)

    def stop(self) -> None:
        """End the server with SIGTERM. It first stores its data, if its options require that."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server at once."""
        self._end(signal.SIGKILL)

    def _end(self, sign: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(sign)
            self._process.wait(timeout=WAIT_SECONDS)
            self._process = None

    def pause(self) -> None:
        """Stop the execution of the server: it accepts connections and answers nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue the execution."""
        self._process.send_signal(signal.SIGCONT)

    def command(self, *words: str) -> str:
        with closing(socket.create_connection(("127.0.0.1", self.port), WAIT_SECONDS)) as connection:
            parts = [f"*{len(words)}", *(part for word in words for part in (f"${len(word.encode())}", word)), ""]
            connection.sendall("\r\n".join(parts).encode())
            return connection.recv(65536).decode()


@contextmanager
def running_redis(*options: str) -> Iterator[RedisServer]:
    """Yield an empty server. `options`: more options of the command line."""
    # held while the server is stopped too: else another program gets the port, or a connection to it its own end
    with tempfile.TemporaryDirectory(prefix="redis-") as name, hold_port() as port:
        server = RedisServer(Path(name), port, *options)
        server.start()
        try:
            yield server
        finally:
            server.kill()
