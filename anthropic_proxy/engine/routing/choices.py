"""The models that may serve a requested model id: `choose_models` returns each as a `ModelChoice`.

A choice has a provider, a model, and the reason for the log. An id may name a *Claude tier*, a family such as opus,
which the settings map to a model and its fallbacks. A route of the configuration file names the models itself.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from msgspec import Struct, structs

from anthropic_proxy.engine.options import (
    BALANCE_TEXTS,
    DEFAULT_TARGET,
    LONG_CONTEXT_SUFFIX,
    TARGETS_SETTING,
    TIERS,
    ConfiguredRoute,
    EngineOptions,
)
from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.engine.providers import Provider, ProviderRegistry, find_registry
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.providers.hosts import find_missing_key
from anthropic_proxy.errors import InvalidRequest, find_similar_choice, join_with_and, join_with_or


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
        return has_model and not find_missing_key(provider, settings)
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
    row, model_name = split_prefix(name, registry)
    if has_comma and row is None:
        prefix, _, model_name = name.partition("/")
        raise InvalidRequest(
            f'model: "{requested}" names the provider "{prefix}", but there is none. '
            f"{suggest_prefixes(prefix, model_name, registry)}",
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
            text = f'model: "{requested}" names a provider but no model. An example: openai/gpt-4.1'
            raise InvalidRequest(text, code="model-name")
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
            setting = structs.replace(find_targets_setting(route, settings), value=target)
            choice = structs.replace(choice, model_setting=setting)
            found = [structs.replace(choice, weight=route.find_weight(target))]
        for choice in found:
            cause = f"and {choice.reason}" if route.balance == "order" else BALANCE_TEXTS[route.balance]
            choices.setdefault(choice.prefixed_id, structs.replace(choice, reason=f"{route.label}, {cause}"))
    return list(choices.values())


def find_targets_setting(route: ConfiguredRoute, settings: EngineOptions) -> ModelSetting:
    return ModelSetting(route.targets_setting, settings.origins.get(route.targets_setting, route.origin))


def choose_models_for_tier(
    tier: str, requested: str, preferred: Provider, settings: EngineOptions, catalog: Catalog
) -> list[ModelChoice]:
    if tier in settings.tier_models:
        variable, value = f"MODEL_{tier.upper()}", settings.tier_models[tier]
    elif preferred.serves_claude:
        variable, value = "", None
    elif tier == "haiku":
        variable, value = "SMALL_MODEL", settings.small_model
    elif tier == "sonnet" and settings.middle_model is not None:
        variable, value = "MIDDLE_MODEL", settings.middle_model
    else:
        variable, value = "BIG_MODEL", settings.big_model
    if value is not None:
        origin = settings.origins.get(variable, "set")
        choice = choose_model(value, preferred, settings, catalog, allow_other_provider=True)
        reason = f"{tier} is {variable} ({origin}), and {choice.reason}"
        first = structs.replace(choice, reason=reason, model_setting=ModelSetting(variable, origin, value), tier=tier)
    elif preferred.serves_claude:
        reason = f"{preferred.name} is preferred and serves Claude models itself"
        first = ModelChoice(provider=preferred, model=without_suffix(requested), reason=reason, tier=tier)
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
    name = without_suffix(name)
    if name in _list_of(preferred, settings):
        reason = f"a name without a prefix gets that of its list: {preferred.prefix}"
        return _through_vertex(preferred, name, reason, settings)
    registry = find_registry(settings)
    row, model_name = split_prefix(name, registry)
    if row is not None:
        return _through_vertex(row, model_name, f"its prefix names the provider: {row.prefix}", settings)
    row = next((row for row in registry if name in _list_of(row, settings)), None)
    if row is not None:
        if row.vertex_provider == preferred.name:
            row = preferred
        return _through_vertex(row, name, f"a name without a prefix gets that of its list: {row.prefix}", settings)
    listed = catalog.cached_model_ids(preferred.name) or ()
    has_own_name = any(fnmatchcase(name, pattern) for pattern in preferred.model_id_patterns)
    if has_own_name or name in listed or f"{name}:latest" in listed:
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


def resolve_model_name_and_tier(requested: str, preferred: Provider, settings: EngineOptions) -> tuple[str, str]:
    """Return the requested id without alias and suffix `[1m]`, and its tier ("": none). Raises `InvalidRequest`."""
    registry = find_registry(settings)
    name, has_comma = _normalize_name(requested, registry)
    row, model_name = split_prefix(name, registry)
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


def without_suffix(name: str) -> str:
    """Return a model name without the suffix `[1m]`, with which clients name a long context."""
    is_suffixed = name[-len(LONG_CONTEXT_SUFFIX) :].lower() == LONG_CONTEXT_SUFFIX
    return name[: -len(LONG_CONTEXT_SUFFIX)] if is_suffixed else name


def _normalize_name(requested: str, registry: ProviderRegistry) -> tuple[str, bool]:
    """Return the id without alias and suffix `[1m]`. True: it was `prefix,model`, and now is `prefix/model`."""
    name = without_suffix(requested.strip())
    if not name:
        text = "model: an empty name is not allowed. Examples: claude-sonnet-5-5, openai/gpt-4.1"
        raise InvalidRequest(text, code="model-name")
    if len(name) > MAX_NAME_LENGTH:  # names are cached and shown in errors
        text = f"model: a name of {len(name)} characters is too long; the maximum is {MAX_NAME_LENGTH}."
        raise InvalidRequest(text, code="model-name")
    if name[: len(_ALIAS)].lower() == _ALIAS:
        row, _ = split_prefix(name[len(_ALIAS) :], registry)
        if row is not None:
            return name[len(_ALIAS) :], False
    prefix, comma, model_name = name.partition(",")
    if comma and "/" not in prefix:
        return f"{prefix.strip()}/{model_name.strip()}", True
    return name, False


def split_prefix(name: str, registry: ProviderRegistry) -> tuple[Provider | None, str]:
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


_MIN_SIMILARITY = 0.7


def suggest_prefixes(prefix: str, model: str, registry: ProviderRegistry, *, lead: str = "", place: str = "") -> str:
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
