"""A proxy of another user of the machine on PORT: commands send nothing to it, unless the user names its address."""

import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.processes.test_ask import DEMO_START
from tests.support.command_line import run_command
from tests.support.platform_marks import HIDDEN_POSIX

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or HIDDEN_POSIX or os.geteuid() != 0,
    reason="platform: only root on Linux can listen as another user",
)
NOBODY = 65534


class _Handler(BaseHTTPRequestHandler):
    """A server that says that it is a proxy, and notes each path and credential that it gets."""

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, ForeignProxy)
        server.seen.append((self.path, self.headers["x-api-key"] or ""))
        body = b'{"status": "ok", "version": "9.9.9"}'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Write no log."""


class ForeignProxy(HTTPServer):
    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        super().__init__(("127.0.0.1", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        os.seteuid(NOBODY)  # the owner of a socket is the user who creates it
        try:
            self.socket = socket.create_server(("127.0.0.1", 0))
        finally:
            os.seteuid(0)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    def read_commands(self) -> list[tuple[str, str]]:
        """Return what commands have asked for, beside the question of whether a proxy is there."""
        found, self.seen = [one for one in self.seen if one != ("/health", "")], []
        return found


@pytest.fixture
def foreign() -> Iterator[ForeignProxy]:
    with ForeignProxy() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def test_commands_send_nothing_to_the_proxy_of_another_user(foreign: ForeignProxy, tmp_path: Path) -> None:
    given = {"PORT": foreign.url.rpartition(":")[2], "PROXY_API_KEY": "key-of-this-user-0123456789"}
    reason = (
        f"The proxy at {foreign.url} belongs to another user of this machine, nobody, who can read what is sent to it. "
        f"If you trust this user, set  ANTHROPIC_BASE_URL={foreign.url}\n"
    )

    def run(*words: str) -> tuple[int, str, str]:
        done = run_command(*words, directory=tmp_path, settings=given)
        return done.returncode, done.stdout, done.stderr

    status, output, notices = run("ask", "hello")
    first, facts = notices.splitlines(keepends=True)
    assert (status, output.startswith(DEMO_START)) == (0, True)
    assert first == f"  ! This command starts a proxy of its own. {reason}"
    assert facts.startswith("  claude-sonnet-5-5 → demo/demo  in 10 out ")
    assert run("env") == (2, "", f"✕ {reason}")
    assert run("statusline")[0] == 0
    # the request of `ask` is in the ledger
    assert run("logs", "--no-follow")[2] == f"  From saved records. {reason}"
    given["DATABASE_URL"] = "off"
    assert run("logs", "--no-follow") == (2, "", f"✕ {reason}")
    assert run("health") == (0, f"anthropic-proxy 9.9.9 responds at {foreign.url}.\n", f"  ! {reason}")
    assert foreign.read_commands() == []
    start = run_command("serve", directory=tmp_path, settings=given).stderr
    assert start.startswith(
        f"✕ Port {given['PORT']} is in use by another anthropic-proxy (version 9.9.9, process {os.getpid()}) of "
        "another user, nobody. To use another port, run:  anthropic-proxy serve --port "
    )

    given["ANTHROPIC_BASE_URL"] = foreign.url
    assert json.loads(run("env", "--json")[1])["ANTHROPIC_BASE_URL"] == foreign.url
    assert ("/api/requests/recent", given["PROXY_API_KEY"]) in foreign.read_commands()
