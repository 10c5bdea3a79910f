"""Plugin of pytest: `pytest --messages-url URL --messages-model M` has one test for each check."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from messages_conformance.arguments import Plan, add_options, read_plan
from messages_conformance.results import describe_failure
from messages_conformance.rows import SuiteError
from messages_conformance.runner import Outcome, Result, Runner
from messages_conformance.texts import escape_unprintable

_PLAN = pytest.StashKey[Plan]()
_RUNNER = pytest.StashKey[Runner]()
_STACK = pytest.StashKey[ExitStack]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("messages", "conformance with the Anthropic Messages API")
    group.addoption("--messages-url", metavar="URL", help="address of the server; without it there are no such tests")
    add_options(group.addoption, "--messages-")


def pytest_configure(config: pytest.Config) -> None:
    url = config.getoption("--messages-url")
    if not url:
        return
    try:
        config.stash[_PLAN] = plan = read_plan(url, config.option)
    except SuiteError as error:
        raise pytest.UsageError(f"messages-conformance: {escape_unprintable(str(error))}") from error
    is_one_of_several = "PYTEST_XDIST_WORKER" in os.environ or bool(getattr(config.option, "numprocesses", None))
    if is_one_of_several and (plan.options.backend or plan.start):
        raise pytest.UsageError("messages-conformance: a backend and a started server need one process: -n 0")


@pytest.hookimpl(tryfirst=True)  # so that -k and -m see the checks
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    plan = config.stash.get(_PLAN, None)
    if plan is not None:
        group = CheckGroup.from_parent(session, name="messages", nodeid="messages")
        items += [CheckItem.from_parent(group, name=check.id, check=check) for check in plan.checks]
        session.testscollected = len(items)


def pytest_unconfigure(config: pytest.Config) -> None:
    stack = config.stash.get(_STACK, None)
    if stack is not None:
        stack.close()


class CheckGroup(pytest.Collector):
    def collect(self) -> Iterator[pytest.Item]:
        return iter(())


class CheckFailed(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)


class CheckItem(pytest.Item):
    """One check. A fault of the suite is an error of its setup, not a failure."""

    def __init__(self, *, check: Any, **fields: Any) -> None:
        super().__init__(**fields)
        self._check = check
        self._result: Result | None = None

    def setup(self) -> None:
        runner = _open_runner(self.config)
        result = self._result = runner.run_check(self._check)
        if result.outcome is Outcome.FAULT:
            raise CheckFailed(f"a fault of the suite, not of the server\n{result.reasons[0]}")
        if result.outcome is Outcome.UNFINISHED:
            raise CheckFailed(result.reasons[0])
        if result.outcome in (Outcome.SKIPPED, Outcome.MODEL):
            pytest.skip("; ".join(result.reasons))

    def runtest(self) -> None:
        result = self._result
        assert result is not None
        known = self.config.stash[_PLAN].expected.get(self._check.id)
        if result.outcome is Outcome.FAILED:
            if known is not None:
                pytest.xfail(known)
            raise CheckFailed(describe_failure(result))
        if known is not None:
            raise CheckFailed(f"{self._check.id} passes: remove it from the expected failures")

    def repr_failure(self, excinfo: "pytest.ExceptionInfo[BaseException]", style: Any = None) -> Any:
        if isinstance(excinfo.value, (CheckFailed, SuiteError)):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[str, int | None, str]:
        return "messages", None, f"{self._check.id}: {self._check.rule}"


def _open_runner(config: pytest.Config) -> Runner:
    runner = config.stash.get(_RUNNER, None)
    if runner is None:
        config.stash[_STACK] = stack = ExitStack()
        try:
            runner = config.stash[_RUNNER] = stack.enter_context(config.stash[_PLAN].open())
        except SuiteError as error:
            text = f"messages-conformance: {escape_unprintable(str(error))}"
            pytest.exit(text, returncode=pytest.ExitCode.USAGE_ERROR)
    return runner
