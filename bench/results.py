"""Findings of a run, as one value that can be kept and read again: the terminal's table and the page are made of it."""

import hashlib
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct, field

from bench.budget import Profile
from bench.measures import STEPS, TITLES, percentile_99
from bench.scenario import Run, Table
from bench.subjects import CHECKOUT, nginx_is_here
from bench.targets import Goal


class Row(Struct, kw_only=True):
    """One measure."""

    key: str
    title: str
    unit: str
    values: dict[str, list[float]]
    """Name of a subject → one value a round."""
    dashes: dict[str, str] = field(default_factory=dict)
    """Name of a subject → why it has none."""
    pooled: dict[str, float] = field(default_factory=dict)
    """Name of a subject → the value of all rounds together, where one round has too few requests for a result."""

    def median(self, name: str) -> float | None:
        """Return the median of a subject's rounds, or their value together; None: nothing was measured."""
        values = self.values.get(name)
        return self.pooled.get(name, statistics.median(values)) if values else None

    def added(self, name: str, other: str) -> float | None:
        """Return the difference between the values of two subjects. None: not measured."""
        if name in self.pooled and other in self.pooled:
            return self.pooled[name] - self.pooled[other]
        found = self.compare(name, other, ratio=False)
        return statistics.median(found) if found else None

    def is_clear(self, name: str) -> bool:
        """Return whether a subject's value is more than the noise that it was measured in."""
        return (self.median(name) or 0.0) > self.spread(name)

    def spread(self, name: str) -> float:
        """Return half the distance between the lowest and the highest round."""
        values = self.values[name]
        return (max(values) - min(values)) / 2

    def compare(self, name: str, other: str, *, ratio: bool) -> list[float]:
        """Return ratio or difference to another, round by round: rounds differ more than the subjects of one do."""
        pairs = zip(self.values.get(name, ()), self.values.get(other, ()), strict=False)
        if ratio:
            return [mine / theirs for mine, theirs in pairs if theirs > 0]
        return [mine - theirs for mine, theirs in pairs]

    def against(self, goal: Goal, name: str) -> float | None:
        """Return the quantity that a goal limits; None: the other was not measured."""
        if goal.against == "value":
            return self.median(name)
        if goal.against == "direct":
            return self.added(name, goal.against)
        compared = self.compare(name, goal.against, ratio=True)
        return statistics.median(compared) if compared else None


class ResultTable(Struct, kw_only=True):
    """One table as it was filled."""

    title: str
    names: list[str]
    rounds: int
    """Number of rounds measured."""
    rows: list[Row]

    def row(self, key: str) -> Row | None:
        """Return the row of that key."""
        return next((row for row in self.rows if row.key == key), None)


class Line(Struct, kw_only=True):
    """Something measured as a function of something, and the straight line through it."""

    key: str
    title: str
    x: str
    y: str
    points: dict[str, list[tuple[float, float]]]
    """Name of a subject → its medians."""
    fits: dict[str, "Fit"] = field(default_factory=dict)


class Fit(Struct):
    """A straight line by least squares of the errors, as a share of each value."""

    slope: float
    intercept: float
    residual: float
    """The largest distance of a point from it, as a share of the point's value."""
    determination: float
    """R², with the same weights: 1 where all points lie on it."""


