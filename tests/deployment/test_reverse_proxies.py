"""The documented configurations of reverse proxies, in the real programs between a client and a real proxy."""

import http.client
import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anthropic
import httpx2 as httpx
import pytest

from tests.support.debian_packages import find_program
from tests.support.fakes.server import Running
from tests.support.packaged_programs import find_packaged_program
from tests.support.paths import ROOT
from tests.support.process_checks import MESSAGES, ask, port_of
from tests.support.server_process import Proxy, hold_port
from tests.support.waiting import WAIT_SECONDS, reporting_log, wait_for

FOLDER = ROOT / "deploy/reverse-proxies"
LISTENS, INSTANCE = "8443", "127.0.0.1:8082"
"""Port of a configuration file, and its address of an instance. The tests replace both."""
NGINX_FOR_TESTS = "http {{\n access_log off; client_body_temp_path {0}; proxy_temp_path {0}; fastcgi_temp_path {0};"
LARGE = 32_000_000
TOO_LARGE = 33_560_000


def start_words(program: str, folder: Path, port: int, instance: int) -> list[str]:
    """Write the documented file with the ports of the test, and return the command that runs it."""
    name = {"nginx": "nginx.conf", "caddy": "Caddyfile", "haproxy": "haproxy.cfg", "envoy": "envoy.yaml"}[program]
    text = (FOLDER / name).read_text("utf-8").replace(", port_value: ", ":")  # Envoy: address and port are two fields
    assert (text.count(INSTANCE), f":{LISTENS}" in text or f" {LISTENS};" in text) == (1, True)
    text = text.replace(INSTANCE, f"127.0.0.1:{instance}").replace(f":{LISTENS}", f"127.0.0.1:{port}")
    if program == "caddy":
        text = "{\n\tadmin off\n}\n" + text.replace(f"127.0.0.1:{port} {{", f":{port} {{", 1)
    if program == "nginx":
        text = text.replace(f" {LISTENS};", f" 127.0.0.1:{port};")
        text = text.replace("http {", NGINX_FOR_TESTS.format(folder / "temporary"), 1)
    if program == "envoy":
        text = re.sub(r"address: (?:0\.0\.0\.0)?127\.0\.0\.1:(?=\d)", "address: 127.0.0.1, port_value: ", text)
    path = folder / name
    path.write_text(text)
    executable = find_packaged_program(program) if program == "envoy" else find_program(program)
    if executable is None:
        pytest.skip(f"engine: {program} is not installed")
    user = "user root; " if os.geteuid() == 0 else ""
    globals_ = f"daemon off; {user}pid {folder}/nginx.pid; error_log stderr;"
    return {
        "nginx": [executable, "-p", str(folder), "-e", "stderr", "-c", str(path), "-g", globals_],
        "caddy": [executable, "run", "--adapter", "caddyfile", "--config", str(path)],
        "haproxy": [executable, "-db", "-f", str(path)],
        "envoy": [executable, "-c", str(path), "--use-dynamic-base-id", "--concurrency", "1"],
    }[program]


def is_live(process: "subprocess.Popen[bytes]", port: int) -> bool:
    assert process.poll() is None
    try:
        return httpx.get(f"http://127.0.0.1:{port}/livez", trust_env=False, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def running(program: str, folder: Path, instance: int) -> Iterator[str]:
    """Run a reverse proxy in front of a port of this machine, and yield its address."""
    with hold_port() as port:
        words = start_words(program, folder, port, instance)
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "XDG_DATA_HOME": str(folder)}
        log_file = folder / "output.log"
        with log_file.open("wb") as log:
            process = subprocess.Popen(words, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            with reporting_log(process, log_file):
                wait_for(lambda: is_live(process, port))
                yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(timeout=WAIT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=WAIT_SECONDS)


@pytest.fixture(scope="module", params=["nginx", "caddy", "haproxy", "envoy"])
def front(request: pytest.FixtureRequest, proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(request.param, tmp_path_factory.mktemp(request.param), port_of(proxy)) as url:
        yield url


def cancelled(proxy: Proxy) -> int:
    page = proxy.client().get("/metrics").text
    lines = [line for line in page.splitlines() if 'outcome="cancelled"' in line and "requests_total{" in line]
    return sum(int(float(line.rpartition(" ")[2])) for line in lines)


def test_the_sdk_streams_through_it(front: str) -> None:
    with httpx.Client(trust_env=False, timeout=WAIT_SECONDS) as own:
        client = anthropic.Anthropic(base_url=front, api_key="local", http_client=own, max_retries=0)
        question = [{"role": "user", "content": "Say exactly: hello"}]
        with client.messages.stream(model="claude-sonnet-4-6", max_tokens=100, messages=question) as stream:
            assert stream.get_final_text() == "hello"


def test_each_event_arrives_at_once_and_a_disconnect_reaches_the_provider(
    front: str, proxy: Proxy, openai: Running
) -> None:
    """The provider stalls in the middle of its reply. The text before that arrives all the same."""
    before = cancelled(proxy)
    body = ask("Count to 30 [fault:stall seconds=600]", stream=True)
    with (
        httpx.Client(base_url=front, trust_env=False, timeout=WAIT_SECONDS) as client,
        client.stream("POST", MESSAGES, json=body) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.iter_lines()
        assert any("text_delta" in line for line in lines)
    wait_for(lambda: cancelled(proxy) == before + 1)


def test_large_requests_pass_and_errors_keep_their_form_and_id(front: str) -> None:
    with httpx.Client(base_url=front, trust_env=False, timeout=WAIT_SECONDS) as client:
        padding = "word " * (LARGE // 5 - 100)
        body = json.dumps(ask(padding) | {"max_tokens": 1})
        assert LARGE - 1_000 < len(body) < LARGE
        counted = client.post(f"{MESSAGES}/count_tokens", content=body, headers={"content-type": "application/json"})
        assert counted.status_code == 200, counted.text[:300]
        assert counted.json()["input_tokens"] > 1_000_000
        refused = client.post(MESSAGES, content=b" " * TOO_LARGE, headers={"content-type": "application/json"})
        assert refused.status_code == 413
        assert refused.json()["error"]["type"] == "request_too_large"
        assert refused.json()["request_id"] == refused.headers["request-id"]
        assert client.get("/metrics").status_code == 404


def test_a_connection_is_kept_and_the_client_address_is_not_forgeable(front: str, proxy: Proxy) -> None:
    forged = {"X-Forwarded-For": "203.0.113.9"}
    assert proxy.client().get("/v1/models", headers=forged).status_code == 403
    connection = http.client.HTTPConnection(front.removeprefix("http://"), timeout=WAIT_SECONDS)
    try:
        sockets = set()
        for _ in range(3):
            connection.request("GET", "/v1/models", headers=forged)
            response = connection.getresponse()
            assert response.status == 200, response.read()
            assert response.getheader("request-id", "").startswith("req_")
            response.read()
            sockets.add(connection.sock)
        assert len(sockets) == 1
        assert None not in sockets
    finally:
        connection.close()
