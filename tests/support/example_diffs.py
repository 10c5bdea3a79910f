"""Examples of the documentation that are diffs: each is applied to a copy of this project, and tests run there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT

EXAMPLES = ROOT / "docs/contributing/examples"


def changed_lines(diff: Path) -> dict[str, list[str]]:
    """Return file → lines that the diff adds or removes."""
    _, *pieces = re.split(r"^diff --git a/(\S+) b/\S+\n", diff.read_text("utf-8"), flags=re.MULTILINE)
    hunks = zip(pieces[::2], pieces[1::2], strict=True)
    return {name: re.findall(r"^[+-](?!\+\+|--).*", hunk, re.MULTILINE) for name, hunk in hunks}


def apply_to_copy(diff: Path, folder: Path) -> None:
    """Copy the project into the folder, as far as its tests read it, and apply the diff."""
    for name in ("anthropic_proxy", "tests", "docs"):
        shutil.copytree(ROOT / name, folder / name)
    for name in (".env.example", "CHANGELOG.md", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    applied = run_in(folder, "git", "apply", "--whitespace=nowarn", str(diff))
    assert applied.returncode == 0, (
        f"{applied.stderr}\nThe example no longer applies. Apply it with `git apply --3way`, correct it, and write it "
        f"again with `git diff --cached -U1 >{diff.relative_to(ROOT)}`."
    )


def run_in(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the copy. `folder` holds the package; git finds no repository around it."""
    environ = {**os.environ, "PYTHONPATH": str(folder), "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    return subprocess.run(command, check=False, cwd=folder, env=environ, capture_output=True, text=True)


def python_in(folder: Path, *arguments: str) -> str:
    """Run Python in the copy and return its output. A failure fails the test."""
    ran = run_in(folder, sys.executable, *arguments)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout
