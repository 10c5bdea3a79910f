"""Command `logs`: the lines of the server's own log, of all workers, as requests end."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from anthropic_proxy.gateway.telemetry.live_requests import MAX_STREAMS_OF_CLIENT
from tests.support.command_line import run_command
from tests.support.dashboard import wait_for_request
from tests.support.paths import ROOT
from tests.support.server_process import Proxy, environment_of, running_proxy
from tests.support.waiting import WAIT_SECONDS, wait_for

REQUEST = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}


def lines_of_log(proxy: Proxy) -> list[str]:
    return proxy.log[proxy.log.index("POST") - len("00:00:00  ") :].splitlines()


def port_of(proxy: Proxy) -> dict[str, str]:
    return {"PORT": proxy.url.rpartition(":")[2]}


def post(proxy: Proxy, times: int = 1) -> None:
    for _ in range(times):
        with proxy.client() as client:  # each connection may have another worker
            assert client.post("/v1/messages", json=REQUEST).status_code == 200


@pytest.mark.parametrize("workers", [1, 3])
def test_the_lines_are_those_of_the_log_of_all_workers(tmp_path: Path, workers: int) -> None:
    with running_proxy(tmp_path, {}, ("-m", "anthropic_proxy", "serve", "--workers", str(workers))) as proxy:
        post(proxy, 6)
        proxy.client().post("/v1/messages/count_tokens", json=REQUEST)
        # a worker of a busy machine may send its requests too late for one view
        ended = wait_for(
            lambda: run_command("logs", "--no-follow", directory=tmp_path, settings=port_of(proxy)),
            lambda done: len(done.stdout.splitlines()) == 12,
        )
        proxy.stop()
        expected = [line for line in lines_of_log(proxy) if line != "Stopped."]
    assert (ended.returncode, ended.stderr, len(expected)) == (0, "", 12)
    assert sorted(ended.stdout.splitlines()) == sorted(expected)


def test_successful_queries_of_the_model_list_are_only_in_json(tmp_path: Path) -> None:
    with running_proxy(tmp_path, {}) as proxy:
        client = proxy.client()
        for path in ("/v1/models", "/v1/models/claude-opus-5", "/v1/models?limit=0", "/nothing"):
            client.get(path)
        shown = run_command("logs", "--no-follow", directory=tmp_path, settings=port_of(proxy)).stdout
        listed = run_command("logs", "--no-follow", "--json", directory=tmp_path, settings=port_of(proxy)).stdout
    assert [line.split()[2:4] for line in shown.splitlines()] == [["/v1/models", "400"], ["/nothing", "404"]]
    assert [json.loads(line)["path"] for line in listed.splitlines()] == [
        *("/v1/models", "/v1/models/claude-opus-5", "/v1/models", "/nothing"),
    ]


def test_the_question_of_a_command_about_an_unknown_model_is_no_failed_request(tmp_path: Path) -> None:
    with running_proxy(tmp_path, {}) as proxy:
        for model in ("gpt-nope", "gpt-4o"):
            settings = {**port_of(proxy), "ANTHROPIC_MODEL": model}
            assert run_command("env", directory=tmp_path, settings=settings).returncode == 0
        proxy.client().get("/v1/models/gpt-none")
        shown = run_command("logs", "--no-follow", "--json", directory=tmp_path, settings=port_of(proxy)).stdout
    found = [(row["path"], row["status"]) for row in map(json.loads, shown.splitlines()) if row["path"] != "/v1/models"]
    assert found == [("/v1/models/gpt-4o", 200), ("/v1/models/gpt-none", 404)]
    assert "gpt-nope" not in proxy.log


def test_the_key_of_the_administration_reads_the_requests(tmp_path: Path) -> None:
    settings = {"VIRTUAL_KEYS": "true", "ADMIN_API_KEY": "admin-0123456789"}
    settings["DATABASE_URL"] = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    with running_proxy(tmp_path, settings) as proxy:
        proxy.client().get("/first")
        ended = run_command("logs", "--no-follow", "--json", directory=tmp_path, settings=settings | port_of(proxy))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout)["path"] == "/first"


def test_errors_are_selected_and_the_number_is_limited(tmp_path: Path) -> None:
    with running_proxy(tmp_path, {}) as proxy:
        post(proxy)
        client = proxy.client()
        client.get("/first")
        client.get("/second")
        words = ("logs", "--no-follow", "--errors", "-n", "1", "--json")
        ended = run_command(*words, directory=tmp_path, settings=port_of(proxy))
    (entry,) = map(json.loads, ended.stdout.splitlines())
    assert (entry["method"], entry["path"], entry["status"], entry["level"]) == ("GET", "/second", 404, "warning")


def test_a_request_is_printed_when_it_ends_until_the_proxy_and_the_command_stop(tmp_path: Path) -> None:
    with running_proxy(tmp_path, {}) as proxy, following(tmp_path, proxy, "-n", "0", "--json") as process:
        assert process.stdout is not None
        first = json.loads(post_until_output(proxy, process))
        assert (first["requested_model"], first["status"]) == ("claude-haiku-4-5", 200)
        metrics = proxy.client().get("/metrics").text
        assert "anthropic_proxy_requests_in_flight 0.0\n" in metrics, "an open view is no request"
        assert proxy.stop() == 0
        assert "not complete" not in proxy.log, "the open view does not delay the stop"
        message = f"  The proxy on port {port_of(proxy)['PORT']} has stopped. Waiting for the next one.\n"
        assert process.stderr.readline() == message
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_SECONDS) == 130


@contextmanager
def following(directory: Path, proxy: Proxy, *words: str) -> "Iterator[subprocess.Popen[str]]":
    """Run `logs` until the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "anthropic_proxy", "logs", *words],
        cwd=directory,
        env={**environment_of(directory), **port_of(proxy)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def post_until_output(proxy: Proxy, process: "subprocess.Popen[str]") -> str:
    """Post requests until the command prints one. It skips those that end before it is connected."""
    import select

    assert process.stdout is not None
    while not select.select([process.stdout], [], [], 0.5)[0]:
        assert process.poll() is None
        post(proxy)
    return process.stdout.readline()


def test_without_a_proxy_the_error_names_the_port(closed_port: str, tmp_path: Path) -> None:
    ended = run_command("logs", directory=tmp_path, settings={"PORT": closed_port})
    message = f"✕ No proxy responds on port {closed_port} (PORT) of this machine. Start it:  anthropic-proxy serve\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", message)


