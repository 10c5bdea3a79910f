"""`anthropic-proxy serve`: the server process, its workers, signals and reload."""

import asyncio
import signal
import socket
from functools import partial
from typing import Any, Protocol

import uvicorn
from uvicorn.supervisors import ChangeReload, Multiprocess

from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.server.protocol import GuardedHttp

GRACE_SECONDS = 30
"""How long running streams may go on after the first signal to stop."""
KEEP_ALIVE_SECONDS = 75
"""Longer than clients keep an idle connection (60 s), so that they, not we, close it: nothing is lost between."""
BACKLOG = 2048
LARGEST_PORT = 65_535
_EVERYWHERE = frozenset(("", "0.0.0.0", "::"))


class Application(Protocol):
    """What is served."""

    async def announce(self, workers: int) -> None:
        """Say what start-up says, on behalf of so many processes."""
        ...

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one ASGI scope."""
        ...


class LoadApp(Protocol):
    """Makes the application, once a process; it must be picklable."""

    def __call__(self, *, address: str, announces: bool = True) -> Application:
        """`address`: where it is reached; `announces`: whether it says itself what start-up says."""
        ...


def serve(load_app: LoadApp, *, host: str, port: int, workers: int = 1, reload: bool = False) -> None:
    """Serve until a signal ends it; port 0 takes any that is free.

    Raises `ConfigurationError` where the address cannot be had.
    """
    listener = bind(host, port)
    address = address_of(host, listener.getsockname()[1])
    shared = workers > 1 and not reload
    config = uvicorn.Config(
        partial(load_app, address=address, announces=not shared),
        factory=True,
        host=host,
        port=port,
        workers=workers,
        loop="uvloop",
        http=GuardedHttp,
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
    # uvicorn raises the signal that ended it once more when all is done; a stop that was asked for is no failure
    signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        if reload:
            ChangeReload(config, target=uvicorn.Server(config).run, sockets=[listener]).run()
        elif shared:
            asyncio.run(load_app(address=address).announce(workers))
            Multiprocess(config, sockets=[listener]).run()
        else:
            uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        return  # the signal that asked for the end, raised again by the server once it had ended
    finally:
        listener.close()


def address_of(host: str, port: int) -> str:
    """Return the address to type for a listener; `localhost` where it listens everywhere."""
    if host in _EVERYWHERE:
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


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
            f"Port {port} on {host} cannot be had: {reason}. "
            f"Use another:  anthropic-proxy serve --port {port + 1 if port < LARGEST_PORT else 8082}"
        ) from error
    listener.set_inheritable(True)
    return listener
