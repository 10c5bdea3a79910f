"""Page Activity: what the metrics of Claude Code state about the work of people, beside its cost."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct, structs

from anthropic_proxy.console import formats
from anthropic_proxy.console.client_variables import list_telemetry_variables
from anthropic_proxy.console.dashboard.charts import Chart, Periods, chart_sums, divide_range
from anthropic_proxy.console.dashboard.costs import NOUNS
from anthropic_proxy.console.dashboard.page import (
    Page,
    PageContext,
    PageTable,
    build_panel,
    build_verdict,
    memoize_result,
)
from anthropic_proxy.console.dashboard.tables import (
    Cell,
    Table,
    TableColumn,
    build_table,
    name_providers,
    name_value,
    sort_rows,
)
from anthropic_proxy.console.ledger.activity import Activity, add_up_activity
from anthropic_proxy.console.ledger.activity_queries import add_activity, has_activity, sum_activity_hours
from anthropic_proxy.console.ledger.export import ACTIVITY_TITLES, ExportTable, list_activity, to_dollars
from anthropic_proxy.console.ledger.periods import find_period_number, find_period_start
from anthropic_proxy.console.ledger.queries import UsageGroup, sum_usage
from anthropic_proxy.console.ledger.records import UsageSums, name_missing
from anthropic_proxy.console.measures import find_cost_per_commit, format_cost_per_commit, format_sums
from anthropic_proxy.console.units import HOUR_SECONDS, MICROSECONDS
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.permissions import may

GROUPS = ("owner", "team", "cost-center", "project", "key", "requested", "day")
"""Values of the parameter `by`. Sessions have a page of their own."""
_NOUNS = {name: NOUNS[name] for name in GROUPS}
MAX_ROWS = 200


class ActivityRow(Struct, frozen=True):
    group: UsageGroup
    activity: Activity
    name: str = ""
    href: str = ""

    @property
    def sums(self) -> UsageSums:
        return self.group.sums


def _count(name: str, title: str, description: str = "", style: str = "") -> TableColumn[ActivityRow]:
    def find(row: ActivityRow) -> int:
        found: int = getattr(row.activity, name)
        return found

    return TableColumn(
        name, title, lambda row: formats.count(find(row)), find, description, style=style, phone_label=title.lower()
    )


def _show_name(row: ActivityRow) -> Cell:
    commits = formats.plural(row.activity.commits, "commit")
    return Cell(text=row.name, href=row.href, phone_note=f"{row.activity.lines_removed:,} lines removed, {commits}")


def _format_time(row: ActivityRow) -> str:
    """The time of the person alone: tools and models of several sessions run at the same time."""
    seconds = row.activity.user_microseconds / MICROSECONDS
    return formats.whole_time(seconds) if seconds else formats.UNKNOWN


_COLUMNS: Sequence[TableColumn[ActivityRow]] = (
    TableColumn("name", "", _show_name, style="a-what quiet wrap"),
    _count("lines_added", "Lines added", style="a-count"),
    _count("lines_removed", "Lines removed"),
    TableColumn(
        "accepted",
        "Edits accepted",
        lambda row: formats.percent(
            row.activity.edits_accepted, row.activity.edits_accepted + row.activity.edits_rejected
        ),
        lambda row: row.activity.accepted_share,
    ),
    _count("commits", "Commits"),
    _count("pull_requests", "Pull requests"),
    TableColumn("time", "Active time", _format_time, lambda row: row.activity.user_microseconds),
    TableColumn(
        "commit_cost",
        "Cost per commit",
        lambda row: format_cost_per_commit(row.sums, row.activity),
        lambda row: find_cost_per_commit(row.sums, row.activity),
    ),
    TableColumn("cost", "Cost", lambda row: format_sums(row.sums), lambda row: row.sums.cost, style="a-cost"),
)


def build_activity_page(context: PageContext) -> Mapping[str, Any]:
    panels = _Panels(context)
    period = panels.periods.length_name
    return {
        "verdict": build_verdict(context, panels.summarize),
        "by": panels.by,
        "noun": _NOUNS[panels.by],
        "options": [(name, noun.capitalize()) for name, noun in _NOUNS.items()],
        "table": build_panel(context, "the work", panels.list_rows),
        "lines": build_panel(context, "lines", panels.chart_lines),
        "lines_title": f"Lines per {period}",
        "commits": build_panel(context, "commits", panels.chart_commits),
        "commits_title": f"Commits and pull requests per {period}",
        "is_empty": build_panel(context, "the sums", lambda: has_activity(context.connection)) is False,
        "is_stored": context.settings.ledger_activity,
        "may_turn_on": may(context.rights.role, "read the setup"),
        **_describe_variables(context),
    }


def _describe_variables(context: PageContext) -> Mapping[str, Any]:
    """Return the lines of `anthropic-proxy.toml`, and those of a shell. Only people with keys get managed settings."""
    settings = context.settings
    needs_key = settings.requires_client_key
    lines = [f'{name} = "{value}"' for name, value in list_telemetry_variables(context.address, "").items()]
    variables = list_telemetry_variables(context.address, "KEY" if needs_key else "")
    return {
        "snippet": "\n".join(('[managed_settings."*".env]', *lines)) if settings.virtual_keys else "",
        "variables": "\n".join(f'export {name}="{value}"' for name, value in variables.items()),
        "needs_key": needs_key,
    }


class _Panels:
    """Panels of the page. A database query that several of them need runs at most once."""

    def __init__(self, context: PageContext) -> None:
        self.context = context
        self.by = find_group_name(context)
        self.periods: Periods = divide_range(context.charted_query, by_day=self.by == "day")
        self.names = name_providers(context.settings)
        self.hours = memoize_result(lambda: sum_activity_hours(context.connection, context.model_selection))
        self.rows = memoize_result(lambda: _list_groups(context, self.by))
        self.total = memoize_result(lambda: add_up_activity(self.hours().values()))

    def list_rows(self) -> Table:
        by, query = self.by, self.context.query
        listed = self.rows()[::-1] if by == "day" else self.rows()
        chosen = sort_rows(listed, _COLUMNS, query.order)[:MAX_ROWS]
        shown = [structs.replace(row, name=self.name_group(row.group), href=self.link(row.group)) for row in chosen]
        columns = [structs.replace(_COLUMNS[0], title=_NOUNS[by].capitalize()), *_COLUMNS[1:]]
        order = query.order or ("" if by == "day" else "-lines_added")
        default = "day, latest first" if by == "day" else "lines added, highest first"
        return build_table(f"Work by {_NOUNS[by]}", columns, shown, query=query, order=order, default_order=default)

    def name_group(self, group: UsageGroup) -> str:
        if self.by == "day":
            day = datetime.fromisoformat(group.name)
            return f"{day:%a}, {day.day} {day:%b}"
        return name_value(self.by, group.name, self.names) if group.name else name_missing(self.by)

    def link(self, group: UsageGroup) -> str:
        """ "": a day has no filter."""
        if self.by == "day":
            return ""
        query = self.context.query
        query = structs.replace(query, facets={**query.facets, self.by: group.name})
        return query.link("/dashboard/sessions" if self.by in ("project", "key") else "/dashboard/requests", measure="")

    def summarize(self) -> str:
        total = self.total()
        if total.is_empty:
            return "No work in this range."
        texts = [f"{formats.count(total.lines_added)} lines added", f"{formats.count(total.lines_removed)} removed"]
        texts.append(formats.plural(total.commits, "commit"))
        if total.pull_requests:
            texts.append(formats.plural(total.pull_requests, "pull request"))
        return f"{', '.join(texts)}."

    def chart_lines(self) -> Chart:
        return self._chart({("added", "ok"): _read("lines_added"), ("removed", "cache-write"): _read("lines_removed")})

    def chart_commits(self) -> Chart:
        return self._chart(
            {("commits", "input"): _read("commits"), ("pull requests", "cache-read"): _read("pull_requests")}
        )

    def _chart(self, series: Mapping[tuple[str, str], Callable[[Activity], int]]) -> Chart:
        values: dict[tuple[str, str], dict[int, float]] = {key: {} for key in series}
        length = self.periods.seconds
        for hour, activity in self.hours().items():
            start = find_period_start(find_period_number(hour * HOUR_SECONDS + HOUR_SECONDS - 1, length), length)
            for key, read in series.items():
                values[key][start] = values[key].get(start, 0) + read(activity)
        chart = chart_sums(self.periods, values, formats.count)
        return structs.replace(chart, empty_text="None in this range.")


def _read(name: str) -> Callable[[Activity], int]:
    def read(activity: Activity) -> int:
        found: int = getattr(activity, name)
        return found

    return read


def find_group_name(context: PageContext) -> str:
    """Return the name from `GROUPS` in the URL. Raises `InvalidRequest` for another value."""
    role = context.rights.role
    reads_others = context.settings.virtual_keys and (may(role, "read all requests") or may(role, "read team requests"))
    name = context.query.measure or ("owner" if reads_others else "project")
    if name not in GROUPS:
        raise InvalidRequest(f"by: {name[:40]!r} is not allowed; use {', '.join(GROUPS)}.", code="dashboard-parameter")
    return name


def _list_groups(context: PageContext, by: str) -> Sequence[ActivityRow]:
    """Return the groups of which some work is known."""
    selection = context.model_selection
    groups = add_activity(context.connection, selection, by, sum_usage(context.connection, selection, by))
    rows = [ActivityRow(one, one.activity) for one in groups if one.activity is not None and not one.activity.is_empty]
    return rows if by == "day" else sorted(rows, key=lambda row: -row.activity.lines_added)


def tabulate_activity(context: PageContext) -> ExportTable:
    by = find_group_name(context)
    rows = [
        [row.group.name, *list_activity(row.activity).values(), to_dollars(row.sums.known_cost)]
        for row in _list_groups(context, by)
    ]
    return ExportTable((by, *ACTIVITY_TITLES, "cost"), rows)


PAGE = Page(
    section="Activity",
    template="activity.html",
    build=build_activity_page,
    tables={"activity": PageTable(tabulate_activity)},
)
