"""The result as a table for people and as JSON for programs."""

import platform
import statistics
from collections.abc import Sequence
from typing import Any

from bench.scenario import Measure, Plan, Run
from bench.subjects import DIRECT, NGINX, PROXY, Subject


def write_table(run: Run, subjects: Sequence[Subject]) -> str:
    """Return medians with their spread, and the proxy as a multiple of nginx or as what it adds to a direct call."""
    rows = [["", *(subject.name for subject in subjects), "the proxy"]]
    for measure in run.measures.values():
        cells = [_cell(measure, subject.name) for subject in subjects]
        rows.append([f"{measure.title}, {measure.unit}", *cells, _verdict(measure)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    return "\n".join([lines[0], "─" * len(max(lines, key=len)), *lines[1:]])


def collect(run: Run, subjects: Sequence[Subject], plan: Plan, missing: Sequence[str]) -> dict[str, Any]:
    """Return everything that was measured, with the values of each round."""
    return {
        "machine": {
            "system": platform.system(),
            "release": platform.release(),
            "processor": platform.machine(),
            "python": platform.python_version(),
        },
        "rounds": plan.rounds,
        "replies_checked": run.replies,
        "not_measured": list(missing),
        "measures": [
            {
                "key": key,
                "title": measure.title,
                "unit": measure.unit,
                "subjects": {
                    subject.name: _summary(measure.values[subject.name])
                    for subject in subjects
                    if measure.values.get(subject.name)
                },
            }
            for key, measure in run.measures.items()
        ],
    }


def _summary(values: list[float]) -> dict[str, Any]:
    return {
        "median": statistics.median(values),
        "lowest": min(values),
        "highest": max(values),
        "values": values,
    }


def _cell(measure: Measure, name: str) -> str:
    values = measure.values.get(name)
    if not values:
        return "–"
    median = statistics.median(values)
    half = (max(values) - min(values)) / 2
    digits = 3 if median < 1 else 2 if median < 10 else 1
    return f"{median:.{digits}f} ±{half:.{digits}f}"


def _verdict(measure: Measure) -> str:
    """Compare within each round, because the rounds differ more than the subjects of one do."""
    ours, floor, direct = (measure.values.get(subject.name) for subject in (PROXY, NGINX, DIRECT))
    if ours and floor and not direct:
        return f"{statistics.median(map(_ratio, ours, floor)):.1f} × nginx"
    if ours and direct:
        added = statistics.median(mine - theirs for mine, theirs in zip(ours, direct, strict=True))
        return f"{added:+.2f} {measure.unit} to direct"
    return ""


def _ratio(one: float, other: float) -> float:
    return one / other if other > 0 else float("nan")
