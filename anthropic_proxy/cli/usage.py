"""Command `usage`: requests, tokens and costs in the ledger, summed by a property such as the model or the day."""

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from msgspec import structs

from anthropic_proxy.cli.command_settings import load_command_settings
from anthropic_proxy.cli.ledger_access import open_ledger_for_reading
from anthropic_proxy.cli.output import Column, Output, open_data_output
from anthropic_proxy.console import formats
from anthropic_proxy.console.keys.limits import find_proxy_scopes
from anthropic_proxy.console.keys.queries import Spending, read_used_budgets
from anthropic_proxy.console.ledger.activity import Activity, add_up_activity
from anthropic_proxy.console.ledger.activity_queries import add_activity
from anthropic_proxy.console.ledger.costs import ModelCosts, count_unknown, find_missing_prices
from anthropic_proxy.console.ledger.engines import EngineReader
from anthropic_proxy.console.ledger.export import (
    ExportTable,
    build_usage_object,
    name_group,
    name_part,
    tabulate_usage,
)
from anthropic_proxy.console.ledger.periods import find_month, resolve_usage_range
from anthropic_proxy.console.ledger.queries import ModelSums, UsageGroup, expect_month_cost, sum_usage
from anthropic_proxy.console.ledger.records import (
    FACETS,
    GroupName,
    SplitName,
    UsageSums,
    add_up,
    describe_claude_cost,
    name_missing,
)
from anthropic_proxy.console.ledger.request_queries import sum_sessions
from anthropic_proxy.console.measures import MEASURES, format_cost_per_commit, format_sums_briefly
from anthropic_proxy.console.session_names import find_names
from anthropic_proxy.console.units import MICROSECONDS
from anthropic_proxy.engine.platforms.program import shorten_home
from anthropic_proxy.errors import ConfigurationError, build_extra_install_command
from anthropic_proxy.gateway.money import format_cost
from anthropic_proxy.gateway.prices.price_list import describe_price_sources, has_price_package
from anthropic_proxy.gateway.settings import CONFIG_FILE, Settings
from anthropic_proxy.gateway.settings.config_file import resolve_config_file_path
from anthropic_proxy.gateway.telemetry.log.columns import count_columns

_DEFAULT_SINCE = "24h"


def usage(
    *,
    by: GroupName = "model",
    split: SplitName | None = None,
    only: list[str] | None = None,
    since: str = _DEFAULT_SINCE,
    until: str = "",
    month: str = "",
    as_json: bool = False,
    as_csv: bool = False,
) -> None:
    """Parameters
    ----------
    by
        Property by which requests are grouped. Each row has the sums of one group.
    split
        Property by which each group is divided further, so that `--by owner --split kind` has a row for each person
        and kind of request.
    only
        Only requests with this property: team=build, kind=auto_mode_check. Several are allowed, and all must hold.
    since
        Beginning of the time range: 30m, 24h, 7d, 4w, today, yesterday, a month such as 2026-11, or a date such as
        2026-11-01. A time range of more than three hours is extended to full hours.
    until
        End of the time range, in the same forms; by default now. A day or a month, such as yesterday or 2026-11, is
        included completely.
    month
        Calendar month, such as 2026-10, instead of --since and --until.
    as_json
        Print one JSON object instead, with costs in US dollars.
    as_csv
        Print CSV instead.
    """
    if as_json and as_csv:
        raise ConfigurationError("--json and --csv exclude each other. Use one of them.", code="usage-period")
    if month:
        if until or since != _DEFAULT_SINCE:
            raise ConfigurationError("--month excludes --since and --until. Use one of them.", code="usage-period")
        bounds = find_month(month)
        if bounds is None or bounds[0] > datetime.now(UTC):
            raise ConfigurationError(
                f'--month is "{month}". Use this month or an earlier one, such as 2026-11.', code="usage-period"
            )
        since = until = month
    now = datetime.now(UTC)
    chosen = resolve_usage_range(since, until, now)
    values = dict[str, str]()
    for text in only or ():
        name, sign, value = text.partition("=")
        if name not in FACETS or not sign:
            raise ConfigurationError(
                f'--only is "{text}". Use a property and its value, such as team=build. Properties: '
                f"{', '.join(FACETS)}.",
                code="usage-period",
            )
        values[FACETS[name].column] = value
    chosen = structs.replace(chosen, values=values)
    settings = load_command_settings()
    with open_ledger_for_reading(settings) as connection:
        groups: Sequence[UsageGroup] = ()
        if connection is not None:
            groups = sum_usage(connection, chosen, by, split=split)
            groups = groups if split else add_activity(connection, chosen, by, groups)
        expected = None if connection is None else expect_month_cost(connection, chosen, now)
        sessions = [group.name for group in groups[:_MAX_ROWS] if group.name] if by == "session" else []
        names = find_names(connection, sum_sessions(connection, sessions)) if connection and sessions else {}
        spending = [
            used
            for scope in find_proxy_scopes(settings)
            if connection is not None
            for used in read_used_budgets(EngineReader(connection), settings, scope, now.timestamp())
        ]
    if as_json:
        Output().write_json(build_usage_object(settings, by, groups, chosen, split=split, forecast=expected))
    elif as_csv:
        open_data_output().write(tabulate_usage(settings, by, groups, split).encode_csv())
    else:
        period = f"in {month}" if month else f"since {since}" + (f" until {until}" if until else "")
        step = _LATEST_DAYS if month else _FIRST_REQUEST
        write_table(settings, by, groups, period, names, split=split, forecast=expected, next_step=step)
        write_budgets(spending)


