"""Proxy and certificates of one provider, set by `[providers.NAME]`, against servers on this machine."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trustme

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.upstream.http.client import HttpTransport
from anthropic_proxy.engine.upstream.transports import Transports
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest
from anthropic_proxy.errors import UpstreamUnreachable
from anthropic_proxy.gateway.settings import CONFIG_FILE, Settings, load_settings
from anthropic_proxy.secrets import redact_error, redact_secrets
from tests.support.bound_requests import bound
from tests.support.http_server import Server, read_all, serving, tunnel
from tests.support.messages import exactly
from tests.support.waiting import WAIT_SECONDS

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
GET = UpstreamRequest(path="/x", body=b"", method="GET")


@pytest.fixture
def event_loop_policy(each_event_loop_policy: asyncio.AbstractEventLoopPolicy) -> asyncio.AbstractEventLoopPolicy:
    return each_event_loop_policy


async def answer(_: Server, writer: asyncio.StreamWriter) -> None:
    writer.write(OK)


def load(folder: Path, text: str, **environ: str) -> Settings:
    (folder / CONFIG_FILE).write_text(text)
    return load_settings(environ, PROVIDERS, env_file=str(folder / ".env"))


def table(text: str = "") -> str:
    return f"[providers.openai]\n{text}\n"


async def fetch(transports: Transports, url: str, name: str = "openai") -> bytes:
    return await read_all(await transports.by_provider()[name](bound(url, GET)))  # type: ignore[arg-type]


@asynccontextmanager
async def socks_proxy(
    asked: list[bytes], *, user: bytes = b"", password: bytes = b"", status: int = 0, port: int = 0
) -> AsyncIterator[int]:
    """A SOCKS 5 proxy (RFC 1928, RFC 1929) that connects to `port` of this machine, whatever it is asked for."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            version, count = await reader.readexactly(2)
            assert version == 5
            offered = await reader.readexactly(count)
            method = 2 if user else 0
            writer.write(bytes([5, method if method in offered else 0xFF]))
            if method == 2:
                if method not in offered:
                    writer.close()
                    return
                assert (await reader.readexactly(1)) == b"\x01"
                given = [await reader.readexactly((await reader.readexactly(1))[0]) for _ in range(2)]
                writer.write(b"\x01\x00" if given == [user, password] else b"\x01\x01")
            head = await reader.readexactly(4)
            assert head[:3] == b"\x05\x01\x00"
            length = {1: 4, 4: 16}.get(head[3]) or (await reader.readexactly(1))[0]
            asked.append(bytes([head[3]]) + await reader.readexactly(length + 2))
            writer.write(bytes([5, status, 0, 3, 4]) + b"here\x00\x01")
            if status:
                writer.close()
                return
            await tunnel(reader, writer, port)

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield listener.sockets[0].getsockname()[1]
    listener.close()


async def test_a_socks_proxy_gets_the_name_of_the_server_and_only_calls_of_its_provider(tmp_path: Path) -> None:
    authority, asked = trustme.CA(), list[bytes]()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("models.example").configure_cert(tls)
    async with (
        serving(answer, tls=tls) as (server, port),
        serving(answer) as (plain, plain_port),
        socks_proxy(asked, user=b"me", password=b"pass:word", port=port) as at,
    ):
        text = table("proxy = { env = 'THE_PROXY' }\nca_file = 'ca.pem'")
        settings = load(tmp_path, text, THE_PROXY=f"socks5h://me:pass%3Aword@127.0.0.1:{at}")
        transports = Transports(settings)
        for _ in range(2):
            assert await fetch(transports, "https://models.example") == b"ok"
        assert await fetch(transports, f"http://127.0.0.1:{plain_port}", "groq") == b"ok"
        await transports.close()
    assert (server.connections, plain.connections) == (1, 1)
    assert asked == [b"\x03models.example" + (443).to_bytes(2, "big")]


