"""Model list for `GET /v1/models`: Claude ids first, then the models of all configured providers.

`list_models` returns all entries, `find_model` one `ModelEntry`. Claude Code shows only ids that contain `claude`, so
models of other providers are listed as `claude-<prefix>/<name>`.
"""

from collections.abc import Iterator

from msgspec import Struct

from anthropic_proxy.errors import UnknownModel
from anthropic_proxy.routing.catalog import Catalog, ModelCapabilities
from anthropic_proxy.routing.providers import find_registry
from anthropic_proxy.routing.router import (
    RoutingQuery,
    describe_missing_key,
    find_capabilities,
    find_preferred_provider,
    list_tier_mappings,
    resolve_route,
)
from anthropic_proxy.routing.router.model_names import choose_models, find_tier
from anthropic_proxy.settings import TIERS, Settings

_RELEASED = "2026-01-01T00:00:00Z"
"""Placeholder release date. The Messages API requires a date, and the model lists of the providers have none."""


class ModelEntry(Struct, kw_only=True):
    """One model, in the format of the models list of the Messages API."""

    type: str = "model"
    """Type of the object in the Messages API."""
    id: str
    """Id for client requests: `claude-opus-5`, `claude-openai/gpt-4.1`."""
    display_name: str
    """Title for model menus. The title of a Claude id has the backend model after an arrow: `Claude Opus 5 →
    openai/gpt-4.1`."""
    created_at: str = _RELEASED
    """Release date. Providers report none, so all entries have the same date."""
    lifecycle: str = "active"
    """State of the model in the format of the Messages API: always `active`."""
    max_input_tokens: int
    """Input limit of the target model in tokens. Without a separate limit: its context window."""
    max_tokens: int
    """Output limit of the target model, in tokens."""


def list_models(settings: Settings, catalog: Catalog) -> list[ModelEntry]:
    """Return the models of the response to `GET /v1/models` without duplicates, Claude ids first."""
    entries = {entry.id: entry for entry in (*_list_tiers(settings, catalog), *_list_others(settings, catalog))}
    return list(entries.values())


def find_model(requested: str, settings: Settings, catalog: Catalog) -> ModelEntry:
    """Return the entry of one model, for `GET /v1/models/<id>`.

    Raises `UnknownModel` if no provider is known to have the model, and the errors of `resolve_route`.
    """
    for entry in list_models(settings, catalog):
        if entry.id == requested:
            return entry
    preferred = find_preferred_provider(settings, catalog)
    choice = choose_models(requested, preferred, settings, catalog)[0]
    if choice.note and find_tier(requested) is None:
        raise UnknownModel(f"model: {requested!r} is not available. GET /v1/models lists the available models.")
    target = resolve_route(RoutingQuery(requested), settings, catalog).targets[0]
    display_name = requested if target.model == requested else f"{requested} → {target.provider.prefix}/{target.model}"
    return _entry(requested, display_name, target.capabilities)


def _list_tiers(settings: Settings, catalog: Catalog) -> Iterator[ModelEntry]:
    preferred = find_preferred_provider(settings, catalog)
    mapped = {row.tier: row for row in list_tier_mappings(settings, catalog)}
    registry = find_registry(settings)
    for name in next(row.known_models for row in registry if row.serves_claude):
        row = mapped[find_tier(name) or TIERS[0]]
        prefix, _, model = row.target.partition("/")
        unchanged = preferred.serves_claude and prefix == preferred.prefix
        provider = next(provider for provider in registry if provider.prefix == prefix)
        display_name = _title_of(name) if unchanged else f"{_title_of(name)} → {row.target}"
        yield _entry(name, display_name, find_capabilities(provider, name if unchanged else model, settings, catalog))


def _list_others(settings: Settings, catalog: Catalog) -> Iterator[ModelEntry]:
    for row in find_registry(settings):
        listable = settings.serve_demo if row.transport == "demo" else row.offered_to_users
        if not listable or row.serves_claude or describe_missing_key(row, settings):
            continue
        extra, listed = settings.extra_models.get(row.name, ()), catalog.cached_model_ids(row.name)
        known = () if row.uses_installed_models else row.known_models
        for model in (*(known if listed is None else listed), *extra):
            if model not in row.non_chat_models:
                name = f"{row.prefix}/{model}"
                yield _entry(f"claude-{name}", name, find_capabilities(row, model, settings, catalog))


def _entry(name: str, display_name: str, capabilities: ModelCapabilities) -> ModelEntry:
    max_input = capabilities.max_input or capabilities.context_window
    return ModelEntry(
        id=name, display_name=display_name, max_input_tokens=max_input, max_tokens=capabilities.max_output
    )


def _title_of(name: str) -> str:
    """Return the display title of a Claude id: `Claude Sonnet 5.5` for `claude-sonnet-5-5`."""
    company, family, *version = name.split("-")
    return f"{company.title()} {family.title()} {'.'.join(version)}"
