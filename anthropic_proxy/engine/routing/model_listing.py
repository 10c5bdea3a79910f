"""Mapping of the Claude tiers to models, and the model list for `GET /v1/models`: Claude ids first, then the models of
all configured providers.

`list_tier_mappings` has the model for each tier, `open_model_list` the list, and `find_model` one `ModelEntry`. A list
may have thousands of models, so its entries are made when they are needed, and kept.
Claude Code shows only ids that contain `claude`, so models of other providers are listed as `claude-<prefix>/<name>`.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from typing import Any

from msgspec import Struct

from anthropic_proxy.engine.advice import Problem
from anthropic_proxy.engine.messages.server_tools import SERVER_TOOLS
from anthropic_proxy.engine.options import TIERS, ConfiguredRoute, EngineOptions
from anthropic_proxy.engine.providers import Provider, find_registry
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.providers.hosts import find_missing_key, find_server_name, has_own_models
from anthropic_proxy.engine.providers.model_facts import ModelCapabilities
from anthropic_proxy.engine.routing.choices import (
    ModelChoice,
    ModelSetting,
    choose_models,
    choose_models_for_route,
    choose_models_for_tier,
    find_preferred_provider,
    find_tier,
    list_route_choices,
    resolve_model_name_and_tier,
)
from anthropic_proxy.engine.routing.problems import find_choice_problem, find_own_servers
from anthropic_proxy.engine.routing.replacements import find_retirement
from anthropic_proxy.engine.routing.router import RoutingQuery, build_plan
from anthropic_proxy.engine.routing.routes import RouteForecast, can_exceed, describe_conditions, forecast_route
from anthropic_proxy.engine.routing.targets import find_capabilities, find_server_tools, is_relayed
from anthropic_proxy.errors import UnknownModel, join_with_or

_RELEASED = "2026-01-01T00:00:00Z"
"""Placeholder release date. The Messages API requires a date, and the model lists of the providers have none."""


class ModelEntry(Struct, kw_only=True):
    """One model, in the format of the models list of the Messages API."""

    type: str = "model"
    id: str
    """Id for client requests: `claude-opus-5`, `claude-openai/gpt-4.1`."""
    display_name: str
    """Title for model menus. The title of a Claude id has the backend model after an arrow: `Claude Opus 5 →
    openai/gpt-4.1`."""
    target: str | None = None
    """Model with prefix that replies to the id in a conversation. None: the model that the id names."""
    route: str | None = None
    """Name of the route that sends a conversation to `target`. None: the model mapping does."""
    otherwise: str | None = None
    """Model that replies to other requests for the id, such as those without thinking, which do not meet `route`.
    None: `target` does."""
    other_routes: Sequence[str] = ()
    """Names of routes that can send requests of a conversation to other models, such as those with a long input."""
    created_at: str = _RELEASED
    lifecycle: str = "active"
    """`active`; `deprecated` from the announcement of the retirement to its date; then `retired`."""
    deprecated_at: str | None = None
    """Date of the announcement of the retirement. None: the model is active, or the date is unknown."""
    retires_at: str | None = None
    """Date of the retirement, past or future. None: none is announced."""
    capabilities: dict[str, Any] | None = None
    """Features of the model through this proxy, in the format of the Messages API. None: Anthropic itself serves it."""
    max_input_tokens: int
    """Input limit of the target model in tokens. Without a separate limit: its context window. If a route sends longer
    inputs to another model: the limit of that one."""
    max_input_tokens_assumed: bool = False
    """True if the limit is unknown, so that `max_input_tokens` is an assumption of the proxy."""
    max_tokens: int | None
    """Output limit of the target model, in tokens. None: unknown."""


class TierMapping(Struct, frozen=True, kw_only=True):
    """The models to which one Claude tier (haiku, sonnet …) is mapped, and the setting that decides this."""

    tier: str
    target: str
    """Model id with provider prefix: `openai/gpt-4.1`. Anthropic without a setting: `anthropic/claude-opus-…`. A
    provider without a model: `my/`."""
    reason: str
    """Deciding setting and its source: `BIG_MODEL, .env line 4`, `SMALL_MODEL, default`; or `as asked`."""
    setting: ModelSetting | None = None
    """None: the client names the model."""
    fallbacks: Sequence[str] = ()
    choices: Sequence[ModelChoice] = ()
    """The choices of `target` and `fallbacks`."""
    problems: Sequence[Problem] = ()
    """One problem per target or fallback that cannot serve requests, for example without a key."""
    replies: Sequence[tuple[str, str]]
    """Models that reply to a conversation, each with its reason, for users: that of a route first, and then the one
    that replies to other requests, if it is another one. Without such a route: `target` and `reason`."""


class _Listed(Struct, frozen=True):
    """A model of the list."""

    names: tuple[str, str, str | None]
    """Id, title without a target, and target without a route."""
    provider: Provider
    model: str
    forecast: RouteForecast
    today: date | None
    """None: a successor replaces the model when it is retired."""


class ModelList:
    """The models of the response to `GET /v1/models` without duplicates, Claude ids first."""

    def __init__(self, settings: EngineOptions, catalog: Catalog, today: date) -> None:
        self._settings = settings
        self._catalog = catalog
        rows = (*_list_tiers(settings, catalog, today), *_list_others(settings, catalog, today))
        self._rows = {row.names[0]: row for row in rows}
        self._entries = dict[str, ModelEntry]()
        self.ids = [*self._rows]

    def describe(self, name: str) -> ModelEntry | None:
        """Return the entry of an id. None: it is not in the list."""
        if (entry := self._entries.get(name)) is None and (row := self._rows.get(name)) is not None:
            entry = self._entries[name] = _describe_row(row, self._settings, self._catalog)
        return entry

    def describe_all(self, ids: Iterable[str]) -> list[ModelEntry]:
        return [entry for name in ids if (entry := self.describe(name)) is not None]


class _Latest:
    """What was found for the latest settings and edition of the catalog, because it is needed repeatedly: the rows for
    pages and `/health`, and the list of models.
    """

    found: tuple[EngineOptions, Catalog, int, Sequence[TierMapping]] | None = None
    models: tuple[EngineOptions, Catalog, int, date, ModelList] | None = None


def open_model_list(settings: EngineOptions, catalog: Catalog, today: date | None = None) -> ModelList:
    today = today or date.today()
    found = _Latest.models
    key = settings, catalog, catalog.edition, today
    if found is None or found[0] is not settings or found[1] is not catalog or found[2:4] != key[2:]:
        found = _Latest.models = *key, ModelList(settings, catalog, today)
    return found[4]


def list_tier_mappings(settings: EngineOptions, catalog: Catalog) -> Sequence[TierMapping]:
    found = _Latest.found
    if found is None or found[0] is not settings or found[1] is not catalog or found[2] != catalog.edition:
        found = _Latest.found = settings, catalog, catalog.edition, _list_tier_mappings(settings, catalog)
    return found[3]


def _list_tier_mappings(settings: EngineOptions, catalog: Catalog) -> list[TierMapping]:
    own = find_own_servers(settings, catalog)
    preferred_provider = own.preferred
    claude = next(row.known_models for row in find_registry(settings) if row.serves_claude)
    rows = []
    for tier in TIERS:
        choices = choose_models_for_tier(tier, f"claude-{tier}-…", preferred_provider, settings, catalog)
        first, *others = choices
        problems = (find_choice_problem(choice, settings, catalog, own) for choice in choices)
        reason = str(first.model_setting or "as asked")
        replies = [(first.prefixed_id, reason)]
        found = forecast_route(settings.routes, tier, [name for name in claude if find_tier(name) == tier])
        if found.route is not None:
            routed = join_routed_models(found.route, f"claude-{tier}-…", preferred_provider, settings, catalog)
            label = f"route {found.route.name}: {describe_conditions(found.route)}"
            is_other = found.is_conditional and routed != first.prefixed_id
            replies = [(routed, label), *(replies if is_other else ())]
        rows.append(
            TierMapping(
                tier=tier,
                target=first.prefixed_id,
                reason=reason,
                setting=first.model_setting,
                fallbacks=tuple(choice.prefixed_id for choice in others),
                choices=tuple(choices),
                problems=tuple(filter(None, problems)),
                replies=replies,
            )
        )
    return rows


def join_routed_models(
    route: ConfiguredRoute, requested: str, preferred: Provider, settings: EngineOptions, catalog: Catalog
) -> str:
    """Return the model to which a route sends requests first, or all that can be first: `openai/a or groq/b`."""
    choices = choose_models_for_route(route, requested, preferred, settings, catalog)
    return join_with_or([choice.prefixed_id for choice in (choices[:1] if route.balance == "order" else choices)])


def list_models(settings: EngineOptions, catalog: Catalog, today: date | None = None) -> list[ModelEntry]:
    """Return all entries of the list."""
    listed = open_model_list(settings, catalog, today)
    return listed.describe_all(listed.ids)


def find_model(requested: str, settings: EngineOptions, catalog: Catalog, today: date | None = None) -> ModelEntry:
    """Return one entry, also for an unlisted id. Raises `UnknownModel`, and the errors of `build_plan`."""
    today = today or date.today()
    if (entry := open_model_list(settings, catalog, today).describe(requested)) is not None:
        return entry
    preferred = find_preferred_provider(settings, catalog)
    choice = choose_models(requested, preferred, settings, catalog)[0]
    if choice.note and find_tier(requested) is None:
        raise UnknownModel(
            f"model: {requested!r} is not available. GET /v1/models lists the available models.",
            code="model-not-available",
        )
    name, tier = resolve_model_name_and_tier(requested, preferred, settings)
    # the entry of a model by its own name has the limits of that model
    forecast = forecast_route(settings.routes, tier, [name]) if tier else RouteForecast()
    target = build_plan(RoutingQuery(requested, route=forecast.route), settings, catalog).targets[0]
    names = (requested, requested, None if target.model == requested else target.prefixed_id)
    if choice.model_setting is not None and not choice.model_setting.source:
        today = None  # a successor replaces a retired default model
    return _describe_row(_Listed(names, target.provider, target.model, forecast, today), settings, catalog)


def _list_tiers(settings: EngineOptions, catalog: Catalog, today: date) -> Iterator[_Listed]:
    preferred = find_preferred_provider(settings, catalog)
    mapped = {row.tier: row for row in list_tier_mappings(settings, catalog)}
    registry = find_registry(settings)
    for name in next(row.known_models for row in registry if row.serves_claude):
        row = mapped[find_tier(name) or TIERS[0]]
        forecast = forecast_route(settings.routes, row.tier, [name])
        routed = forecast.route
        target = row.target
        if routed is not None:
            target = choose_models_for_route(routed, name, preferred, settings, catalog)[0].prefixed_id
        prefix, _, model = target.partition("/")
        provider = next(provider for provider in registry if provider.prefix == prefix)
        unchanged = provider.serves_claude and (model == name if routed else preferred.serves_claude)
        model = name if unchanged else model
        company, family, *version = name.split("-")
        names = (name, f"{company.title()} {family.title()} {'.'.join(version)}", None if unchanged else target)
        # a retired default model is replaced by its successor
        has_successor = routed is None and row.setting is not None and not row.setting.source
        day = None if has_successor else today
        yield _Listed(names, provider, model, forecast, day)


def _list_others(settings: EngineOptions, catalog: Catalog, today: date) -> Iterator[_Listed]:
    forecast = RouteForecast()
    for row in find_registry(settings):
        listable = settings.serve_demo if row.transport == "demo" else row.offered_to_users
        if not listable or row.serves_claude or find_missing_key(row, settings):
            continue
        extra = settings.extra_models.get(row.name, ())
        for model in (*_list_ids(row, settings, catalog), *extra):
            if model not in row.non_chat_models:
                name = f"{row.prefix}/{model}"
                names = (f"claude-{name}", name, None)
                yield _Listed(names, row, model, forecast, today)


def _list_ids(row: Provider, settings: EngineOptions, catalog: Catalog) -> Sequence[str]:
    if row.uses_installed_models:
        return catalog.cached_model_ids(row.name) or ()
    if has_own_models(row, settings):
        return row.known_models
    if reported := catalog.list_reported_models(find_server_name(row, settings)):
        return reported
    mapped = (choice for tier in list_tier_mappings(settings, catalog) for choice in tier.choices)
    routed = (choice for _, choice in list_route_choices(settings, catalog))
    return [choice.model for choice in (*mapped, *routed) if choice.provider is row]


def _describe_row(row: _Listed, settings: EngineOptions, catalog: Catalog) -> ModelEntry:
    name, title, target = row.names
    provider, model, forecast = row.provider, row.model, row.forecast
    capabilities = find_capabilities(provider, model, settings, catalog)
    otherwise, rule, route = None, "", forecast.route
    if route is not None:
        preferred = find_preferred_provider(settings, catalog)
        target = join_routed_models(route, name, preferred, settings, catalog)
        rule = f" by route {route.name}"
        if forecast.is_conditional:
            mapped = choose_models(name, preferred, settings, catalog)[0].prefixed_id
            otherwise = mapped if mapped != target else None
    server_tools = find_server_tools(provider, model, settings)
    max_input, is_assumed = _find_max_input(name, capabilities, forecast, settings, catalog)
    described = None
    if not provider.serves_claude:
        described = _describe(capabilities, server_tools, settings, is_relayed(provider, model, settings))
    entry = ModelEntry(
        id=name,
        display_name=title if target is None else f"{title} → {target}{rule}",
        target=target,
        route=None if route is None else route.name,
        otherwise=otherwise,
        other_routes=[other.name for other in forecast.others],
        max_input_tokens=max_input,
        max_input_tokens_assumed=is_assumed and not provider.serves_claude,
        max_tokens=capabilities.effective_max_output or capabilities.max_output,
        capabilities=described,
    )
    if row.today is not None and (retirement := find_retirement(provider, model)) is not None:
        entry.lifecycle = "retired" if retirement.applies_on(row.today) else "deprecated"
        entry.deprecated_at = f"{retirement.announced_on}T00:00:00Z" if retirement.announced_on else None
        entry.retires_at = f"{retirement.retired_on}T00:00:00Z"
    return entry


def find_served_input(
    requested: str, capabilities: ModelCapabilities, settings: EngineOptions, catalog: Catalog
) -> int:
    """Return the largest input of a conversation that requests `requested`, if a model with `capabilities` replies."""
    tier = find_tier(requested)
    forecast = forecast_route(settings.routes, tier, [requested]) if tier else RouteForecast()
    return _find_max_input(requested, capabilities, forecast, settings, catalog)[0]


def _find_max_input(
    requested: str, capabilities: ModelCapabilities, forecast: RouteForecast, settings: EngineOptions, catalog: Catalog
) -> tuple[int, bool]:
    """Return the largest input in tokens, and whether it is assumed."""
    own, routes = capabilities.effective_max_input, forecast.long_input_routes
    is_assumed = not capabilities.known and capabilities.context_window_from_error is None
    if not routes or can_exceed(min(routes.values()), own):
        return own, is_assumed
    preferred = find_preferred_provider(settings, catalog)
    choices = [choose_models_for_route(route, requested, preferred, settings, catalog)[0] for route in routes]
    others = [find_capabilities(one.provider, one.model, settings, catalog) for one in choices]
    smallest = min(others, key=lambda one: one.effective_max_input)
    if smallest.effective_max_input > own:
        return smallest.effective_max_input, not smallest.known
    return own, is_assumed


def _describe(
    capabilities: ModelCapabilities, server_tools: frozenset[str], settings: EngineOptions, relayed: bool
) -> dict[str, Any]:
    """`relayed`: another server with the Messages API. The proxy cites nothing for it."""
    from anthropic_proxy.engine.messages.models.context_edits import EDITS  # noqa: PLC0415  # for lists only

    has_search = settings.search_url is not None or settings.search is not None
    tools = {
        kind: kind in server_tools or (has_search and row.service == "search")
        for kind, row in sorted(SERVER_TOOLS.items())
        if row.is_capability
    }
    levels = {level: _support(level in capabilities.efforts) for level in ("low", "medium", "high", "xhigh", "max")}
    edits = {kind: _support(True) for kind in sorted(EDITS)}
    thinking_types = ("adaptive", "between_tools", "disabled", "enabled")
    return {
        "batch": _support(False),
        "citations": _support(not relayed),
        "code_execution": _support(False),
        "compaction": {**_support(True), "summarize": _support(True)},
        "context_management": {**_support(True), **edits},
        "effort": {**_support(bool(capabilities.efforts)), **levels},
        "image_input": _support(capabilities.accepts_images),
        "pdf_input": _support(capabilities.accepts_pdf),
        "server_tools": {
            **_support(any(tools.values())),
            **{kind: _support(is_supported) for kind, is_supported in tools.items()},
        },
        "structured_outputs": _support(True),
        "thinking": {
            **_support(bool(capabilities.efforts)),
            "types": {name: _support(True) for name in thinking_types},
        },
    }


def _support(supported: bool) -> dict[str, Any]:
    return {"supported": supported}
