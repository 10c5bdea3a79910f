"""Which providers and models serve a client request: `build_plan` returns its `Plan`.

The way from the requested model id to a plan, in the order of this module:

- The *preferred provider* serves Claude models, and ids without a prefix that no provider lists.
- `choose_models` finds the models for an id, each as a `ModelChoice`: a provider, a model, and the reason for the log.
  An id may name a *Claude tier*, a family such as opus, which the settings map to a model and its fallbacks. A route of
  the configuration file names the models itself.
- A choice becomes a `Target`: the *wire* (API) with the dialect of the provider for the model, the base URL, and the
  limits of the model. A base URL setting may select the server of another vendor (`ServerOverride`) with a dialect,
  limits and retirements of its own. `build_target_limits` has what model, API and proxy can do: the limits to which
  requests for the target are adapted.
- Texts about the mapping and its problems, for the start-up summary and the errors, come last.

A choice that cannot become a target is left out with a note, unless no other is left. `PlanCache` computes each plan
once for the settings and the catalog.
"""

import json
from collections.abc import Callable, Sequence
from datetime import date
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from msgspec import Struct, structs

from anthropic_proxy.engine.messages.fidelity import Fidelity
from anthropic_proxy.engine.messages.preparation import STATED_WINDOW_MARGIN, ServerToolKind, TargetLimits
from anthropic_proxy.engine.options import (
    BALANCE_TEXTS,
    DEFAULT_TARGET,
    LONG_CONTEXT_SUFFIX,
    TARGETS_SETTING,
    TIERS,
    ConfiguredRoute,
    EngineOptions,
    format_origin_in_sentence,
)
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.providers import AnyWireConfig, Provider, ProviderRegistry, ServerOverride, find_registry
from anthropic_proxy.engine.providers.catalog import Catalog, ModelCapabilities, may_chat
from anthropic_proxy.engine.providers.registry import RetiredModel
from anthropic_proxy.engine.providers.servers import (
    build_server_name,
    describe_missing_key,
    find_base_url,
    find_host,
    find_server_name,
    find_server_override,
    has_own_list,
    has_own_models,
)
from anthropic_proxy.engine.wires.contract import BaseDialect, RelayWire, Wire
from anthropic_proxy.errors import (
    ClientError,
    InvalidRequest,
    UnknownModel,
    UnsupportedFeature,
    find_similar_choice,
    find_similar_choices,
    join_with_and,
    join_with_or,
)


class RoutingQuery(Struct, frozen=True):
    """The properties of a client request from which its plan is computed."""

    model: str
    server_tools: frozenset[str] = frozenset()
    """Kinds of the server tools in the client request, without version (`web_search`). Empty: none."""
    route: ConfiguredRoute | None = None
    """Table `[[routes]]` that matches the request. None: no route matches."""


class ModelSetting(Struct, frozen=True):
    """Setting that names a model. As text: `BIG_MODEL, .env line 4`, `BIG_MODEL, default`."""

    name: str
    source: str = ""
    """"": the setting is not set, and the model is its default."""
    value: str = ""
    """The model as the setting names it, such as `google/gemini-2.5-pro`. "": the setting is not set."""

    @property
    def is_list(self) -> bool:
        return self.name.startswith(("FALLBACK_", TARGETS_SETTING))

    def __str__(self) -> str:
        return f"{self.name}, {self.source or 'default'}"


class Target(Struct, frozen=True, kw_only=True, eq=False):
    """One provider, model, wire and base URL for upstream calls."""

    provider: Provider
    model: str
    """Model id at the provider, without its prefix."""
    wire: Wire[BaseDialect, Any]
    dialect: BaseDialect
    """Deviations of the provider and model from the API of `wire`, with all model rules and settings applied."""
    capabilities: ModelCapabilities
    base_url: str
    """URL without a trailing slash. Contains `UNKNOWN_PROJECT` if no setting names the Google Cloud project."""
    model_setting: ModelSetting | None = None
    """None: the client named the model."""
    is_guess: bool = False
    """True if neither a prefix nor a model list chose the provider."""
    weight: float = 1.0
    """Relative share of requests for this target, in a route with `balance = "weighted"`."""
    upstream: str = ""
    """Provider and host, such as `openai api.openai.com`. Failures are counted for each such text. Computed."""

    def __post_init__(self) -> None:
        structs.force_setattr(self, "upstream", build_server_name(self.provider, self.base_url))

    @property
    def is_relayed(self) -> bool:
        """True if request and reply are forwarded without translation to another API. Only few fields are changed."""
        return isinstance(self.wire, RelayWire)

    @property
    def prefixed_id(self) -> str:
        return f"{self.provider.prefix}/{self.model}"


_PROXY_TOOLS: tuple[ServerToolKind, ...] = ("web_search", "tool_search")
_PROXY_TOOLS_WITH_FETCH: tuple[ServerToolKind, ...] = (*_PROXY_TOOLS, "web_fetch")
"""Kinds of server tools that the proxy itself can run for a provider without them, if `FETCH_URLS` is set. Without
`SEARCH_URL`, a web search returns an error block."""


