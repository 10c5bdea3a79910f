"""Stored measurements of models as checkers of tool calls (`doctor --auto-mode`), which command and dashboard show.

Each run is a file of the folder `doctor/auto-mode` in the data directory, so that no lock is needed. The latest
`MAX_RUNS` are kept.
"""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from anthropic_proxy.console import formats
from anthropic_proxy.console.doctor import stored_runs
from anthropic_proxy.engine.json_decoding import InvalidJson, decode_json
from anthropic_proxy.engine.platforms.files import read_bounded_file, write_whole_file
from anthropic_proxy.gateway.money import format_cost

MAX_RUNS = 50
_MAX_BYTES = 4 * 1024 * 1024
"""Maximum size of a file that is read. A run of which every verdict is wrong has 0.3 MiB."""
_VERSION = 1


class Rate(Struct, frozen=True):
    """Number of wrong verdicts among all verdicts, with an interval of 95 % (Wilson)."""

    wrong: int
    verdicts: int
    low: float
    high: float

    def __str__(self) -> str:
        if not self.verdicts:
            return "no verdict"
        return f"{self.wrong} of {self.verdicts} ({self.low * 100:.1f}–{self.high * 100:.1f} %)"


class KindRates(Struct, frozen=True):
    misses: Rate
    """Dangerous calls with `not_flagged`, among all with a verdict."""
    false_alarms: Rate
    """Harmless calls with `flagged`, among all with a verdict of a model."""


class RunUsage(Struct, frozen=True):
    """What the requests to the checking models used."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: int | None = 0
    """Nano-dollars. None: a price is unknown."""

    def format_cost(self) -> str:
        return format_cost(self.cost, 1 if self.cost is None else 0)


class WrongVerdict(Struct, frozen=True, kw_only=True):
    """A case that a model decided against its label."""

    kind: str
    user: Sequence[str]
    tool: str
    input: Mapping[str, Any]
    reason: str
    """Why the label is right."""
    rule: str
    """The rule that the model named."""
    explanation: str
    """The reason that the model gave for `flagged`. "": none."""


class AutoModeRun(Struct, frozen=True, kw_only=True):
    """One measurement. It has no secrets and no text of a user."""

    version: int = _VERSION
    started_at: float
    """Seconds since the epoch."""
    ended_at: float
    model: str
    """Id with the prefix of its provider: `openai/gpt-4.1`."""
    confirmed_by: str = ""
    """Second model that had to agree. "": none."""
    host: str = ""
    """Host and port of the server that was asked."""
    set: str
    """Digest of the published cases. Runs with different ones cannot be compared."""
    set_cases: int
    """Number of the published cases."""
    cases: int
    """Number of the cases that were checked. Fewer than `set_cases`: the run was interrupted."""
    misses: Rate
    false_alarms: Rate
    kinds: Mapping[str, KindRates]
    without_verdict: int
    reasons: Mapping[str, int]
    """Why calls have no verdict, and how many."""
    without_model: int
    """Number of calls that the table of harmless calls decides."""
    usage: RunUsage
    seconds: tuple[float, float]
    """Median and 95th percentile of the seconds per check by a model."""
    missed: Sequence[WrongVerdict]
    wrongly_flagged: Sequence[WrongVerdict]

    @property
    def is_partial(self) -> bool:
        return self.cases < self.set_cases

    @property
    def asked(self) -> int:
        """Number of the calls about which a model was asked."""
        return self.cases - self.without_model

    @property
    def name(self) -> str:
        return f"{self.model}, confirmed by {self.confirmed_by}" if self.confirmed_by else self.model


RUN_TITLES = ("started", "model", "missed", "false alarms", "no verdict", "cost", "median", "cases")


def list_cells(run: AutoModeRun, reference: AutoModeRun) -> tuple[str, ...]:
    """Return the cells of a run in a list, one for each of `RUN_TITLES`. `reference`: the run with which others are
    compared.
    """
    cases = f"{run.cases} of {run.set_cases}" if run.is_partial else str(run.cases)
    return (
        formats.long_time(run.started_at),
        run.name,
        str(run.misses),
        str(run.false_alarms),
        formats.percent(run.without_verdict, run.asked, 1),
        run.usage.format_cost(),
        f"{run.seconds[0]:.2f} s",
        cases if run.set == reference.set else f"{cases}, another set",
    )


def store_run(data_directory: Path, run: AutoModeRun) -> Path:
    """Return the file. Raises `OSError` if it cannot be written."""
    folder = _find_folder(data_directory)
    date = time.strftime("%Y%m%d-%H%M%S", time.gmtime(run.started_at))
    file = folder / f"{date}-{os.getpid()}.json"
    write_whole_file(file, msgspec.json.format(msgspec.json.encode(run), indent=2) + b"\n")
    for old in _list_files(folder)[MAX_RUNS:]:
        with suppress(OSError):
            old.unlink()
    return file


def load_runs(data_directory: Path | None) -> Sequence[AutoModeRun]:
    """Return the stored runs, the latest first. Files that cannot be read are left out."""
    found = []
    for file in _list_files(_find_folder(data_directory))[:MAX_RUNS] if data_directory is not None else ():
        with suppress(OSError, InvalidJson):
            run = decode_json(read_bounded_file(file, _MAX_BYTES), AutoModeRun)
            if run.version == _VERSION:
                found.append(run)
    return found


def _find_folder(data_directory: Path) -> Path:
    return stored_runs.find_folder(data_directory) / "auto-mode"


def _list_files(folder: Path) -> Sequence[Path]:
    with suppress(OSError):
        return sorted((folder / name for name in os.listdir(folder) if name.endswith(".json")), reverse=True)
    return ()
