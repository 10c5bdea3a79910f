"""Which model a request reaches, with which API, and why: `tests/golden_texts/routes`.

Each line of an input has a word first. Given are `env` (variables; KEYS: a key for every provider), `|` (a line of
`.env`; from `[` on, of `anthropic-proxy.toml`), `pulled` (a provider and the models that it has), `day` and `tools`
(server tools). Shown are `ask` (routes), `show` (fields of their targets), `list` (models of the list, by a pattern),
`find` (one of them), `tiers`, `call` (address and header of a call), `server` (at OPENAI_BASE_URL) and `table` (facts
about a model; beside other models: which of them has the same ones, or the same abilities).
"""

import shlex
from collections.abc import Iterator, Mapping
from datetime import date
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from anthropic_proxy.engine.providers import PROVIDERS, find_registry
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.providers.credentials import Credentials
from anthropic_proxy.engine.providers.model_facts import ModelCapabilities
from anthropic_proxy.engine.routing.choices import choose_preferred_provider_name, should_query_ollama
from anthropic_proxy.engine.routing.model_listing import ModelEntry, find_model, list_models, list_tier_mappings
from anthropic_proxy.engine.routing.router import RoutingQuery, build_plan
from anthropic_proxy.engine.routing.targets import Target
from anthropic_proxy.engine.upstream.http.url import join_url
from anthropic_proxy.errors import ClientError, ConfigurationError
from anthropic_proxy.gateway.settings import CONFIG_FILE, Settings, load_settings
from tests.support.golden_texts import Check, golden_files

KEYS = [f"{row.key_variable}={row.name}-key" for row in PROVIDERS if row.key_variable]
PATHS = {"openai_chat": "/chat/completions", "openai_responses": "/responses", "anthropic": "/v1/messages"}


def show_facts(facts: ModelCapabilities) -> str:
    words = [f"{facts.context_window}/{facts.max_output}", *facts.efforts, f"default {facts.default_effort}"]
    flags = {"images": facts.accepts_images, "PDF": facts.accepts_pdf, "unknown": not facts.known}
    return " ".join([*words, *(name for name, value in flags.items() if value)])


def compare_facts(model: str, facts: ModelCapabilities, other: str, found: ModelCapabilities) -> str:
    able = [(one.efforts, one.accepts_images, one.accepts_pdf) for one in (facts, found)]
    return f"{model} {'=' if facts == found else '≈' if able[0] == able[1] else '≠'} {other}"


