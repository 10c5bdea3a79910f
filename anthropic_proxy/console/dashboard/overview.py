"""Page Overview: summary, problems, five figures, charts, latest requests and models.

Each panel is built by itself, so that the failure of one leaves the others. Panels share the results of queries.
"""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from markupsafe import Markup, escape
from msgspec import Struct, structs

from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.charts import (
    MAX_SERIES,
    OUTCOME_TITLES,
    Band,
    Chart,
    Series,
    chart_groups,
    chart_lines,
    chart_sums,
    divide_range,
    explain_missing_cost,
    list_percentiles,
)
from anthropic_proxy.console.dashboard.error_kinds import (
    chart_errors,
    describe_failed_attempts,
    find_incidents,
    is_frequent,
    is_share_frequent,
    link_to_failed_attempts,
)
from anthropic_proxy.console.dashboard.models import tabulate_models
from anthropic_proxy.console.dashboard.notices import (
    Notice,
    Problems,
    build_error_notice,
    describe_state,
    list_doctor_notices,
    list_error_groups,
    list_setting_notices,
)
from anthropic_proxy.console.dashboard.page import (
    Figure,
    Page,
    PageContext,
    PageTable,
    build_panel,
    build_verdict,
    compare_with_previous_range,
    memoize_result,
)
from anthropic_proxy.console.dashboard.panels import FailedPanel
from anthropic_proxy.console.dashboard.query import RANGES, title_month
from anthropic_proxy.console.dashboard.tables import (
    Table,
    build_finished_row,
    build_request_table,
    build_running_row,
    count_equal_failures,
)
from anthropic_proxy.console.dashboard.week import WeekGrid, build_week
from anthropic_proxy.console.doctor.evidence import Evidence
from anthropic_proxy.console.ledger import queries
from anthropic_proxy.console.ledger.costs import MissingPrices, ModelCosts, count_unknown, find_missing_prices
from anthropic_proxy.console.ledger.export import ExportTable, format_time, tabulate
from anthropic_proxy.console.ledger.failures import (
    ErrorGroup,
    count_errors,
    count_failed_attempts,
    list_plain_forms,
)
from anthropic_proxy.console.ledger.histograms import Histogram, add_histogram, find_percentile
from anthropic_proxy.console.ledger.queries import ModelPeriod, PeriodSums
from anthropic_proxy.console.ledger.records import (
    NOT_SENT,
    UsageSums,
    add_up,
    add_up_groups,
    describe_claude_cost,
)
from anthropic_proxy.console.ledger.request_queries import list_stored_requests
from anthropic_proxy.console.measures import format_sums
from anthropic_proxy.console.units import HOUR_SECONDS, MICROSECONDS
from anthropic_proxy.engine.advice import ProblemKind, report_warning
from anthropic_proxy.gateway.money import format_cost
from anthropic_proxy.gateway.problems import describe_demo

_USAGE_CHARTS = {
    "": "Cost",
    "provider": "By provider",
    "tokens": "Tokens",
    "requests": "Requests",
}
"""Measure of the chart of usage as value of `by` in the URL → title of the chart."""
_COSTS = ("", "provider")
"""Measures that are amounts of money. They are not offered if no request of the range has a known cost above 0."""
_MAX_LATEST = 10
_MAX_LATEST_READ = 50
"""Number of the latest requests of which equal failures are shown as one."""
_MAX_MODELS = 6
_MIN_HOURS_OF_WEEK = 48
"""Hours of a range from which the page shows the hours of the week."""
_KINDS = {
    "cache_read": ("cache read", "cache-read"),
    "cache_write": ("cache write", "cache-write"),
    "input": ("input", "input"),
    "output": ("output", "output"),
    "thinking": ("thinking", "thinking"),
    "": ("price unknown today", "others"),
}
"""Kind of token → (name, CSS class of the color), from the bottom of a bar to its top."""
_TOKENS = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens")
PLAIN_FORM_SECONDS = 600.0
"""Time before now in which requests in a plain form are counted."""


class _MeasuredSum(Struct, frozen=True):
    """What a chart of usage shows of the requests of an hour."""

    sum_names: Sequence[str]
    """Sums that it needs."""
    value: Callable[[UsageSums], float]
    text: Callable[[float], str]


_COST = _MeasuredSum(("cost",), lambda sums: sums.cost, formats.chart_money)
_COUNTED = {
    "tokens": _MeasuredSum(_TOKENS, lambda sums: sums.all_tokens, formats.short_count),
    "requests": _MeasuredSum(("requests",), lambda sums: sums.requests, formats.count),
}
"""Measure that is no amount of money → its sum."""


