"""Report of one run of the doctor, in its forms: table, JSON, Markdown, and tables for `anthropic-proxy.toml`.

It names remedies for the found problems. The tables for an unknown server have its models and its dialect, each field
with its evidence as a comment.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from functools import partial
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct, structs

from anthropic_proxy import __version__
from anthropic_proxy.cli.doctor.findings import Backend, Diagnosis, Evidence, Outcome, ProbeTotals, Problem, State
from anthropic_proxy.cli.output import encode_printed_json
from anthropic_proxy.console import formats
from anthropic_proxy.console.ledger.units import to_microseconds
from anthropic_proxy.engine.exchange.provider_errors import REMEDY_LEAD
from anthropic_proxy.engine.messages.deltas import TokenCounts
from anthropic_proxy.engine.options import ConfiguredProvider
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.platforms.program import shorten_home
from anthropic_proxy.engine.platforms.shells import quote_word
from anthropic_proxy.engine.providers import Provider
from anthropic_proxy.engine.providers.catalog import MIN_SESSION_TOKENS, Catalog
from anthropic_proxy.engine.providers.model_ids import read_model_id
from anthropic_proxy.engine.routing.router import (
    ModelReplacement,
    find_served_successor,
    list_model_replacements,
    list_served_models,
)
from anthropic_proxy.errors import join_with_and, join_with_or
from anthropic_proxy.gateway.money import NANO_DOLLARS, format_amount
from anthropic_proxy.gateway.prices.price_list import PriceList
from anthropic_proxy.gateway.settings import CONFIG_FILE, ENV_FILE, Settings, copy_environment
from anthropic_proxy.gateway.settings.config_file import resolve_config_file_path
from anthropic_proxy.gateway.settings.files import format_toml_key, format_toml_value
from anthropic_proxy.secrets import redact_json_value, redact_secrets

_MAX_NAMED_ROUTES = 2
_LARGER_WINDOW = 81_920
"""Context window, in tokens, that the doctor proposes for a local model with a smaller one."""


class Fix(Struct, frozen=True, kw_only=True):
    """A problem of one model of a provider, with the setting or command that solves it."""

    name: str
    """Prefix of the provider: `groq`."""
    problem: str
    """Sentence without the provider name: `rejects images; haiku requests are sent to it.`"""
    remedy: str
    """Setting or command: `SMALL_MODEL=gemini/gemini-2.0-flash`."""
    place: str = ""
    """Where to write the setting: `in ~/project/.env`. "": it is a command, or names its place."""


def list_fixes(diagnoses: Sequence[Diagnosis], settings: Settings, catalog: Catalog) -> list[Fix]:
    """Return one `Fix` for each problem that a setting or a command solves, and for each place of a setting."""
    find_successor = partial(find_served_successor, settings=settings, catalog=catalog, today=date.today())
    retired_models = list_model_replacements(find_successor, settings, catalog)
    found: dict[Fix, None] = {}
    for diagnosis in diagnoses:
        if diagnosis.problem is None:
            found |= dict.fromkeys(_fix_features(diagnosis, diagnoses, settings, catalog))
        elif diagnosis.problem.kind == "model":
            found |= dict.fromkeys(_fix_model(diagnosis, diagnosis.problem, settings, catalog))
        else:
            found[_fix_access(diagnosis, diagnosis.problem, diagnoses, settings, catalog)] = None
        found |= dict.fromkeys(_fix_routes(diagnosis, diagnoses, retired_models))
    placed = []
    for fix in found:
        place = fix.place
        if not place and (setting := SETTING.match(fix.remedy)) is not None:
            variable = setting[1]
            is_exported = settings.origins.get(variable) == "environment" or copy_environment().get(variable)
            place = "in the environment" if is_exported else f"in {_name_env_file(settings)}"
        placed.append(structs.replace(fix, place=place))
    return placed


def _name_env_file(settings: Settings) -> str:
    return shorten_home(settings.env_file or ENV_FILE)


def _fix_access(
    diagnosis: Diagnosis, problem: Problem, diagnoses: Sequence[Diagnosis], settings: Settings, catalog: Catalog
) -> Fix:
    backend, provider = diagnosis.backend, diagnosis.backend.target.provider
    name, variable = backend.name, provider.key_variable
    if problem.kind == "key":
        keys = settings.keys.get(provider.name, ())
        origin = settings.origins.get(variable or "", "set")
        table = _find_table(provider.name, settings)
        variable = variable if table is None else table.key_variable
        if variable:
            remedy = f"{variable}={'<new key>' if keys else '<key>'}"
        elif table is None:
            remedy = "gcloud auth application-default login"
        else:
            remedy = f"Correct the file or command of api_key of [providers.{table.name}]"
        if not keys:
            place = ""
            if table is not None and not table.has_key:
                line = f'api_key = {{ env = "{variable}" }}'
                place = f"in {_name_env_file(settings)}, and in [providers.{table.name}] of {CONFIG_FILE}  {line}"
            text = _sentence(problem.message.removeprefix(f"{name} "))
            return Fix(name=name, problem=text, remedy=remedy, place=place)
        return Fix(name=name, problem=f"rejects the key {keys[0]} ({origin}), {problem.status}.", remedy=remedy)
    if problem.kind == "package":
        return Fix(name=name, problem=_sentence(problem.message), remedy=problem.proposal)
    if problem.kind in ("unreachable", "address"):
        variable, text = provider.base_url_variable or "", problem.message
        used, routes = "", [] if backend.tiers else list(backend.routes)
        if len(routes) > _MAX_NAMED_ROUTES:
            used = f"{len(routes)} routes send requests to it."
        elif routes:
            used = f"The route {join_with_or(routes)} sends requests to it."
        if problem.kind == "address":
            remedy = problem.proposal or f"{variable}=<address>"
        elif provider.uses_installed_models:
            remedy = "ollama serve"
        elif "through the proxy" in text:
            remedy = f"Check proxy of [providers.{provider.prefix}], or HTTPS_PROXY"
        elif "certificate is not accepted" in text:
            remedy = f'In [providers.{provider.prefix}] of {CONFIG_FILE}:  ca_file = "<PEM file>"'
        elif "client_certificate" in text:
            table_name = f"[providers.{provider.prefix}] of {CONFIG_FILE}"
            remedy = f'In {table_name}:  client_certificate = {{ file = "…", key_file = "…" }}'
        elif provider.is_configured:
            remedy = f"Check {variable}, {settings.origins.get(variable, CONFIG_FILE)}"
        elif provider.name in settings.base_urls:
            remedy = f"{variable}=<address>"
        else:
            remedy = "Check the network. Behind a web proxy: HTTPS_PROXY=<its address>"
        return Fix(name=name, problem=" ".join(filter(None, (_sentence(text), used))), remedy=remedy)
    again = "Try again later: " if problem.kind in ("server", "quota") else ""
    alternative = _find_alternative(diagnosis, diagnoses, lambda other: other.problem is None, settings, catalog)
    return Fix(
        name=name,
        problem=_sentence(problem.message),
        remedy=alternative or f"{again}anthropic-proxy doctor {quote_word(name)}",
    )


def _fix_model(diagnosis: Diagnosis, problem: Problem, settings: Settings, catalog: Catalog) -> Iterator[Fix]:
    """Name each place that sets a model which the provider does not have."""
    backend, target = diagnosis.backend, diagnosis.backend.target
    own = target.model_setting
    served = list_served_models(target, settings, [*filter(read_model_id, diagnosis.models or ())])
    other = next(iter(served), "<another model>")
    places = _list_places(backend, f"{backend.name}/{other}", settings, catalog)
    # the remedy of the message is the setting that is on the next line
    text = _sentence(problem.message.partition(REMEDY_LEAD)[0] if places else problem.message)
    if not places:
        yield Fix(name=backend.name, problem=text, remedy=f"anthropic-proxy models {backend.name}")
    for place in sorted(places, key=lambda place: own is None or place.setting.name != own.name):
        if own is None or place.setting.name != own.name:
            text = f"{text} {backend.prefixed_id} is set by {place.setting}.".lstrip()
        yield _write_line(backend, text, place)
        text = ""


def _write_line(backend: Backend, problem: str, place: ModelReplacement) -> Fix:
    where = "" if place.route is None else f"in {place.setting.source}{place.condition}"
    remedy = f"Remove {place.line}" if place.is_removal else place.line
    return Fix(name=backend.name, problem=problem, remedy=remedy, place=where)


def _fix_routes(
    diagnosis: Diagnosis, diagnoses: Sequence[Diagnosis], retired_models: Sequence[ModelReplacement]
) -> Iterator[Fix]:
    """Name the models of routes that the list of the provider lacks, with the line that sets the successors of retired
    ones."""
    backend = diagnosis.backend
    if not diagnosis.models or not backend.routes:
        return
    places = {place.route.name: place for place in retired_models if place.route is not None}
    refused = [one for one in diagnoses if one.problem is not None and one.problem.kind == "model"]
    named = {one.backend.target.model for one in refused if one.backend.name == backend.name}  # with their places
    for route, models in backend.routes.items():
        missing = [model for model in models if model not in (*diagnosis.models, *named) and read_model_id(model)]
        place = places.get(route)
        retired = [] if place is None else [model.model for model in place.replaced if model.model in missing]
        if place is not None and retired:
            noun = "model" if len(retired) == 1 else "models"
            text = f"does not list the {noun} {join_with_and(retired)} of the route {route}."
            yield _write_line(backend, text, place)
        for model in missing:
            if model not in retired:
                text = f"does not list the model {model} of the route {route}."
                yield Fix(
                    name=backend.name,
                    problem=text,
                    remedy=f"anthropic-proxy doctor {quote_word(f'{backend.name}/{model}')}",
                )


def _fix_features(
    diagnosis: Diagnosis, diagnoses: Sequence[Diagnosis], settings: Settings, catalog: Catalog
) -> Iterator[Fix]:
    for probe, verb in (("streaming", "sends no text"), ("tools", "calls no tools"), ("images", "rejects images")):
        if diagnosis.state_of(probe) != "unsupported" or not diagnosis.backend.tiers:
            continue
        remedy = _find_alternative(
            diagnosis,
            diagnoses,
            lambda other, probe=probe: other.state_of(probe) == "works",  # type: ignore[misc]
            settings,
            catalog,
        )
        if remedy or probe != "images":
            yield Fix(
                name=diagnosis.backend.name,
                problem=f"{verb}; {join_with_and(diagnosis.backend.tiers)} requests are sent to it.",
                remedy=remedy or _assign(diagnosis.backend, "<another model>", settings, catalog),
            )

    window, backend, place = find_context_window(diagnosis), diagnosis.backend, ""
    if window is not None and window < MIN_SESSION_TOKENS and backend.tiers:
        remedy = _find_alternative(
            diagnosis,
            diagnoses,
            lambda other: (find_context_window(other) or 0) >= MIN_SESSION_TOKENS,
            settings,
            catalog,
        )
        if backend.target.provider.uses_installed_models:
            remedy, place = f"OLLAMA_CONTEXT_LENGTH={_LARGER_WINDOW}", "in the environment of ollama serve"
        if remedy:
            text = f"context is {window:,} tokens; sessions reach {MIN_SESSION_TOKENS:,}."
            yield Fix(name=backend.name, problem=text, remedy=remedy, place=place)

    if diagnosis.wire:
        text = "does not have the API that the proxy uses for this model."
        yield Fix(name=diagnosis.backend.name, problem=text, remedy=diagnosis.wire)
    required = [evidence.field for evidence in diagnosis.evidence if evidence.kind == "required"]
    if required:
        text = f"needs other values of {', '.join(dict.fromkeys(required))}."
        yield Fix(name=diagnosis.backend.name, problem=text, remedy="the table below, in anthropic-proxy.toml")


def _find_alternative(
    diagnosis: Diagnosis,
    diagnoses: Sequence[Diagnosis],
    is_suitable: Callable[[Diagnosis], bool],
    settings: Settings,
    catalog: Catalog,
) -> str:
    """Return the setting that selects another examined model.

    "": no examined model is suitable, or no setting selects one.
    """
    others = (other for other in diagnoses if other is not diagnosis and other.problem is None)
    chosen = next((other for other in others if is_suitable(other)), None)
    if chosen is None or not diagnosis.backend.tiers:
        return ""
    return _assign(diagnosis.backend, chosen.backend.prefixed_id, settings, catalog)


def _assign(backend: Backend, model: str, settings: Settings, catalog: Catalog) -> str:
    """Return the settings that select another model for all tiers of a backend: `BIG_MODEL=… and SMALL_MODEL=…`."""
    places = [place for place in _list_places(backend, model, settings, catalog) if place.route is None]
    lines = [place.instruction if place.is_removal else place.line for place in places]
    return join_with_and(lines or [f"MODEL_{tier.upper()}={model}" for tier in backend.tiers])


def _list_places(backend: Backend, model: str, settings: Settings, catalog: Catalog) -> list[ModelReplacement]:
    """Return the settings that name the model of a backend, with the lines that name another one."""
    return list_model_replacements(
        lambda choice: model if choice.prefixed_id == backend.prefixed_id else "", settings, catalog
    )


def _sentence(text: str) -> str:
    """A full stop behind a proposed line would be copied with it."""
    return text if text.endswith((".", "!", "?")) or _LINE_AT_END.search(text) else f"{text}."


_LINE_AT_END = compile_later(r":\s+\S*/\S+$")
"""A setting or a model name with its prefix."""


SETTING = compile_later(r"([A-Z][A-Z0-9_]*)=(?:<[^>]*>|[^ ,]*(?:,[^ ,]+)*)")
"""A setting in `Fix.remedy`, which may have several: `BIG_MODEL=openai/a and SMALL_MODEL=openai/a`."""
LEGEND = "✓ works   ~ emulated by the proxy   ✕ unsupported   – no result"
"""Line that explains the signs in the table of the report."""


class FoundServer(Struct, frozen=True, kw_only=True):
    """A server that the doctor examined for deviations from its API."""

    name: str
    """Name of the server's table in `anthropic-proxy.toml`."""
    base_url: str
    diagnoses: Sequence[Diagnosis]
    table: str
    """Tables for `anthropic-proxy.toml`."""


