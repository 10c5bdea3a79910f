"""Programs of the fleet: nginx and the instances of the proxy, each on a port that stays the same."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import httpx2 as httpx

from tests.fleet.clients import INSTANCE_HEADER
from tests.support.debian_packages import find_program
from tests.support.paths import ROOT
from tests.support.process_checks import total
from tests.support.server_process import hold_port
from tests.support.waiting import reporting_log, wait_for

_STOP_SECONDS = 60
_NGINX = """\
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream fleet {{
        least_conn;
{servers}
        keepalive 64;
    }}
    server {{
        listen 127.0.0.1:{port};
        client_max_body_size 64m;
        location / {{
            proxy_pass http://fleet;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_buffering off;
            proxy_request_buffering off;
            proxy_read_timeout 600s;
            add_header {header} $upstream_addr always;
        }}
    }}
}}
"""


class Version(NamedTuple):
    """A version of the program: its checkout, and the interpreter of its environment."""

    checkout: Path
    python: str


THIS_VERSION = Version(ROOT, sys.executable)


class Program:
    """A process that can be stopped, killed and started again."""

    def __init__(self, command: Sequence[str], directory: Path, environment: Mapping[str, str], name: str) -> None:
        self._command = command
        self._directory = directory
        self._environment = environment
        self.log_file = directory / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process. Its output is appended to `log_file`."""
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=self._directory,
                env=dict(self._environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def stop(self, sign: int = signal.SIGTERM) -> None:
        """Send a signal and wait for the end of the process."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(sign)
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


class Instance(Program):
    """One instance of the proxy."""

    def __init__(
        self, number: int, port: int, directory: Path, settings: Mapping[str, str], version: Version = THIS_VERSION
    ) -> None:
        folder = directory / f"instance-{number}"
        folder.mkdir()
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "ANTHROPIC_PROXY_CONFIG": str(folder),
            "PYTHONPATH": str(version.checkout),
            **settings,
        }
        command = [version.python, "-m", "anthropic_proxy", "serve", "--port", str(port)]
        super().__init__(command, folder, environment, "proxy")
        self.address = f"127.0.0.1:{port}"

    def wait_until_ready(self) -> None:
        self._wait("/readyz", lambda response: response.status_code == 200)

    def wait_until_stored(self) -> None:
        """Wait until the instance has stored its first request: its ledger loads after the first reply."""
        name = "anthropic_proxy_ledger_rows_total"
        self._wait("/metrics", lambda response: total(response, name, result="written") > 0)

    def _wait(self, path: str, is_reached: Callable[[httpx.Response], bool]) -> None:
        def request_page() -> httpx.Response | httpx.TransportError:
            try:
                return httpx.get(f"http://{self.address}{path}", trust_env=False, timeout=5)
            except httpx.TransportError as error:
                return error

        assert self.process is not None
        with reporting_log(self.process, self.log_file):
            wait_for(request_page, lambda page: isinstance(page, httpx.Response) and is_reached(page))


def reserve_ports(stack: ExitStack, count: int) -> list[int]:
    return [stack.enter_context(hold_port()) for _ in range(count)]


def new_nginx(directory: Path, port: int, addresses: Sequence[str]) -> Program:
    """Return nginx on a port in front of these addresses."""
    folder = directory / "nginx"
    folder.mkdir()
    servers = "\n".join(f"        server {address} max_fails=1 fail_timeout=2s;" for address in addresses)
    file = folder / "nginx.conf"
    file.write_text(_NGINX.format(folder=folder, servers=servers, port=port, header=INSTANCE_HEADER), "utf-8")
    program = find_program("nginx")
    assert program is not None
    command = [program, "-c", str(file), "-p", str(folder), "-e", str(folder / "nginx-error.log")]
    if os.getuid() == 0:
        command += ["-g", "user root;"]
    return Program(command, folder, {"PATH": os.environ["PATH"]}, "nginx")
