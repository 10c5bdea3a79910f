"""The limits of a conversation, and the prices of its models, as Claude Code is told them.

A conversation can meet the models of several tiers and routes. Claude Code has one window for all of them, which is
that of the smallest one.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from anthropic_proxy.console.client_models import WINDOW_ASSUMED, TierModel, find_tier_models
from anthropic_proxy.console.client_variables import ASSUMED_MODEL, COMPACT_WINDOW, LIMITING_MODEL, MAX_CONTEXT
from anthropic_proxy.engine.messages.purpose import KINDS_BESIDE
from anthropic_proxy.engine.options import ConfiguredRoute, list_condition_texts
from anthropic_proxy.engine.providers import find_registry
from anthropic_proxy.engine.providers.catalog import MIN_SESSION_TOKENS
from anthropic_proxy.engine.routing.choices import find_tier
from anthropic_proxy.engine.routing.routes import can_exceed, find_long_input, forecast_route
from anthropic_proxy.gateway.money import format_price
from anthropic_proxy.gateway.prices.price_list import Price, PriceList
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.telemetry.log.lines import escape_unprintable

ReadModels = Callable[[Sequence[str]], Sequence[Mapping[str, Any]]]
"""Returns the entries of models in the model list of the proxy, as JSON. Those that it cannot name are left out."""
_MIN_COMPACT_WINDOW = 100_000
"""Smallest `CLAUDE_CODE_AUTO_COMPACT_WINDOW`. Claude Code warns about a smaller one and replaces it by this one."""
_COMPACT_RESERVE = 20_000
"""Tokens of the window of compaction that Claude Code keeps for the summary. `CLAUDE_AUTOCOMPACT_PCT_OVERRIDE` is a
percentage of the rest, at which it compacts; without it, it does so 13,000 tokens before the end of the rest."""
_COMPACT_SHARE = 0.85
"""Share of a window below `_MIN_COMPACT_WINDOW` at which Claude Code compacts. The rest is for the next turn and the
summary."""


class ServedModels(Struct, frozen=True):
    """What replies to the models that a client requests."""

    tiers: Sequence[TierModel] = ()
    prices: Mapping[str, str] = {}
    """Target of `tiers` → price as text."""
    routed: Mapping[str, int] = {}
    """From `list_routed_models`."""
    largest: Mapping[str, int] = {}
    """Tier → largest input for which no route replaces its model."""


def find_served_models(listing: Any, settings: Settings) -> ServedModels:
    """`listing`: the model list of the proxy, as JSON."""
    tiers = find_tier_models(listing)
    largest = {
        one.tier: min(
            forecast_route(settings.routes, one.tier, [one.id]).long_input_routes.values(), default=sys.maxsize
        )
        for one in tiers
    }
    return ServedModels(
        tiers, describe_prices((one.target for one in tiers), settings), list_routed_models(settings), largest
    )


def list_window_variables(read_models: ReadModels, served: ServedModels, requested: Sequence[str]) -> dict[str, str]:
    """Return the limits of a conversation: those of the smallest model that it can meet, and the name of that model.

    The windows that are assumed count only if all those of the requested models are.
    """
    variables: dict[str, str] = {}
    entries = read_models(requested)
    known = [one for one in entries if not one.get(WINDOW_ASSUMED)]
    window, output = _smallest(known or entries, "max_input_tokens"), _smallest(entries, "max_tokens")
    owners = {str(one.get("target") or "") for one in entries if one.get("max_input_tokens") == window}
    if len(owners) == 1 and len({one.get("max_input_tokens") for one in entries}) > 1:
        variables[LIMITING_MODEL] = owners.pop()

    limits = _find_other_limits(read_models, served, entries)
    smallest = min(limits, key=limits.__getitem__, default="")
    if smallest and (window is None or limits[smallest] < window):
        window = limits[smallest]
        variables[LIMITING_MODEL] = smallest
    elif entries and not known:
        first = min(entries, key=lambda one: int(one.get("max_input_tokens") or 0))
        variables[ASSUMED_MODEL] = escape_unprintable(str(first.get("target") or first.get("id")))

    if window is not None:
        variables[MAX_CONTEXT] = str(window)
        variables[COMPACT_WINDOW] = str(max(window, _MIN_COMPACT_WINDOW))
        share = int(100 * _COMPACT_SHARE * window / (_MIN_COMPACT_WINDOW - _COMPACT_RESERVE))
        if window < _MIN_COMPACT_WINDOW and share <= 100:
            variables["CLAUDE_AUTOCOMPACT_PCT_OVERRIDE"] = str(share)
    if output is not None:
        variables["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] = str(output)
    return variables


def _find_other_limits(
    read_models: ReadModels, served: ServedModels, entries: Sequence[Mapping[str, Any]]
) -> Mapping[str, int]:
    """Return the windows of other models that the conversation can meet: those of routes, and the one of haiku.

    `entries`: the requested models. No conversation of Claude Code fits a window below `MIN_SESSION_TOKENS`, so that
    such a model is used for short questions only.
    """
    haiku = [one for one in served.tiers if one.tier == "haiku"]  # also the model of sub-agents
    reached = dict(served.routed)
    others = [(one.get("otherwise"), str(one.get("id"))) for one in entries]
    for name, requested_id in [*others, *((one.otherwise, one.id) for one in haiku)]:
        if name and isinstance(name, str):
            most = served.largest.get(find_tier(requested_id) or "", sys.maxsize)
            reached[name] = max(reached.get(name, 0), most)
    limits: dict[str, int] = {}
    for name, most in reached.items():
        limit = _smallest([one for one in read_models([name]) if not one.get(WINDOW_ASSUMED)], "max_input_tokens")
        limits |= {name: limit} if limit is not None and can_exceed(most, limit) else {}
    for one in haiku:
        limits.setdefault(one.target, 0 if one.is_assumed else one.window)
    return {name: limit for name, limit in limits.items() if name and limit >= MIN_SESSION_TOKENS}


def find_model_price(prices: PriceList, settings: Settings, name: str) -> Price | None:
    """`name`: an id with prefix, such as `openai/gpt-4.1`. None: the price is unknown."""
    prefix, _, model = name.partition("/")
    provider = find_registry(settings).find_by_prefix(prefix)
    return None if provider is None else prices.find(provider, model)


def describe_prices(targets: Iterable[str], settings: Settings) -> dict[str, str]:
    """Return the known prices of models with prefix as texts, as Claude Code writes prices: `$2/$8 per Mtok`."""
    texts: dict[str, str] = {}
    prices = PriceList(settings)
    for target in {*targets} - {""}:
        if (price := find_model_price(prices, settings, target)) is None:
            continue
        is_free = not (price.base.input or price.base.output)
        amounts = [format_price(amount).removesuffix(".00") for amount in (price.base.input, price.base.output)]
        texts[target] = "free of charge" if is_free else f"{'/'.join(amounts)} per Mtok"
    return texts


def list_routed_models(settings: Settings) -> dict[str, int]:
    """Return the models to which routes can send requests of a conversation → largest input that they can get there.

    Models after the first one of an ordered route are called after a failure, and then only if the input fits.
    """
    found: dict[str, int] = {}
    for position, route in enumerate(settings.routes):
        when = route.when
        if when.background or when.web_search or when.key or when.team:  # beside the conversation, or of other clients
            continue
        if (kinds := list_condition_texts(when.request)) and {*kinds} <= KINDS_BESIDE:
            continue
        earlier = [find_long_input(each) for each in settings.routes[:position] if _covers_tiers(each, route)]
        most = min((tokens for tokens in (when.input_below, *earlier) if tokens is not None), default=sys.maxsize)
        for target in route.targets[:1] if route.balance == "order" else route.targets:
            if "/" in target:
                found[target] = max(found.get(target, 0), most)
    return found


def _covers_tiers(route: ConfiguredRoute, other: ConfiguredRoute) -> bool:
    """Return True if `route` is for every tier of `other`."""
    tiers, others = ({*list_condition_texts(each.when.tier)} for each in (route, other))
    return not tiers or (bool(others) and others <= tiers)


def _smallest(entries: Sequence[Mapping[str, Any]], field: str) -> int | None:
    return min((value for entry in entries if isinstance(value := entry.get(field), int) and value > 0), default=None)