@pytest.mark.parametrize("command", ["logs", "health"])
def test_the_proxy_of_another_port_is_not_taken_for_that_of_port(
    command: str, closed_port: str, tmp_path: Path
) -> None:
    with running_proxy(tmp_path, {}):
        ended = run_command(command, directory=tmp_path, settings={"PORT": closed_port})
    message = f"✕ No proxy responds on port {closed_port} (PORT) of this machine. Start it:  anthropic-proxy serve\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", message)


_LOOK = """
import os, subprocess, sys
print(os.environ["ANTHROPIC_BASE_URL"], flush=True)
for words in (["health", "--json"], ["logs", "--no-follow", "-n", "1", "--json"]):
    subprocess.run([sys.executable, "-m", "anthropic_proxy", *words], check=True)
"""


def test_health_and_logs_find_the_proxy_of_a_session(closed_port: str, tmp_path: Path) -> None:
    settings = {"PORT": closed_port, "PREFERRED_PROVIDER": "demo"}
    ended = run_command("run", sys.executable, "-c", _LOOK, directory=tmp_path, settings=settings)
    assert (ended.returncode, ended.stderr) == (0, "")
    address, rest = ended.stdout.split("\n", 1)
    found, end = json.JSONDecoder().raw_decode(rest)
    assert found["address"] == address
    assert '"path":"/v1/models' in rest[end:].replace(": ", ":")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux names the owner of a port")
