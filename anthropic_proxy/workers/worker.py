"""Entry points of worker processes, which serve client requests under a supervisor process."""

import socket
import sys
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Protocol

from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.server.process import EXIT_STARTUP_FAILED, Application, LoadApp, ServerConfig, ServerProcess
from anthropic_proxy.workers.ipc import IpcChannel
from anthropic_proxy.workers.link import WorkerLink, WorkerPeer

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class WorkerApplication(Application, Protocol):
    """Application that several processes can serve. `app.App` implements it."""

    @property
    def peer(self) -> WorkerPeer:
        """Statistics of this process, and its exchange with the other workers."""
        ...

    async def log_startup(self, workers: int) -> None:
        """Log the start-up summary of the whole server. Called in the supervisor. `workers`: number of workers."""
        ...

    def check_settings(self) -> bool:
        """Read the settings again and log the changes. Return False if they are invalid.

        Called in the supervisor. Only if the result is True, the workers are commanded to reload their settings.
        """
        ...


class LoadWorkerApp(Protocol):
    """Function that builds the application. Each process calls it once. Picklable, so that a worker can receive it."""

    def __call__(self, *, address: str, logs_startup: bool = True, link: WorkerLink | None = None) -> WorkerApplication:
        """Return the application.

        `address`: URL of the server. `logs_startup`: log the start-up summary. `link`: the worker's connection to the
        hub; None: this process is the only server process, or the supervisor.
        """
        ...


@dataclass(frozen=True)
class SupervisorConnection:
    """Connections of a worker to its supervisor. Picklable only as an argument of the new worker process."""

    control: Connection
    """Pipe for the supervisor's commands (stop, stop now, reload) and for the worker's message that it has started."""
    channel: socket.socket
    """Socket for messages between the worker and the hub."""
    board: "WriteableBuffer"
    """Shared memory, into which the worker writes its heartbeats and requests in progress."""


def run_worker(
    load_app: LoadWorkerApp,
    config: ServerConfig,
    listener: socket.socket,
    supervisor: SupervisorConnection,
    position: tuple[int, int],
) -> None:
    """Serve client requests in this worker process until the supervisor stops or ends. Target of the new process.

    `listener`: listening socket that all workers share. `position`: index of this worker, from 0, and number of
    workers.
    """
    link = WorkerLink(IpcChannel(supervisor.channel), memoryview(supervisor.board).cast("B"), *position)
    serve_supervised(partial(load_app, link=link), config, supervisor.control, sockets=[listener], logs_startup=False)


def serve_supervised(
    load_app: LoadApp,
    config: ServerConfig,
    control: Connection,
    sockets: list[socket.socket],
    *,
    logs_startup: bool = True,
) -> None:
    """Serve client requests until the supervisor sends the command to stop, or ends.

    `control`: pipe for commands from the supervisor. `sockets`: one listening socket, in a list as uvicorn passes it.
    `logs_startup`: log the start-up summary and watch the settings file.
    Prints a message and exits with status `EXIT_STARTUP_FAILED` if a setting is invalid.
    """
    try:
        ServerProcess(load_app, config, sockets[0], control=control.fileno(), logs_startup=logs_startup).run()
    except ConfigurationError as error:
        print(f"✕ {error.message}", file=sys.stderr)
        sys.exit(EXIT_STARTUP_FAILED)
