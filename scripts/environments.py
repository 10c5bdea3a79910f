"""Shared by the scripts of this folder: virtual environments with locked packages. Standard library only."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INSTALL = ("install", "-q", "--disable-pip-version-check")
LOCKED = ("--require-hashes", "--no-deps")
"""Words of pip for lock files. They name all dependencies, and older pips resolve `package[extra]` to the newest
version even if `package` is pinned. Source: github.com/pypa/pip/issues/12345."""
_IS_WINDOWS = os.name == "nt"

if sys.version_info < (3, 11):  # noqa: UP036  # this file runs in the Python of the user
    sys.exit(
        f"Python 3.11 or newer is needed, and this is {sys.version.split()[0]}. Example:  python3.12 {sys.argv[0]}"
    )
os.chdir(ROOT)


def python_of(environment: Path) -> str:
    """Return the path of the interpreter of a virtual environment."""
    return str(environment / ("Scripts/python.exe" if _IS_WINDOWS else "bin/python"))


VENV = ROOT / ".venv"
PYTHON = python_of(VENV)
"""Interpreter of the environment of the checkout."""


_NO_PACKAGES = """\
The packages could not be installed: see above. Without a network, or behind a proxy, set HTTPS_PROXY, or an index of
your network in the configuration of pip, and run this again. More: docs/guide/troubleshooting.md
"""


def run(*command: str | Path, advice: str = "") -> None:
    """Run a command in the checkout. If it fails, write the `advice` and end with its exit status."""
    status = subprocess.run(command, check=False).returncode
    if status:
        sys.stderr.write(advice)
        sys.exit(status)


def become(*command: str) -> None:
    """Run a command in place of this process, as its last action. It receives the signals."""
    if not _IS_WINDOWS:
        os.execv(command[0], command)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the console sends Ctrl+C to both
    sys.exit(subprocess.run(command, check=False).returncode)


def set_up(*words: str) -> None:
    """Create or update .venv: to serve, or with "dev" to develop. Other words add extras, which later calls keep.

    Returns at once if nothing has changed.
    """
    memory = VENV / ".anthropic-proxy-extras"
    known = sorted(path.stem.removeprefix("extra-") for path in ROOT.glob("locks/extra-*.lock"))
    extras = memory.read_text("utf-8").split() if memory.exists() else []
    for word in words:
        if word not in (*known, "dev"):
            sys.stderr.write(f'There is no extra "{word}"; there are: {", ".join(known)}\n')
            sys.exit(2)
        if word != "dev" and word not in extras:
            extras.append(word)
    purpose = "dev" if "dev" in words else "serve"
    names = (["dev"] if purpose == "dev" else ["runtime", "build"]) + [f"extra-{extra}" for extra in extras]
    stamp = VENV / f".anthropic-proxy-{purpose}"
    files = [ROOT / "pyproject.toml", *sorted(ROOT.glob("locks/*.lock"))]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    state = f"{ROOT} {' '.join(extras)} {digest}"
    if stamp.exists() and stamp.read_text("utf-8") == state:
        return
    if not Path(PYTHON).exists():
        create(VENV)
    locks = [ROOT / f"locks/{name}.lock" for name in names]
    lines = [line for lock in locks for line in lock.read_text("utf-8").splitlines() if "==" in line]
    if count := len({line.split()[0].rstrip(";") for line in lines} - _list_installed()):
        packages = "a package" if count == 1 else f"up to {count} packages"
        sys.stderr.write(f"Installing {packages} into .venv, which takes a minute or two ...\n")
    pip = _pip_for(VENV)
    locked = (*LOCKED, "--no-compile", *(word for name in names for word in ("-r", f"locks/{name}.lock")))
    _install([*pip, *INSTALL, *locked], count)
    _compile()
    run(*pip, *INSTALL, "--no-deps", "--no-build-isolation", "-e", ".")
    memory.write_text(" ".join(extras), "utf-8")
    stamp.write_text(state, "utf-8")


def _compile() -> None:
    """Compile the packages of .venv on all processors, which pip does on one. What fails is compiled by its import."""
    folders = [*VENV.glob("lib*/python*/site-packages"), *VENV.glob("Lib/site-packages")]
    subprocess.run([PYTHON, "-m", "compileall", "-qq", "-j", "0", *folders], check=False, stderr=subprocess.DEVNULL)


def _list_installed() -> set[str]:
    """Return the packages of .venv as lock files name them: `jinja2==3.1.6`."""
    folders = [*VENV.glob("lib/python*/site-packages/*.dist-info"), *VENV.glob("Lib/site-packages/*.dist-info")]
    found = [folder.name.removesuffix(".dist-info").rpartition("-") for folder in folders]
    return {f"{re.sub('[-_.]+', '-', name).lower()}=={version}" for name, _, version in found}


def _install(command: list[str], count: int) -> None:
    """Run pip. In a terminal, show how many of `count` packages it has found so far."""
    if not sys.stderr.isatty() or not count:
        run(*command, advice=_NO_PACKAGES)
        return
    words, found = [word for word in command if word != "-q"], 0
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, encoding="utf-8", errors="replace", env=environ) as process:
        for line in process.stdout or ():
            found += line.startswith("Collecting ")
            is_last = line.startswith("Installing collected packages")
            sys.stderr.write(f"\r  {'writing them ...' if is_last else f'{found} of {count}':<16}")
            sys.stderr.flush()
    sys.stderr.write(f"\r{'':<18}\r")
    if process.returncode:
        sys.stderr.write(_NO_PACKAGES)
        sys.exit(process.returncode)


def create(environment: Path, python: str = sys.executable) -> None:
    """Create a virtual environment; without pip where the system ships `venv` without `ensurepip`."""
    has_pip = importlib.util.find_spec("ensurepip") is not None
    run(python, "-m", "venv", *([] if has_pip else ["--without-pip"]), environment)


def cache() -> Path:
    """Return the folder of this project in the user's cache."""
    given = os.environ.get("LOCALAPPDATA" if _IS_WINDOWS else "XDG_CACHE_HOME")
    return Path(given or Path.home() / ".cache") / "anthropic-proxy"


