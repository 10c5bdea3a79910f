"""Command line of the proxy, with one module for each command.

`commands` is the cyclopts application with all commands, and `main` the entry point of the program `anthropic-proxy`.
Without a command, `serve` runs. cyclopts imports the module of a command when the command is used, so that `--help`,
`--version` and the start of a server load no other command.
"""

import errno
import os
import sys

from cyclopts import App as Commands
from cyclopts import CycloptsError

from anthropic_proxy import __version__
from anthropic_proxy.cli.command_line import (
    describe_misuse,
    move_stdin_name_to_end,
    require_known_command,
    take_global_options,
)
from anthropic_proxy.cli.command_table import COMMANDS, MAIN_EXAMPLES
from anthropic_proxy.cli.serve import serve
from anthropic_proxy.errors import ConfigurationError, ProxyError, UpstreamError
from anthropic_proxy.gateway.platforms.signals import restore_default_signals

EXIT_FAILED = 1
"""Exit status 1: a provider or the proxy could not serve the command."""
EXIT_MISUSED = 2
"""Exit status 2: a wrong option, command or setting, or no server runs."""

commands = Commands(
    name="anthropic-proxy",
    version=f"anthropic-proxy {__version__}",
    help="Use Claude Code and every Anthropic SDK with the model that you have.",
    help_epilogue=MAIN_EXAMPLES,
    version_flags=["--version", "-V"],
)
"""Command-line application (cyclopts) with all commands and options. `main` runs it."""


commands.default(serve)
for _name, _row in COMMANDS.items():
    _path = f"anthropic_proxy.cli.{_row.path}"
    if _row.is_group:  # a group has its own examples
        commands.command(_path, name=_name, help=_row.description)
    else:
        commands.command(_path, name=_name, help=_row.description, help_epilogue=_row.show_examples())
commands.register_install_completion_command(help="Install the completion script for your shell.")


def main() -> None:
    """Run the command in `sys.argv`.

    An error is written as messages to stderr, and ends the process with status 1 or 2.
    """
    try:
        words = take_global_options(sys.argv[1:])
        require_known_command(commands, words)
        if "--install-completion" in words:  # its library runs `ps` or PowerShell
            from anthropic_proxy.gateway.settings import keep_absolute_folders_of_path  # noqa: PLC0415  # see above

            keep_absolute_folders_of_path()
        if words and words[0] != "serve" and not words[0].startswith("-"):
            restore_default_signals()  # `serve` installs its own handlers
        try:
            commands(move_stdin_name_to_end(words), exit_on_error=False, print_error=False)
        finally:
            sys.stdout.flush()  # a full disk is reported here, not at the end of the interpreter
    except CycloptsError as error:
        _report(describe_misuse(error, commands))
    except ConfigurationError as error:
        _report(*error.messages)
    except UpstreamError as error:
        _report(error.message, status=EXIT_FAILED)
    except ProxyError as error:
        _report(error.message)
    except SystemExit as error:
        if not isinstance(error.__context__, BrokenPipeError):
            raise  # the library of the help text ends with status 1 at a broken pipe, and has closed standard output
    except BrokenPipeError:  # the reader of standard output has ended, such as `head`
        _discard_output()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _discard_output()
        _report("The output cannot be written: no space left.", status=EXIT_FAILED)


def _discard_output() -> None:
    """Redirect standard output to the null device after a failed write (broken pipe, or no disk space).

    Otherwise the interpreter would report a second error when it ends.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(*messages: str, status: int = EXIT_MISUSED) -> None:
    from anthropic_proxy.gateway.telemetry.log import Log  # noqa: PLC0415  # for errors only
    from anthropic_proxy.gateway.telemetry.log.lines import escape_terminal_controls  # noqa: PLC0415

    log = Log(form="plain")
    for message in messages:
        log.write_line(escape_terminal_controls(f"✕ {message}"), level="error")
    sys.exit(status)
