"""`Service`: the proxy as a background program of the operating system, started at login.

`find_service` returns the service for systemd (Linux), launchd (macOS) or the task scheduler (Windows).
`Service.install` and `Service.uninstall` write and remove its file, and run the commands of the system.
"""

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath

import platformdirs
from msgspec import Struct

from anthropic_proxy.cli.service.definitions import (
    SERVICE_NAME,
    ServiceDefinition,
    encode_launchd_agent,
    encode_systemd_unit,
    encode_windows_task,
)
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.platforms.os_errors import describe_os_error
from anthropic_proxy.platforms.programs import find_program, windows_system_program
from anthropic_proxy.platforms.user_account import user_account
from anthropic_proxy.settings import copy_environment

_UNIT = f"{SERVICE_NAME}.service"
_TEMPORARY = ("archive-v", "uvx", ".tmp")
"""Parts of the path of a Python interpreter that uvx or pipx run has created. Such an interpreter can be removed at any
time."""


class Service(Struct, frozen=True):
    """The proxy as a background program of the operating system: its definition file and its commands.

    The commands start the program, stop it and query its state.
    """

    directory: PurePath
    """Folder of the settings files."""
    path: Path
    text: str
    encoding: str
    install_commands: Sequence[Sequence[str]]
    """Commands that start the service. They are run after the file of the service was written."""
    uninstall_commands: Sequence[Sequence[str]]
    """Commands that stop the service. They are run before the file of the service is removed."""
    status_command: Sequence[str]
    """Command with exit status 0 and `running_text` in its output if the service runs."""
    running_text: str
    log_command: str
    """Command by which the user can read the log of the service."""
    advice: Sequence[str] = ()
    """Texts for the user after the installation, such as a command that keeps the service running."""

    def install(self) -> None:
        """Write the file that defines the service, and start or restart the service.

        Raises `ConfigurationError` if the file cannot be written or the service cannot be started.
        """
        if self.is_installed():
            self._run(self.uninstall_commands, check=False)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(self.text, encoding=self.encoding)
        except OSError as error:
            raise ConfigurationError(f"{self.path} cannot be written: {describe_os_error(error)}.") from None
        self._run(self.install_commands, check=True)

    def uninstall(self) -> None:
        """Stop the service, and remove its file. Raises `ConfigurationError` if it is not installed."""
        if not self.is_installed():
            raise ConfigurationError(f"The service is not installed: there is no {self.path}.")
        self._run(self.uninstall_commands, check=False)
        self.path.unlink(missing_ok=True)

    def is_installed(self) -> bool:
        """Return True if the file that defines the service exists."""
        return self.path.exists()

    def is_running(self) -> bool:
        """Return True if the service manager reports that the service runs."""
        done = _call(self.status_command)
        return done.returncode == 0 and self.running_text in done.stdout

    def _run(self, commands: Sequence[Sequence[str]], *, check: bool) -> None:
        for command in commands:
            done = _call(command)
            if check and done.returncode:
                reason = " ".join((done.stderr or done.stdout).split()) or f"exit status {done.returncode}"
                raise ConfigurationError(f"{' '.join(command)} failed: {reason}. The file {self.path} was written.")


def find_service(platform: str, directory: Path) -> Service:
    """Return the background service for the operating system `platform` (a value of `sys.platform`).

    The service need not be installed. `directory` is the folder of the settings files.
    Raises `ConfigurationError` if the platform or this Python is not supported.
    """
    interpreter = Path(sys.executable)
    if any(word in folder for folder in interpreter.parts for word in _TEMPORARY):
        raise ConfigurationError(
            f"{interpreter} is a temporary environment, which can be removed at any time. Install the proxy first."
        )
    build = _BUILDERS.get(platform)
    if build is None:
        raise ConfigurationError(
            f"{platform} has no known service manager. Start the proxy with: anthropic-proxy serve"
        )
    environ = copy_environment()
    log_file = Path(platformdirs.user_log_dir(SERVICE_NAME, appauthor=False)) / "service.log"
    definition = ServiceDefinition(interpreter, directory, log_file, environ.get("PATH", ""), user_account(environ))
    return build(definition, environ)


def _systemd(definition: ServiceDefinition, environ: Mapping[str, str]) -> Service:
    folder = Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return Service(
        directory=definition.directory,
        path=folder / "systemd" / "user" / _UNIT,
        text=encode_systemd_unit(definition),
        encoding="utf-8",
        install_commands=[_systemctl("daemon-reload"), _systemctl("enable", _UNIT), _systemctl("restart", _UNIT)],
        uninstall_commands=[_systemctl("disable", "--now", _UNIT)],
        status_command=_systemctl("is-active", _UNIT),
        running_text="active",
        log_command=f"journalctl --user -u {SERVICE_NAME} -f",
        advice=["It stops when you log out. To keep it running:  loginctl enable-linger"],
    )


def _systemctl(*words: str) -> tuple[str, ...]:
    return ("systemctl", "--user", *words)


def _launchd(definition: ServiceDefinition, environ: Mapping[str, str]) -> Service:
    path = Path.home() / "Library" / "LaunchAgents" / f"{SERVICE_NAME}.plist"
    domain = f"gui/{user_account(environ)}"
    Path(definition.log_file).parent.mkdir(parents=True, exist_ok=True)
    return Service(
        directory=definition.directory,
        path=path,
        text=encode_launchd_agent(definition),
        encoding="utf-8",
        install_commands=[("launchctl", "bootstrap", domain, str(path))],
        uninstall_commands=[("launchctl", "bootout", f"{domain}/{SERVICE_NAME}")],
        status_command=("launchctl", "print", f"{domain}/{SERVICE_NAME}"),
        running_text="state = running",
        log_command=f"tail -f '{definition.log_file}'",
    )


def _windows(definition: ServiceDefinition, environ: Mapping[str, str]) -> Service:
    path = Path(platformdirs.user_data_dir(SERVICE_NAME, appauthor=False)) / "task.xml"
    schtasks = windows_system_program("schtasks.exe", environ)
    Path(definition.log_file).parent.mkdir(parents=True, exist_ok=True)
    return Service(
        directory=definition.directory,
        path=path,
        text=encode_windows_task(definition),
        encoding="utf-16",
        install_commands=[
            (schtasks, "/Create", "/TN", SERVICE_NAME, "/XML", str(path), "/F"),
            (schtasks, "/Run", "/TN", SERVICE_NAME),
        ],
        uninstall_commands=[
            (schtasks, "/End", "/TN", SERVICE_NAME),
            (schtasks, "/Delete", "/TN", SERVICE_NAME, "/F"),
        ],
        status_command=(schtasks, "/Query", "/TN", SERVICE_NAME, "/FO", "CSV", "/NH"),
        running_text="Running",
        log_command=f'Get-Content -Wait "{definition.log_file}"',
    )


_BUILDERS: Mapping[str, Callable[[ServiceDefinition, Mapping[str, str]], Service]] = {
    "linux": _systemd,
    "darwin": _launchd,
    "win32": _windows,
}


def _call(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    program = find_program(command[0], copy_environment())
    if program is None:
        raise ConfigurationError(f"{command[0]} was not found: this system has no known service manager.")
    return subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)
