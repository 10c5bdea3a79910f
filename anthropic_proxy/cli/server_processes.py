"""Start of the server processes of the command `serve`.

`run_server` opens the listening socket and serves in one process, in several workers under a supervisor, or in one
process that restarts when the code changes.
"""

import asyncio
import errno
import socket
import sys
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.platforms.child_process import stop_process_when_stdin_ends
from anthropic_proxy.platforms.fd_limits import raise_fd_limit
from anthropic_proxy.platforms.port_owner import PORT_OWNER_COMMANDS, find_port_owner
from anthropic_proxy.platforms.signals import defer_sighup, restore_sighup
from anthropic_proxy.server.listen import MAX_PORT, format_url, open_listener
from anthropic_proxy.server.process import ServerConfig, ServerProcess
from anthropic_proxy.settings import python_safe_path_for_workers
from anthropic_proxy.upstream.local_server import get_json
from anthropic_proxy.workers.supervisor import Supervisor
from anthropic_proxy.workers.worker import LoadWorkerApp, serve_supervised


def run_server(
    load_app: LoadWorkerApp,
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
    listener = _open_listener(host, port)
    address = format_url(host, listener.getsockname()[1], uses_tls=tls_files is not None)
    if stops_at_end_of_input:
        print(address, flush=True)  # the listener already queues connections
        stop_process_when_stdin_ends()
    config = ServerConfig(
        address, stop_timeout_seconds, drain_delay_seconds, tls_files, watched_files, heartbeat_timeout_seconds
    )
    try:
        _run_processes(load_app, config, listener, workers)
    finally:
        listener.close()


def _run_processes(load_app: LoadWorkerApp, config: ServerConfig, listener: socket.socket, workers: int) -> None:
    """Serve in this process, or in several workers. `workers`: 0: one process that restarts when the code changes."""
    if not workers:
        _serve_with_code_reload(load_app, config, listener)
    elif workers > 1:
        application = load_app(address=config.address)
        try:
            asyncio.run(application.log_startup(workers))
            sys.exit(Supervisor(load_app, config, listener, workers, application).run())
        finally:
            application.remove_record()
    else:
        ServerProcess(load_app, config, listener).run()


def _open_listener(host: str, port: int) -> socket.socket:
    """Return the listening socket. Raises `ConfigurationError` with the owner of a port that is in use."""
    try:
        return open_listener(host, port)
    except ConfigurationError as error:
        if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EADDRINUSE:
            raise
        raise ConfigurationError(describe_occupied_port(host, port)) from error


def _serve_with_code_reload(load_app: LoadWorkerApp, config: ServerConfig, listener: socket.socket) -> None:
    import uvicorn  # noqa: PLC0415  # for developers of the proxy only
    from uvicorn.supervisors import ChangeReload  # noqa: PLC0415

    restore_sighup()
    control, worker_control = (
        socket.socketpair()
    )  # the kernel closes `control` when this process ends, also after SIGKILL
    target = partial(serve_supervised, load_app, config, worker_control)
    with python_safe_path_for_workers():
        watched = uvicorn.Config("", log_level="warning", reload=True, reload_dirs=[str(Path(__file__).parents[1])])
        ChangeReload(watched, target=target, sockets=[listener]).run()
    control.close()


_MAX_TRIED_PORTS = 20
_FIRST_UNPRIVILEGED_PORT = 1024
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
"""Listen address for all interfaces → address of this machine at which the owner of the port can be called."""


def describe_occupied_port(host: str, port: int) -> str:
    """Return the message that `port` is in use, usually with the program that uses it."""
    free = f"anthropic-proxy serve --port {_find_free_port(host, port)}"
    health = get_json(_WILDCARDS.get(host, host), port, "/health")
    if isinstance(health, dict) and health.get("status") == "ok" and "version" in health:
        started = _format_start(str(health.get("started_at", "")))
        return (
            f"Port {port} is in use by another anthropic-proxy (version {health['version']}{started}). "
            f"Use that one, or run: {free}"
        )
    owner = find_port_owner(port)
    if owner is not None:
        return f"Port {port} is in use by {owner.name} (process {owner.pid}). Stop it, or run: {free}"
    command = PORT_OWNER_COMMANDS.get(sys.platform)
    shown = f" This command shows it: {command.format(port=port)}" if command else ""
    return f"Port {port} is in use by another program.{shown} To use another port, run: {free}"


def _find_free_port(host: str, port: int) -> int:
    """Return the next port above `port` on which this process can listen.

    If several ports were tried and none is free, return the next port without a check.
    """
    first = max(port + 1, _FIRST_UNPRIVILEGED_PORT) if port < MAX_PORT else _FIRST_UNPRIVILEGED_PORT
    for candidate in range(first, min(first + _MAX_TRIED_PORTS, MAX_PORT + 1)):
        try:
            open_listener(host, candidate).close()
        except ConfigurationError:
            continue
        return candidate
    return first


def _format_start(started_at: str) -> str:
    """Return the start time as text: `, started 09:14` in local time, with the date if it is not today. "": unknown."""
    try:
        started = datetime.fromisoformat(started_at).astimezone()
    except ValueError:
        return ""
    day = "" if started.date() == datetime.now().date() else f"{started:%Y-%m-%d} "
    return f", started {day}{started:%H:%M}"
