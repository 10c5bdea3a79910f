"""Page of one virtual key, a key that this proxy gives to a client: state, limits, budgets, requests and changes.

`build_key_page` returns the values for the template of the page. A `ChangeRow` is one change of the key.
`limit_to_key` selects the requests of the key.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, structs

from anthropic_proxy.access.descriptions import describe_changes
from anthropic_proxy.access.queries import find_key, find_team, list_audit_entries
from anthropic_proxy.access.virtual_keys import AuditEntry, VirtualKey
from anthropic_proxy.dashboard import formats
from anthropic_proxy.dashboard.keys import (
    KeyUsage,
    build_budget_bars,
    build_key_row,
    describe_limits,
    list_allowed_names,
    read_used_budgets,
)
from anthropic_proxy.dashboard.overview import Figure
from anthropic_proxy.dashboard.page_context import PageContext
from anthropic_proxy.dashboard.periods import DrawnChart, Periods, divide_range, draw_group_chart
from anthropic_proxy.dashboard.rows import build_finished_row
from anthropic_proxy.ledger import dashboard_queries as queries
from anthropic_proxy.ledger.dashboard_queries import PeriodSums
from anthropic_proxy.ledger.key_queries import find_last_key_uses
from anthropic_proxy.ledger.request_queries import list_stored_requests
from anthropic_proxy.ledger.sums import UsageSums, add_up
from anthropic_proxy.ledger.units import MICROSECONDS

MAX_REQUESTS = 20
"""Maximum number of requests of the key that the page lists, the latest ones."""
MAX_CHANGES = 20
"""Maximum number of changes of the key that the page lists, the latest ones."""


class ChangeRow(Struct, frozen=True):
    """One change of a key or a team in the audit log, as texts for a table."""

    time: str
    full_time: str
    actor: str
    action: str
    target: str
    key_id: str
    """Id of the changed key, for a link. "": a team was changed."""
    changes: str


def build_key_page(context: PageContext) -> Mapping[str, Any] | None:
    """Return the template values of the page about the virtual key in the URL. None: this key does not exist."""
    key = find_key(context.connection, context.path_parameters["id"])
    if key is None:
        return None
    context = limit_to_key(context, key)
    periods, chosen = divide_range(context.charted_query), context.selection
    by_period = queries.sum_periods(context.connection, context.model_selection, periods.seconds, "model")
    total = add_up(row.sums for row in by_period)
    team = find_team(context.connection, key.team) if key.team else None
    spending, problem = read_used_budgets(context, [key] if team is None else [key, team])
    usage = KeyUsage(total, spending.get(key.id), find_last_key_uses(context.connection, key.label).get(key.label))
    row = build_key_row(key, usage, context.now, context.query.link("/dashboard/requests"))
    latest = list_stored_requests(context.connection, chosen, MAX_REQUESTS)
    return {
        "title": f"Key {key.label}",
        "query": context.query,
        "row": row,
        "key": key,
        "verdict": _summarize(key, total, context.now),
        "store_problem": problem,
        "facts": _list_facts(key),
        "figures": _build_figures(total, row.last_used),
        "team": None if team is None else (team, build_budget_bars(team.rules, spending.get(f"team/{team.name}"))),
        "team_limits": "" if team is None else describe_limits(team.rules),
        "team_allowed": [] if team is None else list_allowed_names(team.rules),
        "chart": _draw_chart(periods, by_period, total),
        "chart_title": f"{'Cost' if total.cost else 'Requests'} per {periods.length_name} and model",
        "requests": [build_finished_row(one, with_day=context.query.hours > 24) for one in latest],
        "changes": [
            build_change_row(entry)
            for entry in list_audit_entries(context.connection, key_id=key.id, limit=MAX_CHANGES)
        ],
    }


def limit_to_key(context: PageContext, key: VirtualKey) -> PageContext:
    """Return a copy of `context` that selects only the requests of `key`.

    Other filters and the search text of the URL are removed.
    """
    query = structs.replace(context.query, facets={"key": key.label}, text="", has_notes=False, measure="", order="")
    return structs.replace(context, query=query)


def build_change_row(entry: AuditEntry) -> ChangeRow:
    """Return the table row for one entry of the audit log, which is a change of a key or a team."""
    key_id, _, label = entry.target.partition(" ")
    is_key = entry.action.endswith("key")
    return ChangeRow(
        time=formats.day_and_time(entry.at * MICROSECONDS),
        full_time=formats.full_time(entry.at * MICROSECONDS),
        actor=entry.actor,
        action=entry.action,
        target=label if is_key else entry.target,
        key_id=key_id if is_key else "",
        changes=describe_changes(entry.changes) or formats.UNKNOWN,
    )


def _draw_chart(periods: Periods, rows: Sequence[PeriodSums], total: UsageSums) -> DrawnChart:
    """Return the chart of the cost of each model over `periods`, or of its requests if no cost is known.

    `rows`: sums of each model in each period. `total`: sums of the whole range.
    """
    if total.cost:
        return draw_group_chart(periods, rows, lambda sums: sums.cost, formats.chart_money, is_full_width=True)
    return draw_group_chart(periods, rows, lambda sums: sums.requests, formats.count, is_full_width=True)


def _summarize(key: VirtualKey, total: UsageSums, now: float) -> str:
    state = {
        "active": "",
        "expired": f"Rejected since {formats.long_time(key.expires_at)}. ",
        "revoked": f"Rejected since {formats.long_time(key.revoked_at)}. ",
    }[key.find_status(now)]
    return f"{state}{formats.plural(total.requests, 'request')} in this range."


def _build_figures(total: UsageSums, last_used: str) -> Sequence[Figure]:
    shown = formats.cost_with_unknown(total.cost, total.unknown_cost_requests)
    return [
        Figure("Requests", formats.count(total.requests), "in this range"),
        Figure("Errors", formats.error_share(total.errors, total.requests), formats.plural(total.errors, "request")),
        Figure("Cost", shown, "in this range"),
        Figure("Tokens", formats.short_count(total.all_tokens), f"{formats.short_count(total.output_tokens)} output"),
        Figure("Last used", last_used, "in the ledger"),
    ]


def _list_facts(key: VirtualKey) -> Sequence[tuple[str, str]]:
    """Return the properties of `key` as pairs of title and text.

    Of its secret texts, only the beginning and end are shown; only their hashes are stored.
    """
    facts = [
        ("Id", key.id),
        ("Owner", key.owner),
        ("Team", key.team),
        ("Created", formats.long_time(key.created_at)),
    ]
    facts += [
        ("Expires", formats.long_time(key.expires_at) or "never"),
        ("Revoked", formats.long_time(key.revoked_at)),
    ]
    for each in key.hashes:
        end = "" if each.expires_at is None else f", until {formats.long_time(each.expires_at)}"
        facts.append(("Text", f"{each.hint}, from {formats.long_time(each.created_at)}{end}"))
    return [(title, value) for title, value in facts if value]
