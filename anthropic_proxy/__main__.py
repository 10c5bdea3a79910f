"""Entry point of `python -m anthropic_proxy` and of the installed command `anthropic-proxy`."""

import os
import sys
from contextlib import suppress

_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def main() -> None:
    """Prepare standard streams and signals, then run the command line. An error ends the process with status 2."""
    from anthropic_proxy.gateway.platforms.signals import defer_sighup  # noqa: PLC0415
    from anthropic_proxy.gateway.platforms.terminal import open_missing_streams  # noqa: PLC0415

    open_missing_streams()
    defer_sighup()  # before the slow imports of the command line, during which a signal may arrive
    from anthropic_proxy.cli import main as run  # noqa: PLC0415

    run()


def _remove_current_directory() -> None:
    """Remove the current directory from the search for modules, which `python -m` begins there.

    A stranger may have written its modules. A checkout that is not installed is found in no other place.
    """
    with suppress(FileNotFoundError):  # the current directory was deleted
        if sys.path[:1] == [os.getcwd()] != [_FOLDER]:
            del sys.path[0]


if __name__ == "__main__":
    _remove_current_directory()
    main()