@lru_cache(maxsize=256)
def build_target_limits(
    target: Target,
    rejects_overflow: bool = False,  # also by position: lru_cache is slower with keywords
    has_web_search: bool = True,
    has_web_fetch: bool = False,
) -> TargetLimits:
    """Return the limits to which client requests for `target` are adapted.

    `has_web_search` and `has_web_fetch` are True if the proxy itself can run these tools.
    """
    facts = target.capabilities
    dialect = target.dialect
    stated = facts.context_window_from_error
    known_output = facts.max_output if facts.known else None
    outputs = [limit for limit in (known_output, facts.max_output_from_error) if limit is not None]
    return TargetLimits(
        context_window=stated or (facts.context_window if facts.known else None),
        max_input=facts.max_input if facts.known and stated is None else None,
        max_output=min(outputs, default=None),
        min_output=dialect.min_output,
        thinking_budgets=dialect.thinking_budgets,
        reject_overflow=rejects_overflow and stated is None,
        margin=STATED_WINDOW_MARGIN if stated is not None else 0.0,
        efforts=facts.efforts,
        accepts_thinking_budget=dialect.accepts_thinking_budget,
        default_effort=facts.default_effort,
        always_reasons=dialect.always_reasons or facts.reasons == "always",
        reasons_unasked=facts.reasons != "",
        accepts_images=(facts.accepts_images or not facts.known) and not facts.rejects_images,
        accepts_pdf=facts.accepts_pdf and not facts.rejects_documents,
        accepts_tools=facts.tools,
        server_tools=dialect.server_tools,
        server_tools_exclusive=dialect.server_tools_exclusive,
        proxy_tool_kinds=_PROXY_TOOLS_WITH_FETCH if has_web_fetch else _PROXY_TOOLS,
        can_search=has_web_search,
        provider=target.provider.prefix,
        loaded_tools=dialect.loaded_tool_form,
        tool_name_pattern=dialect.tool_name_pattern,
        max_tool_name_length=dialect.max_tool_name_length,
    )


class Plan(Struct, frozen=True):
    """The targets of a client request, with the reason for the log."""

    targets: Sequence[Target]
    """In the order of the attempts: first choice, then fallbacks. Never empty."""
    reason: str
    """Text with the rule and setting that selected the first target, for the log."""
    notes: Sequence[str] = ()
    """Notices that are logged once: unexpected choices, and fallbacks that cannot serve requests."""
    fidelity: Fidelity = "best-effort"
    """`strict`: reject the request if a target can serve it only with losses. `best-effort`: serve it."""
    is_relayed: bool = False
    """True if `Target.is_relayed` is True for every target."""
    route: ConfiguredRoute | None = None
    """Table `[[routes]]` that chose the targets. None: the model mapping of the settings."""


def build_plan(query: RoutingQuery, settings: EngineOptions, catalog: Catalog) -> Plan:
    """Return the plan of a client request. Raises `ClientError` with a remedy if no target can serve it."""
    preferred_provider = find_preferred_provider(settings, catalog)
    route = query.route
    if route is None:
        choices = choose_models(query.model, preferred_provider, settings, catalog)
        tier = choices[0].tier
    else:
        choices = choose_models_for_route(route, query.model, preferred_provider, settings, catalog)
        _, tier = resolve_model_name_and_tier(query.model, preferred_provider, settings)
    targets: list[Target] = []
    notes: list[str] = [choice.note for choice in choices if choice.note]
    rejection: ClientError | None = None
    for choice in choices:
        try:
            target = _build_target(choice, settings, catalog)
            targets.append(
                _prefer_wire_with_tools(target, query.server_tools, settings) if query.server_tools else target
            )
        except ClientError as error:
            rejection = rejection or error
            notes.append(error.message)
    if not targets and rejection is not None:
        raise rejection
    fidelity = settings.tier_fidelities.get(tier, settings.fidelity)
    return Plan(targets, choices[0].reason, notes, fidelity, all(target.is_relayed for target in targets), route)


_MAX_ENTRIES = 1_024
"""Maximum number of cached plans. Further plans are computed for each request."""


class PlanCache:
    """Plans of recent queries, for one edition of settings and catalog."""

    def __init__(self) -> None:
        self._cached: tuple[EngineOptions, Catalog, int, dict[RoutingQuery, Plan]] | None = None
        """Options, catalog and its edition, with the plans for them. A change replaces the tuple: a thread that still
        computes a plan for the earlier contents adds it to the earlier dict."""
        self.some_relayed = False
        """True if any plan returned by this cache is relayed."""

    def find_plan(self, query: RoutingQuery, settings: EngineOptions, catalog: Catalog) -> Plan:
        cached = self._cached
        if cached is None or cached[0] is not settings or cached[1] is not catalog or cached[2] != catalog.edition:
            cached = self._cached = settings, catalog, catalog.edition, {}
        plans = cached[3]
        plan = plans.get(query)
        if plan is None:
            plan = build_plan(query, settings, catalog)
            self.some_relayed = self.some_relayed or plan.is_relayed
            if len(plans) < _MAX_ENTRIES:
                plans[query] = plan
        return plan


class FixedPlanCache(PlanCache):
    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._plan = plan

    def find_plan(self, query: RoutingQuery, settings: EngineOptions, catalog: Catalog) -> Plan:
        return self._plan


def choose_preferred_provider_name(settings: EngineOptions, ollama_models: Sequence[str] | None) -> str:
    if settings.preferred_provider is not None:
        return settings.preferred_provider
    registry = find_registry(settings)
    # Anthropic is last, because users of Claude Code often have its key in the environment
    for row in sorted(registry, key=lambda row: row.serves_claude):
        if row.offered_to_users and _is_preferable(row, settings):
            return row.name
    if ollama_models is not None:
        return registry.local.name
    return next((row.name for row in registry if row.is_configured), registry.demo.name)


def _is_preferable(provider: Provider, settings: EngineOptions) -> bool:
    if provider.is_configured:
        has_model = provider.has_default_models or settings.big_model is not None
        return has_model and not describe_missing_key(provider, settings)
    if provider.key_source == "google":
        return bool(settings.keys.get(provider.name) or settings.vertex_project)
    return provider.key_required != "never" and bool(settings.keys.get(provider.name))


def find_preferred_provider(settings: EngineOptions, catalog: Catalog) -> Provider:
    registry = find_registry(settings)
    return registry.find(choose_preferred_provider_name(settings, catalog.cached_model_ids(registry.local.name)))


