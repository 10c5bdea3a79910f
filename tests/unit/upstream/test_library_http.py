"""Servers whose replies to libraries have no end: a log-in, an export of traces and an update of prices give up."""

import gzip
import math
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from anthropic_proxy.app import App
from anthropic_proxy.engine.upstream import library_http
from anthropic_proxy.engine.upstream.cloud_credentials import (
    FOUNDRY_SCOPE,
    AccessToken,
    AwsCredentials,
    EntraCredentials,
    GoogleCredentials,
    TokenCache,
    TokenLoader,
)
from anthropic_proxy.engine.upstream.library_http import new_requests_session
from anthropic_proxy.engine.wires.upstream_http import Credential
from anthropic_proxy.errors import ProxyError, UpstreamUnreachable
from anthropic_proxy.gateway.prices.updates import PriceUpdates
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Plugin
from tests.support.fakes.google_tokens import write_service_account
from tests.support.waiting import WAIT_SECONDS, wait_for_async

MIB = 1024 * 1024
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


class EndlessServer:
    """Sends `head` and then `piece` again and again, until the other side closes the connection."""

    def __init__(self, head: bytes, piece: bytes, may_send: threading.Event | None = None) -> None:
        self.sent = 0
        self._head, self._piece, self._may_send = head, piece, may_send
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                accepted, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._send, args=(accepted,), daemon=True).start()

    def _send(self, accepted: socket.socket) -> None:
        with accepted, suppress(OSError):
            accepted.recv(65_536)
            accepted.sendall(self._head)
            while self._may_send is None or not self._may_send.wait(0.01):
                accepted.sendall(self._piece)
                self.sent += len(self._piece)

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._socket.close()


@contextmanager
def endless(head: bytes, piece: bytes) -> Iterator[EndlessServer]:
    server = EndlessServer(head, piece)
    try:
        yield server
    finally:
        server.close()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


BODIES = {
    "plain": (HEAD + b"\r\n", b" " * 65_536),
    "chunked": (HEAD + b"transfer-encoding: chunked\r\n\r\n", chunk(b" " * 65_536)),
    "compressed": (
        HEAD + b"content-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n",
        chunk(gzip.compress(bytes(16 * MIB))),
    ),
    "head": (b"HTTP/1.1 200 OK\r\n", b"x: y\r\n" * 1000),
    "interim": (b"HTTP/1.1 103 x\r\n\r\n", b"HTTP/1.1 103 x\r\n\r\n" * 1000),
}
"""Kind of a reply without end → its beginning, and what is repeated."""
MAX_SENT = 32 * MIB
"""Limit of what such a server can send, with the buffers of both sockets."""
Load = Callable[[int, Path, pytest.MonkeyPatch], Any]


def load_google(port: int, folder: Path, _: pytest.MonkeyPatch) -> Any:
    file = write_service_account(folder, f"http://127.0.0.1:{port}")
    return GoogleCredentials(str(file), needs_project=False, connect_timeout=5).request_token()


