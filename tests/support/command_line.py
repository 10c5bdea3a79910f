"""The command `anthropic-proxy` as a process with a home directory and an environment of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.forked_command import NO_LOCAL_SERVERS, can_fork, run_forked, with_set_up
from tests.support.paths import ROOT
from tests.support.server_process import reserve_closed_port
from tests.support.waiting import WAIT_SECONDS

OPENAI = {"OPENAI_API_KEY": "sk-test-0123456789abcdef"}
_PRINT_CALL = """#!{python}
import json, os, sys
files = [word for before, word in zip(sys.argv, sys.argv[1:]) if before == "--settings"]
settings = [json.load(open(file)) for file in files]
call = {{"program": sys.argv[0], "arguments": sys.argv[1:], "environment": dict(os.environ), "settings": settings}}
print(json.dumps(call))
sys.exit(int(os.environ.get("EXIT_STATUS", "0")))
"""


def run_command(
    *words: str, directory: Path, settings: Mapping[str, str] = OPENAI, stdin: str = ""
) -> "subprocess.CompletedProcess[str]":
    """Run a command of the proxy in a directory with its settings files.

    The directory is also its home and the first directory of PATH.

    Unless the settings have a PORT, it is one at which no proxy runs. `config` and `serve`, the default, report on the
    variables, and get none.
    """
    own = {"PATH": f"{directory}:{os.environ['PATH']}", "HOME": str(directory), "PYTHONPATH": str(ROOT)}
    own["ANTHROPIC_PROXY_CONFIG"] = str(directory)
    if words and words[0] not in ("config", "serve"):
        own["PORT"] = reserve_closed_port()
    environment = {**own, **NO_LOCAL_SERVERS, **settings}
    if can_fork(environment):
        done = run_forked(words, directory, environment, stdin, WAIT_SECONDS)
        output, errors = (text.decode().replace("\r\n", "\n") for text in (done.stdout, done.stderr))
        return subprocess.CompletedProcess(done.args, done.returncode, output, errors)
    return subprocess.run(
        [sys.executable, "-m", "anthropic_proxy", *words],
        cwd=directory,
        env=with_set_up(environment),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )


def install_program(directory: Path, name: str) -> None:
    """Install a program that prints its path, arguments and environment as JSON and exits with EXIT_STATUS.

    The JSON also contains the contents of the files that its option `--settings` names.
    """
    program = directory / name
    program.write_text(_PRINT_CALL.format(python=sys.executable))
    program.chmod(0o755)


def read_call(output: str) -> tuple[list[str], dict[str, Any]]:
    call = json.loads(output)
    return call["arguments"], call["environment"]
