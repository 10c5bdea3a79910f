"""Page Models: requests, cost and speed of each model, the model mapping, prices, and a comparison of costs.

`build_models_page` returns the values for the template of the page. `UsedModel` is a model with its requests and times.
The speed is the number of output tokens per second after the first token. The comparison shows the cost that the same
tokens would have had with other models.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, structs

from anthropic_proxy.dashboard import formats
from anthropic_proxy.dashboard.model_prices import compare_costs, describe_price_sources, list_prices
from anthropic_proxy.dashboard.page_context import PageContext
from anthropic_proxy.dashboard.panels import FailedPanel, build_panel, memoize_result
from anthropic_proxy.dashboard.periods import DrawnChart, divide_range, draw_group_chart
from anthropic_proxy.dashboard.sorting import SortableColumn, sort_rows
from anthropic_proxy.dashboard.usage_charts import explain_missing_cost
from anthropic_proxy.ledger import dashboard_queries as queries
from anthropic_proxy.ledger.dashboard_queries import ModelPeriod, ModelSums, PeriodSums
from anthropic_proxy.ledger.histograms import Histogram, find_percentile
from anthropic_proxy.ledger.model_costs import ModelCosts
from anthropic_proxy.ledger.queries import NOT_SENT
from anthropic_proxy.ledger.sums import UsageSums, add_up


class UsedModel(Struct, frozen=True):
    """A model that served requests in the time range, with its requests, times and speed."""

    model: ModelSums
    first_tokens: Histogram
    """Histogram of the times to the first token."""
    durations: Histogram
    """Histogram of the times to the last byte of the reply."""
    speed: float | None
    """Output tokens per second after the first token. None: unknown."""


_MAX_DURATION_HOURS = 31 * 24
"""Maximum length in hours of a time range for which times to the last byte are shown. Reading them from each hour would
double the time of a page about 90 days."""
_MIN_RATED = 5
"""Minimum number of replies of a model for a comparison of its speed with others."""


_COLUMNS: Sequence[SortableColumn[UsedModel]] = (
    SortableColumn("requests", "Requests", lambda one: one.model.sums.requests),
    SortableColumn("errors", "Errors", lambda one: one.model.sums.errors / one.model.sums.requests),
    SortableColumn("tool_errors", "Tool errors", lambda one: one.model.sums.tool_error_share),
    SortableColumn("input", "In", lambda one: one.model.sums.all_input_tokens),
    SortableColumn("cached", "Cached", lambda one: one.model.sums.cached_input_share),
    SortableColumn("output", "Out", lambda one: one.model.sums.output_tokens),
    SortableColumn("p50", "First token p50", lambda one: find_percentile(one.first_tokens, 0.5)),
    SortableColumn("p95", "p95", lambda one: find_percentile(one.first_tokens, 0.95)),
    SortableColumn("total50", "Total p50", lambda one: find_percentile(one.durations, 0.5)),
    SortableColumn("total95", "p95", lambda one: find_percentile(one.durations, 0.95)),
    SortableColumn("speed", "Tokens/s", lambda one: one.speed),
    SortableColumn("requested", "Requested models", lambda one: one.model.sums.requested_cost),
    SortableColumn("cost", "Cost", lambda one: one.model.sums.cost),
)


def build_models_page(context: PageContext) -> Mapping[str, Any]:
    """Return the values for the template of the page Models.

    If a table or chart cannot be built, the page shows a message in its place.
    """
    periods, costs = divide_range(context.charted_query), ModelCosts(context.settings)
    by_period = memoize_result(
        lambda: queries.measure_model_performance(context.connection, context.model_selection, periods.seconds)
    )
    found = memoize_result(lambda: queries.add_up_model_periods(by_period()))
    by_model = memoize_result(lambda: [PeriodSums(one.start, one.model.model, one.model.sums) for one in by_period()])
    total = memoize_result(lambda: add_up(one.sums for one in found()))
    order = context.query.order or "-cost"
    used = build_panel(
        context, "the models", lambda: sort_rows(_collect_used(context, found(), by_period()), _COLUMNS, order)
    )
    verdict = build_panel(context, "the summary", lambda: _summarize(found(), total()))
    if isinstance(verdict, FailedPanel):
        verdict = "The requests of this range cannot be added up."

    def draw_costs() -> DrawnChart:
        drawn = draw_group_chart(
            periods, by_model(), lambda sums: sums.cost, formats.chart_money, _list_model_roles(found())
        )
        return structs.replace(drawn, empty_text=explain_missing_cost(total()))

    return {
        "verdict": verdict + ("" if isinstance(used, FailedPanel) else _name_slowest(costs, used)),
        "columns": _COLUMNS,
        "mapping": context.setup.mapping,
        "rows": used if isinstance(used, FailedPanel) else [_build_row(context, costs, one) for one in used],
        "chart": build_panel(context, "costs", draw_costs),
        "chart_title": f"Cost per {periods.length_name} and model",
        "prices": build_panel(context, "prices", lambda: list_prices(context, costs, found())),
        "price_sources": describe_price_sources(context),
        "comparison": build_panel(
            context, "costs at other models", lambda: compare_costs(context, costs, found(), total())
        ),
        "is_empty": not context.facts.requests and context.can_read,
    }


def _collect_used(
    context: PageContext, found: Sequence[ModelSums], by_period: Sequence[ModelPeriod]
) -> list[UsedModel]:
    """Return each of `found`, the models of the time range, with its histograms of times and its speed."""
    first_tokens = queries.group_latencies(by_period, _find_model)
    durations: Mapping[tuple[int, tuple[str, ...]], Histogram] = {}
    if context.query.hours <= _MAX_DURATION_HOURS:
        by = ("provider", "model")
        durations = queries.collect_latencies(context.connection, context.selection, 0, by, "duration")
    speeds = queries.group_speeds(by_period, _find_model)
    used = []
    for one in found:
        key = one.provider, one.model
        if one.provider:
            used.append(UsedModel(one, first_tokens.get(key, {}), durations.get((0, key), {}), speeds.get(key)))
    return used


def _find_model(one: ModelPeriod) -> tuple[str, str]:
    return one.model.provider, one.model.model


def _name_slowest(costs: ModelCosts, used: Sequence[UsedModel]) -> str:
    """Return a sentence about the model with the longest time to first token (95th percentile).

    "": fewer than two models have `_MIN_RATED` replies. `costs`: names and prefixes of providers.
    """
    enough = [one for one in used if sum(one.first_tokens.values()) >= _MIN_RATED]
    rated = [(find_percentile(one.first_tokens, 0.95), one.model) for one in enough]
    known = [(value, one) for value, one in rated if value is not None]
    if len(known) < 2:
        return ""
    value, slowest = max(known, key=lambda pair: pair[0])
    name = f"{costs.find_prefix(slowest.provider)}/{slowest.model}"
    return f" Slowest: {name}, time to first token p95 {formats.seconds(value)}."


def _summarize(found: Sequence[ModelSums], total: UsageSums) -> str:
    count = sum(bool(one.provider) for one in found)
    verdict = f"{formats.plural(count, 'model')} served {formats.plural(total.requests, 'request')}."
    is_known = not (total.unknown_requested_cost_requests or total.unknown_cost_requests)
    if is_known and total.requested_cost > total.cost:
        saved = formats.money(total.requested_cost - total.cost)
        verdict += f" At the prices of the requested models they would have cost {saved} more."
    return verdict


def _build_row(context: PageContext, costs: ModelCosts, used: UsedModel) -> Mapping[str, str]:
    one = used.model
    sums, facets = one.sums, {**context.query.facets, "provider": one.provider, "model": one.model}
    return {
        "provider": one.provider,
        "prefix": costs.find_prefix(one.provider),
        "model": one.model,
        "requests": formats.count(sums.requests),
        "errors": formats.error_share(sums.errors, sums.requests),
        "tool_errors": formats.error_count_and_share(sums.tool_errors, sums.tool_results),
        "malformed": formats.count(sums.malformed_replies) if sums.malformed_replies else "",
        "input": formats.short_count(sums.all_input_tokens),
        "cached": formats.percent(sums.cache_read_tokens, sums.all_input_tokens),
        "output": formats.short_count(sums.output_tokens),
        "p50": formats.seconds(find_percentile(used.first_tokens, 0.5)),
        "p95": formats.seconds(find_percentile(used.first_tokens, 0.95)),
        "total50": formats.seconds(find_percentile(used.durations, 0.5)),
        "total95": formats.seconds(find_percentile(used.durations, 0.95)),
        "speed": formats.UNKNOWN if used.speed is None else formats.count(used.speed),
        "cost": formats.cost_with_unknown(sums.cost, sums.unknown_cost_requests),
        "requested_cost": formats.cost_with_unknown(sums.requested_cost, sums.unknown_requested_cost_requests),
        "href": context.query.link("/dashboard/requests", facets=facets, measure="", compared="", order=""),
    }


def _list_model_roles(found: Sequence[ModelSums]) -> dict[str, tuple[str, str]]:
    """Return model → (name, CSS class of the color). The first model of a provider has the color of the provider."""
    roles: dict[str, tuple[str, str]] = {}
    free = iter(("cache-read", "cache-write", "input", "output", "others", "others"))
    used: set[str] = set()
    for one in found:
        role = next(free, "others") if one.provider in used else formats.provider_role(one.provider)
        used.add(one.provider)
        roles.setdefault(one.model, (one.model or NOT_SENT, role))
    return roles
