"""Entry points of worker processes, which serve client requests under a supervisor process.

`SupervisorConnection` has the connections of a worker to its supervisor: two sockets and a board, which is shared
memory for the heartbeats and running requests of the worker. `run_worker` is the target of a new process of
`anthropic-proxy serve --workers`. `serve_supervised` also runs under uvicorn's supervisor. The hub in the supervisor
exchanges messages with each worker. `LoadWorkerApp` builds the application.
"""

import socket
import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.server.application import Application, LoadApp
from anthropic_proxy.server.process import EXIT_STARTUP_FAILED, ServerConfig, ServerProcess
from anthropic_proxy.workers.ipc import IpcChannel
from anthropic_proxy.workers.link import WorkerLink, WorkerPeer

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class WorkerApplication(Application, Protocol):
    """Application that several processes can serve. `app.App` implements it."""

    @property
    def peer(self) -> WorkerPeer:
        """Object that collects the statistics of this process and exchanges them with the other workers."""
        ...

    async def log_startup(self, worker_count: int) -> None:
        """Log the start-up summary of a server with `worker_count` workers. Called in the supervisor."""
        ...

    def check_settings(self) -> bool:
        """Read the settings again and log the changes. Return False if they are invalid.

        Called in the supervisor, which commands its workers to reload the settings only if the result is True.
        """
        ...


class LoadWorkerApp(Protocol):
    """Function that builds the application. Each process calls the function once.

    It is picklable, so that a worker process can receive it.
    """

    def __call__(self, *, address: str, logs_startup: bool = True, link: WorkerLink | None = None) -> WorkerApplication:
        """Return the application.

        `address`: URL of the server. `logs_startup`: log the start-up summary. `link`: the worker's connection to the
        hub; None: this process is the only server process, or the supervisor.
        """
        ...


@dataclass(frozen=True)
class SupervisorConnection:
    """Connections of a worker to its supervisor. It can be pickled only as an argument of the new worker process."""

    control: socket.socket
    """Socket for the supervisor's commands (stop, stop now, reload), and for the message of the worker that it has
    begun to serve."""
    channel: socket.socket
    """Socket for messages between the worker and the hub."""
    board: "WriteableBuffer"
    """Shared memory, into which the worker writes its heartbeats and requests in progress."""


def run_worker(
    load_app: LoadWorkerApp,
    config: ServerConfig,
    listener: socket.socket,
    supervisor: SupervisorConnection,
    index_and_count: tuple[int, int],
) -> None:
    """Serve client requests in this worker process until the supervisor stops or ends. Target of the new process.

    `listener`: listening socket that all workers share. `index_and_count`: index of this worker, from 0, and
    number of workers.
    """
    link = WorkerLink(IpcChannel(supervisor.channel), memoryview(supervisor.board).cast("B"), *index_and_count)
    serve_supervised(partial(load_app, link=link), config, supervisor.control, sockets=[listener], logs_startup=False)


def serve_supervised(
    load_app: LoadApp,
    config: ServerConfig,
    control: socket.socket,
    sockets: list[socket.socket],
    *,
    logs_startup: bool = True,
) -> None:
    """Serve client requests until the supervisor sends the command to stop, or ends.

    `control`: socket for commands from the supervisor. `sockets`: one listening socket, in a list as uvicorn passes it.
    `logs_startup`: log the start-up summary and watch the settings file.
    Prints a message and exits with status `EXIT_STARTUP_FAILED` if a setting is invalid.
    """
    try:
        ServerProcess(load_app, config, sockets[0], control=control, logs_startup=logs_startup).run()
    except ConfigurationError as error:
        for message in error.messages:
            print(f"✕ {message}", file=sys.stderr)
        sys.exit(EXIT_STARTUP_FAILED)
