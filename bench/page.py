"""Writes a run's tables and plots into docs/contributing/performance.md, between its markers, and beside it."""

import re
import statistics
from collections.abc import Callable, Mapping, Sequence

from bench.budget import BUDGETED, STEPS
from bench.features import TITLE as FEATURES_TITLE
from bench.key_limits import TITLE as LIMITS_TITLE
from bench.load import BenchError
from bench.report import cell, in_digits, list_differences, list_ratios
from bench.results import Fit, Results, ResultTable, Row
from bench.subjects import CHECKOUT, DIRECT, NGINX, NGINX_KEEPING, PROXY, write_nginx_configuration
from bench.svg import draw_bars, draw_lines
from bench.targets import COMMON_REASONS, GOALS, REASONS, RELAY_GOAL, Goal
from bench.wires import CHAT, OTHERS, RELAY

PAGE = CHECKOUT / "docs/contributing/performance.md"
PLOTS = PAGE.with_suffix("")
_SECTION = re.compile(r"(<!-- bench: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_LITELLM = "LiteLLM"
_ADDED = frozenset(key for key, targets in GOALS.items() if any(goal.against == "direct" for goal in targets))
"""Measures of waiting, given as the time added to a direct call."""
_OPEN = "open_"
"""Prefix of the keys of the lines about open streams."""
_EXTREME_MEMORY = 10_000
"""Open streams that the line through fewer is read at."""


def write_page(results: Results) -> None:
    """Fill every section that the run has values for; the others stay as they are. Raises `BenchError`."""
    page = PAGE.read_text()
    named = [found[2] for found in _SECTION.finditer(page)]
    if unknown := set(named) - set(SECTIONS):
        raise BenchError(f"{PAGE.name} has sections that nobody writes: {', '.join(sorted(unknown))}")

    def fill(found: re.Match[str]) -> str:
        written = SECTIONS[found[2]](results)
        return f"{found[1]}{written}\n{found[3]}" if written else found[0]

    PAGE.write_text(_SECTION.sub(fill, page))
    PLOTS.mkdir(exist_ok=True)
    for name, drawing in _draw(results).items():
        (PLOTS / f"{name}.svg").write_text(drawing)


def _write_machine(results: Results) -> str:
    machine = dict(results.machine)
    cores, architecture = machine.pop("cores"), machine.pop("architecture")
    processor = machine.pop("processor", "processor not recorded")
    software = ", ".join(f"{name} {version}".removeprefix("system ") for name, version in machine.items())
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items() if version)
    rounds = ", ".join(sorted({str(sheet.rounds) for sheet in results.sheets}))
    measured = f"Measured at commit `{results.code[:10]}`. " if results.code else ""
    return (
        f"{measured}A virtual machine of {cores} cores ({processor}, {architecture}), {software}; "
        f"{versions or 'no other translators'}. "
        f"{results.replies:,} replies, each checked in full. Medians of the rounds ({rounds}), ± half their range."
    )


def _write_goals(results: Results) -> str:
    sheet = results.sheet(CHAT.name)
    return _write_goals_of(sheet) if sheet else ""


def _write_goals_of(sheet: ResultTable) -> str:
    """Return the cost of a wire beside its limit, and the reason if it misses the aim."""
    other_gateways = [name for name in sheet.names if _is_peer(name)]
    others = ["best other gateway", _LITELLM] if other_gateways else []
    rows = [["measure", "nginx, plain relay", *others, "this proxy", "must", "aim", "reached"]]
    rows += [_goal_row(row, other_gateways) for key in GOALS if (row := sheet.row(key))]
    missed = [(key, row) for key in GOALS if (row := sheet.row(key)) and _judge(row, GOALS[key]) != "aim"]
    known = {**COMMON_REASONS, **REASONS.get(sheet.title, {})}
    reasons = [f"- **{row.title}**: {known.get(key, 'the cause is unknown.')}" for key, row in missed]
    note = "\n\nAims that were missed, with the largest costs by the profile:\n\n" if reasons else ""
    return _table(rows) + note + "\n".join(reasons)


