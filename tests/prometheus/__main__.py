"""Run the tests of this folder with an installed Prometheus, or with the Debian package in the user's cache.

The package is unpacked, not installed. On a machine without either, nothing is tested.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.debian_packages import install_package
from tests.support.redis import find_redis


def find_binaries() -> Path | None:
    """Return the folder of `prometheus` and `promtool`. None: neither installed nor available as a package."""
    installed = shutil.which("prometheus")
    if installed and shutil.which("promtool"):
        return Path(installed).parent
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anthropic-proxy/prometheus"
    binaries = folder / "usr/bin"
    if not (binaries / "promtool").exists() and shutil.which("apt-get") and shutil.which("dpkg-deb"):
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "-q", "download", "prometheus"], cwd=folder, check=False, timeout=300)
        for package in folder.glob("prometheus_*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, folder], check=False, timeout=300)
            package.unlink()
    return binaries if (binaries / "promtool").exists() else None


if __name__ == "__main__":
    if (found := find_binaries()) is None:
        sys.stderr.write("There is no Prometheus and no Debian package of it: nothing was tested.\n")
        sys.exit(0)
    if find_redis() is None:
        install_package("redis-server")
    os.environ["PROMETHEUS_BINARIES"] = str(found)
    command = [sys.executable, "-m", "pytest", "tests/prometheus", *sys.argv[1:]]
    sys.exit(subprocess.run(command, check=False, timeout=600).returncode)