class Report(Struct, kw_only=True):
    diagnoses: Sequence[Diagnosis]
    fixes: Sequence[Fix]
    route_problems: Sequence[str] = ()
    """Error texts about routes of the configuration file that cannot be used, with remedies."""
    auto_mode: str = ""
    """Who checks tool calls in auto mode: `answered by gpt-4.1 (openai)`. "": not examined."""
    servers: Sequence[FoundServer]
    """Unknown servers with the dialect that the probes found."""
    seconds: float
    price: float | None
    """Price of all probes in US dollars. None: the price of a backend is unknown, or all backends are free."""

    @property
    def exit_status(self) -> int:
        """0: no problem. 1: a fix is needed. 2: no server except the built-in demo is configured and reachable."""
        problems = [diagnosis.problem for diagnosis in self.diagnoses if not uses_demo_provider(diagnosis)]
        if all(problem is not None and problem.kind == "unreachable" for problem in problems):
            return 2
        return 1 if self.fixes or self.route_problems else 0

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


def uses_demo_provider(diagnosis: Diagnosis) -> bool:
    return diagnosis.backend.target.provider.transport == "demo"


def encode_report(report: Report, file_format: Literal["json", "markdown"], today: date, secrets: Sequence[str]) -> str:
    """Return `report` as text. Keys in `secrets` are masked, because an error message may contain one."""
    if file_format == "json":
        content = {
            "version": __version__,
            "date": today.isoformat(),
            "exit_status": report.exit_status,
            "requests": report.totals.requests,
            "seconds": round(report.seconds, 3),
            "input_tokens": report.totals.input_tokens,
            "output_tokens": report.totals.output_tokens,
            "backends": [_build_backend(diagnosis) for diagnosis in report.diagnoses],
            "fixes": [structs.asdict(fix) for fix in report.fixes],
            "route_problems": report.route_problems,
            "auto_mode": report.auto_mode,
            "tables": [server.table for server in report.servers],
        }
        values = redact_json_value(msgspec.to_builtins(content), secrets)
        return encode_printed_json(values, indent=2)
    return redact_secrets("\n".join(_format_markdown(report, today)) + "\n", secrets)


