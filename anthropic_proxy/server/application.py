"""Interfaces between the HTTP server and the application, the ASGI application that answers client requests.

The server calls `Application.start` before the first request, and `close` after the last one. `LoadApp` is the function
that builds the application in each process. A `Peer` exchanges statistics and observed facts, such as keys in cooldown,
with the other processes of the server.
"""

from typing import Protocol

from anthropic_proxy.log.in_progress import SharedRequestTable
from anthropic_proxy.platforms.heap import HeapTrimmer
from anthropic_proxy.server.http1.lifecycle import HttpApplication


class Peer(Protocol):
    """Interface by which one server process exchanges statistics and observed facts with the others.

    A fact is, for example, that an API key is in cooldown.
    """

    in_progress: SharedRequestTable
    """Client requests in progress in this process, and the heartbeat of this process."""

    @property
    def worker_index_and_count(self) -> tuple[int, int]:
        """Index of this worker process, from 0, and the number of all workers."""
        ...

    def open(self) -> None:
        """Start to exchange data with the other processes.

        The server calls the method when this process begins to serve.
        """
        ...

    def end_live_request_streams(self) -> None:
        """End the streamed responses in which users watch live requests.

        They would otherwise delay the stop of the server.
        """
        ...

    def close(self) -> None:
        """Send the last statistics of this process to the others, and end the exchange."""
        ...


class Application(HttpApplication, Protocol):
    """Interface of the ASGI application of the proxy, as the server uses it. `app.App` implements it."""

    async def start(self) -> None:
        """Open the services and connections that requests use. The server calls the method before the first request."""
        ...

    async def close(self) -> None:
        """Close the services and connections of the application. The server calls the method after the last request."""
        ...

    def log_warning(self, text: str) -> None:
        """Log a warning of the server, for example about too many connections. Keys in `text` are redacted."""
        ...

    def log_line_and_flush(self, text: str) -> None:
        """Log `text`, such as `Stopped.`, then wait until all log lines are written, at most one second."""
        ...

    def flush_log(self) -> None:
        """Wait until all log lines are written, at most one second."""
        ...

    @property
    def heap_trimmer(self) -> HeapTrimmer:
        """Object that returns free memory of this process to the system, after bursts of requests."""
        ...

    @property
    def peer(self) -> Peer:
        """Object that exchanges statistics and observed facts with the other processes of the server."""
        ...

    async def reload_settings(self) -> None:
        """Read the settings again and use them for new requests. If they are invalid, the current settings are kept."""
        ...


class LoadApp(Protocol):
    """Function that builds the application. Each server process calls it once.

    The function must be picklable, because a new worker process receives it from the supervisor.
    """

    def __call__(self, *, address: str, logs_startup: bool = True) -> Application:
        """Return the application. `address`: URL of the server. `logs_startup`: log the start-up summary."""
        ...