def should_query_ollama(settings: EngineOptions) -> bool:
    """Return True if the proxy must query Ollama at its start: Ollama is, or may become, the preferred provider."""
    return choose_preferred_provider_name(settings, ()) == find_registry(settings).local.name


_OTHER_TIERS = {"mythos": "fable"}
"""Claude family that has no settings of its own → tier with the settings that apply to the family."""
_TIER = compile_later(rf"(?<![a-z])({'|'.join((*TIERS, *_OTHER_TIERS))})(?![a-z])")
_ALIAS = "claude-"
MAX_NAME_LENGTH = 512


class ModelChoice(Struct, frozen=True, kw_only=True):
    """A provider and model that was chosen for a requested model id, with the reason for the log."""

    provider: Provider
    model: str
    reason: str
    model_setting: ModelSetting | None = None
    """Setting that names the model or can replace the default. None: the client named the model."""
    tier: str = ""
    """Claude tier (haiku, sonnet, …) in the requested id. "": the id names no tier."""
    weight: float = 1.0
    """Relative share of requests for this model, in a route with `balance = "weighted"`."""
    note: str = ""
    """Notice about a possibly unexpected choice. It is logged once. "": none."""

    @property
    def prefixed_id(self) -> str:
        return f"{self.provider.prefix}/{self.model}"


def choose_models(requested: str, preferred: Provider, settings: EngineOptions, catalog: Catalog) -> list[ModelChoice]:
    """Return the models that may serve the model id `requested`: the first choice, then its fallbacks.

    1. `claude-<prefix>/<name>`, as listed by `/v1/models`, stands for `<prefix>/<name>`. A suffix `[1m]` is ignored.
    2. A provider prefix decides, unless the model list of the preferred provider contains the complete id. In
       `<prefix>,<name>`, the form of claude-code-router, it always decides, and must be that of a provider.
    3. An id with a Claude tier is replaced with the model that the settings give to the tier. Without such a setting,
       the preferred provider gets its default model, or the unchanged id if this provider serves Claude models.
    4. A setting such as BIG_MODEL may name a model that no provider lists. The request is then sent to the
       `unknown_model_provider` of the preferred provider, if the proxy has a key for it.
    5. Any other name without a prefix goes to the provider that lists it, else to the preferred provider.

    Raises `InvalidRequest` for an invalid id.
    """
    registry = find_registry(settings)
    name, has_comma = _normalize_name(requested, registry)
    row, model_name = _split_prefix(name, registry)
    if has_comma and row is None:
        prefix, _, model_name = name.partition("/")
        raise InvalidRequest(
            f'model: "{requested}" names the provider "{prefix}", but there is none. '
            f"{_suggest_prefixes(prefix, model_name, registry)}",
            code="model-name",
        )
    if row is not None and not has_comma:
        if name in _list_of(preferred, settings):
            reason = f"{name} is in the model list of {preferred.name}"
            return [ModelChoice(provider=preferred, model=name, reason=reason)]
        if row.serves_claude and _require_one_tier(requested, model_name):
            row = None
            name = model_name
    if row is not None:
        if not model_name:
            raise InvalidRequest(
                f'model: "{requested}" names a provider but no model. An example: openai/gpt-4.1', code="model-name"
            )
        return [_through_vertex(row, model_name, f"the request names its provider: {row.prefix}", settings)]
    if tier := _require_one_tier(requested, name):
        return choose_models_for_tier(tier, name, preferred, settings, catalog)
    return [choose_model(name, preferred, settings, catalog, allow_other_provider=False)]


def choose_models_for_route(
    route: ConfiguredRoute, requested: str, preferred: Provider, settings: EngineOptions, catalog: Catalog
) -> list[ModelChoice]:
    choices: dict[str, ModelChoice] = {}
    for target in route.targets:
        if target == DEFAULT_TARGET:
            found = choose_models(requested, preferred, settings, catalog)
        elif target in TIERS:
            found = choose_models_for_tier(target, requested, preferred, settings, catalog)
        else:
            choice = choose_model(target, preferred, settings, catalog, allow_other_provider=True)
            setting = structs.replace(_find_targets_setting(route, settings), value=target)
            choice = structs.replace(choice, model_setting=setting)
            found = [structs.replace(choice, weight=route.find_weight(target))]
        for choice in found:
            cause = f"and {choice.reason}" if route.balance == "order" else BALANCE_TEXTS[route.balance]
            choices.setdefault(choice.prefixed_id, structs.replace(choice, reason=f"{route.label}, {cause}"))
    return list(choices.values())


def _find_targets_setting(route: ConfiguredRoute, settings: EngineOptions) -> ModelSetting:
    return ModelSetting(route.targets_setting, settings.origins.get(route.targets_setting, route.origin))


