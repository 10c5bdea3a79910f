"""Access to the proxy on this machine, for commands that send requests to it. One is started if none runs."""

import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, structs
from platformdirs import user_log_path

from anthropic_proxy.cli.command_settings import (
    OtherSettings,
    describe_other_proxy,
    find_other_settings,
    is_named_by_user,
    list_hosts,
)
from anthropic_proxy.cli.output import Output
from anthropic_proxy.cli.proxy_client import (
    BUSY_TIMEOUT_SECONDS,
    PROBE_TIMEOUT_SECONDS,
    T,
    get_json,
    is_credential_rejected,
    is_served,
)
from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.engine.providers import PROVIDERS, find_registry
from anthropic_proxy.engine.routing.choices import choose_preferred_provider_name
from anthropic_proxy.errors import ConfigurationError, join_with_and
from anthropic_proxy.gateway.platforms.processes import background_popen_options, end_process, proxy_command
from anthropic_proxy.gateway.platforms.signals import request_reload
from anthropic_proxy.gateway.platforms.sockets import find_foreign_user, find_port_owner, format_url
from anthropic_proxy.gateway.running_proxy import (
    RunningProxy,
    ServerRecord,
    find_running_proxy,
    list_running_proxies,
)
from anthropic_proxy.gateway.server.listener import find_free_port
from anthropic_proxy.gateway.settings import Settings, load_settings
from anthropic_proxy.gateway.telemetry.logged_requests import RequestSnapshot

MAX_LOG_BYTES = 10 * 1024 * 1024
"""Size in bytes of the log of started proxies above which the next start begins a new file."""
_STOP_MARGIN_SECONDS = 5.0
"""Time in seconds that a stopping proxy may need in addition to `STOP_TIMEOUT`. Then the process is killed."""
RECENT_PATH = "/api/requests/recent"
"""URL path of the last requests. It also tests a credential: it needs that of a client, and calls no provider."""
_LOG_NAME = "proxy.log"
_MAX_TIME = 253_370_764_800.0
"""The year 9999 in seconds since the epoch: later times are none in some time zone."""
_RELOAD_SECONDS = 10.0
"""Maximum time in seconds until a proxy has read changed settings files."""
_POLL_SECONDS = 0.05
_MAX_ERROR_CHARACTERS = 2_000


class _LedgerHealth(Struct):
    condition: Annotated[str, Meta(max_length=100)]


class Health(Struct):
    """Reply of `/health`."""

    status: Literal["ok"]
    version: Annotated[str, Meta(max_length=100)]
    started_at: Annotated[datetime, Meta(tz=True)] | None = None
    ledger: _LedgerHealth | None = None

    @property
    def start_time(self) -> float:
        """Seconds since the epoch. 0: unknown."""
        return 0.0 if self.started_at is None else min(max(self.started_at.timestamp(), 0.0), _MAX_TIME)


class LocalProxy(Struct, frozen=True):
    """A proxy on this machine that accepts requests."""

    host: str
    port: int
    version: str
    token: str
    """Credential for clients: a key of `PROXY_API_KEY`, or `local` if none is required. "": clients use their own
    credential."""
    started_at: float = 0.0
    """Start time of this proxy in seconds since the epoch. 0: unknown."""
    certificate_file: str = ""
    """`TLS_CERT_FILE` of the proxy. "": the proxy uses no TLS."""
    log_file: Path | None = None
    """Log file of a proxy that this command has started. None: the proxy was already running."""
    foreign_user: str = ""
    """Another user of this machine who runs this proxy, and can read what is sent to it. "": unknown, or none."""
    other_settings: OtherSettings | None = None
    """What it uses in place of the settings of the command. None: the same, or it belongs to another user, or the user
    has named it in `ANTHROPIC_BASE_URL`."""

    @property
    def is_used(self) -> bool:
        """False: nothing is sent to it."""
        return not self.foreign_user and (self.other_settings is None or self.other_settings.is_used)

    @property
    def address(self) -> str:
        """Base URL for clients, without a path."""
        return format_url(self.host, self.port, uses_tls=bool(self.certificate_file))

    def get_json(self, path: str, timeout: float = BUSY_TIMEOUT_SECONDS) -> Any | None:
        """Return the JSON value at a URL path. None: no response in time, a status other than 200, or no JSON."""
        return get_json(self.host, self.port, path, self.token, self.certificate_file, timeout=timeout)

    def get_as(self, kind: type[T], path: str, token: str) -> T | None:
        """Return the JSON value at a URL path as `get_json`. None also if it is of another kind."""
        place = self.host, self.port, path, token, self.certificate_file
        return get_json(*place, timeout=BUSY_TIMEOUT_SECONDS, kind=kind)

    def get_health(self) -> Health | None:
        return self.get_as(Health, "/health", "")

    def has_ledger(self) -> bool:
        health = self.get_health()
        return health is not None and health.ledger is not None

    def has_dashboard(self) -> bool:
        return is_served(self.host, self.port, "/dashboard", self.token, self.certificate_file)

    def get_recent_requests(self) -> RequestSnapshot:
        """Return the last requests, none if the proxy does not tell them."""
        snapshot = self.get_as(RequestSnapshot, RECENT_PATH, self.token)
        return RequestSnapshot() if snapshot is None else snapshot