def _build_backend(diagnosis: Diagnosis) -> dict[str, Any]:
    backend = diagnosis.backend
    return {
        "provider": backend.name,
        "model": backend.target.model,
        "tiers": backend.tiers,
        "problem": diagnosis.problem,
        "seconds": None if diagnosis.seconds is None else round(diagnosis.seconds, 3),
        "listed_models": None if diagnosis.models is None else len(diagnosis.models),
        "context_window": find_context_window(diagnosis),
        "max_output": find_max_output(diagnosis),
        "limits_source": diagnosis.limits_source,
        "efforts": diagnosis.efforts,
        "probes": diagnosis.outcomes,
        "quirks": diagnosis.quirks,
        "evidence": [
            {
                **structs.asdict(evidence),
                "value": msgspec.to_builtins(evidence.value),
                "previous": msgspec.to_builtins(evidence.previous),
            }
            for evidence in diagnosis.evidence
        ],
        "dialect": diagnosis.dialect if diagnosis.shows_dialect else {},
    }


def _format_markdown(report: Report, today: date) -> Iterator[str]:
    yield f"# anthropic-proxy {__version__} doctor, {today.isoformat()}"
    yield ""
    names = [f"{one.backend.name}<br>{one.backend.target.model}" for one in report.diagnoses]
    yield f"| | {' | '.join(names)} |"
    yield f"| --- |{' --- |' * len(names)}"
    for row in ROWS:
        cells = [str(row.build(one)).replace("|", "\\|") for one in report.diagnoses]
        yield f"| {row.title} | {' | '.join(cells)} |"
    yield ""
    yield f"{LEGEND}. {report.cost_summary}."
    if report.auto_mode:
        yield ""
        yield f"Auto mode: {report.auto_mode}."
    if report.fixes or report.route_problems:
        yield ""
        yield "## To fix"
        yield ""
        yield from (f"- **{fix.name}** {fix.problem} `{fix.remedy}` {fix.place}".rstrip() for fix in report.fixes)
        yield from (f"- {problem}" for problem in report.route_problems)
    for diagnosis in report.diagnoses:
        details = list_explanations(diagnosis)
        if details.keys() - {"limits"} or diagnosis.evidence:
            yield from ("", f"## {diagnosis.backend.prefixed_id}", "")
            yield from (f"- {name}: {text}" for name, text in details.items())
            for evidence in diagnosis.evidence:
                yield f"- `{evidence.field}`: " + " ".join(line.strip() for line in describe_evidence(evidence))
    for server in report.servers:
        yield from (
            "",
            f"## Table for {hide_credentials(server.base_url)}",
            "",
            "```toml",
            server.table.rstrip(),
            "```",
        )


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