async def test_without_tls_a_socks_proxy_gets_no_absolute_url() -> None:
    asked: list[bytes] = []
    async with serving(answer) as (server, port), socks_proxy(asked, port=port) as at:
        upstream = HttpTransport(5, proxies={"http": f"socks5://127.0.0.1:{at}"})
        assert await read_all(await upstream.send(bound(f"http://127.0.0.1:{port}", GET))) == b"ok"
        await upstream.close()
    assert asked == [b"\x01" + socket.inet_aton("127.0.0.1") + port.to_bytes(2, "big")]
    assert server.heads[0].startswith("GET /x HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("address", "reply", "reason"),
    [
        ("socks5://127.0.0.1:{}", {"status": 2}, "the SOCKS proxy answers: its rules do not allow this server"),
        ("socks5://127.0.0.1:{}", {"status": 77}, "the SOCKS proxy answers: error 77"),
        (
            "socks5://127.0.0.1:{}",
            {"user": b"a"},
            "the SOCKS proxy requires user and password; set them in its address: socks5://user:password@host:port",
        ),
        (
            "socks5://a:wrong-one@127.0.0.1:{}",
            {"user": b"a", "password": b"b"},
            "the SOCKS proxy rejects the user or the password",
        ),
    ],
)
async def test_what_a_socks_proxy_refuses_is_said_without_the_password(
    address: str, reply: dict[str, object], reason: str
) -> None:
    async with socks_proxy([], **reply) as at:  # type: ignore[arg-type]
        upstream = HttpTransport(5, proxies={"http": address.format(at)})
        with pytest.raises(UpstreamUnreachable) as raised:
            await upstream.send(bound("http://models.example", GET))
        await upstream.close()
    place = f"http://models.example through the proxy socks5://127.0.0.1:{at}"
    assert str(raised.value) == f"no server responds at {place} ({reason})"


def mutual_tls(folder: Path, authority: trustme.CA, issuer: trustme.CA) -> ssl.SSLContext:
    """Return the context of a server that requires a certificate of `authority`. `ca.pem` is that of the authority.

    `own.pem` and `own.key` are a certificate of `issuer`.
    """
    authority.cert_pem.write_to_path(folder / "ca.pem")
    own = issuer.issue_cert("the-proxy.example")
    own.private_key_pem.write_to_path(folder / "own.key")
    own.cert_chain_pems[0].write_to_path(folder / "own.pem")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.configure_trust(tls)
    tls.verify_mode = ssl.CERT_REQUIRED
    return tls


