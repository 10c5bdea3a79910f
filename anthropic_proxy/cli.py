"""The command line. `serve` is the default command."""

import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

from cyclopts import App as Commands
from cyclopts import CoercionError, CycloptsError, Parameter, UnusedCliTokensError

from anthropic_proxy import __version__
from anthropic_proxy.errors import ConfigurationError, ProxyError

if TYPE_CHECKING:
    from anthropic_proxy.settings import Settings

MAX_WORKERS = 1000

commands = Commands(
    name="anthropic-proxy",
    version=f"anthropic-proxy {__version__}",
    help="Use Claude Code and every Anthropic SDK with the model that you have.",
    help_epilogue=(
        "Examples:\n\n"
        "    anthropic-proxy                      serve on http://127.0.0.1:8082\n\n"
        "    anthropic-proxy serve --port 8083    serve on another port\n\n"
        "    anthropic-proxy health               check it\n\n"
        "Settings come from the environment and from .env in the working directory; .env.example lists all of them. "
        "In a checkout, sh scripts/serve takes the same options as serve."
    ),
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

    workers = _require_range("--workers", workers, 1, MAX_WORKERS)
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
    """Return the settings with the address of the command line. Raise if that address requires authentication."""
    from msgspec.structs import replace  # noqa: PLC0415

    from anthropic_proxy.routing.providers import PROVIDERS  # noqa: PLC0415
    from anthropic_proxy.server.auth import require_auth_if_exposed  # noqa: PLC0415
    from anthropic_proxy.server.runner import MAX_PORT  # noqa: PLC0415
    from anthropic_proxy.settings import load_settings  # noqa: PLC0415

    settings = load_settings(os.environ, PROVIDERS)
    if host:
        settings = replace(settings, host=host.strip("[]"))
    if port is not None:
        settings = replace(settings, port=_require_range("--port", port, 0, MAX_PORT))
    require_auth_if_exposed(settings)
    return settings


@commands.command
def health() -> None:
    """Return exit status 0 if a proxy with these settings answers on this machine, else 2; for containers."""
    from anthropic_proxy.routing.providers import PROVIDERS  # noqa: PLC0415
    from anthropic_proxy.settings import load_settings  # noqa: PLC0415
    from anthropic_proxy.upstream.health_probe import is_healthy  # noqa: PLC0415

    settings = load_settings(os.environ, PROVIDERS)
    if not any(is_healthy(host, settings.port, "/health") for host in dict.fromkeys(("127.0.0.1", settings.host))):
        raise ConfigurationError(f"Nothing answers on port {settings.port} (PORT) of this machine.")


def _require_range(option: str, number: int, minimum: int, maximum: int) -> int:
    if not minimum <= number <= maximum:
        raise ConfigurationError(f'{option} is "{number}". It can be a whole number from {minimum} to {maximum}.')
    return number


def require_known_command(words: Sequence[str]) -> None:
    """Raise `ConfigurationError` if the first word is no command. The message names all commands and the nearest."""
    known = [name for name in commands if not name.startswith("-")]
    if not words or words[0].startswith("-") or words[0] in known:
        return
    from anthropic_proxy.settings.values import find_nearest  # noqa: PLC0415

    nearest = find_nearest(words[0].lower(), known)
    raise ConfigurationError(
        f'There is no command "{words[0]}". The commands are: {", ".join(known)}. '
        + (f"Did you mean:  anthropic-proxy {nearest}" if nearest else "More:  anthropic-proxy --help")
    )


def main() -> None:
    """Run the command line. An error is one message on stderr and exit status 2, never a traceback."""
    try:
        require_known_command(sys.argv[1:])
        commands(exit_on_error=False, print_error=False)
    except CycloptsError as error:
        _report(_describe_misuse(error))
    except ProxyError as error:
        _report(error.message)


def _describe_misuse(error: CycloptsError) -> str:
    if isinstance(error, CoercionError) and error.token is not None:
        return f'{error.token.keyword} is "{error.token.value}". It can be a whole number.'
    if isinstance(error, UnusedCliTokensError):
        return f'"{" ".join(error.unused_tokens or ())}" is no option. All options:  anthropic-proxy serve --help'
    return " ".join(str(error).split())


def _report(message: str) -> None:
    from anthropic_proxy.log import Log  # noqa: PLC0415

    Log(form="plain").write_line(f"✕ {message}", level="error")
    sys.exit(2)
