"""`anthropic-proxy serve`: one process, or several, or one that starts anew when the code changes."""

import asyncio
import socket
import sys
from functools import partial
from multiprocessing import Pipe

import uvicorn
from uvicorn.supervisors import ChangeReload

from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.server.acceptor import raise_descriptor_limit
from anthropic_proxy.server.process import LoadApp, Plan, Server
from anthropic_proxy.server.workers import Workers, serve_behind
from anthropic_proxy.signals import hold_back, let_through

BACKLOG = 2048
UNREAD_BYTES = 64 * 1024
"""What the operating system is asked to hold for a client that does not read; left to itself it holds MiBs."""
LARGEST_PORT = 65_535
_EVERYWHERE = frozenset(("", "0.0.0.0", "::"))


def serve(
    load_app: LoadApp,
    *,
    host: str,
    port: int,
    workers: int = 1,
    reload: bool = False,
    stop_timeout: float = 25.0,
    watched_file: str | None = None,
) -> None:
    """Serve until a signal ends it; port 0 takes any that is free.

    `stop_timeout`: seconds that running replies may go on after the signal. `watched_file`: after its change the
    settings are read again. Raises `ConfigurationError` where the address cannot be had, `SystemExit` where no process
    can be started.
    """
    hold_back()
    raise_descriptor_limit()
    listener = bind(host, port)
    plan = Plan(load_app, address_of(host, listener.getsockname()[1]), stop_timeout, watched_file)
    try:
        if reload:
            _serve_anew_at_changes(plan, listener)
        elif workers > 1:
            application = load_app(address=plan.address)
            asyncio.run(application.announce(workers))
            if status := Workers(plan, listener, workers, application).run():
                sys.exit(status)
        else:
            Server(plan, listener).run()
    finally:
        listener.close()


def _serve_anew_at_changes(plan: Plan, listener: socket.socket) -> None:
    let_through()
    ours, theirs = Pipe()  # our end closes with this process, however it ends
    config = uvicorn.Config("", log_level="warning", reload=True)
    ChangeReload(config, target=partial(serve_behind, plan, theirs), sockets=[listener]).run()
    ours.close()


def address_of(host: str, port: int) -> str:
    """Return the address to type for a listener; `localhost` where it listens everywhere."""
    if host in _EVERYWHERE:
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; raises `ConfigurationError` that names its address and says what else to do."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNREAD_BYTES)  # connections inherit it
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)  # at once: until then another process could take the same port
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise ConfigurationError(
            f"Port {port} on {host} cannot be had: {reason}. "
            f"Use another:  anthropic-proxy serve --port {port + 1 if port < LARGEST_PORT else 8082}"
        ) from error
    return listener