def supported(features: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for name, feature in features.items():
        if name == "supported":
            yield from [path] if feature else []
        elif isinstance(feature, dict):
            yield from supported(feature, f"{path}.{name}".removeprefix("."))


def show_entry(entry: ModelEntry) -> str:
    dates = f"{entry.lifecycle} {entry.deprecated_at or ''} {entry.retires_at or ''}".rstrip()
    features = "" if entry.capabilities is None else f": {' '.join(supported(entry.capabilities))}"
    return f"{entry.id} ({entry.display_name}) {entry.max_input_tokens}/{entry.max_tokens} {dates}{features}"


def show_fields(target: Target, names: list[str]) -> Iterator[str]:
    """Yield each field of a target that it has; `dialect`: all fields of its dialect that are not the default."""
    for name in names:
        if name == "dialect":
            dialect, usual = target.dialect, type(target.dialect)()
            yield type(target.wire).__module__.rpartition(".")[2]
            changed = [each for each in dialect.__struct_fields__ if getattr(dialect, each) != getattr(usual, each)]
            yield from (f"{each}={getattr(dialect, each)}" for each in changed)
        for owner in (target.dialect, target.capabilities, target, target.provider):
            if name != "dialect" and hasattr(owner, name):
                yield f"{name}={getattr(owner, name)}"
                break


class Case:
    """One input: its settings, and the lines that it shows."""

    def __init__(self, lines: list[str], folder: Path) -> None:
        self.environ: dict[str, str] = {}
        self.fields: list[str] = []
        self.pulled: dict[str, list[str]] = {}
        self.tools: frozenset[str] = frozenset()
        self.day = date(2026, 11, 23)
        files: dict[str, list[str]] = {".env": [], CONFIG_FILE: []}
        self.shown = []
        for line in lines:
            word, _, rest = line.partition(" ")
            match word:
                case "env":
                    words = [each for word in shlex.split(rest) for each in (KEYS if word == "KEYS" else [word])]
                    self.environ |= dict(word.split("=", 1) for word in words)
                case "|":
                    name = CONFIG_FILE if files[CONFIG_FILE] or rest.startswith("[") else ".env"
                    files[name].append(rest)
                case "pulled":
                    provider, *models = rest.split()
                    self.pulled[provider] = models
                case "day":
                    self.day = date.fromisoformat(rest)
                case "tools":
                    self.tools = frozenset(rest.split())
                case "show":
                    self.fields = rest.split()
                case _:
                    self.shown.append((word, rest))
        for name, text in files.items():
            (folder / name).write_text("\n".join(text), "utf-8")

    def results(self, folder: Path) -> Iterator[str]:
        settings = load_settings(self.environ, PROVIDERS, env_file=str(folder / ".env"), resolves_keys=True)
        catalog = Catalog(self.pulled)
        for word, rest in self.shown:
            for model in shlex.split(rest) if word in ("ask", "find", "call") else [rest]:
                try:
                    yield from getattr(self, word)(model, settings, catalog)
                except ClientError as error:
                    yield f"{model}: {error.status} {error.message}"

    def ask(self, model: str, settings: Settings, catalog: Catalog) -> Iterator[str]:
        route = build_plan(RoutingQuery(model, self.tools), settings, catalog)
        names = ", ".join(target.prefixed_id for target in route.targets)
        strict = " (strict)" if route.fidelity == "strict" else ""
        yield f"{model} → {names}{strict}: {route.reason}"
        yield from (f"  note: {note}" for note in route.notes)
        for target in route.targets if self.fields else ():
            yield "  " + " ".join(show_fields(target, self.fields))

    def call(self, model: str, settings: Settings, catalog: Catalog) -> Iterator[str]:
        (target,) = build_plan(RoutingQuery(model, self.tools), settings, catalog).targets
        wire = type(target.wire).__module__.rpartition(".")[2]
        address = join_url(target.base_url, PATHS.get(wire, ""))
        credential = Credentials(settings).next_credential(target.provider)
        header = f"{credential.header}: {credential.value}" if credential else "no key"
        tokens = " (tokens)" if Credentials(settings).uses_tokens(target.provider) else ""
        yield f"{model}: {wire} {address} {header}{tokens}"

    def find(self, model: str, settings: Settings, catalog: Catalog) -> Iterator[str]:
        yield show_entry(find_model(model, settings, catalog, self.day))

    def list(self, pattern: str, settings: Settings, catalog: Catalog) -> Iterator[str]:
        for entry in list_models(settings, catalog, self.day):
            if fnmatch(entry.id, pattern):
                yield show_entry(entry)

    def tiers(self, _: str, settings: Settings, catalog: Catalog) -> Iterator[str]:
        asks = ", asks Ollama" if should_query_ollama(settings) else ""
        yield f"preferred: {choose_preferred_provider_name(settings, self.pulled.get('ollama'))}{asks}"
        for row in list_tier_mappings(settings, catalog):
            yield f"{row.tier}: {', '.join([row.target, *row.fallbacks])} ({row.reason})"
            yield from (f"  problem: {problem.text}" for problem in row.problems)

    def server(self, _: str, settings: Settings, catalog: Catalog) -> Iterator[str]:
        yield find_registry(settings).find("openai").host.name

    def table(self, rest: str, settings: Settings, catalog: Catalog) -> Iterator[str]:
        provider, model, *others = rest.split()
        facts = catalog.cached_capabilities(provider, model)
        if not others:
            yield f"{model}: {show_facts(facts)}"
        for other in others:
            yield compare_facts(model, facts, other, catalog.cached_capabilities(provider, other))


@pytest.mark.parametrize("name", golden_files("routes"))
def test_routes(name: str, golden: Check, tmp_path: Path) -> None:
    def show(given: str) -> str:
        try:
            shown = "\n".join(Case(given.split("\n"), tmp_path).results(tmp_path))
        except ConfigurationError as error:
            shown = str(error)
        return shown.replace(f"{tmp_path}/", "")

    golden(name, show)
