"""Tests for waits: the first accepted value is returned, and a failure shows values and logs in full."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.support import waiting
from tests.support.paths import ROOT
from tests.support.waiting import reporting_log, wait_for, wait_for_async


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "WAIT_SECONDS", 0)


async def test_the_first_accepted_value_is_returned() -> None:
    values = iter([0, 1, 2, 3])
    assert wait_for(lambda: next(values)) == 1
    assert await wait_for_async(lambda: next(values), lambda value: value == 3) == 3
    replies = asyncio.Queue[str]()
    for text in ("", "ready"):
        replies.put_nowait(text)
    assert await wait_for_async(replies.get) == "ready"


@pytest.mark.usefixtures("short")
async def test_a_failure_shows_the_condition_and_the_last_value() -> None:
    reply = httpx.Response(503, text="no rows", headers={"x-a": "1"}, request=httpx.Request("GET", "http://x/rows"))
    with pytest.raises(AssertionError) as raised:
        wait_for(lambda: reply, lambda page: page.status_code == 200)
    title, *lines = str(raised.value).splitlines()
    assert title.startswith("not true within 0 s: wait_for(lambda: reply, lambda page: page.status_code == 200)")
    assert lines[0] == "last value: 503 GET http://x/rows"
    assert "'x-a': '1'" in lines[1]
    assert lines[2] == "no rows"
    with pytest.raises(AssertionError, match=r"last value: \[\]\Z"):
        await wait_for_async(list)


@pytest.mark.usefixtures("short")
def test_a_failure_shows_the_end_of_the_output_of_running_processes(tmp_path: Path) -> None:
    file = tmp_path / "output.log"
    with file.open("wb") as output:
        command = [sys.executable, "-c", "import sys; print('first\\nlast', flush=True); sys.stdin.read()"]
        process = subprocess.Popen(command, stdout=output, stdin=subprocess.PIPE)
    with process, reporting_log(process, file):
        assert process.stdin is not None
        with pytest.raises(AssertionError) as raised:
            wait_for(lambda: "third" in file.read_text())
        process.stdin.close()
        process.wait(waiting.WAIT_SECONDS + 60)
        with pytest.raises(AssertionError) as raised_later:
            wait_for(lambda: "third" in file.read_text())
    assert f"\n--- process {process.pid} is running; the end of output.log:\n" in str(raised.value)
    end = f"\n--- process {process.pid} ended with 0; the end of output.log:\nfirst\nlast\nlast value: False"
    assert str(raised_later.value).endswith(end)


def test_the_report_on_a_failed_test_has_the_output_of_its_processes(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(_FAILING)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.support.failure_reports", "-p", "no:cacheprovider"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "processes" in done.stdout
    assert "ended with 0; the end of output.log:\nwritten before the failure\n" in done.stdout
    assert "earlier test" not in done.stdout


_FAILING = """
import subprocess, sys
from tests.support.waiting import reporting_log

def run(tmp_path, text):
    with (tmp_path / "output.log").open("wb") as output:
        process = subprocess.Popen([sys.executable, "-c", f"print({text!r})"], stdout=output)
    with process, reporting_log(process, tmp_path / "output.log"):
        process.wait()

def test_that_passes(tmp_path):
    run(tmp_path, "earlier test")

def test_that_fails(tmp_path):
    run(tmp_path, "written before the failure")
    assert 0
"""
