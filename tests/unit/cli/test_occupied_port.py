"""`serve` on a port that is in use: the message names the owner and a command with a free port."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from anthropic_proxy import __version__
from anthropic_proxy.gateway.platforms.sockets import find_port_owner
from tests.support.command_line import OPENAI, run_command
from tests.support.server_process import ending, running_forked_proxy

_PROCESS = r", process \d+" if sys.platform == "linux" else ""
"""Only Linux reports the owner of a port."""


def test_another_proxy_is_named_with_its_version_and_start(tmp_path: Path) -> None:
    with running_forked_proxy(tmp_path, OPENAI) as proxy:
        port = proxy.url.rpartition(":")[2]
        for host in ("127.0.0.1", "0.0.0.0"):
            ended = run_command(
                *("serve", "--port", port, "--host", host, "--workers", "2"),
                directory=tmp_path,
                settings={**OPENAI, "ALLOW_UNAUTHENTICATED": "true"},
            )
            assert ended.returncode == 2
            found = re.fullmatch(
                rf"✕ Port {port} is in use by another anthropic-proxy "
                rf"\(version {re.escape(__version__)}, started \d\d:\d\d{_PROCESS}\)\. "
                rf"Use that one, or run:  anthropic-proxy serve --host {re.escape(host)} --workers 2 --port (\d+)\n",
                ended.stderr,
            )
            assert found is not None, ended.stderr
            assert int(found[1]) > int(port)


def test_the_folder_of_the_settings_is_named_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        words = ("serve", "--config", str(tmp_path), "--port", str(listener.getsockname()[1]))
        message = run_command(*words, directory=tmp_path).stderr
    assert re.search(rf"run:  anthropic-proxy --config {tmp_path} serve --port \d+\n", message), message


def test_the_suggested_port_is_free(tmp_path: Path) -> None:
    with socket.socket() as first, socket.socket() as second:
        for port in range(21_000, 30_000):
            try:
                first.bind(("127.0.0.1", port))
                second.bind(("127.0.0.1", port + 1))
                break
            except OSError:
                continue
        first.listen()
        second.listen()
        message = run_command("serve", "--port", str(port), directory=tmp_path).stderr
        suggested = int(message.split()[-1])
    assert suggested > port + 1
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", suggested))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports the owner of a port in /proc")
def test_the_process_of_a_port_is_found() -> None:
    program = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with ending(process):
        assert process.stdout is not None
        owner = find_port_owner(int(process.stdout.readline()))
        process.communicate("\n")
    assert owner is not None
    assert owner.pid == process.pid
    assert owner.name.startswith("python")


def test_without_process_information_the_owner_is_unknown(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert find_port_owner(listener.getsockname()[1], tmp_path) is None
