"""Each check passes with a right server, and fails with a server that has the fault of this check."""

import json
import re
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import anthropic
import pytest

from messages_conformance.backends import Backend, start_backend
from messages_conformance.rows import FROZEN_SETS, Check, Level
from messages_conformance.runner import Outcome, Result, Runner, load_suite
from messages_conformance.trial import Options
from tests.conformance.faults import FAULTS
from tests.conformance.losses import LOSSES
from tests.support.conformance_server import KEY, RIGHT, Call, Event, Fault, serve_with
from tests.support.paths import ROOT
from tests.support.tables import in_one_test

CHECKS = load_suite()
GROUPS = tuple(dict.fromkeys(check.group for check in CHECKS))
SLOW = "time.alive"
"""A check that waits for twenty seconds."""
FOLLOWS = tomllib.loads((ROOT / "tests/conformance/fault_follows.toml").read_text("utf-8"))
"""Check → the others of its group that fail by its fault, because they need what it breaks."""
SDK = "official Python SDK, package anthropic 2.10.0, "
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


def writes_otherwise(events: Iterable[Event], _: Call) -> Iterator[Event]:
    """Write a stream as the API allows it, and as few servers do."""
    yield b": a comment\r\n\r\n"
    yield {"type": "ping"}
    for event in events:
        assert isinstance(event, dict)
        if event["type"] == "message_delta":
            unknown = {"stop_reason": None, "stop_sequence": None}
            yield {**event, "delta": unknown, "usage": {"output_tokens": 1}}
        first, rest = json.dumps(event).split(" ", 1)
        yield f"id: 1\revent:{event['type']}\rdata: {first}\rdata: {rest}\r\r".encode()
        if event["type"] == "message_delta":
            yield {"type": "ping"}


def test_a_right_server_with_other_streams_passes(backend: Backend) -> None:
    fault = Fault(stream=writes_otherwise)
    checks = [check for check in CHECKS if check.group != "time" and check.id != "claude-code.one-message-delta"]
    results = run(fault, backend, checks)
    assert [(result.check.id, result.reasons) for result in results if result.outcome is not Outcome.PASSED] == []


@pytest.mark.parametrize("group", [name for name in GROUPS if name != "time"])
def test_a_fault_fails_its_check(group: str, backend: Backend) -> None:
    checks = [check for check in CHECKS if check.group == group]
    outcomes = {check.id: run(FAULTS[check.id], backend, [check])[0].outcome for check in checks}
    assert outcomes == {check.id: Outcome.FAILED for check in checks}


def test_a_fault_of_somebody_else_is_found_by_the_checks_about_it(backend: Backend) -> None:
    failed = {
        name: [
            result.check.id
            for result in run(loss.fault, backend, [check for check in CHECKS if check.id in loss.found_by])
            if result.outcome is Outcome.FAILED
        ]
        for name, loss in LOSSES.items()
    }
    assert {name: sorted(found) for name, found in failed.items()} == {
        name: sorted(loss.found_by) for name, loss in LOSSES.items()
    }


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


@in_one_test
@pytest.mark.parametrize("check", [check for check in CHECKS if check.level is Level.MUST], ids=lambda check: check.id)
def test_a_must_has_a_source_that_says_so(check: Check) -> None:
    """What the official SDK is said to say is in its source text."""
    assert SDK in check.source or check.source.startswith("API reference, ")
    if not re.search(r"anthropic \d", check.source):
        return
    quotes = [part.strip(" .,") for quote in re.findall("“([^”]+)”", check.source) for part in quote.split("…")]
    names = re.findall(
        r"[A-Za-z_.]+", re.sub(r"“[^”]+”|\([^)]*\)", "", check.source.partition(SDK)[2].partition(", http")[0])
    )
    assert [name for name in names if name.rpartition(".")[2] not in read_sdk()] == []
    assert [quote for quote in quotes if quote not in read_sdk()] == []


@cache
def read_sdk() -> str:
    """Return the source text of the official SDK in one line, without marks of code and links."""
    files = sorted(Path(anthropic.__file__).parent.rglob("*.py"))
    text = " ".join(" ".join(file.read_text("utf-8") for file in files).replace("`", "").split())
    return re.sub(r"\[([^\[\]]+)\]\(http[^)]*\)", r"\1", text)


def test_a_should_is_needed_by_claude_code_or_about_a_provider() -> None:
    should = [check for check in CHECKS if check.level is Level.SHOULD]
    assert [x.id for x in should if not x.source.startswith("Claude Code 2.1.332,") and "backend" not in x.needs] == []


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