def _goal_row(row: Row, other_gateways: Sequence[str]) -> list[str]:
    targets = [goal for goal in GOALS[row.key] if row.against(goal, PROXY.name) is not None]
    measured = [
        _format_goal(goal, row.against(goal, PROXY.name), row.unit) for goal in targets if goal.against != "value"
    ]
    clear = [name for name in other_gateways if row.values.get(name) and row.is_clear(name)]
    best = min(clear, key=lambda name: row.median(name) or 0.0, default="")
    ours = _own(row, PROXY.name)
    return [
        f"{'added, ' if row.key in _ADDED else ''}{row.title}, {row.unit}",
        _own(row, NGINX.name),
        *([f"{_own(row, best)} ({best})" if best else "–", _own(row, _LITELLM)] if other_gateways else []),
        f"**{', '.join(one for one in measured if one)}**; {ours}"
        if any(measured) and not _is_added(row)
        else f"**{ours}**",
        ", ".join(_format_goal(goal, goal.must, row.unit) for goal in targets),
        ", ".join(_format_goal(goal, goal.aim, row.unit) for goal in targets),
        _judge(row, targets),
    ]


def _is_added(row: Row) -> bool:
    return row.key in _ADDED


def _is_peer(name: str) -> bool:
    return name not in {DIRECT.name, NGINX.name, NGINX_KEEPING.name, PROXY.name}


def _own(row: Row, name: str) -> str:
    """Return a subject's value and its spread; of waiting, the time added to the direct call of the same round."""
    if not _is_added(row) or not row.values.get(name):
        return cell(row, name)
    added, rounds = row.added(name, DIRECT.name) or 0.0, row.compare(name, DIRECT.name, ratio=False)
    return f"{in_digits(added)} ±{in_digits((max(rounds) - min(rounds)) / 2, like=added)}"


def _format_goal(goal: Goal, value: float | None, unit: str) -> str:
    if value is None:
        return ""
    if goal.against in ("value", "direct"):
        return f"{value:g} {unit}"
    if value < 1:
        return f"1/{1 / value:.0f} {goal.against}"
    return f"{value:.3g} × {goal.against}"


def _judge(row: Row, targets: Sequence[Goal]) -> str:
    found = [(goal, value) for goal in targets if (value := row.against(goal, PROXY.name)) is not None]
    if all(value <= goal.aim for goal, value in found):
        return "aim"
    return "must" if all(value <= goal.must for goal, value in found) else "**missed**"


def _write_everybody(results: Results) -> str:
    sheet = results.sheet(CHAT.name)
    return _write_sheet(sheet) if sheet else ""


def _write_sheet(sheet: ResultTable) -> str:
    notes: list[str] = []
    rows = [["", *sheet.names]]
    for row in sheet.rows:
        cells = []
        for name in sheet.names:
            why = row.dashes.get(name, "")
            if why and why not in notes:
                notes.append(why)
            cells.append(f"– [{notes.index(why) + 1}]" if why else cell(row, name))
        rows.append([f"{row.title}, {row.unit}", *cells])
    return _table(rows) + "".join(f"\n\n[{number}] {why}" for number, why in enumerate(notes, 1))


def _write_wires(results: Results) -> str:
    sheets = [sheet for wire in (CHAT, *OTHERS) if (sheet := results.sheet(wire.name))]
    if len(sheets) < 2:
        return ""
    rows = [["", *(sheet.title for sheet in sheets)]]
    for key in GOALS:
        found = [sheet.row(key) for sheet in sheets]
        titled = next(row for row in found if row)
        title = f"{'added, ' if _is_added(titled) else ''}{titled.title}, {titled.unit}"
        rows.append([title, *(_cell_of_wire(row, key) for row in found)])
    parts = [_table(rows)]
    for sheet in sheets[1:]:
        if sheet.title == RELAY.name:
            relay = sheet.row("120 KB")
            judged = _judge(relay, [RELAY_GOAL]).replace("aim", "reached") if relay else ""
            parts.append(f"The relay of a 120 KB request, at most {RELAY_GOAL.must:g} × nginx: {judged}.")
        else:
            parts += [f"### {sheet.title}", _write_goals_of(sheet)]
    return "\n\n".join(parts)


def _cell_of_wire(row: Row | None, key: str) -> str:
    if row is None or not row.values.get(PROXY.name):
        return "–"
    ratios = (
        [] if _is_added(row) or key in ("idle", "filled", "start") else row.compare(PROXY.name, NGINX.name, ratio=True)
    )
    return _own(row, PROXY.name) + (f" ({statistics.median(ratios):.1f} ×)" if ratios else "")


def _write_features(results: Results) -> str:
    sheet = results.sheet(FEATURES_TITLE)
    return _table(list_differences(sheet)) if sheet else ""


def _write_limits(results: Results) -> str:
    sheet = results.sheet(LIMITS_TITLE)
    return _table(list_ratios(sheet)) if sheet else ""