async def test_a_server_that_wants_a_certificate_gets_that_of_the_table(tmp_path: Path) -> None:
    authority = trustme.CA()
    tls = mutual_tls(tmp_path, authority, issuer=authority)
    with_ca, with_both = "ca_file = 'ca.pem'\n", "client_certificate = { file = 'own.pem', key_file = 'own.key' }\n"
    async with serving(answer, tls=tls) as (server, port):
        unknown = (
            "the certificate is not accepted: self-signed certificate in certificate chain; "
            "for an authority of your network, set ca_file in [providers.NAME], or SSL_CERT_FILE"
        )
        for text, problem in [("headers = { x = 'a' }", unknown), (with_ca, None), (with_ca + with_both, "")]:
            transports = Transports(load(tmp_path, table(text)))
            if problem == "":
                assert await fetch(transports, f"https://127.0.0.1:{port}") == b"ok"
            else:
                with pytest.raises(UpstreamUnreachable) as raised:
                    await fetch(transports, f"https://127.0.0.1:{port}")
                if problem is not None:
                    assert str(raised.value) == f"no server responds at https://127.0.0.1:{port} ({problem})"
            await transports.close()
    assert len(server.heads) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "",
            "TLS failed: the server requires a client certificate; set client_certificate in [providers.NAME]",
        ),
        (
            "client_certificate = { file = 'own.pem', key_file = 'own.key' }\n",
            "TLS failed: the server rejects the client certificate (unknown ca); "
            "change client_certificate in [providers.NAME]",
        ),
    ],
)
async def test_a_missing_or_rejected_certificate_is_said_with_its_field(
    tmp_path: Path, text: str, message: str
) -> None:
    tls = mutual_tls(tmp_path, trustme.CA(), issuer=trustme.CA())

    def serve(listener: socket.socket) -> None:  # asyncio's server ends the connection before it tells the reason
        connection = tls.wrap_socket(listener.accept()[0], server_side=True, do_handshake_on_connect=False)
        with connection, suppress(OSError):
            with suppress(ssl.SSLError):
                connection.do_handshake()
            while socket.socket.recv(connection, 65_536):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        served = asyncio.create_task(asyncio.to_thread(serve, listener))
        transports = Transports(load(tmp_path, table("ca_file = 'ca.pem'\n" + text)))
        address = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(UpstreamUnreachable) as raised:
            await fetch(transports, address)
        await transports.close()
        await served
    assert str(raised.value) == f"no server responds at {address} ({message})"


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("", "requires a client certificate, set client_certificate in [providers.NAME]"),
        (
            "client_certificate = { file = 'own.pem', key_file = 'own.key' }\n",
            "rejects the client certificate, change client_certificate in [providers.NAME]",
        ),
    ],
)
async def test_a_server_that_rejects_the_certificate_without_an_alert_is_said_with_the_field(
    tmp_path: Path, text: str, advice: str
) -> None:
    tls = mutual_tls(tmp_path, trustme.CA(), issuer=trustme.CA())
    async with serving(answer, tls=tls) as (_, port):  # asyncio's server ends the connection without an alert
        transports = Transports(load(tmp_path, table("ca_file = 'ca.pem'\n" + text)))
        with pytest.raises(UpstreamUnreachable) as raised:
            await fetch(transports, f"https://127.0.0.1:{port}")
        await transports.close()
    assert str(raised.value) == (
        f"no server responds at https://127.0.0.1:{port} (the server closes each connection after the TLS handshake; "
        f"if it {advice})"
    )


async def test_a_reset_that_hides_the_alert_is_said_with_the_field(tmp_path: Path) -> None:
    tls = mutual_tls(tmp_path, trustme.CA(), issuer=trustme.CA())

    def serve(listener: socket.socket) -> None:
        for hides in (True, False):
            try:
                connection = listener.accept()[0]
            except TimeoutError:
                return
            if hides:  # the reset removes the alert from what the client has received
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            wrapped = tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            with wrapped, suppress(OSError):
                with suppress(ssl.SSLError):
                    wrapped.do_handshake()
                while not hides and socket.socket.recv(wrapped, 65_536):
                    pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(WAIT_SECONDS)
        served = asyncio.create_task(asyncio.to_thread(serve, listener))
        transports = Transports(load(tmp_path, table("ca_file = 'ca.pem'\n")))
        address = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(UpstreamUnreachable) as raised:
            await fetch(transports, address)
        await transports.close()
        with socket.create_connection(listener.getsockname()):  # ends `serve` if the first connection was enough
            pass
        await served
    assert str(raised.value) == (
        f"no server responds at {address} (TLS failed: the server requires a client certificate; "
        "set client_certificate in [providers.NAME])"
    )


@pytest.mark.parametrize("resets", [False, True])
async def test_a_server_that_closes_during_a_request_without_wanting_a_certificate_gets_no_such_advice(
    tmp_path: Path, resets: bool
) -> None:
    async def end(_: Server, writer: asyncio.StreamWriter) -> None:
        if resets:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    async with serving(end, tls=tls) as (server, port):
        transports = Transports(load(tmp_path, table("ca_file = 'ca.pem'\n")))
        with pytest.raises(UpstreamUnreachable) as raised:
            await fetch(transports, f"https://127.0.0.1:{port}")
        await transports.close()
    address = f"https://127.0.0.1:{port}"
    assert str(raised.value) == (
        f"no server responds at {address} (connection reset)"
        if resets
        else f"{address} closed the connection without an answer"
    )
    assert len(server.heads) == 1


