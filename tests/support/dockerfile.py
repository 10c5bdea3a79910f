"""Reads a Dockerfile and runs its steps in a plain directory, for machines without a container engine.

Absolute paths below `/opt`, `/src`, `/app` and `/data` are taken as paths below that directory. The base image is this
machine.
A stage sees only the files that it copies from another stage, as in a container.
"""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.waiting import WAIT_SECONDS, wait_for

INSIDE = re.compile(r"(?<![\w.])/(?=(?:opt|src|app|data)\b)")


class Image:
    """A Dockerfile as a list of steps."""

    def __init__(self, text: str) -> None:
        joined = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
        lines = [line.strip() for line in joined.splitlines() if line.strip()]
        self.steps = [
            (word.upper(), re.sub(r"\s+", " ", arguments))
            for word, _, arguments in (line.partition(" ") for line in lines)
        ]

    def all(self, word: str) -> list[str]:
        return [arguments for step, arguments in self.steps if step == word]

    def last(self, word: str) -> str:
        return self.all(word)[-1]

    def environment(self) -> dict[str, str]:
        """The variables of the image, `$PATH` unexpanded."""
        return dict(pair.split("=", 1) for arguments in self.all("ENV") for pair in arguments.split())

    def arguments(self) -> dict[str, str]:
        """The build arguments with their defaults."""
        return dict(shlex.split(argument)[0].split("=", 1) for argument in self.all("ARG"))

    def build(self, context: Path, place: Path, python: str = sys.executable) -> None:
        """Run the steps; the finished image lies in `place/image`. `python`: interpreter of its environments."""
        root, earlier, workdir = place / "image", place / "stage", place
        environment = {**_environment(python), **self.arguments()}
        for word, arguments in self.steps:
            if word == "FROM":
                if root.exists():
                    root.rename(earlier)
                root.mkdir()
                workdir = root
            elif word == "WORKDIR":
                workdir = root / arguments.lstrip("/")
                workdir.mkdir(parents=True, exist_ok=True)
            elif word == "RUN":
                command = INSIDE.sub(f"{root}/", arguments)
                subprocess.run(["sh", "-euc", command], cwd=workdir, env=environment, check=True)
            elif word == "COPY":
                *sources, target = arguments.removeprefix("--from=build ").split()
                origin = earlier if "--from" in arguments else context
                for source in sources:
                    destination = (root if target[0] == "/" else workdir) / target.lstrip("/")
                    if target.endswith("/"):
                        destination.mkdir(parents=True, exist_ok=True)
                    _copy(origin / source.lstrip("/"), destination)

    @contextmanager
    def run(self, place: Path) -> Iterator["Container"]:
        """Start the image's command on a free port, with its variables and without any key."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        root = place / "image"
        own = {name: INSIDE.sub(f"{root}/", value) for name, value in self.environment().items()}
        own["PATH"] = own["PATH"].replace("$PATH", os.defpath)
        environ = {**own, "PORT": str(port)}
        workdir = root / self.last("WORKDIR").lstrip("/")
        command = json.loads(self.last("CMD"))
        command[0] = shutil.which(command[0], path=own["PATH"])
        check = json.loads(self.last("HEALTHCHECK").split(" CMD ", 1)[1])
        process = subprocess.Popen(command, cwd=workdir, env=environ, stdin=subprocess.DEVNULL)
        try:
            yield Container(process, port, environ, check)
        finally:
            process.terminate()
            process.wait(timeout=WAIT_SECONDS)


@dataclass
class Container:
    """The image's command as a process."""

    process: "subprocess.Popen[bytes]"
    port: int
    environ: dict[str, str]
    check: list[str]

    def wait_until_healthy(self) -> None:
        """Run the image's own health check until it passes."""
        program = shutil.which(self.check[0], path=self.environ["PATH"])
        command = [program, *self.check[1:]]

        def check() -> "subprocess.CompletedProcess[str]":
            assert self.process.poll() is None, "the server ended"
            return subprocess.run(command, check=False, env=self.environ, capture_output=True, text=True)

        wait_for(check, lambda done: done.returncode == 0)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=WAIT_SECONDS) as reply:
            return json.load(reply)


def _environment(python: str) -> dict[str, str]:
    """This machine's, with an interpreter as `python3`, outside its virtual environment."""
    interpreter = os.path.dirname(os.path.realpath(python))
    kept = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    return {**kept, "PATH": f"{interpreter}:{os.defpath}"}


def _copy(source: Path, target: Path) -> None:
    if not source.is_dir():
        shutil.copy(source, target if target.suffix else target / source.name)
    elif source.parent.parent.name == "stage":
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
    else:
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
