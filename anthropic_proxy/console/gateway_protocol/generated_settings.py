"""Settings of Claude Code that follow from the settings of the proxy: models, limits, prices and rules of auto mode.

Claude Code knows Anthropic's models only. Its ids of these models stay, so that routes and fallbacks apply; names,
limits and prices are those of the models that reply. A model that the company names itself gets a row of its own in the
menu `/model`, and behaves as the known model that is most like it. No setting here needs the approval of a user.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from anthropic_proxy.console import formats
from anthropic_proxy.console.client_limits import (
    ServedModels,
    describe_prices,
    find_model_price,
    find_served_models,
    list_window_variables,
)
from anthropic_proxy.console.client_models import (
    MAIN_MODELS,
    TierModel,
    build_model_picker,
    list_limit_variables,
    list_name_variables,
)
from anthropic_proxy.console.client_variables import ASSUMED_MODEL, LIMITING_MODEL
from anthropic_proxy.engine.bounded import BoundedDict
from anthropic_proxy.engine.options import WILDCARDS, matches_model
from anthropic_proxy.engine.providers import find_registry
from anthropic_proxy.engine.providers.model_facts import ModelCapabilities, find_table_capabilities
from anthropic_proxy.engine.routing.choices import find_tier
from anthropic_proxy.gateway.prices.price_list import PRICE_SOURCE, PriceList
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.key_rules import Rules
from anthropic_proxy.plugins import Gateway, ModelEntry, ModelFeatures

_MODELS_OF_CLIENT = ("claude-opus-4-7", "claude-opus-4-5", "claude-haiku-4-5")
"""Models that Claude Code 2.1.332 knows, of which each has other limits: a long window and all levels of effort; a
short window and some levels; a short window and no level."""
_VENDOR = "anthropic"
_MAX_ROWS = 100
_KEPT_SECONDS = 60.0
"""Time for which generated settings are used again, because they need several milliseconds."""
_MAX_KEPT = 1_000
_DEFAULT_RULES = "$defaults"
"""Item of a list of rules that stands for the rules of Claude Code itself."""


class GeneratedSettings:
    """Generates settings at most once a minute for people with the same rules. `ticks`: a clock that nobody sets."""

    def __init__(self, ticks: Callable[[], float] = time.monotonic) -> None:
        self._ticks = ticks
        self._settings: Settings | None = None
        self._generated = BoundedDict[object, tuple[float, dict[str, Any]]](_MAX_KEPT)
        """Names that the rules allow → time until which the settings are used, and these settings."""

    async def find(self, gateway: Gateway[Settings], rules: Sequence[Rules]) -> dict[str, Any]:
        """As `generate_settings`. The caller does not change the result."""
        now = self._ticks()
        if gateway.settings is not self._settings:
            self._settings = gateway.settings
            self._generated.clear()
        names = tuple((rule_set.models, rule_set.providers, rule_set.routes) for rule_set in rules)
        end, generated = self._generated.get(names, (-math.inf, {}))
        if end <= now:
            generated = await generate_settings(gateway, rules)
            self._generated[names] = now + _KEPT_SECONDS, generated
        return generated


class _Offer(Struct, frozen=True):
    """Models that a person may request."""

    entries: Sequence[ModelEntry]
    """Claude models of the list of the proxy."""
    served: ServedModels
    """What replies to the newest of them in each tier."""
    named: Mapping[str, ModelFeatures]
    """Id with prefix → other model, which gets a row of its own."""
    forbids_some: bool
    """True if the rules forbid a Claude model of the list."""
    may_have_others: bool
    """True if the rules may allow models that no list has."""

    @property
    def ids(self) -> list[str]:
        return [*(entry.id for entry in self.entries), *self.named]


async def generate_settings(gateway: Gateway[Settings], rules: Sequence[Rules]) -> dict[str, Any]:
    """`rules`: those of the key and its team. Settings without a value are left out. A model that the rules forbid is
    not offered; `availableModels` is [] if they certainly forbid all.
    """
    await asyncio.to_thread(PRICE_SOURCE.load)
    settings = gateway.settings
    offer = await _find_offer(gateway, rules)
    generated: dict[str, Any] = {}
    tiers = offer.served.tiers
    prices = offer.served.prices
    variables = list_name_variables(tiers, prices, {})
    limits = _list_limits(gateway, offer.served) if variables else {}
    if environment := {**_list_relayed_defaults(tiers), **variables, **limits}:
        generated["env"] = environment
    rows = build_model_picker(tiers, variables, prices, {}, ())
    if offer.named:
        texts = describe_prices(offer.named, settings)
        named = [_build_row(model, texts.get(name, "")) for name, model in offer.named.items()]
        rows = {**rows, "options": [*rows.get("options", ()), *named]}
    if rows:
        generated["modelPicker"] = rows
    if offer.forbids_some and (offer.ids or not offer.may_have_others):
        generated["availableModels"] = offer.ids
        first = next((tier.id for tier in tiers), next(iter(offer.named), ""))
        generated |= {"model": first, "enforceAvailableModels": True} if first else {}
    if overrides := _list_prices(offer, PriceList(settings), settings):
        generated["modelPricing"] = {"overrides": overrides}
    auto_mode = settings.auto_mode
    sentences = {"hard_deny": auto_mode.deny, "allow": auto_mode.allow, "environment": auto_mode.environment}
    if any(sentences.values()):
        generated["autoMode"] = {
            name: [_DEFAULT_RULES, *sentence_list] for name, sentence_list in sentences.items() if sentence_list
        }
    return generated


async def _find_offer(gateway: Gateway[Settings], rules: Sequence[Rules]) -> _Offer:
    settings = gateway.settings
    listed = gateway.list_models()
    entries = [entry for entry in listed if "/" not in entry.id]
    described = await gateway.describe_models([entry.id for entry in entries], "")
    providers = {model.model: model.provider for model in described}
    prefixes = {name: find_registry(settings).find(provider).prefix for name, provider in providers.items()}
    offered = [entry for entry in entries if _is_allowed(entry, prefixes.get(entry.id, _VENDOR), rules, settings)]
    served = find_served_models({"data": msgspec.to_builtins(offered)}, settings)
    others = [entry.id.removeprefix("claude-") for entry in listed if "/" in entry.id]
    targets = {tier.target for tier in served.tiers}
    named = [
        name for name in _list_named_models(settings, rules, others, all_listed=not offered) if name not in targets
    ]
    return _Offer(
        entries=offered,
        served=served,
        named={model.model: model for model in await gateway.describe_models(named[:_MAX_ROWS], "")},
        forbids_some=len(offered) < len(entries),
        may_have_others=any(  # rules without models allow all
            "/" in name and not WILDCARDS.isdisjoint(name) for rule_set in rules for name in rule_set.models or ["*/*"]
        ),
    )


def _list_relayed_defaults(tiers: Sequence[TierModel]) -> dict[str, str]:
    """Signed in at a gateway, Claude Code requests older models than it does with an API key, unless variables name
    them.
    """
    return {f"ANTHROPIC_DEFAULT_{tier.tier.upper()}_MODEL": tier.id for tier in tiers if not tier.target}


def _list_limits(gateway: Gateway[Settings], served: ServedModels) -> dict[str, str]:
    """Return the variables with the limits of a conversation, without those of which a user would have to approve."""

    def read_models(names: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        return [msgspec.to_builtins(entry) for entry in gateway.list_models(*names)]

    requested = [tier.id for tier in served.tiers if tier.tier in MAIN_MODELS] or [tier.id for tier in served.tiers]
    windows = list_window_variables(read_models, served, requested)
    limits = {name: text for name, text in windows.items() if name not in (LIMITING_MODEL, ASSUMED_MODEL)}
    return {**limits, **list_limit_variables(served.tiers, is_managed=True)}


def _is_allowed(entry: ModelEntry, prefix: str, rules: Sequence[Rules], settings: Settings) -> bool:
    """Return True if a key with `rules` may request the model. The proxy checks each request again.

    `prefix`: that of the provider that serves the model by its own name.
    """
    used = [entry.target or f"{prefix}/{entry.id}", *settings.fallbacks.get(find_tier(entry.id) or "", ())]
    return all(
        (rule_set.allows_model([entry.id]) or all(rule_set.allows_model([name]) for name in used))
        and all(rule_set.allows_provider(name.partition("/")[0]) for name in used if "/" in name)
        and (entry.route is None or rule_set.allows_route(entry.route))
        for rule_set in rules
    )


def _list_named_models(
    settings: Settings, rules: Sequence[Rules], listed: Sequence[str], *, all_listed: bool
) -> list[str]:
    """Return the models that the company names itself: in tables of providers, and by rules of the key or its team.

    `listed`: models with prefix in the list of the proxy. `all_listed`: all of these that the rules allow.
    """
    configured = [
        f"{row.prefix}/{name}" for row in find_registry(settings) if row.is_configured for name in row.known_models
    ]
    patterns = [name for rule_set in rules for name in rule_set.models if "/" in name]
    exact = [name for name in patterns if WILDCARDS.isdisjoint(name)]
    matching = [name for name in listed if all_listed or any(matches_model(name, pattern) for pattern in patterns)]
    return [
        name
        for name in dict.fromkeys([*configured, *exact, *matching])
        if all(rule_set.allows_model([name]) and rule_set.allows_provider(name.partition("/")[0]) for rule_set in rules)
    ]


def _build_row(model: ModelFeatures, price: str) -> dict[str, str]:
    facts = [f"{formats.short_count(model.max_input)} context"] if model.max_input else []
    facts += [price] if price else []
    row = {"model": model.model, "label": model.model, "behavesAs": find_similar_model(model)}
    return {**row, "description": ", ".join(facts)} if facts else row


def find_similar_model(model: ModelFeatures) -> str:
    """Return the model of Claude Code whose limits are most like those of `model`: the longest window that is not
    longer, then the levels of effort, then the output limit.
    """
    window = model.context_window or 0
    known = {name: find_table_capabilities(_VENDOR, name) for name in _MODELS_OF_CLIENT}
    shortest = min(capabilities.context_window for capabilities in known.values())

    def rank(name: str) -> tuple[int, int, int]:
        like: ModelCapabilities = known[name]
        is_longer = like.context_window > max(window, shortest)
        other_levels = len({*like.efforts} ^ {*model.efforts} - {"none", "minimal"})
        output = abs((like.max_output or 0) - (model.max_output or 0))
        return -1 if is_longer else like.context_window, -other_levels, -output

    return max(known, key=rank)


def _list_prices(offer: _Offer, prices: PriceList, settings: Settings) -> dict[str, dict[str, float]]:
    """Return the prices in dollars per million tokens that Claude Code cannot know: of other models, and the company's
    own.
    """
    amounts_by_name: dict[str, dict[str, float]] = {}
    targets = {entry.id: entry.target or f"{_VENDOR}/{entry.id}" for entry in offer.entries}
    targets |= {name: name for name in offer.named}
    for name, target in targets.items():
        price = find_model_price(prices, settings, target)
        if price is not None and (price.is_final or not target.endswith(f"/{name}") or name == target):
            base = price.base
            amounts = (base.input, base.output, base.cache_read, base.cache_write)
            amounts_by_name[name] = dict(
                zip(("input", "output", "cacheRead", "cacheWrite"), map(float, amounts), strict=True)
            )
    return amounts_by_name
