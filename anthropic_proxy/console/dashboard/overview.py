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
    find_error_kind,
    find_incidents,
    is_frequent,
    link_to_failed_attempts,
)
from anthropic_proxy.console.dashboard.models import tabulate_models
from anthropic_proxy.console.dashboard.page import (
    Figure,
    Page,
    PageContext,
    PageTable,
    StateLine,
    build_panel,
    build_verdict,
    compare_with_previous_range,
    memoize_result,
)
from anthropic_proxy.console.dashboard.panels import FailedPanel
from anthropic_proxy.console.dashboard.query import RANGES, ViewQuery, title_month
from anthropic_proxy.console.dashboard.tables import (
    Table,
    build_finished_row,
    build_request_table,
    build_running_row,
)
from anthropic_proxy.console.ledger import queries
from anthropic_proxy.console.ledger.costs import MissingPrices, ModelCosts, count_unknown, find_missing_prices
from anthropic_proxy.console.ledger.export import ExportTable, format_time, tabulate
from anthropic_proxy.console.ledger.failures import (
    ErrorGroup,
    ErrorPeriod,
    count_errors,
    count_failed_attempts,
    find_last_success,
    list_errors,
)
from anthropic_proxy.console.ledger.histograms import Histogram, add_histogram, find_percentile
from anthropic_proxy.console.ledger.queries import ModelPeriod, PeriodSums
from anthropic_proxy.console.ledger.records import (
    NOT_SENT,
    UsageSums,
    add_up,
    add_up_groups,
    describe_claude_cost,
    describe_failure_status,
)
from anthropic_proxy.console.ledger.request_queries import list_stored_requests
from anthropic_proxy.console.measures import format_sums
from anthropic_proxy.console.units import HOUR_SECONDS, MICROSECONDS
from anthropic_proxy.gateway.error_catalog import find_cause, find_remedy
from anthropic_proxy.gateway.money import format_cost
from anthropic_proxy.gateway.problems import describe_demo

MEASURES = (("", "Cost"), ("provider", "By provider"), ("tokens", "Tokens"), ("requests", "Requests"))
"""Pairs: measure as value of `by` in the URL, and title of its chart."""
_COSTS = ("", "provider")
"""Measures that are amounts of money. They are not offered if all requests of the range were free."""
_MAX_LATEST = 10
_MAX_MODELS = 6
MIN_HOURS = 48
LEVELS = 5
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
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
_COUNTED: Mapping[str, tuple[Sequence[str], str, Callable[[float], str]]] = {
    "tokens": (_TOKENS, "all_tokens", formats.short_count),
    "requests": (("requests",), "requests", formats.count),
}
"""Measure that is no amount of money → sums that it needs, their property, and the function that formats it."""


