"""Functions that find the provider and model for the model id in a client request.

A tier is a family of Claude models, such as opus. The preferred provider serves ids of Claude models, and ids without a
prefix that no provider lists. `choose_models` returns each possible model as a `ModelChoice`, by these rules:

1. `claude-<prefix>/<name>`, as listed by `/v1/models`, is an alias of `<prefix>/<name>`. A suffix `[1m]` is ignored.
2. A provider prefix selects the provider, unless the model list of the preferred provider contains the complete id.
3. An id with a Claude tier is replaced with the model that the settings give to the tier. Without such a setting, the
   preferred provider gets its default model, or the unchanged id if this provider serves Claude models.
4. A setting such as BIG_MODEL may name a model that no provider lists. The request is then sent to the
   `unknown_model_provider` of the preferred provider, if the proxy has a key for it.
5. Any other name without a prefix goes to the provider that lists it. If no provider lists it, it goes to the preferred
   provider.

`resolve_model_name_and_tier` removes alias and suffix. `find_tier` returns the tier in an id.
"""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from msgspec import Struct, structs

from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.routing.catalog import Catalog
from anthropic_proxy.routing.providers import Provider, ProviderRegistry, find_registry
from anthropic_proxy.settings import BALANCE_TEXTS, DEFAULT_TARGET, TIERS, ConfiguredRoute, Settings

_OTHER_TIERS = {"mythos": "fable"}
"""Claude family that has no settings of its own → tier with the settings that apply to the family."""
_TIER = re.compile(rf"(?<![a-z])({'|'.join((*TIERS, *_OTHER_TIERS))})(?![a-z])")
_ALIAS = "claude-"
_LONG_CONTEXT = "[1m]"
_MAX_NAME_LENGTH = 512
DEFAULT_MODEL_SUFFIX = ", default"
"""End of `ModelChoice.model_setting` if no setting names the model: `BIG_MODEL, default`."""
_CLOUD_SUFFIXES = (":cloud", "-cloud")
"""Suffixes of models in the Ollama cloud, which require an account. Default models are local if possible."""


class ModelChoice(Struct, frozen=True, kw_only=True):
    """A provider and model that was chosen for a requested model id, with the reason for the log."""

    provider: Provider
    """Registry entry of the provider that serves the model."""
    model: str
    """Model id of the provider, without prefix."""
    reason: str
    """Reason of the choice as text for the log: `sonnet is BIG_MODEL (.env line 4)`."""
    model_setting: str = ""
    """Deciding setting and its source: `BIG_MODEL, .env line 4`. "": not resolved by a Claude tier."""
    variable: str = ""
    """Variable that names the model or can replace the default: `BIG_MODEL`. "": the client named the model."""
    tier: str = ""
    """Claude tier (haiku, sonnet, …) in the requested id. "": the id names no tier."""
    weight: float = 1.0
    """Relative share of requests for this model, in a route with `balance = "weighted"`."""
    note: str = ""
    """Notice about a possibly unexpected choice. It is logged once. "": none."""

    @property
    def prefixed_id(self) -> str:
        """Model id with the prefix of its provider: `openai/gpt-4.1`."""
        return f"{self.provider.prefix}/{self.model}"


# Rules of the choice:
# 1. `claude-<prefix>/<name>`, as listed by `/v1/models`, is an alias of `<prefix>/<name>`. A suffix `[1m]` is ignored.
# 2. A provider prefix decides, unless the list of the preferred provider contains the complete name.
# 3. An id with a Claude tier is mapped by the settings, else by the defaults of the preferred provider.
# 4. An unknown BIG_MODEL or SMALL_MODEL goes to the `unknown_model_provider` of the preferred provider.
# 5. A bare name goes to the provider that lists it, else to the preferred provider.
def choose_models(requested: str, preferred: Provider, settings: Settings, catalog: Catalog) -> list[ModelChoice]:
    """Return the models that may serve the model id `requested`: the first choice, then its fallbacks.

    Raises `InvalidRequest` for an invalid id.
    """
    registry = find_registry(settings)
    name = _strip_suffixes(requested, registry)
    row, model_name = _split_prefix(name, registry)
    if row is not None and name in _list_of(preferred, settings):
        return [ModelChoice(provider=preferred, model=name, reason=f"{name} is in the model list of {preferred.name}")]
    if row is not None and row.serves_claude and find_tier(model_name):
        row, name = None, model_name
    if row is not None:
        if not model_name:
            raise InvalidRequest(f'model: "{requested}" names a provider but no model. An example: openai/gpt-4.1')
        return [_through_vertex(row, model_name, f"the request names its provider: {row.prefix}", settings)]
    if tier := find_tier(name):
        return choose_models_for_tier(tier, name, preferred, settings, catalog)
    return [_resolve_bare_name(name, preferred, settings, catalog, allow_other_provider=False)]


