"""Start of the HTTP server of the proxy with its processes, for the command `serve`."""

import asyncio
import errno
import socket
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from anthropic_proxy.app import load_app
from anthropic_proxy.cli.command_line import is_verbose
from anthropic_proxy.cli.command_settings import describe_files
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.platforms.processes import raise_fd_limit, stop_process_when_stdin_ends
from anthropic_proxy.gateway.platforms.signals import defer_sighup, restore_sighup
from anthropic_proxy.gateway.platforms.sockets import format_url
from anthropic_proxy.gateway.server.auth import require_auth_if_exposed
from anthropic_proxy.gateway.server.listener import MAX_PORT, build_tls_context, open_listener
from anthropic_proxy.gateway.server.process import ServerConfig, ServerProcess
from anthropic_proxy.gateway.services import require_route_prices
from anthropic_proxy.gateway.settings import Settings, SettingsReader, python_safe_path_for_workers
from anthropic_proxy.gateway.settings.config_file import resolve_config_file_path
from anthropic_proxy.gateway.settings.sources import FoundSetting
from anthropic_proxy.gateway.settings.values import decode_listen_host

if TYPE_CHECKING:
    from anthropic_proxy.gateway.workers.supervisor import LoadWorkerApp

MAX_WORKERS = 1000
"""Maximum of the option `--workers`, the number of server processes. A larger number is rejected at start-up."""


def start_server(
    host: str | None, port: int | None, *, workers: int, reload: bool, watch_config: bool, attached: bool, session: str
) -> None:
    overrides: dict[str, object] = {"session_command": session}
    if host:
        overrides["host"] = decode_listen_host(FoundSetting("--host", host, origin=""))
    if port is not None:
        overrides["port"] = _require_range("--port", port, 0, MAX_PORT)
    if attached:  # the only client is the program that starts the server
        overrides |= {"drain_delay_seconds": 0.0, "tls_certificate_file": None, "tls_key_file": None}
    reader = SettingsReader(PROVIDERS, overrides)
    settings = reader.read()
    if is_verbose.get():
        sys.stderr.write(f"  {describe_files(settings)}\n")
    tls_files = require_startable(settings)
    workers = 0 if reload else _require_range("--workers", workers, 1, MAX_WORKERS)
    files = settings.env_file, resolve_config_file_path(settings.env_file)
    load = partial(load_app, overrides)
    if workers == 1:  # other processes read the settings again
        load = partial(load, reader=reader, settings=settings)
    run_server(
        load,
        host=settings.host,
        port=settings.port,
        workers=workers,
        stop_timeout_seconds=settings.stop_timeout_seconds,
        drain_delay_seconds=settings.drain_delay_seconds,
        tls_files=tls_files,
        watched_files=tuple(file for file in files if file is not None) if watch_config else (),
        stops_at_end_of_input=attached,
    )


def require_startable(settings: Settings) -> tuple[str, str] | None:
    """Check all that ends the start of a server, except its port and what plugins check. Return the files for TLS, as
    of `build_tls_context`. None: no TLS. Raises `ConfigurationError`.
    """
    require_route_prices(settings)
    open_listener(settings.host, 0).close()
    require_auth_if_exposed(settings)
    if settings.tls_certificate_file is None:
        if settings.tls_key_file is not None:
            raise ConfigurationError(
                "TLS_KEY_FILE is set, and TLS_CERT_FILE is not. Set both, or neither.", code="tls-files"
            )
        return None
    tls_files = settings.tls_certificate_file, settings.tls_key_file or ""
    build_tls_context(*tls_files)
    return tls_files


def _require_range(option: str, number: int, minimum: int, maximum: int) -> int:
    if not minimum <= number <= maximum:
        raise ConfigurationError(
            f'{option} is "{number}". Use a whole number from {minimum} to {maximum}.', code="invalid-setting"
        )
    return number


def run_server(
    load_app: "LoadWorkerApp",
    *,
    host: str,
    port: int,
    workers: int = 1,
    stop_timeout_seconds: float = 25.0,
    drain_delay_seconds: float = 0.0,
    tls_files: tuple[str, str] | None = None,
    watched_files: Sequence[str] = (),
    heartbeat_timeout_seconds: float = 30.0,
    stops_at_end_of_input: bool = False,
) -> None:
    """Serve HTTP requests until SIGTERM or SIGINT stops the server.

    `workers` 0 means one process that restarts after code changes. Raises `ConfigurationError` if the address cannot be
    used.
    """
    defer_sighup()
    raise_fd_limit()
    try:
        listener = open_listener(host, port)
    except ConfigurationError as error:
        if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EADDRINUSE:
            raise
        from anthropic_proxy.cli.occupied_port import describe_occupied_port  # noqa: PLC0415  # for this error only

        certificate = tls_files[0] if tls_files else ""
        raise ConfigurationError(describe_occupied_port(host, port, certificate), code="port-in-use") from error
    address = format_url(host, listener.getsockname()[1], uses_tls=tls_files is not None)
    if stops_at_end_of_input:
        print(address, flush=True)  # the listener already queues connections
        stop_process_when_stdin_ends()
    config = ServerConfig(
        address, stop_timeout_seconds, drain_delay_seconds, tls_files, watched_files, heartbeat_timeout_seconds
    )
    try:
        if workers == 1:
            ServerProcess(load_app, config, listener).run()
            return
        # several processes need `multiprocessing`
        from anthropic_proxy.gateway.workers.supervisor import Supervisor, serve_supervised  # noqa: PLC0415

        if workers > 1:
            application = load_app(address=config.address)
            try:
                asyncio.run(application.log_startup(workers))
                sys.exit(Supervisor(load_app, config, listener, workers, application).run())
            finally:
                application.remove_record()
        else:
            import uvicorn.supervisors  # noqa: PLC0415  # for developers of the proxy only

            restore_sighup()
            # the kernel closes `control` when this process ends, also after SIGKILL
            control, worker_control = socket.socketpair()
            target = partial(serve_supervised, load_app, config, worker_control)
            with python_safe_path_for_workers():
                package = str(Path(__file__).parents[1])
                watched = uvicorn.Config("", log_level="warning", reload=True, reload_dirs=[package])
                uvicorn.supervisors.ChangeReload(watched, target=target, sockets=[listener]).run()
            control.close()
    finally:
        listener.close()
