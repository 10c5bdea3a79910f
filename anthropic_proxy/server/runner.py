"""`anthropic-proxy serve`: one process, several workers, or a process that restarts when the code changes."""

import asyncio
import socket
import sys
from functools import partial
from multiprocessing import Pipe

import uvicorn
from uvicorn.supervisors import ChangeReload

from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.platforms.os_errors import describe_os_error
from anthropic_proxy.platforms.signals import defer_sighup, restore_sighup
from anthropic_proxy.server.http1.acceptor import raise_fd_limit
from anthropic_proxy.server.process import LoadApp, ServerConfig, ServerProcess
from anthropic_proxy.workers.supervisor import Supervisor, serve_supervised

BACKLOG = 2048
SOCKET_SEND_BUFFER_BYTES = 64 * 1024
"""Size of the send buffer of a client connection. The system default can be several MiB per connection."""
MAX_PORT = 65_535
FIRST_OPEN_PORT = 1024
"""Ports below this one require privileges on most systems."""
_WILDCARD_ADDRESSES = frozenset(("", "0.0.0.0", "::"))


def serve(
    load_app: LoadApp,
    *,
    host: str,
    port: int,
    workers: int = 1,
    reload: bool = False,
    stop_timeout: float = 25.0,
    watched_file: str | None = None,
    heartbeat_timeout: float = 30.0,
) -> None:
    """Serve until a signal stops the server. Port 0: any free port.

    `stop_timeout`: seconds for running replies to finish after the signal. `watched_file`: its change reloads the
    settings. `heartbeat_timeout`: seconds without a heartbeat after which a worker is replaced.

    Raises `ConfigurationError` if the address cannot be used, `SystemExit` if no process can be started.
    """
    defer_sighup()
    raise_fd_limit()
    listener = bind(host, port)
    config = ServerConfig(
        load_app, format_address(host, listener.getsockname()[1]), stop_timeout, watched_file, heartbeat_timeout
    )
    try:
        if reload:
            _serve_with_code_reload(config, listener)
        elif workers > 1:
            application = load_app(address=config.address)
            asyncio.run(application.log_startup(workers))
            if status := Supervisor(config, listener, workers, application).run():
                sys.exit(status)
        else:
            ServerProcess(config, listener).run()
    finally:
        listener.close()


def _serve_with_code_reload(config: ServerConfig, listener: socket.socket) -> None:
    restore_sighup()
    control, worker_control = Pipe()  # this end closes with the process, however it ends
    uvicorn_config = uvicorn.Config("", log_level="warning", reload=True)
    ChangeReload(uvicorn_config, target=partial(serve_supervised, config, worker_control), sockets=[listener]).run()
    control.close()


def format_address(host: str, port: int) -> str:
    """Return the URL of a listener, with `localhost` for a wildcard address."""
    if host in _WILDCARD_ADDRESSES:
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises `ConfigurationError`, which names the address and the remedy."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_SEND_BUFFER_BYTES)  # connections inherit it
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)  # at once: another process could bind the same port before
    except OSError as error:
        listener.close()
        other = 8082 if port in (MAX_PORT, 0) else max(port + 1, FIRST_OPEN_PORT)
        raise ConfigurationError(
            f"Port {port} on {host} cannot be used: {describe_os_error(error)}. "
            f"Use another:  PORT={other}, or the option --port {other}"
        ) from error
    return listener
