"""Commands in a directory that a stranger wrote: its files decide nothing, for the installed program and a checkout.

`python3 scripts/ci.py strangers` runs them.
"""

import hashlib
import json
import os
import shutil
import site
import socket
import sqlite3
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

import pytest

from tests.support.fakes.openai_chat.server import KEY, new_openai
from tests.support.fakes.server import Running, serving
from tests.support.paths import ROOT
from tests.support.server_process import ending, hold_port, reserve_closed_port
from tests.support.waiting import WAIT_SECONDS

MODULES = ("msgspec", "sitecustomize", "usercustomize", "cyclopts", "dotenv", "sqlalchemy", "uvicorn", "json")
COMMANDS: Mapping[str, int | None] = {
    "ask hello": 0,
    "run -- true": 0,
    "code": 0,
    "models": 0,
    "logs --json --no-follow": None,
    "config check": 0,
    "config show": 0,
    "doctor --dry-run": 0,
    "explain {request}": 0,
    "env": 0,
    "usage": 0,
    "health": 2,
    "keys list": 0,
    "db check": 0,
    "init --provider openai --skip-test --yes": 0,
    "import {old}": 0,
}
"""Command → exit status, in every directory. No proxy runs on PORT. None: it depends on the commands before."""
SERVERS = ("serve",)
SERVERS_WITH_CHILDREN = ("serve", "serve --workers 2", "serve --reload")
REQUEST = {"model": "claude-sonnet-5-5", "max_tokens": 10, "messages": [{"role": "user", "content": "hello"}]}
OWN_FOLDERS = (".config/anthropic-proxy/", ".local/share/anthropic-proxy/", ".local/state/anthropic-proxy/")