async def test_none_bypasses_the_proxy_of_the_environment_and_an_address_ignores_no_proxy(tmp_path: Path) -> None:
    async with serving(answer) as (server, port), serving(answer) as (proxy, proxy_port):
        environ = {"HTTP_PROXY": f"http://127.0.0.1:{proxy_port}"}
        transports = Transports(load(tmp_path, table("proxy = 'none'"), **environ))
        assert await fetch(transports, f"http://127.0.0.1:{port}") == b"ok"
        assert (server.connections, proxy.connections) == (1, 0)
        assert await fetch(transports, f"http://127.0.0.1:{port}", "groq") == b"ok", "this machine needs no proxy"
        assert (server.connections, proxy.connections) == (2, 0)
        assert await fetch(transports, "http://models.example", "groq") == b"ok"
        assert (server.connections, proxy.connections) == (2, 1)
        await transports.close()
        text = table(f"proxy = 'http://127.0.0.1:{proxy_port}'")
        transports = Transports(load(tmp_path, text, NO_PROXY="127.0.0.1"))
        assert await fetch(transports, f"http://127.0.0.1:{port}") == b"ok"
        assert (server.connections, proxy.connections) == (2, 2)
        await transports.close()


async def test_a_proxy_that_wants_a_password_is_named_with_the_table(tmp_path: Path) -> None:
    async def refuse(_: Server, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")

    async with serving(refuse) as (_, port):
        transports = Transports(load(tmp_path, table(f"proxy = 'http://127.0.0.1:{port}'")))
        message = (
            f"no server responds at http://models.example through the proxy http://127.0.0.1:{port} (the proxy "
            "answers with HTTP 407; set user and password in proxy of [providers.openai]: "
            "http://user:password@host:port)"
        )
        with pytest.raises(UpstreamUnreachable, match=exactly(message)):
            await fetch(transports, "http://models.example")
        await transports.close()


async def test_a_proxy_that_does_not_answer_or_rejects_the_password_is_named_without_the_password(
    tmp_path: Path,
) -> None:
    async def silent(_: Server, writer: asyncio.StreamWriter) -> None:
        await writer.wait_closed()

    async def refuse(_: Server, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n")

    reasons = {
        silent: "no connection in time",
        refuse: "the proxy answers with HTTP 401; set user and password in proxy of [providers.openai]: "
        "http://user:password@host:port",
    }
    for answer_of_proxy, reason in reasons.items():
        async with serving(answer_of_proxy) as (_, port):
            text = table("proxy = { env = 'THE_PROXY' }")
            login = "alice:w%2Fonder-1"
            settings = load(tmp_path, text, THE_PROXY=f"http://{login}@127.0.0.1:{port}", UPSTREAM_CONNECT_TIMEOUT="1")
            transports = Transports(settings)
            with pytest.raises(UpstreamUnreachable) as raised:
                await fetch(transports, "https://models.example")
            await transports.close()
        error = raised.value
        redact_error(error, settings.reveal_all_secrets())
        place = f"https://models.example through the proxy http://127.0.0.1:{port}"
        assert error.message == f"no server responds at {place} ({reason})"
        assert redact_secrets(f"http://{login}@h w/onder-1", settings.reveal_all_secrets()) == "http://…er-1@h …"


def test_a_renewed_certificate_opens_new_connections_at_a_reload(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    transports = Transports(load(tmp_path, table("ca_file = 'ca.pem'")))
    assert transports.reuse_or_replace(load(tmp_path, table("ca_file = 'ca.pem'\nheaders = { x = 'a' }"))) is transports
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    assert transports.reuse_or_replace(load(tmp_path, table("ca_file = 'ca.pem'"))) is not transports


@pytest.mark.parametrize("text", ["", table("proxy = 'none'")])
async def test_connections_that_are_kept_for_the_next_request_end_with_the_engine(tmp_path: Path, text: str) -> None:
    async with serving(answer) as (server, port):
        transports = Transports(load(tmp_path, text))
        assert await fetch(transports, f"http://127.0.0.1:{port}") == b"ok"
        assert not server.lost.is_set()
        await transports.close()
        async with asyncio.timeout(WAIT_SECONDS):
            await server.lost.wait()