def choose_models_for_tier(
    tier: str, requested: str, preferred: Provider, settings: EngineOptions, catalog: Catalog
) -> list[ModelChoice]:
    if tier in settings.tier_models:
        variable = f"MODEL_{tier.upper()}"
        value = settings.tier_models[tier]
    elif preferred.serves_claude:
        variable, value = "", None
    elif tier == "haiku":
        variable = "SMALL_MODEL"
        value = settings.small_model
    elif tier == "sonnet" and settings.middle_model is not None:
        variable = "MIDDLE_MODEL"
        value = settings.middle_model
    else:
        variable = "BIG_MODEL"
        value = settings.big_model
    if value is not None:
        origin = settings.origins.get(variable, "set")
        choice = choose_model(value, preferred, settings, catalog, allow_other_provider=True)
        reason = f"{tier} is {variable} ({origin}), and {choice.reason}"
        first = structs.replace(choice, reason=reason, model_setting=ModelSetting(variable, origin, value), tier=tier)
    elif preferred.serves_claude:
        reason = f"{preferred.name} is preferred and serves Claude models itself"
        first = ModelChoice(provider=preferred, model=_without_suffix(requested), reason=reason, tier=tier)
    else:
        model = (preferred.default_small_model if tier == "haiku" else preferred.default_big_model) or ""
        if preferred.uses_installed_models:
            model = catalog.choose_installed_model(preferred.name, model, prefers_small=tier == "haiku")
        reason = f"{tier} is {variable} (default of {preferred.name})"
        choice = _through_vertex(preferred, model, reason, settings)
        first = structs.replace(choice, model_setting=ModelSetting(variable), tier=tier)
    choices = {first.prefixed_id: first}
    variable = f"FALLBACK_{tier.upper()}"
    origin = settings.origins.get(variable, "set")
    for value in settings.fallbacks.get(tier, ()):
        choice = choose_model(value, preferred, settings, catalog, allow_other_provider=True)
        setting = ModelSetting(variable, origin, value)
        reason = f"{variable} lists it next, and {choice.reason}"
        choices.setdefault(choice.prefixed_id, structs.replace(choice, reason=reason, model_setting=setting))
    return list(choices.values())


def choose_model(
    name: str, preferred: Provider, settings: EngineOptions, catalog: Catalog, *, allow_other_provider: bool
) -> ModelChoice:
    """Return the choice for a model name of a request or a setting that no tier replaces, with or without a prefix.

    `allow_other_provider`: a name that no provider lists may go to the `unknown_model_provider` of the preferred
    provider.
    """
    name = _without_suffix(name)
    if name in _list_of(preferred, settings):
        return _through_vertex(
            preferred, name, f"a name without a prefix gets that of its list: {preferred.prefix}", settings
        )
    registry = find_registry(settings)
    row, model_name = _split_prefix(name, registry)
    if row is not None:
        return _through_vertex(row, model_name, f"its prefix names the provider: {row.prefix}", settings)
    row = next((row for row in registry if name in _list_of(row, settings)), None)
    if row is not None:
        if row.vertex_provider == preferred.name:
            row = preferred
        return _through_vertex(row, name, f"a name without a prefix gets that of its list: {row.prefix}", settings)
    if any(fnmatchcase(name, pattern) for pattern in preferred.model_id_patterns) or _is_listed(
        name, catalog.cached_model_ids(preferred.name)
    ):
        return _through_vertex(preferred, name, f"it is one of {preferred.name}'s own", settings)
    other = preferred.unknown_model_provider
    if allow_other_provider and settings.keys.get(other):
        reason = f"neither {preferred.name} nor a model list has it, so it is sent to {other}, whose key is set"
        return ModelChoice(provider=registry.find(other), model=name, reason=reason, note=f"{name}: {reason}")
    reason = f"an unlisted name is sent to the preferred provider: {preferred.prefix}"
    return _through_vertex(preferred, name, reason, settings, note=f"{name}: {reason}")


def _through_vertex(row: Provider, model: str, reason: str, settings: EngineOptions, *, note: str = "") -> ModelChoice:
    if row.vertex_provider and settings.use_vertex_auth:
        row = find_registry(settings).find(row.vertex_provider)
        reason = f"{reason}; USE_VERTEX_AUTH sends Google's models to {row.prefix}"
    return ModelChoice(provider=row, model=model, reason=reason, note=note)


def _list_of(row: Provider, settings: EngineOptions) -> Sequence[str]:
    extra = settings.extra_models.get(row.name)
    return (*row.known_models, *extra) if extra else row.known_models


def _is_listed(name: str, listing: Sequence[str] | None) -> bool:
    return listing is not None and (name in listing or f"{name}:latest" in listing)


def resolve_model_name_and_tier(requested: str, preferred: Provider, settings: EngineOptions) -> tuple[str, str]:
    """Return the requested id without alias and suffix `[1m]`, and its tier ("": none). Raises `InvalidRequest`."""
    registry = find_registry(settings)
    name, has_comma = _normalize_name(requested, registry)
    row, model_name = _split_prefix(name, registry)
    if not has_comma and (row is None or (row.serves_claude and name not in _list_of(preferred, settings))):
        return name, _require_one_tier(requested, name if row is None else model_name) or ""
    return name, ""


def find_tier(name: str) -> str | None:
    """Return the Claude tier in a model id: `opus` for `claude-opus-5`. None: it names no tier, or several."""
    tiers = _find_tiers(name)
    return tiers.pop() if len(tiers) == 1 else None


def _find_tiers(name: str) -> set[str]:
    return {_OTHER_TIERS.get(found, found) for found in _TIER.findall(name.lower())}


def _require_one_tier(requested: str, name: str) -> str | None:
    """Return the tier in `name`, if it has one. Raises `InvalidRequest` if it has several.

    A list of allowed models such as `claude-*haiku*` is compared with the name, so a name may have only one meaning.
    """
    tiers = _find_tiers(name)
    if len(tiers) > 1:
        raise InvalidRequest(
            f'model: "{requested}" names {join_with_and(sorted(tiers))}. Name one of {", ".join(TIERS)}, for example '
            "claude-haiku-4-5.",
            code="model-name",
        )
    return find_tier(name)


def _without_suffix(name: str) -> str:
    """Return a model name without the suffix `[1m]`, with which clients name a long context."""
    is_suffixed = name[-len(LONG_CONTEXT_SUFFIX) :].lower() == LONG_CONTEXT_SUFFIX
    return name[: -len(LONG_CONTEXT_SUFFIX)] if is_suffixed else name


