"""Table in the doctor's report: one row for each feature, and one column for each backend (model of a provider).

`ROWS` lists the rows. A `Row` has a title, and a function that returns the `Cell` (sign and text) of a backend.
`find_context_window` and `find_max_output` return the limits of a model in tokens.
"""

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from anthropic_proxy.lab.doctor.findings import Diagnosis, Outcome, State

SIGNS: Mapping[State, str] = {"works": "✓", "emulated": "~", "unsupported": "✕", "untested": "–"}
"""State of a feature (`works`, `emulated` …) → sign in the doctor's table."""
_PENDING = "…"


class Cell(Struct, frozen=True):
    """One cell of the doctor's table, with the result of one feature for one backend (model of a provider)."""

    sign: str
    """`✓`, `~`, `✕`, `–`, or `…` while the probe is running. "": a number without a sign."""
    text: str = ""
    """Text after the sign. "": none."""

    def __str__(self) -> str:
        return f"{self.sign} {self.text}".strip()


class Row(Struct, frozen=True):
    """One row of the doctor's table: a title, and the function that returns the cell of a backend."""

    title: str
    """Name of the feature in the first column."""
    build: Callable[[Diagnosis], Cell]
    """Function that returns the cell for the diagnosis of one backend."""


def _show(*probes: str) -> Callable[[Diagnosis], Cell]:
    """Return the function that builds the cells of a row from the results of these probes.

    The cell shows the result with the least support.
    """

    def build(diagnosis: Diagnosis) -> Cell:
        if diagnosis.problem is not None:
            return Cell("–")
        found = [diagnosis.outcomes[name] for name in probes if name in diagnosis.outcomes]
        if len(found) < len(probes) and not diagnosis.is_complete:
            return Cell(_PENDING)
        order: Sequence[State] = ("unsupported", "emulated", "untested", "works")
        worst = min(found, key=lambda outcome: order.index(outcome.state), default=Outcome(state="untested"))
        text = worst.detail or ("emulated" if worst.state == "emulated" else "")
        return Cell(SIGNS[worst.state], text)

    return build


def _show_address(diagnosis: Diagnosis) -> Cell:
    problem = diagnosis.problem
    if problem is not None:
        if problem.kind == "unreachable":
            return Cell("✕", "no answer")
        if problem.kind == "package":
            return Cell("✕", "no package")
        if problem.kind == "address" and problem.status < 400:
            return Cell("✕", "no API")
        return Cell("✕", f"HTTP {problem.status}" if problem.status else "no key")
    return Cell(_PENDING) if diagnosis.seconds is None else Cell("✓", f"{diagnosis.seconds:.2f} s")


def _show_number(number: Callable[[Diagnosis], int | None]) -> Callable[[Diagnosis], Cell]:
    def build(diagnosis: Diagnosis) -> Cell:
        if not diagnosis.is_complete:
            return Cell(_PENDING)
        value = number(diagnosis)
        return Cell("–") if value is None or diagnosis.problem is not None else Cell("", f"{value:,}")

    return build


def find_context_window(diagnosis: Diagnosis) -> int | None:
    """Return the context window of a model in tokens. None: unknown.

    A value that the doctor observed has priority over the value that the proxy uses.
    """
    facts = diagnosis.backend.target.capabilities
    return diagnosis.context_window or (facts.context_window if facts.known else None)


def find_max_output(diagnosis: Diagnosis) -> int | None:
    """Return the output limit of a model in tokens. None: unknown.

    A value that the doctor observed has priority over the value that the proxy uses.
    """
    facts = diagnosis.backend.target.capabilities
    return diagnosis.max_output or (facts.max_output if facts.known else None)


ROWS: Sequence[Row] = (
    Row("key, address", _show_address),
    Row("streaming, tools", _show("streaming", "tools", "tool results")),
    Row("parallel tools", _show("parallel tools")),
    Row("images", _show("images")),
    Row("images in tool results", _show("images in tool results")),
    Row("thinking", _show("thinking")),
    Row("thinking replay", _show("thinking replay")),
    Row("structured output", _show("structured output")),
    Row("stop sequences", _show("stop sequences")),
    Row("token counts", _show("usage")),
    Row("context window, tokens", _show_number(find_context_window)),
    Row("output limit, tokens", _show_number(find_max_output)),
)
"""Rows of the doctor's table, from top to bottom."""
