"""Requests that two programs could read in two ways, or that one cannot read at all, on the socket of a real server.

After a refusal the connection is closed, because the start of the next request is unknown.
"""

import asyncio
import json
import re
import socket
import struct
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from anthropic_proxy.gateway.server.http1.connection import HEAD_TIMEOUT_SECONDS
from tests.support.golden_texts import GOLDEN, Check, golden_files
from tests.support.platform_marks import needs_proc, needs_process_limits
from tests.support.process_checks import MESSAGES, ask, port_of
from tests.support.raw_http import exchange, read_answer
from tests.support.server_process import Proxy, running_proxy
from tests.support.waiting import WAIT_SECONDS, wait_for

BODY = json.dumps({"model": "claude-sonnet-4-5", "messages": [{"role": "user", "content": "x"}]}).encode()
SIZE = b"%d" % len(BODY)
POST = b"POST /v1/messages/count_tokens HTTP/1.1\r\nHost: localhost\r\n"
GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
LAST = b"Connection: close\r\n\r\n"


@pytest.fixture(scope="module")
def lone(settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    with running_proxy(tmp_path_factory.mktemp("lone"), {**settings, "ALLOWED_HOSTS": "proxy.example.org"}) as running:
        yield running
        assert "Traceback" not in running.log


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port_of(proxy)), timeout=WAIT_SECONDS)


def decode(text: str) -> bytes:
    """Return the request of a line of a golden text: with escapes, and `⟨x⟩×3` for `xxx`."""
    repeated = re.sub(r"⟨(.*?)⟩×(\d+)", lambda match: match[1] * int(match[2]), text)
    return repeated.encode("ascii").decode("unicode_escape").encode("latin-1")


@pytest.mark.parametrize("name", golden_files("raw_http"))
def test_golden_requests(lone: Proxy, golden: Check, name: str) -> None:
    """`golden_texts/raw_http`: one request in a line, and what the client reads until the connection ends."""

    def show(given: str) -> str:
        answers = asyncio.run(exchange(port_of(lone), decode(given)))
        assert len(re.findall(rb"HTTP/1\.1 \d", answers)) == 1
        answer = read_answer(answers)
        assert answer.whole
        head = answer.head.lower()
        assert b"access-control" not in head
        closes = ", closed" if b"\r\nconnection: close\r\n" in head else ""
        if answer.status == 200:
            return f"200{closes}"
        assert answer.json["request_id"].encode() in answer.head
        error = answer.json["error"]
        return f"{answer.status}{closes}: {error['type']}: {error['message'][:200]}"

    golden(name, show)


async def test_with_a_key_any_name_is_served_and_none_without_it(settings: dict[str, str], tmp_path: Path) -> None:
    with running_proxy(tmp_path, {**settings, "PROXY_API_KEY": "the-only-key-123456"}) as proxy:
        texts = [(GOLDEN / f"raw_http/{name}.txt").read_text("utf-8") for name in ("strangers", "neighbors")]
        lines = re.findall("^< (.*)", "".join(texts), re.MULTILINE)
        assert lines
        for line in lines:
            assert read_answer(await exchange(port_of(proxy), decode(line))).status == 401
            keyed = decode(line).replace(LAST, b"x-api-key: the-only-key-123456\r\n" + LAST)
            assert read_answer(await exchange(port_of(proxy), keyed)).status == 200


async def test_requests_behind_each_other_are_answered_in_their_order(lone: Proxy) -> None:
    first = POST + b"Content-Length: %b\r\n\r\n%b" % (SIZE, BODY)
    answers = await exchange(port_of(lone), first + first + GET + b"\r\n" + first + GET + LAST)
    assert re.findall(rb'HTTP/1\.1 (\d+)|"(input_tokens|status)"', answers) == [
        pair for name in (b"input_tokens", b"input_tokens", b"status", b"input_tokens", b"status")
        for pair in ((b"200", b""), (b"", name))
    ]  # fmt: skip