def find_proxy(settings: Settings, timeout: float | None = None) -> LocalProxy | None:
    """Return the proxy that listens on the PORT of `settings` on this machine, if commands use it. None: no such proxy
    responds there.
    """
    proxy = find_any_proxy(settings, timeout)
    return proxy if proxy is not None and proxy.is_used else None


def find_any_proxy(settings: Settings, timeout: float | None = None) -> LocalProxy | None:
    """Return the proxy that listens on the PORT of `settings`, also one that is not used. None: none responds within
    `timeout` seconds; without it, one that is known to run has more time than another program.
    """
    port = settings.port
    record = find_running_proxy(settings.data_directory, port)
    if timeout is None:
        timeout = PROBE_TIMEOUT_SECONDS if record is None else BUSY_TIMEOUT_SECONDS
    certificate = (settings.tls_certificate_file or "") if record is None else record.certificate_file
    responding = find_health(list_hosts(record, settings.host), port, certificate, timeout)
    if responding is None:
        return None
    host, health = responding
    # with TLS, the proxy has shown a certificate of this user
    is_trusted = certificate or is_named_by_user((host,), port)
    foreign_user = "" if is_trusted else find_foreign_user(host, port)
    other = None if foreign_user else find_other_settings(record, settings, (host,), port)
    token = client_token(settings)
    return LocalProxy(host, port, health.version, token, health.start_time, certificate, None, foreign_user, other)


def find_health(
    hosts: Collection[str], port: int, certificate_file: str, timeout: float = PROBE_TIMEOUT_SECONDS
) -> tuple[str, Health] | None:
    """Return the first address at which a proxy responds, and its reply to `/health`. `certificate_file`: "": it uses
    no TLS.
    """
    for host in hosts:
        health = get_json(host, port, "/health", certificate_file=certificate_file, timeout=timeout, kind=Health)
        if health is not None:
            return host, health
    return None


def describe_unused_proxy(proxy: LocalProxy, *, starts_own: bool = False) -> str:
    """Return the reason why a proxy is not used, and what to do. `starts_own`: the command starts another one."""
    if other := proxy.other_settings:
        described = describe_other_proxy(f"at {proxy.address}", other)
        if other.has_provider:
            return f"{described} To use it, set  ANTHROPIC_BASE_URL={proxy.address}"
        if starts_own:
            return described
        free_port = find_free_port(proxy.host, proxy.port)
        return f"{described} Start your own beside it:  anthropic-proxy serve --port {free_port}"
    return (
        f"The proxy at {proxy.address} belongs to another user of this machine, {proxy.foreign_user}, who can read "
        f"what is sent to it. If you trust this user, set  ANTHROPIC_BASE_URL={proxy.address}"
    )


def follow_session(settings: Settings) -> Settings:
    """Return the settings with the port of the proxy that `code` or `run` has started with the same settings files.

    If a proxy responds on PORT, or no such proxy is recorded, they are returned as they are.
    """
    if find_proxy(settings) is not None:
        return settings
    _, sessions = list_running_proxies(settings.data_directory, settings.env_file)
    with_ports = (structs.replace(settings, port=session.port) for session in sessions)
    return next(filter(find_proxy, with_ports), settings)


def require_proxy(settings: Settings) -> LocalProxy:
    """Raises `ConfigurationError` if no proxy responds."""
    proxy = find_any_proxy(settings)
    if proxy is not None:
        require_used_proxy(proxy)
        return proxy
    port = settings.port
    if (owner := find_port_owner(port)) is not None:
        raise ConfigurationError(
            f"No proxy responds on port {port} (PORT) of this machine: {owner.name} (process {owner.pid}) uses it. "
            "Set PORT to the port of the proxy.",
            code="no-proxy",
        )
    raise ConfigurationError(
        f"No proxy responds on port {port} (PORT) of this machine. Start it:  anthropic-proxy serve", code="no-proxy"
    )


def reload_proxies(output: Output, settings: Settings, env_file: Path) -> Collection[str]:
    """Let each proxy that `serve` has started with these files read them again, wait until it has, and tell the user.
    Without one, another proxy on PORT is named.

    `settings` are those before the change, with the earlier PORT. The result has the names of the settings in the
    environment of the proxies that use the new settings.
    """
    running, _ = list_running_proxies(settings.data_directory, str(env_file))
    variables: set[str] = set()
    for record in running:
        reloaded, text = _reload(record, settings.data_directory, env_file)
        output.write_notice(f"The proxy at {record.address} {text}", "!" if reloaded is None else "✓")
        if reloaded is not None:
            variables.update((*reloaded.variables, *reloaded.keys))
    if not running and (other := find_any_proxy(settings)) is not None and other.other_settings:
        described = describe_other_proxy(f"at {other.address}", other.other_settings)
        output.write_notice(f"{described} Commands start their own.", "!")
    return variables


