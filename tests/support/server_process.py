"""The server as a user starts it: a real process with an environment of its own."""

import functools
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import httpx2 as httpx

from tests.support.forked_command import ForkedProcess, can_fork, start_forked, with_set_up
from tests.support.machine_pauses import PAUSE_VARIABLE, pause_file
from tests.support.paths import ROOT
from tests.support.secret_canaries import command_lines, find_leaks, secrets_in
from tests.support.tls import NO_AUTHORITIES
from tests.support.waiting import WAIT_SECONDS, reporting_log, wait_for

SERVE = ("-m", "anthropic_proxy", "serve")
_MONITOR = "tests.support.machine.event_loop_monitor"
_STOP_SECONDS = 40
"""Time after which a process is killed at the end of a test."""
BLOCKED = "Executing <"
"""Beginning of the event loop's report on a slow callback."""


@dataclass
class Proxy:
    """A running server."""

    url: str
    process: "subprocess.Popen[bytes] | ForkedProcess"
    log_file: Path
    clients: list[httpx.Client] = field(default_factory=list)
    verify: ssl.SSLContext = NO_AUTHORITIES
    """Check of the certificate of the server."""
    keys: tuple[str, ...] = ()
    """Keys that must not appear in anything it sends or writes."""
    leaks: list[str] = field(default_factory=list)
    """Keys that an answer held all the same."""

    @property
    def log(self) -> str:
        """Output on stdout and stderr so far."""
        return self.log_file.read_text()

    def client(self, **options: object) -> httpx.Client:
        """Return an HTTP client of this server; closed with it."""
        hooks = {"response": [self._search]}
        kept = httpx.Limits(keepalive_expiry=None)  # by default 5 s, after which another worker gets the connection
        settings: dict[str, Any] = {"timeout": WAIT_SECONDS, "trust_env": False, "verify": self.verify, "limits": kept}
        settings.update(options)
        client = httpx.Client(base_url=self.url, event_hooks=hooks, **settings)
        self.clients.append(client)
        return client

    def _search(self, response: httpx.Response) -> None:
        received = str(response.headers)
        if response.status_code >= 400:
            received += response.read().decode("utf-8", "replace")
        self.leaks += find_leaks(received, self.keys, any_canary=False)  # a client may get back what it sent itself

    def stop(self, sign: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(sign)
        return self.process.wait(timeout=WAIT_SECONDS)


def environment_of(directory: Path) -> dict[str, str]:
    own = {"PATH": os.environ["PATH"], "HOME": str(directory), "PYTHONPATH": str(ROOT)}
    return {**own, "ANTHROPIC_PROXY_CONFIG": str(directory)}


def free_port() -> int:
    with hold_port() as port:
        return port


def reserve_closed_port() -> str:
    """Return a port at which no program listens. It is reserved until this process ends.

    A command with this PORT finds no proxy, also on a machine where one runs on the default port.
    """
    return str(_hold_closed_port().getsockname()[1])


@functools.cache
def _hold_closed_port() -> socket.socket:
    return _bind_port()


@contextmanager
def hold_port() -> Iterator[int]:
    """Yield a port that is reserved meanwhile: a server may listen on it, because this only binds it."""
    with _bind_port() as holder:
        port: int = holder.getsockname()[1]
        yield port


def _bind_port() -> socket.socket:
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    return holder


@contextmanager
def running_proxy(
    directory: Path,
    settings: Mapping[str, str],
    command: Sequence[str] = SERVE,
    *,
    forks: bool = False,
    trusted: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
) -> Iterator[Proxy]:
    """Start `python <command>` in `directory` with only these settings, wait until it answers, stop it at the end.

    `{port}` in the command stands for the port; a command without it is given `--port`. `host` is the address at which
    the server that `command` starts accepts connections, and `port` its port; 0: a free one. The event loop reports
    callbacks that block it, and a report of ours fails the test; other servers load the application inside their loop.
    No key of the settings may stand in anything that the process writes, shows or answers. `DATABASE_URL` is `off`
    unless the settings contain it: the ledger needs a second of CPU time and 30 MB in each process. `trusted`: the
    server uses TLS, and its certificate is checked with this. `{port}` in a setting stands for the port too.
    `forks`: the server may be a fork of the process that forks commands, which saves most of the imports.
    """
    with nullcontext(port) if port else hold_port() as port:
        words = [word.format(port=port) for word in command]
        if "{port}" not in " ".join(command):
            words += ["--port", str(port)]
        measured = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
        own = {"PYTHONASYNCIODEBUG": "1", PAUSE_VARIABLE: str(pause_file()), "DATABASE_URL": "off"}
        environment = {**environment_of(directory), **own, **measured}
        environment |= {name: value.replace("{port}", str(port)) for name, value in settings.items()}
        log_file = directory / f"proxy-{port}.log"
        with log_file.open("wb") as log:
            can = forks and command == SERVE and not measured and can_fork({**environment_of(directory), **settings})
            process = (_fork if can else _start)(words, directory, environment, log)
        url = f"{'http' if trusted is None else 'https'}://{host}:{port}"
        proxy = Proxy(url, process, log_file, keys=secrets_in(settings), verify=trusted or NO_AUTHORITIES)
        with reporting_log(process, log_file):
            try:
                _wait_until_it_answers(proxy)
                proxy.leaks += find_leaks(command_lines(process.pid), proxy.keys)
                yield proxy
            finally:
                for client in proxy.clients:
                    client.close()
                end_process(process)
    assert "uvicorn" in command or BLOCKED not in proxy.log, proxy.log
    assert not (leaks := proxy.leaks + find_leaks(proxy.log, proxy.keys)), leaks


running_forked_proxy = functools.partial(running_proxy, forks=True)


def _start(
    words: Sequence[str], directory: Path, environment: Mapping[str, str], log: BinaryIO
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=directory,
        env=with_set_up(environment),
        stdout=log,
        stderr=log,
        stdin=subprocess.DEVNULL,
    )


def _fork(words: Sequence[str], directory: Path, environment: Mapping[str, str], log: BinaryIO) -> ForkedProcess:
    with open(os.devnull, "rb") as nothing:
        streams = [nothing.fileno(), log.fileno(), log.fileno()]
        # without the monitor, a busy machine looks like a blocked loop
        return ForkedProcess(start_forked(words[2:], directory, environment, streams, start_up=_MONITOR))


@contextmanager
def ending(process: "subprocess.Popen[Any]") -> Iterator[None]:
    """End a process at the end of the block, also of one that fails: `Popen` by itself waits for the process."""
    with process:
        try:
            yield
        finally:
            end_process(process)


def end_process(process: "subprocess.Popen[Any] | ForkedProcess") -> None:
    """End a process by SIGTERM, and by SIGKILL if it does not end."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_it_answers(proxy: Proxy) -> None:
    with httpx.Client(base_url=proxy.url, trust_env=False, verify=proxy.verify, timeout=5) as client:

        def request_health() -> httpx.Response | httpx.TransportError:
            if proxy.process.poll() is not None:
                raise AssertionError(f"the server ended with {proxy.process.returncode}:\n{proxy.log}")
            try:
                return client.get("/health")
            except httpx.TransportError as error:
                return error

        wait_for(request_health, lambda reply: isinstance(reply, httpx.Response))