class ReportRow(Struct, frozen=True):
    title: str
    build: Callable[[Diagnosis], Cell]


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
        if problem.kind == "unreachable":
            return Cell("✕", "no answer")
        if problem.kind == "package":
            return Cell("✕", "no package")
        if problem.kind == "address" and problem.status < 400:
            return Cell("✕", "no API")
        return Cell("✕", f"HTTP {problem.status}" if problem.status else "no key")
    return (
        Cell(_PENDING) if diagnosis.seconds is None else Cell("✓", formats.seconds(to_microseconds(diagnosis.seconds)))
    )


def _show_number(number: Callable[[Diagnosis], int | None]) -> Callable[[Diagnosis], Cell]:
    def build(diagnosis: Diagnosis) -> Cell:
        if not diagnosis.is_complete:
            return Cell(_PENDING)
        value = number(diagnosis)
        return Cell("–") if value is None or diagnosis.problem is not None else Cell("", f"{value:,}")

    return build


def find_context_window(diagnosis: Diagnosis) -> int | None:
    """Return the observed context window in tokens, else the one that the proxy uses. None: unknown."""
    facts = diagnosis.backend.target.capabilities
    return diagnosis.context_window or (facts.context_window if facts.known else None)


def lacks_context_window(diagnosis: Diagnosis) -> bool:
    """Return True if neither the probes nor the list of a server have a context window, which a user may know."""
    provider = diagnosis.found_target.provider
    is_asked = provider.transport == "http" and not provider.uses_installed_models
    return is_asked and diagnosis.problem is None and find_context_window(diagnosis) is None


