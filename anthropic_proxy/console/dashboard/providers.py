"""Page Providers: state, speed and errors of each provider, capabilities of models, the latest doctor run, and measured
checkers of tool calls.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup
from msgspec import Struct, structs

from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.charts import divide_range
from anthropic_proxy.console.dashboard.conversation import escape_controls
from anthropic_proxy.console.dashboard.error_kinds import (
    MIN_INCIDENT_SHARE,
    describe_failed_attempts,
    is_frequent,
    link_to_failed_attempts,
)
from anthropic_proxy.console.dashboard.forms import Form, OpenedForm
from anthropic_proxy.console.dashboard.notices import Notice
from anthropic_proxy.console.dashboard.overview import find_problems
from anthropic_proxy.console.dashboard.page import (
    Page,
    PageContext,
    PageTable,
    build_panel,
)
from anthropic_proxy.console.dashboard.panels import FailedPanel
from anthropic_proxy.console.dashboard.tables import Cell, TableColumn, build_table
from anthropic_proxy.console.dashboard.web import is_from_own_page, redirect
from anthropic_proxy.console.doctor import auto_mode_runs, stored_runs
from anthropic_proxy.console.doctor.runs import find_directory
from anthropic_proxy.console.doctor.stored_runs import DoctorRun, RunTomlTable
from anthropic_proxy.console.ledger import queries
from anthropic_proxy.console.ledger.costs import ModelCosts
from anthropic_proxy.console.ledger.export import ExportTable
from anthropic_proxy.console.ledger.failures import FailedAttempts, count_failed_attempts, has_recovered
from anthropic_proxy.console.ledger.histograms import Histogram, add_histogram, find_percentile
from anthropic_proxy.console.ledger.records import UsageSums
from anthropic_proxy.console.measures import MEASURES
from anthropic_proxy.console.units import MICROSECONDS
from anthropic_proxy.engine.messages.server_tools import SERVER_TOOLS
from anthropic_proxy.engine.patterns import compile_anchored
from anthropic_proxy.engine.platforms.program import name_program
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.money import NANO_DOLLARS, format_cost
from anthropic_proxy.gateway.problems import describe_demo
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import ModelFeatures, ProviderSetup, RouteResponse

_MAX_MODELS = 8
_NOTHING = "Nothing to do."
PROVIDERS_PATH = "/dashboard/providers"


class _Figures(Struct):
    sums: UsageSums
    attempts: FailedAttempts
    speeds: Histogram
    medians: Sequence[float | None]


class ProviderState(Struct, frozen=True):
    """State of a provider with its tag: `!`, `warn`, `blocked`, `The circuit is open …`."""

    sign: str
    role: str
    name: str
    remedy: str
    failures: str = ""
    """Link to its failed requests. "": none."""


class ProviderRow(Struct, frozen=True):
    setup: ProviderSetup
    figures: _Figures | None
    """None: no request was sent to the provider."""
    sign: str
    role: str
    state: str
    remedy: str
    failures: str = ""
    """Link to the requests that failed at the provider, if they are many. "": they are not."""

    def show_address(self) -> Cell:
        address = self.setup.base_url.partition("://")[2] or self.setup.base_url or formats.UNKNOWN
        host, slash, path = escape_controls(address).partition("/")
        return Cell(text=Markup('<span class="nowrap">{}</span><wbr>{}').format(host, slash + path))

    def show_key(self) -> str:
        detail = self.setup.detail
        if self.setup.state != "ready" or self.setup.key_count:
            return detail or formats.UNKNOWN
        # the address has its own column
        return "no key" if detail in ("", self.setup.base_url) else f"no key; {detail}"

    def show_remedy(self) -> Cell:
        is_quiet = self.setup.state == "unset" or self.remedy == _NOTHING  # the user has nothing to do
        return Cell(text=name_program(self.remedy), more=self.failures, style="muted" if is_quiet else "")


def _figure(name: str, title: str, text: Callable[[_Figures], str]) -> TableColumn[ProviderRow]:
    return TableColumn(name, title, lambda row: text(row.figures) if row.figures else formats.UNKNOWN, is_number=True)


def _measure(name: str) -> TableColumn[ProviderRow]:
    measure = MEASURES[name]
    return _figure(name, measure.title, lambda figures: measure.show(figures.sums))


_COLUMNS: Sequence[TableColumn[ProviderRow]] = (
    TableColumn("provider", "Provider", lambda row: Cell(model=(row.setup.prefix, "", row.setup.name)), style="a-what"),
    TableColumn("state", "State", lambda row: Cell(tag=(row.sign, row.role, row.state)), style="a-state"),
    TableColumn("address", "Address", ProviderRow.show_address, style="muted wrap"),
    TableColumn("key", "Key", ProviderRow.show_key, style="text"),
    _figure("p50", "First token p50", lambda figures: formats.seconds(find_percentile(figures.speeds, 0.5))),
    _figure("p95", "p95", lambda figures: formats.seconds(find_percentile(figures.speeds, 0.95))),
    TableColumn("latency", "Latency", lambda row: Cell(line=row.figures.medians if row.figures else ())),
    *(_measure(name) for name in ("requests", "errors")),
    TableColumn("remedy", "Remedy", ProviderRow.show_remedy, style="full wrap"),
)


def build_providers_page(context: PageContext) -> Mapping[str, Any]:
    figures = build_panel(context, "the figures of providers", lambda: _collect_figures(context))
    known: Mapping[str, _Figures] = {} if isinstance(figures, FailedPanel) else figures
    unused = [
        provider for provider in context.setup.providers if provider.state == "unset" and provider.name not in known
    ]
    problems = find_problems(context)
    failing = problems.find_failing()
    rows = [
        _build_row(context, provider, known.get(provider.name), failing.get(provider.name))
        for provider in context.setup.providers
        if provider not in unused
    ]
    order = {"✕": 0, "!": 1, "✓": 2, "–": 3}
    rows.sort(key=lambda row: order[row.sign])
    doctor = build_doctor_panel(context.settings, context.now, context.find_doctor_run())
    caption = "Providers and their state"
    ready = [row for row in rows if row.state == "ready"]
    limited = [row for row in rows if row.state in ("blocked", "cooldown")]
    verdict = f"{formats.plural(len(ready), 'provider')} ready."
    for row in limited:
        verdict += f" {row.setup.prefix}: {'circuit open' if row.state == 'blocked' else 'all keys in cooldown'}."
    if problems.open:
        verdict += f" {formats.plural(len(problems.open), 'open problem')}."
    if all(row.setup.state == "unset" for row in rows):
        verdict = f"{describe_demo(context.settings)}: it streams and calls tools, but has no model."
    return {
        "verdict": verdict,
        "figures": figures,
        "table": build_table(caption, _COLUMNS, rows, lambda row: row.setup.name, is_link=False, style="states"),
        "unused": [(provider.name, provider.prefix, _describe_state(provider, None).remedy) for provider in unused],
        "problems": context.setup.problems,
        "doctor": doctor,
        "checkers": list_checkers(context.settings),
        "matrix": build_panel(context, "the capabilities", lambda: build_matrix(context)),
    }


def _collect_figures(context: PageContext) -> dict[str, _Figures]:
    connection = context.connection
    chosen = context.model_selection
    periods = divide_range(context.charted_query)
    speeds: dict[str, dict[int, Histogram]] = {}
    latencies = queries.collect_latencies(connection, chosen, periods.seconds, ("provider",))
    for (start, (name,)), histogram in latencies.items():
        speeds.setdefault(name, {})[start] = histogram
    figures_by_provider = {}
    attempts = count_failed_attempts(connection, chosen)
    sums = {row.group: row.sums for row in queries.sum_periods(connection, chosen, 0, "provider")}
    costs = ModelCosts(context.settings)
    for name in sums | dict.fromkeys(costs.find_provider_name(prefix) for prefix in attempts):
        total: Histogram = {}
        by_start = speeds.get(name, {})
        for histogram in by_start.values():
            add_histogram(total, histogram)
        medians = [find_percentile(by_start.get(start, {}), 0.5) for start in periods.starts]
        failed = attempts.get(costs.find_prefix(name), FailedAttempts())
        figures_by_provider[name] = _Figures(sums.get(name, UsageSums()), failed, total, medians)
    return figures_by_provider


def _build_row(
    context: PageContext, provider: ProviderSetup, figures: _Figures | None, failure: Notice | None
) -> ProviderRow:
    state = _describe_state(provider, failure)
    row = ProviderRow(provider, figures, state.sign, state.role, state.name, state.remedy, state.failures)
    if figures is None or row.remedy != _NOTHING:
        return row
    errors = figures.sums.errors
    requests = figures.sums.requests
    problems = []
    links = []
    if errors >= MIN_INCIDENT_SHARE * requests and errors > 0:
        verb = "was" if errors == 1 else "were"
        problems.append(f"{errors:,} of {formats.plural(requests, 'request')} {verb} answered with an error.")
        if has_recovered(context.connection, provider.name):
            problems.append("It has replied since.")
        facets = {**context.query.facets, "outcome": "error", "provider": provider.name}
        links.append(context.query.link("/dashboard/requests", facets=facets))
    if is_frequent(figures.attempts, requests):
        problems.append(describe_failed_attempts(figures.attempts, requests, "here"))
        links.append(link_to_failed_attempts(context.query, provider.prefix))
    if not problems:
        return row
    return structs.replace(row, remedy=" ".join(problems), failures=links[0])


def _describe_state(provider: ProviderSetup, failure: Notice | None) -> ProviderState:
    """`failure`: the problem of a provider that does not reply now."""
    match provider.state:
        case "unset":
            return ProviderState("–", "", "not set", provider.remedy or "Not in use: no model maps to it.")
        case "problem":
            return ProviderState("✕", "error", "problem", provider.remedy)
        case "ready":
            return _describe_ready(provider, failure)


def _describe_ready(provider: ProviderSetup, failure: Notice | None) -> ProviderState:
    if provider.open_seconds:
        wait = formats.seconds(provider.open_seconds * MICROSECONDS)
        text = f"Repeated failures opened the circuit; the next call is tried in {wait}. {provider.failure}"
        return ProviderState("!", "warn", "blocked", text)
    if provider.cooldowns:
        wait = formats.seconds(min(provider.cooldowns) * MICROSECONDS)
        skipped = len(provider.cooldowns)
        verb = "is" if skipped == 1 else "are"
        count = formats.plural(provider.key_count, "key")
        text = f"{skipped} of {count} {verb} skipped after failures; the next one is used again in {wait}."
        if skipped == provider.key_count:
            return ProviderState("!", "warn", "cooldown", text)
        if failure is None:
            return ProviderState("✓", "ok", "ready", text)
    if failure is not None:
        text = f"{failure.text} {failure.remedy}".rstrip()
        return ProviderState(failure.sign, failure.role, "failing", text, failure.href)
    return ProviderState("✓", "ok", "ready", _NOTHING)


class MatrixCell(Struct, frozen=True):
    sign: str = ""
    role: str = ""
    text: str = ""
    note: str = ""
    """Source of the value, if it differs from the source of the other values of the model. "": the same source."""


class MatrixColumn(Struct, frozen=True):
    prefix: str
    model: str
    provider: str


class Matrix(Struct, frozen=True):
    """Table of models and their features: the columns are models, and the rows are features."""

    columns: Sequence[MatrixColumn]
    rows: Sequence[tuple[str, Sequence[MatrixCell]]]


def build_matrix(context: PageContext) -> Matrix:
    costs = ModelCosts(context.settings)
    targets = [target for mapping in context.setup.mapping for target in (mapping.target, *mapping.fallbacks)]
    used = sorted(
        queries.sum_models(context.connection, context.model_selection), key=lambda model: -model.sums.requests
    )
    replied = [model for model in used if model.provider and model.model and model.sums.succeeded]
    names = [*targets, *(f"{costs.find_prefix(model.provider)}/{model.model}" for model in replied)]
    features = context.describe_models([name for name in dict.fromkeys(names) if "…" not in name][:_MAX_MODELS], "")
    columns = [MatrixColumn(*model.model.partition("/")[::2], model.provider) for model in features]
    failures = _list_failures(stored_runs.find_known_run(context.settings))
    cells = [{**_list_features(model), **failures.get(model.model, {})} for model in features]
    return Matrix(columns, [(title, [texts[title] for texts in cells]) for title in cells[0]] if cells else [])


_TESTED = {"streaming, tools": "Tools", "images": "Images"}
"""Title of a row of the doctor → title of the row with what is known about the model."""


def _list_failures(run: DoctorRun) -> Mapping[str, Mapping[str, MatrixCell]]:
    """Return model → title of a row → cell, for what did not work in a run, whatever the other sources say."""
    day = formats.local_datetime(run.ended_at * MICROSECONDS)
    source = f"doctor, {day.day} {day:%b %Y}"
    return {
        f"{column.prefix}/{column.model}": {
            _TESTED[row.title]: MatrixCell("✕", "error", row.cells[number].text or "unsupported", source)
            for row in run.rows
            if row.title in _TESTED and row.cells[number].sign == "✕"
        }
        for number, column in enumerate(run.columns)
    }


def _list_features(model: ModelFeatures) -> Mapping[str, MatrixCell]:
    """Return title of each row → cell of a model."""

    def mark(field: str, works: bool) -> MatrixCell:
        return MatrixCell(*(_WORKS if works else _UNSUPPORTED), model.other_sources.get(field, ""))

    def number(field: str, value: int | None) -> MatrixCell:
        text = "unknown" if value is None else formats.count(value)
        return MatrixCell(text=text, note=model.other_sources.get(field, ""))

    places = {"provider": _WORKS, "proxy": _EMULATED}
    levels = [level for level in model.efforts if level != "none"]
    thinking = ", ".join(levels) or ("budget in tokens" if model.has_thinking_budget else "")
    sign, role, text = ("", "", thinking) if thinking else ("–", "none", "not applicable")
    return {
        "Tools": mark("tools", model.tools),
        "Images": mark("images", model.images),
        "PDF documents": mark("documents", model.documents),
        "Thinking, levels": MatrixCell(sign, role, text, model.other_sources.get("efforts", "")),
        **{
            row.title: MatrixCell(*places.get(model.server_tools.get(kind, ""), _UNSUPPORTED))
            for kind, row in SERVER_TOOLS.items()
            if row.is_in_dashboard
        },
        "Context window, tokens": number("context_window", model.max_input),
        "Output limit, tokens": number("max_output", model.max_output),
        "Learned from errors": MatrixCell(text=", ".join(model.adaptations) or formats.UNKNOWN),
        "Source, if not named above": MatrixCell(text=model.source),
    }


_WORKS = ("✓", "ok", "works")
_UNSUPPORTED = ("✕", "error", "unsupported")
_NEVER = "The doctor has not run yet."
_ENDED_EARLY = "The proxy has ended."
_EMULATED = ("~", "warn", "emulated by the proxy")
_NO_RESULT = ("–", "none", "no result")
_UNTESTED = ("…", "none", "not tested yet")
_MEANINGS = {sign[0]: sign for sign in (_WORKS, _EMULATED, _UNSUPPORTED, _NO_RESULT, _UNTESTED)}
"""Sign of a result → the sign, its role and its meaning."""
_COMMAND = compile_anchored(
    r"[A-Z][A-Z0-9_]*=[^\s<][^<]*|targets = \[[^<]+\]|(?:anthropic-proxy|ollama|gcloud) [\w ./:@-]+"
)
"""Pattern of a remedy that is a setting or a command without a placeholder, so that it can be copied."""


class ProviderRemedy(Struct, frozen=True):
    problem: str
    text: str = ""
    command: str = ""


class DoctorPanel(Struct, frozen=True, kw_only=True):
    summary: str
    is_running: bool = False
    share: float | None = None
    """Share of the expected requests that were sent, from 0 to 1. None: no run, or the number is not estimated yet."""
    failure: str = ""
    """Sentences about a run that has ended before it was complete. "": the latest run is complete."""
    is_outdated: bool = False
    table: Matrix = Matrix((), ())
    details: Sequence[tuple[str, Mapping[str, str]]] = ()
    remedies: Sequence[ProviderRemedy] = ()
    tables: Sequence[RunTomlTable] = ()


def build_doctor_panel(settings: Settings, now: float, running: DoctorRun | None = None) -> DoctorPanel:
    """`running`: the run in progress. It is found before the files are read, which then have the end of a run."""
    directory = settings.data_directory
    if directory is None:
        return DoctorPanel(summary=_NEVER)
    complete = stored_runs.load_complete(directory)
    current = stored_runs.load_current(directory)
    if running is not None:
        panel = DoctorPanel(summary="The doctor is starting.", is_running=True)
        if running.expected_requests:
            expected = max(running.expected_requests, running.requests)
            summary = f"The doctor is running: {running.requests} of about {formats.plural(expected, 'request')}."
            share = running.requests / expected
            table = _build_table(running)
            panel = structs.replace(panel, summary=summary, share=share, table=table)
        if complete is None:
            return panel
        return structs.replace(panel, remedies=_build_remedies(complete), tables=complete.tables)
    failure = ""
    is_latest = current is not None and (complete is None or current.started_at > complete.started_at)
    if current is not None and is_latest and not stored_runs.is_running(directory):  # else it is of another proxy
        sent = f" after {formats.plural(current.requests, 'request')}" if current.requests else ""
        start = formats.ago(max(0, now - current.started_at))
        failure = f"The run that started {start} ended{sent}, before it was complete. {current.problem or _ENDED_EARLY}"
    if complete is None:
        return DoctorPanel(summary=_NEVER, failure=failure)
    cost = formats.plural(complete.tokens, "token")
    if complete.price is not None:
        cost = format_cost(complete.price * NANO_DOLLARS)
    requests = formats.plural(complete.requests, "request")
    return DoctorPanel(
        summary=f"Doctor ran {formats.ago(max(0, now - complete.ended_at))}, {requests}, {cost}",
        failure=failure,
        is_outdated=complete.settings_digest != stored_runs.digest_backend_settings(settings),
        table=_build_table(complete),
        details=[(f"{column.prefix}/{column.model}", column.details) for column in complete.columns if column.details],
        remedies=_build_remedies(complete),
        tables=complete.tables,
    )


def list_checkers(settings: Settings) -> list[tuple[str, ...]]:
    """Return the cells of the stored measurements of models as checkers of tool calls, the latest first."""
    runs = auto_mode_runs.load_runs(settings.data_directory)
    return [auto_mode_runs.list_cells(run, runs[0]) for run in runs]


def _build_table(run: DoctorRun) -> Matrix:
    columns = [MatrixColumn(column.prefix, column.model, column.provider) for column in run.columns]
    rows = []
    for row in run.rows:
        cells = [
            MatrixCell(*_MEANINGS[cell.sign], "" if cell.text == "emulated" else cell.text)
            if cell.sign in _MEANINGS
            else MatrixCell(text=cell.text)
            for cell in row.cells
        ]
        rows.append((row.title[:1].upper() + row.title[1:], cells))
    return Matrix(columns, rows)


def _build_remedies(run: DoctorRun) -> list[ProviderRemedy]:
    remedies = []
    for fix in run.fixes:
        text = f"{fix.remedy}  {fix.place}".rstrip()
        command = ""
        if fix.remedy.isprintable() and _COMMAND.fullmatch(fix.remedy):
            text = f"Set {fix.place}:" if fix.place else ""
            command = fix.remedy
        remedies.append(ProviderRemedy(f"{fix.name}: {fix.problem}", text, command))
    return remedies


async def respond_doctor_form(form: OpenedForm, sent: Mapping[str, str] | None) -> RouteResponse:
    """Show the expected cost of a run and start it, or stop the run in progress."""
    settings = form.services.gateway.settings
    runs = form.services.doctor
    values: dict[str, Any] = {"is_running": False, "estimate": None, "latest": "", "demo": "", "problem": ""}
    if sent is not None:
        try:
            latest = float(sent.get("latest", ""))
        except ValueError:
            latest = -1.0  # no run has this start, so the form is rejected as outdated
        try:
            if sent.get("action") == "stop":
                await runs.stop()
            else:
                await runs.start(latest)
        except InvalidRequest as error:
            return await form.show("doctor.html", {**values, "problem": error.message})
        return redirect(f"{PROVIDERS_PATH}#doctor")
    if not is_from_own_page(form.request):
        return redirect(PROVIDERS_PATH)  # another site must not make this process ask a local server for its models
    if await runs.current() is not None:
        values["is_running"] = True
    else:
        latest = await asyncio.to_thread(stored_runs.find_latest_start, find_directory(settings))
        values |= {"estimate": await runs.estimate(), "latest": repr(latest), "demo": describe_demo(settings)}
    return await form.show("doctor.html", values)


def _tabulate_providers(context: PageContext) -> ExportTable:
    failing = find_problems(context).find_failing()
    rows = []
    for provider in context.setup.providers:
        state = _describe_state(provider, failing.get(provider.name))
        is_ready = provider.state == "ready"
        name = state.name if is_ready else provider.state
        remedy = state.remedy.replace(_NOTHING, "") if is_ready else provider.remedy
        rows.append([provider.name, provider.prefix, name, provider.base_url, provider.detail, remedy])
    return ExportTable(["provider", "prefix", "state", "address", "key", "remedy"], rows)


PAGE = Page(
    section="Providers",
    template="providers.html",
    build=build_providers_page,
    checks_servers=True,
    tables={
        "providers": PageTable(_tabulate_providers, reads_ledger=False),
    },
)
FORM = Form(section="Providers", page_path=PROVIDERS_PATH, respond=respond_doctor_form)