def resolve_model_name_and_tier(requested: str, preferred: Provider, settings: Settings) -> tuple[str, str]:
    """Return the requested model id without alias and suffix `[1m]`, and its Claude tier ("" if none).

    Raises `InvalidRequest` if the id is empty or too long.
    """
    registry = find_registry(settings)
    name = _strip_suffixes(requested, registry)
    row, model_name = _split_prefix(name, registry)
    if row is None or (row.serves_claude and name not in _list_of(preferred, settings)):
        return name, find_tier(name if row is None else model_name) or ""
    return name, ""


def choose_models_for_rule(
    rule: ConfiguredRoute, requested: str, preferred: Provider, settings: Settings, catalog: Catalog
) -> list[ModelChoice]:
    """Return the models that the route `rule` of the configuration file names as targets, without duplicates."""
    choices: dict[str, ModelChoice] = {}
    for target in rule.targets:
        if target == DEFAULT_TARGET:
            found = choose_models(requested, preferred, settings, catalog)
        elif target in TIERS:
            found = choose_models_for_tier(target, requested, preferred, settings, catalog)
        else:
            choice = _resolve_bare_name(target, preferred, settings, catalog, allow_other_provider=True)
            setting = f"{rule.targets_setting}, {rule.origin}"
            choice = structs.replace(choice, model_setting=setting, variable=rule.targets_setting)
            found = [structs.replace(choice, weight=rule.weights.get(target, 1.0))]
        for choice in found:
            cause = f"and {choice.reason}" if rule.balance == "order" else BALANCE_TEXTS[rule.balance]
            choices.setdefault(choice.prefixed_id, structs.replace(choice, reason=f"{rule.label}, {cause}"))
    return list(choices.values())


def choose_models_for_tier(
    tier: str, requested: str, preferred: Provider, settings: Settings, catalog: Catalog
) -> list[ModelChoice]:
    """Return the models for a Claude tier (haiku, sonnet …): the mapped model, then its fallbacks."""
    variable, value = _find_setting(tier, preferred, settings)
    if value is not None:
        origin = settings.origins.get(variable, "set")
        choice = _resolve_bare_name(value, preferred, settings, catalog, allow_other_provider=True)
        reason, setting = f"{tier} is {variable} ({origin}), and {choice.reason}", f"{variable}, {origin}"
        first = structs.replace(choice, reason=reason, model_setting=setting, variable=variable, tier=tier)
    elif preferred.serves_claude:
        reason = f"{preferred.name} is preferred and serves Claude models itself"
        first = ModelChoice(provider=preferred, model=requested, reason=reason, model_setting="as asked", tier=tier)
    else:
        reason = f"{tier} is {variable} (default of {preferred.name})"
        choice = _through_vertex(preferred, _default_model(tier, preferred, catalog), reason, settings)
        first = structs.replace(choice, model_setting=f"{variable}{DEFAULT_MODEL_SUFFIX}", variable=variable, tier=tier)
    choices = {first.prefixed_id: first}
    variable = f"FALLBACK_{tier.upper()}"
    setting = f"{variable}, {settings.origins.get(variable, 'set')}"
    for value in settings.fallbacks.get(tier, ()):
        choice = _resolve_bare_name(value, preferred, settings, catalog, allow_other_provider=True)
        reason = f"{variable} lists it next, and {choice.reason}"
        choices.setdefault(
            choice.prefixed_id, structs.replace(choice, reason=reason, model_setting=setting, variable=variable)
        )
    return list(choices.values())


