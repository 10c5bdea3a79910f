"""A server that is started without some of its standard streams."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.support.server_process import environment_of, hold_port
from tests.support.tls import NO_AUTHORITIES
from tests.support.waiting import WAIT_SECONDS, wait_for

CLOSED = {"stdin": "<&-", "stdout": ">&-", "stderr": "2>&-", "all": "<&- >&- 2>&-", "both outputs": ">&- 2>&-"}


@pytest.mark.parametrize(("name", "workers"), [*((name, 1) for name in CLOSED), ("all", 2)])
def test_it_serves_and_no_socket_gets_the_number_of_a_stream(
    settings: dict[str, str], tmp_path: Path, name: str, workers: int
) -> None:
    environment = {**environment_of(tmp_path), **settings}
    with hold_port() as port:
        command = f"exec {sys.executable} -m anthropic_proxy serve --port {port} --workers {workers} {CLOSED[name]}"
        process = subprocess.Popen(["sh", "-c", command], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL)
        try:

            def answers() -> bool:
                assert process.poll() is None
                try:
                    return (
                        httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False, verify=NO_AUTHORITIES).status_code
                        == 200
                    )
                except httpx.TransportError:
                    return False

            wait_for(answers)
            numbers = [os.readlink(f"/proc/{process.pid}/fd/{number}") for number in range(3)]
            assert not [number for number in numbers if number.startswith("socket:")]
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_SECONDS) == 0
