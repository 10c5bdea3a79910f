"""Download of the tables of the pages as CSV or JSON files."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anthropic_proxy.console.dashboard.charts import divide_range
from anthropic_proxy.console.dashboard.costs import tabulate_costs
from anthropic_proxy.console.dashboard.keys import choose_key_rows, limit_to_key, list_shown_entries, read_key_list
from anthropic_proxy.console.dashboard.page_context import PageContext
from anthropic_proxy.console.dashboard.requests import list_exported_requests
from anthropic_proxy.console.dashboard.sessions import MAX_SESSIONS
from anthropic_proxy.console.keys.descriptions import describe_changes
from anthropic_proxy.console.keys.descriptions import format_time as format_seconds
from anthropic_proxy.console.keys.queries import list_audit_entries, require_key
from anthropic_proxy.console.keys.virtual_keys import LIST_FIELDS, AuditEntry, Rules
from anthropic_proxy.console.ledger import queries
from anthropic_proxy.console.ledger.export import (
    EXPORT_TITLES,
    FORMATS,
    ExportTable,
    encode_sums,
    format_time,
    tabulate_requests,
    to_dollars,
)
from anthropic_proxy.console.ledger.queries import count_errors, list_errors
from anthropic_proxy.console.ledger.records import UsageSums
from anthropic_proxy.console.ledger.request_queries import find_stored_request, list_session_requests, list_sessions
from anthropic_proxy.console.ledger.units import MICROSECONDS
from anthropic_proxy.errors import InvalidRequest, UnknownModel
from anthropic_proxy.gateway.settings_listing import list_settings
from anthropic_proxy.plugins import RouteResponse

_KEY_TITLES = (
    *("id", "label", "hint", "status", "owner", "team"),
    *("created_at", "expires_at", "revoked_at", "last_used_at"),
)
_RULE_TITLES = (*LIST_FIELDS, "requests_per_minute", "tokens_per_minute", "concurrency", "budgets")
_USED_TITLES = ("budgets_used", "requests", "errors", "tokens", "cost")
Tabulate = Callable[[PageContext], ExportTable]


def export_table(
    context: PageContext, tables: Mapping[str, Tabulate], query: Mapping[str, Sequence[str]]
) -> RouteResponse | None:
    """`query` selects one of `tables` (the first by default) and the format. Raises `InvalidRequest` for an unknown
    one.

    None: the ledger cannot be read, but the table needs it.
    """
    name, form = query.get("table", [""])[-1], query["format"][-1]
    if form not in FORMATS:
        raise InvalidRequest(f"format: {form[:20]!r} is not allowed; use csv or json.", code="dashboard-parameter")
    chosen = name or next(iter(tables))
    if chosen not in tables:
        raise InvalidRequest(
            f"table: {name[:20]!r} is not allowed; use {', '.join(tables)}.", code="dashboard-parameter"
        )
    if not context.can_read and tables[chosen] not in _WITHOUT_LEDGER:
        return None
    return tables[chosen](context).build_download(chosen, form)


def tabulate_keys(context: PageContext) -> ExportTable:
    rows = [
        [
            *(row.key.id, row.key.label, row.hint, row.key.find_status(context.now), row.key.owner, row.key.team),
            *(format_seconds(time) for time in (row.key.created_at, row.key.expires_at, row.key.revoked_at)),
            None if row.last_used_at is None else format_time(row.last_used_at),
            *_list_rules(row.key.rules),
            *([bar.text for bar in row.budgets], *_list_sums(row.sums)),
        ]
        for row in choose_key_rows(context, read_key_list(context).keys)
    ]
    return ExportTable([*_KEY_TITLES, *_RULE_TITLES, *_USED_TITLES], rows)


def tabulate_teams(context: PageContext) -> ExportTable:
    rows = [
        [row.name, len(row.key_rows), *_list_rules(row.rules), [bar.text for bar in row.budgets], *_list_sums(row.sums)]
        for row in read_key_list(context).teams
    ]
    return ExportTable(["team", "keys", *_RULE_TITLES, *_USED_TITLES], rows)


def tabulate_changes(context: PageContext) -> ExportTable:
    return _tabulate_entries(list_shown_entries(context))


def tabulate_key_changes(context: PageContext) -> ExportTable:
    key = require_key(context.connection, context.path_parameters["id"])
    return _tabulate_entries(list_audit_entries(context.connection, key_id=key.id))


def tabulate_key_requests(context: PageContext) -> ExportTable:
    key = require_key(context.connection, context.path_parameters["id"])
    return tabulate_requests(list_exported_requests(limit_to_key(context, key)))


def _tabulate_entries(entries: Sequence[AuditEntry]) -> ExportTable:
    rows = [
        [one.id, format_seconds(one.at), one.actor, one.action, one.target, describe_changes(one.changes)]
        for one in entries
    ]
    return ExportTable(["id", "at", "actor", "action", "object", "changes"], rows)


def _list_rules(rules: Rules) -> list[Any]:
    names = [list(getattr(rules, name)) for name in LIST_FIELDS]
    limits = [rules.requests_per_minute, rules.tokens_per_minute, rules.concurrency]
    return [*names, *limits, [budget.encoded_text for budget in rules.budgets]]


def _list_sums(sums: UsageSums) -> list[Any]:
    return [sums.requests, sums.errors, sums.all_tokens, to_dollars(sums.known_cost)]


def _tabulate_usage(context: PageContext) -> ExportTable:
    periods = divide_range(context.charted_query)
    found = queries.sum_model_periods(context.connection, context.selection, periods.seconds)
    rows = [
        [format_time(one.start * MICROSECONDS), one.model.provider, one.model.model, *_values(one.model.sums)]
        for one in found
    ]
    return ExportTable(["from", "provider", "model", *EXPORT_TITLES], rows)


def _tabulate_models(context: PageContext) -> ExportTable:
    found = queries.sum_models(context.connection, context.selection)
    rows = [[one.provider, one.model, *_values(one.sums)] for one in found]
    return ExportTable(["provider", "model", *EXPORT_TITLES], rows)


def _values(sums: Any) -> list[Any]:
    return list(encode_sums(sums).values())


def _tabulate_failures(context: PageContext) -> ExportTable:
    errors = count_errors(context.connection, context.selection, divide_range(context.charted_query).seconds)
    found = list_errors(context.connection, errors)
    titles = ["provider", "status", "error_type", "requests", "first_at", "last_at", "error", "latest_request"]
    rows = [
        [
            *(one.provider, one.status, one.error_type, one.count),
            *(format_time(one.first_at), format_time(one.last_at), one.error, one.request_id),
        ]
        for one in found
    ]
    return ExportTable(titles, rows)


def _tabulate_sessions(context: PageContext) -> ExportTable:
    found = list_sessions(context.connection, context.selection, MAX_SESSIONS).rows
    titles = ["session", "project", "started_at", "last_at", "max_context", *EXPORT_TITLES]
    rows = [
        [
            *(one.session, one.project, format_time(one.started_at), format_time(one.last_at), one.max_context),
            *_values(one.sums),
        ]
        for one in found
    ]
    return ExportTable(titles, rows)


def _tabulate_session(context: PageContext) -> ExportTable:
    session = context.query.facets.get("session", "")
    return tabulate_requests(list_session_requests(context.connection, session))


def _tabulate_request(context: PageContext) -> ExportTable:
    row = find_stored_request(context.connection, context.path_parameters["id"])
    if row is None:
        raise UnknownModel(f"The ledger has no request {context.path_parameters['id']!r}.", code="ledger-request")
    return tabulate_requests([row])


def _tabulate_mapping(context: PageContext) -> ExportTable:
    rows = [[one.tiers, one.target, list(one.fallbacks), one.reason] for one in context.setup.mapping]
    return ExportTable(["requested", "sent_to", "fallbacks", "setting"], rows)


def _tabulate_providers(context: PageContext) -> ExportTable:
    rows = [[one.name, one.prefix, one.state, one.base_url, one.detail, one.remedy] for one in context.setup.providers]
    return ExportTable(["provider", "prefix", "state", "address", "key", "remedy"], rows)


def _tabulate_settings(context: PageContext) -> ExportTable:
    rows = [[one.name, one.value, one.source, one.default] for one in list_settings(context.settings)]
    return ExportTable(["setting", "value", "source", "default"], rows)


_WITHOUT_LEDGER = (_tabulate_mapping, _tabulate_providers, _tabulate_settings)
"""Functions that return a table of the state of the proxy. The table is complete if the ledger cannot be read."""
TABLES: Mapping[str, Mapping[str, Tabulate]] = {
    "/dashboard": {"usage": _tabulate_usage, "failures": _tabulate_failures, "models": _tabulate_models},
    "/dashboard/requests": {"requests": lambda context: tabulate_requests(list_exported_requests(context))},
    "/dashboard/requests/{id}": {"request": _tabulate_request},
    "/dashboard/sessions": {"sessions": _tabulate_sessions},
    "/dashboard/session": {"requests": _tabulate_session},
    "/dashboard/costs": {"costs": tabulate_costs},
    "/dashboard/models": {"models": _tabulate_models, "mapping": _tabulate_mapping},
    "/dashboard/providers": {"providers": _tabulate_providers},
    "/dashboard/keys": {"keys": tabulate_keys, "teams": tabulate_teams},
    "/dashboard/keys/audit": {"changes": tabulate_changes},
    "/dashboard/keys/{id}": {"requests": tabulate_key_requests, "changes": tabulate_key_changes},
    "/dashboard/settings": {"settings": _tabulate_settings},
}
"""URL path of a page → name of a table → function that returns the table. The main table of the page is first."""
