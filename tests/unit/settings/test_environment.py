"""Settings that the system gives to every program: colors, and proxies for outgoing requests."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from platformdirs import user_data_path

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.upstream.http.client import HttpTransport
from anthropic_proxy.engine.upstream.http.url import find_proxy
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest
from anthropic_proxy.errors import ConfigurationError, ShuttingDown
from anthropic_proxy.gateway.settings import Settings, load_settings
from anthropic_proxy.secrets import Secret
from tests.support.bound_requests import bound
from tests.support.interleaving import interleave

PROXY = "http://user:secret-of-the-proxy@127.0.0.1:3128"


def load(**environ: str) -> Settings:
    return load_settings(environ, PROVIDERS, env_file=None)


@pytest.mark.parametrize(
    ("environ", "proxies"),
    [
        ({}, {}),
        ({"HTTPS_PROXY": PROXY}, {"https": PROXY}),
        ({"https_proxy": PROXY, "HTTPS_PROXY": "http://other:1"}, {"https": PROXY}),
        ({"HTTP_PROXY": "127.0.0.1:3128"}, {"http": "http://127.0.0.1:3128"}),
        ({"ALL_PROXY": PROXY, "HTTP_PROXY": "http://other:1"}, {"http": "http://other:1", "https": PROXY}),
    ],
)
def test_proxies_are_found_by_scheme(environ: dict[str, str], proxies: dict[str, str]) -> None:
    settings = load(**environ)
    assert {scheme: proxy.reveal() for scheme, proxy in settings.http_proxies.items()} == proxies
    assert "secret-of-the-proxy" not in repr(settings)


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "https_proxy", "all_proxy"])
@pytest.mark.parametrize("kind", ["socks5", "socks5h", "SOCKS4", "ftp"])
def test_a_proxy_of_another_kind_is_an_error_so_that_no_request_bypasses_it(variable: str, kind: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(**{variable: f"{kind}://ann:secret-of-the-proxy@127.0.0.1:1080"})
    assert caught.value.messages == (
        f"{variable} names a {kind.lower()} proxy, which is not supported. Use an http or https proxy, or unset it.",
    )


def test_a_proxy_of_another_kind_is_ignored_behind_one_that_takes_precedence() -> None:
    settings = load(ALL_PROXY="socks5://127.0.0.1:1080", HTTP_PROXY=PROXY, HTTPS_PROXY=PROXY)
    assert {scheme: proxy.reveal() for scheme, proxy in settings.http_proxies.items()} == {
        "http": PROXY,
        "https": PROXY,
    }


def test_a_file_does_not_set_the_outgoing_proxy(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(f"HTTPS_PROXY={PROXY}\n", encoding="utf-8")
    settings = load_settings({}, PROVIDERS, env_file=str(file))
    assert not settings.http_proxies
    assert settings.warnings == (f"HTTPS_PROXY ({file} line 1) has no effect. Set it in the environment of the proxy.",)


@pytest.mark.parametrize(
    ("unproxied", "direct"),
    [
        *[("", False), ("other.example", False), ("127.0.0.1", True), ("x, 127.0.0.1:{port}", True), ("*", True)],
        *[("127.0.0.0/8", True), ("127.0.0.1:1", False), ("10.0.0.0/8, fd00::/8", False)],
    ],
)
async def test_requests_go_through_the_proxy_unless_their_host_is_excepted(unproxied: str, direct: bool) -> None:
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).split(b" ")[1])
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    both = f"http://127.0.0.1:{port}"
    upstream = HttpTransport(1.0, proxies={"http": both}, no_proxy_hosts=unproxied.format(port=port))
    response = await upstream.send(bound(both, UpstreamRequest(method="GET", path="/models", headers={}, body=b"")))
    await response.close()
    await upstream.close()
    server.close()
    assert asked == [b"/models" if direct else f"{both}/models".encode()]


@pytest.mark.parametrize(
    ("host", "excepted", "others"),
    [
        (
            "api.corp.example:8080",
            [
                "corp.example",
                ".corp.example",
                "*.corp.example",
                "CORP.Example",
                "corp.example.",
                "api.corp.example:8080",
                "a, *",
            ],
            [
                "xcorp.example",
                "p.example",
                "api.corp.example:9090",
                "corp.example:²",
                "*.api.corp.example.org",
                " ",
                ",",
                "10.0.0.0/8",
            ],
        ),
        ("api.corp.example.", ["corp.example", "api.corp.example:80"], ["example.org"]),
        ("10.1.2.3", ["10.0.0.0/8", "10.1.2.3", "10.1.0.0/255.255.0.0", "10.1.2.3:80"], ["10.2.0.0/16", "1.2.3.4"]),
        ("[fd00::1]:90", ["fd00::/8", "fd00::1", "[fd00::1]", "[fd00::1]:90"], ["[fd00::1]:91", "fd00::2", "::/128"]),
    ],
)
def test_the_forms_of_no_proxy(host: str, excepted: list[str], others: list[str]) -> None:
    def goes_directly(entries: str) -> bool:
        return find_proxy(f"http://{host}/v1", {"http": PROXY}, entries) is None

    assert [entry for entry in (*excepted, *others) if goes_directly(entry)] == excepted


@pytest.mark.parametrize("entries", ["", "corp.example", "*.local , 10.0.0.0/8"])
@pytest.mark.parametrize(
    ("host", "is_direct"),
    [
        *[
            (host, True)
            for host in ("localhost", "LOCALHOST", "localhost.", "ollama.localhost", "127.0.0.1", "127.9.9.9")
        ],
        *[
            (f"{host}:8000", True)
            for host in ("localhost", "127.0.0.1", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]")
        ],
        *[(host, False) for host in ("xlocalhost", "localhost.example", "192.168.1.7", "[fd00::1]", "128.0.0.1")],
    ],
)
def test_the_outgoing_proxy_is_not_used_for_this_machine(host: str, is_direct: bool, entries: str) -> None:
    settings = load(HTTP_PROXY=PROXY, HTTPS_PROXY=PROXY, NO_PROXY=entries)
    proxies = {scheme: proxy.reveal() for scheme, proxy in settings.http_proxies.items()}
    for scheme in ("http", "https"):
        assert (find_proxy(f"{scheme}://{host}/v1", proxies, settings.no_proxy_hosts) is None) is is_direct


@pytest.mark.parametrize("address", ["http://", "http://:3128", "http://user:password@"])
def test_an_outgoing_proxy_without_a_host_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(HTTP_PROXY=address)
    assert caught.value.messages == (
        "HTTP_PROXY names no host. Use an address such as http://proxy.example.com:8080, or unset it.",
    )


async def test_a_removed_outgoing_proxy_stays_removed() -> None:
    upstream = HttpTransport(1.0)
    await upstream.close()
    with pytest.raises(ShuttingDown):
        await upstream.send(bound("http://127.0.0.1:9", UpstreamRequest(method="GET", path="/", headers={}, body=b"")))


@pytest.mark.parametrize("variables", [{}, {"XDG_DATA_HOME": "/data/of/user"}])
def test_the_data_directory_is_that_of_platformdirs(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The library itself would delay each start of the server."""
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    expected = user_data_path("anthropic-proxy", appauthor=False)
    assert load(**os.environ).data_directory == expected


def test_without_a_home_there_is_no_data_directory() -> None:
    assert load().data_directory is None


def test_a_key_for_litellm_that_two_threads_export_is_replaced_by_the_next_reload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_key(key: str) -> Settings:
        (tmp_path / ".env").write_text(f"MISTRAL_API_KEY={key}\n", encoding="utf-8")
        return load_settings({}, PROVIDERS, env_file=str(tmp_path / ".env"))

    def build() -> tuple[Callable[[], None], Callable[[], None]]:
        environ: dict[str, str] = {}
        exported: dict[str, Secret] = {}
        monkeypatch.setattr(os, "environ", environ)
        runs.append((environ, exported))
        return lambda: before.export_to_litellm(exported), lambda: before.export_to_litellm(exported)

    before, after = load_key("before-0123456789"), load_key("after-0123456789")
    runs: list[tuple[dict[str, str], dict[str, Secret]]] = []
    assert len(interleave(build, blocked_seconds=0.01)) > 10
    for environ, exported in runs:
        monkeypatch.setattr(os, "environ", environ)
        after.export_to_litellm(exported)
        assert environ["MISTRAL_API_KEY"] == "after-0123456789"