def build_overview_page(context: PageContext) -> Mapping[str, Any]:
    query = context.query
    panels = _Panels(context)
    incidents = build_panel(context, "incidents", panels.find_bands)
    bands = [] if isinstance(incidents, FailedPanel) else incidents
    problems = find_problems(context, panels)
    has_demo = any(row.target.startswith("demo/") for row in context.setup.mapping)
    demo = describe_demo(context.settings) if has_demo else ""
    total = build_panel(context, "the sums", panels.add_up)
    has_no_cost = not isinstance(total, FailedPanel) and total.has_replies and not total.cost
    measures = {name: title for name, title in _USAGE_CHARTS.items() if not has_no_cost or name not in _COSTS}
    chosen = query.measure if query.measure in measures else next(iter(measures))
    measure = "Cost" if chosen in _COSTS else measures[chosen]
    length = panels.periods.length_name
    values = {
        "verdict": build_verdict(context, panels.summarize),
        "has_requests": isinstance(total, FailedPanel) or total.requests > 0,
        "state_now": describe_state(problems, demo),
        "notices": problems.failed or problems.open,
        "solved": problems.solved,
        "demo": demo,
        "is_empty": not context.facts.requests and not context.running and context.can_read,
        "figures": build_panel(context, "the figures", panels.build_figures),
        "usage": build_panel(context, "usage", lambda: panels.draw_usage(chosen)),
        "usage_title": f"{measure} per {length}",
        "measures": [*measures.items()],
        "measure": chosen,
        "week": None,
        "speed": build_panel(context, "first tokens", lambda: panels.draw_latencies(bands)),
        "speed_views": (("", "All"), ("provider", "By provider")),
        "errors": build_panel(context, "errors", lambda: chart_errors(panels.periods, panels.errors())),
        "rate": build_panel(context, "the speed of output", panels.draw_speed),
        "errors_title": f"Failed requests per {length}",
        "missing_prices": build_panel(context, "missing prices", panels.find_missing_prices),
        "latest": build_panel(context, "the latest requests", panels.list_latest),
        "models": build_panel(context, "the models", panels.list_models),
    }
    if query.hours < _MIN_HOURS_OF_WEEK:
        return values
    return {
        **values,
        "week": build_panel(context, "hours of the week", lambda: panels.build_week(chosen)),
        "week_title": f"{measure} by weekday and hour",
        "cached": build_panel(context, "cached input", panels.draw_cached_share),
        "cached_title": f"Input read from cache per {length}",
    }


def find_problems(context: PageContext, panels: "_Panels | None" = None) -> Problems:
    """Return the problems of the settings, of the doctor and of requests: what all pages and commands say about whether
    the proxy works now.
    """
    shown = panels or _Panels(context)
    found = build_panel(context, "the problems", shown.list_problems)
    of_settings = list_setting_notices(context)
    if isinstance(found, FailedPanel):
        return Problems(of_settings, [], found)
    is_open = [notice for notice in found if not notice.is_solved]
    return Problems([*of_settings, *is_open], [notice for notice in found if notice.is_solved])


