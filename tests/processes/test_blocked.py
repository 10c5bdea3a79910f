"""Processes with a blocked event loop: they are replaced, and they end on request."""

import re
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.support.platform_marks import needs_job_control, needs_timer_signal
from tests.support.process_checks import children_of, is_refused, port_of
from tests.support.server_process import Proxy, running_proxy
from tests.support.waiting import WAIT_SECONDS, wait_for

ENDED = (
    "! Ended at once, because the event loop did not respond. "
    "In progress: GET /block/{kind} req_blocking for claude-blocked.\n"
)
STACK_SECONDS = 4.0
"""Seconds after the signal at which a process with `--stop-timeout 1` writes the stack of its blocked loop."""
KINDS = ["python", pytest.param("pattern", marks=needs_timer_signal)]
"""Ways to block a process. Without a timer signal, a process that C code blocks ends without a list of requests."""


def serve_blocking(*options: str) -> tuple[str, ...]:
    return ("-m", "tests.support.blocked_server", "--port", "{port}", *options)


def block(proxy: Proxy, kind: str, processes: int = 1) -> socket.socket:
    """Ask for a block; return when so many processes are blocked."""
    client = socket.create_connection(("127.0.0.1", port_of(proxy)), timeout=WAIT_SECONDS)
    client.sendall(b"GET /block/%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % kind.encode())
    wait_for(lambda: proxy.log.count("Blocking.\n") >= processes)
    return client


def is_pending(pid: int, sign: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return any(int(mask, 16) >> (sign - 1) & 1 for mask in re.findall(r"(?:SigPnd|ShdPnd):\s*(\w+)", status))


def count_ticks(pid: int) -> int:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def wait_for_handler(pid: int) -> None:
    """Wait until Python has run the handler of a stop signal, which is soon after the system has delivered it."""
    wait_for(lambda: not is_pending(pid, signal.SIGTERM))
    before = count_ticks(pid)  # Python joins signals until then
    wait_for(lambda: count_ticks(pid) > before + 2)


def unread_bytes(client: socket.socket) -> int:
    ends = [f"{end[1]:04X}" for end in (client.getpeername(), client.getsockname())]
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(int(row[4].split(":")[1], 16) for row in rows if [end[-4:] for end in row[1:3]] == ends)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_one_signal_ends_a_blocked_process_after_stop_timeout(
    settings: dict[str, str], tmp_path: Path, kind: str, sign: int
) -> None:
    with running_proxy(tmp_path, settings, serve_blocking("--stop-timeout", "1")) as proxy, block(proxy, kind):
        assert proxy.stop(sign) == 1
        assert proxy.log.endswith(ENDED.format(kind=kind))


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_signal_ends_a_blocked_process_at_once(settings: dict[str, str], tmp_path: Path, kind: str) -> None:
    with running_proxy(tmp_path, settings, serve_blocking("--stop-timeout", "3600")) as proxy, block(proxy, kind):
        proxy.process.send_signal(signal.SIGTERM)
        wait_for_handler(proxy.process.pid)
        assert proxy.stop() == 1
        assert proxy.log.endswith(ENDED.format(kind=kind))


@needs_job_control
def test_a_blocked_process_that_the_machine_pauses_logs_its_requests(settings: dict[str, str], tmp_path: Path) -> None:
    for _ in range(5):
        with running_proxy(tmp_path, settings, serve_blocking("--stop-timeout", "1")) as proxy, block(proxy, "python"):
            began = time.monotonic()
            proxy.process.send_signal(signal.SIGTERM)
            wait_for_handler(proxy.process.pid)
            proxy.process.send_signal(signal.SIGSTOP)
            wait_for(lambda: is_pending(proxy.process.pid, signal.SIGALRM))  # its time to stop has ended in the pause
            proxy.process.send_signal(signal.SIGCONT)
            assert proxy.process.wait(WAIT_SECONDS) == 1
            if time.monotonic() - began < STACK_SECONDS:  # else the machine itself was paused for too long
                break
    assert proxy.log.endswith(ENDED.format(kind="python"))


def test_a_process_that_blocks_while_it_stops_ends_too(settings: dict[str, str], tmp_path: Path) -> None:
    with running_proxy(tmp_path, settings, serve_blocking("--stop-timeout", "3600")) as proxy:
        client = socket.create_connection(("127.0.0.1", port_of(proxy)), timeout=WAIT_SECONDS)
        client.sendall(b"GET /block/python HTTP/1.1\r\nHost: localhost\r\n")  # holds the process open
        wait_for(lambda: not unread_bytes(client))
        proxy.process.send_signal(signal.SIGTERM)
        wait_for(lambda: is_refused(port_of(proxy)))  # it has handled the signal
        client.sendall(b"\r\n")
        wait_for(lambda: "Blocking.\n" in proxy.log)
        proxy.process.send_signal(signal.SIGTERM)
        assert proxy.stop() == 1
        assert proxy.log.endswith(ENDED.format(kind="python"))
        client.close()


@pytest.mark.slow
def test_blocked_workers_are_replaced_and_their_requests_logged_while_another_worker_responds(
    settings: dict[str, str], tmp_path: Path
) -> None:
    # a worker that only waits for a processor of a busy machine has a heartbeat in less time
    options = serve_blocking("--workers", "3", "--heartbeat-timeout", "10")
    with running_proxy(tmp_path, settings, options) as proxy:
        wait_for(lambda: len(children_of(proxy.process.pid)) >= 3)
        with block(proxy, "python"), block(proxy, "pattern", 2), proxy.client() as client:
            wait_for(lambda: proxy.log.count("was killed") == 2)
            for _ in range(10):
                assert client.get("/health").status_code == 200
        assert sorted(re.findall(r"! Worker \d+ (.*)", proxy.log)) == [
            "did not respond for 10 s and was killed; a new one replaces it. "
            f"In progress: GET /block/{kind} req_blocking for claude-blocked."
            for kind in ("pattern", "python")
        ]
        assert proxy.stop() == 0


def test_workers_that_are_all_blocked_end_after_stop_timeout(settings: dict[str, str], tmp_path: Path) -> None:
    options = serve_blocking("--workers", "2", "--stop-timeout", "2")
    with running_proxy(tmp_path, settings, options) as proxy:
        clients = [block(proxy, "pattern", processes) for processes in (1, 2)]
        assert proxy.stop() == 0
        assert len(re.findall(r"did not respond for \d+ s and was killed\. In progress: GET /block", proxy.log)) == 2
        for client in clients:
            client.close()
