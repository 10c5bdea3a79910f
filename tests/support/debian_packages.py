"""Programs of Debian packages that single steps of the gate need: search and installation."""

import os
import shutil
import subprocess
import sys

TIMEOUT_SECONDS = 600
LOCK_SECONDS = 300


def find_program(name: str) -> str | None:
    """Return the path of an installed program. Debian installs servers in folders that PATH may not contain."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def install_package(name: str) -> None:
    """Install a package with its dependencies. Without root, apt or the package, nothing is installed."""
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    options = ("-q", "-o", f"DPkg::Lock::Timeout={LOCK_SECONDS}")
    for words in (["update"], ["install", "-y", "--no-install-recommends", name]):
        try:
            subprocess.run(["apt-get", *options, *words], check=False, env=environment, timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            sys.stderr.write(f"apt-get {words[0]} did not end within {TIMEOUT_SECONDS} s.\n")