def _normalize_name(requested: str, registry: ProviderRegistry) -> tuple[str, bool]:
    """Return the id without alias and suffix `[1m]`. True: it was `prefix,model`, and now is `prefix/model`."""
    name = _without_suffix(requested.strip())
    if not name:
        raise InvalidRequest(
            "model: an empty name is not allowed. Examples: claude-sonnet-5-5, openai/gpt-4.1", code="model-name"
        )
    if len(name) > MAX_NAME_LENGTH:  # names are cached and shown in errors
        raise InvalidRequest(
            f"model: a name of {len(name)} characters is too long; the maximum is {MAX_NAME_LENGTH}.",
            code="model-name",
        )
    if name[: len(_ALIAS)].lower() == _ALIAS:
        row, _ = _split_prefix(name[len(_ALIAS) :], registry)
        if row is not None:
            return name[len(_ALIAS) :], False
    prefix, comma, model_name = name.partition(",")
    if comma and "/" not in prefix:
        return f"{prefix.strip()}/{model_name.strip()}", True
    return name, False


def _split_prefix(name: str, registry: ProviderRegistry) -> tuple[Provider | None, str]:
    prefix, slash, model_name = name.partition("/")
    if not slash:
        return None, name
    row = registry.find_by_prefix(prefix.lower())
    patterns = row.prefix_patterns if row is not None else ()
    if row is None or (patterns and not any(fnmatchcase(model_name.lower(), pattern) for pattern in patterns)):
        other = registry.find_by_extra_prefix(prefix.lower())
        if other is not None:
            return other, f"{prefix.lower()}/{model_name}" if model_name else ""
    return row, name if row is None else model_name


def _build_target(choice: ModelChoice, settings: EngineOptions, catalog: Catalog) -> Target:
    row, model = choice.provider, choice.model
    if row.transport == "demo":
        preferred_provider = find_preferred_provider(settings, catalog)
        if not settings.serve_demo and preferred_provider is not row:
            refused = (
                f"{choice.prefixed_id} is not served: the preferred provider is {preferred_provider.name}. "
                "SERVE_DEMO=true serves both."
            )
            if choice.model_setting is not None:
                raise InvalidRequest(f"{choice.model_setting}: {refused}", code="demo-not-served")
            raise UnknownModel(f"model: {refused}", code="demo-not-served")
    if reason := row.non_chat_models.get(model):
        retired = row.retired_models.get(row.default_big_model or "")
        alternative = f"{row.prefix}/{retired.successor if retired else row.default_big_model}"
        raise InvalidRequest(
            f"{choice.prefixed_id} {reason} and does not support chat. One that does is {alternative}. "
            f"Chat models of {row.prefix}:  anthropic-proxy models {row.prefix}",
            code="no-chat-model",
        )
    if not model:
        example = f"{row.prefix}/<model>" if row.is_configured else "mistral/mistral-large-latest"
        raise InvalidRequest(
            f"{row.name} has no default models. Set BIG_MODEL and SMALL_MODEL, for example to {example}",
            code="no-default-models",
        )
    wire_name = _pick_wire(row, model, settings)
    server = find_server_override(row, settings)
    config = _find_wire_config(row, server, wire_name)
    if config.custom_url_only and row.name not in settings.base_urls:
        raise UnsupportedFeature(
            f"{choice.prefixed_id} cannot be reached: {row.title} does not support {wire_name}. "
            f"{row.env_prefix}_WIRE={wire_name} is for your own server: set its address in {row.base_url_variable}",
            code="wire",
        )
    dialect = _merge_dialect(config, model)
    return Target(
        provider=row,
        model=model,
        wire=config.wire,
        dialect=_apply_settings(dialect, config, settings),
        capabilities=find_capabilities(row, model, settings, catalog),
        base_url=find_base_url(row, config, settings, model),
        model_setting=choice.model_setting,
        is_guess=bool(choice.note),
        weight=choice.weight,
    )


def _pick_wire(row: Provider, model: str, settings: EngineOptions) -> str:
    requested = settings.wires.get(row.name)
    if requested is not None:
        return requested
    matching = (wire for pattern, wire in row.wire_rules if fnmatchcase(model.lower(), pattern))
    return next(matching, next(iter(row.wires)))


def _find_wire_config(row: Provider, server: ServerOverride | None, wire_name: str) -> AnyWireConfig:
    config = server.wires.get(wire_name) if server else None
    return config or row.wires[wire_name]


@lru_cache(maxsize=1024)
def _merge_dialect(config: AnyWireConfig, model: str) -> BaseDialect:
    changes: dict[str, object] = {}
    for rule in config.model_rules:
        if rule.matches_model(model):
            changes.update(rule.dialect_fields)
    dialect: BaseDialect = config.dialect
    return structs.replace(dialect, **changes) if changes else dialect


def _apply_settings(dialect: BaseDialect, config: AnyWireConfig, settings: EngineOptions) -> BaseDialect:
    changes = {
        key: value for key, name in config.setting_overrides.items() if (value := getattr(settings, name)) is not None
    }
    return structs.replace(dialect, **changes) if changes else dialect


def switch_wire(target: Target, wire_name: str, settings: EngineOptions) -> Target | None:
    """Return `target` with another wire. None: the provider does not offer it, or a setting fixes the wire."""
    row = target.provider
    server = find_server_override(target.provider, settings)
    if row.name in settings.wires or wire_name not in row.wires:
        return None
    config = _find_wire_config(row, server, wire_name)
    if config.custom_url_only and row.name not in settings.base_urls:
        return None
    dialect = _merge_dialect(config, target.model)
    return structs.replace(
        target,
        wire=config.wire,
        dialect=_apply_settings(dialect, config, settings),
        base_url=find_base_url(row, config, settings, target.model),
    )


