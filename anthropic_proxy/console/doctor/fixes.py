"""Remedies for the problems that the doctor found: the setting or command that solves each one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from functools import partial
from typing import NamedTuple

from msgspec import Struct, structs

from anthropic_proxy.console.doctor.findings import Backend, Diagnosis, Failure, FailureKind, find_context_window
from anthropic_proxy.console.doctor.server_tables import find_table
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.platforms.program import shorten_home
from anthropic_proxy.engine.platforms.shells import quote_word
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.catalog import MIN_SESSION_TOKENS, Catalog
from anthropic_proxy.engine.providers.lookup import describe_larger_window
from anthropic_proxy.engine.providers.model_ids import read_model_id
from anthropic_proxy.engine.routing.replacements import (
    ModelReplacement,
    find_served_successor,
    list_model_replacements,
    list_served_models,
)
from anthropic_proxy.engine.routing.targets import Target
from anthropic_proxy.errors import end_sentence, join_with_and, join_with_or
from anthropic_proxy.gateway.settings import CONFIG_FILE, ENV_FILE, Settings, copy_environment

_MAX_NAMED_ROUTES = 2


class FailedCall(Struct, frozen=True, kw_only=True):
    """A call that failed for a reason for which all further ones fail. Later requests show whether this still holds."""

    provider: str
    """Name of the provider: `google`."""
    model: str = ""
    """"": the reason holds for all models of the provider."""
    error_code: str = ""
    """Entry of the error catalog. "": none."""


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
    failed: tuple[FailedCall, ...] = ()
    """The calls that failed for this reason. Empty: requests are possible, so that no reply contradicts the problem."""


class _Run(NamedTuple):
    """What remedies are derived from."""

    diagnoses: Sequence[Diagnosis]
    settings: Settings
    catalog: Catalog


def list_fixes(diagnoses: Sequence[Diagnosis], settings: Settings, catalog: Catalog) -> list[Fix]:
    """Return one `Fix` for each problem that a setting or a command solves, and for each place of a setting."""
    find_successor = partial(find_served_successor, settings=settings, catalog=catalog, today=date.today())
    retired_models = list_model_replacements(find_successor, settings, catalog)
    run, found = _Run(diagnoses, settings, catalog), dict[Fix, dict[FailedCall, None]]()
    for diagnosis in diagnoses:
        failure = diagnosis.problem
        fixes = _fix_features(diagnosis, run) if failure is None else _FIXES[failure.kind](diagnosis, failure, run)
        calls = {} if failure is None else {_describe_call(diagnosis.backend.target, failure): None}
        for fix in fixes:
            found.setdefault(fix, {}).update(calls)
        for fix in _fix_routes(diagnosis, diagnoses, retired_models):
            found.setdefault(fix, {})
    placed = []
    for fix, failed in found.items():
        place = fix.place
        if not place and (setting := SETTING.match(fix.remedy)) is not None:
            variable = setting[1]
            is_exported = settings.origins.get(variable) == "environment" or copy_environment().get(variable)
            place = "in the environment" if is_exported else f"in {_name_env_file(settings)}"
        placed.append(structs.replace(fix, place=place, failed=tuple(failed)))
    return placed


def _describe_call(target: Target, failure: Failure) -> FailedCall:
    model = target.model if failure.concerns_model else ""
    return FailedCall(provider=target.provider.name, model=model, error_code=failure.error_code)


def _name_env_file(settings: Settings) -> str:
    return shorten_home(settings.env_file or ENV_FILE)


def _fix_key(diagnosis: Diagnosis, failure: Failure, run: _Run) -> Iterator[Fix]:
    name, provider, settings = diagnosis.backend.name, diagnosis.backend.target.provider, run.settings
    keys, origin = settings.keys.get(provider.name, ()), settings.origins.get(provider.key_variable or "", "set")
    table, place = find_table(provider.name, settings), ""
    if variable := provider.key_variable if table is None else table.key_variable:
        remedy = f"{variable}={'<new key>' if keys else '<key>'}"
    elif table is None:
        remedy = "gcloud auth application-default login"
    else:
        remedy = f"Correct the file or command of api_key of [providers.{table.name}]"
    text = f"rejects the key {keys[0]} ({origin}), {failure.status}." if keys else ""
    if not keys and table is not None and not table.has_key:
        line = f'api_key = {{ env = "{variable}" }}'
        place = f"in {_name_env_file(settings)}, and in [providers.{table.name}] of {CONFIG_FILE}  {line}"
    text = text or _sentence(failure.message.removeprefix(f"{name} "))
    yield Fix(name=name, problem=text, remedy=remedy, place=place)


def _fix_address(diagnosis: Diagnosis, failure: Failure, run: _Run) -> Iterator[Fix]:
    backend, provider = diagnosis.backend, diagnosis.backend.target.provider
    variable, used = provider.base_url_variable or "", ""
    routes = [] if backend.tiers else list(backend.routes)
    if len(routes) > _MAX_NAMED_ROUTES:
        used = f"{len(routes)} routes send requests to it."
    elif routes:
        used = f"The route {join_with_or(routes)} sends requests to it."
    of_connection = _CONNECTION_REMEDIES.get(failure.concerned_field, "")
    if failure.kind == "address":
        remedy = failure.proposal or f"{variable}=<address>"
    elif provider.uses_installed_models:
        remedy = "ollama serve"
    elif of_connection:
        remedy = of_connection.format(table=f"[providers.{provider.prefix}]", file=CONFIG_FILE)
    elif provider.is_configured:
        remedy = f"Check {variable}, {run.settings.origins.get(variable, CONFIG_FILE)}"
    elif provider.name in run.settings.base_urls:
        remedy = f"{variable}=<address>"
    else:
        remedy = "Check the network. Behind a web proxy: HTTPS_PROXY=<its address>"
    yield Fix(name=backend.name, problem=" ".join(filter(None, (_sentence(failure.message), used))), remedy=remedy)


_CONNECTION_REMEDIES = {
    "proxy": "Check proxy of {table}, or HTTPS_PROXY",
    "ca_file": f'In {{table}} of {CONFIG_FILE}:  ca_file = "<PEM file>"',
    "client_certificate": f'In {{table}} of {CONFIG_FILE}:  client_certificate = {{{{ file = "…", key_file = "…" }}}}',
}


def _use_another(diagnosis: Diagnosis, failure: Failure, run: _Run) -> Iterator[Fix]:
    """Propose what the error names, else another examined model, else the same examination later."""
    again = "Try again later: " if failure.kind in ("server", "quota") else ""
    name = diagnosis.backend.name
    remedy = failure.proposal or _find_alternative(diagnosis, run, run.diagnoses)
    remedy = remedy or f"{again}anthropic-proxy doctor {quote_word(name)}"
    yield Fix(name=name, problem=_sentence(failure.message), remedy=remedy)


def _fix_model(diagnosis: Diagnosis, failure: Failure, run: _Run) -> Iterator[Fix]:
    """Name each place that sets a model which the provider does not have."""
    backend, target = diagnosis.backend, diagnosis.backend.target
    own = target.model_setting
    served = list_served_models(target, run.settings, [*filter(read_model_id, diagnosis.models or ())])
    other = next(iter(served), "<another model>")
    places = _list_places(backend, f"{backend.name}/{other}", run)
    # the remedy of the message is the setting that is on the next line
    text = _sentence(failure.cause if places else failure.message)
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


_FIXES: Mapping[FailureKind, Callable[[Diagnosis, Failure, _Run], Iterator[Fix]]] = {
    "key": _fix_key,
    "package": _use_another,
    "unreachable": _fix_address,
    "address": _fix_address,
    "model": _fix_model,
    "server": _use_another,
    "quota": _use_another,
    "request": _use_another,
}


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
                remedy = f"anthropic-proxy doctor {quote_word(f'{backend.name}/{model}')}"
                yield Fix(name=backend.name, problem=text, remedy=remedy)


def _fix_features(diagnosis: Diagnosis, run: _Run) -> Iterator[Fix]:
    backend, place = diagnosis.backend, ""
    for probe, verb in (("streaming", "sends no text"), ("tools", "calls no tools"), ("images", "rejects images")):
        if diagnosis.state_of(probe) != "unsupported" or not backend.tiers:
            continue
        works = [other for other in run.diagnoses if other.state_of(probe) == "works"]
        remedy = _find_alternative(diagnosis, run, works)
        if remedy or probe != "images":
            text = f"{backend.target.model} {verb}; {join_with_and(backend.tiers)} requests are sent to it."
            yield Fix(name=backend.name, problem=text, remedy=remedy or _assign(backend, "<another model>", run))

    window = find_context_window(diagnosis)
    if window is not None and window < MIN_SESSION_TOKENS and backend.tiers:
        larger = [other for other in run.diagnoses if (find_context_window(other) or 0) >= MIN_SESSION_TOKENS]
        remedy = _find_alternative(diagnosis, run, larger)
        if larger_window := describe_larger_window(backend.target.provider, PROVIDERS):
            remedy, place = larger_window
        if remedy:
            text = f"context of {backend.target.model} is {window:,} tokens; sessions reach {MIN_SESSION_TOKENS:,}."
            yield Fix(name=backend.name, problem=text, remedy=remedy, place=place)

    if diagnosis.wire:
        text = "does not have the API that the proxy uses for this model."
        yield Fix(name=backend.name, problem=text, remedy=diagnosis.wire)
    required = [evidence.field for evidence in diagnosis.evidence if evidence.kind == "required"]
    if required:
        text = f"needs other values of {', '.join(dict.fromkeys(required))}."
        yield Fix(name=diagnosis.backend.name, problem=text, remedy="the table below, in anthropic-proxy.toml")


def _find_alternative(diagnosis: Diagnosis, run: _Run, suitable: Sequence[Diagnosis]) -> str:
    """Return the setting that selects another examined model.

    "": no examined model is suitable, or no setting selects one.
    """
    chosen = next((other for other in suitable if other is not diagnosis and other.problem is None), None)
    if chosen is None or not diagnosis.backend.tiers:
        return ""
    return _assign(diagnosis.backend, chosen.backend.prefixed_id, run)


def _assign(backend: Backend, model: str, run: _Run) -> str:
    """Return the settings that select another model for all tiers of a backend: `BIG_MODEL=… and SMALL_MODEL=…`."""
    places = [place for place in _list_places(backend, model, run) if place.route is None]
    lines = [place.instruction if place.is_removal else place.line for place in places]
    return join_with_and(lines or [f"MODEL_{tier.upper()}={model}" for tier in backend.tiers])


def _list_places(backend: Backend, model: str, run: _Run) -> list[ModelReplacement]:
    """Return the settings that name the model of a backend, with the lines that name another one."""
    return list_model_replacements(
        lambda choice: model if choice.prefixed_id == backend.prefixed_id else "", run.settings, run.catalog
    )


def _sentence(text: str) -> str:
    """A full stop behind a proposed line would be copied with it."""
    return text if _LINE_AT_END.search(text) else end_sentence(text)


_LINE_AT_END = compile_later(r":\s+\S*/\S+$")
"""A setting or a model name with its prefix."""


SETTING = compile_later(r"(?<![A-Z0-9_])([A-Z][A-Z0-9_]*)=(?:<[^>]*>|[^ ,]*(?:,[^ ,]+)*)")
"""A setting in `Fix.remedy`, which may have several: `BIG_MODEL=openai/a and SMALL_MODEL=openai/a`."""
