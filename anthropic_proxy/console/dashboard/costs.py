"""Page Costs: what the requests of a range cost by day or by a facet, also divided by a second facet."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any

from msgspec import Struct, structs

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
    build_verdict,
    compare_with_previous_range,
    memoize_result,
)
from anthropic_proxy.console.dashboard.query import ViewQuery
from anthropic_proxy.console.dashboard.tables import (
    CACHED,
    COST,
    INPUT,
    OUTPUT,
    REQUESTED_COST,
    REQUESTS,
    Cell,
    Names,
    ShareBar,
    Table,
    TableColumn,
    build_table,
    name_providers,
    name_value,
    sort_rows,
)
from anthropic_proxy.console.ledger.costs import MissingPrices, ModelCosts, count_unknown, find_missing_prices
from anthropic_proxy.console.ledger.export import ExportTable, tabulate_usage
from anthropic_proxy.console.ledger.forecasts import describe_month
from anthropic_proxy.console.ledger.queries import (
    UsageGroup,
    add_up_periods,
    expect_month_cost,
    sum_model_periods,
    sum_models,
    sum_periods,
    sum_usage,
)
from anthropic_proxy.console.ledger.records import FACETS, SPLIT_NAMES, UsageSums, add_up, name_missing
from anthropic_proxy.console.ledger.request_queries import find_prompt_starts, sum_sessions
from anthropic_proxy.console.session_names import find_names
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.money import format_cost

DEFAULT_GROUP = "project"
GROUPS = ("day", *(name for name, facet in FACETS.items() if facet.is_group and name != "session"))
"""Values of the parameter `by`: `day`, and facets. Sessions have a page of their own."""
NOUNS = {name: "requested model" if name == "requested" else name for name in GROUPS}
_OF_MODELS = ("day", "model")
"""Values of `by` with a chart of models."""
MAX_ROWS = 200


class CostRow(Struct, frozen=True):
    group: UsageGroup
    name: str = ""
    note: str = ""
    part: str = ""
    href: str = ""
    share: ShareBar = ShareBar(formats.UNKNOWN, None, "")

    @property
    def sums(self) -> UsageSums:
        return self.group.sums


def _show_mean(row: CostRow) -> str:
    sums = row.sums
    mean = format_cost(round(sums.cost / sums.requests), sums.unknown_cost_requests)
    return mean if sums.all_tokens else formats.UNKNOWN


_COLUMNS: Sequence[TableColumn[CostRow]] = (
    TableColumn("name", "", lambda row: Cell(text=row.name, href=row.href, note=row.note), style="a-what quiet wrap"),
    REQUESTS,
    INPUT,
    CACHED,
    OUTPUT,
    TableColumn("mean", "Per request", _show_mean, lambda row: row.sums.cost / row.sums.requests, "Cost per request"),
    REQUESTED_COST,
    COST,
    TableColumn("share", "Share", lambda row: Cell(bars=[row.share]), is_number=True, style="context"),
)

_PART = TableColumn[CostRow]("part", "", lambda row: row.part, style="wrap")


def find_group_name(context: PageContext) -> str:
    """Return the name from `GROUPS` in the URL. Raises `InvalidRequest` for another value."""
    name = context.query.measure or DEFAULT_GROUP
    if name not in GROUPS:
        raise InvalidRequest(f"by: {name[:40]!r} is not allowed; use {', '.join(GROUPS)}.", code="dashboard-parameter")
    return name


def find_split_name(context: PageContext) -> str | None:
    """Return the facet of the URL by which each group is divided. Raises `InvalidRequest` for another value."""
    name = context.query.split
    if name and name not in SPLIT_NAMES:
        raise InvalidRequest(
            f"split: {name[:40]!r} is not allowed; use {', '.join(SPLIT_NAMES)}.", code="dashboard-parameter"
        )
    return name or None


def build_costs_page(context: PageContext) -> Mapping[str, Any]:
    by, split, query = find_group_name(context), find_split_name(context), context.query
    periods = divide_range(context.charted_query, by_day=by == "day")
    names = name_providers(context.settings)
    # one query for table and chart: single requests, which a prompt needs, are slow to read
    by_period = memoize_result(
        lambda: sum_periods(context.connection, context.model_selection, periods.seconds, FACETS[by].column)
    )
    groups = memoize_result(
        lambda: (
            sum_usage(context.connection, context.model_selection, by)
            if by in _OF_MODELS
            else add_up_periods(by_period())
        )
    )
    total = memoize_result(lambda: add_up(group.sums for group in groups()))
    parts = memoize_result(
        lambda: sum_usage(context.connection, context.model_selection, by, split=split) if split else groups()
    )

    def list_costs() -> Table:
        # the latest day first, others by cost
        listed = sorted(parts(), key=attrgetter("name"), reverse=True) if by == "day" else parts()
        chosen = sort_rows([CostRow(group) for group in listed], _COLUMNS, query.order)[:MAX_ROWS]
        notes = _describe_prompts(context, [one.group.name for one in chosen]) if by == "prompt" else {}
        # shares of 90 days are all about 1 %
        whole = max((one.sums.cost for one in chosen), default=0) if by == "day" else total().cost
        shown = []
        for group in (one.group for one in chosen):
            note = name_value("provider", group.provider, names) if group.provider else notes.get(group.name, "")
            name, part = _name_group(names, by, group), _name_part(names, split, group)
            share = _find_share(group.sums, whole, total().cost, by)
            shown.append(CostRow(group, name, note, part, _link_to_requests(query, by, split, group), share))
        columns = [structs.replace(_COLUMNS[0], title=NOUNS[by].capitalize()), *_COLUMNS[1:]]
        if split:
            columns.insert(1, structs.replace(_PART, title=NOUNS[split].capitalize()))
        return build_table(
            f"Costs by {NOUNS[by]}{f' and {NOUNS[split]}' if split else ''}",
            columns,
            shown,
            query=query,
            order=query.order or ("" if by == "day" or split else "-cost"),
            default_order=f"{NOUNS[by]}, highest cost first" if split and by != "day" else "day, latest first",
        )

    def summarize() -> str:
        text = _summarize_costs(context, total())
        now = datetime.fromtimestamp(context.now, UTC)
        expected = expect_month_cost(context.connection, context.model_selection, now, ignores_range=True)
        if expected is not None:
            text += f" At the end of {describe_month(context.now)}, about {format_cost(expected)} are expected."
        largest = max(groups(), key=lambda group: group.sums.cost, default=None)
        if largest is None or not largest.sums.cost or len(groups()) < 2:
            return text
        name, share = _name_group(names, by, largest), formats.percent(largest.sums.cost, total().cost)
        return f"{text} Largest {NOUNS[by]}: {name}, {format_cost(largest.sums.cost)} ({share})."

    def chart_costs() -> Chart:
        if by in _OF_MODELS:
            models = sum_model_periods(context.connection, context.model_selection, periods.seconds)
            drawn = chart_models(periods, models, lambda sums: sums.cost, formats.chart_money)
        else:
            shown = {row.group for row in by_period()} - {""} if by == "provider" else ()
            roles = {name: (name_value("provider", name, names), formats.provider_role(name)) for name in shown}
            drawn = chart_groups(
                periods, by_period(), lambda sums: sums.cost, formats.chart_money, roles, missing=name_missing(by)
            )
        return structs.replace(drawn, empty_text=explain_missing_cost(total()))

    def list_missing_prices() -> MissingPrices | None:
        if not total().unknown_cost_requests:
            return None
        models = sum_models(context.connection, context.model_selection)
        return find_missing_prices(ModelCosts(context.settings), models)

    table = build_panel(context, "the costs", list_costs)
    return {
        "verdict": build_verdict(context, summarize),
        "by": by,
        "noun": NOUNS[by],
        "options": [(name, noun.capitalize()) for name, noun in NOUNS.items()],
        "split": split or "",
        "splits": [("", "Nothing"), *((name, NOUNS[name].capitalize()) for name in SPLIT_NAMES if name != by)],
        "missing_prices": build_panel(context, "missing prices", list_missing_prices),
        "table": table,
        "hidden": 0 if isinstance(table, FailedPanel) else len(parts()) - len(table.rows),
        "chart": build_panel(context, "costs", chart_costs),
        "chart_title": f"Cost per {periods.length_name} and {'model' if by == 'day' else NOUNS[by]}",
        "is_empty": not context.facts.requests and context.can_read,
    }


def _summarize_costs(context: PageContext, sums: UsageSums) -> str:
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
    elif sums.cost and (compared := compare_with_previous_range(context, context.model_selection, "cost", sums.cost)):
        verdict += f", {compared}"
    return f"{verdict}."


def _find_share(sums: UsageSums, whole: int, total: int, by: str) -> ShareBar:
    is_unknown = sums.unknown_cost_requests and not sums.cost
    text = formats.UNKNOWN if is_unknown else formats.percent(sums.cost, total)
    words = "of the most expensive day" if by == "day" else "of all costs"
    return ShareBar(text, sums.cost / whole if sums.cost else None, words)


def _link_to_requests(query: ViewQuery, by: str, split: str | None, group: UsageGroup) -> str:
    facets, provider = dict(query.facets), group.provider
    if split:
        facets[split], provider = group.part[-1], group.part[0] if split == "model" else provider
    if by != "day":
        facets[by] = group.name
    if "model" in (by, split):
        facets["provider"] = provider
    query = structs.replace(query, facets=facets)
    if by == "day":
        day = datetime.fromisoformat(group.name)
        start, end = (int((day + timedelta(days=count)).astimezone().timestamp()) for count in (0, 1))
        return query.link_to_requests(start, end)
    return query.link("/dashboard/requests", measure="", order="")


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
    by, split = find_group_name(context), find_split_name(context)
    groups = sum_usage(context.connection, context.model_selection, by, split=split)
    return tabulate_usage(context.settings, by, groups, split)


def _name_group(names: Names, by: str, group: UsageGroup) -> str:
    if by != "day":
        return name_value(by, group.name, names) if group.name else name_missing(by)
    day = datetime.fromisoformat(group.name)
    return f"{day:%a}, {day.day} {day:%b}"


def _name_part(names: Names, split: str | None, group: UsageGroup) -> str:
    return (
        name_value(split, group.part[-1], names) if split and group.part[-1] else name_missing(split) if split else ""
    )


PAGE = Page(section="Costs", template="costs.html", build=build_costs_page, tables={"costs": PageTable(tabulate_costs)})
