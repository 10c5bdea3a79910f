"""What texts name the program: what its user can paste into a shell."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from anthropic_proxy.cli.command_table import COMMANDS
from anthropic_proxy.engine.platforms.program import name_program
from anthropic_proxy.gateway.settings.place import CONFIG_VARIABLE
from tests.support.paths import ROOT
from tests.support.platform_marks import HIDDEN_POSIX
from tests.support.waiting import WAIT_SECONDS

_SCRIPT = Path(sys.executable).parent / "anthropic-proxy"
pytestmark = pytest.mark.skipif(
    HIDDEN_POSIX or sys.platform == "win32", reason="platform: the tests link and start a POSIX script"
)


def run(*command: str | Path, **variables: str) -> str:
    """Return the proposal at the end of an error message."""
    environment = {CONFIG_VARIABLE: os.environ[CONFIG_VARIABLE], **variables}
    ended = subprocess.run(
        [*command, "models", "nothing"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_SECONDS,
    )
    assert ended.returncode == 2
    return ended.stderr.rpartition("More:  ")[2].strip()


def test_it_is_the_name_where_the_user_finds_the_program_in_path() -> None:
    assert run(_SCRIPT, PATH=os.environ["PATH"]) == "anthropic-proxy models --help"


@pytest.mark.parametrize(
    "path", ["/usr/bin", f"{_SCRIPT.parent}:/usr/bin", ".:/usr/bin"], ids=["other", "activated", "relative"]
)
def test_it_is_the_path_where_the_name_starts_nothing_or_something_else(path: str) -> None:
    for words in ((_SCRIPT,), (sys.executable, "-m", "anthropic_proxy")):
        assert run(*words, PATH=path, PYTHONPATH=str(ROOT)) == f"{_SCRIPT} models --help"
    assert run(_SCRIPT, PATH=path, HOME=str(_SCRIPT.parents[1])) == "~/bin/anthropic-proxy models --help"


def test_it_has_the_folder_of_settings_that_the_user_named(tmp_path: Path) -> None:
    folder = tmp_path / "my settings"
    folder.mkdir()
    shown = run(_SCRIPT, "--config", folder, PATH=os.environ["PATH"])
    assert shown == f"anthropic-proxy --config '{folder}' models --help"


def test_another_program_of_this_name_is_not_proposed(tmp_path: Path) -> None:
    (tmp_path / "anthropic-proxy").write_text("#!/bin/sh\n")
    (tmp_path / "anthropic-proxy").chmod(0o755)
    assert run(_SCRIPT, PATH=str(tmp_path)) == f"{_SCRIPT} models --help"


def test_a_link_of_an_installer_is_proposed_as_it_was_started(tmp_path: Path) -> None:
    folder = tmp_path / "my programs"
    folder.mkdir()
    (folder / "anthropic-proxy").symlink_to(_SCRIPT)
    assert run(folder / "anthropic-proxy", PATH="/usr/bin") == f"'{folder}/anthropic-proxy' models --help"


_PAINT = """
import io
from anthropic_proxy.gateway.telemetry.log import Log
print(Log(io.StringIO(), color=True).paint("anthropic-proxy code", "type"))
"""


def test_a_colored_command_is_named_too() -> None:
    environment = {"PATH": "/usr/bin", "PYTHONPATH": str(ROOT)}
    shown = subprocess.run([sys.executable, "-c", _PAINT], env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout == f"\x1b[36m{_SCRIPT} code\x1b[0m\n"


def test_only_commands_are_named() -> None:
    for text in (
        "anthropic-proxy 0.1.0",
        "anthropic-proxy.toml",
        "another anthropic-proxy (version 1)",
        "/x/anthropic-proxy init",
    ):
        assert name_program(text) == text


def test_every_text_of_the_source_names_an_existing_command() -> None:
    source = "\n".join(
        file.read_text("utf-8")
        for ending in ("py", "html", "json")
        for file in (ROOT / "anthropic_proxy").rglob(f"*.{ending}")
    )
    named = {*re.findall(r"(?<![\w./\\-])anthropic-proxy ([a-z][a-z-]*)", source)}
    assert named <= {*COMMANDS}, sorted(named - {*COMMANDS})
