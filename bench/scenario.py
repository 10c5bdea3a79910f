"""The scenario: which tables there are, who is in each, in which order all is measured, how often."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from msgspec import Struct, field

from bench.load import BenchError, wait_for_reply
from bench.measures import LONG_STEPS, STEPS, Plan, Running
from bench.processes import free_port
from bench.subjects import DIRECT, Subject, start_upstream


class Table(Struct, kw_only=True):
    """Some subjects, and what is measured of each of them."""

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
        """Take down what a step found."""
        for key, value in found.items():
            self.values.setdefault(key, {}).setdefault(subject.name, []).append(value)

    def cannot(self, step: str, subject: Subject) -> str:
        """Say why a step cannot be done with a subject; "": it can."""
        if step == "args" and step not in subject.wire.kinds:
            return "this language says a call in one piece"
        return self.dashes.get(step, {}).get(subject.name, "")


class Run:
    """One run of the bench: the processes that are up, and what was measured."""

    def __init__(self, tables: Sequence[Table], directory: Path, tell: Callable[[str], None]) -> None:
        self.tables = tables
        self.directory = directory
        self.upstream = free_port()
        self.tell = tell
        self.further_replies = 0
        """Replies that were checked outside of the tables."""

    @property
    def replies(self) -> int:
        """Replies that were checked; a wrong one ends the run, or the part of a peer in that row."""
        return self.further_replies + sum(running.replies for table in self.tables for running in table.running)

    async def measure(self) -> None:
        """Fill the tables. Raises `BenchError` where a process fails or a reply is wrong."""
        with ExitStack() as kept:
            provider = kept.enter_context(start_upstream(self.directory, self.upstream))
            await wait_for_reply(self.upstream, DIRECT.shot(1_000, "bench-whole"), provider.alive)
            for table in self.tables:
                for subject in table.subjects:
                    await self._start(table, subject, kept)
            for number in range(1 + max(table.plan.rounds for table in self.tables)):
                for table in self.tables:
                    if number <= table.plan.rounds:
                        said = f"round {number} of {table.plan.rounds}" if number else "warming up"
                        self.tell(f"{table.title}: {said}")
                        await self._round(table, number)

    async def _start(self, table: Table, subject: Subject, kept: ExitStack) -> None:
        port = self.upstream if subject.start is None else free_port()
        process = subject.start(self.directory, port, self.upstream) if subject.start else None
        running = Running(subject=subject, port=port, process=process, directory=self.directory, upstream=self.upstream)
        if process:
            kept.enter_context(process)
            try:
                await wait_for_reply(port, subject.shot(1_000, "bench-whole"), process.alive)
            except BenchError as error:
                reason = f"{subject.name} did not start: {error}\n{running.last_words()}"
                if not subject.optional:
                    raise BenchError(reason) from error
                self.tell(reason)
                table.dashes |= {step: {**table.dashes.get(step, {}), subject.name: "did not start"} for step in STEPS}
        table.running.append(running)

    async def _round(self, table: Table, number: int) -> None:
        """Measure each thing for one subject after the other, so that a busy moment of the machine hits all alike."""
        everybody = table.running if number % 2 else table.running[::-1]  # nobody always comes after the same one
        for step in table.steps:
            if step in LONG_STEPS and not 0 < number <= table.plan.long_rounds:
                continue
            for running in everybody:
                if not table.cannot(step, running.subject):
                    found = await self._take(table, step, running)
                    if number and running.process:
                        table.note(found, running.subject)
                    elif number:
                        table.note({key: value for key, value in found.items() if key in _WAITS}, running.subject)

    async def _take(self, table: Table, step: str, running: Running) -> dict[str, float]:
        try:
            return await STEPS[step](table.plan, running)
        except BenchError as error:
            if not running.subject.optional:
                raise
            self.tell(str(error))
            table.dashes.setdefault(step, {})[running.subject.name] = (
                str(error).partition(": ")[2].splitlines()[0][:120]
            )
            return {}


_WAITS = ("p50", "p99", "first", "slow")
"""What can be measured of a direct call too, which has no process between."""
