"""The generated service files, compared in full, and parsed by readers of their formats."""

import os
import plistlib
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest

from anthropic_proxy.cli.service import (
    ServiceDefinition,
    encode_launchd_agent,
    encode_systemd_unit,
    encode_windows_task,
    find_service,
)
from tests.support.command_line import OPENAI, run_command
from tests.support.waiting import WAIT_SECONDS

POSIX = ServiceDefinition(
    PurePosixPath("/home/a b/.venv/bin/python"),
    PurePosixPath("/home/a b/50% <&>"),
    PurePosixPath("/home/a b/logs/service.log"),
    '/usr/bin:/opt/"x"',
)
WINDOWS = ServiceDefinition(
    PureWindowsPath(r"C:\Users\A & B\.venv\Scripts\python.exe"),
    PureWindowsPath(r"C:\Users\A & B\proxy"),
    PureWindowsPath(r"C:\Users\A & B\service.log"),
    user="HOST\\A & B",
)
UNIT = r"""[Unit]
Description=Anthropic Messages API in front of other model providers
StartLimitIntervalSec=60
StartLimitBurst=5

[Service]
Type=exec
ExecStart="/home/a b/.venv/bin/python" -P -m anthropic_proxy serve --config "/home/a b/50%% <&>"
WorkingDirectory=/home/a b/50%% <&>
Environment=PYTHONUNBUFFERED=1
Environment="PATH=/usr/bin:/opt/\"x\""
Restart=on-failure
RestartSec=5
RestartPreventExitStatus=2 3
TimeoutStopSec=35
KillMode=mixed
# The bounds of all parts follow from this limit, which the proxy reads (MEMORY_LIMIT_MB).
MemoryMax=2G
OOMPolicy=continue
# These options need no rights of root. Others, such as ProtectSystem, need user namespaces.
NoNewPrivileges=true
UMask=0077
LockPersonality=true
RestrictRealtime=true
RestrictSUIDSGID=true
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
SystemCallArchitectures=native

[Install]
WantedBy=default.target
"""
TASK = "{http://schemas.microsoft.com/windows/2004/02/mit/task}"


def test_the_systemd_unit() -> None:
    assert encode_systemd_unit(POSIX) == UNIT


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    python = tmp_path / "a b" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    unit = tmp_path / "anthropic-proxy.service"
    unit.write_text(encode_systemd_unit(ServiceDefinition(python, python.parent, tmp_path, "/usr/bin")))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit],
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_SECONDS,
    )
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)


def test_the_launchd_agent() -> None:
    assert plistlib.loads(encode_launchd_agent(POSIX).encode()) == {
        "Label": "anthropic-proxy",
        "ProgramArguments": [
            "/home/a b/.venv/bin/python",
            "-P",
            "-m",
            "anthropic_proxy",
            "serve",
            "--config",
            "/home/a b/50% <&>",
        ],
        "WorkingDirectory": "/home/a b/50% <&>",
        "EnvironmentVariables": {"PYTHONUNBUFFERED": "1", "PATH": '/usr/bin:/opt/"x"'},
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        "ExitTimeOut": 35,
        "Umask": 63,
        "ProcessType": "Interactive",
        "StandardOutPath": "/home/a b/logs/service.log",
        "StandardErrorPath": "/home/a b/logs/service.log",
    }


def test_the_windows_task() -> None:
    task = ET.fromstring(encode_windows_task(WINDOWS).encode("utf-16"))
    texts = {
        element.tag.removeprefix(TASK): element.text for element in task.iter() if element.text and element.text.strip()
    }
    arguments = (
        r'--headless cmd.exe /d /s /c ""C:\Users\A & B\.venv\Scripts\python.exe" -P -m anthropic_proxy serve'
        r' --config "C:\Users\A & B\proxy"'
        r' >> "C:\Users\A & B\service.log" 2>&1"'
    )
    expected = {
        "UserId": r"HOST\A & B",
        "LogonType": "InteractiveToken",
        "RunLevel": "LeastPrivilege",
        "ExecutionTimeLimit": "PT0S",
        "MultipleInstancesPolicy": "IgnoreNew",
        "StopIfGoingOnBatteries": "false",
        "Interval": "PT1M",
        "Command": "conhost.exe",
        "Arguments": arguments,
        "WorkingDirectory": r"C:\Users\A & B\proxy",
    }
    assert {name: texts[name] for name in expected} == expected
    assert [child.tag.removeprefix(TASK) for child in task] == [
        *("RegistrationInfo", "Triggers", "Principals", "Settings", "Actions"),
    ]


PROGRAM = """#!/bin/sh
echo "$*" >> calls
case "$*" in
*is-active*) [ -f running ] && echo active || exit 3 ;;
*restart*) touch running ;;
*--now*) rm running ;;
esac
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="platform: no systemd")
def test_a_relative_configuration_folder_is_ignored(tmp_path: Path) -> None:
    settings = {**OPENAI, "XDG_CONFIG_HOME": "conf"}
    done = run_command("service", "install", "--print", directory=tmp_path, settings=settings)
    unit = tmp_path / ".config/systemd/user/anthropic-proxy.service"
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, f"# {unit}")


@pytest.mark.skipif(not shutil.which("sh"), reason="needs a shell")
def test_the_service_is_installed_shown_and_removed(tmp_path: Path) -> None:
    """With a stand-in for systemctl that keeps one state."""
    program = tmp_path / "bin/systemctl"
    program.parent.mkdir()
    program.write_text(PROGRAM)
    program.chmod(0o755)
    hostile = tmp_path / "systemctl"
    hostile.write_text("#!/bin/sh\ntouch hostile\n")
    hostile.chmod(0o755)
    unit = tmp_path / ".config/systemd/user/anthropic-proxy.service"

    def run(*words: str) -> tuple[int, str]:
        settings = {**OPENAI, "PATH": f":.:{tmp_path}/bin:{os.environ['PATH']}"}
        done = run_command("service", *words, directory=tmp_path, settings=settings)
        return done.returncode, done.stdout + done.stderr

    code, printed = run("install", "--print")
    assert (code, unit.exists()) == (0, False)
    assert printed.startswith(f"# {unit}\n[Unit]\n")
    assert printed.endswith("# systemctl --user restart anthropic-proxy.service\n")
    absent = "The service is not installed. Install it:  anthropic-proxy service install\n"
    assert run("status") == (1, absent)
    linger = "It stops when you log out. To keep it running:  loginctl enable-linger"
    installed = f"Installed {unit}. The proxy runs, and starts at each login.\n{linger}\n"
    assert run("install") == (0, installed)
    assert f"WorkingDirectory={tmp_path}\n" in unit.read_text()
    assert run("status") == (0, f"✓ runs   {unit}\nLog:  journalctl --user -u anthropic-proxy -f\n")
    assert run("uninstall") == (0, f"Removed {unit}. Settings and logs remain.\n")
    assert run("uninstall") == (2, f"✕ The service is not installed: there is no {unit}.\n")
    assert (tmp_path / "calls").read_text().splitlines() == [
        "--user daemon-reload",
        "--user enable anthropic-proxy.service",
        "--user restart anthropic-proxy.service",
        "--user is-active anthropic-proxy.service",
        "--user disable --now anthropic-proxy.service",
    ]
    assert not (tmp_path / "hostile").exists()


def test_the_commands_of_the_windows_service_have_the_path_of_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SYSTEMROOT", r"D:\Windows")
    service = find_service("win32", tmp_path)
    commands = [*service.install_commands, *service.uninstall_commands, service.status_command]
    assert {command[0] for command in commands} == {r"D:\Windows\System32\schtasks.exe"}
