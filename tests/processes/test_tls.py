"""TLS by setting: the official SDK over a generated certificate, a renewed certificate, messages for wrong files."""

import re
import ssl
import subprocess
import sys
import warnings
from pathlib import Path

import anthropic
import httpx2 as httpx
import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.server.listener import build_tls_context
from tests.support.fakes.server import Running
from tests.support.process_checks import port_of, serve
from tests.support.server_process import environment_of, hold_port, running_proxy
from tests.support.waiting import WAIT_SECONDS, wait_for


def write_certificate(folder: Path, authority: trustme.CA) -> dict[str, str]:
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_pem.write_to_path(str(folder / "proxy.key"))
    (folder / "proxy.pem").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    return {"TLS_CERT_FILE": str(folder / "proxy.pem"), "TLS_KEY_FILE": str(folder / "proxy.key")}


def trust(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def run_command(folder: Path, settings: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    environment = {**environment_of(folder), **settings}
    command = [sys.executable, "-m", "anthropic_proxy", *words]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False
    )


def test_the_sdk_streams_over_tls_and_a_renewed_certificate_is_used(
    openai: Running, settings: dict[str, str], tmp_path: Path
) -> None:
    authority, other = trustme.CA(), trustme.CA()
    files = write_certificate(tmp_path, authority)
    with running_proxy(tmp_path, {**settings, **files}, serve(1), trusted=trust(authority)) as proxy:
        address = ("127.0.0.1", port_of(proxy))
        with httpx.Client(verify=trust(authority), trust_env=False, timeout=WAIT_SECONDS) as own:
            client = anthropic.Anthropic(base_url=proxy.url, api_key="local", http_client=own, max_retries=0)
            question = [{"role": "user", "content": "Say exactly: hello"}]
            with client.messages.stream(model="claude-sonnet-4-6", max_tokens=100, messages=question) as stream:
                assert stream.get_final_text() == "hello"
            command = f"ANTHROPIC_BASE_URL={proxy.url} ANTHROPIC_AUTH_TOKEN=local claude"
            assert own.get(f"{proxy.url}/").json()["message"].endswith(f"Use it with Claude Code: {command}")
            before = ssl.get_server_certificate(address, timeout=WAIT_SECONDS)
            (tmp_path / "proxy.key").write_text("not a key")
            wait_for(lambda: "The current certificate stays active." in proxy.log)
            assert ssl.get_server_certificate(address, timeout=WAIT_SECONDS) == before
            write_certificate(tmp_path, other)
            wait_for(lambda: ssl.get_server_certificate(address, timeout=WAIT_SECONDS) != before)
            wait_for(lambda: "The TLS certificate was read again. New connections use it." in proxy.log)
            assert own.get(f"{proxy.url}/livez").http_version == "HTTP/1.1"  # open connections keep their certificate
        old = trust(other)
        with warnings.catch_warnings(action="ignore"):
            old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        with httpx.Client(verify=old, trust_env=False) as refused, pytest.raises(httpx.TransportError):
            refused.get(f"{proxy.url}/livez")
        health = run_command(tmp_path, {**files, "PORT": str(address[1])}, "health", "--json")
        assert (health.returncode, health.stderr) == (0, "")
        assert f'"address": "{proxy.url}"' in health.stdout


def test_commands_name_the_address_of_another_proxy_with_tls(tmp_path: Path) -> None:
    authority, folder = trustme.CA(), tmp_path / "proxy"
    folder.mkdir()
    files = write_certificate(folder, authority)
    with running_proxy(folder, {**files, "HOME": str(tmp_path)}, serve(1), trusted=trust(authority)) as proxy:
        port = port_of(proxy)
        other = "is another one: it uses settings without a provider, in ~/proxy."
        beside = "Start your own beside it:  anthropic-proxy serve --port "  # the next port may be in use
        described = run_command(tmp_path, {"PORT": str(port), "ANTHROPIC_PROXY_CONFIG": ""}, "config", "show").stderr
        assert described.startswith(f"  The proxy on port {port} {other} This command uses its own settings.\n")
        health = run_command(tmp_path, {"PORT": str(port)}, "health")
        text, _, free = health.stderr.rpartition(" ")
        assert (health.returncode, f"{text} ") == (0, f"  ! The proxy at {proxy.url} {other} {beside}")
        assert int(free) > port
        models = ("--big-model", "qwen3", "--small-model", "qwen3")
        words = ("init", "--provider", "ollama", "--yes", "--skip-test", *models)
        done = run_command(folder, {"HOME": str(tmp_path), "PORT": str(port)}, *words)
        assert f"The proxy at {proxy.url} uses the new settings" in done.stderr
        for own in (files, {}):
            second = run_command(folder, {**own, "HOME": str(tmp_path), "PORT": str(port)}, "serve")
            assert second.stderr.startswith(f"✕ Port {port} is in use by another anthropic-proxy (version ")


def test_a_session_without_tls_is_found_although_the_settings_have_it(tmp_path: Path) -> None:
    files = write_certificate(tmp_path, trustme.CA())
    health = (sys.executable, "-m", "anthropic_proxy", "health")
    with hold_port() as port:
        done = run_command(tmp_path, {**files, "PORT": str(port)}, "run", *health)
    assert re.search(r"responds at http://127\.0\.0\.1:\d+, started", done.stdout), done.stderr


def test_a_missing_certificate_is_no_proxy(tmp_path: Path) -> None:
    with hold_port() as port:
        settings = {"TLS_CERT_FILE": str(tmp_path / "proxy.pem"), "PORT": str(port)}
        ended = run_command(tmp_path, settings, "health")
    assert ended.stderr == (
        f"✕ No proxy responds on port {port} (PORT) of this machine. Start it:  anthropic-proxy serve\n"
    )


@pytest.mark.parametrize("command", [("serve",), ("config", "check")])
def test_wrong_files_are_reported_at_the_start(tmp_path: Path, command: tuple[str, ...]) -> None:
    files = write_certificate(tmp_path, trustme.CA())
    (tmp_path / "proxy.pem").unlink()
    started = run_command(tmp_path, files, *command)
    assert (started.returncode, started.stdout) == (2, "")
    assert started.stderr == (
        f'✕ TLS_CERT_FILE is "{tmp_path}/proxy.pem": no such file. Use the path of a PEM file with the certificate.\n'
    )
    alone = run_command(tmp_path, {"TLS_KEY_FILE": files["TLS_KEY_FILE"]}, *command)
    assert alone.stderr == "✕ TLS_KEY_FILE is set, and TLS_CERT_FILE is not. Set both, or neither.\n"


def test_each_wrong_pair_of_files_has_a_message(tmp_path: Path) -> None:
    files = write_certificate(tmp_path, trustme.CA())
    certificate, key = tmp_path / "proxy.pem", tmp_path / "proxy.key"
    assert build_tls_context(*files.values()).minimum_version == ssl.TLSVersion.TLSv1_2

    def message(certificate_file: Path, key_file: Path | str) -> str:
        with pytest.raises(ConfigurationError) as error:
            build_tls_context(str(certificate_file), str(key_file))
        return str(error.value).replace(f"{tmp_path}/", "")

    (tmp_path / "empty.pem").write_text("")
    assert message(tmp_path / "empty.pem", key) == (
        'TLS_CERT_FILE is "empty.pem": the file contains no certificate as PEM. Use a PEM file with it.'
    )
    assert message(certificate, "") == (
        'TLS_CERT_FILE is "proxy.pem": the file contains no private key as PEM. '
        "Set TLS_KEY_FILE, or add the key to this file."
    )
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(str(tmp_path / "other.key"))
    assert message(certificate, tmp_path / "other.key") == (
        'TLS_KEY_FILE is "other.key": the key does not belong to the first certificate of "proxy.pem". '
        "Use the key of this certificate, and put the certificate of the server first."
    )
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "encrypted.key").write_bytes(loaded.private_bytes(*form, encryption))
    assert message(certificate, tmp_path / "encrypted.key") == (
        'TLS_KEY_FILE is "encrypted.key": the key needs a passphrase. '
        "Use a key without one, readable only by the user of the server."
    )
    (tmp_path / "broken.key").write_text("-----BEGIN PRIVATE KEY-----\nbroken\n-----END PRIVATE KEY-----\n")
    assert re.fullmatch(
        'TLS_CERT_FILE "proxy.pem" and TLS_KEY_FILE "broken.key" cannot be used: .+[.] '
        "Check both files:  openssl x509 -in … and openssl pkey -in …",
        message(certificate, tmp_path / "broken.key"),
    )