_TITLES = {"day": "Day", "hour": "Hour", "model": "Model"}
_MAX_ROWS = 40
"""Maximum number of groups that the table lists. The last row has the sums of all groups."""
_OTHER_LINES = 10
"""Number of lines around the groups. A table that is sorted by cost has as many groups as fit into the terminal."""
_MIN_ROWS = 10
_MAX_WHOLE_NAME = 48
"""Number of characters of a name, such as the id of a session, up to which it is complete so that it can be copied.
Clients choose names of up to 200 characters."""
_BAR_COLUMNS = 16
_BAR = "█"
_FIRST_REQUEST = ("Send one", 'anthropic-proxy ask "hello"')
_LATEST_DAYS = ("Days with requests", "anthropic-proxy usage --by day --since 90d")
"""Next steps if there are no requests: a title and a command."""
_OWN_PRICES = f"{CONFIG_FILE}, [prices]"


_MEASURES = ("requests", "input", "cached", "output", "cost")
_MEASURES_OF_MODELS = ("tool_errors",)
"""Measures beside the bars, if requests are grouped by model and the sums of all groups have a number."""
_NEEDED_MEASURES = ("requests", "cost")
"""Measures that no terminal is too narrow for."""


def write_table(
    settings: Settings,
    by: str,
    groups: Sequence[UsageGroup],
    since: str,
    sessions: Mapping[str, str],
    *,
    split: str | None = None,
    forecast: int | None = None,
    next_step: tuple[str, str] = _FIRST_REQUEST,
) -> None:
    """Write a summary and a table with bars to the terminal, or tab-separated values to a pipe.

    `since`: time range as the user entered it. `sessions`: id of a session → its name.
    """
    output = Output()
    if not output.is_terminal:
        _write_values(output, tabulate_usage(settings, by, groups, split))
        return
    if not groups:
        step, command = next_step
        output.write_line(f"No requests ({since}). {step}:  {output.paint(command, 'type')}")
        return

    total = add_up(group.sums for group in groups)
    compared = describe_claude_cost(total)
    texts = [formats.plural(total.requests, "request"), f"{total.succeeded:,} succeeded"]
    counts = (total.errors, "failed"), (total.cancelled, "cancelled")
    texts += [f"{count:,} {what}" for count, what in counts if count]
    texts += [f"cost {format_sums_briefly(total)}"] if total.has_replies else []
    output.write_line(f"{', '.join(filter(None, (*texts, compared)))}.")
    if forecast is not None:
        output.write_line(f"About {format_cost(forecast)} is expected by the end of the month.")
    output.write_line()
    if by == "day" and not split:  # each bar is one day after the previous one
        known = {group.name: group for group in groups}
        first = date.fromisoformat(groups[0].name)
        last = date.fromisoformat(groups[-1].name)
        days = [(first + timedelta(day)).isoformat() for day in range((last - first).days + 1)]
        groups = [known.get(day) or UsageGroup(name=day, sums=UsageSums()) for day in days]
    work = add_up_activity(group.activity for group in groups if group.activity is not None)
    rows_in_terminal = max((output.height or sys.maxsize) - _OTHER_LINES, _MIN_ROWS)
    shown = groups[-_MAX_ROWS:] if by in ("day", "hour") else groups[: min(_MAX_ROWS, rows_in_terminal)]
    columns, rows = _build_rows(settings, by, split, shown, sessions=sessions, total=total, work=work)
    output.write_table(columns, rows, last_row_role="title")
    costs = "".join(format_sums_briefly(sums) for sums in (*(group.sums for group in shown), total))
    if "≥" in f"{compared}{costs}":
        what = "these requests have no known price" if "≥" in costs else "the requested models have no Claude price"
        output.write_quiet(f"≥: at least, because some of {what}")
    if hidden := len(groups) - len(shown):
        output.write_line(f"  {hidden:,} more rows:  --csv or --json")
    if by == "session":
        output.write_quiet("Requests that named no model, such as queries of the model list, are not counted.")
    _write_about_prices(output, settings, groups if by == "model" else (), total)


def write_budgets(spending: Sequence[Spending]) -> None:
    """Write the used amounts of the budgets of the proxy to a terminal."""
    output = Output()
    for used in spending if output.is_terminal else ():
        output.write_line(f"  Budget of this proxy: {used.describe()}.")


def _write_values(output: Output, table: ExportTable) -> None:
    decimals = ((format(value, "f") if isinstance(value, Decimal) else value for value in row) for row in table.rows)
    cells = [["unknown" if value is None else str(value) for value in row] for row in decimals]
    output.write_table([Column(title) for title in table.titles], cells)


def _find_title(by: str) -> str:
    return _TITLES.get(by) or FACETS[by].title


def _build_rows(
    settings: Settings,
    by: str,
    split: str | None,
    groups: Sequence[UsageGroup],
    *,
    sessions: Mapping[str, str],
    total: UsageSums,
    work: Activity,
) -> tuple[list[Column], list[list[str]]]:
    """Return the columns of the table, and a row for each group. The last row has the sums of all groups, `total` and
    `work`.
    """
    labels = []  # the name of the group, and that of its part
    for group in groups:
        if by == "hour":  # other output has the time in UTC
            name = formats.day_and_time(datetime.fromisoformat(group.name).timestamp() * MICROSECONDS)
        else:
            name = sessions.get(group.name) or name_group(settings, by, group) or name_missing(by)
        labels.append([name, name_part(settings, split, group) or name_missing(split)] if split else [name])
    labels.append(["all", ""] if split else ["all"])
    compared = "cost"
    lengths = [group.sums.cost for group in groups]
    if not any(lengths):
        compared = "tokens"
        lengths = [group.sums.all_tokens for group in groups]
    highest = max(lengths, default=0) or 1
    bars = [_BAR * max(round(value / highest * _BAR_COLUMNS), 1 if value else 0) for value in lengths]
    every = [*(group.sums for group in groups), total]
    names = [label[0] for label in labels]
    columns: list[tuple[Column, Sequence[str]]] = [
        (Column(_find_title(by), can_be_cut=max(map(count_columns, names)) > _MAX_WHOLE_NAME), names),
    ]
    if split:
        columns.append((Column(_find_title(split)), [label[1] for label in labels]))
    columns += [_build_measure(name, every) for name in _MEASURES]
    columns += _build_activity(groups, total, work)
    columns.append((Column(f"By {compared}", role="bar", is_optional=True), [*bars, ""]))
    if by == "model":
        columns += [_build_measure(name, every) for name in _MEASURES_OF_MODELS if MEASURES[name].find(total)]
    rows = [list(row) for row in zip(*(cells for _, cells in columns), strict=True)]
    return [column for column, _ in columns], rows


def _build_measure(name: str, every: Sequence[UsageSums]) -> tuple[Column, Sequence[str]]:
    """Return the column of a measure with its cells."""
    measure = MEASURES[name]
    show = measure.show_briefly or measure.show
    column = Column(measure.title, is_number=True, is_optional=name not in _NEEDED_MEASURES)
    return column, [show(sums) for sums in every]


def _build_activity(
    groups: Sequence[UsageGroup], total: UsageSums, work: Activity
) -> list[tuple[Column, Sequence[str]]]:
    """Return the columns of what Claude Code states about work, if it does so."""
    if work.is_empty:
        return []
    every = [(group.sums, group.activity or Activity()) for group in groups] + [(total, work)]
    lines = [f"+{one.lines_added:,} -{one.lines_removed:,}" if one.has_lines else formats.UNKNOWN for _, one in every]
    commits = [formats.count(one.commits) for _, one in every]
    costs = [format_cost_per_commit(sums, one) for sums, one in every]
    cells = zip(("Lines", "Commits", "Per commit"), (lines, commits, costs), strict=True)
    return [(Column(title, is_number=True, is_optional=True), texts) for title, texts in cells]


def _write_about_prices(output: Output, settings: Settings, models: Sequence[UsageGroup], total: UsageSums) -> None:
    """Write where prices come from, and how missing ones are added. `models`: groups of models, if they are shown."""
    replied = [ModelSums(group.provider, group.name, group.sums) for group in models]
    missing = find_missing_prices(ModelCosts(settings), replied)
    if total.unknown_cost_requests and not has_price_package():
        command = output.paint(build_extra_install_command("prices"), "type")
        output.write_line(f"  The cost of {count_unknown(total)} is unknown. Install the price list:  {command}")
    elif missing is not None and missing.lines:
        file = shorten_home(resolve_config_file_path(settings.env_file) or CONFIG_FILE)
        output.write_line(f"  {missing.text}")
        output.write_line(f"  Add prices per million tokens to {file}:")
        for line in missing.lines.splitlines():
            output.write_line(f"    {output.paint(line, 'type')}")
    elif missing is not None:
        output.write_line(f"  {missing.text} {missing.remedy}")
    elif total.unknown_cost_requests:
        command = output.paint("anthropic-proxy usage --by model", "type")
        output.write_line(f"  The cost of {count_unknown(total)} is unknown. Their models:  {command}")
    if has_price_package():
        source = describe_price_sources(settings.facts)
        output.write_quiet(f"Prices: {_OWN_PRICES}; else stated by the provider; else {source}")
