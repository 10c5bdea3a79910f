"""Commands `service install`, `uninstall` and `status`: the proxy in the background, started at login.

It is a user unit of systemd on Linux, a launchd agent on macOS, or a task of the Windows task scheduler.
Administrator rights are not needed.
"""

import os
import plistlib
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Annotated
from xml.sax.saxutils import escape

import platformdirs
from cyclopts import Parameter
from msgspec import Struct

from anthropic_proxy.cli.commands import new_group
from anthropic_proxy.cli.output import Output
from anthropic_proxy.engine.platforms.os_errors import describe_os_error
from anthropic_proxy.engine.platforms.program import is_temporary_installation
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.platforms.processes import find_program, user_account, windows_system_program
from anthropic_proxy.gateway.settings import copy_environment
from anthropic_proxy.gateway.settings.place import require_settings_folder

EXIT_STOPPED = 1
"""Exit status of `service status` if the service does not run."""

service = new_group("service")
"""The command `service` with its subcommands."""


@service.command
def install(*, as_text: Annotated[bool, Parameter(name="--print")] = False) -> None:
    """Install and start the service with the settings files in their folder.

    A service that is already installed is replaced. The new service runs this version of the proxy with this Python.

    Parameters
    ----------
    as_text
        Print the file and the commands instead, and change nothing.
    """
    user_service = _find_service()
    output = Output()
    if as_text:
        commands = "".join(f"# {' '.join(command)}\n" for command in user_service.install_commands)
        output.write_text(f"# {user_service.path}\n{user_service.text}{commands}")
        return
    Path(user_service.directory).mkdir(mode=0o700, parents=True, exist_ok=True)
    user_service.install()
    output.write_line(
        f"Installed {output.paint(str(user_service.path), 'type')}. The proxy runs, and starts at each login."
    )
    for advice in user_service.advice:
        output.write_line(advice)


@service.command
def uninstall() -> None:
    """Stop the service and remove its file."""
    user_service = _find_service()
    user_service.uninstall()
    Output().write_line(f"Removed {user_service.path}. Settings and logs remain.")


@service.command
def status() -> None:
    """Print whether the service is installed and runs. Exit status 0: it runs; 1: it does not."""
    user_service = _find_service()
    output = Output()
    if not user_service.is_installed():
        remedy = output.paint("anthropic-proxy service install", "type")
        output.write_line(f"The service is not installed. Install it:  {remedy}")
        sys.exit(EXIT_STOPPED)
    running = user_service.is_running()
    state = output.paint("✓ runs", "ok") if running else output.paint("✕ does not run", "error")
    output.write_line(f"{state}   {user_service.path}")
    output.write_line(f"Log:  {output.paint(user_service.log_command, 'type')}")
    if not running:
        sys.exit(EXIT_STOPPED)


def _find_service() -> "Service":
    return find_service(sys.platform, require_settings_folder(copy_environment()))


SERVICE_NAME = "anthropic-proxy"
_JOURNAL = f"journalctl --user -u {SERVICE_NAME} -f"
SERVICE_DESCRIPTION = "Anthropic Messages API in front of other model providers"
_STOP_SECONDS = 35
"""Maximum time in seconds to stop the service: `STOP_TIMEOUT` (25 s) for replies in progress, and a margin."""
_FATAL_STATUSES = "2 3"
"""Exit statuses after which a restart cannot help: a wrong setting, and a failed start-up."""
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./")


class ServiceDefinition(Struct, frozen=True):
    interpreter: PurePath
    directory: PurePath
    """Folder of the settings files `.env` and `anthropic-proxy.toml`, which is also the working directory."""
    log_file: PurePath
    """Path of the log file on systems without a journal."""
    search_path: str = ""
    """Value of the variable PATH, in which programs that print API keys are found. "": the default of the system."""
    user: str = ""
    """Windows: account that the task belongs to, such as `HOST\\user`."""

    @property
    def arguments(self) -> tuple[str, ...]:
        # -P: import nothing from the working directory
        return ("-P", "-m", "anthropic_proxy", "serve", "--config", str(self.directory))


