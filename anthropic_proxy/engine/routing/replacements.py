"""Models that replace others: successors of retired models and similar ones, with the settings that name them."""

import json
from collections.abc import Callable, Sequence
from datetime import date

from msgspec import Struct, structs

from anthropic_proxy.engine.options import DEFAULT_TARGET, TIERS, ConfiguredRoute, EngineOptions
from anthropic_proxy.engine.providers import Provider
from anthropic_proxy.engine.providers.catalog import Catalog, may_chat
from anthropic_proxy.engine.providers.hosts import find_server_name
from anthropic_proxy.engine.providers.registry import RetiredModel
from anthropic_proxy.engine.routing.choices import (
    ModelChoice,
    ModelSetting,
    choose_model,
    choose_models_for_tier,
    find_preferred_provider,
    find_targets_setting,
)
from anthropic_proxy.engine.routing.targets import Target, build_target
from anthropic_proxy.errors import find_similar_choices


def find_retirement(provider: Provider, model: str) -> RetiredModel | None:
    table = provider.host.retired_models
    found = table.get(model)
    while found is not None and (later := table.get(found.successor)) is not None:  # the successor is retired too
        found = structs.replace(found, successor=later.successor)
    return found


def find_successor_id(model: ModelChoice | Target, settings: EngineOptions, today: date) -> str:
    """Return the successor of a model that was retired on `today` or earlier, with prefix. "": the model is in use."""
    retirement = find_retirement(model.provider, model.model)
    if retirement is None or not retirement.applies_on(today):
        return ""
    return f"{model.provider.prefix}/{retirement.successor}"


def list_served_models(model: ModelChoice | Target, settings: EngineOptions, listed: Sequence[str]) -> list[str]:
    """Return the models that may replace one which its provider does not serve, without prefix, the best first.

    `listed`: the models in the list of the server, which has all of the result: an account does not have each model of
    the vendor. Empty: the list is unknown. None of the result is to be retired.
    """
    provider = model.provider
    usable = {
        name: None
        for name in listed
        if name != model.model and may_chat(name) and find_retirement(provider, name) is None
    }
    successor = find_successor_id(model, settings, date.max).removeprefix(f"{provider.prefix}/")
    similar = find_similar_choices(model.model, [*usable], _SIMILAR_MODELS)
    best = [successor, *similar, provider.default_big_model, *usable]
    return [name for name in dict.fromkeys(best) if name in usable]


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
    retirement = find_retirement(target.provider, target.model)
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
    return build_target(choice, settings, catalog)


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
                setting=find_targets_setting(route, settings),
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


_SIMILAR_MODELS = 2
"""Number of models with similar names that may be meant by one that does not exist."""