def load_container(port: int, _: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{port}/x")
    return AwsCredentials("us-east-1", {}).request_token()


def load_sts(port: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (folder / "token").write_text("token", "utf-8")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(folder / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/mine")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    return AwsCredentials("us-east-1", {}).request_token()


def load_azure(port: int, _: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("IDENTITY_ENDPOINT", f"http://127.0.0.1:{port}/token")
    monkeypatch.setenv("IDENTITY_HEADER", "x")
    return EntraCredentials({}, FOUNDRY_SCOPE).request_token()


@pytest.fixture(autouse=True)
def _no_other_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AZURE_CLIENT_ID", "AZURE_TENANT_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("load", [load_google, load_container, load_sts, load_azure])
def test_a_log_in_reads_no_reply_without_end(
    load: Load, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)
    with endless(*BODIES[kind]) as server:
        with pytest.raises(ProxyError):
            load(server.port, tmp_path, monkeypatch)
        assert server.sent < MAX_SENT


@pytest.mark.parametrize("kind", BODIES)
def test_an_export_of_traces_reads_no_reply_without_end(kind: str) -> None:
    import requests

    with endless(*BODIES[kind]) as server:
        with pytest.raises(requests.exceptions.RequestException) as caught:
            new_requests_session("traces").post(f"http://127.0.0.1:{server.port}/v1/traces", data=b"x", timeout=60)
        assert server.sent < MAX_SENT
    if kind == "plain":
        assert str(caught.value) == "the reply is larger than 4 MiB"


def test_a_reply_that_comes_slowly_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import requests

    monkeypatch.setattr(library_http, "MAX_SECONDS", 0.2)
    server = EndlessServer(HEAD + b"content-length: 1000000\r\n\r\n", b" ", threading.Event())
    with pytest.raises(requests.exceptions.ReadTimeout, match=r"^127\.0\.0\.1 did not answer in time$"):
        new_requests_session("traces").get(f"http://127.0.0.1:{server.port}/", timeout=WAIT_SECONDS)
    server.close()


@pytest.mark.parametrize("kind", ["plain", "compressed"])
async def test_an_update_of_prices_reads_no_list_without_end(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    with endless(*BODIES[kind]) as server:
        settings = Settings(price_update_days=7, price_update_url=f"http://127.0.0.1:{server.port}/prices.json")
        updates = PriceUpdates(settings, start_delay_seconds=0.0)
        app = App(settings, logs_startup=False, plugins=[Plugin(start=updates.start, stop=updates.stop)])
        await app.start()
        shown: list[str] = []

        def read() -> str:
            shown.append(capsys.readouterr().err)
            return "".join(shown)

        await wait_for_async(lambda: "The prices are not updated (update_days of [price_list]): " in read())
        await app.close()
        assert server.sent < 2 * MAX_SENT
    assert "the reply is larger than 16 MiB" in "".join(shown)


class OneAnswer:
    """Answers each request with the same bytes, and closes the connection."""

    def __init__(self, answer: bytes) -> None:
        self.requests = 0
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                accepted, _ = self._socket.accept()
                with accepted:
                    accepted.recv(65_536)
                    self.requests += 1
                    accepted.sendall(self._answer)

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@contextmanager
def answering(head: bytes, body: bytes = b"") -> Iterator[OneAnswer]:
    server = OneAnswer(head + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    try:
        yield server
    finally:
        server.close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("load", [load_google, load_container, load_sts, load_azure])
def test_a_log_in_follows_no_redirect_to_another_server(
    load: Load, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)
    with answering(HEAD, b"{}") as other:
        head = b"HTTP/1.1 %d x\r\nlocation: http://127.0.0.1:%d/token\r\n" % (status, other.port)
        with answering(head) as server, pytest.raises(ProxyError):
            load(server.port, tmp_path, monkeypatch)
        assert (server.requests > 0, other.requests) == (True, 0)


class Given(TokenLoader):
    """A log-in that gives one token."""

    origin, library, rejection_statuses = "the log-in", "library", (401,)

    def __init__(self, value: str, *further: str) -> None:
        self._credential = Credential("authorization", f"Bearer {value}", further_secrets=further)

    def request_token(self) -> AccessToken:
        return AccessToken(self._credential, None, math.inf)

    def discard_loaded(self) -> bool:
        return False


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("x" * 65_537,), "no access token: a token or key has 65,537 characters; at most 65,536 are accepted"),
        (("x", "y" * 65_537), "no access token: a token or key has 65,537 characters; at most 65,536 are accepted"),
        *(
            ((value,), "no access token: a token or key has a character other than printable ASCII")
            for value in ("a\r\nx: y", "a\0b", "\ud800", "\u20ac")
        ),
    ],
)
async def test_a_token_that_no_header_can_have_is_none(given: tuple[str, ...], message: str) -> None:
    with pytest.raises(UpstreamUnreachable) as raised:
        await TokenCache(Given(*given)).acquire_token()
    assert raised.value.message == f"{message} (the log-in)"


@pytest.mark.parametrize("value", ["null", "[]", "{}", "5", '""', '" "'])
@pytest.mark.parametrize("load", [load_google, load_azure])
def test_a_token_that_is_no_text_is_none(
    load: Load, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = f'{{"access_token": {value}, "expires_in": 3600, "expires_on": "4102444800", "token_type": "Bearer"}}'
    with answering(HEAD, body.encode()) as server, pytest.raises(ProxyError):
        load(server.port, tmp_path, monkeypatch)
