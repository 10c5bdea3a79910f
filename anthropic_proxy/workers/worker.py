"""Entry points of processes that serve under a supervisor."""

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
    """Application that several processes can serve."""

    @property
    def peer(self) -> WorkerPeer:
        """Statistics and observations that workers share."""
        ...

    async def log_startup(self, workers: int) -> None:
        """Log the start-up summary for this number of workers."""
        ...

    def check_settings(self) -> bool:
        """Reload the settings for the workers. Return False if they are invalid; the old ones stay active."""
        ...


class LoadWorkerApp(Protocol):
    """Factory of the application, called once per process. Picklable."""

    def __call__(self, *, address: str, logs_startup: bool = True, link: WorkerLink | None = None) -> WorkerApplication:
        """Return the application. `link`: link to the other workers; None: a single process."""
        ...


@dataclass(frozen=True)
class SupervisorConnection:
    """Connections of a worker to its supervisor. Picklable only while the worker process is being started."""

    control: Connection
    """Pipe on which the supervisor sends commands."""
    channel: socket.socket
    """Socket for the messages of and to the hub."""
    board: "WriteableBuffer"
    """Shared memory for heartbeats and requests in progress."""


def run_worker(
    load_app: LoadWorkerApp,
    config: ServerConfig,
    listener: socket.socket,
    supervisor: SupervisorConnection,
    position: tuple[int, int],
) -> None:
    """Serve in a worker process until the supervisor stops it.

    `position`: index of the worker, from 0, and number of workers.
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
    """Serve until the supervisor stops this process, or until the supervisor ends.

    Exits with status `EXIT_STARTUP_FAILED` and a message if a setting is invalid.
    """
    try:
        ServerProcess(load_app, config, sockets[0], control=control.fileno(), logs_startup=logs_startup).run()
    except ConfigurationError as error:
        print(f"✕ {error.message}", file=sys.stderr)
        sys.exit(EXIT_STARTUP_FAILED)
