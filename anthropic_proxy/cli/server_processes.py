"""Processes of `anthropic-proxy serve`: one process, several workers, or one that restarts when the code changes."""

import asyncio
import socket
import sys
from functools import partial
from multiprocessing import Pipe

from anthropic_proxy.platforms.child_process import stop_at_end_of_input
from anthropic_proxy.platforms.fd_limits import raise_fd_limit
from anthropic_proxy.platforms.signals import defer_sighup, restore_sighup
from anthropic_proxy.server.listen import format_address, open_listener
from anthropic_proxy.server.process import ServerConfig, ServerProcess
from anthropic_proxy.workers.supervisor import Supervisor
from anthropic_proxy.workers.worker import LoadWorkerApp, serve_supervised


def run_server(
    load_app: LoadWorkerApp,
    *,
    host: str,
    port: int,
    workers: int = 1,
    reload: bool = False,
    stop_timeout: float = 25.0,
    watched_file: str | None = None,
    heartbeat_timeout_seconds: float = 30.0,
    attached: bool = False,
) -> None:
    """Open the listening socket and serve HTTP requests until SIGTERM or SIGINT stops the server.

    `port`: 0 selects any free port. `reload`: restart the process when the Python code changes; one process only.
    `stop_timeout`: seconds for running replies to finish after the signal. `watched_file`: settings file; a change
    reloads the settings. `heartbeat_timeout_seconds`: seconds without a heartbeat after which a worker is replaced.
    `attached`: write the address to stdout as one line, and stop when stdin ends.

    Raises `ConfigurationError` if the address cannot be used, `SystemExit` if no process can be started.
    """
    defer_sighup()
    raise_fd_limit()
    listener = open_listener(host, port)
    address = format_address(host, listener.getsockname()[1])
    if attached:
        print(address, flush=True)  # the listener already queues connections
        stop_at_end_of_input()
    config = ServerConfig(address, stop_timeout, watched_file, heartbeat_timeout_seconds)
    try:
        if reload:
            _serve_with_code_reload(load_app, config, listener)
        elif workers > 1:
            application = load_app(address=address)
            asyncio.run(application.log_startup(workers))
            sys.exit(Supervisor(load_app, config, listener, workers, application).run())
        else:
            ServerProcess(load_app, config, listener).run()
    finally:
        listener.close()


def _serve_with_code_reload(load_app: LoadWorkerApp, config: ServerConfig, listener: socket.socket) -> None:
    import uvicorn  # noqa: PLC0415  # for developers of the proxy only
    from uvicorn.supervisors import ChangeReload  # noqa: PLC0415

    restore_sighup()
    control, worker_control = Pipe()  # the kernel closes `control` when this process ends, also after SIGKILL
    target = partial(serve_supervised, load_app, config, worker_control)
    ChangeReload(uvicorn.Config("", log_level="warning", reload=True), target=target, sockets=[listener]).run()
    control.close()