def encode_systemd_unit(definition: ServiceDefinition, *, system_wide: bool = False) -> str:
    """Return the text of a systemd unit that runs the proxy for one user (systemd.service(5), systemd.exec(5)).

    With `system_wide`, a separate user runs the proxy for the whole machine.
    """
    words = str(definition.interpreter), *definition.arguments
    command = " ".join(
        word if set(word) <= _PLAIN else f'"{_escape_for_systemd(word).replace("$", "$$")}"' for word in words
    )
    kinds = {"system" if system_wide else "user", "path" if definition.search_path else ""}
    lines = []
    for line in Path(__file__).with_name("systemd_unit.txt").read_text("utf-8").splitlines():
        kind, _, text = line.partition(": ")
        if kind not in ("system", "user", "path"):
            lines.append(line)
        elif kind in kinds:
            lines.append(text)
    unit = "\n".join(lines).format(
        name=SERVICE_NAME,
        description=SERVICE_DESCRIPTION,
        command=command,
        directory=str(definition.directory).replace("%", "%%"),
        path=_escape_for_systemd(definition.search_path),
        fatal_statuses=_FATAL_STATUSES,
        stop_seconds=_STOP_SECONDS,
    )
    return f"{unit}\n"


def encode_launchd_agent(definition: ServiceDefinition) -> str:
    """Return the text of a launchd agent that runs the proxy on macOS, a property list (launchd.plist(5))."""
    environment = {"PYTHONUNBUFFERED": "1"} | ({"PATH": definition.search_path} if definition.search_path else {})
    content = {
        "Label": SERVICE_NAME,
        "ProgramArguments": [str(definition.interpreter), *definition.arguments],
        "WorkingDirectory": str(definition.directory),
        "EnvironmentVariables": environment,
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        "ExitTimeOut": _STOP_SECONDS,
        "Umask": 0o077,
        "ProcessType": "Interactive",
        "StandardOutPath": str(definition.log_file),
        "StandardErrorPath": str(definition.log_file),
    }
    return plistlib.dumps(content, sort_keys=False).decode()


def encode_windows_task(definition: ServiceDefinition) -> str:
    """Return an XML task that runs the proxy on Windows without a window (Task Scheduler Schema, version 1.2)."""
    *words, directory = definition.arguments
    program = f'"{definition.interpreter}" {" ".join(words)} "{directory}" >> "{definition.log_file}" 2>&1'
    arguments = escape(f'--headless cmd.exe /d /s /c "{program}"')
    return (
        Path(__file__)
        .with_name("windows_task.xml")
        .read_text("utf-8")
        .format(
            name=SERVICE_NAME,
            description=escape(SERVICE_DESCRIPTION),
            user=escape(definition.user),
            arguments=arguments,
            directory=escape(str(definition.directory)),
        )
    )


