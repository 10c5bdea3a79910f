"""Report of one run of the doctor: a table with a column for each examined model, remedies, cost, and tables for
`anthropic-proxy.toml`.
"""

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from anthropic_proxy.console import formats
from anthropic_proxy.console.doctor.certificates import GatewayCheck
from anthropic_proxy.console.doctor.findings import (
    Diagnosis,
    Outcome,
    ProbeTotals,
    State,
    find_context_window,
    find_max_output,
)
from anthropic_proxy.console.doctor.fixes import Fix
from anthropic_proxy.console.doctor.server_tables import FoundServer
from anthropic_proxy.console.units import to_microseconds
from anthropic_proxy.engine.advice import Problem, ProblemKind, report_problem
from anthropic_proxy.engine.messages.deltas import TokenCounts
from anthropic_proxy.gateway.money import NANO_DOLLARS, format_amount
from anthropic_proxy.gateway.prices.price_list import PriceList
from anthropic_proxy.gateway.settings import Settings

LEGEND = "✓ works   ~ emulated by the proxy   ✕ unsupported   – no result"
"""Line that explains the signs in the table of the report."""


class Report(Struct, kw_only=True):
    diagnoses: Sequence[Diagnosis]
    fixes: Sequence[Fix]
    settings_problems: Sequence[Problem] = ()
    """Problems that concern no examined backend."""
    gateway: GatewayCheck = GatewayCheck()
    """Certificate at the address where persons sign in from Claude Code."""
    identity_problems: Sequence[str] = ()
    """Problems of the identity provider, by which persons sign in from Claude Code."""
    auto_mode: str = ""
    pictures: str = ""
    """Who describes pictures for models that do not see. "": all see, or no picture is described."""
    """Who checks tool calls in auto mode: `answered by gpt-4.1 (openai)`. "": not examined."""
    servers: Sequence[FoundServer]
    """Unknown servers with the dialect that the probes found."""
    seconds: float
    price: float | None
    """Price of all probes in US dollars. None: the price of a backend is unknown, or all backends are free."""

    @property
    def exit_status(self) -> int:
        """0: no problem. 1: a fix is needed. 2: no server except the built-in demo is configured and reachable."""
        problems = [diagnosis.problem for diagnosis in self.diagnoses if not diagnosis.backend.is_demo]
        if all(problem is not None and problem.kind == "unreachable" for problem in problems):
            return 2
        return 1 if self.fixes or any(problem.is_error for problem in self.problems) else 0

    @property
    def problems(self) -> Sequence[Problem]:
        """Problems that no fix belongs to."""
        stated = [
            *(("DASHBOARD_URL", text) for text in self.gateway.problems),
            *(("OIDC_ISSUER", text) for text in self.identity_problems),
        ]
        found = (report_problem(ProblemKind.STATED, setting, reason=text) for setting, text in stated)
        return [*self.settings_problems, *found]

    @property
    def cost_summary(self) -> str:
        totals = self.totals
        tokens = totals.input_tokens + totals.output_tokens
        shown = "" if self.price is None else f", {format_amount(self.price * NANO_DOLLARS)}"
        duration = formats.seconds(to_microseconds(self.seconds))
        return f"{formats.plural(totals.requests, 'request')}, {duration}, {tokens:,} tokens{shown}"

    @property
    def totals(self) -> ProbeTotals:
        each = [diagnosis.totals for diagnosis in self.diagnoses]
        return ProbeTotals(
            requests=sum(one.requests for one in each),
            input_tokens=sum(one.input_tokens for one in each),
            output_tokens=sum(one.output_tokens for one in each),
        )


def find_total_price(diagnoses: Sequence[Diagnosis], settings: Settings) -> float | None:
    """Return the price of all requests in US dollars. None: a price is unknown, or all models are free."""
    prices = PriceList(settings)
    total = 0.0
    is_known = False
    for diagnosis in diagnoses:
        totals, target = diagnosis.totals, diagnosis.found_target
        if not totals.input_tokens + totals.output_tokens:
            continue
        price = prices.find(target.provider, target.model)
        if price is None:
            return None
        if price.is_free:
            continue
        is_known = True
        tokens = TokenCounts(input_tokens=totals.input_tokens, output_tokens=totals.output_tokens)
        total += price.calculate_cost(tokens) / NANO_DOLLARS
    return total if is_known else None


def list_explanations(diagnosis: Diagnosis) -> dict[str, str]:
    """Return name of a probe (`images`), of a deviation (`thinking tags`), `problem` or `limits` → its explanation."""
    details = {name: outcome.reason for name, outcome in diagnosis.outcomes.items() if outcome.reason}
    if diagnosis.problem is not None:
        details["problem"] = diagnosis.problem.message
    details.update(diagnosis.quirks)
    if diagnosis.limits_source:
        details["limits"] = diagnosis.limits_source
    return details


SIGNS: Mapping[State, str] = {"works": "✓", "emulated": "~", "unsupported": "✕", "untested": "–"}
"""State of a feature (`works`, `emulated` …) → sign in the doctor's table."""
_PENDING = "…"


class Cell(Struct, frozen=True):
    sign: str
    """`✓`, `~`, `✕`, `–`, or `…` while the probe is running. "": a number without a sign."""
    text: str = ""

    def __str__(self) -> str:
        return f"{self.sign} {self.text}".strip()


class Row(Struct, frozen=True):
    title: str
    cells: Sequence[Cell]
    """One for each examined model."""


def _show(*probes: str) -> Callable[[Diagnosis], Cell]:
    """Return a function whose cells show the result with the least support among these probes."""

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
        text = f"HTTP {problem.status}" if problem.status else "no key"
        if problem.kind == "address" and problem.status < 400:
            text = "no API"
        return Cell("✕", {"unreachable": "no answer", "package": "no package"}.get(problem.kind, text))
    if diagnosis.seconds is None:
        return Cell(_PENDING)
    return Cell("✓", formats.seconds(to_microseconds(diagnosis.seconds)))


def _show_number(number: Callable[[Diagnosis], int | None]) -> Callable[[Diagnosis], Cell]:
    def build(diagnosis: Diagnosis) -> Cell:
        if not diagnosis.is_complete:
            return Cell(_PENDING)
        value = number(diagnosis)
        return Cell("–") if value is None or diagnosis.problem is not None else Cell("", f"{value:,}")

    return build


_ROWS: Sequence[tuple[str, Callable[[Diagnosis], Cell]]] = (
    ("key, address", _show_address),
    ("streaming, tools", _show("streaming", "tools", "tool results")),
    ("parallel tools", _show("parallel tools")),
    ("images", _show("images")),
    ("images in tool results", _show("images in tool results")),
    ("thinking", _show("thinking")),
    ("thinking replay", _show("thinking replay")),
    ("structured output", _show("structured output")),
    ("stop sequences", _show("stop sequences")),
    ("token counts", _show("usage")),
    ("context window, tokens", _show_number(find_context_window)),
    ("output limit, tokens", _show_number(find_max_output)),
)


def list_rows(diagnoses: Sequence[Diagnosis]) -> list[Row]:
    """Return the rows of the table, with a column for each of `diagnoses`."""
    return [Row(title, [build(one) for one in diagnoses]) for title, build in _ROWS]
