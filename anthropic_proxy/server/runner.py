"""`anthropic-proxy serve`: the server process, its workers, signals and reload."""

import signal
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.supervisors import ChangeReload, Multiprocess

from anthropic_proxy.errors import ConfigurationError

GRACE_SECONDS = 30
"""How long running streams may go on after the first signal to stop."""
KEEP_ALIVE_SECONDS = 75
"""Longer than clients keep an idle connection (60 s), so that they, not we, close it: nothing is lost between."""
BACKLOG = 2048


def serve(load_app: Callable[[], Any], *, host: str, port: int, workers: int = 1, reload: bool = False) -> None:
    """Serve until a signal ends it. `load_app` makes the application, once a worker; it must be picklable.

    Raises `ConfigurationError` where the address cannot be had.
    """
    config = uvicorn.Config(
        load_app,
        factory=True,
        host=host,
        port=port,
        workers=workers,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        backlog=BACKLOG,
    )
    listener = bind(host, port)
    # uvicorn raises the signal that ended it once more when all is done; a stop that was asked for is no failure
    signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        if reload:
            ChangeReload(config, target=uvicorn.Server(config).run, sockets=[listener]).run()
        elif workers > 1:
            Multiprocess(config, sockets=[listener]).run()
        else:
            uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        return  # the signal that asked for the end, raised again by the server once it had ended
    finally:
        listener.close()


def bind(host: str, port: int) -> socket.socket:
    """Return a listening address; raises `ConfigurationError` that names it and says what else to do."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise ConfigurationError(
            f"Port {port} on {host} cannot be had: {reason}. Use another:  anthropic-proxy serve --port {port + 1}"
        ) from error
    listener.set_inheritable(True)
    return listener
