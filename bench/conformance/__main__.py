"""`python -m bench.conformance [PEER …]`: runs the conformance suite against other servers with the Messages API.

It installs each peer of `peers.toml` into a folder of its own in the user's cache, starts it with the suite's scripted
upstream behind it, and writes the results and the page. A peer that cannot be installed or started is listed so: what
others publish never fails this command.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.conformance.page import PEERS_FILE, RESULTS_FILE, ROOT, write_page
from bench.processes import free_port

PLACE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anthropic-proxy" / "conformance"
_PYTHONS = ("python3.13", "python3.12", "python3.11")
_INSTALL_SECONDS = 900
_RUN_SECONDS = 900
_OUTCOMES = ("passed", "failed", "model", "skipped")
_KEPT_VARIABLES = ("PATH", "LANG", "SSL_CERT_FILE", "SYSTEMROOT", "TEMP", "TMPDIR")


@dataclass(frozen=True, kw_only=True)
class Peer:
    name: str
    package: str
    """Name for pip, or for npm if it begins with `@`."""
    distribution: str
    """Name under which the installed version is found."""
    command: str
    model: str
    backend: str = ""
    with_: Sequence[str] = ()
    """Further packages that it needs."""
    remove: Sequence[str] = ()
    """Packages that it installs and does not start with."""
    options: Sequence[str] = ()
    """Further words for the suite."""
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    set_up: str = ""
    """What is set beside port and address of the provider, and why; for the page."""

    @property
    def is_npm(self) -> bool:
        return self.package.startswith("@")

    @property
    def place(self) -> Path:
        return PLACE / self.distribution.rpartition("/")[2]


def read_peers(file: Path = PEERS_FILE) -> list[Peer]:
    rows = tomllib.loads(file.read_text("utf-8"))["peer"]
    return [Peer(**{name if name != "with" else "with_": value for name, value in row.items()}) for row in rows]


def install(peer: Peer) -> str:
    """Install the newest version and return it. "": it cannot be installed."""
    package = peer.package.replace("{repository}", str(ROOT))
    try:
        if peer.is_npm:
            npm = shutil.which("npm") or "npm"
            _run([npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(peer.place), package])
            manifest = peer.place / "node_modules" / peer.distribution / "package.json"
            return str(json.loads(manifest.read_text("utf-8"))["version"])
        for python in filter(None, map(shutil.which, _PYTHONS)):
            shutil.rmtree(peer.place, ignore_errors=True)
            try:
                _run([python, "-m", "venv", str(peer.place)])
                own = str(peer.place / "bin" / "python")
                _run([own, "-m", "pip", "install", "-q", "--disable-pip-version-check", package, *peer.with_])
                if peer.remove:
                    _run([own, "-m", "pip", "uninstall", "-q", "-y", *peer.remove])
            except (OSError, subprocess.SubprocessError):
                continue
            code = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"
            return _run([own, "-c", code, peer.distribution]).strip()
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        print(f"{peer.name} cannot be installed: {error}", file=sys.stderr)
    return ""


def _run(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=_INSTALL_SECONDS).stdout


def run_suite(peer: Peer, directory: Path) -> tuple[Mapping[str, Any] | None, str]:
    """Return the JSON of a run, and the end of what was printed. None: the peer did not start."""
    home = directory / "home"
    home.mkdir()
    port, upstream = free_port(), free_port()
    values = {
        "bin": str(peer.place / "node_modules" / ".bin") if peer.is_npm else str(peer.place / "bin"),
        "home": str(home),
        "port": str(port),
        "backend": f"127.0.0.1:{upstream}",
        "repository": str(ROOT),
    }

    def fill(text: str) -> str:
        for name, value in values.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    for name, content in peer.files.items():
        file = home / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(fill(content), "utf-8")
    environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    environment |= {"HOME": str(home), **{name: fill(value) for name, value in peer.environment.items()}}
    python_path = os.pathsep.join((str(ROOT / "conformance"), *filter(None, (environment.get("PYTHONPATH"),))))
    environment["PYTHONPATH"] = python_path
    words = ["--model", peer.model, "--start", fill(peer.command), "--json", str(directory / "results.json")]
    words += [
        "--run-timeout",
        str(_RUN_SECONDS - 60),
        "--quiet",
        "--jobs",
        "4" if peer.backend else "1",
        *map(fill, peer.options),
    ]
    if peer.backend:
        words += ["--backend", peer.backend, "--backend-address", values["backend"]]
    command = [sys.executable, "-m", "messages_conformance", f"http://127.0.0.1:{port}", *words]
    try:
        ended = subprocess.run(
            command, cwd=home, env=environment, capture_output=True, text=True, timeout=_RUN_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return None, f"The run did not end within {_RUN_SECONDS} seconds."
    if not (directory / "results.json").exists():
        return None, (ended.stderr or ended.stdout)[-2000:]
    return json.loads((directory / "results.json").read_text("utf-8")), ended.stdout[-2000:]


def summarize(peer: Peer, version: str, result: Mapping[str, Any] | None, printed: str) -> dict[str, Any]:
    """Return what the page shows of a run."""
    row: dict[str, Any] = {
        "name": peer.name,
        "package": peer.distribution,
        "version": version,
        "date": datetime.now(UTC).date().isoformat(),
        "command": peer.command,
        "backend": peer.backend,
        "options": list(peer.options),
        "set_up": peer.set_up,
    }
    if result is None:
        lines = printed.strip().splitlines() or ["no output"]
        return {**row, "problem": lines[-1][:300]}
    counts = Counter((check["id"].partition(".")[0], check["outcome"]) for check in result["checks"])
    groups = list(dict.fromkeys(check["id"].partition(".")[0] for check in result["checks"]))
    return {
        **row,
        "levels": result["levels"],
        "groups": {group: {name: counts[group, name] for name in _OUTCOMES} for group in groups},
        "failures": {
            check["id"]: {"level": check["level"], "rule": check["rule"], "reason": (check["reasons"] or [""])[0][:300]}
            for check in result["checks"]
            if check["outcome"] == "failed"
        },
        "model": [check["id"] for check in result["checks"] if check["outcome"] == "model"],
        "faults": [check["id"] for check in result["checks"] if check["outcome"] == "fault"],
    }


def main(names: Sequence[str]) -> None:
    peers = read_peers()
    for peer in peers:
        if not names or peer.distribution in names or peer.name in names:
            _store(_examine(peer), [other.name for other in peers])
    write_page()


def _examine(peer: Peer) -> dict[str, Any]:
    version = install(peer)
    if not version:
        return summarize(peer, "", None, "It cannot be installed here.")
    with tempfile.TemporaryDirectory() as directory:
        result, printed = run_suite(peer, Path(directory))
        if result is None:
            print(f"{peer.name} {version}: {printed}", file=sys.stderr)
        else:
            details = PLACE / f"{peer.place.name}.json"
            shutil.copy(Path(directory) / "results.json", details)
            print(f"{peer.name} {version}: {details}", flush=True)
        return summarize(peer, version, result, printed)


def _store(row: dict[str, Any], order: Sequence[str]) -> None:
    """Replace the row of a peer. The others stay, in the order of the peers."""
    rows = json.loads(RESULTS_FILE.read_text("utf-8")) if RESULTS_FILE.exists() else []
    known = {other["name"]: other for other in [*rows, row]}
    stored = [known[name] for name in order if name in known]
    RESULTS_FILE.write_text(json.dumps(stored, ensure_ascii=False, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