def find_max_output(diagnosis: Diagnosis) -> int | None:
    """Return the observed output limit in tokens, else the one that the proxy uses. None: unknown."""
    facts = diagnosis.backend.target.capabilities
    return diagnosis.max_output or (facts.max_output if facts.known else None)


ROWS: Sequence[ReportRow] = (
    ReportRow("key, address", _show_address),
    ReportRow("streaming, tools", _show("streaming", "tools", "tool results")),
    ReportRow("parallel tools", _show("parallel tools")),
    ReportRow("images", _show("images")),
    ReportRow("images in tool results", _show("images in tool results")),
    ReportRow("thinking", _show("thinking")),
    ReportRow("thinking replay", _show("thinking replay")),
    ReportRow("structured output", _show("structured output")),
    ReportRow("stop sequences", _show("stop sequences")),
    ReportRow("token counts", _show("usage")),
    ReportRow("context window, tokens", _show_number(find_context_window)),
    ReportRow("output limit, tokens", _show_number(find_max_output)),
)


_MAX_SENT_CHARACTERS = 60


def find_servers(diagnoses: Sequence[Diagnosis], settings: Settings) -> list[FoundServer]:
    """Return the servers for which the doctor searched deviations from the API, one for each base URL."""
    groups: dict[str, list[Diagnosis]] = {}
    for diagnosis in diagnoses:
        if diagnosis.shows_dialect:
            groups.setdefault(diagnosis.found_target.base_url, []).append(diagnosis)
    return [
        FoundServer(
            name=propose_server_name(group[0].found_target.provider, base_url, settings),
            base_url=base_url,
            diagnoses=group,
            table=format_server(group, settings),
        )
        for base_url, group in groups.items()
    ]


