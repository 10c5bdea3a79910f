"""A disk of 2 MiB in memory, for tests with a full disk."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


@contextmanager
def mounted_disk(folder: Path) -> Iterator[Path]:
    """Skip the test if this user cannot mount it."""
    disk = folder / "disk"
    disk.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)], check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("platform: this user cannot mount a small disk")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill_disk(disk: Path) -> Path:
    """Return the file to remove."""
    file = disk / "large"
    with file.open("wb", buffering=0) as large, suppress(OSError):
        while True:
            large.write(b"x" * 4096)
    return file
