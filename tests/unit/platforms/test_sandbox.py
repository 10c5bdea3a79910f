"""Programs in a sandboxed process: their output, and their termination."""

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import structs

from anthropic_proxy.engine.platforms import sandbox
from anthropic_proxy.engine.platforms.sandbox import SandboxedProgram, SandboxFailed
from tests.support.platform_marks import needs_process_limits
from tests.support.waiting import WAIT_SECONDS

Write = Callable[[str], SandboxedProgram]


@pytest.fixture
def program(tmp_path: Path) -> Write:
    def write(body: str) -> SandboxedProgram:
        path = tmp_path / "program.py"
        path.write_text(f"import os\n\ndef main(question):\n    {body}\n")
        return SandboxedProgram(
            path=str(path), timeout_seconds=WAIT_SECONDS, cpu_seconds=10, memory_bytes=256 * 1024 * 1024
        )

    return write


def hanging(program: Write, mark: Path) -> SandboxedProgram:
    """A program that leaves its process's number in a file, and then never answers."""
    return program(
        f"open({str(mark)!r} + '.new', 'w').write(str(os.getpid()))\n"
        f"    os.rename({str(mark)!r} + '.new', {str(mark)!r})\n    while True: pass"
    )


def process_at(mark: Path) -> int:
    while not mark.exists():
        time.sleep(0.01)
    return int(mark.read_text())


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


async def test_it_answers_a_value_with_a_value(program: Write) -> None:
    assert (
        await sandbox.run_sandboxed(program("return [question, 'ü\\ud800']"), {"a": "ö"})
        == '[{"a": "ö"}, "ü?"]'.encode()
    )


async def test_it_is_killed_when_its_time_is_over(program: Write, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for seconds in (1.0, 4.0, 16.0):
        with pytest.raises(TimeoutError):
            await sandbox.run_sandboxed(structs.replace(hanging(program, mark), timeout_seconds=seconds), None)
        if mark.exists():  # False: the machine was busy, and the program had not started yet
            break
    assert not is_running(int(mark.read_text()))


@needs_process_limits
async def test_it_is_killed_when_it_has_used_its_share_of_the_processor(program: Write, tmp_path: Path) -> None:
    with pytest.raises(TimeoutError):
        await sandbox.run_sandboxed(structs.replace(hanging(program, tmp_path / "mark"), cpu_seconds=1), None)


async def test_it_ends_with_who_asked(program: Write, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    asking = asyncio.create_task(sandbox.run_sandboxed(hanging(program, mark), None))
    process = await asyncio.to_thread(process_at, mark)
    asking.cancel()
    await asyncio.wait([asking])
    assert asking.cancelled()
    assert not is_running(process)


@pytest.mark.parametrize("body", ["raise ValueError", "os._exit(3)", "import json_that_is_not_there"])
async def test_one_that_fails_has_no_answer(program: Write, body: str) -> None:
    with pytest.raises(SandboxFailed):
        await sandbox.run_sandboxed(program(body), None)


@needs_process_limits
@pytest.mark.skipif(sys.platform == "darwin", reason="platform: macOS enforces no limit of the address space")
async def test_it_gets_no_more_memory_than_it_may(program: Write) -> None:
    with pytest.raises(SandboxFailed):
        await sandbox.run_sandboxed(program("return len(bytes(10 ** 9))"), None)


async def test_an_output_above_the_limit_ends_it(program: Write) -> None:
    writing = structs.replace(program("return 'x' * 2_000_000"), max_output_bytes=1_000_000)
    with pytest.raises(SandboxFailed, match=r"^program wrote more than 1000000 bytes$"):
        await sandbox.run_sandboxed(writing, None)


async def test_a_large_input_that_nobody_reads_fails_like_the_program(program: Write) -> None:
    with pytest.raises(SandboxFailed, match=r"^program ended with 1$"):
        await sandbox.run_sandboxed(structs.replace(program("pass"), path="/program.py"), "x" * 10_000_000)
