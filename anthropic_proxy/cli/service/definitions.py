"""Files that define the proxy as a background program: systemd unit, launchd agent, Windows task.

Each function `encode_*` returns the text of a file for a `ServiceDefinition`, which has the interpreter, the folder and
the log file.
"""

import plistlib
from pathlib import PurePath
from xml.sax.saxutils import escape

from msgspec import Struct

SERVICE_NAME = "anthropic-proxy"
"""Name of the service, of its unit and of its folders."""
SERVICE_DESCRIPTION = "Anthropic Messages API in front of other model providers"
"""Description of the service, which service managers show."""
_STOP_SECONDS = 35
"""Maximum time in seconds to stop the service: `STOP_TIMEOUT` (25 s) for replies in progress, and a margin."""
_RESTART_SECONDS = 5
_FATAL_STATUSES = "2 3"
"""Exit statuses after which a restart cannot help: a wrong setting, and a failed start-up."""
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./")

_RESTRICTIONS = (
    "NoNewPrivileges=true",
    "UMask=0077",
    "LockPersonality=true",
    "RestrictRealtime=true",
    "RestrictSUIDSGID=true",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK",
    "SystemCallArchitectures=native",
)
"""Options of systemd that need no rights of root."""
_SYSTEM_RESTRICTIONS = (
    "# A user of its own, which exists while the service runs. systemd reads the file with keys as root.",
    "DynamicUser=true",
    f"StateDirectory={SERVICE_NAME}",
    f"Environment=HOME=/var/lib/{SERVICE_NAME} XDG_DATA_HOME=/var/lib/{SERVICE_NAME}",
    f"EnvironmentFile=-/etc/{SERVICE_NAME}/environment",
    "LimitNOFILE=65536",
    "ProtectSystem=strict",
    "ProtectHome=true",
    "PrivateTmp=true",
    "PrivateDevices=true",
    "ProtectClock=true",
    "ProtectControlGroups=true",
    "ProtectHostname=true",
    "ProtectKernelLogs=true",
    "ProtectKernelModules=true",
    "ProtectKernelTunables=true",
    "ProtectProc=invisible",
    "ProcSubset=pid",
    "RestrictNamespaces=true",
    "RemoveIPC=true",
    "CapabilityBoundingSet=",
    "SystemCallFilter=@system-service",
    "SystemCallFilter=~@privileged",
    "SystemCallErrorNumber=EPERM",
)
"""Options of the systemd unit for the whole machine, in addition to `_RESTRICTIONS`."""

_TASK = """<?xml version="1.0" encoding="UTF-16"?>
<Task version="1.2" xmlns="http://schemas.microsoft.com/windows/2004/02/mit/task">
  <RegistrationInfo>
    <Description>{description}</Description>
    <URI>\\{name}</URI>
  </RegistrationInfo>
  <Triggers>
    <LogonTrigger>
      <Enabled>true</Enabled>
      <UserId>{user}</UserId>
    </LogonTrigger>
  </Triggers>
  <Principals>
    <Principal id="Author">
      <UserId>{user}</UserId>
      <LogonType>InteractiveToken</LogonType>
      <RunLevel>LeastPrivilege</RunLevel>
    </Principal>
  </Principals>
  <Settings>
    <MultipleInstancesPolicy>IgnoreNew</MultipleInstancesPolicy>
    <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>
    <StopIfGoingOnBatteries>false</StopIfGoingOnBatteries>
    <AllowHardTerminate>true</AllowHardTerminate>
    <StartWhenAvailable>true</StartWhenAvailable>
    <IdleSettings>
      <StopOnIdleEnd>false</StopOnIdleEnd>
      <RestartOnIdle>false</RestartOnIdle>
    </IdleSettings>
    <Enabled>true</Enabled>
    <Hidden>false</Hidden>
    <ExecutionTimeLimit>PT0S</ExecutionTimeLimit>
    <Priority>7</Priority>
    <RestartOnFailure>
      <Interval>PT1M</Interval>
      <Count>5</Count>
    </RestartOnFailure>
  </Settings>
  <Actions Context="Author">
    <Exec>
      <Command>conhost.exe</Command>
      <Arguments>{arguments}</Arguments>
      <WorkingDirectory>{directory}</WorkingDirectory>
    </Exec>
  </Actions>
</Task>
"""


class ServiceDefinition(Struct, frozen=True):
    """Properties of the background service on every platform: interpreter, working directory, log file and user."""

    interpreter: PurePath
    """Path of the Python interpreter with the installed package."""
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
        """Command-line arguments with which the Python interpreter starts the proxy."""
        # -P: import nothing from the working directory
        return ("-P", "-m", "anthropic_proxy", "serve", "--config", str(self.directory))


def encode_systemd_unit(definition: ServiceDefinition, *, system_wide: bool = False) -> str:
    """Return the text of a systemd unit that runs the proxy for one user (systemd.service(5), systemd.exec(5)).

    With `system_wide`, a separate user runs the proxy for the whole machine.
    """
    command = " ".join(map(_quote_for_systemd, (str(definition.interpreter), *definition.arguments)))
    environment = (
        [f'Environment="PATH={_escape_for_systemd(definition.search_path)}"'] if definition.search_path else []
    )
    lines = [
        "[Unit]",
        f"Description={SERVICE_DESCRIPTION}",
        *(["After=network-online.target", "Wants=network-online.target"] if system_wide else []),
        "StartLimitIntervalSec=60",
        "StartLimitBurst=5",
        "",
        "[Service]",
        "Type=exec",
        f"ExecStart={command}",
        f"WorkingDirectory={str(definition.directory).replace('%', '%%')}",
        "Environment=PYTHONUNBUFFERED=1",
        *environment,
        "Restart=on-failure",
        f"RestartSec={_RESTART_SECONDS}",
        f"RestartPreventExitStatus={_FATAL_STATUSES}",
        f"TimeoutStopSec={_STOP_SECONDS}",
        "KillMode=mixed",
        *(
            []
            if system_wide
            else ["# These options need no rights of root. Others, such as ProtectSystem, need user namespaces."]
        ),
        *_RESTRICTIONS,
        *(_SYSTEM_RESTRICTIONS if system_wide else ()),
        "",
        "[Install]",
        f"WantedBy={'multi-user' if system_wide else 'default'}.target",
    ]
    return "\n".join(lines) + "\n"


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
    return _TASK.format(
        name=SERVICE_NAME,
        description=escape(SERVICE_DESCRIPTION),
        user=escape(definition.user),
        arguments=arguments,
        directory=escape(str(definition.directory)),
    )


def _quote_for_systemd(word: str) -> str:
    return word if set(word) <= _PLAIN else f'"{_escape_for_systemd(word).replace("$", "$$")}"'


def _escape_for_systemd(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
