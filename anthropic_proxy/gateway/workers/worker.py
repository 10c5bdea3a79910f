"""Entry points of worker processes, which serve client requests under a supervisor process.

With `--workers`, each new process runs `run_worker`. With automatic reload for developers, uvicorn's supervisor runs
`serve_supervised` directly, and restarts the process when the code changes.
"""

import socket
import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.server.process import (
    EXIT_STARTUP_FAILED,
    Application,
    LoadApp,
    ServerConfig,
    ServerProcess,
)
from anthropic_proxy.gateway.settings import remove_python_safe_path
from anthropic_proxy.gateway.workers.ipc import IpcChannel
from anthropic_proxy.gateway.workers.link import WorkerLink, WorkerPeer

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class WorkerApplication(Application, Protocol):
    """Interface of an application that one or several server processes can serve. `app.App` implements it."""

    @property
    def peer(self) -> WorkerPeer: ...

    async def log_startup(self, worker_count: int) -> None: ...

    def remove_record(self) -> None:
        """The record by which commands find the server."""
        ...

    def check_settings(self) -> bool:
        """Log the changes. Return False if the settings are invalid."""
        ...


class LoadWorkerApp(Protocol):
    """Function that builds the application. Each server process, also the supervisor, calls it once. The function can
    be pickled, so that a new worker process can receive it.
    """

    def __call__(self, *, address: str, logs_startup: bool = True, link: WorkerLink | None = None) -> WorkerApplication:
        """`link` is the worker's connection to the hub, None in the supervisor or the only server process."""
        ...


@dataclass(frozen=True)
class SupervisorConnection:
    """Connection of a worker with its supervisor. Picklable only while it is passed to a new worker process."""

    control: socket.socket
    """Socket for commands of the supervisor, and for the worker's reply that it has begun to serve."""
    channel: socket.socket
    board: "WriteableBuffer"


def run_worker(
    load_app: LoadWorkerApp,
    config: ServerConfig,
    listener: socket.socket,
    supervisor: SupervisorConnection,
    worker_index_and_count: tuple[int, int],
) -> None:
    link = WorkerLink(IpcChannel(supervisor.channel), memoryview(supervisor.board).cast("B"), *worker_index_and_count)
    serve_supervised(partial(load_app, link=link), config, supervisor.control, sockets=[listener], logs_startup=False)


def serve_supervised(
    load_app: LoadApp,
    config: ServerConfig,
    control_socket: socket.socket,
    sockets: list[socket.socket],
    *,
    logs_startup: bool = True,
) -> None:
    """Return when the supervisor commands it or ends. An invalid setting exits with `EXIT_STARTUP_FAILED`."""
    remove_python_safe_path()
    try:
        ServerProcess(load_app, config, sockets[0], control=control_socket, logs_startup=logs_startup).run()
    except ConfigurationError as error:
        for message in error.messages:
            print(f"✕ {message}", file=sys.stderr)
        sys.exit(EXIT_STARTUP_FAILED)
