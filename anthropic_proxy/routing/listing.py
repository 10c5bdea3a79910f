"""What `/v1/models` lists: the Claude ids that are mapped, then every known model of the providers that are set up.

Claude Code shows only ids with `claude` in them, so other models are listed as `claude-<prefix>/<name>`.
"""

from collections.abc import Iterator

from msgspec import Struct

from anthropic_proxy.errors import UnknownModel
from anthropic_proxy.routing.catalogue import Catalogue
from anthropic_proxy.routing.providers import PROVIDERS, Provider, find_provider
from anthropic_proxy.routing.router import Facts, describe_mapping, describe_missing_key, find_home, resolve
from anthropic_proxy.routing.router.naming import choose, find_tier
from anthropic_proxy.settings import Settings

_RELEASED = "2026-01-01T00:00:00Z"
"""Anthropic's shape wants a day; no provider's listing that we read tells one."""


class ModelEntry(Struct, kw_only=True):
    """One model, in the shape of Anthropic's models list."""

    type: str = "model"
    id: str
    display_name: str
    created_at: str = _RELEASED
    lifecycle: str = "active"
    max_input_tokens: int
    """What the model that really answers takes: its window, or less."""
    max_tokens: int


def list_models(settings: Settings, catalogue: Catalogue) -> list[ModelEntry]:
    """Return what a client may ask for, Claude's own ids first, each once."""
    entries = {entry.id: entry for entry in (*_list_tiers(settings, catalogue), *_list_others(settings, catalogue))}
    return list(entries.values())


def find_model(asked: str, settings: Settings, catalogue: Catalogue) -> ModelEntry:
    """Return the entry of any id that is served, listed or not: with a date, a prefix, a suffix.

    Raises `UnknownModel` for a bare name in no list, though a request with it would be passed on, and what
    `resolve` raises.
    """
    for entry in list_models(settings, catalogue):
        if entry.id == asked:
            return entry
    home = find_home(settings, catalogue)
    choice = choose(asked, home, settings, catalogue)[0]
    if choice.note and find_tier(asked) is None:
        raise UnknownModel(f"model: {asked!r} is not listed here. GET /v1/models lists what is.")
    target = resolve(Facts(asked), settings, catalogue).targets[0]
    shown = asked if target.model == asked else f"{asked} → {target.provider.prefix}/{target.model}"
    return _entry(asked, shown, target.provider, target.model, catalogue)


def _list_tiers(settings: Settings, catalogue: Catalogue) -> Iterator[ModelEntry]:
    home = find_home(settings, catalogue)
    mapped = {row.tier: row for row in describe_mapping(settings, catalogue)}
    for name in find_provider("anthropic").known_models:
        row = next(row for tier, row in mapped.items() if tier in name)
        prefix, _, model = row.target.partition("/")
        keeps = home.keeps_tiers and prefix == home.prefix
        provider = next(provider for provider in PROVIDERS if provider.prefix == prefix)
        shown = _title_of(name) if keeps else f"{_title_of(name)} → {row.target}"
        yield _entry(name, shown, provider, name if keeps else model, catalogue)


def _list_others(settings: Settings, catalogue: Catalogue) -> Iterator[ModelEntry]:
    for row in PROVIDERS:
        if not row.choosable or row.keeps_tiers or describe_missing_key(row, settings):
            continue
        extra, listed = settings.extra_models.get(row.name, ()), catalogue.listing(row.name)
        known = () if row.runs_what_is_pulled else row.known_models
        for model in (*(known if listed is None else listed), *extra):
            if model not in row.refused_models:
                name = f"{row.prefix}/{model}"
                yield _entry(f"claude-{name}", name, row, model, catalogue)


def _entry(name: str, shown: str, provider: Provider, model: str, catalogue: Catalogue) -> ModelEntry:
    facts = catalogue.find(provider.name, model)
    most = facts.max_input or facts.window
    return ModelEntry(id=name, display_name=shown, max_input_tokens=most, max_tokens=facts.max_output)


def _title_of(name: str) -> str:
    """Return `Claude Sonnet 5.5` of `claude-sonnet-5-5`."""
    company, family, *version = name.split("-")
    return f"{company.title()} {family.title()} {'.'.join(version)}"
