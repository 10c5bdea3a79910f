"""Page Costs: what the requests of a range cost by day, or by a facet."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from msgspec import structs

from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.charts import (
    Chart,
    chart_groups,
    chart_models,
    divide_range,
    explain_missing_cost,
)
from anthropic_proxy.console.dashboard.page import (
    FailedPanel,
    Page,
    PageContext,
    PageTable,
    build_panel,
    compare_with_previous_range,
    memoize_result,
)
from anthropic_proxy.console.dashboard.tables import (
    Names,
    SortableColumn,
    format_sums,
    name_providers,
    name_value,
    sort_rows,
)
from anthropic_proxy.console.ledger.costs import MissingPrices, ModelCosts, count_unknown, find_missing_prices
from anthropic_proxy.console.ledger.export import ExportTable, tabulate_usage
from anthropic_proxy.console.ledger.queries import UsageGroup, sum_model_periods, sum_models, sum_periods, sum_usage
from anthropic_proxy.console.ledger.records import FACETS, add_up, name_missing
from anthropic_proxy.console.ledger.request_queries import find_prompt_starts, sum_sessions
from anthropic_proxy.console.session_names import find_names
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.money import format_cost

DEFAULT_GROUP = "project"
GROUPS = ("day", *(name for name, facet in FACETS.items() if facet.is_group and name != "session"))
"""Values of the parameter `by`: `day`, and facets. Sessions have a page of their own."""
NOUNS = {name: "requested model" if name == "requested" else name for name in GROUPS}
MAX_ROWS = 200
_COLUMNS: Sequence[SortableColumn[UsageGroup]] = (
    SortableColumn("requests", "Requests", lambda one: one.sums.requests),
    SortableColumn("input", "In", lambda one: one.sums.all_input_tokens),
    SortableColumn("cached", "Cached", lambda one: one.sums.cached_input_share),
    SortableColumn("output", "Out", lambda one: one.sums.output_tokens),
    SortableColumn("mean", "Per request", lambda one: one.sums.cost / one.sums.requests, "Cost per request"),
    SortableColumn(
        "requested",
        "At Claude's prices",
        lambda one: one.sums.requested_cost,
        "Cost at the prices of the requested models",
    ),
    SortableColumn("cost", "Cost", lambda one: one.sums.cost),
)


def find_group_name(context: PageContext) -> str:
    """Return the name from `GROUPS` in the URL. Raises `InvalidRequest` for another value."""
    name = context.query.measure or DEFAULT_GROUP
    if name not in GROUPS:
        raise InvalidRequest(f"by: {name[:40]!r} is not allowed; use {', '.join(GROUPS)}.", code="dashboard-parameter")
    return name


def build_costs_page(context: PageContext) -> Mapping[str, Any]:
    by, query = find_group_name(context), context.query
    periods = divide_range(context.charted_query, by_day=by == "day")
    names = name_providers(context.settings)
    groups = memoize_result(lambda: sum_usage(context.connection, context.model_selection, by))
    total = memoize_result(lambda: add_up(group.sums for group in groups()))

    def list_rows() -> list[Mapping[str, Any]]:
        listed = groups()[::-1] if by == "day" else groups()  # the latest day first, others by cost
        shown = sort_rows(listed, _COLUMNS, query.order)[:MAX_ROWS]
        notes = _describe_prompts(context, [group.name for group in shown]) if by == "prompt" else {}
        # shares of 90 days are all about 1 %
        whole = max((group.sums.cost for group in shown), default=0) if by == "day" else total().cost
        rows: list[Mapping[str, Any]] = []
        for group in shown:
            sums, facets = group.sums, {**query.facets, by: group.name}
            if by == "model":
                facets["provider"] = group.provider
            href = query.link("/dashboard/requests", facets=facets, measure="", order="")
            if by == "day":
                day = datetime.fromisoformat(group.name)
                start, end = (int((day + timedelta(days=count)).astimezone().timestamp()) for count in (0, 1))
                href = query.link_to_requests(start, end)
            mean = requested = formats.UNKNOWN
            if sums.all_tokens:
                mean = format_cost(round(sums.cost / sums.requests), sums.unknown_cost_requests)
                requested = formats.cost_with_unknown(sums.requested_cost, sums.unknown_requested_cost_requests)
            is_unknown = sums.unknown_cost_requests and not sums.cost
            rows.append(
                {
                    "name": _name_group(names, by, group),
                    "note": name_value("provider", group.provider, names)
                    if group.provider
                    else notes.get(group.name, ""),
                    "requests": formats.count(sums.requests),
                    "input": formats.short_count(sums.all_input_tokens),
                    "output": formats.short_count(sums.output_tokens),
                    "cached": formats.percent(sums.cache_read_tokens, sums.all_input_tokens),
                    "mean": mean,
                    "requested": requested,
                    "cost": format_sums(sums),
                    "share": sums.cost / whole if sums.cost else None,
                    "percent": formats.UNKNOWN if is_unknown else formats.percent(sums.cost, total().cost),
                    "href": href,
                }
            )
        return rows

    def summarize() -> str:
        sums = total()
        if not sums.requests:
            return "No requests in this range."
        if not sums.has_replies:
            return f"{formats.plural(sums.requests, 'request')} without a reply of a model, and so without a cost."
        if not sums.cost and sums.unknown_cost_requests:
            return f"The cost of {count_unknown(sums)} is unknown."
        requests, free = formats.plural(sums.requests, "request"), "was" if sums.requests == 1 else "were"
        verdict = f"{requests} {'cost' if sums.cost else free} {format_cost(sums.cost)}"
        if sums.unknown_cost_requests:
            verdict += f"; the cost of {sums.unknown_cost_requests:,} of them is unknown"
        elif sums.cost and (
            compared := compare_with_previous_range(context, context.model_selection, "cost", sums.cost)
        ):
            verdict += f", {compared}"
        verdict += "."
        largest = max(groups(), key=lambda group: group.sums.cost)
        if largest.sums.cost and len(groups()) > 1:
            name = _name_group(names, by, largest)
            share = formats.percent(largest.sums.cost, sums.cost)
            verdict += f" Largest {NOUNS[by]}: {name}, {format_cost(largest.sums.cost)} ({share})."
        return verdict

    def chart_costs() -> Chart:
        if by in ("model", "day"):
            models = sum_model_periods(context.connection, context.model_selection, periods.seconds)
            drawn = chart_models(periods, models, lambda sums: sums.cost, formats.chart_money)
        else:
            rows = sum_periods(context.connection, context.model_selection, periods.seconds, FACETS[by].column)
            shown = {row.group for row in rows} - {""} if by == "provider" else ()
            roles = {name: (name_value("provider", name, names), formats.provider_role(name)) for name in shown}
            drawn = chart_groups(
                periods, rows, lambda sums: sums.cost, formats.chart_money, roles, missing=name_missing(by)
            )
        return structs.replace(drawn, empty_text=explain_missing_cost(total()))

    def list_missing_prices() -> MissingPrices | None:
        if not total().unknown_cost_requests:
            return None
        return find_missing_prices(
            ModelCosts(context.settings), sum_models(context.connection, context.model_selection)
        )

    verdict = build_panel(context, "the summary", summarize)
    rows = build_panel(context, "the costs", list_rows)
    hidden = 0 if isinstance(rows, FailedPanel) else len(groups()) - len(rows)
    return {
        "verdict": "The requests of this range cannot be added up." if isinstance(verdict, FailedPanel) else verdict,
        "by": by,
        "noun": NOUNS[by],
        "options": [(name, noun.capitalize()) for name, noun in NOUNS.items()],
        "columns": _COLUMNS,
        "order": query.order or ("" if by == "day" else "-cost"),
        "missing_prices": build_panel(context, "missing prices", list_missing_prices),
        "rows": rows,
        "hidden": hidden,
        "chart": build_panel(context, "costs", chart_costs),
        "chart_title": f"Cost per {periods.length_name} and {'model' if by == 'day' else NOUNS[by]}",
        "is_empty": not context.facts.requests and context.can_read,
    }


def _describe_prompts(context: PageContext, prompts: Sequence[str]) -> Mapping[str, str]:
    """Return prompt → name of its session, and time of its first request."""
    found = find_prompt_starts(context.connection, [prompt for prompt in prompts if prompt])
    sessions = sum_sessions(context.connection, {session for session, _ in found.values()} - {""})
    names = find_names(context.connection, sessions)
    return {
        prompt: " · ".join(filter(None, (names.get(session, session), formats.day_and_time(started))))
        for prompt, (session, started) in found.items()
    }


def tabulate_costs(context: PageContext) -> ExportTable:
    by = find_group_name(context)
    return tabulate_usage(context.settings, by, sum_usage(context.connection, context.model_selection, by))


def _name_group(names: Names, by: str, group: UsageGroup) -> str:
    if by != "day":
        return name_value(by, group.name, names) if group.name else name_missing(by)
    day = datetime.fromisoformat(group.name)
    return f"{day:%a}, {day.day} {day:%b}"


PAGE = Page(section="Costs", template="costs.html", build=build_costs_page, tables={"costs": PageTable(tabulate_costs)})
