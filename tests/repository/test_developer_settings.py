"""The tests pass in a checkout whose settings files are broken, as `init` or an unfinished change left them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

COPIED = ("pyproject.toml", "anthropic_proxy", "tests/__init__.py", "tests/conftest.py", "tests/support")
TESTS = ("tests/unit/test_startup.py", "tests/unit/platforms/test_program.py", "tests/unit/cli/test_config.py")
"""Tests of what is said about files that are not read, of processes of the checkout, and of commands."""
READ_BY_TESTS = ("tests/unit/__init__.py", "tests/unit/conftest.py", "tests/golden_texts", "docs/fix", "docs/start")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a checkout with settings files of which no line is valid."""
    for name in (*COPIED, *TESTS, *READ_BY_TESTS):
        copy = tmp_path / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy)
    for package in ("cli", "platforms"):
        (tmp_path / "tests/unit" / package / "__init__.py").touch()
    (tmp_path / ".env").write_bytes(b"PREFERRED_PROVIDER=nobody\n\xff\n")
    (tmp_path / "anthropic-proxy.toml").write_text("[routes\n")
    return tmp_path


def run(*words: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """A run of tests has no limit but that of this test."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("processes", [0, 1])
def test_broken_settings_files_of_the_checkout_change_no_test(processes: int, checkout: Path) -> None:
    assert run("anthropic_proxy", "config", "show", folder=checkout).stderr == (
        "✕ .env is not UTF-8 text: byte 26 is invalid. Save it as UTF-8.\n"
        "✕ anthropic-proxy.toml, line 1, column 8, is not valid TOML: Expected ']' at the end of a table declaration.\n"
    )
    done = run("pytest", "-n", str(processes), "-q", *TESTS, folder=checkout)
    assert done.returncode == 0, done.stdout + done.stderr
