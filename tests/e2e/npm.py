"""Installs packages of npm into a cache outside the checkout, once per version."""

import contextlib
import os
import subprocess
import tempfile
from pathlib import Path


def cache() -> Path:
    """Return where installed clients are kept: ANTHROPIC_PROXY_E2E_CACHE, else the user's cache directory."""
    chosen = os.environ.get("ANTHROPIC_PROXY_E2E_CACHE")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(chosen) if chosen else home / "anthropic-proxy" / "e2e"


def install(package: str, version: str, *beside: str) -> Path:
    """Return the `node_modules` that holds this version of a package, and others beside it (`name@version`).

    No script of any package is run.

    A half-finished installation is never seen: it is made beside its place and moved there whole.
    """
    place = cache() / "-".join((f"{package}-{version}", *beside)).replace("/", "+")
    if not place.is_dir():
        cache().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache()) as scratch:
            target = Path(scratch) / "whole"
            command = ["npm", "install", "--prefix", str(target), "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(
                [*command, f"{package}@{version}", *beside], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"npm could not install {package}@{version}:\n{done.stderr}"
            with contextlib.suppress(OSError):  # another run was faster
                target.rename(place)
    return place / "node_modules"
