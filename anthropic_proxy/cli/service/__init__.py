"""Commands `service install`, `uninstall` and `status`: the proxy in the background, started at login.

It is a user unit of systemd on Linux, a launchd agent on macOS, or a task of the Windows task scheduler.
Administrator rights are not needed. `install`, `uninstall` and `status` are the functions of the commands.
"""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from anthropic_proxy.cli.command_table import COMMANDS
from anthropic_proxy.cli.output import Output
from anthropic_proxy.cli.service.control import Service, find_service
from anthropic_proxy.gateway.settings import copy_environment
from anthropic_proxy.gateway.settings.place import require_settings_folder

EXIT_STOPPED = 1
"""Exit status of `service status` if the service does not run."""

service = App(name="service", help_epilogue=COMMANDS["service"].show_examples())
"""The command `service` with its subcommands."""


@service.command
def install(*, as_text: Annotated[bool, Parameter(name="--print", negative="")] = False) -> None:
    """Install and start the service with the settings files in their folder.

    A service that is already installed is replaced. The new service runs this version of the proxy with this Python.

    Parameters
    ----------
    as_text
        Print the file and the commands instead, and change nothing.
    """
    found, output = _find_service(), Output()
    if as_text:
        output.write_line(f"# {found.path}")
        sys.stdout.write(found.text)
        for command in found.install_commands:
            output.write_line(f"# {' '.join(command)}")
        return
    Path(found.directory).mkdir(mode=0o700, parents=True, exist_ok=True)
    found.install()
    output.write_line(f"Installed {output.paint(str(found.path), 'type')}. The proxy runs, and starts at each login.")
    for advice in found.advice:
        output.write_line(advice)


@service.command
def uninstall() -> None:
    """Stop the service and remove its file."""
    found = _find_service()
    found.uninstall()
    Output().write_line(f"Removed {found.path}. Settings and logs remain.")


@service.command
def status() -> None:
    """Print whether the service is installed and runs. Exit status 0: it runs; 1: it does not."""
    found, output = _find_service(), Output()
    if not found.is_installed():
        output.write_line("The service is not installed. Install it:  anthropic-proxy service install")
        sys.exit(EXIT_STOPPED)
    running = found.is_running()
    state = output.paint("✓ runs", "ok") if running else output.paint("✕ does not run", "error")
    output.write_line(f"{state}   {found.path}")
    output.write_line(f"Log:  {output.paint(found.log_command, 'type')}")
    if not running:
        sys.exit(EXIT_STOPPED)


def _find_service() -> "Service":
    return find_service(sys.platform, require_settings_folder(copy_environment()))
