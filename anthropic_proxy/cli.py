"""The command line: one table of commands; without one, it serves."""

import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

from cyclopts import App as Commands
from cyclopts import Parameter

from anthropic_proxy import __version__
from anthropic_proxy.errors import ConfigurationError, ProxyError

if TYPE_CHECKING:
    from anthropic_proxy.settings import Settings

MOST_WORKERS = 1000

commands = Commands(
    name="anthropic-proxy",
    version=f"anthropic-proxy {__version__}",
    help="Use Claude Code and every Anthropic SDK with the model that you have.",
    version_flags=["--version", "-V"],
)


@commands.default
@commands.command
def serve(
    *,
    host: str | None = None,
    port: Annotated[int | None, Parameter(validator=())] = None,
    workers: int = 1,
    reload: bool = False,
    watch_config: bool = False,
) -> None:
    """Serve the Anthropic Messages API until a signal ends it.

    Parameters
    ----------
    host
        Address to listen on; the default is HOST, else 127.0.0.1.
    port
        Port to listen on; the default is PORT, else 8082.
    workers
        Processes that share the port.
    reload
        Start again when the code changes.
    watch_config
        Read the settings again when .env changes; SIGHUP asks for it at any time.
    """
    from anthropic_proxy.app import load_app  # noqa: PLC0415  # --help and --version need none of it
    from anthropic_proxy.server.runner import serve as run  # noqa: PLC0415
    from anthropic_proxy.settings import ENV_FILE  # noqa: PLC0415

    workers = _within("--workers", workers, 1, MOST_WORKERS)
    settings = _load_settings(host, port)
    run(
        partial(load_app, {"host": settings.host, "port": settings.port}),
        host=settings.host,
        port=settings.port,
        workers=workers,
        reload=reload,
        stop_timeout=settings.stop_timeout,
        watched_file=ENV_FILE if watch_config else None,
    )


def _load_settings(host: str | None, port: int | None) -> "Settings":
    """Return the settings with the address of the command line, which somebody must guard."""
    from msgspec.structs import replace  # noqa: PLC0415

    from anthropic_proxy.routing.providers import PROVIDERS  # noqa: PLC0415
    from anthropic_proxy.server.guard import expect_guarded  # noqa: PLC0415
    from anthropic_proxy.server.runner import LARGEST_PORT  # noqa: PLC0415
    from anthropic_proxy.settings import load_settings  # noqa: PLC0415

    settings = load_settings(os.environ, PROVIDERS)
    if host:
        settings = replace(settings, host=host.strip("[]"))
    if port is not None:
        settings = replace(settings, port=_within("--port", port, 0, LARGEST_PORT))
    expect_guarded(settings)
    return settings


@commands.command(show=False)
def health() -> None:
    """Say by the exit status whether a proxy of these settings answers on this machine, for containers."""
    from anthropic_proxy.routing.providers import PROVIDERS  # noqa: PLC0415
    from anthropic_proxy.settings import load_settings  # noqa: PLC0415
    from anthropic_proxy.upstream.probe import answers  # noqa: PLC0415

    settings = load_settings(os.environ, PROVIDERS)
    if not any(answers(host, settings.port, "/health") for host in dict.fromkeys(("127.0.0.1", settings.host))):
        raise ConfigurationError(f"Nothing answers on port {settings.port} (PORT) of this machine.")


def _within(option: str, number: int, least: int, most: int) -> int:
    if not least <= number <= most:
        raise ConfigurationError(f'{option} is "{number}". It can be a whole number from {least} to {most}.')
    return number


def main() -> None:
    """Run the command line; an error is one message on stderr and exit status 2, never a trace."""
    try:
        commands()
    except ProxyError as error:
        from anthropic_proxy.log import Log  # noqa: PLC0415

        Log(form="plain").line(f"✕ {error.message}", level="error")
        sys.exit(2)
