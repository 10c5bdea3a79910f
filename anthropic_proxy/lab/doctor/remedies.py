"""Settings and commands that solve the problems that the doctor found.

`list_fixes` returns a `Fix` for each problem. It reads each `Diagnosis`: the results for one model of a provider.
"""

import re
from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from anthropic_proxy.lab.doctor.findings import Backend, Diagnosis, Problem
from anthropic_proxy.lab.doctor.rows import find_context_window
from anthropic_proxy.routing.providers import Provider
from anthropic_proxy.settings import Settings

MIN_SESSION_TOKENS = 44_000
"""Minimum context window for a session of Claude Code, in tokens: system prompt, tools and a few files."""
_MODEL_ID = re.compile(r"[A-Za-z0-9@][A-Za-z0-9_.:/@+-]*")
"""Pattern of model ids that a remedy may contain: `@cf/meta/llama-4-scout`. A server could list another text, which a
user would paste."""
_LARGER_WINDOW = 81_920
"""Context window, in tokens, that the doctor proposes for a local model with a smaller one."""


class Fix(Struct, frozen=True, kw_only=True):
    """A problem of one model of a provider, with the setting or command that solves it."""

    name: str
    """Prefix of the provider with the problem: `groq`."""
    problem: str
    """Sentence without the provider name: `rejects images; haiku requests are sent to it.`"""
    remedy: str
    """Setting or command: `SMALL_MODEL=gemini/gemini-2.0-flash`."""


def list_fixes(diagnoses: Sequence[Diagnosis], settings: Settings) -> list[Fix]:
    """Return one `Fix` for each problem that a setting or a command solves. Empty: nothing needs a change.

    `diagnoses` are the results of the examined models.
    """
    found = (
        fix
        for diagnosis in diagnoses
        for fix in (
            (_fix_access(diagnosis, diagnosis.problem, diagnoses, settings),)
            if diagnosis.problem is not None
            else (*_fix_features(diagnosis, diagnoses), *_fix_window(diagnosis, diagnoses), *_fix_dialect(diagnosis))
        )
    )
    return list(dict.fromkeys(found))


def _fix_access(diagnosis: Diagnosis, problem: Problem, diagnoses: Sequence[Diagnosis], settings: Settings) -> Fix:
    backend, provider = diagnosis.backend, diagnosis.backend.target.provider
    name, variable = backend.name, provider.key_variable
    if problem.kind == "key":
        keys = settings.keys.get(provider.name, ())
        remedy = f"{variable}=<new key>" if variable else "gcloud auth application-default login"
        if not keys:
            return Fix(name=name, problem=_sentence(problem.message), remedy=remedy.replace("new ", ""))
        origin = settings.origins.get(variable or "", "set")
        return Fix(name=name, problem=f"rejects the key {keys[0]} ({origin}), {problem.status}.", remedy=remedy)
    if problem.kind == "package":
        return Fix(name=name, problem=_sentence(problem.message), remedy=problem.proposal)
    if problem.kind in ("unreachable", "address"):
        return _fix_address(name, provider, problem, settings)
    alternative = _find_alternative(diagnosis, diagnoses, lambda other: other.problem is None)
    if problem.kind == "model":
        other = _find_other_model(diagnosis)
        alternative = _assign(backend, f"{name}/{other}") if other else alternative
    again = "Try again later: " if problem.kind in ("server", "quota") else ""
    remedy = alternative or f"{again}anthropic-proxy doctor {name}"
    return Fix(name=name, problem=_sentence(problem.message), remedy=remedy)


def _find_other_model(diagnosis: Diagnosis) -> str | None:
    """Return a model that the provider has instead of the examined one: its default model, or a listed one."""
    used = diagnosis.backend.target.model
    listed = [model for model in diagnosis.models or () if model != used and _MODEL_ID.fullmatch(model)]
    default = diagnosis.backend.target.provider.default_big_model
    if default not in (None, used) and (not listed or default in listed):
        return default
    return next(iter(listed), None)