def _prefer_wire_with_tools(target: Target, wanted: frozenset[str], settings: EngineOptions) -> Target:
    """Return the target with the wire on which the provider runs most of the `wanted` server tools.

    The server tools of another server, which a base URL setting selects, are unknown. A relay forwards the tools.
    """
    if target.is_relayed or find_server_override(target.provider, settings) is not None:
        return target
    others = (switch_wire(target, name, settings) for name in target.provider.wires)
    candidates = [target, *(other for other in others if other is not None and other.dialect is not target.dialect)]
    return max(candidates, key=lambda candidate: len(wanted.intersection(candidate.dialect.server_tools)))


def find_server_tools(provider: Provider, model: str, settings: EngineOptions) -> frozenset[str]:
    """Return the kinds of the server tools that the provider itself runs for a model, over any of its APIs."""
    server = find_server_override(provider, settings)
    if server is not None or provider.name in settings.wires:
        configs = [_find_wire_config(provider, server, _pick_wire(provider, model, settings))]
    else:
        configs = [config for config in provider.wires.values() if not config.custom_url_only]
    return frozenset(kind for config in configs for kind in _merge_dialect(config, model).server_tools)


def find_capabilities(provider: Provider, model: str, settings: EngineOptions, catalog: Catalog) -> ModelCapabilities:
    server = find_server_override(provider, settings)
    learned = None
    if catalog.has_observed_models and not provider.uses_installed_models:  # Ollama reports its capabilities itself
        learned = catalog.find_observed_model(find_server_name(provider, settings), model)
    if server is None:
        table = provider.wires[_pick_wire(provider, model, settings)].models_table or provider.models_table
        capabilities = catalog.cached_capabilities(provider.name, model, table)
        if not capabilities.known and provider.unknown_model_capabilities:
            capabilities = structs.replace(capabilities, **provider.unknown_model_capabilities)
        return apply_capability_rules(provider, model, learned.apply(capabilities) if learned else capabilities)
    capabilities = catalog.cached_capabilities(server.models_table or provider.name, model)
    if not capabilities.known and server.capabilities:
        capabilities = structs.replace(capabilities, **server.capabilities)
    if server.accepts_pdf:
        capabilities = structs.replace(capabilities, accepts_pdf=True)
    return learned.apply(capabilities) if learned else capabilities


def apply_capability_rules(provider: Provider, model: str, capabilities: ModelCapabilities) -> ModelCapabilities:
    if not (changes := provider.find_stated_capabilities(model)):
        return capabilities
    found = structs.replace(capabilities, **changes)
    is_above = found.max_input is not None and found.max_input > found.context_window  # a table states the window only
    return structs.replace(found, max_input=None) if is_above else found


def find_retirement(provider: Provider, model: str, settings: EngineOptions) -> RetiredModel | None:
    server = find_server_override(provider, settings)
    table = server.retired_models if server is not None and server.wires else provider.retired_models
    found = table.get(model)
    while found is not None and (later := table.get(found.successor)) is not None:  # the successor is retired too
        found = structs.replace(found, successor=later.successor)
    return found


def find_successor_id(model: ModelChoice | Target, settings: EngineOptions, today: date) -> str:
    """Return the successor of a model that was retired on `today` or earlier, with prefix. "": the model is in use."""
    retirement = find_retirement(model.provider, model.model, settings)
    if retirement is None or not retirement.applies_on(today):
        return ""
    return f"{model.provider.prefix}/{retirement.successor}"


def list_served_models(model: ModelChoice | Target, settings: EngineOptions, listed: Sequence[str]) -> list[str]:
    """Return the models that may replace one which its provider does not serve, without prefix, the best first.

    `listed`: the models in the list of the server, which has all of the result. Empty: the list is unknown, and the
    successor and similar ones of the vendor's known models are returned. None of them is to be retired.
    """
    provider = model.provider
    known = listed or (provider.known_models if has_own_models(provider, settings) else ())
    usable = [
        name
        for name in known
        if name != model.model and may_chat(name) and find_retirement(provider, name, settings) is None
    ]
    successor = find_successor_id(model, settings, date.max).removeprefix(f"{provider.prefix}/")
    found = [successor] if successor and (successor in usable or not listed) else []
    found += find_similar_choices(model.model, usable, _SIMILAR_MODELS)
    if listed:
        found += [provider.default_big_model] if provider.default_big_model in usable else []
        found += usable
    return list(dict.fromkeys(found))


def find_served_successor(model: ModelChoice, settings: EngineOptions, catalog: Catalog, today: date) -> str:
    """Return what `find_successor_id` returns; if the server lists other models only, the best one of them."""
    successor = find_successor_id(model, settings, today)
    listed = list_known_ids(model, settings, catalog)
    if not successor or not listed or successor.removeprefix(f"{model.provider.prefix}/") in listed:
        return successor
    served = list_served_models(model, settings, listed)
    return f"{model.provider.prefix}/{served[0]}" if served else successor


def list_known_ids(model: ModelChoice | Target, settings: EngineOptions, catalog: Catalog) -> Sequence[str]:
    """Return the list of the server of a model, as far as it was read. Empty: it was not."""
    name = model.upstream if isinstance(model, Target) else find_server_name(model.provider, settings)
    return catalog.cached_model_ids(model.provider.name) or catalog.list_reported_models(name)


def find_successor(target: Target, settings: EngineOptions, catalog: Catalog, today: date) -> Target | None:
    """Return the target with the successor of a retired default model. None: it is in use, or no default."""
    retirement = find_retirement(target.provider, target.model, settings)
    is_default = target.model_setting is not None and not target.model_setting.source
    if not is_default or retirement is None or not retirement.applies_on(today):
        return None
    choice = ModelChoice(
        provider=target.provider,
        model=retirement.successor,
        reason="",
        model_setting=target.model_setting,
        weight=target.weight,
    )
    return _build_target(choice, settings, catalog)


