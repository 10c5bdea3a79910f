"""The estimate of a run of the doctor: simultaneous callers, and files of the current directory."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from anthropic_proxy.dashboard.doctor_processes import DoctorProcesses, Estimate

FREE = Estimate(models=[], requests=0, tokens=0, price=0.0)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Return a list to which the start of each process appends its last argument."""
    monkeypatch.chdir(tmp_path)
    found: list[str] = []

    def note(event: str, values: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen" and "doctor" in values[1]:
            found.append(values[1][-1])

    sys.addaudithook(note)
    return found


async def test_simultaneous_callers_share_one_process(started: list[str]) -> None:
    processes = DoctorProcesses(None)  # type: ignore[arg-type]  # the proxy is used only after an error
    cancelled = asyncio.ensure_future(processes.estimate())
    others = [asyncio.ensure_future(processes.estimate()) for _ in range(4)]
    await asyncio.sleep(0)
    cancelled.cancel()
    assert await asyncio.gather(*others) == [FREE] * 4
    assert started == ["--json"]
    assert await processes.estimate() == FREE
    assert started == ["--json"] * 2


async def test_the_process_imports_nothing_from_the_current_directory(started: list[str], tmp_path: Path) -> None:
    (tmp_path / "msgspec.py").write_text("raise SystemExit('imported from the current directory')")
    assert await DoctorProcesses(None).estimate() == FREE  # type: ignore[arg-type]
    assert started == ["--json"]
