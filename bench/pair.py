"""`scripts/ci.py bench --pair COMMIT`: older commits beside the code as it is, in one interleaved run.

Each older commit gets a temporary git worktree. If its lock files and `pyproject.toml` are those of this checkout, both
use the same environment. Otherwise the worktree gets one of its own, from its lock files. A comparison with the commit
before hides a slow drift, a fixed old commit shows it.
"""

import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from msgspec import structs

from bench.load import BenchError
from bench.report import align, cell
from bench.results import ResultTable, Row
from bench.subjects import CHECKOUT, DIRECT, PROXY, Subject, start_proxy

TITLE = "Before and now"
_INPUTS = ("pyproject.toml", "locks/runtime.lock", "locks/build.lock", "locks/dev.lock")
"""Files that decide whether two commits can share an environment."""


@contextmanager
def checked_out(commit: str, directory: Path, checkout: Path = CHECKOUT) -> Iterator[Path]:
    """Provide a temporary worktree of a commit. Raises `BenchError` if there is no such commit."""
    place = directory / commit.replace("/", "-")
    added = _git(checkout, "worktree", "add", "--quiet", "--detach", str(place), commit)
    if added.returncode:
        raise BenchError(f"--pair {commit}: {added.stderr.strip() or 'git cannot check it out'}")
    try:
        yield place
    finally:
        _git(checkout, "worktree", "remove", "--force", str(place))


def find_python(place: Path, checkout: Path = CHECKOUT) -> str:
    """Return the interpreter for a worktree: this one, or that of an environment made for it.

    Raises `BenchError` if the environment cannot be made.
    """
    if all(_content(place / name) == _content(checkout / name) for name in _INPUTS):
        return sys.executable
    python = str(place / ".venv" / "bin" / "python")
    # Not by the scripts of that commit: earlier ones resolve dependencies again, which a newer release can break.
    lock = next((name for name in ("locks/dev.lock", "requirements-dev.lock") if (place / name).exists()), "")
    pip = [python, "-m", "pip", "install", "--quiet", "--no-deps"]
    commands = [
        [sys.executable, "-m", "venv", ".venv"],
        [*pip, "--require-hashes", "-r", lock],
        [*pip, "--no-build-isolation", "-e", "."],
    ]
    for command in commands:
        made = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
        if made.returncode:
            raise BenchError(f"the environment of the older commit cannot be made:\n{made.stderr[-2000:]}")
    return python


def pair_with(places: Mapping[str, Path]) -> tuple[Subject, ...]:
    """Return the direct call, the proxies of the older commits, and the proxy as it is. `places`: commit → worktree."""
    older = [
        structs.replace(PROXY, name=commit, start=partial(start_proxy, checkout=place, python=find_python(place)))
        for commit, place in places.items()
    ]
    return DIRECT, *older, PROXY


def write_pair(sheet: ResultTable, commit: str) -> str:
    """Return a table: both values of each row, and the median of the ratios of the rounds with half their range."""
    rows = [["", commit, "now", "now / before", "spread"]]
    for row in sheet.rows:
        ratios = row.compare(PROXY.name, commit, ratio=True)
        if ratios:
            middle, spread = statistics.median(ratios), (max(ratios) - min(ratios)) / 2
            rows.append([*_values(row, commit), f"{middle:.3f}", f"±{spread:.3f}{_mark(ratios)}"])
    return f"{align(rows)}\n\n* all rounds agree on the direction."


def _values(row: Row, commit: str) -> list[str]:
    return [f"{row.title}, {row.unit}", cell(row, commit), cell(row, PROXY.name)]


def _mark(ratios: list[float]) -> str:
    return " *" if len(ratios) > 1 and (min(ratios) > 1 or max(ratios) < 1) else ""


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _git(checkout: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], cwd=checkout, capture_output=True, text=True, check=False)
