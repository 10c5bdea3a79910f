"""What the program loads before it knows the command."""

import subprocess
import sys

import pytest

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
    "anthropic_proxy.cli.serve",
    "anthropic_proxy.errors",
    "anthropic_proxy.gateway",
    "anthropic_proxy.gateway.platforms",
    "anthropic_proxy.gateway.platforms.signals",
    "anthropic_proxy.gateway.platforms.terminal",
]


@pytest.mark.parametrize(
    ("words", "further"),
    [(["--help"], []), (["--version"], []), (["serve", "--help"], []), (["version"], ["anthropic_proxy.cli.version"])],
)
def test_help_and_version_load_no_settings_and_no_other_command(words: list[str], further: list[str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *words], capture_output=True, text=True, check=False, timeout=60
    )
    assert (ended.returncode, ended.stderr.splitlines()) == (0, sorted(_LOADED + further))