def _find_table(name: str, settings: Settings) -> ConfiguredProvider | None:
    return next((table for table in settings.configured_providers if table.name == name), None)


def format_server(diagnoses: Sequence[Diagnosis], settings: Settings) -> str:
    """Return the tables of one server. `diagnoses`: results of its models."""
    target = diagnoses[0].found_target
    name = propose_server_name(target.provider, target.base_url, settings)
    lines = [*_format_server_head(name, target.provider, target.base_url, settings), 'wire = "chat"']
    decided = [{evidence.field: evidence for evidence in one.evidence} for one in diagnoses]
    shared = {
        field: evidence
        for field, evidence in decided[0].items()
        if all(field in other and other[field].value == evidence.value for other in decided)
    }
    configured = _find_table(name, settings)
    lines += _format_dialect(f"providers.{name}.dialect", shared, configured.dialect if configured else {})
    for diagnosis, fields in zip(diagnoses, decided, strict=True):
        path = f"providers.{name}.models.{format_toml_key(diagnosis.found_target.model)}"
        lines += [
            "",
            f"[{path}]",
            *(f"{key} = {format_toml_value(value)}" for key, value in build_model_fields(diagnosis).items()),
        ]
        own = {field: evidence for field, evidence in fields.items() if field not in shared}
        lines += _format_dialect(f"{path}.dialect", own)
    return "\n".join(lines) + "\n"


def _format_server_head(name: str, provider: Provider, base_url: str, settings: Settings) -> Iterator[str]:
    yield f"[providers.{name}]"
    yield f"base_url = {format_toml_value(hide_credentials(base_url))}"
    if settings.keys.get(provider.name):
        table = _find_table(provider.name, settings)
        variable = provider.key_variable if table is None else table.key_variable
        yield f"api_key = {{ env = {format_toml_value(variable)} }}" if variable else "# api_key: as it is now"


