"""Page Models: requests, cost and speed of each model, the model mapping, prices, and a comparison of costs.

The speed is the number of output tokens per second after the first token. The comparison shows the cost that the same
tokens would have had with other models.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from msgspec import Struct, structs

from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.charts import Chart, chart_models, divide_range, explain_missing_cost
from anthropic_proxy.console.dashboard.page import (
    Page,
    PageContext,
    PageTable,
    build_panel,
    build_verdict,
    memoize_result,
)
from anthropic_proxy.console.dashboard.panels import FailedPanel
from anthropic_proxy.console.dashboard.tables import (
    Cell,
    Table,
    TableColumn,
    build_table,
    measure_column,
    sort_rows,
)
from anthropic_proxy.console.ledger import queries
from anthropic_proxy.console.ledger.costs import ModelCosts, calculate_base_cost, find_missing_prices
from anthropic_proxy.console.ledger.export import ExportTable, tabulate
from anthropic_proxy.console.ledger.histograms import Histogram, find_percentile
from anthropic_proxy.console.ledger.queries import ModelPeriod, ModelSums, count_facets
from anthropic_proxy.console.ledger.records import UsageSums, add_up
from anthropic_proxy.console.measures import MEASURES
from anthropic_proxy.gateway.money import format_cost, format_price
from anthropic_proxy.gateway.prices.price_list import Price, describe_price_list
from anthropic_proxy.gateway.settings.facts_file import describe_facts
from anthropic_proxy.gateway.settings.provider_tables import format_price_setting

_MAX_DURATION_HOURS = 31 * 24 + 1  # a month in which clocks are set back has one hour more
"""Maximum length in hours of a time range for which times to the last byte are shown. Reading them from each hour would
double the time of a page about 90 days."""
_MIN_RATED = 5
"""Minimum number of replies of a model for a comparison of its speed with others."""
_OWN_PRICES = "Own prices: anthropic-proxy.toml, [prices]. If a reply states its cost, the request has this cost."
_MAX_REQUESTED = 5
_MAX_COMPARED = 12
_RATES = ("input", "cache_read", "cache_write", "output", "thinking")


class UsedModel(Struct, frozen=True):
    prefix: str
    model: ModelSums
    href: str
    """Link to its requests."""
    first_tokens: Histogram
    durations: Histogram
    """Times to the last byte of the reply."""
    speed: float | None
    """Output tokens per second after the first token. None: unknown."""

    @property
    def sums(self) -> UsageSums:
        return self.model.sums

    @property
    def name(self) -> str:
        return f"{self.prefix}/{self.model.model}"

    def show_tool_errors(self) -> Cell:
        malformed = self.sums.malformed_replies
        note = f"{formats.count(malformed)} malformed" if malformed else ""
        return Cell(text=MEASURES["tool_errors"].show(self.sums), note=note)


def _percentile_column(
    name: str, title: str, find: Callable[[UsedModel], Histogram], share: float, description: str = ""
) -> TableColumn[UsedModel]:
    def measure(row: UsedModel) -> float | None:
        return find_percentile(find(row), share)

    return TableColumn(name, title, lambda row: formats.seconds(measure(row)), measure, description)


_COLUMNS: Sequence[TableColumn[UsedModel]] = (
    TableColumn(
        "model",
        "Model",
        lambda row: Cell(model=(row.prefix, row.model.model, row.model.provider), href=row.href),
        style="a-what quiet",
    ),
    measure_column("requests"),
    measure_column("errors"),
    structs.replace(measure_column("tool_errors"), text=UsedModel.show_tool_errors),
    measure_column("input"),
    measure_column("cached"),
    measure_column("output"),
    _percentile_column("p50", "First token p50", lambda row: row.first_tokens, 0.5),
    _percentile_column("p95", "p95", lambda row: row.first_tokens, 0.95, "First token p95"),
    _percentile_column("total50", "Total p50", lambda row: row.durations, 0.5),
    _percentile_column("total95", "p95", lambda row: row.durations, 0.95, "Total p95"),
    TableColumn("speed", "Tokens/s", lambda row: formats.count(row.speed), lambda row: row.speed),
    measure_column("requested"),
    measure_column("cost"),
)


def build_models_page(context: PageContext) -> Mapping[str, Any]:
    periods = divide_range(context.charted_query)
    query = context.query
    costs = ModelCosts(context.settings)
    connection = context.connection
    chosen = context.model_selection
    by_period = memoize_result(lambda: queries.measure_model_performance(connection, chosen, periods.seconds))
    model_sums = memoize_result(lambda: queries.add_up_model_periods(by_period()))
    total = memoize_result(lambda: add_up(model.sums for model in model_sums()))

    used = memoize_result(lambda: _collect_used(context, costs, model_sums(), by_period()))

    def list_used() -> Table:
        order = query.order or "-cost"
        rows = sort_rows(used(), _COLUMNS, order)
        return build_table("Models used", _COLUMNS, rows, lambda model: model.name, query=query, order=order)

    table = build_panel(context, "the models", list_used)
    verdict = build_verdict(context, lambda: _summarize(model_sums(), total()))

    def chart_costs() -> Chart:
        drawn = chart_models(periods, by_period(), lambda sums: sums.cost, formats.chart_money)
        return structs.replace(drawn, empty_text=explain_missing_cost(total()))

    listed = describe_price_list() or "The package genai-prices is not installed"
    return {
        "verdict": verdict + ("" if isinstance(table, FailedPanel) else _name_slowest(used())),
        "table": table,
        "has_durations": context.query.hours <= _MAX_DURATION_HOURS,
        "mapping": context.setup.mapping,
        "has_malformed": any(model.sums.malformed_replies for model in model_sums()),
        "chart": build_panel(context, "costs", chart_costs),
        "chart_title": f"Cost per {periods.length_name} and model",
        "prices": build_panel(context, "prices", lambda: list_prices(context, costs, model_sums())),
        "price_sources": f"{listed}, {describe_facts(context.settings.facts)}. {_OWN_PRICES}",
        "comparison": build_panel(
            context, "costs at other models", lambda: compare_costs(context, costs, model_sums(), total())
        ),
        "missing_prices": build_panel(context, "missing prices", lambda: find_missing_prices(costs, model_sums())),
        "is_empty": not context.facts.requests and context.can_read,
    }


def _collect_used(
    context: PageContext, costs: ModelCosts, model_sums: Sequence[ModelSums], by_period: Sequence[ModelPeriod]
) -> list[UsedModel]:
    query = context.query
    first_tokens = queries.group_latencies(by_period, _find_model)
    durations: Mapping[tuple[int, tuple[str, ...]], Histogram] = {}
    if context.query.hours <= _MAX_DURATION_HOURS:
        by = ("provider", "model")
        durations = queries.collect_latencies(context.connection, context.model_selection, 0, by, "duration")
    speeds = queries.group_speeds(by_period, _find_model)
    used = []
    for used_model in model_sums:
        key = used_model.provider, used_model.model
        if used_model.provider:
            facets = {**query.facets, "provider": used_model.provider, "model": used_model.model}
            href = query.link("/dashboard/requests", facets=facets, measure="", compared="", order="")
            times = first_tokens.get(key, {}), durations.get((0, key), {})
            used.append(UsedModel(costs.find_prefix(used_model.provider), used_model, href, *times, speeds.get(key)))
    return used


def _find_model(period: ModelPeriod) -> tuple[str, str]:
    return period.model.provider, period.model.model


def _name_slowest(used: Sequence[UsedModel]) -> str:
    enough = [model for model in used if sum(model.first_tokens.values()) >= _MIN_RATED]
    rated = [(find_percentile(model.first_tokens, 0.95), model) for model in enough]
    known = [(value, model) for value, model in rated if value is not None]
    if len(known) < 2:
        return ""
    value, slowest = max(known, key=lambda pair: pair[0])
    return f" Slowest: {slowest.name}, time to first token p95 {formats.seconds(value)}."


def _summarize(model_sums: Sequence[ModelSums], total: UsageSums) -> str:
    if not total.requests:
        return "No requests in this range."
    served = [model.sums.requests for model in model_sums if model.provider]
    verdict = f"{formats.plural(len(served), 'model')} served {formats.plural(sum(served), 'request')}."
    if unsent := total.requests - sum(served):
        verdict += f" {formats.plural(unsent, 'request')} {'was' if unsent == 1 else 'were'} not sent."
    is_known = not (total.unknown_requested_cost_requests or total.unknown_cost_requests)
    if is_known and total.requested_cost > total.cost:
        saved = format_cost(total.requested_cost - total.cost)
        verdict += f" At Claude's prices they would have cost {saved} more."
    return verdict


class PriceRow(Struct, frozen=True):
    provider: str
    prefix: str
    model: str
    rates: Sequence[str] = ()
    """Price as text for each kind of token in `_RATES`. Empty: the price is unknown."""
    long_context: str = ""
    """Prices of requests with a long context, as text. "": they have no other prices."""
    source: str = "unknown"


def list_prices(context: PageContext, costs: ModelCosts, used_models: Sequence[ModelSums]) -> list[PriceRow]:
    replied = [model for model in used_models if model.provider and model.model and model.sums.succeeded]
    used = [(costs.find_prefix(model.provider), model.model) for model in replied]
    names = dict.fromkeys([*used, *_mapped(context)])
    rows = []
    for prefix, model in names:
        row = PriceRow(costs.find_provider_name(prefix), prefix, model)
        if (price := costs.find_price_by_prefix(prefix, model)) is not None:
            longer = "; ".join(
                f"above {above:,} tokens: {format_price(rates.input)} in, {format_price(rates.output)} out"
                for above, rates in price.long_contexts
            )
            rates = [format_price(getattr(price.base, name)) for name in _RATES]
            source = "local: free" if price.source == "local" else price.source
            row = structs.replace(row, rates=rates, long_context=longer, source=source)
        rows.append(row)
    return rows


def compare_costs(
    context: PageContext, costs: ModelCosts, used_models: Sequence[ModelSums], total: UsageSums
) -> Mapping[str, Any] | None:
    """Table that shows how much the used tokens would have cost with other models. None: no tokens were used."""
    if not total.all_tokens:
        return None
    # the actual cost and the other costs are of the same requests: those of models whose prices were always known
    priced = add_up(model.sums for model in used_models if not model.sums.unknown_cost_requests)
    left_out = total.unknown_cost_requests if priced.all_tokens else 0
    total = priced if priced.all_tokens else total
    compared = context.query.compared
    prices = _find_compared_prices(context, costs, used_models)
    rows = {name: calculate_base_cost(price, total) for name, price in prices.items() if price is not None}
    shown = sorted(rows, key=lambda name: (name != compared, rows[name]))[:_MAX_COMPARED]
    problem = ""
    if compared and prices.get(compared) is None:
        prefix, separator, _ = compared.partition("/")
        if not separator:
            problem = f"The price of {compared} is unknown. Add the prefix of its provider: openai/{compared}"
        elif costs.find_provider_name(prefix):
            table = format_price_setting(compared)
            problem = f"The price of {compared} is unknown. Set it in anthropic-proxy.toml: {table}"
        else:
            problem = f"{prefix} is no prefix of a provider. Examples: openai/gpt-4.1-mini, gemini/gemini-2.5-flash."
    return {
        "actual": formats.cost_with_unknown(total.cost, total.unknown_cost_requests),
        "left_out": left_out,
        "compared": total.requests,
        "rows": [_compare(name, rows[name], total) for name in sorted(shown, key=lambda name: (rows[name], name))],
        "asked": compared,
        "problem": problem,
    }


def _find_compared_prices(
    context: PageContext, costs: ModelCosts, used_models: Sequence[ModelSums]
) -> Mapping[str, Price | None]:
    """Return model → price, for the model that the user named, those of the mapping, and those that were used or
    requested. None: unknown.
    """
    compared = context.query.compared
    prices = {compared: costs.find_requested_price(compared, "", "")} if compared else {}
    named = [*_mapped(context), *((costs.find_prefix(used.provider), used.model) for used in used_models)]
    prices |= {f"{prefix}/{model}": costs.find_price_by_prefix(prefix, model) for prefix, model in named}
    counted = count_facets(context.connection, context.model_selection, ("requested_model",), _MAX_REQUESTED)
    requested = [model for model, _ in counted.values["requested_model"] if model.startswith("claude-")]
    return prices | {model: costs.find_requested_price(model, "", "") for model in requested}


class ComparedModel(NamedTuple):
    name: str
    cost: str
    difference: str
    """Difference from the actual cost."""
    is_lower: bool


def _compare(name: str, cost: int, total: UsageSums) -> ComparedModel:
    difference = cost - total.cost
    text = "the same"
    if total.unknown_cost_requests:
        difference = 0
        text = formats.UNKNOWN
    if difference:
        share = f" ({difference / total.cost:+.0%})".replace("%", " %").replace("-", "−") if total.cost else ""
        text = f"{'−' if difference < 0 else '+'}{format_cost(abs(difference))}{share}"
    return ComparedModel(name, format_cost(cost), text, is_lower=difference < 0)


def _mapped(context: PageContext) -> list[tuple[str, str]]:
    targets = [target for mapping in context.setup.mapping for target in (mapping.target, *mapping.fallbacks)]
    names = [target.partition("/") for target in targets if "…" not in target]
    return [(prefix, model) for prefix, _, model in names if model]


def tabulate_models(context: PageContext) -> ExportTable:
    model_sums = queries.sum_models(context.connection, context.model_selection)
    fields = {"provider": lambda used: used.provider, "model": lambda used: used.model}
    return tabulate(fields, model_sums, lambda used: used.sums)


def _tabulate_mapping(context: PageContext) -> ExportTable:
    rows = [
        [mapping.tiers, target, list(mapping.fallbacks) if target == mapping.target else [], reason]
        for mapping in context.setup.mapping
        for target, reason in mapping.replies
    ]
    return ExportTable(["requested", "sent_to", "fallbacks", "setting"], rows)


PAGE = Page(
    section="Models",
    template="models.html",
    build=build_models_page,
    tables={
        "models": PageTable(tabulate_models),
        "mapping": PageTable(_tabulate_mapping, reads_ledger=False),
    },
)
