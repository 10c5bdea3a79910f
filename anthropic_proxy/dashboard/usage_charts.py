"""Charts of usage over time: cost, tokens, requests by outcome, and the share of cached input.

`draw_usage` returns the chart that the URL requests, one of `MEASURES`, and `find_chart_title` returns its title.
`draw_cached_share` returns the chart of input tokens that were read from a cache. `sum_periods_by_provider` and
`count_tokens_by_kind` return sums for charts.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import structs

from anthropic_proxy.dashboard import formats
from anthropic_proxy.dashboard.page_context import PageContext
from anthropic_proxy.dashboard.periods import (
    DrawnChart,
    Periods,
    draw_group_chart,
    draw_percentage_chart,
    draw_stacked_chart,
)
from anthropic_proxy.ledger import dashboard_queries as queries
from anthropic_proxy.ledger.dashboard_queries import ModelPeriod, PeriodSums
from anthropic_proxy.ledger.model_costs import ModelCosts
from anthropic_proxy.ledger.sums import UsageSums, add_up, add_up_groups

MEASURES = (("", "Cost"), ("provider", "By provider"), ("tokens", "Tokens"), ("requests", "Requests"))
"""Pairs: measure as value of `by` in the URL, and title of its chart."""
_KINDS = {
    "cache_read": ("cache read", "cache-read"),
    "cache_write": ("cache write", "cache-write"),
    "input": ("input", "input"),
    "output": ("output", "output"),
    "thinking": ("thinking", "thinking"),
    "": ("price unknown today", "others"),
}
"""Kind of token → (name, CSS class of the color), from the bottom of a bar to its top."""
OUTCOME_TITLES = {
    "ok": ("succeeded", "ok"),
    "retried": ("retried", "input"),
    "truncated": ("truncated", "warn"),
    "error": ("failed", "error"),
    "cancelled": ("cancelled", "others"),
}
"""Value of `outcome_class` → (name, CSS class of the color)."""


def find_chart_title(measure: str) -> str:
    """Return the title of a usage chart. `measure`: value of `by` in the URL, such as `tokens`."""
    return "Cost" if measure == "provider" else dict(MEASURES).get(measure, "Cost")


def draw_usage(context: PageContext, periods: Periods, model_periods: Sequence[ModelPeriod]) -> DrawnChart:
    """Return the chart of cost, tokens or requests that the URL parameter `by` requests.

    `model_periods` has the sums of each model in each period.
    """
    measure = context.query.measure
    if measure == "tokens":
        return _kinds(periods, model_periods, lambda one: count_tokens_by_kind(one.model.sums), formats.short_count)
    if measure == "requests":
        rows = queries.sum_periods(
            context.connection, context.model_selection, periods.seconds, "outcome_class", ("requests",)
        )
        return draw_group_chart(periods, rows, lambda sums: sums.requests, formats.count, OUTCOME_TITLES)
    costs = ModelCosts(context.settings)
    if measure == "provider":
        names = {one.model.provider for one in model_periods if one.model.provider}
        drawn = draw_group_chart(
            periods,
            sum_periods_by_provider(model_periods),
            lambda sums: sums.cost,
            formats.chart_money,
            {name: (costs.find_prefix(name), formats.provider_role(name)) for name in names},
        )
    else:
        drawn = _kinds(
            periods,
            model_periods,
            lambda one: costs.divide_cost(one.model.provider, one.model.model, one.model.sums),
            formats.chart_money,
        )
    return structs.replace(drawn, empty_text=explain_missing_cost(add_up(one.model.sums for one in model_periods)))


def explain_missing_cost(sums: UsageSums) -> str:
    """Return the text in the place of a chart of costs, if no cost above zero is known."""
    if not sums.requests:
        return "No requests in this range."
    return "No price of the used models is known." if sums.unknown_cost_requests else "All requests were free."


def sum_periods_by_provider(model_periods: Iterable[ModelPeriod]) -> list[PeriodSums]:
    """Return the sums of each provider in each period, such as an hour.

    `model_periods` has the sums of each model in each period.
    """
    found = add_up_groups(((one.start, one.model.provider), one.model.sums) for one in model_periods)
    return [PeriodSums(start, provider, sums) for (start, provider), sums in found.items()]


def count_tokens_by_kind(sums: UsageSums) -> dict[str, int]:
    """Return the number of tokens of each kind in `sums`.

    The kinds are input from a cache, input written to a cache, other input, thinking, and other output.
    """
    thinking = min(sums.thinking_tokens, sums.output_tokens)
    return {
        "cache_read": sums.cache_read_tokens,
        "cache_write": sums.cache_write_tokens,
        "input": sums.input_tokens,
        "output": sums.output_tokens - thinking,
        "thinking": thinking,
    }


def draw_cached_share(periods: Periods, sums: Sequence[UsageSums]) -> DrawnChart:
    """Return a chart with the percentage of input tokens that were read from a cache, over time."""
    shares = [None if one.cached_input_share is None else 100 * one.cached_input_share for one in sums]
    return draw_percentage_chart(periods, "input read from cache", "cached", shares)


def _kinds(
    periods: Periods,
    by_model: Sequence[ModelPeriod],
    divide: Callable[[ModelPeriod], Mapping[str, int]],
    text: Callable[[float], str],
) -> DrawnChart:
    values: dict[str, dict[int, float]] = {kind: {} for kind in _KINDS}
    for one in by_model:
        for kind, amount in divide(one).items():
            values[kind][one.start] = values[kind].get(one.start, 0) + amount
    return draw_stacked_chart(periods, {_KINDS[kind]: found for kind, found in values.items()}, text)