class ModelReplacement(Struct, frozen=True, kw_only=True):
    """A setting that names models to replace, with the line that names others in their place."""

    setting: ModelSetting
    replaced: Sequence[ModelChoice]
    line: str
    """`BIG_MODEL=openai/gpt-5.5`; of a route `targets = ["openai/gpt-5.5"]`, and its `weights` if they change too. The
    name alone: the setting is to be removed."""
    tier: str = ""
    """Claude tier whose fallbacks the setting lists. "": it lists none."""
    route: ConfiguredRoute | None = None
    """Route whose targets the setting lists. None: it is a variable."""
    loses_balance: bool = False
    """True if one target is left, so that `balance` and `weights` of the route must be removed."""

    @property
    def is_removal(self) -> bool:
        return "=" not in self.line

    @property
    def condition(self) -> str:
        """What else must change, as the end of a sentence: `, without balance and weights`. "": nothing."""
        return ", without balance and weights" if self.loses_balance else ""

    @property
    def instruction(self) -> str:
        """`set BIG_MODEL=openai/gpt-5.5`, `remove FALLBACK_OPUS`, `set targets = […], without balance and weights`."""
        return f"{'remove' if self.is_removal else 'set'} {self.line}{self.condition}"


def list_model_replacements(
    find_other: Callable[[ModelChoice], str], settings: EngineOptions, catalog: Catalog
) -> list[ModelReplacement]:
    """Return the settings of Claude tiers, of their fallbacks and of routes that name a model to replace.

    `find_other` returns the id of the other model, with prefix. "": the model stays.
    """
    preferred, found = find_preferred_provider(settings, catalog), dict[str, ModelReplacement]()
    for tier in TIERS:
        first, *others = choose_models_for_tier(tier, f"claude-{tier}-…", preferred, settings, catalog)
        other = find_other(first)
        if other and (setting := first.model_setting) is not None:
            line = f"{setting.name}={other}"
            found.setdefault(setting.name, ModelReplacement(setting=setting, replaced=[first], line=line))
        if replaced := [choice for choice in others if find_other(choice)]:
            names = [find_other(choice) or choice.prefixed_id for choice in others]
            models = [name for name in dict.fromkeys(names) if name not in (first.prefixed_id, other)]
            fallbacks = replaced[0].model_setting
            assert fallbacks is not None  # FALLBACK_…, which has all but the first model of a tier
            line = f"{fallbacks.name}={','.join(models)}" if models else fallbacks.name
            found[fallbacks.name] = ModelReplacement(setting=fallbacks, replaced=replaced, line=line, tier=tier)
    for route in settings.routes:
        replaced, names = [], list(route.targets)
        for position, target in enumerate(route.targets):
            if target not in (*TIERS, DEFAULT_TARGET):
                choice = choose_model(target, preferred, settings, catalog, allow_other_provider=True)
                if other := find_other(choice):
                    replaced.append(choice)
                    names[position] = other
        if replaced:
            targets, weights = join_equal_targets(names, route.weights)
            line = f"targets = {_format_toml_list(targets)}"
            if len(targets) > 1 and len(weights) < len(route.weights):
                line += f" and weights = {_format_toml_list(weights)}"
            found[route.targets_setting] = ModelReplacement(
                setting=_find_targets_setting(route, settings),
                replaced=replaced,
                line=line,
                route=route,
                loses_balance=len(targets) == 1 and route.balance != "order",
            )
    return list(found.values())


def join_equal_targets(targets: Sequence[str], weights: Sequence[float]) -> tuple[list[str], list[float]]:
    """Return each target of a route once, and the sums of their weights. No `weights`: all targets have the same."""
    shares: dict[str, float] = {}
    for target, weight in zip(targets, weights or [1] * len(targets), strict=True):
        shares[target] = shares.get(target, 0) + weight
    return list(shares), list(shares.values()) if weights else []


def _format_toml_list(values: Sequence[str | float]) -> str:
    return json.dumps([int(one) if isinstance(one, float) and one.is_integer() else one for one in values])


_ANY_MODEL = "claude-sonnet"
"""Model id that stands for the requested one when a route has the target `default` (the model mapping). Problems of
this model are reported with the model mapping."""


def list_route_choices(settings: EngineOptions, catalog: Catalog) -> list[tuple[ConfiguredRoute, ModelChoice]]:
    """Return the models that routes of the file name by id, each with the first route that names it."""
    found: dict[str, tuple[ConfiguredRoute, ModelChoice]] = {}
    preferred = find_preferred_provider(settings, catalog)
    for route in settings.routes:
        for choice in choose_models_for_route(route, _ANY_MODEL, preferred, settings, catalog):
            if choice.model_setting is not None and choice.model_setting.name == route.targets_setting:
                found.setdefault(choice.prefixed_id, (route, choice))
    return list(found.values())


def list_rule_problems_and_warnings(settings: EngineOptions, catalog: Catalog) -> tuple[list[str], list[str]]:
    problems, warnings = [], []
    for route, choice in list_route_choices(settings, catalog):
        if problem := describe_choice_problem(choice, settings, catalog):
            problems.append(problem if route.name in problem else f"The {route.label}: {problem}")
        elif choice.note and (setting := choice.model_setting) is not None:
            warnings.append(
                f'{route.targets_setting} contains "{choice.model}", which has no prefix and is in no model list, so '
                f"it is sent to {choice.provider.prefix}. Write {choice.prefixed_id}, or the prefix of another "
                f"provider.{_place_of(setting, settings)}"
            )
    return problems, warnings