class Results(Struct, kw_only=True):
    """All of a run."""

    machine: dict[str, str]
    code: str = ""
    """Version of the checkout that was measured; "": unknown to git."""
    replies: int
    missing: list[str]
    sheets: list[ResultTable]
    versions: dict[str, str] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    throughput: dict[str, dict[str, float]] = field(default_factory=dict)
    """Subject, with its number of workers → requests per second, and per second of CPU."""
    profiles: dict[str, Profile] = field(default_factory=dict)
    """Key of `bench.budget.BUDGETED` → where the time of that goes."""

    def sheet(self, title: str) -> ResultTable | None:
        """Return the table of that title."""
        return next((sheet for sheet in self.sheets if sheet.title == title), None)

    def add(self, before: "Results", sheets: Sequence[ResultTable]) -> None:
        """Take over these tables of an earlier run, and its other tables."""
        self.sheets = [*sheets, *self.sheets]
        self.replies += before.replies
        self.lines, self.throughput, self.profiles = before.lines, before.throughput, before.profiles

    def save(self, path: Path) -> None:
        """Write everything, every round's value included, as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1))


def load_results(path: Path) -> Results:
    """Read the file that `save` wrote."""
    return msgspec.json.decode(path.read_bytes(), type=Results)


def collect(run: Run, missing: Sequence[str], versions: dict[str, str]) -> Results:
    """Return the contents of the tables of a run."""
    return Results(
        machine=describe_machine(),
        code=describe_code(),
        replies=run.replies,
        missing=list(missing),
        versions=versions,
        sheets=[_sheet(table) for table in run.tables if table.values],
    )


def _sheet(table: Table) -> ResultTable:
    names = [subject.name for subject in table.subjects]
    dashes = {step: table.dashes.get(step, {}) for step in STEPS}
    steps_of = {"p50": "alone", "p99": "alone", "stream": "burst", "idle": "start", "filled": "start"}
    rows = [
        Row(
            key=key,
            title=title,
            unit=unit,
            values=table.values[key],
            dashes=dashes[steps_of.get(key, key)],
            pooled=_pool(table) if key == "p99" else {},
        )
        for key, (title, unit) in TITLES.items()
        if key in table.values
    ]
    rounds = max((len(found) for values in table.values.values() for found in values.values()), default=0)
    return ResultTable(title=table.title, names=names, rounds=rounds, rows=rows)


def _pool(table: Table) -> dict[str, float]:
    return {running.subject.name: percentile_99(running.waits) for running in table.running if len(running.waits) > 1}


def fit(points: Sequence[tuple[float, float]]) -> Fit:
    """Return the straight line that comes nearest to points in proportion to their values.

    By the plain distance the largest points would decide alone: a percent of them is more than all of the small ones.
    """
    points = [(x, y) for x, y in points if y > 0]  # the kernel may have counted nothing
    if len(points) < 2:
        return Fit(0.0, 0.0, 0.0, 0.0)
    weights = [1 / y**2 for _, y in points]
    whole = sum(weights)
    x_level = sum(weight * x for weight, (x, _) in zip(weights, points, strict=True)) / whole
    y_level = sum(weight * y for weight, (_, y) in zip(weights, points, strict=True)) / whole
    weighed = [(weight, x - x_level, y - y_level) for weight, (x, y) in zip(weights, points, strict=True)]
    slope = sum(weight * x * y for weight, x, y in weighed) / sum(weight * x * x for weight, x, _ in weighed)
    intercept = y_level - slope * x_level
    residual = max(abs(slope * x + intercept - y) / y for x, y in points)
    scatter = sum(weight * y * y for weight, _, y in weighed)
    left = sum(weight * (y - slope * x) ** 2 for weight, x, y in weighed)
    return Fit(slope, intercept, residual, 1 - left / scatter if scatter else 1.0)


def describe_code() -> str:
    """Return the commit of the checkout, and a digest of later changes to measured or measuring files."""
    try:
        commit = _git("rev-parse", "HEAD").decode().strip()
        changes = _git("diff", "HEAD", "--", "anthropic_proxy", "bench")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{commit}+{hashlib.sha256(changes).hexdigest()[:12]}" if changes else commit


def _git(*words: str) -> bytes:
    return subprocess.run(["git", *words], cwd=CHECKOUT, capture_output=True, check=True).stdout


def _processor() -> str:
    """Return the model of the processor as Linux names it, else as the platform module does."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or "unknown")


def describe_machine() -> dict[str, str]:
    """Return the conditions that the figures depend on, without the name of the machine."""
    found = {
        "cores": str(os.cpu_count()),
        "processor": _processor(),
        "architecture": platform.machine(),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "Python": platform.python_version(),
    }
    if nginx_is_here():
        output = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True).stderr
        found["nginx"] = output.rpartition("/")[2].split()[0]
    return found