def find_tier(name: str) -> str | None:
    """Return the Claude tier in a model id: `opus` for `claude-opus-5`. None: the id names no tier.

    Upper and lower case are equal. For `mythos`, the tier `fable` is returned.
    """
    match = _TIER.search(name.lower())
    return _OTHER_TIERS.get(match[1], match[1]) if match else None


def _strip_suffixes(requested: str, registry: ProviderRegistry) -> str:
    name = requested.strip()
    if name[-len(_LONG_CONTEXT) :].lower() == _LONG_CONTEXT:
        name = name[: -len(_LONG_CONTEXT)]
    if not name:
        raise InvalidRequest("model: an empty name is not allowed. Examples: claude-sonnet-5-5, openai/gpt-4.1")
    if len(name) > _MAX_NAME_LENGTH:  # names are cached and shown in errors
        raise InvalidRequest(f"model: a name of {len(name)} characters is too long; the maximum is {_MAX_NAME_LENGTH}.")
    if name[: len(_ALIAS)].lower() == _ALIAS:
        row, _ = _split_prefix(name[len(_ALIAS) :], registry)
        if row is not None:
            return name[len(_ALIAS) :]
    return name


def _split_prefix(name: str, registry: ProviderRegistry) -> tuple[Provider | None, str]:
    prefix, slash, model_name = name.partition("/")
    if not slash:
        return None, name
    if (row := registry.find_by_extra_prefix(prefix.lower())) is not None:
        return row, f"{prefix.lower()}/{model_name}" if model_name else ""
    row = registry.find_by_prefix(prefix.lower())
    return row, name if row is None else model_name


def _find_setting(tier: str, preferred: Provider, settings: Settings) -> tuple[str, str | None]:
    if tier in settings.tier_models:
        return f"MODEL_{tier.upper()}", settings.tier_models[tier]
    if preferred.serves_claude:
        return "", None
    if tier == "haiku":
        return "SMALL_MODEL", settings.small_model
    if tier == "sonnet" and settings.middle_model is not None:
        return "MIDDLE_MODEL", settings.middle_model
    return "BIG_MODEL", settings.big_model


def _default_model(tier: str, preferred: Provider, catalog: Catalog) -> str:
    model = (preferred.default_small_model if tier == "haiku" else preferred.default_big_model) or ""
    installed = catalog.cached_model_ids(preferred.name)
    if preferred.uses_installed_models and installed and not _is_listed(model, installed):
        local = [name for name in installed if not name.endswith(_CLOUD_SUFFIXES)] or installed
        return local[-1] if tier == "haiku" else local[0]
    return model


def _resolve_bare_name(
    name: str, preferred: Provider, settings: Settings, catalog: Catalog, *, allow_other_provider: bool
) -> ModelChoice:
    """Return the choice for a model name without a provider prefix and without a Claude tier.

    The name comes from a setting or from a client request. `allow_other_provider`: True if the `unknown_model_provider`
    of the preferred provider may receive a name that no provider lists.
    """
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


def _through_vertex(row: Provider, model: str, reason: str, settings: Settings, *, note: str = "") -> ModelChoice:
    if row.vertex_provider and settings.use_vertex_auth:
        row = find_registry(settings).find(row.vertex_provider)
        reason = f"{reason}; USE_VERTEX_AUTH sends Google's models to {row.prefix}"
    return ModelChoice(provider=row, model=model, reason=reason, note=note)


def _list_of(row: Provider, settings: Settings) -> Sequence[str]:
    extra = settings.extra_models.get(row.name)
    return (*row.known_models, *extra) if extra else row.known_models


def _is_listed(name: str, listing: Sequence[str] | None) -> bool:
    return listing is not None and (name in listing or f"{name}:latest" in listing)
