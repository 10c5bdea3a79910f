"""Command `usage`: requests, tokens and costs, summed by a property such as the model or the day.

The data comes from the ledger, the database of client requests.
"""

from typing import Annotated, Literal

from cyclopts import Parameter

from anthropic_proxy.cli.command_settings import load_command_settings

Grouping = Literal["model", "day", "project", "session", "key", "provider", "route"]
"""Values of the option `--by`: the property by which requests are summed."""


def usage(
    *,
    by: Grouping = "model",
    since: str = "24h",
    until: str = "",
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    as_csv: Annotated[bool, Parameter(name="--csv", negative="")] = False,
) -> None:
    """Show requests, tokens and costs, from the ledger of this machine or from DATABASE_URL.

    Parameters
    ----------
    by
        Property by which requests are grouped. Each row has the sums of one group.
    since
        Beginning of the time range: 24h, 7d, 4w, today, yesterday, or a date such as 2026-11-01. A time range of more
        than three hours is extended to full hours.
    until
        End of the time range, in the same forms; by default now. A day, such as yesterday or 2026-11-01, is included
        completely.
    as_json
        Print one JSON object instead, with costs in US dollars.
    as_csv
        Print CSV instead.
    """
    from anthropic_proxy.errors import ConfigurationError  # noqa: PLC0415  # --help needs none of it

    if as_json and as_csv:
        raise ConfigurationError("--json and --csv exclude each other. Use one of them.")
    _write(by, since, until, "json" if as_json else "csv" if as_csv else "table")


def _write(by: Grouping, since: str, until: str, form: Literal["json", "csv", "table"]) -> None:
    """Write the sums of requests, tokens and costs between `since` and `until` in the given form."""
    from datetime import UTC, datetime  # noqa: PLC0415

    from anthropic_proxy.cli.ledger_access import open_ledger_for_reading  # noqa: PLC0415
    from anthropic_proxy.cli.usage_table import UsageReport  # noqa: PLC0415
    from anthropic_proxy.ledger.periods import resolve_usage_range  # noqa: PLC0415
    from anthropic_proxy.ledger.queries import sum_usage  # noqa: PLC0415

    chosen = resolve_usage_range(since, until, datetime.now(UTC))
    settings = load_command_settings()
    with open_ledger_for_reading(settings) as connection:
        groups = [] if connection is None else sum_usage(connection, chosen, by)
    report = UsageReport(settings, by, groups)
    if form == "json":
        report.write_json(chosen)
    elif form == "csv":
        report.write_csv()
    else:
        report.write_table(f"since {since}" + (f" until {until}" if until else ""))