async def test_a_refusal_behind_a_request_does_not_cost_its_answer(lone: Proxy) -> None:
    first = POST + b"Content-Length: %b\r\n\r\n%b" % (SIZE, BODY)
    answers = await exchange(
        port_of(lone), first, first.replace(b"\r\n\r\n", b"\r\nContent-Length: 1\r\n\r\n"), pause=0.3
    )
    assert re.findall(rb"HTTP/1\.1 (\d+)", answers) == [b"200", b"400"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_of_http_1_0_gets_an_answer_without_chunks(lone: Proxy, stream: bool) -> None:
    body = json.dumps(ask("Say exactly: as it was", stream=stream)).encode()
    head = f"POST {MESSAGES} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = read_answer(await exchange(port_of(lone), head.encode() + body))
    assert answer.status == 200
    assert b"transfer-encoding" not in answer.head
    assert answer.body.endswith(b'data: {"type":"message_stop"}\n\n' if stream else b"}")


async def test_who_is_refused_before_the_body_is_not_asked_for_it(lone: Proxy) -> None:
    head = b"POST /v1/messages HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    answer = read_answer(await exchange(port_of(lone), head))
    assert answer.status == 403
    assert b"\r\nconnection: close\r\n" in answer.head


def test_who_sends_a_body_too_large_can_still_read_why(lone: Proxy) -> None:
    """Closing at once would reset the connection, and with it the answer that the client has not read yet."""
    with connect(lone) as client:
        client.sendall(POST + b"Content-Length: 50000000\r\n\r\n")
        for _ in range(50):
            client.sendall(b"x" * 1_000_000)
        assert read_answer(client.recv(65_536)).status == 413
        client.sendall(GET + LAST)
        assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_vanishes_is_no_error(lone: Proxy) -> None:
    before = lone.log.count("client left")
    with connect(lone) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(b"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    wait_for(lambda: lone.log.count("client left") > before)


@needs_process_limits
def test_more_clients_than_descriptors_wait_and_are_served(settings: dict[str, str], tmp_path: Path) -> None:
    """128 descriptors: 32 clients at once, each with an upstream of its own."""
    command = ("-c", LIMITED, "serve")
    with running_proxy(tmp_path, settings, command) as proxy:
        idle = [connect(proxy) for _ in range(300)]
        body = json.dumps(ask("Say exactly: room for one more")).encode()
        request = (
            f"POST {MESSAGES} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        wait_for(lambda: "No more clients can be served for now" in proxy.log)
        for client in idle:
            client.close()

        async def send_burst() -> list[bytes]:
            return await asyncio.gather(*(exchange(port_of(proxy), request.encode() + body) for _ in range(150)))

        answers = [read_answer(answer) for answer in asyncio.run(send_burst())]
        assert [answer.status for answer in answers] == [200] * 150
        assert proxy.log.count("No more clients can be served") == 1
        assert "Traceback" not in proxy.log
        assert "Too many open files" not in proxy.log


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
from anthropic_proxy.cli import main
sys.argv[0] = "anthropic-proxy"
main()
"""


@needs_process_limits
def test_idle_clients_are_closed_for_clients_with_requests(settings: dict[str, str], tmp_path: Path) -> None:
    with running_proxy(tmp_path, settings, ("-c", LIMITED, "serve")) as proxy:
        idle = [connect(proxy) for _ in range(40)]
        for client in idle[:32]:
            client.sendall(GET + b"\r\n")
            assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")
        for client in idle[32:]:
            client.sendall(GET + b"\r\n")
            assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")
            client.close()
        for client in idle[:32]:
            client.close()


@needs_process_limits
@needs_proc
def test_one_client_keeps_no_other_out(settings: dict[str, str], tmp_path: Path) -> None:
    """32 places. The bodies of 34 requests of one address never end."""

    def answer(client: socket.socket) -> bytes:
        client.setblocking(False)
        try:
            return client.recv(65_536)
        except BlockingIOError:
            return b"none"

    with running_proxy(tmp_path, settings, ("-c", LIMITED, "serve")) as proxy, ExitStack() as stack:
        clients = [stack.enter_context(connect(proxy)) for _ in range(34)]
        for client in clients:
            client.sendall(POST + b"Content-Length: 100\r\n\r\n{")
        place = ("127.0.0.1", port_of(proxy))
        other = stack.enter_context(socket.create_connection(place, WAIT_SECONDS, ("127.0.0.2", 0)))
        other.sendall(POST + b"Content-Length: %b\r\n%b%b" % (SIZE, LAST, BODY))
        assert other.recv(65_536).startswith(b"HTTP/1.1 200 ")
        answers = [answer(client) for client in clients]
        assert answers[:28] == [b"none"] * 28
        assert any(text.startswith(b"HTTP/1.1 529 ") for text in answers)


@needs_process_limits
def test_clients_without_a_whole_head_are_closed_for_clients_with_requests(
    settings: dict[str, str], tmp_path: Path
) -> None:
    with running_proxy(tmp_path, settings, ("-c", LIMITED, "serve")) as proxy:
        idle_clients = [connect(proxy) for _ in range(100)]
        for client in idle_clients[::2]:
            client.sendall(b"GET /health HT")
        with connect(proxy) as client:
            client.settimeout(HEAD_TIMEOUT_SECONDS / 2)
            client.sendall(GET + LAST)
            assert client.recv(65_536).startswith(b"HTTP/1.1 200 ")
        for client in idle_clients:
            client.close()
