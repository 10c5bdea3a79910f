"""Output where the charset of standard output lacks characters: an old locale, or a pipe on Windows."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from anthropic_proxy.gateway.settings import Settings
from tests.support.forked_command import can_fork, run_forked
from tests.support.ledger import new_receipt, running_ledger
from tests.support.server_process import environment_of, reserve_closed_port
from tests.support.waiting import WAIT_SECONDS

PROJECT = "日本 café"


def run(directory: Path, charset: str, *words: str, stdin: str = "") -> bytes:
    own = environment_of(directory) | {"PORT": reserve_closed_port(), "PYTHONIOENCODING": charset}
    if can_fork(own):
        done = run_forked(words, directory, own, stdin, WAIT_SECONDS)
    else:
        done = run_interpreter(directory, own, *words, stdin=stdin)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.replace(os.linesep.encode(), b"\n")


def run_interpreter(
    directory: Path, environment: Mapping[str, str], *words: str, stdin: str
) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, "-m", "anthropic_proxy", *words],
        cwd=directory,
        env=environment,
        input=stdin.encode(),
        capture_output=True,
        timeout=WAIT_SECONDS,
        check=False,
    )


@pytest.mark.parametrize("charset", ["cp1252", "ascii"])
async def test_text_has_escapes_and_data_is_utf_8(charset: str, tmp_path: Path) -> None:
    folder = tmp_path / ".local/share/anthropic-proxy"
    with running_ledger(Settings(data_directory=folder)) as ledger:
        await ledger.record(new_receipt(project=PROJECT, model="模型"))
        ledger.wait_written(1)

    period = ("--since", "3650d")
    output = run(tmp_path, charset, "usage", "--by", "project", *period)
    escaped = PROJECT.encode(charset, "backslashreplace")
    assert [line.split(b"\t")[0] for line in output.splitlines()] == [b"project", escaped]
    output = run(tmp_path, charset, "logs", "--no-follow")
    assert b"claude-haiku-4-5 -> groq/\\u6a21\\u578b" in output

    output = run(tmp_path, charset, "usage", "--by", "project", *period, "--csv")
    assert [row["project"] for row in csv.DictReader(io.StringIO(output.decode()))] == [PROJECT]
    output = run(tmp_path, charset, "usage", "--by", "project", *period, "--json")
    assert PROJECT in output.decode()
    output = run(tmp_path, charset, "db", "export")
    assert [row["project"] for row in csv.DictReader(io.StringIO(output.decode()))] == [PROJECT]
    output = run(tmp_path, charset, "db", "export", "--format", "json")
    assert json.loads(output)["project"] == PROJECT
    output = run(tmp_path, charset, "logs", "--no-follow", "--json")
    assert json.loads(output)["model"] == "模型"


def test_the_status_line_is_utf_8_as_claude_code_reads_it(tmp_path: Path) -> None:
    """In an interpreter of its own, which opens its standard streams itself."""
    session = json.dumps({"model": {"display_name": PROJECT}}, ensure_ascii=False)
    own = environment_of(tmp_path) | {"PORT": reserve_closed_port(), "PYTHONIOENCODING": "cp1252"}
    done = run_interpreter(tmp_path, own, "statusline", stdin=session)
    assert done.stdout.decode() == f"{PROJECT} · no proxy responds{os.linesep}"
