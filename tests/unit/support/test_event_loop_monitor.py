"""Servers under test report the callbacks that block their event loop, and no others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import TESTS
from tests.support.platform_marks import needs_uvloop
from tests.support.server_process import BLOCKED

LOOP = """
import asyncio, time
import uvloop

def compute(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass

async def main():
    for callback, seconds in {steps}:
        asyncio.get_running_loop().call_soon(callback, seconds)
        await asyncio.sleep(seconds + 0.1)

uvloop.run(main())
"""
BUSY_PROCESSES = 5
pytestmark = needs_uvloop


def report(steps: str, **options: object) -> str:
    """Run callbacks of these names and seconds in a monitored event loop. Return the text that the monitor prints."""
    watched = {"PYTHONPATH": str(TESTS / "support" / "event_loop_monitor"), "PYTHONASYNCIODEBUG": "1"}
    command = [sys.executable, "-c", LOOP.replace("{steps}", steps)]
    environ = {**os.environ, **watched}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=True, **options).stderr  # type: ignore[call-overload]


def test_a_callback_that_blocks_is_reported_and_a_slow_one_is_not() -> None:
    lines = report("(time.sleep, 0.2), (time.sleep, 0.6), (compute, 0.2), (compute, 0.6)").splitlines()
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
