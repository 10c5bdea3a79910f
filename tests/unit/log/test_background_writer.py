"""The thread that writes the log: it starts once, whichever thread logs first, and as soon as the system has one."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

from anthropic_proxy.gateway.telemetry.log.log import BackgroundWriter
from tests.support.interleaving import interleave
from tests.support.threads import no_new_threads


def test_two_first_entries_of_different_threads_start_one_thread() -> None:
    descriptor = os.open(os.devnull, os.O_WRONLY)

    def build() -> tuple[Callable[[], None], Callable[[], None]]:
        writer = _new_writer(descriptor)
        return lambda: writer.enqueue("one\n"), lambda: writer.enqueue("two\n")

    before = _count_log_threads()
    runs = len(interleave(build)) + 1
    assert runs > 10
    assert _count_log_threads() - before == runs


def test_entries_wait_while_the_system_has_no_thread_left(tmp_path: Path) -> None:
    file = tmp_path / "log"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT)
    writer = _new_writer(descriptor)
    with no_new_threads():
        writer.enqueue("one\n")
    assert file.read_text() == ""
    writer.enqueue("two\n")
    writer.flush()
    os.close(descriptor)
    assert file.read_text() == "one\ntwo\n"


def _new_writer(descriptor: int) -> BackgroundWriter:
    return BackgroundWriter(descriptor, str.encode, str)


def _count_log_threads() -> int:
    return [thread.name for thread in threading.enumerate()].count("log")