class User(NamedTuple):
    """A user with the program, a home directory, a provider and its key in the settings file."""

    program: Path
    home: Path
    place: Path
    """Folder of the settings files."""
    provider: Running

    def environment(self) -> dict[str, str]:
        return {"PATH": f"{self.home / 'bin'}:{os.defpath}", "HOME": str(self.home), "NO_COLOR": "1"}

    def run(self, command: str, directory: Path) -> "subprocess.CompletedProcess[str]":
        """Run a command of the program in a directory."""
        words = command.format(request=self.home / "request.json", old=self.home / "old.env").split()
        return subprocess.run(
            [self.program, *words],
            cwd=directory,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
            check=False,
        )

    def serve(self, command: str, directory: Path) -> None:
        """Start a server in a directory, send it one request, and stop it."""
        with hold_port() as port, TemporaryFile() as log:
            process = subprocess.Popen(
                [self.program, *command.split(), "--attached", "--port", str(port)],
                cwd=directory,
                env=self.environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
            with ending(process):
                assert process.stdout is not None
                process.stdout.readline()
                answer = b""
                try:
                    with socket.create_connection(("127.0.0.1", port), WAIT_SECONDS) as client:
                        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                        answer = b"".join(iter(lambda: client.recv(65536), b""))
                finally:
                    log.seek(0)
                    assert answer.startswith(b"HTTP/1.1 200 "), (command, answer, log.read().decode())


class Evidence:
    """What a stranger's directory has caused: files that its code wrote, and connections to its address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            connection.close()

    def close(self) -> None:
        self._listener.close()

    def python(self, name: str) -> str:
        """Return Python code that leaves a file with this name."""
        return f"open({str(self.folder / name)!r}, 'w').close()\n"

    def found(self) -> tuple[list[str], int]:
        return sorted(path.name for path in self.folder.iterdir()), self.connections


def write_key_command(folder: Path, evidence: Evidence) -> None:
    command = json.dumps(["sh", "-c", f"touch {evidence.folder}/command; echo sk-test-0123456789abcdef"])
    (folder / "anthropic-proxy.toml").write_text(
        f'[providers.own]\nbase_url = "http://127.0.0.1:{evidence.port}/v1"\napi_key = {{ command = {command} }}\n'
        f'models = ["one"]\n[search]\nservice = "brave"\napi_key = {{ command = {command} }}\n'
    )
    (folder / ".env").write_text("PREFERRED_PROVIDER=own\nBIG_MODEL=own/one\nSMALL_MODEL=own/one\n")


def write_address(folder: Path, evidence: Evidence) -> None:
    address = f"http://127.0.0.1:{evidence.port}"
    names = ("OPENAI_BASE_URL", "GEMINI_BASE_URL", "OLLAMA_API_BASE", "ANTHROPIC_UPSTREAM_URL", "SEARCH_URL")
    lines = [f"{name}={address}" for name in (*names, "OTEL_EXPORTER_OTLP_ENDPOINT", "HTTP_PROXY")]
    (folder / ".env").write_text("\n".join((*lines, f"PRICE_UPDATE_URL={address}", "PRICE_UPDATE_DAYS=1", "")))


def write_database(folder: Path, evidence: Evidence) -> None:
    with sqlite3.connect(folder / "app.sqlite3") as database:
        database.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)")
        database.execute("INSERT INTO users (name) VALUES ('Ada')")
    database.close()
    (folder / ".env").write_text(f"DATABASE_URL=sqlite:///{folder}/app.sqlite3\nLEDGER_CONTENT=true\n")


def write_plugin(folder: Path, evidence: Evidence) -> None:
    names = "LOG_LEVEL=verbose\nPORT=http\nHOST=0.0.0.0\nWORKERS=many\nLEDGER_DAYS=no\nTLS_CERT_FILE=none.pem\n"
    (folder / ".env").write_text(f"{names}PLUGINS=hostile\n")
    (folder / "hostile.py").write_text(evidence.python("plugin"))
    metadata = folder / "hostile-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: hostile\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[anthropic_proxy.plugins]\nhostile = hostile:open_plugin\n")


def write_modules(folder: Path, evidence: Evidence) -> None:
    for name in MODULES:
        (folder / f"{name}.py").write_text(evidence.python(f"module-{name}"))
    package = folder / "anthropic_proxy"
    package.mkdir()
    for name in ("__init__", "__main__"):
        (package / f"{name}.py").write_text(evidence.python(f"package-{name}"))
    for name in ("claude", "true", "sh", "python"):
        (folder / name).write_text(f"#!/bin/sh\ntouch {evidence.folder}/program-{name}\n")
        (folder / name).chmod(0o755)


HOSTILE: Mapping[str, Callable[[Path, Evidence], None]] = {
    "key command": write_key_command,
    "address": write_address,
    "database": write_database,
    "plugin": write_plugin,
    "modules": write_modules,
}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module", params=["installed", "checkout"])
def user(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    """Yield a user of the wheel, or of a checkout. The packages that it needs are those of this environment."""
    home = tmp_path_factory.mktemp(request.param)
    environment = home / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    packages = next(environment.glob("lib/python*/site-packages"))
    program = environment / "bin/anthropic-proxy"
    start = "from anthropic_proxy.__main__ import main\nif __name__ == '__main__':\n    main()\n"
    program.write_text(f"#!{environment}/bin/python\n{start}")
    program.chmod(0o755)
    # the line is searched after the folder that has it, and the `.pth` files in it are not read: no editable package
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()))
    place = home / ".config/anthropic-proxy"
    if request.param == "installed":
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(packages)
    else:
        place = home / "checkout"
        shutil.copytree(ROOT / "anthropic_proxy", place / "anthropic_proxy")
        shutil.copy(ROOT / "pyproject.toml", place)
        (packages / "a.pth").write_text(str(place))
    place.mkdir(parents=True, exist_ok=True)
    (home / "bin").mkdir()
    (home / "bin/claude").write_text("#!/bin/sh\nexit 0\n")
    (home / "bin/claude").chmod(0o755)
    (home / "request.json").write_text(json.dumps(REQUEST))
    (home / "old.env").write_text("BIG_MODEL=gpt-4.1\n")
    with serving(new_openai()) as provider:
        settings = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"{provider.url}/v1", "PORT": reserve_closed_port()}
        settings |= {"PREFERRED_PROVIDER": "openai", "BIG_MODEL": "gpt-4.1"}
        (place / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        yield User(program, home, place, provider)


@contextmanager
def gathering(folder: Path) -> Iterator[Evidence]:
    evidence = Evidence(folder)
    try:
        yield evidence
    finally:
        evidence.close()


def read_tree(folder: Path) -> dict[str, str]:
    """Return path → digest of every file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_strangers_directory_decides_nothing(kind: str, user: User, tmp_path: Path) -> None:
    directory = tmp_path / "project"
    directory.mkdir()
    servers = SERVERS_WITH_CHILDREN if kind == "modules" else SERVERS
    asked = len(user.provider.journal.exchanges)
    with gathering(tmp_path / "evidence") as evidence:
        HOSTILE[kind](directory, evidence)
        (user.home / "warm").mkdir(exist_ok=True)
        user.run("--help", user.home / "warm")  # writes the bytecode of the checkout
        directory_before, home_before = read_tree(directory), read_tree(user.home)
        with ThreadPoolExecutor(2) as pool:
            ended = dict(zip(COMMANDS, pool.map(lambda command: user.run(command, directory), COMMANDS), strict=True))
            list(pool.map(lambda command: user.serve(command, directory), servers))
        assert evidence.found() == ([], 0)
    failed = {
        command: (done.returncode, done.stdout[-500:], done.stderr[-1000:])
        for command, done in ended.items()
        if COMMANDS[command] not in (None, done.returncode)
    }
    assert not failed
    assert read_tree(directory) == directory_before
    changed = {path for path, digest in read_tree(user.home).items() if home_before.get(path) != digest}
    place = f"{user.place.relative_to(user.home)}/"
    assert {path for path in changed if not path.startswith((*OWN_FOLDERS, place, "environment/"))} == set()
    assert "/v1/chat/completions" in {exchange.path for exchange in user.provider.journal.exchanges[asked:]}
