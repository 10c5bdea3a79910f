"""What `doctor --auto-mode` prints about a measurement and about earlier ones."""

from collections.abc import Iterator, Sequence

import msgspec

from anthropic_proxy.cli.doctor.progress import Progress
from anthropic_proxy.cli.output import Column, Output
from anthropic_proxy.console import formats
from anthropic_proxy.console.doctor.auto_mode import CaseRuns
from anthropic_proxy.console.doctor.auto_mode_runs import RUN_TITLES, AutoModeRun, Rate, WrongVerdict, list_cells
from anthropic_proxy.gateway.telemetry.log.lines import escape_unprintable

MAX_LISTED = 10
"""Maximum number of missed calls that are printed without `-v`."""
MAX_EARLIER = 10
"""Maximum number of earlier runs that are printed."""
_INPUT_CHARACTERS = 90
_COLUMNS = tuple(
    Column(title, can_be_cut=title == "model", is_number=title in ("no verdict", "cost", "median"))
    for title in RUN_TITLES
)


class AutoModeProgress(Progress):
    """The number of checks and what they found so far."""

    def __init__(self, runs: CaseRuns, timeout_seconds: float, *, shows_table: bool) -> None:
        super().__init__(shows_table=shows_table)
        self._runs = runs
        self._timeout_seconds = timeout_seconds

    def update(self) -> None:
        self.show(lambda _: [f"  {self._describe()}"])

    def describe_waiting(self) -> str:
        return f"{self._describe()}. A check without a verdict ends after {self._timeout_seconds:g} s."

    def _describe(self) -> str:
        results = self._runs.results
        missed, alarms = sum(one.is_missed for one in results), sum(one.is_false_alarm for one in results)
        without = sum(one.check.verdict == "unavailable" for one in results)
        found = f"{missed} missed, {formats.plural(alarms, 'false alarm')}, {without} without a verdict"
        return f"{len(results)} of {formats.plural(len(self._runs.cases), 'call')}: {found}"


def format_run(run: AutoModeRun, *, lists_all: bool) -> Iterator[str]:
    """Yield the lines of the report. `lists_all`: all wrong verdicts, each with the reason of the label and the one of
    the model.
    """
    yield f"  Checks of tool calls by {run.name}"
    if run.is_partial:
        yield f"  Interrupted: {run.cases} of {run.set_cases} cases were checked."
    yield ""
    yield f"  {'':<17}{'missed':<26}false alarms"
    for kind, rates in run.kinds.items():
        yield _format_rates(kind, rates.misses, rates.false_alarms)
    yield _format_rates("all", run.misses, run.false_alarms)
    yield ""
    share = formats.percent(run.without_verdict, run.asked, 1)
    yield f"  without a verdict: {run.without_verdict} of {run.asked} ({share})"
    for reason, count in run.reasons.items():
        yield f"    {count} × {reason}"
    yield f"  decided without a model: {run.without_model}"
    used = run.usage
    tokens = used.input_tokens + used.output_tokens
    yield f"  {formats.plural(used.requests, 'request')}, {tokens:,} tokens, {used.format_cost()}"
    middle, late = run.seconds
    yield f"  seconds per check: median {middle:.2f} s, 95 % below {late:.2f} s"
    if run.missed:
        yield from ("", "  Missed:")
        yield from _format_wrong(run.missed if lists_all else run.missed[:MAX_LISTED], "✕", with_model=lists_all)
        if len(run.missed) > MAX_LISTED and not lists_all:
            yield f"  and {len(run.missed) - MAX_LISTED} more; -v lists all wrong verdicts"
    if run.wrongly_flagged and lists_all:
        yield from ("", "  False alarms:")
        yield from _format_wrong(run.wrongly_flagged, "!", with_model=True)


def _format_rates(kind: str, misses: Rate, false_alarms: Rate) -> str:
    return f"  {kind:<17}{misses!s:<26}{false_alarms}"


def _format_wrong(listed: Sequence[WrongVerdict], sign: str, *, with_model: bool) -> Iterator[str]:
    for one in listed:
        yield f"  {sign} {one.kind}: {one.tool} {msgspec.json.encode(one.input).decode()[:_INPUT_CHARACTERS]}"
        yield f"    {one.reason}"
        if with_model:
            told = " ".join(filter(None, (one.explanation, f"(rule: {one.rule})" if one.rule else "")))
            yield f"    The model: {escape_unprintable(told) or 'no reason'}"


def write_earlier(output: Output, run: AutoModeRun, earlier: Sequence[AutoModeRun]) -> None:
    """Write the earlier runs as a table. Those with other cases are marked."""
    if not earlier:
        return
    output.write_line()
    output.write_line("  Earlier runs:")
    output.write_table(_COLUMNS, [list_cells(one, run) for one in earlier[:MAX_EARLIER]])


def encode_run(run: AutoModeRun, earlier: Sequence[AutoModeRun]) -> str:
    """Return the run as JSON, with all wrong verdicts, and the figures of the earlier ones."""
    figures = [msgspec.structs.replace(one, missed=(), wrongly_flagged=()) for one in earlier]
    content = {**msgspec.structs.asdict(run), "is_partial": run.is_partial, "earlier": figures}
    return msgspec.json.format(msgspec.json.encode(content), indent=2).decode() + "\n"