def _fix_address(name: str, provider: Provider, problem: Problem, settings: Settings) -> Fix:
    variable, text = provider.base_url_variable or "", problem.message
    if problem.kind == "address":
        if text.endswith(variable) and variable in settings.origins:
            text = f"{text}, {settings.origins[variable]}"
        remedy = problem.proposal or f"{variable}=<address>"
    elif provider.uses_installed_models:
        remedy = "ollama serve"
    elif provider.name in settings.base_urls or provider.is_configured:
        remedy = f"{variable}=<address>"
    else:
        remedy = "Check the network. Behind a web proxy: HTTPS_PROXY=<its address>"
    return Fix(name=name, problem=_sentence(text), remedy=remedy)


def _fix_features(diagnosis: Diagnosis, diagnoses: Sequence[Diagnosis]) -> Iterator[Fix]:
    for probe, verb in (("streaming", "sends no text"), ("tools", "calls no tools"), ("images", "rejects images")):
        if diagnosis.state_of(probe) != "unsupported" or not diagnosis.backend.tiers:
            continue
        remedy = _find_alternative(
            diagnosis,
            diagnoses,
            lambda other, probe=probe: other.state_of(probe) == "works",  # type: ignore[misc]
        )
        if remedy or probe != "images":
            *others, last = diagnosis.backend.tiers
            tiers = f"{', '.join(others)} and {last}" if others else last
            yield Fix(
                name=diagnosis.backend.name,
                problem=f"{verb}; {tiers} requests are sent to it.",
                remedy=remedy or _assign(diagnosis.backend, "<another model>"),
            )


def _fix_window(diagnosis: Diagnosis, diagnoses: Sequence[Diagnosis]) -> Iterator[Fix]:
    window, backend = find_context_window(diagnosis), diagnosis.backend
    if window is None or window >= MIN_SESSION_TOKENS or not backend.tiers:
        return
    remedy = _find_alternative(
        diagnosis, diagnoses, lambda other: (find_context_window(other) or 0) >= MIN_SESSION_TOKENS
    )
    if backend.target.provider.uses_installed_models:
        remedy = f"OLLAMA_CONTEXT_LENGTH={_LARGER_WINDOW}"
    if remedy:
        text = f"context is {window:,} tokens; sessions reach {MIN_SESSION_TOKENS:,}."
        yield Fix(name=backend.name, problem=text, remedy=remedy)


def _fix_dialect(diagnosis: Diagnosis) -> Iterator[Fix]:
    if diagnosis.wire:
        text = "does not have the API that the proxy uses for this model."
        yield Fix(name=diagnosis.backend.name, problem=text, remedy=diagnosis.wire)
    required = [evidence.field for evidence in diagnosis.evidence if evidence.kind == "required"]
    if required:
        text = f"needs other values of {', '.join(dict.fromkeys(required))}."
        yield Fix(name=diagnosis.backend.name, problem=text, remedy="the table below, in anthropic-proxy.toml")


def _find_alternative(
    diagnosis: Diagnosis, diagnoses: Sequence[Diagnosis], is_suitable: Callable[[Diagnosis], bool]
) -> str:
    """Return the setting that selects another examined model.

    "": no examined model is suitable, or no setting selects one.
    """
    others = (other for other in diagnoses if other is not diagnosis and other.problem is None)
    chosen = next((other for other in others if is_suitable(other)), None)
    if chosen is None or not diagnosis.backend.variables:
        return ""
    return _assign(diagnosis.backend, chosen.backend.prefixed_id)


def _assign(backend: Backend, model: str) -> str:
    """Return the settings that select another model for all tiers of a backend: `BIG_MODEL=… and SMALL_MODEL=…`."""
    return " and ".join(f"{variable}={model}" for variable in backend.variables or ("BIG_MODEL",))


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