def _escape_for_systemd(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")


_UNIT = f"{SERVICE_NAME}.service"


class Service(Struct, frozen=True):
    """The proxy as a background program of the operating system: its definition file and its commands."""

    directory: PurePath
    """Folder of the settings files."""
    path: Path
    text: str
    encoding: str
    install_commands: Sequence[Sequence[str]]
    """They are run after the file of the service was written."""
    uninstall_commands: Sequence[Sequence[str]]
    """They are run before the file of the service is removed."""
    status_command: Sequence[str]
    """Command with exit status 0 and `running_text` in its output if the service runs."""
    running_text: str
    log_command: str
    advice: Sequence[str] = ()
    """Texts for the user after the installation, such as a command that keeps the service running."""

    def install(self) -> None:
        """Raises `ConfigurationError` if the file cannot be written or the service cannot be started."""
        if self.is_installed():
            self._run(self.uninstall_commands, check=False)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(self.text, encoding=self.encoding)
        except OSError as error:
            raise ConfigurationError(
                f"{self.path} cannot be written: {describe_os_error(error)}.", code="service"
            ) from None
        self._run(self.install_commands, check=True)

    def uninstall(self) -> None:
        """Raises `ConfigurationError` if it is not installed."""
        if not self.is_installed():
            raise ConfigurationError(f"The service is not installed: there is no {self.path}.", code="service")
        self._run(self.uninstall_commands, check=False)
        self.path.unlink(missing_ok=True)

    def is_installed(self) -> bool:
        return self.path.exists()

    def is_running(self) -> bool:
        done = _call(self.status_command)
        return done.returncode == 0 and self.running_text in done.stdout

    def _run(self, commands: Sequence[Sequence[str]], *, check: bool) -> None:
        for command in commands:
            done = _call(command)
            if check and done.returncode:
                reason = " ".join((done.stderr or done.stdout).split()) or f"exit status {done.returncode}"
                raise ConfigurationError(
                    f"{' '.join(command)} failed: {reason}. The file {self.path} was written.", code="service"
                )


def find_service(platform: str, directory: Path) -> Service:
    """Return the service for `platform` (a value of `sys.platform`), installed or not.

    `directory`: folder of the settings files. Raises `ConfigurationError` if the platform or this Python is not
    supported.
    """
    interpreter = Path(sys.executable)
    if is_temporary_installation(sys.executable):
        raise ConfigurationError(
            f"{interpreter} is a temporary environment, which can be removed at any time. Install the proxy first.",
            code="service",
        )
    build = _BUILDERS.get(platform)
    if build is None:
        raise ConfigurationError(
            f"{platform} has no known service manager. Start the proxy:  anthropic-proxy serve", code="service"
        )
    environ = copy_environment()
    log_file = _find_log_file()
    definition = ServiceDefinition(interpreter, directory, log_file, environ.get("PATH", ""), user_account(environ))
    return build(definition, environ)


def _find_log_file() -> Path:
    return Path(platformdirs.user_log_dir(SERVICE_NAME, appauthor=False)) / "service.log"


def describe_log() -> str:
    """Return the place of the log of the service: a file, or on Linux the command that prints it."""
    return _JOURNAL.removesuffix(" -f") if sys.platform == "linux" else str(_find_log_file())


def _systemd(definition: ServiceDefinition, environ: Mapping[str, str]) -> Service:
    chosen = environ.get("XDG_CONFIG_HOME", "")
    folder = Path(chosen) if os.path.isabs(chosen) else Path.home() / ".config"  # XDG ignores a relative path
    return Service(
        directory=definition.directory,
        path=folder / "systemd" / "user" / _UNIT,
        text=encode_systemd_unit(definition),
        encoding="utf-8",
        install_commands=[_systemctl("daemon-reload"), _systemctl("enable", _UNIT), _systemctl("restart", _UNIT)],
        uninstall_commands=[_systemctl("disable", "--now", _UNIT)],
        status_command=_systemctl("is-active", _UNIT),
        running_text="active",
        log_command=_JOURNAL,
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
        uninstall_commands=[(schtasks, "/End", "/TN", SERVICE_NAME), (schtasks, "/Delete", "/TN", SERVICE_NAME, "/F")],
        status_command=(schtasks, "/Query", "/TN", SERVICE_NAME, "/FO", "CSV", "/NH"),
        running_text="Running",
        log_command=f'Get-Content -Wait "{definition.log_file}"',
    )


_BUILDERS: Mapping[str, Callable[[ServiceDefinition, Mapping[str, str]], Service]] = {
    "linux": _systemd,
    "darwin": _launchd,
    "win32": _windows,
}


def _call(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    program = find_program(command[0], copy_environment())
    if program is None:
        raise ConfigurationError(
            f"{command[0]} was not found: this system has no known service manager.", code="service"
        )
    return subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)
