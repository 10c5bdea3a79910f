"""Our own HTTP client against servers with scripted bytes, on both event loops."""

import asyncio
import base64
import gc
import gzip
import hashlib
import random
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme

from anthropic_proxy.engine.options import CallOptions
from anthropic_proxy.engine.providers.call_options import extend_request
from anthropic_proxy.engine.upstream.http.client import HttpTransport
from anthropic_proxy.engine.upstream.http.url import Origin, join_url
from anthropic_proxy.engine.wires.upstream_http import CLIENT_CREDENTIAL_ORIGIN, Credential, UpstreamRequest
from anthropic_proxy.errors import ShuttingDown, UpstreamProtocolError, UpstreamUnreachable
from tests.support.bound_requests import bound
from tests.support.http_server import Server, asking, post, read_all, serving, tunnel
from tests.support.messages import exactly
from tests.support.waiting import WAIT_SECONDS

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
BODIES = {
    "with a length": b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world",
    "in chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nTrailer: 1\r\n\r\n",
    "until the connection ends": b"HTTP/1.0 200 OK\r\n\r\nhello world",
    "after what announces it": b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nhello world",
    "coded, until the connection ends": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: identity\r\n\r\nhello world",
    "between bare line feeds": b"HTTP/1.1 200 OK\nX-A: b\n c\nContent-Length: 11\n\nhello world",
    "in chunks with spaces behind their sizes": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"b  \r\nhello world\r\n0\r\n\r\n",
}


@pytest.fixture
def event_loop_policy(each_event_loop_policy: asyncio.AbstractEventLoopPolicy) -> asyncio.AbstractEventLoopPolicy:
    return each_event_loop_policy


