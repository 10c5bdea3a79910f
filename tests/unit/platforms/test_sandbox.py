"""Programs in a sandboxed process: their output, and their termination."""

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
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


def hanging(program: Write, marks: Path) -> SandboxedProgram:
    """A program that leaves its process's number as the name of a directory, and then never answers."""
    return program(f"os.makedirs({str(marks)!r} + '/' + str(os.getpid()))\n    while True: pass")


def process_at(marks: Path) -> int:
    while not (found := [*marks.glob("*")]):
        time.sleep(0.01)
    return int(found[0].name)


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
    assert not is_running(process_at(mark))


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


async def test_it_has_no_variable_of_the_server_and_an_empty_directory_that_ends_with_it(
    program: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    body = "return [dict(os.environ), os.getcwd(), os.listdir()]"
    environment, directory, files = msgspec.json.decode(await sandbox.run_sandboxed(program(body), None))
    if sys.platform == "win32":
        environment = {name: value for name, value in environment.items() if name != "SYSTEMROOT"}
    # Python itself sets a locale if there is none
    assert {name for name in environment if name != "LC_CTYPE"} == set()
    assert files == []
    with pytest.raises(FileNotFoundError):
        os.stat(directory)


@needs_process_limits
async def test_it_writes_no_file(program: Write) -> None:
    with pytest.raises(SandboxFailed):
        await sandbox.run_sandboxed(program("os.write(os.open('kept', os.O_CREAT | os.O_WRONLY), b'x')"), None)


@pytest.mark.skipif(sys.platform != "linux", reason="platform: Linux ends a process if no memory is left")
async def test_it_is_the_first_to_end_if_the_machine_has_no_memory_left(program: Write) -> None:
    found = await sandbox.run_sandboxed(program("return open('/proc/self/oom_score_adj').read().strip()"), None)
    assert found == b'"1000"'