def _write_throughput(results: Results) -> str:
    if not results.throughput:
        return ""
    rows = [["gateway, workers", *next(iter(results.throughput.values()))]]
    rows += [[name, *(f"{value:,.0f}" for value in found.values())] for name, found in results.throughput.items()]
    return _table(rows)


def _write_growth(results: Results) -> str:
    if not results.lines:
        return ""
    rows = [["measure", "gateway", "cost of each further unit", "fixed cost", "maximum deviation from the line", "R²"]]
    for line in results.lines:
        for name, one in line.fits.items():
            slope = f"{_in_unit(one.slope, line.y)} per {line.x}"
            beside = _in_unit(one.intercept, line.y)
            title = f"Memory, {line.title} requests" if line.key.startswith(_OPEN) else line.title
            rows.append([title, name, slope, beside, f"{one.residual:.0%}", f"{one.determination:.4f}"])
    return _table(rows) + _format_extremes(results)


def _in_unit(value: float, unit: str) -> str:
    smaller = {"ms": ("µs", 1000), "MiB": ("KiB", 1024)}
    if abs(value) < 0.1 and unit in smaller:
        unit, factor = smaller[unit]
        value *= factor
    return f"{value:.3g} {unit}"


def _format_extremes(results: Results) -> str:
    lines = [
        f"- {line.title} requests, mostly idle: {one.slope * 1024:.1f} KiB each; {_EXTREME_MEMORY:,} would need "
        f"{one.intercept + _EXTREME_MEMORY * one.slope:,.0f} MiB by extrapolation."
        for line in results.lines
        if line.key.startswith(_OPEN) and (one := line.fits.get(PROXY.name))
    ]
    return "\n\n" + "\n".join(lines) if lines else ""


def _write_nginx(results: Results) -> str:
    configuration = write_nginx_configuration(CHECKOUT, 8080, 8081).replace(str(CHECKOUT), "/var/tmp/relay")
    return f"```nginx\n{configuration}```"


def _write_budget(results: Results) -> str:
    profiles = [(results.profiles.get(key), title) for key, title in BUDGETED.items()]
    rows = [["step, µs"], ["**all**"]]
    rows[1:1] = [[step.title] for step in STEPS]
    for column, (profile, title) in enumerate(profiles):
        if profile is None:
            continue
        rows[0] += [f"{title}: may", "takes"]
        measured_steps = profile.steps()
        for row, step in zip(rows[1:-1], STEPS, strict=True):
            may, does = step.may[column], measured_steps[step.title]
            row += [f"{may:g}" if may else "–", f"**{does:.3g}**" if does > may else f"{does:.3g}"]
        rows[-1] += [f"{sum(step.may[column] for step in STEPS):.3g}", f"{profile.micros:.3g}"]
    return _table(rows) if len(rows[0]) > 1 else ""


SECTIONS: Mapping[str, Callable[[Results], str]] = {
    "machine": _write_machine,
    "goals": _write_goals,
    "everybody": _write_everybody,
    "wires": _write_wires,
    "features": _write_features,
    "limits": _write_limits,
    "throughput": _write_throughput,
    "growth": _write_growth,
    "budget": _write_budget,
    "nginx": _write_nginx,
}
"""Name of a section between markers → its content; "" if a run did not measure it."""


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, f"| {' | '.join(['---'] * len(rows[0]))} |", *body])


def _draw(results: Results) -> dict[str, str]:
    plots = {
        line.key: draw_lines(
            line.title, line.x, line.y, line.points, {name: _ends(one) for name, one in line.fits.items()}
        )
        for line in results.lines
        if not line.key.startswith(_OPEN)
    }
    if opened := [line for line in results.lines if line.key.startswith(_OPEN)]:
        points = {line.title: line.points[PROXY.name] for line in opened}
        fits = {line.title: _ends(line.fits[PROXY.name]) for line in opened}
        plots["open_streams"] = draw_lines("Memory over open, mostly idle streams", "stream", "MiB", points, fits)
    sheet = results.sheet(CHAT.name)
    for key, name in (("120 KB", "request"), ("burst", "event")):
        row = sheet.row(key) if sheet else None
        if row and any(_is_peer(subject) for subject in row.values):
            bars = {subject: median for subject in row.values if (median := row.median(subject))}
            plots[name] = draw_bars(row.title, row.unit, dict(sorted(bars.items(), key=lambda bar: bar[1])))
    return plots


def _ends(one: Fit) -> tuple[float, float]:
    return one.slope, one.intercept
