"""Servers under test report what blocks their event loop, and nothing else."""

import os
import subprocess
import sys
from pathlib import Path

from tests.process import BLOCKED

BLOCKING = """
import asyncio, time
import uvloop

async def main():
    loop = asyncio.get_running_loop()
    loop.call_soon(time.sleep, 0.2)
    await asyncio.sleep(0.3)
    loop.call_soon(time.sleep, 0.6)
    await asyncio.sleep(0.7)

uvloop.run(main())
"""


def test_a_callback_that_blocks_is_reported_and_a_slow_one_is_not() -> None:
    watched = {"PYTHONPATH": str(Path(__file__).parent / "watched"), "PYTHONASYNCIODEBUG": "1"}
    command = [sys.executable, "-c", BLOCKING]
    said = subprocess.run(command, env={**os.environ, **watched}, capture_output=True, text=True, check=True).stderr
    (line,) = said.splitlines()
    assert line.startswith(BLOCKED)
