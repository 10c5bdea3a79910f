"""Servers under test report the callbacks that block their event loop, and no others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.machine_pauses import PAUSE_VARIABLE, measuring_pauses, pause_file
from tests.support.paths import TESTS
from tests.support.platform_marks import needs_job_control, needs_uvloop
from tests.support.server_process import BLOCKED

LOOP = """
import asyncio, os, subprocess, time
import uvloop

def compute(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass

def pause(seconds, other=""):
    processes = f"{other} {os.getpid()}"
    command = f"kill -STOP {processes}; sleep {seconds}; kill -CONT {processes}"
    with subprocess.Popen(["sh", "-c", command]):
        pass

async def main():
    for callback, seconds, *others in {steps}:
        asyncio.get_running_loop().call_soon(callback, seconds, *others)
        await asyncio.sleep(seconds + 0.1)

uvloop.run(main())
"""
BUSY_PROCESSES = 5
pytestmark = needs_uvloop


def report(steps: str, pauses: Path | None = None, **options: object) -> str:
    """Run callbacks of these names and seconds in a monitored event loop. Return the text that the monitor prints."""
    watched = {"PYTHONPATH": str(TESTS / "support" / "event_loop_monitor"), "PYTHONASYNCIODEBUG": "1"}
    watched[PAUSE_VARIABLE] = str(pauses or pause_file())
    command = [sys.executable, "-c", LOOP.replace("{steps}", steps)]
    environ = {**os.environ, **watched}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=True, **options).stderr  # type: ignore[call-overload]


def test_a_callback_that_blocks_is_reported_and_a_slow_one_is_not() -> None:
    lines = report("(time.sleep, 0.1), (time.sleep, 3), (compute, 0.1), (compute, 1.5)").splitlines()
    assert [line.startswith(BLOCKED) for line in lines] == [True, True], lines


@pytest.mark.skipif(not Path("/proc/thread-self/schedstat").exists(), reason="platform: no /proc/thread-self/schedstat")
def test_a_callback_that_waits_for_a_busy_machine_is_not_reported() -> None:
    """All share one processor, so that 0.2 s of work last more than a second."""
    processor = min(os.sched_getaffinity(0))
    busy = [
        subprocess.Popen(
            [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {{{processor}}})\nwhile True: pass"]
        )
        for _ in range(BUSY_PROCESSES)
    ]
    try:
        output = report("(compute, 0.2), ", preexec_fn=lambda: os.sched_setaffinity(0, {processor}))
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert output == ""


@needs_job_control
def test_a_callback_during_a_pause_of_the_machine_is_not_reported(tmp_path: Path) -> None:
    """The process that measures pauses stands still for the same time."""
    with measuring_pauses(tmp_path / "pauses") as process:
        assert report(f"(pause, 2, {process.pid}),", tmp_path / "pauses") == ""
        assert report("(pause, 2),", tmp_path / "pauses").startswith(BLOCKED)
