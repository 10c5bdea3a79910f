"""Command `serve`: reads the settings, and starts the HTTP server of the proxy."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from anthropic_proxy.cli.command_settings import load_command_settings
from anthropic_proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from anthropic_proxy.settings import Settings
    from anthropic_proxy.workers.worker import LoadWorkerApp

MAX_WORKERS = 1000
"""Maximum of the option `--workers`, the number of server processes. A larger number is rejected at start-up."""


def serve(
    *,
    host: str | None = None,
    port: Annotated[int | None, Parameter(validator=())] = None,
    workers: int = 1,
    reload: bool = False,
    watch_config: bool = False,
    attached: bool = False,
) -> None:
    """Serve the Anthropic Messages API until SIGINT (Ctrl+C) or SIGTERM stops the server.

    Parameters
    ----------
    host
        Address to listen on; the default is HOST, else 127.0.0.1.
    port
        Port to listen on; the default is PORT, else 8082.
    workers
        Number of processes that share the port.
    reload
        Restart when the Python code changes; for development.
    watch_config
        Reload the settings when .env or anthropic-proxy.toml changes.
    attached
        Write the address to standard output, and stop when standard input ends; for programs that start the proxy.
    """
    from anthropic_proxy.cli.server_processes import run_server  # noqa: PLC0415  # --help needs none

    settings = _load_settings(host, port, attached=attached)
    run_server(
        _app_loader(settings),
        host=settings.host,
        port=settings.port,
        workers=0 if reload else _require_range("--workers", workers, 1, MAX_WORKERS),
        stop_timeout_seconds=settings.stop_timeout_seconds,
        drain_delay_seconds=settings.drain_delay_seconds,
        tls_files=_find_tls_files(settings),
        watched_files=_list_settings_files(settings) if watch_config else (),
        stops_at_end_of_input=attached,
    )


def _list_settings_files(settings: "Settings") -> tuple[str, ...]:
    from anthropic_proxy.settings.config_file import resolve_config_file_path  # noqa: PLC0415

    files = settings.env_file, resolve_config_file_path(settings.env_file)
    return tuple(file for file in files if file is not None)


def _app_loader(settings: "Settings") -> "LoadWorkerApp":
    """Return the function with which each server process builds the application, with this host and port."""
    from anthropic_proxy.app import load_app  # noqa: PLC0415

    return partial(load_app, {"host": settings.host, "port": settings.port})


def _load_settings(host: str | None, port: int | None, *, attached: bool) -> "Settings":
    """Return the settings of the environment, with the host and port of the command line if they are given.

    Raises `ConfigurationError` if other machines could reach the host and use the proxy without a key.
    """
    from msgspec.structs import replace  # noqa: PLC0415

    from anthropic_proxy.server.auth import require_auth_if_exposed  # noqa: PLC0415
    from anthropic_proxy.server.listen import MAX_PORT  # noqa: PLC0415
    from anthropic_proxy.services import require_route_prices  # noqa: PLC0415

    settings = load_command_settings(of_running_proxy=False)
    require_route_prices(settings)
    if host:
        settings = replace(settings, host=host.strip("[]"))
    if port is not None:
        settings = replace(settings, port=_require_range("--port", port, 0, MAX_PORT))
    require_auth_if_exposed(settings)
    if attached:  # the only client is the program that starts the server
        settings = replace(settings, drain_delay_seconds=0.0, tls_certificate_file=None, tls_key_file=None)
    return settings


def _find_tls_files(settings: "Settings") -> tuple[str, str] | None:
    """Return the PEM files of certificate and key, after a check. None: TLS is off.

    Raises `ConfigurationError` if a file is missing or cannot be used.
    """
    if settings.tls_certificate_file is None:
        if settings.tls_key_file is not None:
            raise ConfigurationError("TLS_KEY_FILE is set, and TLS_CERT_FILE is not. Set both, or neither.")
        return None
    from anthropic_proxy.server.tls import build_tls_context  # noqa: PLC0415

    files = settings.tls_certificate_file, settings.tls_key_file or ""
    build_tls_context(*files)
    return files


def _require_range(option: str, number: int, minimum: int, maximum: int) -> int:
    if not minimum <= number <= maximum:
        raise ConfigurationError(f'{option} is "{number}". Use a whole number from {minimum} to {maximum}.')
    return number
