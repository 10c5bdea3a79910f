"""The steps of the image in a plain folder: it runs without root, on a root file system that nothing can write to."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.dockerfile import Image
from tests.support.paths import ROOT
from tests.support.server_process import free_port
from tests.support.waiting import WAIT_SECONDS

PYTHON = "/usr/bin/python3"
"""Interpreter that every user can run, as in the base image."""
MAX_MEGABYTES = 230
"""Maximum size of the packages in the image, without the base image."""
SCRIPT = """
set -eu
mount --bind "$1" "$1"
mount -o remount,ro,bind "$1"
mount --bind "$2" "$1/data"
cd "$1/app"
exec setpriv --reuid 65532 --regid 65532 --clear-groups --no-new-privs --bounding-set -all sh -c '
    if touch written 2>/dev/null; then echo "the root file system can be written"; exit 8; fi
    anthropic-proxy serve --host 0.0.0.0 2>"$XDG_DATA_HOME/log" &
    server=$!
    attempts=0
    until anthropic-proxy health >/dev/null 2>&1; do
        attempts=$((attempts + 1))
        if [ $attempts -gt 60 ]; then cat "$XDG_DATA_HOME/log"; exit 9; fi
        sleep 0.5
    done
    anthropic-proxy ask hello >/dev/null
    kill -TERM $server
    wait $server
    id -u
'
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder that other users can read. Folders of pytest have no access for them."""
    path = Path(tempfile.mkdtemp(prefix="image-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def test_the_image_runs_without_root_on_a_read_only_file_system(folder: Path) -> None:
    if os.geteuid() != 0 or subprocess.run([PYTHON, "-c", "import ensurepip"], check=False).returncode:
        pytest.skip("needs root, and Debian's Python with ensurepip")
    image = Image((ROOT / "Dockerfile").read_text("utf-8"))
    image.build(ROOT, folder, PYTHON)
    require_runs(image, folder)
    files = (folder / "image/opt/proxy").rglob("*")
    packages = sum(path.stat().st_size for path in files if path.is_file() and not path.is_symlink())
    assert packages < MAX_MEGABYTES * 1_000_000


def require_runs(image: Image, folder: Path) -> None:
    root, data = folder / "image", folder / "volume"
    data.mkdir()
    os.chown(data, 65532, 65532)
    own = {
        "PATH": f"{root}/opt/proxy/bin:/usr/bin:/bin",
        "HOME": f"{root}/app",
        "ANTHROPIC_PROXY_CONFIG": f"{root}/app",
        "XDG_DATA_HOME": f"{root}/data",
    }
    environment = {**image.environment(), **own, "PORT": str(free_port())}
    command = ["unshare", "-m", "sh", "-c", SCRIPT, "sh", str(root), str(data)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False)
    assert (done.returncode, done.stdout) == (0, "65532\n"), done.stderr + done.stdout
    assert (data / "log").read_text("utf-8").splitlines()[-1] == "Stopped."
    assert (data / "anthropic-proxy/ledger.sqlite3").stat().st_uid == 65532
