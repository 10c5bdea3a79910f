"""Requests that two programs could read in two ways, or that one cannot read at all, on the socket of a real server.

One row a request. After a refusal the connection is closed, because the start of the next request is unknown.
"""

import asyncio
import json
import re
import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from anthropic_proxy.gateway.server.auth import MAX_HEADER_BYTES, MAX_TARGET_BYTES
from anthropic_proxy.gateway.server.http1.lifecycle import HEAD_TIMEOUT_SECONDS
from tests.support.platform_marks import needs_process_limits
from tests.support.process_checks import MESSAGES, ask, port_of
from tests.support.raw_http import exchange, read_answer
from tests.support.server_process import Proxy, running_proxy
from tests.support.waiting import WAIT_SECONDS, wait_for

BODY = json.dumps({"model": "claude-sonnet-4-5", "messages": [{"role": "user", "content": "x"}]}).encode()
SIZE = b"%d" % len(BODY)
POST = b"POST /v1/messages/count_tokens HTTP/1.1\r\nHost: localhost\r\n"
GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
LIST = b"GET /v1/models HTTP/1.1\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"
CHUNK = b"%x\r\n%b\r\n" % (len(BODY), BODY)
UPGRADE = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
LAST = b"Connection: close\r\n\r\n"

REFUSED: dict[str, tuple[int, bytes]] = {
    # How long is the body?
    "both lengths": (400, POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "both lengths, the other way round": (400, CHUNKED + b"Content-Length: 3\r\n\r\n0\r\n\r\n"),
    "two lengths": (400, POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
    "the same length twice": (400, POST + b"Content-Length: %b\r\nContent-Length: %b\r\n\r\n%b" % (SIZE, SIZE, BODY)),
    "a list of lengths": (400, POST + b"Content-Length: 3, 3\r\n\r\nabc"),
    "a length with a sign": (400, POST + b"Content-Length: +3\r\n\r\nabc"),
    "a length below nothing": (400, POST + b"Content-Length: -1\r\n\r\n"),
    "a length in hexadecimal": (400, POST + b"Content-Length: 0x3\r\n\r\nabc"),
    "a length with a space in it": (400, POST + b"Content-Length: 1 2\r\n\r\nabc"),
    "a length beyond 64 bits": (400, POST + b"Content-Length: 99999999999999999999999\r\n\r\n"),
    "a length of nothing": (400, POST + b"Content-Length: \r\n\r\n"),
    "a coding that is nearly chunked": (400, POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    "chunked in quotes": (400, POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n'),
    "chunked behind a tab of another kind": (400, POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    "chunked twice": (400, CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "chunked, then another coding": (400, POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    "another coding, then chunked": (400, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "identity": (400, POST + b"Transfer-Encoding: identity\r\n\r\n"),
    "a space before the colon": (400, POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    "chunks in HTTP/1.0": (400, CHUNKED.replace(b"1.1", b"1.0") + b"\r\n0\r\n\r\n"),
    # Chunks
    "a size that is no number": (400, CHUNKED + b"\r\nzz\r\n"),
    "a size with a sign": (400, CHUNKED + b"\r\n-1\r\nab\r\n"),
    "a size with 0x": (400, CHUNKED + b"\r\n0x4\r\nabcd\r\n"),
    "a size with a space": (400, CHUNKED + b"\r\n4 \r\nabcd\r\n"),
    "a size beyond 64 bits": (400, CHUNKED + b"\r\nFFFFFFFFFFFFFFFFF\r\nab\r\n"),
    "a chunk longer than its size": (400, CHUNKED + b"\r\n4\r\nabcdX0\r\n\r\n"),
    "chunks between bare line feeds": (400, CHUNKED + b"\r\n4\nabcd\n0\n\n"),
    "a line feed in an extension": (400, CHUNKED + b"\r\n4;a\nb\r\nabcd\r\n0\r\n\r\n"),
    "an extension without end": (431, CHUNKED + b"\r\n4;" + b"a" * 600_000),
    "trailers without end": (431, CHUNKED + b"\r\n" + CHUNK + b"0\r\n" + b"X-A: b\r\n" * 80_000),
    # Headers
    "a folded header": (400, GET + b"X-A: b\r\n c\r\n\r\n"),
    "a folded first header": (400, b"GET /health HTTP/1.1\r\n Host: localhost\r\n\r\n"),
    "bare line feeds": (400, b"GET /health HTTP/1.1\nHost: localhost\n\n"),
    "a bare line feed": (400, GET + b"X-A: b\nX-C: d\r\n\r\n"),
    "a bare line feed at the end": (400, GET + b"\n"),
    "a bare carriage return": (400, GET + b"X-A: b\rX-C: d\r\n\r\n"),
    "a NUL in a value": (400, GET + b"X-A: b\x00c\r\n\r\n"),
    "a NUL in a name": (400, GET + b"X\x00A: b\r\n\r\n"),
    "a control character": (400, GET + b"X-A: b\x01c\r\n\r\n"),
    "a space in a name": (400, GET + b"X A: b\r\n\r\n"),
    "no name": (400, GET + b": b\r\n\r\n"),
    "no colon": (400, GET + b"X-A\r\n\r\n"),
    # The host is ambiguous.
    "two hosts": (400, LIST + b"Host: localhost\r\nHost: evil.example\r\n\r\n"),
    "the same host twice": (400, LIST + b"Host: localhost\r\nHost: localhost\r\n\r\n"),
    "a whole address of another host": (400, b"GET http://evil.example/health HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    "a whole address whose host is not asked": (
        400,
        b"GET http://localhost/v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    ),
    "no host": (400, LIST + b"\r\n"),
    "no host at an open path": (400, b"GET /health HTTP/1.1\r\n\r\n"),
    # Sizes
    "a long path": (414, b"GET /%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % (b"a" * (MAX_TARGET_BYTES + 1))),
    "a long query": (414, b"GET /health?%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % (b"a" * (MAX_TARGET_BYTES + 1))),
    "a path without end": (414, b"GET /" + b"a" * 600_000),
    "a large header": (431, GET + b"X-A: %b\r\n\r\n" % (b"b" * MAX_HEADER_BYTES)),
    "many headers": (431, GET + b"X-Header: b\r\n" * 8_000 + b"\r\n"),
    "a header without end": (431, GET + b"X-A: " + b"b" * 600_000),
    # Other languages
    "HTTP/2 at once": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/2.0 in the words of HTTP/1": (400, b"GET /health HTTP/2.0\r\nHost: localhost\r\n\r\n"),
    "HTTP/1.2": (400, b"GET /health HTTP/1.2\r\nHost: localhost\r\n\r\n"),
    "HTTP/0.9": (400, b"GET /health\r\n\r\n"),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"),
    "an unknown method": (400, b"BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    "a method in small letters": (400, b"get /health HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    "CONNECT": (400, b"CONNECT example.org:443 HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    "CONNECT with an upgrade": (
        400,
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    ),
    "RTSP": (400, b"OPTIONS * RTSP/1.0\r\nHost: localhost\r\n\r\n"),
    "RTSP with a method of HTTP": (400, b"GET /health RTSP/1.0\r\nHost: localhost\r\n\r\n"),
    "ICE": (400, b"SOURCE /health ICE/1.0\r\nHost: localhost\r\n\r\n"),
    "two spaces behind the method": (400, b"GET  /health HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    "two spaces behind the path": (400, b"GET /health  HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    "a tab behind the method": (400, b"GET\t/health HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    "a target that is an authority": (400, b"GET localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    "line ends without end": (431, b"\r\n" * 40_000),
    # Offers of another protocol: nothing else of the head may change
    **{
        f"an upgrade with {name}": (status, request.replace(b"\r\n\r\n", b"\r\n" + UPGRADE + b"\r\n", 1))
        for name, status, request in (
            (
                "chunks in HTTP/1.0",
                400,
                CHUNKED.replace(b"1.1", b"1.0") + b"\r\n" + CHUNK + b"0\r\n\r\n" + GET + b"\r\n",
            ),
            ("both lengths", 400, CHUNKED + b"Content-Length: 3\r\n\r\n0\r\n\r\n"),
            ("two lengths", 400, POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
            ("a coding that is nearly chunked", 400, POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
            ("no host", 400, LIST + b"\r\n"),
            ("two hosts", 400, LIST + b"Host: localhost\r\nHost: evil.example\r\n\r\n"),
            ("HTTP/1.2", 400, b"GET /health HTTP/1.2\r\nHost: localhost\r\n\r\n"),
            ("another host's address", 400, b"GET http://evil.example/health HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        )
    },
    "a space in the path": (400, b"GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    "8 bits in the path": (400, b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n"),
}
SERVED: dict[str, tuple[int, bytes]] = {
    "chunks": (200, CHUNKED + LAST + CHUNK + b"0\r\n\r\n"),
    "chunked in capitals": (200, CHUNKED.replace(b"chunked", b"CHUNKED") + LAST + CHUNK + b"0\r\n\r\n"),
    "extensions": (200, CHUNKED + LAST + CHUNK.replace(b"\r\n", b";a=b\r\n", 1) + b"0;c\r\n\r\n"),
    "trailers are no headers": (
        200,
        CHUNKED + LAST + CHUNK + b"0\r\nHost: evil.example\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n",
    ),
    "8 bits in a value": (200, GET + b"X-A: \xff\xfe\r\n" + LAST),
    "HTTP/1.0": (200, b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n"),
    "a whole address": (200, b"GET http://localhost/health HTTP/1.1\r\nHost: localhost\r\n" + LAST),
    "an upgrade": (200, GET + b"Upgrade: websocket\r\nConnection: Upgrade, close\r\n\r\n"),
    "an upgrade in HTTP/1.0": (200, b"GET /health HTTP/1.0\r\nHost: localhost\r\n" + UPGRADE + b"\r\n"),
    "an upgrade in HTTP/1.0 with a body": (
        200,
        POST.replace(b"1.1", b"1.0") + UPGRADE + b"Content-Length: " + SIZE + b"\r\n\r\n" + BODY + GET + b"\r\n",
    ),
    "an expectation in HTTP/1.0": (
        200,
        POST.replace(b"1.1", b"1.0") + b"Expect: 100-continue\r\nContent-Length: " + SIZE + b"\r\n\r\n" + BODY,
    ),
    "line ends before the request": (200, b"\r\n\r\n" + GET + LAST),
    "an expectation that nobody knows": (
        200,
        POST + b"Expect: 200-ok\r\nContent-Length: " + SIZE + b"\r\n" + LAST + BODY,
    ),
    "a path with two slashes": (404, b"GET //health HTTP/1.1\r\nHost: localhost\r\n" + LAST),
    "a path with a way back": (404, b"GET /x/../health HTTP/1.1\r\nHost: localhost\r\n" + LAST),
    "a server as a whole": (404, b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n" + LAST),
    "TRACE": (405, b"TRACE / HTTP/1.1\r\nHost: localhost\r\n" + LAST),
    "a request for cross-origin rights": (
        405,
        b"OPTIONS /v1/messages HTTP/1.1\r\nHost: localhost\r\nAccess-Control-Request-Method: POST\r\n" + LAST,
    ),
}
STRANGERS: dict[str, bytes] = {
    "a name that leads here": b"Host: rebound.example:8082\r\n",
    "a name that begins like ours": b"Host: localhost.evil.example\r\n",
    "a name that ends like ours": b"Host: evil-localhost\r\n",
    "an address that is everywhere": b"Host: 0.0.0.0:8082\r\n",
    "a number for an address": b"Host: 2130706433\r\n",
    "a short address": b"Host: 127.1\r\n",
    "an address with two ports": b"Host: 127.0.0.1:8082:evil.example\r\n",
    "a name behind a user": b"Host: localhost@evil.example\r\n",
    "half an address": b"Host: [::1\r\n",
    "an empty name": b"Host:\r\n",
    "two names in one": b"Host: localhost evil.example\r\n",
    "a page elsewhere": b"Host: localhost\r\nOrigin: https://evil.example\r\n",
    "a page with a name like ours": b"Host: localhost\r\nOrigin: https://localhost.evil.example\r\n",
    "a page of nobody": b"Host: localhost\r\nOrigin: null\r\n",
    "a page with half an address": b"Host: localhost\r\nOrigin: http://[\r\n",
    "an image on a page elsewhere": b"Host: localhost\r\nSec-Fetch-Site: cross-site\r\n",
}
NEIGHBOURS: dict[str, bytes] = {
    "the usual name": b"Host: localhost:8082\r\n",
    "the name with its dot": b"Host: LOCALHOST.\r\n",
    "an address": b"Host: 127.0.0.1:8082\r\n",
    "another address of this machine": b"Host: 127.8.9.10\r\n",
    "the newer address": b"Host: [::1]:8082\r\n",
    "the newer address for the older": b"Host: [::ffff:127.0.0.1]\r\n",
    "a name below ours": b"Host: proxy.localhost\r\n",
    "a page from here": b"Host: localhost:8082\r\nOrigin: http://127.0.0.1:8082\r\n",
    "a name that was allowed": b"Host: proxy.example.org:443\r\n",
}


@pytest.fixture(scope="module")
def lone(settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    with running_proxy(tmp_path_factory.mktemp("lone"), {**settings, "ALLOWED_HOSTS": "proxy.example.org"}) as running:
        yield running
        assert "Traceback" not in running.log


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port_of(proxy)), timeout=WAIT_SECONDS)


@pytest.mark.parametrize("name", REFUSED)
async def test_an_ambiguous_request_is_refused_and_ends_the_connection(lone: Proxy, name: str) -> None:
    status, request = REFUSED[name]
    answers = await exchange(port_of(lone), request)
    assert len(re.findall(rb"HTTP/1\.1 \d", answers)) == 1
    answer = read_answer(answers)
    assert (answer.status, answer.whole) == (status, True)
    assert answer.json["type"] == "error"
    assert answer.json["error"]["type"] == ("invalid_request_error" if status == 400 else "request_too_large")
    assert answer.json["request_id"].encode() in answer.head
    assert b"\r\nconnection: close\r\n" in answer.head


@pytest.mark.parametrize("name", SERVED)
async def test_what_is_unusual_is_served_by_its_path_and_its_host(lone: Proxy, name: str) -> None:
    status, request = SERVED[name]
    answers = await exchange(port_of(lone), request)
    assert len(re.findall(rb"HTTP/1\.1 \d", answers)) == 1
    answer = read_answer(answers)
    assert (answer.status, answer.whole) == (status, True)
    assert b"access-control" not in answer.head.lower()


@pytest.mark.parametrize("name", STRANGERS)
async def test_pages_and_names_from_elsewhere_are_refused_without_a_key(lone: Proxy, name: str) -> None:
    answer = read_answer(await exchange(port_of(lone), LIST + STRANGERS[name] + LAST))
    assert (answer.status, answer.json["error"]["type"]) == (403, "permission_error")


@pytest.mark.parametrize("name", NEIGHBOURS)
async def test_names_of_this_machine_are_served_without_a_key(lone: Proxy, name: str) -> None:
    assert read_answer(await exchange(port_of(lone), LIST + NEIGHBOURS[name] + LAST)).status == 200


async def test_with_a_key_any_name_is_served_and_none_without_it(settings: dict[str, str], tmp_path: Path) -> None:
    with running_proxy(tmp_path, {**settings, "PROXY_API_KEY": "the-only-key-123456"}) as proxy:
        for headers in (*STRANGERS.values(), *NEIGHBOURS.values()):
            got = read_answer(await exchange(port_of(proxy), LIST + headers + LAST))
            assert got.status == 401
            key = b"x-api-key: the-only-key-123456\r\n"
            assert read_answer(await exchange(port_of(proxy), LIST + headers + key + LAST)).status == 200


async def test_requests_behind_each_other_are_answered_in_their_order(lone: Proxy) -> None:
    first = POST + b"Content-Length: %b\r\n\r\n%b" % (SIZE, BODY)
    answers = await exchange(port_of(lone), first + first + GET + b"\r\n" + first + GET + LAST)
    assert re.findall(rb'HTTP/1\.1 (\d+)|"(input_tokens|status)"', answers) == [
        pair for name in (b"input_tokens", b"input_tokens", b"status", b"input_tokens", b"status")
        for pair in ((b"200", b""), (b"", name))
    ]  # fmt: skip


async def test_a_refusal_behind_a_request_does_not_cost_its_answer(lone: Proxy) -> None:
    first = POST + b"Content-Length: %b\r\n\r\n%b" % (SIZE, BODY)
    answers = await exchange(port_of(lone), first, REFUSED["both lengths"][1], pause=0.3)
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