class WindowSetting(NamedTuple):
    """How a user sets the context window of a model."""

    sentence: str
    """`set context_window in [providers.vllm.models."qwen3"] of anthropic-proxy.toml`"""
    place: str
    """Words before the lines: `add to ~/.config/anthropic-proxy/anthropic-proxy.toml`."""
    lines: Sequence[str]


def find_window_setting(provider: Provider, model: str, settings: Settings) -> WindowSetting:
    """The models of a built-in provider have no tables. At another address, the server gets a table of its own; at that
    of the vendor, only the session has a setting.
    """
    if not provider.is_configured and provider.name not in settings.base_urls:
        variable, where = "CLAUDE_CODE_MAX_CONTEXT_TOKENS", "in the environment of Claude Code"
        return WindowSetting(f"set {variable} {where}", f"set {where}", [f"{variable}=<tokens>"])
    base_url = settings.base_urls.get(provider.name, provider.base_url)
    name = propose_server_name(provider, base_url, settings)
    table = f"[providers.{name}.models.{format_toml_value(model)}]"
    file = shorten_home(resolve_config_file_path(settings.env_file) or CONFIG_FILE)
    sentence, place = f"set context_window in {table} of {CONFIG_FILE}", f"add to {file}"
    lines = [table, "context_window = <tokens>"]
    if not provider.is_configured:
        lines[:0] = _format_server_head(name, provider, base_url, settings)
        sentence += f", base_url in [providers.{name}], and use the prefix {name}/"
        place += f", and use the prefix {name}/"
    return WindowSetting(sentence, place, lines)


def build_model_fields(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return the found limits, effort levels and image support of a model, as fields of its table."""
    facts: dict[str, Any] = {}
    if diagnosis.context_window:
        facts["context_window"] = diagnosis.context_window
    if diagnosis.max_output:
        facts["max_output"] = min(diagnosis.max_output, diagnosis.context_window or diagnosis.max_output)
    if diagnosis.efforts:
        facts["efforts"] = list(diagnosis.efforts)
    if diagnosis.state_of("images") != "untested":
        facts["accepts_images"] = diagnosis.state_of("images") != "unsupported"
    return facts


def describe_evidence(evidence: Evidence) -> Iterator[str]:
    """Yield the lines of a comment, without `#`: the result of the probe that decided a dialect field."""
    if evidence.status:
        sent = evidence.sent
        shown = sent if len(sent) <= _MAX_SENT_CHARACTERS else f"{sent[: _MAX_SENT_CHARACTERS - 1]}…"
        yield f"{evidence.probe}: HTTP {evidence.status} for {shown or 'the request'}"
        yield f"  {evidence.error}"
    else:
        yield f"{evidence.probe}: {evidence.error}"


def propose_server_name(provider: Provider, base_url: str, settings: Settings) -> str:
    """Return a name for the table of a server: that of the provider.

    If a setting has changed the base URL of a built-in provider, whose name another server cannot have, the name is
    derived from the host.
    """
    if provider.name not in settings.base_urls or provider.is_configured:
        return provider.name
    url = urlsplit(base_url)
    words = (url.hostname or "").lower().split(".")
    if len(words) < 2 or words[-1].isdecimal():
        return f"local{url.port or ''}"
    return f"my-{words[-2]}"  # the names of built-in providers are not free


def hide_credentials(url: str) -> str:
    split = urlsplit(url)
    return split._replace(netloc=split.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _format_dialect(
    path: str, fields: Mapping[str, Evidence], configured: Mapping[str, Any] | None = None
) -> Iterator[str]:
    configured = configured or {}
    if not fields and not configured:
        return
    yield from ("", f"[{path}]")
    yield from (f"{field} = {format_toml_value(value)}" for field, value in configured.items() if field not in fields)
    for field, evidence in sorted(fields.items()):
        yield from (f"# {line}" for line in describe_evidence(evidence))
        yield f"{field} = {format_toml_value(msgspec.to_builtins(evidence.value))}"
