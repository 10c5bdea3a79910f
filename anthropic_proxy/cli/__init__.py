"""Command line of the proxy, with one module for each command. `main` is the entry point of `anthropic-proxy`.

Without a command, `serve` runs. Its options are read without the library that the other commands need (`commands.py`).
"""

import errno
import gc
import os
import sys
from importlib.util import cache_from_source

from anthropic_proxy.cli.command_line import read_serve_options, take_global_options
from anthropic_proxy.errors import ConfigurationError, ProxyError, UpstreamError

EXIT_FAILED = 1
"""Exit status 1: a provider or the proxy could not serve the command."""
EXIT_MISUSED = 2
"""Exit status 2: a wrong option, command or setting, or no server runs."""


_ALONE = "  This starts the proxy, which runs in this terminal until Ctrl+C. All commands:  anthropic-proxy --help\n"
"""First line of the program name alone, after which somebody may have expected a list of the commands."""


def main() -> None:
    """Run the command in `sys.argv`.

    An error is written as messages to stderr, and ends the process with status 1 or 2.
    """
    try:
        words = take_global_options(sys.argv[1:])
        try:
            if not words and sys.stderr.isatty():
                sys.stderr.write(_ALONE)
            if (options := read_serve_options(words)) is not None:
                gc.disable()  # imports leave no garbage, but the collector would search each time for it
                from anthropic_proxy.cli.server_processes import start_server  # noqa: PLC0415  # not for `--help`

                gc.enable()
                start_server(**options)
            else:
                # the user of a terminal would wonder why nothing happens while Python compiles all modules
                compiled = cache_from_source(os.path.join(os.path.dirname(__file__), "output.py"))
                is_first = words[:1] in (["init"], ["import"], ["code"]) and not os.path.exists(compiled)
                if is_first and sys.stderr.isatty() and not sys.dont_write_bytecode:
                    sys.stderr.write("  The first start takes some seconds.\n")
                from anthropic_proxy.cli.commands import run_command  # noqa: PLC0415  # not for the server

                run_command(words)
        finally:
            sys.stdout.flush()  # a full disk is reported here, not at the end of the interpreter
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
    from anthropic_proxy.cli.output import write_errors  # noqa: PLC0415  # for errors only

    write_errors(messages)
    sys.exit(status)
