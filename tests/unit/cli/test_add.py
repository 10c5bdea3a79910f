"""The command `add`: the command that it runs for each way in which the proxy can be installed."""

import json
import shutil
import sys
import tomllib
from pathlib import Path

import pytest

from anthropic_proxy.cli.add import EXTRAS, find_install_command, list_requirements
from anthropic_proxy.errors import ConfigurationError
from tests.support.command_line import run_command
from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]


def test_all_extras_with_their_packages() -> None:
    assert set(EXTRAS) == {*PROJECT} - {"tests"}
    assert {extra: len(list_requirements(extra)) for extra in EXTRAS} == {name: len(PROJECT[name]) for name in EXTRAS}
    assert list_requirements("dashboard") == ["jinja2<4,>=3.1"]


def test_without_a_name_it_lists_all_extras(tmp_path: Path) -> None:
    ended = run_command("add", directory=tmp_path, settings={})
    first, *rows = ended.stdout.splitlines()
    assert (ended.returncode, first, ended.stderr) == (0, "Extra\tInstalled\tFor", "")
    assert [row.partition("\t")[0] for row in rows] == list(EXTRAS)
    assert "tui\t✓\tthe full-screen view: logs --live" in rows
    listed = json.loads(run_command("add", "--json", directory=tmp_path, settings={}).stdout)
    assert [row["extra"] for row in listed] == list(EXTRAS)
    assert {"extra": "tui", "installed": True, "packages": list_requirements("tui")} in listed


def test_an_unknown_extra(tmp_path: Path) -> None:
    names = "dashboard, documents, prices, facts, tui, vertex, bedrock, azure, litellm, fetch, import, postgres, redis"
    remedies = {
        "dasboard": "Did you mean:  anthropic-proxy add dashboard",
        "sound": f"The extras are: {names}, oidc, otel.",
    }
    for extra, remedy in remedies.items():
        ended = run_command("add", extra, directory=tmp_path, settings={})
        error = f'✕ There is no extra "{extra}". {remedy}\n'
        assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", error)


class Installation:
    """An environment of the proxy, in which the command is computed."""

    def __init__(self, folder: Path) -> None:
        self.prefix, self.programs = folder / "anthropic-proxy", folder / "bin"
        self.prefix.mkdir()
        self.programs.mkdir()
        self.python = str(self.prefix / "bin/python")
        self.checkout: Path | None = None
        self.has_pip = False

    def add_program(self, name: str) -> str:
        return str(shutil.copy("/bin/true", self.programs / name))

    def command(self, *extras: str) -> list[str]:
        return find_install_command(
            extras,
            [package for extra in extras for package in list_requirements(extra)],
            python=self.python,
            prefix=self.prefix,
            checkout=self.checkout,
            environ={"PATH": str(self.programs)},
            has_pip=self.has_pip,
        )


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


def test_pip(installation: Installation) -> None:
    installation.has_pip = True
    packages = [*list_requirements("dashboard"), *list_requirements("tui")]
    assert installation.command("dashboard", "tui") == [installation.python, "-P", "-m", "pip", "install", *packages]


def test_pipx_keeps_the_packages_when_it_updates(installation: Installation) -> None:
    installation.has_pip = True
    pipx = installation.add_program("pipx")
    (installation.prefix / "pipx_metadata.json").write_text("{}")
    assert installation.command("tui") == [pipx, "inject", "anthropic-proxy", *list_requirements("tui")]


def test_uv_installs_into_an_environment_without_pip(installation: Installation) -> None:
    uv = installation.add_program("uv")
    expected = [uv, "--directory", "/", "pip", "install", "--python", installation.python, *list_requirements("tui")]
    assert installation.command("tui") == expected


def test_a_checkout_gets_the_locked_packages(installation: Installation) -> None:
    checkout = installation.checkout = installation.prefix
    installation.prefix = checkout / ".venv"
    installation.prefix.mkdir()
    (installation.prefix / "pyvenv.cfg").write_text("home = /usr/bin\n")
    uv = installation.add_program("uv")
    python, script = getattr(sys, "_base_executable", ""), str(checkout / "scripts/setup.py")
    assert installation.command("tui", "redis") == [python, script, "tui", "redis"]
    (installation.prefix / "pyvenv.cfg").write_text("home = /usr/bin\nuv = 0.9.1\n")
    assert installation.command("tui", "redis") == [
        *(uv, "sync", "--project", str(checkout), "--inexact", "--extra", "tui", "--extra", "redis")
    ]


def test_an_environment_in_which_nothing_can_be_installed(installation: Installation) -> None:
    with pytest.raises(ConfigurationError) as caught:
        installation.command("dashboard")
    assert caught.value.message == (
        f"The environment {installation.prefix} has no pip, and there is no program uv in PATH. Install there: "
        "jinja2<4,>=3.1"
    )
    installation.python = "/home/a/.cache/uv/archive-v0/x/bin/python"
    with pytest.raises(ConfigurationError) as caught:
        installation.command("dashboard")
    assert caught.value.message == (
        "/home/a/.cache/uv/archive-v0/x/bin/python is a temporary environment, which can be removed at any time. "
        "Install the proxy first."
    )
