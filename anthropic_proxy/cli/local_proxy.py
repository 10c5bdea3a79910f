"""The proxy on this machine, for commands that need one: found at PORT, or started for the time of one command."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from msgspec import Struct

from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.platforms.child_process import background_options
from anthropic_proxy.routing.providers import find_provider
from anthropic_proxy.routing.router.targets import preferred_provider_name
from anthropic_proxy.settings import Settings
from anthropic_proxy.upstream.local_server import get_json

MAX_LOG_BYTES = 10 * 1024 * 1024
"""Size of the log of started proxies above which the next start begins a new file."""
_STOP_MARGIN_SECONDS = 5.0
"""Time that a stopping proxy may take beyond `STOP_TIMEOUT`, before it is killed."""
_LOG_NAME = "proxy.log"
_MAX_ERROR_CHARACTERS = 2_000


class LocalProxy(Struct, frozen=True):
    """A proxy on this machine that accepts requests."""

    host: str
    port: int
    version: str
    token: str
    """Credential for its clients: a key of `PROXY_API_KEY`, or `local` if none is required. "": the client's own."""
    log_file: Path | None = None
    """Log of a proxy that this command has started. None: the proxy was running before."""

    @property
    def address(self) -> str:
        """Base URL for clients, without a path."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    def get(self, path: str) -> Any | None:
        """Return the decoded JSON of `GET` of a path. None: no response in time, another status, or no JSON."""
        return get_json(self.host, self.port, path, self.token)


def find_proxy(settings: Settings) -> LocalProxy | None:
    """Return the proxy that listens on PORT of this machine. None: no proxy responds there."""
    for host in dict.fromkeys(("127.0.0.1", settings.host)):
        health = get_json(host, settings.port, "/health")
        if isinstance(health, dict) and health.get("status") == "ok" and isinstance(health.get("version"), str):
            return LocalProxy(host, settings.port, health["version"], client_token(settings))
    return None


def client_token(settings: Settings) -> str:
    """Return a credential that the proxy accepts: its first key, or `local` if it requires none.

    "": the proxy sends the client's own credential to the provider, because it has no key of the provider.
    """
    if settings.proxy_api_keys:
        return settings.proxy_api_keys[0].reveal()
    provider = find_provider(preferred_provider_name(settings, None))
    return "" if provider.accepts_client_credential and not settings.keys.get(provider.name) else "local"


@contextmanager
def open_proxy(settings: Settings) -> Iterator[LocalProxy]:
    """Yield the proxy on PORT of this machine. If none responds, start one on a free port and stop it afterwards.

    Raises `ConfigurationError` with the message of the proxy if it cannot start.
    """
    proxy = find_proxy(settings)
    if proxy is not None:
        yield proxy
        return
    log_file = _find_log_file()
    written_before = log_file.stat().st_size
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "anthropic_proxy", "serve", "--attached", "--host", "127.0.0.1", "--port", "0"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            **background_options(),
        )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().decode().strip()
        if not address:
            process.wait()
            message = log_file.read_bytes()[written_before:].decode(errors="replace").strip()[-_MAX_ERROR_CHARACTERS:]
            raise ConfigurationError(message.removeprefix("✕ ") or "The proxy did not start.")
        host, _, port = address.removeprefix("http://").rpartition(":")
        health = get_json(host, int(port), "/health")
        version = health["version"] if isinstance(health, dict) else ""
        yield LocalProxy(host, int(port), version, client_token(settings), log_file)
    finally:
        _stop(process, settings.stop_timeout_seconds + _STOP_MARGIN_SECONDS)


def _stop(process: "subprocess.Popen[bytes]", timeout: float) -> None:
    """Close the input of a proxy, which stops it. Kill the process if it still runs after `timeout` seconds."""
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _find_log_file() -> Path:
    """Return the path of the log of started proxies, in the user's log directory or else in a temporary one.

    A log above `MAX_LOG_BYTES` is renamed to `proxy.log.1` first.
    """
    from platformdirs import user_log_path  # noqa: PLC0415  # `serve` does not need it

    try:
        directory = user_log_path("anthropic-proxy", appauthor=False, ensure_exists=True)
        file = directory / _LOG_NAME
        file.touch(mode=0o600)
        if file.stat().st_size > MAX_LOG_BYTES:
            file.replace(directory / f"{_LOG_NAME}.1")
            file.touch(mode=0o600)
    except OSError:
        file = Path(tempfile.mkdtemp(prefix="anthropic-proxy-")) / _LOG_NAME
        file.touch(mode=0o600)
    return file
