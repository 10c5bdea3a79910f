"""The scenario: which tables there are, which subjects are in each, in which order all is measured, how often."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from msgspec import Struct, field

from bench.load import BenchError, wait_for_reply
from bench.measures import LONG_STEPS, QUICK, STEPS, Plan, Running
from bench.processes import free_port
from bench.subjects import DIRECT, Subject, start_upstream

Report = Callable[[str], None]
"""Reports the current step to the user."""


class Table(Struct, kw_only=True):
    """Some subjects, and the measurements of each of them."""

    title: str
    subjects: Sequence[Subject]
    plan: Plan
    steps: Sequence[str] = tuple(STEPS)
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """Key of a measure → name of a subject → one value a round."""
    dashes: dict[str, dict[str, str]] = field(default_factory=dict)
    """Name of a step → name of a subject → why it has no value there."""
    running: list[Running] = field(default_factory=list)

    def note(self, found: dict[str, float], subject: Subject) -> None:
        """Store the measurements of a step."""
        for key, value in found.items():
            self.values.setdefault(key, {}).setdefault(subject.name, []).append(value)

    def cannot(self, step: str, subject: Subject) -> str:
        """Return why a step cannot be done with a subject; "": it can."""
        if step == "args" and step not in subject.wire.kinds:
            return "this language says a call in one piece"
        return self.dashes.get(step, {}).get(subject.name, "")


class Run:
    """One run of the bench: the running processes, and the measurements."""

    def __init__(
        self, tables: Sequence[Table], directory: Path, report: Report, keep: Callable[["Run"], object]
    ) -> None:
        """`keep` is called after each round with the values so far."""
        self.tables = tables
        self._keep = partial(keep, self)
        self.directory = directory
        self.upstream = free_port()
        self._kept = ExitStack()
        self.report = report

    @property
    def replies(self) -> int:
        """Replies that were checked; a wrong one ends the run, or the part of a peer in that row."""
        return sum(running.replies for table in self.tables for running in table.running)

    async def measure(self) -> None:
        """Fill the tables, one after the other. Raises `BenchError` where a reply or a process of ours is wrong."""
        with start_upstream(self.directory, self.upstream) as provider:
            await wait_for_reply(self.upstream, DIRECT.shot(1_000, "bench-whole"), provider.alive)
            for table in self.tables:
                with self._kept:  # a subject idle in another table takes no time in this one
                    for subject in table.subjects:
                        await self._add(table, subject)
                    for number in range(1 + table.plan.rounds):
                        progress = f"round {number} of {table.plan.rounds}" if number else "warming up"
                        self.report(f"{table.title}: {progress}")
                        await self._round(table, number)
                        self._keep()

    async def _add(self, table: Table, subject: Subject) -> None:
        running = Running(
            subject=subject, port=self.upstream, process=None, directory=self.directory, upstream=self.upstream
        )
        table.running.append(running)
        try:
            await self._start(running)
        except BenchError as error:
            if not subject.optional:
                raise
            self.report(f"{subject.name} did not start: {error}")
            table.dashes |= {step: {**table.dashes.get(step, {}), subject.name: "did not start"} for step in STEPS}

    async def _start(self, running: Running) -> None:
        if running.subject.start:
            running.port = free_port()
            process = running.subject.start(self.directory, running.port, self.upstream)
            running.process = self._kept.enter_context(process)
            await running.wait()

    async def _round(self, table: Table, number: int) -> None:
        """Measure each thing for one subject after the other, so that a busy moment of the machine hits all alike."""
        everybody = table.running if number % 2 else table.running[::-1]  # no subject always comes after the same one
        for step in table.steps:
            if step in LONG_STEPS and not 0 < number <= table.plan.long_rounds:
                continue
            for running in everybody:
                if not table.cannot(step, running.subject):
                    found = await self._measure_step(table, step, running, table.plan if number else QUICK)
                    if number and running.process:
                        table.note(found, running.subject)
                    elif number:
                        table.note({key: value for key, value in found.items() if key in _WAITS}, running.subject)
                    else:
                        running.waits.clear()

    async def _measure_step(self, table: Table, step: str, running: Running, plan: Plan) -> dict[str, float]:
        """Do a step; with a peer once more where it fails, so that one crash loses nothing."""
        reason = ""
        for _ in range(2):
            try:
                return await STEPS[step](plan, running)
            except BenchError as error:
                if not running.subject.optional:
                    raise
                self.report(str(error))
                reason = str(error).partition(": ")[2].splitlines()[0][:120]
                if running.process and not running.process.alive():
                    with suppress(BenchError):
                        await self._start(running)
        table.dashes.setdefault(step, {})[running.subject.name] = reason
        return {}


_WAITS = ("p50", "p99", "first", "slow")
"""Measurements that a direct call has too, though no process stands between."""