class _Panels:
    """Panels of the page. A database query that several of them need runs at most once."""

    def __init__(self, context: PageContext) -> None:
        connection = context.connection
        chosen = context.model_selection
        self.context = context
        self.costs = ModelCosts(context.settings)
        self.periods = divide_range(context.charted_query)
        seconds = self.periods.seconds
        self.by_model = memoize_result(lambda: queries.measure_model_performance(connection, chosen, seconds))

        def sum_periods() -> dict[int, UsageSums]:
            sums = {start: UsageSums() for start in self.periods.starts}
            sums |= add_up_groups((row.start, row.model.sums) for row in self.by_model())
            return dict(sorted(sums.items()))

        self.sums = memoize_result(sum_periods)
        """Beginning of a period (seconds since the epoch) → sums of all models, in order of time."""
        self.latencies = memoize_result(
            lambda: queries.group_latencies(self.by_model(), lambda row: (row.start, tuple[str, ...]()))
        )
        self.errors = memoize_result(lambda: count_errors(connection, context.selection, seconds))

    def add_up(self) -> UsageSums:
        return add_up(self.sums().values())

    def find_bands(self) -> list[Band]:
        incidents = find_incidents(self.periods, self.errors(), self.by_model(), self.costs)
        return [Band(incident.first, incident.last, incident.label) for incident in incidents]

    def find_missing_prices(self) -> MissingPrices | None:
        return find_missing_prices(self.costs, queries.add_up_model_periods(self.by_model()))

    def summarize(self) -> Markup:
        query = self.context.query
        total = self.add_up()
        name = query.range_name
        spans = {"": "In this range", "1h": "In the last hour", "24h": "In the last 24 hours"}
        spans |= {"today": "Today", "yesterday": "Yesterday"}
        if query.is_month:
            spans[name] = f"In {title_month(name)}"
        span = spans.get(name) or f"In the last {RANGES[name] // 24} days"
        if not total.requests:
            return escape(f"{span} there were no requests.")
        text = f"{span} {total.succeeded:,} of {formats.plural(total.requests, 'request')} succeeded"
        if total.cost or (total.has_replies and not total.unknown_cost_requests):
            verb = "cost" if total.cost else "was" if total.requests == 1 else "were"
            text += f" and {verb} <b>{escape(format_cost(total.cost))}</b>"
        if total.unknown_cost_requests:
            link = f'<a href="#missing-prices">{formats.plural(total.unknown_cost_requests, "request")}</a>'
            text += f"; the cost of {link} is unknown"
        return Markup(f"{text}.")

    def count_sent(self) -> Mapping[str, int]:
        """Return prefix of a provider → requests that it answered."""
        sent: dict[str, int] = {}
        for row in self.by_model():
            prefix = self.costs.find_prefix(row.model.provider)
            sent[prefix] = sent.get(prefix, 0) + row.model.sums.requests
        return sent

    def list_problems(self) -> list[Notice]:
        context = self.context
        costs = self.costs
        evidence = Evidence(context.connection, context.settings)
        groups = list_error_groups(context, costs, self.errors(), evidence)
        notices = list_doctor_notices(evidence, [group for group in groups if not group.is_solved])
        notices += [build_error_notice(context, costs, group, evidence) for group in groups]
        notices += self._list_plain_forms()
        attempts = count_failed_attempts(context.connection, context.model_selection)
        sent = self.count_sent() if attempts else {}
        for prefix, failed in sorted(attempts.items(), key=lambda item: (-item[1].requests, item[0])):
            if is_frequent(failed, sent.get(prefix, 0)):
                provider = costs.find_provider_name(prefix)
                is_solved = evidence.find_reply(failed.last_at, provider) > 0
                sign, role = ("✓", "none") if is_solved else ("!", "warn")
                text = describe_failed_attempts(failed, sent.get(prefix, 0), f"at {prefix}")
                href = link_to_failed_attempts(context.query, prefix)
                failing = "" if is_solved else provider
                notices.append(
                    Notice(sign, role, text, "", href, "show them", is_solved=is_solved, failing_provider=failing)
                )
        return notices

    def _list_plain_forms(self) -> list[Notice]:
        """Return a problem for each model whose provider refuses parts of many requests now, whatever the range of the
        page begins with: the replies do not show it.
        """
        context = self.context
        now = int(context.now * MICROSECONDS)
        if context.model_selection.end < now:
            return []
        start = now - int(PLAIN_FORM_SECONDS * MICROSECONDS)
        rows = list_plain_forms(context.connection, structs.replace(context.model_selection, start=start))
        notices = []
        for row in rows:
            if is_share_frequent(row.requests, row.sent):
                lacking = f"{row.requests:,} of {formats.plural(row.sent, 'request')}"
                problem = report_warning(ProblemKind.REFUSED_PARTS, f"{row.prefix}/{row.model}", lacking=lacking)
                href = context.query.link_with_facet("model", row.model, "/dashboard/requests")
                text = problem.cause.rstrip()
                notices.append(Notice(problem.sign, problem.role, text, "", href, "show them", remedy=problem.remedy))
        return notices

    def build_figures(self) -> list[Figure]:
        context = self.context
        query = context.query
        latencies = self.latencies()
        total = self.add_up()
        sums = list(self.sums().values())
        requests = query.link("/dashboard/requests", measure="")
        models = query.link("/dashboard/models", measure="")
        unknown = f"unknown for {count_unknown(total)}" if total.unknown_cost_requests else ""
        compared = ", ".join(filter(None, (unknown, describe_claude_cost(total))))
        first_tokens: Histogram = {}
        for histogram in latencies.values():
            add_histogram(first_tokens, histogram)
        medians = [find_percentile(latencies.get((start, ()), {}), 0.5) for start in self.periods.starts]
        share = formats.percent(total.cache_read_tokens, total.all_input_tokens)
        cached = " of ".join(map(formats.short_count, (total.cache_read_tokens, total.all_input_tokens))) + " tokens"
        p50 = formats.seconds(find_percentile(first_tokens, 0.5))
        p95 = formats.seconds(find_percentile(first_tokens, 0.95))
        previous = compare_with_previous_range(context, context.model_selection, "requests", total.requests)
        previous = previous or ("since midnight" if query.range_name == "today" else "no complete range before")
        succeeded = [period.succeeded / period.requests if period.requests else None for period in sums]
        errors = formats.plural(total.errors, "error") + (f", {total.cancelled:,} cancelled" if total.cancelled else "")
        failed = query.link_with_facet("outcome", "error", "/dashboard/requests")
        spent = format_cost(total.cost, total.unknown_cost_requests) if total.has_replies else formats.UNKNOWN
        slowest = query.link("/dashboard/models", measure="", order="-p95")
        return [
            Figure("Requests", formats.count(total.requests), previous, [period.requests for period in sums], requests),
            Figure("Succeeded", formats.percent(total.succeeded, total.requests, 1), errors, succeeded, failed),
            Figure("Spent", spent, compared, [period.known_cost for period in sums], models),
            Figure("Time to first token, p50", p50, f"p95 {p95}", medians, slowest),
            Figure("Input read from cache", share, cached, [period.cached_input_share for period in sums], requests),
        ]

    def draw_usage(self, measure: str) -> Chart:
        costs = self.costs
        periods = self.periods
        rows = self.by_model()
        if measure == "tokens":
            return self.draw_kinds(lambda row: row.model.sums.divide_by_kind(), formats.short_count)
        if measure == "requests":
            context = self.context
            outcomes = queries.sum_periods(
                context.connection, context.model_selection, periods.seconds, "outcome_class", ("requests",)
            )
            return chart_groups(periods, outcomes, lambda sums: sums.requests, formats.count, OUTCOME_TITLES)
        if measure == "provider":
            names = {row.model.provider for row in rows if row.model.provider}
            sums_by_group = add_up_groups(((row.start, row.model.provider), row.model.sums) for row in rows)
            groups = [PeriodSums(start, provider, sums) for (start, provider), sums in sums_by_group.items()]
            titles = {name: (costs.find_prefix(name), formats.provider_role(name)) for name in names}
            drawn = chart_groups(periods, groups, lambda sums: sums.cost, formats.chart_money, titles)
        else:

            def divide(row: ModelPeriod) -> Mapping[str, int]:
                return costs.divide_cost(row.model.provider, row.model.model, row.model.sums, row.model.sums.cost)

            drawn = self.draw_kinds(divide, formats.chart_money)
        return structs.replace(drawn, empty_text=explain_missing_cost(self.add_up()))

    def draw_kinds(self, divide: Callable[[ModelPeriod], Mapping[str, int]], text: Callable[[float], str]) -> Chart:
        values: dict[str, dict[int, float]] = {kind: {} for kind in _KINDS}
        for row in self.by_model():
            for kind, amount in divide(row).items():
                values[kind][row.start] = values[kind].get(row.start, 0) + amount
        return chart_sums(self.periods, {_KINDS[kind]: amounts for kind, amounts in values.items()}, text)

    def draw_latencies(self, incidents: Sequence[Band]) -> Chart:
        if self.context.query.speed != "provider":
            series = list_percentiles(self.periods, self.latencies())
        else:
            latencies = queries.group_latencies(self.by_model(), _find_provider)
            medians = {key: find_percentile(histogram, 0.5) for key, histogram in latencies.items()}
            series = self.list_providers(medians)
        highest = max((value for line in series for value in line.values if value is not None), default=0.0)
        return chart_lines(self.periods, series, formats.seconds, formats.choose_seconds_axis(highest), incidents)

    def draw_speed(self) -> Chart:
        rows = [row for row in self.by_model() if row.model.provider != "demo"]  # it has no model, and so no speed
        series = self.list_providers(queries.group_speeds(rows, _find_provider))
        return chart_lines(self.periods, series, formats.rate, formats.count)

    def list_providers(self, values: Mapping[tuple[int, tuple[str, ...]], float | None]) -> list[Series]:
        """Return a series for each of the most used providers. `values` has keys of a period and a provider."""
        counts: dict[str, int] = {}
        for row in self.by_model():
            counts[row.model.provider] = counts.get(row.model.provider, 0) + row.model.sums.requests
        known = {provider for _, (provider,) in values}
        ranked = sorted(known & counts.keys(), key=lambda name: (-counts[name], name))[:MAX_SERIES]
        series = []
        for name in ranked:
            points = [values.get((start, (name,))) for start in self.periods.starts]
            series.append(Series(self.costs.find_prefix(name) or NOT_SENT, formats.provider_role(name), points))
        return series

    def list_latest(self) -> Table:
        context = self.context
        running = [build_running_row(receipt, context.now) for receipt in reversed(context.running)]
        finished = count_equal_failures(list_stored_requests(context.connection, context.selection, _MAX_LATEST_READ))
        rows = [build_finished_row(row, context.now, count=count) for row, count in finished[:_MAX_LATEST]]
        shown = [*running, *rows][:_MAX_LATEST]
        return build_request_table(shown, "Latest requests", "latest")

    def list_models(self) -> Sequence[Mapping[str, Any]]:
        query = self.context.query
        rows = queries.add_up_model_periods(self.by_model())
        highest = max((row.sums.cost for row in rows), default=0)
        models = []
        for row in rows[:_MAX_MODELS]:
            prefix = self.costs.find_prefix(row.provider) or NOT_SENT
            share = row.sums.cost / highest if row.sums.cost else None
            facets = {**query.facets, "provider": row.provider, "model": row.model}
            href = query.link("/dashboard/requests", facets=facets, measure="")
            models.append({"row": row, "prefix": prefix, "cost": format_sums(row.sums), "share": share, "href": href})
        return models

    def draw_cached_share(self) -> Chart:
        shares = [sums.cached_input_share for sums in self.sums().values()]
        percentages = [None if share is None else 100 * share for share in shares]
        series = [Series("input read from cache", "cached", percentages)]
        return chart_lines(
            self.periods,
            series,
            lambda percentage: formats.percent(percentage, 100),
            lambda percentage: f"{percentage:.0f} %",
            missing="no input",
        )

    def build_week(self, measure: str) -> WeekGrid:
        context = self.context
        shown = _COUNTED.get(measure, _COST)
        hours = queries.sum_periods(
            context.connection, context.model_selection, HOUR_SECONDS, sum_names=shown.sum_names
        )
        week = build_week(context.query, hours, shown.value, shown.text)
        return week if measure in _COUNTED else structs.replace(week, empty_text=explain_missing_cost(self.add_up()))