def _reload(proxy: RunningProxy, directory: Path | None, env_file: Path) -> tuple[RunningProxy | None, str]:
    """Return the proxy with the new settings, and the end of a sentence about it. None: it does not use them yet."""
    if not proxy.process:
        return None, "uses the new settings after its next start."
    wanted = sorted(load_settings({}, PROVIDERS, env_file=str(env_file)).files.values())
    try:
        request_reload(proxy.process)
    except OSError as error:
        return None, f"cannot be reloaded: {describe_os_error(error)}. Start it again."
    deadline = time.monotonic() + _RELOAD_SECONDS
    while (reloaded := find_running_proxy(directory, proxy.port)) is None or sorted(reloaded.files.values()) != wanted:
        if time.monotonic() > deadline:
            return None, "did not accept the new settings. Its log has the reason."
        time.sleep(_POLL_SECONDS)
    later = f", and {join_with_and(reloaded.changed)} after its next start" if reloaded.changed else ""
    return reloaded, f"uses the new settings{later}."


def client_token(settings: Settings) -> str:
    """Return `LocalProxy.token` for a proxy with these settings."""
    if settings.proxy_api_keys:
        return settings.proxy_api_keys[0].reveal()
    provider = find_registry(settings).find(choose_preferred_provider_name(settings, None))
    return "" if provider.accepts_client_credential and not settings.keys.get(provider.name) else "local"


def administrator_token(settings: Settings, proxy: LocalProxy) -> str:
    """Return a credential that reads and changes the setup of the proxy, if the settings have one."""
    is_other = settings.admin_api_keys and not settings.proxy_api_keys
    return settings.admin_api_keys[0].reveal() if is_other else proxy.token


def require_used_proxy(proxy: LocalProxy) -> None:
    """Raises `ConfigurationError` if commands do not use `proxy`."""
    if not proxy.is_used:
        code = "foreign-proxy" if proxy.foreign_user else "other-proxy"
        raise ConfigurationError(describe_unused_proxy(proxy), code=code)


def require_accepted_credential(proxy: LocalProxy) -> None:
    """Raises `ConfigurationError` if `proxy` rejects `proxy.token`."""
    if is_credential_rejected(proxy.host, proxy.port, RECENT_PATH, proxy.token, proxy.certificate_file):
        raise ConfigurationError(
            f"The proxy at {proxy.address} requires a key, and these settings have none that it accepts. "
            "Set PROXY_API_KEY to one of its keys, in .env or in the environment.",
            code="no-proxy",
        )


@contextmanager
def open_proxy(settings: Settings, command: str) -> Iterator[LocalProxy]:
    """Return a context manager that yields the proxy of `find_proxy`, or starts one and stops it afterwards.

    `command`: name of the command that needs it. Texts of a started proxy name it as the way to start again.
    Raises `ConfigurationError` if the proxy cannot start or rejects the credential.
    """
    proxy = find_any_proxy(settings)
    if proxy is not None and proxy.is_used:
        if proxy.other_settings:
            Output().write_notice(f"The proxy at {proxy.address} uses {proxy.other_settings.text}.")
        require_accepted_credential(proxy)
        yield proxy
        return
    if proxy is not None:
        notice = f"This command starts a proxy of its own. {describe_unused_proxy(proxy, starts_own=True)}"
        Output().write_notice(notice, "!")
    try:
        directory = user_log_path("anthropic-proxy", appauthor=False, ensure_exists=True)
        log_file = directory / _LOG_NAME
        log_file.touch(mode=0o600)
        if log_file.stat().st_size > MAX_LOG_BYTES:
            log_file.replace(directory / f"{_LOG_NAME}.1")
            log_file.touch(mode=0o600)
    except OSError:
        log_file = Path(tempfile.mkdtemp(prefix="anthropic-proxy-")) / _LOG_NAME
        log_file.touch(mode=0o600)
    written_before = log_file.stat().st_size
    with log_file.open("ab") as log:
        words = ("serve", "--attached", "--watch-config", "--session", command, "--host", "127.0.0.1", "--port", "0")
        process = subprocess.Popen(
            proxy_command(*words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            **background_popen_options(),
        )
    record = ServerRecord(None)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().decode().strip()
        if not address:
            process.wait()
            message = log_file.read_bytes()[written_before:].decode(errors="replace").strip()[-_MAX_ERROR_CHARACTERS:]
            raise ConfigurationError(message.removeprefix("✕ ") or "The proxy did not start.")
        host, _, port = address.removeprefix("http://").rpartition(":")
        health = get_json(host, int(port), "/health", kind=Health)
        version = "" if health is None else health.version
        record = ServerRecord(int(port), host=host, session_command=command)
        record.open(structs.replace(settings, tls_certificate_file=None))  # as `serve --attached`
        yield LocalProxy(host, int(port), version, client_token(settings), log_file=log_file)
    finally:
        record.close()
        end_process(process, settings.stop_timeout_seconds + _STOP_MARGIN_SECONDS)
