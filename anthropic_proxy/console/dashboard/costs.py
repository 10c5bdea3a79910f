"""Page Costs: what the requests of a range cost by day or by a facet, also divided by a second facet."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
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
    Page,
    PageContext,
    PageTable,
    build_panel,
    build_verdict,
    compare_with_previous_range,
    memoize_result,
)
from anthropic_proxy.console.dashboard.panels import FailedPanel
from anthropic_proxy.console.dashboard.tables import (
    Cell,
    Names,
    ShareBar,
    Table,
    TableColumn,
    build_table,
    measure_column,
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
from anthropic_proxy.console.units import find_midnight
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.money import format_cost

DEFAULT_GROUP = "project"
GROUPS = ("day", *(name for name, facet in FACETS.items() if facet.is_group and name != "session"))
"""Values of the parameter `by`: `day`, and facets. Sessions have a page of their own."""
NOUNS = {name: "requested model" if name == "requested" else name.replace("-", " ") for name in GROUPS}
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


_COLUMNS: Sequence[TableColumn[CostRow]] = (
    TableColumn("name", "", lambda row: Cell(text=row.name, href=row.href, note=row.note), style="a-what quiet wrap"),
    measure_column("requests"),
    measure_column("input"),
    measure_column("cached"),
    measure_column("output"),
    measure_column("mean"),
    measure_column("requested"),
    measure_column("cost"),
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
        allowed = ", ".join(SPLIT_NAMES)
        raise InvalidRequest(f"split: {name[:40]!r} is not allowed; use {allowed}.", code="dashboard-parameter")
    return name or None


def build_costs_page(context: PageContext) -> Mapping[str, Any]:
    panels = _Panels(context)
    by = panels.by
    split = panels.split
    table = build_panel(context, "the costs", panels.list_costs)
    measure = "Tokens" if build_panel(context, "the sums", lambda: panels.has_no_cost) is True else "Cost"
    return {
        "verdict": build_verdict(context, panels.summarize),
        "by": by,
        "noun": NOUNS[by],
        "options": [(name, noun.capitalize()) for name, noun in NOUNS.items()],
        "split": split or "",
        "splits": [("", "Nothing"), *((name, NOUNS[name].capitalize()) for name in SPLIT_NAMES if name != by)],
        "missing_prices": build_panel(context, "missing prices", panels.list_missing_prices),
        "table": table,
        "hidden": 0 if isinstance(table, FailedPanel) else len(panels.parts()) - len(table.rows),
        "chart": build_panel(context, "costs", panels.chart_costs),
        "chart_title": f"{measure} per {panels.periods.length_name} and {'model' if by == 'day' else NOUNS[by]}",
        "is_empty": not context.facts.requests and context.can_read,
    }


class _Panels:
    """Panels of the page. A database query that several of them need runs at most once."""

    def __init__(self, context: PageContext) -> None:
        self.context = context
        self.query = context.query
        self.by = find_group_name(context)
        self.split = find_split_name(context)
        self.periods = divide_range(context.charted_query, by_day=self.by == "day")
        self.names = name_providers(context.settings)
        connection = context.connection
        selection = context.model_selection
        by = self.by
        split = self.split
        # one query for table and chart: single requests, which a prompt needs, are slow to read
        self.by_period = memoize_result(
            lambda: sum_periods(connection, selection, self.periods.seconds, FACETS[by].column)
        )
        self.groups = memoize_result(
            lambda: sum_usage(connection, selection, by) if by in _OF_MODELS else add_up_periods(self.by_period())
        )
        self.total = memoize_result(lambda: add_up(group.sums for group in self.groups()))
        self.parts = memoize_result(
            lambda: sum_usage(connection, selection, by, split=split) if split else self.groups()
        )

    def list_costs(self) -> Table:
        by = self.by
        split = self.split
        query = self.query
        # the latest day first, others by cost
        listed = sorted(self.parts(), key=attrgetter("name"), reverse=True) if by == "day" else self.parts()
        chosen = sort_rows([CostRow(group) for group in listed], _COLUMNS, query.order)[:MAX_ROWS]
        notes = _describe_prompts(self.context, [row.group.name for row in chosen]) if by == "prompt" else {}
        # shares of 90 days are all about 1 %
        whole = max((row.sums.cost for row in chosen), default=0) if by == "day" else self.total().cost
        words = "of the most expensive day" if by == "day" else "of all costs"
        shown = []
        for group in (row.group for row in chosen):
            note = notes.get(group.name, "")
            if group.provider:
                note = name_value("provider", group.provider, self.names)
            part = _name_facet(self.names, split, group.part[-1]) if split else ""
            cost = group.sums.cost
            is_unknown = group.sums.unknown_cost_requests and not group.sums.cost
            text = formats.UNKNOWN if is_unknown else formats.percent(cost, self.total().cost)
            share = ShareBar(text, cost / whole if cost else None, words)
            shown.append(CostRow(group, self.name_group(group), note, part, self.link_to_requests(group), share))
        columns = [structs.replace(_COLUMNS[0], title=NOUNS[by].capitalize()), *_COLUMNS[1:]]
        caption = f"Costs by {NOUNS[by]}"
        if split:
            columns.insert(1, structs.replace(_PART, title=NOUNS[split].capitalize()))
            caption += f" and {NOUNS[split]}"
        order = query.order or ("" if by == "day" or split else "-cost")
        default = f"{NOUNS[by]}, highest cost first" if split and by != "day" else "day, latest first"
        return build_table(caption, columns, shown, query=query, order=order, default_order=default)

    def name_group(self, group: UsageGroup) -> str:
        if self.by != "day":
            return _name_facet(self.names, self.by, group.name)
        day = datetime.fromisoformat(group.name)
        return f"{day:%a}, {day.day} {day:%b}"

    def link_to_requests(self, group: UsageGroup) -> str:
        by = self.by
        split = self.split
        facets = dict(self.query.facets)
        provider = group.provider
        if split:
            facets[split] = group.part[-1]
        if split == "model":
            provider = group.part[0]
        if by != "day":
            facets[by] = group.name
        if "model" in (by, split):
            facets["provider"] = provider
        query = structs.replace(self.query, facets=facets)
        if by == "day":
            day = date.fromisoformat(group.name)
            start, end = (int(find_midnight(one).timestamp()) for one in (day, day + timedelta(days=1)))
            return query.link_to_requests(start, end)
        return query.link("/dashboard/requests", measure="", order="")

    def summarize(self) -> str:
        context = self.context
        groups = self.groups()
        total = self.total()
        text = _summarize_costs(context, total)
        now = datetime.fromtimestamp(context.now, UTC)
        expected = expect_month_cost(context.connection, context.model_selection, now, ignores_range=True)
        if expected is not None:
            text += f" At the end of {describe_month(context.now)}, about {format_cost(expected)} are expected."
        largest = max(groups, key=lambda group: group.sums.cost, default=None)
        if largest is None or not largest.sums.cost or len(groups) < 2:
            return text
        name = self.name_group(largest)
        share = formats.percent(largest.sums.cost, total.cost)
        return f"{text} Largest {NOUNS[self.by]}: {name}, {format_cost(largest.sums.cost)} ({share})."

    @property
    def has_no_cost(self) -> bool:
        """True if the requests have used tokens, but none of them has a known cost above 0."""
        return self.total().has_replies and not self.total().cost

    def chart_costs(self) -> Chart:
        """Without costs, the chart shows tokens."""
        by = self.by
        periods = self.periods
        find, show = (_find_tokens, formats.short_count) if self.has_no_cost else (_find_cost, formats.chart_money)
        if by in _OF_MODELS:
            models = sum_model_periods(self.context.connection, self.context.model_selection, periods.seconds)
            drawn = chart_models(periods, models, find, show)
        else:
            shown = {row.group for row in self.by_period()} - {""} if by == "provider" else ()
            roles = {name: (name_value("provider", name, self.names), formats.provider_role(name)) for name in shown}
            missing = name_missing(by)
            drawn = chart_groups(periods, self.by_period(), find, show, roles, missing=missing)
        return structs.replace(drawn, empty_text=explain_missing_cost(self.total()))

    def list_missing_prices(self) -> MissingPrices | None:
        if not self.total().unknown_cost_requests:
            return None
        models = sum_models(self.context.connection, self.context.model_selection)
        return find_missing_prices(ModelCosts(self.context.settings), models)


def _find_cost(sums: UsageSums) -> float:
    return sums.cost


def _find_tokens(sums: UsageSums) -> float:
    return sums.all_tokens


def _summarize_costs(context: PageContext, sums: UsageSums) -> str:
    if not sums.requests:
        return "No requests in this range."
    if not sums.has_replies:
        return f"{formats.plural(sums.requests, 'request')} without a reply of a model, and so without a cost."
    if not sums.cost and sums.unknown_cost_requests:
        return f"The cost of {count_unknown(sums)} is unknown."
    requests = formats.plural(sums.requests, "request")
    free = "was" if sums.requests == 1 else "were"
    verdict = f"{requests} {'cost' if sums.cost else free} {format_cost(sums.cost)}"
    if sums.unknown_cost_requests:
        verdict += f"; the cost of {sums.unknown_cost_requests:,} of them is unknown"
    elif sums.cost and (compared := compare_with_previous_range(context, context.model_selection, "cost", sums.cost)):
        verdict += f", {compared}"
    return f"{verdict}."


def _name_facet(names: Names, facet: str, value: str) -> str:
    return name_value(facet, value, names) if value else name_missing(facet)


def _describe_prompts(context: PageContext, prompts: Sequence[str]) -> Mapping[str, str]:
    """Return prompt → name of its session, and time of its first request."""
    starts = find_prompt_starts(context.connection, [prompt for prompt in prompts if prompt])
    sessions = sum_sessions(context.connection, {session for session, _ in starts.values()} - {""})
    names = find_names(context.connection, sessions)
    return {
        prompt: " · ".join(filter(None, (names.get(session, session), formats.day_and_time(started))))
        for prompt, (session, started) in starts.items()
    }


def tabulate_costs(context: PageContext) -> ExportTable:
    by = find_group_name(context)
    split = find_split_name(context)
    groups = sum_usage(context.connection, context.model_selection, by, split=split)
    return tabulate_usage(context.settings, by, groups, split)


PAGE = Page(section="Costs", template="costs.html", build=build_costs_page, tables={"costs": PageTable(tabulate_costs)})
