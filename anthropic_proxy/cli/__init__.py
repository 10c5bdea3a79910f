"""Command line, one module for each command: `serve` (the default), `code`, `run`, `ask`, `env` and `health`."""

import os
import sys
from collections.abc import Sequence

from cyclopts import App as Commands
from cyclopts import CoercionError, CycloptsError, UnusedCliTokensError

from anthropic_proxy import __version__
from anthropic_proxy.cli.ask import ask
from anthropic_proxy.cli.code import code, run
from anthropic_proxy.cli.env import env
from anthropic_proxy.cli.health import health
from anthropic_proxy.cli.serve import serve
from anthropic_proxy.errors import ConfigurationError, ProxyError, UpstreamError

EXIT_FAILED = 1
"""Exit status if a provider or the proxy could not serve the command."""
EXIT_MISUSED = 2
"""Exit status for a wrong option, command or setting, and for a missing server."""

commands = Commands(
    name="anthropic-proxy",
    version=f"anthropic-proxy {__version__}",
    help="Use Claude Code and every Anthropic SDK with the model that you have.",
    help_epilogue=(
        "Examples:\n\n"
        "    anthropic-proxy                      serve on http://127.0.0.1:8082\n\n"
        "    anthropic-proxy serve --port 8083    serve on another port\n\n"
        "    anthropic-proxy code                 run Claude Code with the proxy\n\n"
        '    anthropic-proxy ask "hello"          ask a model one question\n\n'
        "Settings come from the environment and from .env in the working directory; .env.example lists all of them. "
        "In a checkout, sh scripts/serve takes the same options as serve."
    ),
    version_flags=["--version", "-V"],
)
"""Command line with all its commands and options (cyclopts). `main` runs it."""


commands.default(serve)
commands.command(serve)
commands.command(code)
commands.command(run)
commands.command(ask)
commands.command(env)
commands.command(health)


def require_known_command(words: Sequence[str]) -> None:
    """Raise `ConfigurationError` if the first argument of the command line is an unknown command.

    An option (`--port`) is accepted, because `serve` is the default command. The error message lists all commands
    and the one with the most similar name.
    """
    known = [name for name in commands if not name.startswith("-")]
    if not words or words[0].startswith("-") or words[0] in known:
        return
    from anthropic_proxy.settings.values import find_similar_choice  # noqa: PLC0415

    nearest = find_similar_choice(words[0].lower(), known)
    raise ConfigurationError(
        f'There is no command "{words[0]}". The commands are: {", ".join(known)}. '
        + (f"Did you mean:  anthropic-proxy {nearest}" if nearest else "More:  anthropic-proxy --help")
    )


def main() -> None:
    """Run the command in `sys.argv`. An error prints one message on stderr and ends the process with status 1 or 2."""
    try:
        require_known_command(sys.argv[1:])
        commands(exit_on_error=False, print_error=False)
    except CycloptsError as error:
        _report(_describe_misuse(error))
    except UpstreamError as error:
        _report(error.message, EXIT_FAILED)
    except ProxyError as error:
        _report(error.message)
    except BrokenPipeError:  # the reader of standard output has ended, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _describe_misuse(error: CycloptsError) -> str:
    if isinstance(error, CoercionError) and error.token is not None:
        return f'{error.token.keyword} is "{error.token.value}". Use a whole number.'
    if isinstance(error, UnusedCliTokensError):
        return f'"{" ".join(error.unused_tokens or ())}" is not an option. All options:  anthropic-proxy serve --help'
    return " ".join(str(error).split())


def _report(message: str, status: int = EXIT_MISUSED) -> None:
    from anthropic_proxy.log import Log  # noqa: PLC0415

    Log(form="plain").write_line(f"✕ {message}", level="error")
    sys.exit(status)