@pytest.mark.parametrize("command", ["logs", "health"])
def test_another_program_at_the_port_is_named(command: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ended = run_command(command, directory=tmp_path, settings={"PORT": str(port)})
    name = Path("/proc/self/comm").read_text().strip()
    message = (
        f"✕ No proxy responds on port {port} (PORT) of this machine: {name} (process {os.getpid()}) uses it. "
        "Set PORT to the port of the proxy.\n"
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", message)


def test_without_its_extra_the_full_screen_names_the_installation(closed_port: str, tmp_path: Path) -> None:
    (tmp_path / "textual.py").write_text("raise ModuleNotFoundError(name='textual')")
    settings = {"PORT": closed_port, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    ended = run_command("logs", "--live", directory=tmp_path, settings=settings)
    assert (ended.returncode, ended.stdout, ended.stderr) == (
        2,
        "",
        "✕ logs --live needs the extra tui, which is not installed. Install it:  anthropic-proxy add tui\n",
    )


def test_the_full_screen_has_no_period(tmp_path: Path) -> None:
    ended = run_command("logs", "--live", "--since", "1h", directory=tmp_path, settings={})
    assert (ended.returncode, ended.stdout, ended.stderr) == (
        2,
        "",
        "✕ --live and --since exclude each other. Use one of them.\n",
    )


def test_the_views_need_the_key_of_the_proxy(tmp_path: Path) -> None:
    with running_proxy(tmp_path, {"PROXY_API_KEY": "pk-0123456789"}) as proxy:
        client = proxy.client()
        for path in ("/api/requests/recent", "/api/requests/live"):
            assert client.get(path).status_code == 401
        reply = client.get("/api/requests/recent", headers={"x-api-key": "pk-0123456789"})
        assert [request["receipt"]["status"] for request in reply.json()["finished"]] == []
        wrong = run_command(
            "logs", "--no-follow", directory=tmp_path, settings={**port_of(proxy), "PROXY_API_KEY": "pk-other"}
        )
    message = (
        f"✕ The proxy at {proxy.url} requires a key, and these settings have none that it accepts. "
        "Set PROXY_API_KEY to one of its keys, in .env or in the environment.\n"
    )
    assert (wrong.returncode, wrong.stdout, wrong.stderr) == (2, "", message)


def test_streams_of_a_client_that_does_not_read_have_a_limit_and_no_effect_on_requests(tmp_path: Path) -> None:
    with running_proxy(tmp_path, {}) as proxy, ExitStack() as stack:
        place = ("127.0.0.1", int(port_of(proxy)["PORT"]))
        for _ in range(MAX_STREAMS_OF_CLIENT):
            client = stack.enter_context(socket.create_connection(place, timeout=WAIT_SECONDS))
            client.sendall(b"GET /api/requests/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(1).startswith(b"H")  # its stream has begun
        refused = proxy.client().get("/api/requests/live")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "10")
        assert refused.json()["error"] == {
            "type": "rate_limit_error",
            "message": f"{MAX_STREAMS_OF_CLIENT} live views of this client are open. Close one of them.",
        }
        post(proxy, 3)
        shown = run_command("logs", "--no-follow", directory=tmp_path, settings=port_of(proxy))
        assert shown.stderr == f"✕ {MAX_STREAMS_OF_CLIENT} live views of this client are open. Close one of them.\n"
        client.close()
        stack.pop_all().close()
        wait_for(lambda: run_command("logs", "--no-follow", directory=tmp_path, settings=port_of(proxy)).stdout)


def test_a_web_page_of_another_site_cannot_read_the_views(tmp_path: Path) -> None:
    with running_proxy(tmp_path, {}) as proxy:
        for path in ("/api/requests/recent", "/api/requests/live"):
            assert proxy.client().get(path, headers={"origin": "https://example.com"}).status_code == 403


def test_stored_requests_have_the_method_of_the_client(tmp_path: Path) -> None:
    with running_proxy(tmp_path, {"DATABASE_URL": f"sqlite:///{tmp_path / 'ledger.sqlite3'}"}) as proxy:
        client = proxy.client()
        post(proxy)
        client.get("/second")
        last = client.delete("/v1/models/third")
        wait_for_request(client, last.headers["request-id"])
        proxy.stop()
        words = ("logs", "--no-follow", "--json")
        settings = {"DATABASE_URL": f"sqlite:///{tmp_path / 'ledger.sqlite3'}", **port_of(proxy)}
        ended = run_command(*words, directory=tmp_path, settings=settings)
    entries = list(map(json.loads, ended.stdout.splitlines()))
    assert [(entry["method"], entry["path"]) for entry in entries] == [
        ("POST", "/v1/messages"),
        ("GET", "/second"),
        ("DELETE", "/v1/models/third"),
    ]