def describe_choice_problem(choice: ModelChoice, settings: EngineOptions, catalog: Catalog) -> str:
    try:
        _build_target(choice, settings, catalog)
    except ClientError as error:
        return error.message
    setting = choice.model_setting
    if setting is not None and choice.note:  # with a note, no prefix and no model list chose the provider
        problem = describe_unknown_prefix(
            choice.model,
            choice.provider,
            settings,
            subject=_subject_of(setting),
            lead=_lead_of(setting),
            place=_place_of(setting, settings),
        )
        if problem:
            return problem
    return describe_missing_key_of(choice, settings, catalog)


def describe_missing_key_of(choice: ModelChoice | Target, settings: EngineOptions, catalog: Catalog) -> str:
    """Return an error text with a remedy if the provider of a model has no key, or has it only under its whole name.
    "": it can be called.

    The name in a setting may be the id at another server: `google/gemini-2.5-pro` is one of OpenRouter, and so is
    `openai/gpt-5`, of which the prefix is removed. Then the remedy is the line with the prefix of that server. Before
    its list of models is read, it is the second of two remedies, for a name with another prefix than ours.
    """
    provider, setting = choice.provider, choice.model_setting
    problem = describe_missing_key(provider, settings)
    if setting is None or "/" not in setting.value or provider.transport != "http":
        return problem
    name, preferred = _without_suffix(setting.value), find_preferred_provider(settings, catalog)
    # with the log-in of the client, only models that the proxy knows are surely meant
    is_known = not provider.accepts_client_credential or choice.model in provider.known_models
    is_served = settings.keys.get(provider.name) or (not problem and is_known)
    for row in (preferred, *find_registry(settings)):
        if not has_own_list(row, settings) or row.transport != "http" or describe_missing_key(row, settings):
            continue
        listed = catalog.cached_model_ids(row.name) or catalog.list_reported_models(find_server_name(row, settings))
        if is_served and (row is not provider or choice.model in (name, *listed)):
            continue
        host = find_host(settings.base_urls.get(row.name, row.base_url))
        line = f"{_lead_of(setting)}{row.prefix}/{setting.value}"
        if name in listed:
            cause = f"a model of {provider.prefix}, which has no key"
            if row is provider:
                cause = f"of which the prefix is removed, so {choice.model} is requested"
            return (
                f'{_subject_of(setting)} "{setting.value}", {cause}. {host} lists this name.'
                f"{_place_of(setting, settings)} Did you mean:  {line}"
            )
        if problem and row is preferred and not listed and not setting.value.startswith(f"{provider.prefix}/"):
            return f"{problem} Or, for the model of {host}:  {line}"
    return problem


_MIN_SIMILARITY = 0.7
_SIMILAR_MODELS = 2
"""Number of models with similar names that may be meant by one that does not exist."""


def _subject_of(setting: ModelSetting) -> str:
    return f"{setting.name} {'contains' if setting.is_list else 'is'}"


def _lead_of(setting: ModelSetting) -> str:
    return "" if setting.is_list else f"{setting.name}="


def _place_of(setting: ModelSetting, settings: EngineOptions) -> str:
    place = format_origin_in_sentence(settings.origins.get(setting.name, "environment"))
    return f" Set in {'the environment' if place == 'environment' else place}."


def has_plain_model_names(provider: Provider, settings: EngineOptions) -> bool:
    """Return True if no model id of `provider` contains a slash, so that a text before one is the prefix of a
    provider."""
    is_own_server = provider.is_configured or provider.uses_installed_models or provider.name in settings.base_urls
    if is_own_server or provider.key_source != "settings" or provider.transport != "http":
        return False
    return not any("/" in model_id for model_id in provider.known_models)


def describe_unknown_prefix(
    name: str, provider: Provider, settings: EngineOptions, *, subject: str, lead: str, place: str = ""
) -> str:
    """Return an error text if `name`, which would be sent to `provider`, begins with the prefix of no provider.

    "": the name has no such prefix, or `provider` may have it. `subject` begins the text, `place` follows the
    sentences, and `lead` stands before the name that the user may have meant.
    """
    prefix, slash, model = name.partition("/")
    registry = find_registry(settings)
    if not slash or _split_prefix(name, registry)[0] is not None or not has_plain_model_names(provider, settings):
        return ""
    return (
        f'{subject} "{name}", but {prefix}/ is the prefix of no provider, and {provider.prefix} has no such model. '
        f"{_suggest_prefixes(prefix, model, registry, lead=lead, place=place)}"
    )


def describe_guess(target: Target, settings: EngineOptions) -> str:
    """Return sentences about a provider that was chosen without a prefix and a model list, for an error of it."""
    prefix, slash, model = target.model.partition("/")
    if not slash:
        return f"The name has no prefix and is in no model list, so it was sent to {target.provider.prefix}."
    cause = f"No provider has the prefix {prefix}/, so the name was sent to {target.provider.prefix}."
    return f"{cause} {_suggest_prefixes(prefix, model, find_registry(settings))}"


def _suggest_prefixes(prefix: str, model: str, registry: ProviderRegistry, *, lead: str = "", place: str = "") -> str:
    """Return sentences with the prefixes that there are, and with the complete id that `prefix` may stand for."""
    word = prefix.lower()
    # a model may begin with the prefix that the user means, as in grok/grok-4, and a prefix may be misspelled
    meant = next((row.prefix for row in registry if any(name.startswith(f"{word}-") for name in row.known_models)), "")
    if not meant:
        offered = [name for row in registry if row.offered_to_users for name in (row.prefix, row.name)]
        similar = find_similar_choice(word, offered, _MIN_SIMILARITY)
        meant = next((row.prefix for row in registry if similar in (row.prefix, row.name)), "")
    known = [row.prefix for row in registry if row.offered_to_users]
    hint = f" Did you mean:  {lead}{meant}/{model}" if meant else ""
    return f"Use {join_with_or(known)} as the prefix.{place}{hint}"
