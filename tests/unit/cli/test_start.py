"""What the program loads before it knows the command."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from anthropic_proxy.cli.command_line import read_serve_options
from anthropic_proxy.cli.commands import commands, serve
from tests.support.platform_marks import HIDDEN_POSIX
from tests.support.waiting import WAIT_SECONDS

_PROGRAM = """
import atexit, sys
sys.argv = ["anthropic-proxy", *sys.argv[1:]]
own = lambda: sorted(name for name in sys.modules if name.startswith("anthropic_proxy."))
atexit.register(lambda: print(*own(), sep="\\n", file=sys.stderr))
from anthropic_proxy.__main__ import main
main()
"""
_LOADED = [
    "anthropic_proxy.__main__",
    "anthropic_proxy.cli",
    "anthropic_proxy.cli.command_line",
    "anthropic_proxy.cli.command_table",
    "anthropic_proxy.cli.commands",
    "anthropic_proxy.errors",
    "anthropic_proxy.gateway",
    "anthropic_proxy.gateway.platforms",
    "anthropic_proxy.gateway.platforms.signals",
    "anthropic_proxy.gateway.platforms.terminal",
]

_HELP = [
    "anthropic_proxy.cli.help_console",
    "anthropic_proxy.engine",
    "anthropic_proxy.engine.patterns",
    "anthropic_proxy.engine.platforms",
    "anthropic_proxy.engine.platforms.program",
]


@pytest.mark.parametrize(
    ("words", "further"),
    [
        (["--help"], _HELP),
        (["--version"], []),
        (["serve", "--help"], _HELP),
        (["version"], []),
    ],
)
def test_help_and_version_load_no_settings_and_no_other_command(words: list[str], further: list[str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *words], capture_output=True, text=True, check=False, timeout=WAIT_SECONDS
    )
    assert (ended.returncode, ended.stderr.splitlines()) == (0, sorted(_LOADED + further))


def test_the_help_has_only_colors_of_the_users_theme() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "anthropic_proxy", "help"],
        env={**os.environ, "FORCE_COLOR": "1", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_SECONDS,
    )
    assert set(re.findall(r"\x1b\[([0-9;]*)m", ended.stdout)) == {"0", "1", "2", "36"}


@pytest.mark.skipif(HIDDEN_POSIX, reason="platform: the plugin loads them to hide their POSIX parts")
def test_the_server_loads_neither_the_library_of_commands_nor_that_of_pages_nor_several_processes() -> None:
    unneeded = [
        "anthropic_proxy.engine.exchange.safeguards.check",
        "anthropic_proxy.engine.wires.anthropic.stream_repair",
        "anthropic_proxy.engine.wires.gemini",
        "cyclopts",
        "dataclasses",
        "email",
        "html",
        "http.client",
        "jinja2",
        "multiprocessing",
        "sqlalchemy",
        "uvicorn",
    ]
    program = f"""
import sys
from anthropic_proxy.cli.server_processes import start_server
print([name for name in {unneeded} if name in sys.modules])
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=WAIT_SECONDS
    )
    assert ended.stdout == "[]\n", ended.stderr


def test_a_proxy_with_team_keys_loads_what_few_use_with_its_first_request(tmp_path: Path) -> None:
    program = """
import sys
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.plugin_packages import open_plugins
from anthropic_proxy.gateway.settings import load_settings
folder = sys.argv[1]
settings = {"VIRTUAL_KEYS": "true", "XDG_DATA_HOME": folder, "ADMIN_API_KEY": "admin-0123456789"}
opened = list(open_plugins(load_settings(settings, PROVIDERS, env_file=folder + "/.env")))
unneeded = ("anthropic_proxy.console.scim.", "anthropic_proxy.console.gateway_protocol.telemetry")
print(sorted(name.rpartition(".")[2] for name in sys.modules if name.startswith(unneeded)))
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=WAIT_SECONDS)
    assert ended.stdout == "['paths', 'plugin', 'telemetry']\n", ended.stderr


def test_a_host_is_found_without_the_apis_of_its_provider() -> None:
    """The prices of a request ask for hosts of providers that the proxy does not call."""
    program = """
import sys
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.hosts import resolve_host
host = resolve_host(PROVIDERS.find("openai"), "http://127.0.0.1:9/v1")
wires = ["anthropic_proxy.engine.wires.openai_chat", "anthropic_proxy.engine.wires.openai_responses"]
loads = lambda: [name[-4:] for name in wires if name in sys.modules]
before = loads()
print(host.name, before, list(host.wires), host.wires["chat"].wire is not None, loads())
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=WAIT_SECONDS
    )
    assert ended.stdout == "local [] ['chat', 'responses', 'messages'] True ['chat']\n", ended.stderr


DEFAULTS = {name: parameter.default for name, parameter in inspect.signature(serve).parameters.items()}


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["serve"],
        ["--port", "8083"],
        ["serve", "--port=8083", "--host", "0.0.0.0"],
        ["serve", "--host=::1", "--workers", "3", "--watch-config"],
        ["serve", "--reload"],
        ["--attached", "--port", "0"],
    ],
)
def test_plain_options_of_the_server_are_read_as_the_library_reads_them(words: list[str]) -> None:
    _, bound, _ = commands.parse_args(words, exit_on_error=False, print_error=False)
    expected: dict[str, Any] = {**DEFAULTS, **bound.arguments}
    assert read_serve_options(words) == expected