def open_environment(lock: str, name: str = "", python: str = sys.executable) -> str:
    """Return the interpreter of an environment in the user's cache, with the packages of a lock file."""
    folder = cache() / (name or lock)
    if not Path(python_of(folder)).exists():
        create(folder, python)
    run(*_pip_for(folder), *INSTALL, *LOCKED, "-r", f"locks/{lock}.lock")
    return python_of(folder)


def open_newest_python() -> str | None:
    """Return the interpreter of an environment with the newest Python of this machine. None: .venv has that version."""
    asked = subprocess.run([PYTHON, "-c", "import sys; print(sys.version_info[1])"], stdout=subprocess.PIPE, check=True)
    for minor in range(14, int(asked.stdout), -1):
        name = f"python3.{minor}"
        pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
        for found in filter(None, (shutil.which(name), *map(str, sorted(pyenv.glob(f"3.{minor}.*/bin/{name}"))))):
            if subprocess.run([found, "-c", "import ensurepip"], check=False, capture_output=True).returncode == 0:
                python = open_environment("dev", name, found)
                run(python, "-m", "pip", *INSTALL, "--no-deps", "--no-build-isolation", "-e", ".")
                return python
    return None


def add_packages(lock: str) -> bool:
    """Install the wheels of a lock file into a folder of the user's cache, and add it to PYTHONPATH.

    False: this platform has no wheel of one of them.
    """
    digest = hashlib.sha256((ROOT / f"locks/{lock}.lock").read_bytes()).hexdigest()[:16]
    folder = cache() / f"{lock}-{digest}"
    if not folder.exists():
        fresh = folder.with_suffix(".new")
        wheels = (*INSTALL, *LOCKED, "--only-binary", ":all:", "--target", str(fresh))
        if subprocess.run([*_pip_for(VENV), *wheels, "-r", f"locks/{lock}.lock"], check=False).returncode:
            return False
        fresh.rename(folder)
    os.environ["PYTHONPATH"] = str(folder)
    return True


def _pip_for(environment: Path) -> list[str]:
    """Return the command of pip for an environment: its own, else that of this Python from outside."""
    own = [python_of(environment), "-m", "pip"]
    if subprocess.run([*own, "--version"], check=False, capture_output=True).returncode == 0:
        return own
    return [sys.executable, "-m", "pip", "--python", python_of(environment)]
