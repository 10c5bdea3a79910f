"""Tests that another process has left to this one, which has run later tests of their module."""

import subprocess
import sys
from pathlib import Path

from tests.support.server_process import environment_of

TESTS = """
import pytest

@pytest.fixture(scope="session")
def whole():
    print("whole")

@pytest.fixture(scope="module")
def left(whole):
    return []

def test_first(left):
    assert left == []

def test_second(left):
    left.append(2)

def test_third(left):
    assert left in ([], [2])
    left.append(3)
"""
ORDER = """
def pytest_runtestloop(session):
    first, second, third = session.items
    order = [second, third, first, None]
    for item, following in zip(order, order[1:]):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
    return True
"""


def test_earlier_tests_of_a_module_find_nothing_of_later_ones(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "conftest.py").write_text(ORDER)
    plugins = ("-p", "tests.support.module_order", "-p", "no:cacheprovider")
    command = [sys.executable, "-m", "pytest", *plugins, "-qs", "."]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment_of(tmp_path), capture_output=True, text=True, check=False
    )
    assert "3 passed" in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("whole") == 1
