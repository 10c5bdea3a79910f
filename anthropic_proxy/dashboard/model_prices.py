"""Two tables of the page Models: the prices of models, and a comparison of the actual cost with other models.

The comparison calculates the cost of the used tokens at the prices of other models. `list_prices` returns the rows of
the first table (`PriceRow`). `compare_costs` returns the second table, with a `ComparedCost` for each other model.
`describe_price_sources` returns a text about the origin of the prices.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from anthropic_proxy.dashboard import formats
from anthropic_proxy.dashboard.page_context import PageContext
from anthropic_proxy.ledger.dashboard_queries import ModelSums
from anthropic_proxy.ledger.facet_counts import count_facets
from anthropic_proxy.ledger.model_costs import ModelCosts, calculate_base_cost
from anthropic_proxy.ledger.price_source import describe_price_list, find_price_source
from anthropic_proxy.ledger.prices import Price, Rates
from anthropic_proxy.ledger.sums import UsageSums, add_up
from anthropic_proxy.money import format_price

_MAX_REQUESTED = 5
_MAX_COMPARED = 12
_RATES = ("input", "cache_read", "cache_write", "output", "thinking")


class PriceRow(Struct, frozen=True, kw_only=True):
    """Row of the table of prices: the prices of one model, as texts."""

    provider: str
    prefix: str
    model: str
    rates: Sequence[str]
    """Price as text for each kind of token in `_RATES`. Empty: the price is unknown."""
    long_context: str
    """Prices of requests with a long context, as text. "": they have no other prices."""
    source: str


class ComparedCost(Struct, frozen=True, kw_only=True):
    """Cost of the used tokens at the prices of another model, with the difference to the actual cost."""

    model: str
    cost: str
    difference: str
    sign: str
    """CSS class of the color: `ok` if the other model is cheaper."""


def list_prices(context: PageContext, costs: ModelCosts, used_models: Sequence[ModelSums]) -> list[PriceRow]:
    """Return the prices of `used_models`, and of the models that the settings use for Claude models."""
    find_price_source(context.settings.data_directory).reload_if_changed()
    used = [(costs.find_prefix(one.provider), one.model) for one in used_models if one.provider and one.model]
    names = dict.fromkeys([*used, *_mapped(context)])
    return [_price_row(costs, prefix, model) for prefix, model in names]


def describe_price_sources(context: PageContext) -> str:
    """Return a text about the origin and date of the prices, and about the place where a user can set own prices."""
    directory = context.settings.data_directory
    described, problem = describe_price_list(directory), find_price_source(directory).problem
    own = "Own prices: anthropic-proxy.toml, [prices]."
    if not described:
        return f"The package genai-prices is not installed, so only own prices are known. {own}"
    return f"{described}. {own}{problem and f' {problem}'}"


def compare_costs(
    context: PageContext, costs: ModelCosts, used_models: Sequence[ModelSums], total: UsageSums
) -> Mapping[str, Any] | None:
    """Return the table that shows how much the used tokens would have cost with other models.

    None: no tokens were used.
    """
    if not total.all_tokens:
        return None
    # the actual cost and the other costs are of the same requests: those of models whose prices were always known
    priced = add_up(one.sums for one in used_models if not one.sums.unknown_cost_requests)
    left_out = total.requests - priced.requests if priced.all_tokens else 0
    total = priced if priced.all_tokens else total
    asked = context.query.compared
    prices = dict(_candidates(context, costs, used_models))
    rows = {name: calculate_base_cost(price, total) for name, price in prices.items() if price is not None}
    shown = sorted(rows, key=lambda name: (name != asked, rows[name]))[:_MAX_COMPARED]
    return {
        "actual": formats.cost_with_unknown(total.cost, total.unknown_cost_requests),
        "left_out": left_out,
        "rows": [_compare(name, rows[name], total) for name in sorted(shown, key=lambda name: (rows[name], name))],
        "asked": asked,
        "problem": _explain_unknown(costs, asked) if asked and prices.get(asked) is None else "",
    }


def _candidates(
    context: PageContext, costs: ModelCosts, found: Sequence[ModelSums]
) -> Iterable[tuple[str, Price | None]]:
    asked = context.query.compared
    if asked:
        yield asked, costs.find_requested_price(asked, "", "")
    for prefix, model in [*_mapped(context), *((costs.find_prefix(one.provider), one.model) for one in found)]:
        yield f"{prefix}/{model}", costs.find_price_by_prefix(prefix, model)
    counted = count_facets(context.connection, context.selection, ("requested_model",), _MAX_REQUESTED)
    for model, _ in counted.values["requested_model"]:
        if model.startswith("claude-"):
            yield model, costs.find_requested_price(model, "", "")


def _mapped(context: PageContext) -> list[tuple[str, str]]:
    targets = [target for one in context.setup.mapping for target in (one.target, *one.fallbacks)]
    names = [target.partition("/") for target in targets if "…" not in target]
    return [(prefix, model) for prefix, _, model in names if model]


def _price_row(costs: ModelCosts, prefix: str, model: str) -> PriceRow:
    price = costs.find_price_by_prefix(prefix, model)
    provider = costs.find_provider_name(prefix)
    if price is None:
        return PriceRow(provider=provider, prefix=prefix, model=model, rates=(), long_context="", source="unknown")
    longer = "; ".join(
        f"above {above:,} tokens: {format_price(rates.input)} in, {format_price(rates.output)} out"
        for above, rates in price.long_contexts
    )
    source = "local: free" if price.source == "local" else price.source
    return PriceRow(
        provider=provider,
        prefix=prefix,
        model=model,
        rates=_list_rates(price.base),
        long_context=longer,
        source=source,
    )


def _list_rates(rates: Rates) -> list[str]:
    return [format_price(getattr(rates, name)) for name in _RATES]


def _compare(name: str, cost: int, total: UsageSums) -> ComparedCost:
    difference = cost - total.cost
    if total.unknown_cost_requests:
        return ComparedCost(model=name, cost=formats.money(cost), difference=formats.UNKNOWN, sign="")
    share = f" ({difference / total.cost:+.0%})".replace("%", " %") if total.cost else ""
    amount = formats.money(abs(difference))
    text = "the same" if not difference else f"{'−' if difference < 0 else '+'}{amount}{share.replace('-', '−')}"
    return ComparedCost(model=name, cost=formats.money(cost), difference=text, sign="ok" if difference < 0 else "")


def _explain_unknown(costs: ModelCosts, asked: str) -> str:
    prefix, separator, _ = asked.partition("/")
    if separator and not costs.find_provider_name(prefix):
        return f"{prefix} is no prefix of a provider. Examples: openai/gpt-4.1-mini, gemini/gemini-2.5-flash."
    if not separator:
        return f"The price of {asked} is unknown. Add the prefix of its provider: openai/{asked}"
    return f'The price of {asked} is unknown. Set it in anthropic-proxy.toml: [prices."{asked}"]'
