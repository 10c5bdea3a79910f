"""Each check passes with a right server, and fails with a server that has the fault of this check."""

import tomllib
from collections.abc import Iterator

import pytest

from messages_conformance.backends import Backend, start_backend
from messages_conformance.rows import FROZEN_SETS, Check
from messages_conformance.runner import Outcome, Result, Runner, load_suite
from messages_conformance.trial import Options
from tests.conformance.faults import FAULTS
from tests.support.conformance_server import KEY, RIGHT, Fault, serve_with
from tests.support.paths import ROOT

CHECKS = load_suite()
GROUPS = tuple(dict.fromkeys(check.group for check in CHECKS))
SLOW = "time.alive"
"""A check that waits for twenty seconds."""
FOLLOWS = tomllib.loads((ROOT / "tests/conformance/fault_follows.toml").read_text("utf-8"))
"""Check → the others of its group that fail by its fault, because they need what it breaks."""
FROZEN = ROOT / "tests/conformance/frozen_sets.txt"
"""Level, id and source of each check of a frozen set."""


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    backend = start_backend("messages", "127.0.0.1", 0)
    yield backend
    backend.close()


def run(fault: Fault, backend: Backend, checks: list[Check]) -> list[Result]:
    with serve_with(fault, backend.url) as url:
        return Runner(Options(url=url, model="m", key=KEY, backend="messages"), backend).run(checks, jobs=6)


def test_each_check_has_a_fault() -> None:
    assert set(FAULTS) == {check.id for check in CHECKS}


def test_a_right_server_passes(backend: Backend) -> None:
    results = run(RIGHT, backend, [check for check in CHECKS if check.id != SLOW])
    assert [(result.check.id, result.reasons) for result in results if result.outcome is not Outcome.PASSED] == []


@pytest.mark.parametrize("group", [name for name in GROUPS if name != "time"])
def test_a_fault_fails_its_check(group: str, backend: Backend) -> None:
    checks = [check for check in CHECKS if check.group == group]
    outcomes = {check.id: run(FAULTS[check.id], backend, [check])[0].outcome for check in checks}
    assert outcomes == {check.id: Outcome.FAILED for check in checks}


@pytest.mark.merge
def test_a_fault_of_time_fails_its_check(backend: Backend) -> None:
    checks = [check for check in CHECKS if check.group == "time"]
    outcomes = {check.id: run(FAULTS[check.id], backend, [check])[0].outcome for check in checks}
    assert outcomes == {check.id: Outcome.FAILED for check in checks}


@pytest.mark.merge
@pytest.mark.parametrize("group", [name for name in GROUPS if name != "time"])
def test_a_fault_fails_no_other_check_of_its_group(group: str, backend: Backend) -> None:
    checks = [check for check in CHECKS if check.group == group]
    failed = {
        check.id: [
            result.check.id
            for result in run(FAULTS[check.id], backend, [other for other in checks if other is not check])
            if result.outcome is not Outcome.PASSED
        ]
        for check in checks
    }
    assert {name: others for name, others in failed.items() if others} == FOLLOWS.get(group, {})


@pytest.mark.merge
def test_a_right_server_is_alive_while_the_model_is_silent(backend: Backend) -> None:
    results = run(RIGHT, backend, [check for check in CHECKS if check.id == SLOW])
    assert [result.outcome for result in results] == [Outcome.PASSED]


def test_the_frozen_sets_do_not_change() -> None:
    """A change of the file is a change of what servers are judged by: list it in conformance/CHANGES.md, too."""
    rows = {
        name: [
            f"{check.level} {check.id}: {check.source}"
            for check in sorted(CHECKS, key=lambda check: check.id)
            if name in check.sets
        ]
        for name in FROZEN_SETS
    }
    text = "\n".join("\n".join([f"[{name}]", *lines, ""]) for name, lines in rows.items())
    assert text == FROZEN.read_text("utf-8")