def sends(data: bytes, *, then_close: bool = False) -> Callable[[Server, asyncio.StreamWriter], Awaitable[None]]:
    async def act(_: Server, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        if then_close:
            writer.close()

    return act


def sends_bytewise(data: bytes) -> Callable[[Server, asyncio.StreamWriter], Awaitable[None]]:
    async def act(_: Server, writer: asyncio.StreamWriter) -> None:
        for byte in data:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        if data.startswith(b"HTTP/1.0"):
            writer.close()

    return act


async def close(_: Server, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def reset(_: Server, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


@pytest.mark.parametrize("sends_answer", [sends, sends_bytewise])
@pytest.mark.parametrize("answer", BODIES.values(), ids=BODIES)
async def test_bodies_are_read_however_they_end_and_wherever_they_are_cut(answer: bytes, sends_answer: Any) -> None:
    act = (
        sends(answer, then_close=True)
        if answer.startswith(b"HTTP/1.0") and sends_answer is sends
        else sends_answer(answer)
    )
    async with serving(act) as (_, port), asking() as upstream:
        response = await post(upstream, port)
        assert (response.status, await read_all(response)) == (200, b"hello world")


async def test_a_request_has_the_required_headers_and_its_own_come_first() -> None:
    async with serving(sends(OK)) as (server, port), asking() as upstream:
        headers = {"content-type": "application/json", "user-agent": "somebody"}
        request = UpstreamRequest(path="/a b?c=ü", body=b"{}", headers=headers)
        credential = Credential("authorization", "Bearer secret", extra_headers={"x-payer": "me"})
        await read_all(await upstream.send(bound(f"http://127.0.0.1:{port}/v1?api-version=1", request, credential)))
    line, *fields = server.heads[0].split("\r\n")
    assert line == "POST /v1/a%20b?c=%C3%BC&api-version=1 HTTP/1.1"
    assert sorted(filter(None, fields)) == [
        "accept-encoding: identity",
        "accept: */*",
        "authorization: Bearer secret",
        "content-length: 2",
        "content-type: application/json",
        f"host: 127.0.0.1:{port}",
        "user-agent: somebody",
        "x-payer: me",
    ]


def digest(*, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Mapping[str, str]:
    return {"x-digest": hashlib.sha256(b"%b %b %b" % (method.encode(), url.encode(), body)).hexdigest()}


async def test_a_header_that_depends_on_the_body_is_computed_from_the_bytes_that_are_sent() -> None:
    """Also of a body that `[providers.NAME.body]` has changed, and of further requests to the same path."""

    def sign(*, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Mapping[str, str]:
        return {"authorization": f"signed {headers['x-digest']}"}

    options = CallOptions(body={"user": "me"}, headers={"x-team": "a"})
    async with serving(sends(OK)) as (server, port), asking() as upstream:
        url = f"http://127.0.0.1:{port}/v1"
        for body in (b'{"n":1}', b'{"n":2}', b'{"n":"%b"}' % (b"x" * 2_000_000)):
            encoded = UpstreamRequest(path="/chat", body=body, compute_headers=digest)
            sent = extend_request(options, encoded, with_body=True)
            for credential in (Credential("key", "k"), Credential("key", "k", sign=sign), None):
                await read_all(await upstream.send(bound(url, sent, credential)))
                head = upstream.encode_head(url, sent, credential)
                given = digest(method="POST", url=f"{url}/chat", headers={}, body=server.bodies[-1])["x-digest"]
                assert f"x-digest: {given}\r\n" in server.heads[-1]
                assert head.decode() == server.heads[-1]
                assert (f"authorization: signed {given}\r\n" in server.heads[-1]) is (
                    credential is not None and credential.sign is not None
                )
        assert server.bodies[0] == b'{"n":1,"user":"me"}'


async def test_a_header_of_the_settings_replaces_one_that_is_computed() -> None:
    async with serving(sends(OK)) as (server, port), asking() as upstream:
        encoded = UpstreamRequest(path="/chat", body=b"{}", compute_headers=digest)
        sent = extend_request(CallOptions(headers={"x-digest": "ours"}), encoded)
        await read_all(await upstream.send(bound(f"http://127.0.0.1:{port}", sent)))
    assert [line for line in server.heads[0].split("\r\n") if "digest" in line] == ["x-digest: ours"]


async def test_user_and_password_of_an_address_are_sent_unless_there_is_a_key() -> None:
    async with serving(sends(OK)) as (server, port), asking() as upstream:
        base = f"http://me:p%40ss@127.0.0.1:{port}"
        await read_all(await upstream.send(bound(base, UpstreamRequest(path="/x", body=b""))))
        await read_all(
            await upstream.send(
                bound(base, UpstreamRequest(path="/x", body=b""), Credential("authorization", "Bearer k"))
            )
        )
    assert f"authorization: Basic {base64.b64encode(b'me:p@ss').decode()}" in server.heads[0]
    assert "Bearer k" in server.heads[1]
    assert "Basic" not in server.heads[1]


async def test_state_kept_for_the_next_request_holds_no_key_of_a_client() -> None:
    async with serving(sends(OK)) as (server, port), asking() as upstream:
        for value, origin in (
            ("ours", "OPENAI_API_KEY"),
            ("theirs", CLIENT_CREDENTIAL_ORIGIN),
            ("ours", "OPENAI_API_KEY"),
        ):
            request = UpstreamRequest(path=f"/{value}", body=b"")
            await read_all(
                await upstream.send(bound(f"http://127.0.0.1:{port}", request, Credential("key", value, origin)))
            )
        kept = [(head.header_bytes, head.credential) for head in upstream._heads.values()]
    assert [f"key: {owner}" in head for owner, head in zip(("ours", "theirs", "ours"), server.heads, strict=True)] == [
        True
    ] * 3
    assert len(kept) == 1
    assert b"key: ours" in kept[0][0]


@pytest.mark.parametrize("value", ["a\r\nx-evil: 1", "a\nb", "a\0b", "a\rb"])
async def test_a_header_cannot_become_two(value: str) -> None:
    async with serving(sends(OK)) as (server, port), asking() as upstream:
        with pytest.raises(
            UpstreamUnreachable,
            match=exactly(f"no request can be sent to http://127.0.0.1:{port} (a header contains a line break)"),
        ):
            await upstream.send(
                bound(f"http://127.0.0.1:{port}", UpstreamRequest(path="/x", body=b"", headers={"x-a": value}))
            )
    assert not server.connections


_NO_URL = "the address does not begin with http:// or https:// and the name of a host"


@pytest.mark.parametrize(
    ("base", "shown", "reason"),
    [
        ("ftp://host/x", "ftp://host/x", _NO_URL),
        ("http://", "http", _NO_URL),
        ("http://[::1", "http://[::1", "Invalid IPv6 URL"),
        ("host/x", "host/x", _NO_URL),
        ("http://host:port", "http://host:port", "Port could not be cast to integer value as 'port'"),
    ],
)
async def test_what_is_no_address_is_refused_in_words(base: str, shown: str, reason: str) -> None:
    async with asking() as upstream:
        with pytest.raises(UpstreamUnreachable, match=exactly(f"no request can be sent to {shown} ({reason})")):
            await upstream.send(bound(base, UpstreamRequest(path="/x", body=b"")))


async def test_a_connection_serves_again_only_what_was_read_whole() -> None:
    async with serving(sends(OK), sends(OK), sends(OK[:-1]), sends(OK)) as (server, port), asking() as upstream:
        for _ in range(2):
            assert await read_all(await post(upstream, port)) == b"ok"
        assert server.connections == 1
        torn = await post(upstream, port)
        assert await torn.read() == b"o"
        await torn.close()
        assert await read_all(await post(upstream, port)) == b"ok"
        assert server.connections == 2


async def test_without_keep_alive_each_request_has_a_connection_of_its_own() -> None:
    async with serving(sends(OK)) as (server, port), asking(keep_alive_seconds=0) as upstream:
        for _ in range(3):
            assert await read_all(await post(upstream, port)) == b"ok"
    assert server.connections == 3


class FixedDialer:
    """Connects to one port, for any requested origin."""

    def __init__(self, port: int) -> None:
        self.origins: list[str] = []
        self._port = port

    async def dial(self, origin: Origin) -> socket.socket:
        self.origins.append(str(origin))
        opened = socket.create_connection(("127.0.0.1", self._port))
        opened.setblocking(False)
        return opened


async def test_a_dialer_opens_the_connections_to_servers_and_none_to_proxies() -> None:
    async with serving(sends(OK)) as (server, port), serving(sends(OK)) as (proxy, proxy_port):
        dialer = FixedDialer(port)
        async with asking(
            dialer=dialer, proxies={"http": f"http://127.0.0.1:{proxy_port}"}, no_proxy_hosts="direct.test"
        ) as up:
            for host in ("direct.test", "proxied.test"):
                response = await up.send(bound(f"http://{host}", UpstreamRequest(path="/x", body=b"")))
                assert await read_all(response) == b"ok"
    assert dialer.origins == ["http://direct.test"]
    assert [head.splitlines()[0] for head in (*server.heads, *proxy.heads)] == [
        "POST /x HTTP/1.1",
        "POST http://proxied.test/x HTTP/1.1",
    ]


async def test_as_many_connections_are_opened_as_requests_are_active() -> None:
    async with serving(sends(OK)) as (server, port), asking() as upstream:
        responses = await asyncio.gather(*(post(upstream, port) for _ in range(20)))
        assert server.connections == 20
        for response in responses:
            await read_all(response)
        await asyncio.gather(*[read_all(await post(upstream, port)) for _ in range(20)])
        assert server.connections == 20


@pytest.mark.parametrize("ending", [close, reset])
async def test_a_kept_connection_that_was_closed_costs_nothing(ending: Any) -> None:
    async with serving(sends(OK), ending, sends(OK)) as (server, port), asking() as upstream:
        assert await read_all(await post(upstream, port, b"1")) == b"ok"
        assert await read_all(await post(upstream, port, b"2")) == b"ok"
    assert server.bodies == [b"1", b"2", b"2"]


@pytest.mark.parametrize("ending", [close, reset, sends(b"HTTP/1.1 200 O", then_close=True)])
async def test_nothing_is_repeated_where_a_provider_may_have_begun(ending: Any) -> None:
    async with serving(ending) as (server, port), asking() as upstream:
        with pytest.raises(UpstreamUnreachable):
            await post(upstream, port)
    assert len(server.bodies) == 1
    begun = sends(b"HTTP/1.1 200 O", then_close=True)
    async with serving(sends(OK), begun, sends(OK)) as (server, port), asking() as upstream:
        await read_all(await post(upstream, port))
        with pytest.raises(
            UpstreamUnreachable, match=exactly(f"http://127.0.0.1:{port} closed the connection without an answer")
        ):
            await post(upstream, port)
    assert len(server.bodies) == 2


@pytest.mark.parametrize(
    "behind",
    [
        *(OK, b"garbage", b"H", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-a: "),
        *(),
        *(
            b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nfor somebody else",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        ),
    ],
)
async def test_bytes_that_nobody_asked_for_end_a_connection(behind: bytes) -> None:
    async with serving(sends(OK + behind), sends(OK)) as (server, port), asking() as upstream:
        assert await read_all(await post(upstream, port)) == b"ok"
        assert await read_all(await post(upstream, port)) == b"ok"
    assert server.connections == 2


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "violates HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx", "violates HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"x-a: " + b"a" * 300_000, "its head has more than"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000, "its head has more than"),
        (b"HTTP/1.1 200 OK\r\n" + b"a:\r\n" * 1_100, "its head has more than 1,000 headers"),
        (b"HTTP/1.1 103 Early Hints\r\na:\r\n\r\n" * 1_001, "its head has more than 1,000 headers"),
    ],
)
async def test_an_answer_without_http_is_reported(answer: bytes, words: str) -> None:
    async with serving(sends(answer)) as (_, port), asking() as upstream:
        with pytest.raises(UpstreamProtocolError, match=words):
            await post(upstream, port)


@pytest.mark.parametrize(
    ("answer", "ending"),
    [
        (b"content-length: 9\r\n\r\nhello", close),
        (b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", close),
        (b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", reset),
        (b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\nno size\r\n", None),
    ],
)
async def test_everything_before_a_break_is_read_before_the_error(answer: bytes, ending: Any) -> None:
    go_on = asyncio.Event()

    async def act(server: Server, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n" + answer)
        await go_on.wait()
        if ending is not None:
            await ending(server, writer)

    async with serving(act) as (_, port), asking() as upstream:
        response = await post(upstream, port)
        assert await response.read() == b"hello"
        go_on.set()
        with pytest.raises(UpstreamProtocolError, match=exactly("the reply ended before it was complete")):
            await response.read()
        await response.close()


async def test_a_reply_that_is_packed_unasked_is_unpacked() -> None:
    packed = gzip.compress(b"hello world" * 50_000)
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(packed)
    async with serving(sends(head + packed)) as (_, port), asking() as upstream:
        assert await read_all(await post(upstream, port)) == b"hello world" * 50_000


async def test_who_reads_nothing_receives_little() -> None:
    sent = 0

    async def pour(_: Server, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 50000000\r\n\r\n")
        for _ in range(500):
            writer.write(b"a" * 100_000)
            await writer.drain()
            sent += 100_000

    async with serving(pour) as (_, port), asking() as upstream:
        response = await post(upstream, port)
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.05)
        assert sent < 20_000_000
        assert response.unread_bytes < 1_000_000
        assert len(await read_all(response)) == 50_000_000


async def test_an_answer_before_the_request_has_left_leaves_no_connection_behind() -> None:
    served = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 No\r\ncontent-length: 2\r\n\r\nno")
        await asyncio.Event().wait()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1024)
    port = listener.sockets[0].getsockname()[1]
    async with asking() as upstream:
        for _ in range(2):
            response = await post(upstream, port, b"a" * 30_000_000)
            assert (response.status, await read_all(response)) == (413, b"no")
    assert served == 2
    listener.close()


async def test_an_answer_ends_where_the_provider_ends_it_though_the_request_has_not_left() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 No\r\n\r\nno")
        writer.write_eof()
        await asyncio.Event().wait()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1024)
    async with asking() as upstream, asyncio.timeout(WAIT_SECONDS):
        response = await post(upstream, listener.sockets[0].getsockname()[1], b"a" * 30_000_000)
        assert (response.status, await read_all(response)) == (413, b"no")
    listener.close()


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_an_answer_that_is_there_before_the_request_is_read(scheme: str, authority: trustme.CA) -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 503 No\r\ncontent-length: 4\r\n\r\nfull")
        writer.close()

    tls = tls_of(authority, "127.0.0.1") if scheme == "https" else None
    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with asking() as upstream:
        for _ in range(20):
            response = await post(upstream, listener.sockets[0].getsockname()[1], scheme=scheme)
            assert (response.status, await read_all(response)) == (503, b"full")
    listener.close()


async def test_a_status_that_does_not_exist_is_an_answer_all_the_same() -> None:
    async with serving(sends(b"HTTP/1.1 000 ?\r\ncontent-length: 2\r\n\r\nok")) as (_, port), asking() as upstream:
        async with asyncio.timeout(WAIT_SECONDS):
            response = await post(upstream, port)
        assert (response.status, await read_all(response)) == (0, b"ok")


async def test_a_cancelled_request_closes_its_connection() -> None:
    asked = asyncio.Event()

    async def sends_nothing(_: Server, __: asyncio.StreamWriter) -> None:
        asked.set()

    async with serving(sends_nothing) as (server, port), asking() as upstream:
        task = asyncio.create_task(post(upstream, port))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(WAIT_SECONDS):
            await server.lost.wait()


async def test_a_complete_reply_whose_end_follows_keeps_its_connection() -> None:
    async def act(_: Server, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\n[DONE]\r\n")
        await asyncio.sleep(0.01)
        writer.write(b"0\r\n\r\n")

    async with serving(act) as (server, port), asking() as upstream:
        for _ in range(2):
            response = await post(upstream, port)
            assert await response.read() == b"[DONE]"
            await response.close(wait_for_end=True)
            await response.close()
    assert server.connections == 1


async def test_nothing_is_opened_any_more_once_it_is_closed() -> None:
    async with serving(sends(OK)) as (server, port):
        upstream = HttpTransport(1.0)
        await upstream.close()
        with pytest.raises(ShuttingDown):
            await post(upstream, port)
    assert not server.connections


async def test_an_unknown_name_and_a_closed_port_are_reported() -> None:
    reason = "the host name is not known"
    try:
        socket.getaddrinfo("nobody.invalid", 80)
    except socket.gaierror as error:  # a machine without a name server cannot look up any name
        reason = "the host name cannot be looked up now" if error.errno == socket.EAI_AGAIN else reason
    reason += "; check its spelling, and the network or VPN of this machine"
    async with asking() as upstream:
        with pytest.raises(
            UpstreamUnreachable, match=exactly(f"no server responds at http://nobody.invalid ({reason})")
        ):
            await upstream.send(bound("http://nobody.invalid", UpstreamRequest(path="/x", body=b"")))
        with pytest.raises(
            UpstreamUnreachable, match=exactly("no server responds at http://127.0.0.1:1 (connection refused)")
        ):
            await upstream.send(bound("http://127.0.0.1:1", UpstreamRequest(path="/x", body=b"")))


async def test_a_name_is_looked_up_again_where_nothing_answered_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(sends(OK)) as (_, port):
        full = socket.create_server(("127.0.0.2", port), backlog=0)
        fillers = [socket.socket() for _ in range(2)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        places, resolve = iter(["127.0.0.2", "127.0.0.1"]), socket.getaddrinfo

        def resolve_alternately(host: str, *arguments: Any, **options: Any) -> Any:
            return resolve(
                next(places) if host == "moved.example" and not options["flags"] & socket.AI_NUMERICHOST else host,
                *arguments,
                **options,
            )

        monkeypatch.setattr(socket, "getaddrinfo", resolve_alternately)
        upstream = HttpTransport(0.2)
        request = UpstreamRequest(path="/x", body=b"")
        with pytest.raises(
            UpstreamUnreachable,
            match=exactly(f"no server responds at http://moved.example:{port} (no connection in time)"),
        ):
            await upstream.send(bound(f"http://moved.example:{port}", request))
        assert await read_all(await upstream.send(bound(f"http://moved.example:{port}", request))) == b"ok"
        await upstream.close()
        for held in (full, *fillers):
            held.close()


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[trustme.CA]:
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return made


def tls_of(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


async def test_certificates_are_judged(authority: trustme.CA) -> None:
    async with serving(sends(OK), tls=tls_of(authority, "127.0.0.1")) as (server, port), asking() as upstream:
        body = bytes(range(256)) * 800
        for _ in range(2):
            assert await read_all(await post(upstream, port, body, "https")) == b"ok"
        assert server.connections == 1
        assert server.bodies == [body, body]
    async with serving(sends(OK), tls=tls_of(authority, "other.example")) as (server, port), asking() as upstream:
        with pytest.raises(UpstreamUnreachable, match="the certificate is not accepted"):
            await post(upstream, port, scheme="https")
    assert not server.heads


@pytest.mark.parametrize("encrypted_proxy", [False, True])
async def test_a_tunnel_leads_through_a_proxy(authority: trustme.CA, encrypted_proxy: bool) -> None:
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 Connection established\r\n\r\n")
        await tunnel(reader, writer, port)

    context = tls_of(authority, "127.0.0.1") if encrypted_proxy else None
    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    at = f"{'https' if encrypted_proxy else 'http'}://user:pass@127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with (
        serving(sends(OK), tls=tls_of(authority, "127.0.0.1")) as (server, port),
        asking(proxies={"https": at}) as up,
    ):
        for _ in range(2):
            assert await read_all(await post(up, port, b"a" * 200_000, "https")) == b"ok"
    listener.close()
    assert server.connections == len(asked) == 1
    assert asked[0].startswith(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n" % port)
    assert b"proxy-authorization: Basic " + base64.b64encode(b"user:pass") in asked[0]
    assert "proxy-authorization" not in server.heads[0]


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_wants_a_password_is_named_with_its_settings(scheme: str, authority: trustme.CA) -> None:
    refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n"
    async with serving(sends(refusal)) as (_, port):
        at = f"http://127.0.0.1:{port}"
        async with asking(proxies={scheme: at}) as upstream:
            for _attempt in range(2):
                with pytest.raises(UpstreamUnreachable) as raised:
                    await upstream.send(bound(f"{scheme}://provider.example", UpstreamRequest(path="/x", body=b"")))
                assert str(raised.value) == (
                    f"no server responds at {scheme}://provider.example through the proxy {at} "
                    "(the proxy answers with HTTP 407; set user and password in HTTP_PROXY, HTTPS_PROXY or ALL_PROXY: http://user:password@host:port)"
                )
                assert (raised.value.status, raised.value.should_retry) == (502, False)


@pytest.mark.parametrize(
    "piece",
    [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 100],
    ids=["interim answers", "fields"],
)
async def test_an_answer_to_connect_without_end_is_not_read_to_its_end(piece: bytes, authority: trustme.CA) -> None:
    line, _, fields = piece.partition(b"\r\n")

    async def act(_: Server, writer: asyncio.StreamWriter) -> None:
        writer.write(line + b"\r\n")
        while not writer.is_closing():
            writer.write((fields if fields.endswith(b"b\r\n") else b"\r\n" + piece[:-2]) * 100)
            await writer.drain()

    async with serving(act) as (_, port):
        at = f"http://127.0.0.1:{port}"
        async with asking(proxies={"https": at}) as upstream:
            with pytest.raises(
                UpstreamUnreachable,
                match=exactly(
                    f"no server responds at https://provider.example through the proxy {at} "
                    "(the proxy sends a head of more than 262,144 bytes)"
                ),
            ):
                await upstream.send(bound("https://provider.example", UpstreamRequest(path="/x", body=b"")))


async def test_a_provider_that_answers_407_without_a_proxy_is_an_answer() -> None:
    async with serving(sends(b"HTTP/1.1 407 x\r\ncontent-length: 0\r\n\r\n")) as (_, port), asking() as upstream:
        assert (await post(upstream, port)).status == 407


async def test_a_request_cancelled_while_a_tunnel_is_opened_leaves_no_loop_error() -> None:
    loop_errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: loop_errors.append(what))
    async with serving(close) as (_, port), asking(proxies={"https": f"http://127.0.0.1:{port}"}) as upstream:
        for attempt in range(60):
            asking_on = asyncio.create_task(post(upstream, port, scheme="https"))
            for _ in range(attempt % 12):
                await asyncio.sleep(0)
            asking_on.cancel()
            await asyncio.wait([asking_on])
            assert asking_on.cancelled() or asking_on.exception()
        await asyncio.sleep(0.01)
    gc.collect()
    assert not loop_errors


async def test_no_stream_is_torn_however_its_bytes_arrive() -> None:
    chance = random.Random(7)
    number = 0

    async def act(_: Server, writer: asyncio.StreamWriter) -> None:
        nonlocal number
        number += 1
        frames = [b"data: %d %d\n\n" % (number, place) for place in range(200)]
        whole = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        whole += b"".join(b"%x\r\n%b\r\n" % (len(frame), frame) for frame in frames) + b"0\r\n\r\n"
        place = 0
        while place < len(whole):
            size = chance.choice((1, 3, 40, 700, 5_000))
            writer.write(whole[place : place + size])
            place += size
            await asyncio.sleep(0)

    async with serving(act) as (server, port), asking() as upstream:

        async def one() -> None:
            for _ in range(15):
                lines = (await read_all(await post(upstream, port))).split(b"\n\n")[:-1]
                first = lines[0].split()[1]
                assert lines == [b"data: %b %d" % (first, place) for place in range(200)]

        await asyncio.gather(*(one() for _ in range(8)))
    assert server.connections == 8


async def refusal_at(address: str, **options: Any) -> UpstreamUnreachable:
    upstream = HttpTransport(5, **options)
    try:
        with pytest.raises(UpstreamUnreachable) as caught:
            await upstream.send(bound(address, UpstreamRequest(path="/x", body=b"{}")))
    finally:
        await upstream.close()
    return caught.value


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.8.9.1"])
async def test_a_local_server_that_is_down_is_not_worth_the_client_s_retries(host: str) -> None:
    error = await refusal_at(f"http://{host}:1/v1")
    assert error.message.startswith(f"no server responds at http://{host}:1 (connection refused")
    assert (error.should_retry, error.retryable) == (False, True)  # the proxy's own repeat comes first


async def test_a_local_proxy_that_is_down_is_named() -> None:
    error = await refusal_at("https://api.example", proxies={"https": "http://user:pass@127.0.0.1:1"})
    assert error.message == (
        "no server responds at https://api.example through the proxy http://127.0.0.1:1 (connection refused); "
        "to call api.example directly, add it to NO_PROXY"
    )
    assert error.should_retry is False


async def test_other_failures_leave_the_retries_to_the_client() -> None:
    assert (await refusal_at("http://nobody.invalid")).should_retry is None


def test_a_path_with_a_query_is_joined_to_an_address_with_a_query() -> None:
    assert join_url("http://a/b?api-version=1", "/models?limit=3") == "http://a/b/models?limit=3&api-version=1"