def build_overview_page(context: PageContext) -> Mapping[str, Any]:
    query, panels = context.query, _Panels(context)
    found = build_panel(context, "incidents", panels.find_bands)
    bands = [] if isinstance(found, FailedPanel) else found
    listed = build_panel(context, "the problems", panels.list_problems)
    failures = [] if isinstance(listed, FailedPanel) else listed
    notices = [Notice(one.sign, one.role, one.text) for one in context.setup.problems]
    notices += [one for one in failures if not one.is_solved]
    has_demo = any(one.target.startswith("demo/") for one in context.setup.mapping)
    demo = describe_demo(context.settings) if has_demo else ""
    total = build_panel(context, "the sums", panels.add_up)
    is_free = not isinstance(total, FailedPanel) and total.has_replies and total.known_cost == 0
    measures = [one for one in MEASURES if not is_free or one[0] not in _COSTS]
    chosen = query.measure if query.measure in dict(measures) else measures[0][0]
    measure = "Cost" if chosen in _COSTS else dict(measures)[chosen]
    length = panels.periods.length_name
    values = {
        "verdict": build_verdict(context, panels.summarize),
        "has_requests": isinstance(total, FailedPanel) or total.requests > 0,
        "state_now": _describe_state(listed, notices, demo),
        "notices": listed if isinstance(listed, FailedPanel) else notices,
        "solved": [one for one in failures if one.is_solved],
        "demo": demo,
        "is_empty": not context.facts.requests and not context.running and context.can_read,
        "figures": build_panel(context, "the figures", panels.build_figures),
        "usage": build_panel(context, "usage", lambda: panels.draw_usage(chosen)),
        "usage_title": f"{measure} per {length}",
        "measures": measures,
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
    if query.hours < MIN_HOURS:
        return values
    return {
        **values,
        "week": build_panel(context, "hours of the week", lambda: panels.build_week(chosen)),
        "week_title": f"{measure} by weekday and hour",
        "cached": build_panel(context, "cached input", panels.draw_cached_share),
        "cached_title": f"Input read from cache per {length}",
    }


class _Panels:
    """Panels of the page. A database query that several of them need runs at most once."""

    def __init__(self, context: PageContext) -> None:
        connection, chosen = context.connection, context.model_selection
        self.context, self.costs = context, ModelCosts(context.settings)
        self.periods = divide_range(context.charted_query)
        seconds = self.periods.seconds
        self.by_model = memoize_result(lambda: queries.measure_model_performance(connection, chosen, seconds))

        def sum_periods() -> dict[int, UsageSums]:
            found = {start: UsageSums() for start in self.periods.starts}
            found |= add_up_groups((one.start, one.model.sums) for one in self.by_model())
            return dict(sorted(found.items()))

        self.sums = memoize_result(sum_periods)
        """Beginning of a period (seconds since the epoch) → sums of all models, in order of time."""
        self.latencies = memoize_result(
            lambda: queries.group_latencies(self.by_model(), lambda one: (one.start, tuple[str, ...]()))
        )
        self.errors = memoize_result(lambda: count_errors(connection, context.selection, seconds))

    def add_up(self) -> UsageSums:
        return add_up(self.sums().values())

    def find_bands(self) -> list[Band]:
        incidents = find_incidents(self.periods, self.errors(), self.by_model(), self.costs)
        return [Band(one.first, one.last, one.label) for one in incidents]

    def find_missing_prices(self) -> MissingPrices | None:
        return find_missing_prices(self.costs, queries.add_up_model_periods(self.by_model()))

    def summarize(self) -> Markup:
        query, total = self.context.query, self.add_up()
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

    def list_problems(self) -> "list[Notice]":
        context, costs = self.context, self.costs
        notices = [_build_error_notice(context, costs, one) for one in _list_errors(context, costs, self.errors())]
        sent = dict[str, int]()
        for one in self.by_model():
            prefix = costs.find_prefix(one.model.provider)
            sent[prefix] = sent.get(prefix, 0) + one.model.sums.requests
        attempts = count_failed_attempts(context.connection, context.model_selection)
        for prefix, failed in sorted(attempts.items(), key=lambda item: (-item[1].requests, item[0])):
            if is_frequent(failed, sent.get(prefix, 0)):
                provider = costs.find_provider_name(prefix)
                is_solved = find_last_success(context.connection, failed.last_at, provider) > 0
                sign, role = ("✓", "none") if is_solved else ("!", "warn")
                text = describe_failed_attempts(failed, sent.get(prefix, 0), f"at {prefix}")
                href = link_to_failed_attempts(context.query, prefix)
                notices.append(Notice(sign, role, text, "", href, "show them", is_solved=is_solved))
        return notices

    def build_figures(self) -> list[Figure]:
        context, query = self.context, self.context.query
        latencies, total, sums = self.latencies(), self.add_up(), list(self.sums().values())
        listed = query.link("/dashboard/requests", measure="")
        models = query.link("/dashboard/models", measure="")
        unknown = f"unknown for {count_unknown(total)}" if total.unknown_cost_requests else ""
        compared = ", ".join(filter(None, (unknown, describe_claude_cost(total))))
        first_tokens: Histogram = {}
        for histogram in latencies.values():
            add_histogram(first_tokens, histogram)
        medians = [find_percentile(latencies.get((start, ()), {}), 0.5) for start in self.periods.starts]
        share = formats.percent(total.cache_read_tokens, total.all_input_tokens)
        cached = " of ".join(map(formats.short_count, (total.cache_read_tokens, total.all_input_tokens))) + " tokens"
        p50, p95 = (formats.seconds(find_percentile(first_tokens, part)) for part in (0.5, 0.95))
        previous = compare_with_previous_range(context, context.model_selection, "requests", total.requests)
        previous = previous or ("since midnight" if query.range_name == "today" else "no complete range before")
        succeeded = [one.succeeded / one.requests if one.requests else None for one in sums]
        errors = formats.plural(total.errors, "error") + (f", {total.cancelled:,} cancelled" if total.cancelled else "")
        failed = query.link_with_facet("outcome", "error", "/dashboard/requests")
        spent = format_cost(total.cost, total.unknown_cost_requests) if total.has_replies else formats.UNKNOWN
        slowest = query.link("/dashboard/models", measure="", order="-p95")
        return [
            Figure("Requests", formats.count(total.requests), previous, [one.requests for one in sums], listed),
            Figure("Succeeded", formats.percent(total.succeeded, total.requests, 1), errors, succeeded, failed),
            Figure("Spent", spent, compared, [one.known_cost for one in sums], models),
            Figure("Time to first token, p50", p50, f"p95 {p95}", medians, slowest),
            Figure("Input read from cache", share, cached, [one.cached_input_share for one in sums], listed),
        ]

    def draw_usage(self, measure: str) -> Chart:
        costs, periods, model_periods = self.costs, self.periods, self.by_model()
        if measure == "tokens":
            return self.draw_kinds(lambda one: one.model.sums.divide_by_kind(), formats.short_count)
        if measure == "requests":
            connection, chosen = self.context.connection, self.context.model_selection
            rows = queries.sum_periods(connection, chosen, periods.seconds, "outcome_class", ("requests",))
            return chart_groups(periods, rows, lambda sums: sums.requests, formats.count, OUTCOME_TITLES)
        if measure == "provider":
            names = {one.model.provider for one in model_periods if one.model.provider}
            sums = add_up_groups(((one.start, one.model.provider), one.model.sums) for one in model_periods)
            rows = [PeriodSums(start, provider, one) for (start, provider), one in sums.items()]
            titles = {name: (costs.find_prefix(name), formats.provider_role(name)) for name in names}
            drawn = chart_groups(periods, rows, lambda sums: sums.cost, formats.chart_money, titles)
        else:

            def divide(one: ModelPeriod) -> Mapping[str, int]:
                return costs.divide_cost(one.model.provider, one.model.model, one.model.sums, one.model.sums.cost)

            drawn = self.draw_kinds(divide, formats.chart_money)
        return structs.replace(drawn, empty_text=explain_missing_cost(self.add_up()))

    def draw_kinds(self, divide: Callable[[ModelPeriod], Mapping[str, int]], text: Callable[[float], str]) -> Chart:
        values: dict[str, dict[int, float]] = {kind: {} for kind in _KINDS}
        for one in self.by_model():
            for kind, amount in divide(one).items():
                values[kind][one.start] = values[kind].get(one.start, 0) + amount
        return chart_sums(self.periods, {_KINDS[kind]: found for kind, found in values.items()}, text)

    def draw_latencies(self, incidents: Sequence[Band]) -> Chart:
        if self.context.query.speed != "provider":
            series = list_percentiles(self.periods, self.latencies())
        else:
            latencies = queries.group_latencies(self.by_model(), _find_provider)
            medians = {key: find_percentile(histogram, 0.5) for key, histogram in latencies.items()}
            series = self.list_providers(medians)
        highest = max((value for one in series for value in one.values if value is not None), default=0.0)
        return chart_lines(self.periods, series, formats.seconds, formats.choose_seconds_axis(highest), incidents)

    def draw_speed(self) -> Chart:
        series = self.list_providers(queries.group_speeds(self.by_model(), _find_provider))
        return chart_lines(self.periods, series, formats.rate, formats.count)

    def list_providers(self, values: Mapping[tuple[int, tuple[str, ...]], float | None]) -> list[Series]:
        """Return a series for each of the most used providers. `values` has keys of a period and a provider."""
        counts: dict[str, int] = {}
        for row in self.by_model():
            counts[row.model.provider] = counts.get(row.model.provider, 0) + row.model.sums.requests
        known = {provider for _, (provider,) in values}
        ranked = sorted(known & counts.keys(), key=lambda name: (-counts[name], name))[:MAX_SERIES]
        found = []
        for name in ranked:
            points = [values.get((start, (name,))) for start in self.periods.starts]
            found.append(Series(self.costs.find_prefix(name) or NOT_SENT, formats.provider_role(name), points))
        return found

    def list_latest(self) -> Table:
        context = self.context
        running = [build_running_row(receipt, context.now) for receipt in reversed(context.running)]
        finished = list_stored_requests(context.connection, context.selection, _MAX_LATEST)
        shown = [*running, *(build_finished_row(row, context.now) for row in finished)][:_MAX_LATEST]
        return build_request_table(shown, "Latest requests", "latest")

    def list_models(self) -> Sequence[Mapping[str, Any]]:
        query, rows = self.context.query, queries.add_up_model_periods(self.by_model())
        highest = max((row.sums.cost for row in rows), default=0)
        found = []
        for row in rows[:_MAX_MODELS]:
            prefix = self.costs.find_prefix(row.provider) or NOT_SENT
            share = row.sums.cost / highest if row.sums.cost else None
            facets = {**query.facets, "provider": row.provider, "model": row.model}
            href = query.link("/dashboard/requests", facets=facets, measure="")
            found.append({"row": row, "prefix": prefix, "cost": format_sums(row.sums), "share": share, "href": href})
        return found

    def draw_cached_share(self) -> Chart:
        shares = [None if (share := one.cached_input_share) is None else 100 * share for one in self.sums().values()]
        series = [Series("input read from cache", "cached", shares)]
        text, axis = lambda share: formats.percent(share, 100), lambda share: f"{share:.0f} %"
        return chart_lines(self.periods, series, text, axis, missing="no input")

    def build_week(self, measure: str) -> "WeekGrid":
        context = self.context
        names, value, text = _COUNTED.get(measure, (("cost",), "cost", formats.chart_money))
        hours = queries.sum_periods(context.connection, context.model_selection, HOUR_SECONDS, sum_names=names)
        week = build_week(context.query, hours, attrgetter(value), text)
        return week if measure in _COUNTED else structs.replace(week, empty_text=explain_missing_cost(self.add_up()))


def _find_provider(one: ModelPeriod) -> tuple[int, tuple[str, ...]]:
    return one.start, (one.model.provider,)


class StateNow(StateLine, frozen=True):
    """First line of the page: is something wrong now?"""

    link: str = ""
    """Text of the link to the problems. "": no link."""
    command: str = ""


def _describe_state(listed: "list[Notice] | FailedPanel", open_notices: "Sequence[Notice]", demo: str) -> StateNow:
    if open_notices:
        sign, role = min(((one.sign, one.role) for one in open_notices), key=lambda mark: "✕!".index(mark[0]))
        if len(open_notices) == 1:
            return StateNow(sign, role, "One open problem:", open_notices[0].text)
        return StateNow(sign, role, "Now:", f"{len(open_notices)} open problems")
    if isinstance(listed, FailedPanel):
        return StateNow("!", "warn", "It is not known whether something is wrong: the stored requests cannot be read.")
    if demo:
        return StateNow("!", "warn", f"{demo}. Choose a provider:", command="anthropic-proxy init")
    return StateNow("✓", "ok", "All is well now: there are no open problems.")


class Notice(StateLine, frozen=True):
    detail: str = ""
    href: str = ""
    link: str = ""
    remedy: str = ""
    help_link: str = ""
    """URL of the entry of the error catalog: `/help/errors#rate-limit`. "": no entry."""
    is_solved: bool = False
    """True if the same has succeeded since then."""


def _list_errors(context: PageContext, costs: ModelCosts, errors: Sequence[ErrorPeriod]) -> list[ErrorGroup]:
    mapped = set[str]()
    for row in context.setup.mapping:
        mapped |= {row.target, *row.fallbacks, *(target for target, _ in row.replies)}

    def is_set(provider: str, model: str) -> bool:
        return f"{costs.find_prefix(provider)}/{model}" in mapped

    return list_errors(context.connection, context.selection, errors, is_set)


def _build_error_notice(context: PageContext, costs: ModelCosts, group: ErrorGroup) -> Notice:
    name = costs.find_prefix(group.provider) if group.provider else "the proxy"
    latest = group.latest
    href, link = f"/dashboard/requests/{latest.id}", "show it"
    if group.count > 1:
        facets = {**context.query.facets, "outcome": "error", "provider": group.provider}
        # a range begins and ends with an hour
        start = group.first_at // MICROSECONDS // HOUR_SECONDS * HOUR_SECONDS
        end = (group.last_at // MICROSECONDS // HOUR_SECONDS + 1) * HOUR_SECONDS
        chosen = structs.replace(context.query, facets=facets, text=group.error_code)
        href, link = chosen.link_to_requests(start, end), f"show the {group.count:,}"
    setting, prefix = costs.find_key_setting(group.provider), name if group.provider else ""
    asked, fallbacks = latest.requested_model, context.settings.fallbacks
    remedy = find_remedy(group.error_code, setting, asked, prefix, latest.remedy, fallbacks=fallbacks)
    kind = f", {find_error_kind(group.error_type, group.error_code)}" if group.error_type else ""
    status = describe_failure_status(group.status, latest.attempt_times)
    text = f"{formats.plural(group.count, 'request')} failed at {name} with {status}{kind}."
    if not group.has_model:  # no figure counts them
        verb = "was" if group.count == 1 else "were"
        text = f"{formats.plural(group.count, 'request')} without a model {verb} rejected with {status}{kind}."
    period = formats.time_span(group.first_at, group.last_at)
    detail = f"{period}. {find_cause(latest.error, latest.remedy)[:300]}"
    help_link = remedy.link if remedy else ""
    if group.is_solved:
        return Notice("✓", "none", text, detail, href, link, help_link=help_link, is_solved=True)
    return Notice("✕", "error", text, detail, href, link, remedy.text if remedy else "", help_link)


class WeekCell(Struct, frozen=True):
    level: int
    """Strength of the color, 0 to `LEVELS`."""
    title: str = ""
    href: str = ""
    """Link to the requests of the hour with the highest value. "": no hour of the cell has requests."""


class WeekGrid(Struct, frozen=True):
    cells: Sequence[Sequence[WeekCell]]
    """Seven rows of 24 hours, from Monday. Empty: there are no values."""
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    """Rows of the table with the same values."""
    empty_text: str = "No requests in this range."


def build_week(
    query: ViewQuery, hours: Sequence[PeriodSums], extract: Callable[[UsageSums], float], show: Callable[[float], str]
) -> WeekGrid:
    """The hours are in the time zone of the server."""
    found: dict[tuple[int, int], list[tuple[float, int]]] = {}
    for hour in hours:
        when = formats.local_datetime(hour.start * MICROSECONDS)
        found.setdefault((when.weekday(), when.hour), []).append((extract(hour.sums), hour.start))
    sums = {key: sum(value for value, _ in values) for key, values in found.items()}
    highest = max(sums.values(), default=0)

    def build_cell(weekday: int, hour: int) -> WeekCell:
        values = found.get((weekday, hour), ())
        if not values:
            return WeekCell(0)
        total = sums[weekday, hour]
        title = f"{_WEEKDAYS[weekday]}, {hour:02d}:00, {show(total)}"
        most, start = max(values, key=lambda pair: pair[0])
        if len(values) > 1:
            day = formats.local_datetime(start * MICROSECONDS)
            title += f": hours with requests = {len(values)}; highest, {day.day} {day:%b} = {show(most)}"
        level = max(1, -int(-LEVELS * total // highest)) if total else 0
        return WeekCell(level, title, query.link_to_requests(start, start + HOUR_SECONDS))

    def show_sum(day: int, hour: int) -> str:
        return show(sums[day, hour]) if (day, hour) in sums else formats.UNKNOWN

    hours_of_day = range(24)
    cells = [[build_cell(day, hour) for hour in hours_of_day] for day in range(7)] if highest else ()
    rows = [[name, *(show_sum(day, hour) for hour in hours_of_day)] for day, name in enumerate(_WEEKDAYS)]
    return WeekGrid(cells, [f"{hour:02d}:00" for hour in hours_of_day], rows)


def _tabulate_usage(context: PageContext) -> ExportTable:
    periods = divide_range(context.charted_query)
    found = queries.sum_model_periods(context.connection, context.model_selection, periods.seconds)
    fields: Mapping[str, Callable[[ModelPeriod], Any]] = {
        "from": lambda period: format_time(period.start * MICROSECONDS),
        "provider": attrgetter("model.provider"),
        "model": attrgetter("model.model"),
    }
    return tabulate(fields, found, lambda period: period.model.sums)


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
    return tabulate(fields, _list_errors(context, ModelCosts(context.settings), errors))


PAGE = Page(
    section="Overview",
    template="overview.html",
    build=build_overview_page,
    checks_servers=True,
    tables={
        "usage": PageTable(_tabulate_usage),
        "failures": PageTable(_tabulate_failures),
        "models": PageTable(tabulate_models),
    },
)
