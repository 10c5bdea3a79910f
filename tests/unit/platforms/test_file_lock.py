"""The lock of a folder, and checks of it, which other processes make at the same moment."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from anthropic_proxy import doctor_run
from anthropic_proxy.cli.running_proxy import find_running_proxy, recorded
from anthropic_proxy.doctor_run import DoctorRun
from anthropic_proxy.settings import Settings

fcntl = pytest.importorskip("fcntl", reason="platform: no flock")


class SharedLock:
    """The lock that a command holds while it checks if a server runs."""

    def __init__(self, folder: Path) -> None:
        self._descriptor: int | None = os.open(folder, os.O_RDONLY)
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def folder_of(settings: Settings) -> Path:
    assert settings.data_directory is not None
    folder = settings.data_directory / "servers" / str(settings.port)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_the_check_of_another_command_is_no_running_proxy(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path, port=8082)
    with recorded(settings):
        left = (folder_of(settings) / "settings.json").read_bytes()
        assert find_running_proxy(settings) is not None
    (folder_of(settings) / "settings.json").write_bytes(left)  # as after SIGKILL
    checking = SharedLock(folder_of(settings))
    assert find_running_proxy(settings) is None
    checking.release()


def test_a_server_waits_for_the_end_of_a_check(tmp_path: Path) -> None:
    settings = Settings(data_directory=tmp_path, port=8082)
    checking, attempts = SharedLock(folder_of(settings)), 0

    def note(event: str, values: tuple[Any, ...]) -> None:
        nonlocal attempts
        if event == "fcntl.flock" and values[1] & fcntl.LOCK_EX and attempts < 2:
            attempts += 1
            if attempts == 2:
                checking.release()

    sys.addaudithook(note)  # there is no function that removes it
    with recorded(settings):
        assert find_running_proxy(settings) is not None


def test_checks_of_a_run_of_the_doctor_do_not_count_as_a_run(tmp_path: Path) -> None:
    with doctor_run.locked_run(tmp_path):
        doctor_run.store_current(tmp_path, DoctorRun(started_at=1.0))
        assert doctor_run.is_running(tmp_path)
    checking = SharedLock(doctor_run.find_folder(tmp_path))
    assert not doctor_run.is_running(tmp_path)
    checking.release()
    with pytest.raises(TimeoutError), doctor_run.locked_run(tmp_path), doctor_run.locked_run(tmp_path, 0):
        pass