def _find_provider(row: ModelPeriod) -> tuple[int, tuple[str, ...]]:
    return row.start, (row.model.provider,)


def _tabulate_usage(context: PageContext) -> ExportTable:
    periods = divide_range(context.charted_query)
    rows = queries.sum_model_periods(context.connection, context.model_selection, periods.seconds)
    fields: Mapping[str, Callable[[ModelPeriod], Any]] = {
        "from": lambda period: format_time(period.start * MICROSECONDS),
        "provider": attrgetter("model.provider"),
        "model": attrgetter("model.model"),
    }
    return tabulate(fields, rows, lambda period: period.model.sums)


def _tabulate_failures(context: PageContext) -> ExportTable:
    errors = count_errors(context.connection, context.selection, divide_range(context.charted_query).seconds)
    fields: Mapping[str, Callable[[ErrorGroup], Any]] = {
        **{name: attrgetter(name) for name in ("provider", "status", "error_type")},
        "names_model": attrgetter("has_model"),
        "requests": attrgetter("count"),
        "first_at": lambda group: format_time(group.first_at),
        "last_at": lambda group: format_time(group.last_at),
        "solved": attrgetter("is_solved"),
        "error": attrgetter("latest.error"),
        "latest_request": attrgetter("latest.id"),
    }
    evidence = Evidence(context.connection, context.settings)
    return tabulate(fields, list_error_groups(context, ModelCosts(context.settings), errors, evidence))


def _tabulate_problems(context: PageContext) -> ExportTable:
    problems = find_problems(context)
    rows = [[notice.role, notice.text, notice.detail, notice.remedy] for notice in problems.open]
    return ExportTable(["severity", "problem", "detail", "remedy"], rows)


PAGE = Page(
    section="Overview",
    template="overview.html",
    build=build_overview_page,
    checks_servers=True,
    tables={
        "usage": PageTable(_tabulate_usage),
        "failures": PageTable(_tabulate_failures),
        "problems": PageTable(_tabulate_problems, reads_ledger=False),
        "models": PageTable(tabulate_models),
    },
)
