"""What is wrong with the running server now: conditions of plugins, and a clock that differs from that of Redis."""

import asyncio
from collections.abc import Callable, Sequence

from anthropic_proxy.engine.advice import ProblemKind, report_problem, report_warning
from anthropic_proxy.plugins import Condition, LedgerCondition, StoreState

MAX_CLOCK_DIFFERENCE_SECONDS = 5.0
CHECK_SECONDS = 1.0
"""Pause between two looks for changes that the log reports."""
_STORES = {"memory": "the server", "redis": "Redis", "database": "the database", "plugin": "the store of limits"}


def find_wrong_clock(state: StoreState, clock: Callable[[], float]) -> Sequence[Condition]:
    """Compare `clock`, that of this machine, with that of the store of limits."""
    difference = clock() - state.find_time(clock)
    if abs(difference) <= MAX_CLOCK_DIFFERENCE_SECONDS:
        return []
    described = f"{describe_clock_difference(difference)} that of {_STORES[state.kind]}"
    problem = report_warning(ProblemKind.WRONG_CLOCK, "this server", difference=described)
    return [Condition(check="clock", state=described, problem=problem)]


def build_ledger_condition(state: LedgerCondition, text: str) -> Condition:
    """`text` has cause and remedy. The ledger writes it to the log, also for failures of less than a second."""
    problem = report_problem(ProblemKind.STATED, "the ledger", reason=text)
    return Condition(check="ledger", state=state, problem=problem, is_logged=True)


def build_spool_condition(text: str) -> Condition:
    """`text` has the cause."""
    reason = f"{text} Requests in it are not stored, and further ones have no place while the ledger is unavailable."
    problem = report_problem(ProblemKind.STATED, "the file for waiting requests", reason=reason)
    return Condition(check="spool", state="unusable", problem=problem)


def describe_clock_difference(seconds: float) -> str:
    """Return the beginning of a phrase: `25.0 h ahead of`."""
    amount = abs(seconds)
    if amount < 100:
        text = f"{amount:.0f} s"
    elif amount < 6_000:
        text = f"{amount / 60:.0f} min"
    else:
        text = f"{amount / 3_600:.1f} h"
    return f"{text} {'ahead of' if seconds > 0 else 'behind'}"


class ConditionLog:
    """Writes a warning for each new condition, and a line after the last one has ended."""

    def __init__(self, find: Callable[[], Sequence[Condition]], warn: Callable[[str], None]) -> None:
        self._find = find
        self._warn = warn
        self._reported: set[tuple[ProblemKind, str]] = set()
        """Kinds and subjects of the problems that the log has."""

    async def run(self) -> None:
        while True:
            self.report_changes()
            await asyncio.sleep(CHECK_SECONDS)

    def report_changes(self) -> None:
        problems = {(one.problem.kind, one.problem.subject): one.problem for one in self._find() if not one.is_logged}
        for name, problem in problems.items():
            if name not in self._reported:
                self._warn(problem.text)
        if self._reported and not problems:
            self._warn("The server has no such problem any more.")
        self._reported = {*problems}
