"""The lock of a folder, and checks of it, which other processes make at the same moment."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from anthropic_proxy.engine.platforms.files import is_written_by_user_only
from anthropic_proxy.gateway.running_proxy import ServerRecord, find_running_proxy
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.secrets import Secret

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


def test_the_check_of_another_command_is_no_running_proxy(tmp_path: Path) -> None:
    record, file = ServerRecord(8082), tmp_path / "servers/8082/settings.json"
    record.open(Settings(data_directory=tmp_path))
    left = file.read_bytes()
    assert find_running_proxy(tmp_path, 8082) is not None
    record.close()
    assert not file.exists()
    file.write_bytes(left)  # as after SIGKILL
    checking = SharedLock(file.parent)
    assert find_running_proxy(tmp_path, 8082) is None
    checking.release()


def test_no_other_user_can_write_to_the_folder_of_the_records(tmp_path: Path) -> None:
    """By default, members of the user's group may write to new folders in many distributions of Linux."""
    before, record = os.umask(0o002), ServerRecord(8082)
    try:
        record.open(Settings(data_directory=tmp_path / "data"))
    finally:
        os.umask(before)
        record.close()
    assert is_written_by_user_only(tmp_path / "data")


def test_a_server_waits_for_the_end_of_a_check(tmp_path: Path) -> None:
    folder = tmp_path / "servers/8082"
    folder.mkdir(parents=True)
    checking, attempts = SharedLock(folder), 0

    def note(event: str, values: tuple[Any, ...]) -> None:
        nonlocal attempts
        if event == "fcntl.flock" and values[1] & fcntl.LOCK_EX and attempts < 2:
            attempts += 1
            if attempts == 2:
                checking.release()

    sys.addaudithook(note)  # there is no function that removes it
    record = ServerRecord(8082)
    record.open(Settings(data_directory=tmp_path))
    assert find_running_proxy(tmp_path, 8082) is not None
    record.close()


def test_a_record_that_a_command_reads_is_replaced_afterwards(tmp_path: Path) -> None:
    record, refused = ServerRecord(8082), 0
    record.open(Settings(data_directory=tmp_path))

    def refuse(event: str, values: tuple[Any, ...]) -> None:
        nonlocal refused
        if event == "os.rename" and values[1] == str(tmp_path / "servers/8082/settings.json") and refused < 2:
            refused += 1
            raise PermissionError(13, "Access is denied")  # as on Windows while another process has the file open

    sys.addaudithook(refuse)
    changed = {"BIG_MODEL": Secret("o3"), "LEDGER_DAYS": Secret("7"), "OTEL_SERVICE_NAME": Secret("proxy")}
    record.update(Settings(data_directory=tmp_path, raw_values=changed))
    found = find_running_proxy(tmp_path, 8082)
    record.close()
    assert refused == 2
    assert found.changed == ["LEDGER_DAYS", "OTEL_SERVICE_NAME"]
