"""Command `serve`. Each command line loads this module, because `serve` runs without a name of a command too."""

from typing import Annotated

from cyclopts import Parameter


def serve(
    *,
    host: str | None = None,
    port: Annotated[int | None, Parameter(validator=())] = None,
    workers: int = 1,
    reload: bool = False,
    watch_config: bool = False,
    attached: bool = False,
    session: Annotated[str, Parameter(show=False)] = "",
) -> None:
    """Serve the Anthropic Messages API until SIGINT (Ctrl+C) or SIGTERM stops the server.

    Parameters
    ----------
    host
        Address to listen on; the default is HOST, else 127.0.0.1.
    port
        Port to listen on; the default is PORT, else 8082.
    workers
        Number of processes that share the port.
    reload
        Restart when the Python code changes; for development.
    watch_config
        Reload the settings when .env or anthropic-proxy.toml changes.
    attached
        Write the address to standard output, and stop when standard input ends; for programs that start the proxy.
    session
        Command of this program that starts the proxy for one session.
    """
    from anthropic_proxy.cli.server_processes import start_server  # noqa: PLC0415  # other commands need none of it

    start_server(
        host, port, workers=workers, reload=reload, watch_config=watch_config, attached=attached, session=session
    )
