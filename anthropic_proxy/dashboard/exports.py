"""Download of the tables of the dashboard's pages as CSV or JSON files.

`TABLES` lists the tables of each page. `export_table` returns one of them as a file, or None if it needs the ledger and
the ledger cannot be read.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anthropic_proxy.dashboard.key_exports import (
    tabulate_changes,
    tabulate_key_changes,
    tabulate_key_requests,
    tabulate_keys,
    tabulate_teams,
)
from anthropic_proxy.dashboard.page_context import PageContext
from anthropic_proxy.dashboard.periods import divide_range
from anthropic_proxy.dashboard.requests import list_exported_requests
from anthropic_proxy.dashboard.sessions import MAX_SESSIONS
from anthropic_proxy.errors import InvalidRequest, UnknownModel
from anthropic_proxy.ledger import dashboard_queries as queries
from anthropic_proxy.ledger.dashboard_queries import count_errors, list_errors
from anthropic_proxy.ledger.export import FORMATS, ExportTable, format_time, tabulate_requests
from anthropic_proxy.ledger.request_queries import find_stored_request
from anthropic_proxy.ledger.session_queries import list_session_requests, list_sessions
from anthropic_proxy.ledger.units import MICROSECONDS
from anthropic_proxy.ledger.usage_export import EXPORT_TITLES, encode_sums
from anthropic_proxy.plugins import RouteResponse
from anthropic_proxy.routing.settings_listing import list_settings

Tabulate = Callable[[PageContext], ExportTable]
"""Function that returns one table for a page context: the URL parameters, the settings, and a connection to the ledger.
"""


def export_table(
    context: PageContext, tables: Mapping[str, Tabulate], query: Mapping[str, Sequence[str]]
) -> RouteResponse | None:
    """Return one table of a page as a CSV or JSON file.

    `query` selects one of `tables` (by default the first), and the format. None: the ledger cannot be read, but the
    table needs it. Raises `InvalidRequest` for an unknown name of a table or format.
    """
    name, form = query.get("table", [""])[-1], query["format"][-1]
    if form not in FORMATS:
        raise InvalidRequest(f"format: {form[:20]!r} is not allowed; use csv or json.")
    chosen = name or next(iter(tables))
    if chosen not in tables:
        raise InvalidRequest(f"table: {name[:20]!r} is not allowed; use {', '.join(tables)}.")
    if not context.can_read and tables[chosen] not in _WITHOUT_LEDGER:
        return None
    return tables[chosen](context).build_download(chosen, form)


def _tabulate_usage(context: PageContext) -> ExportTable:
    """Return numbers of requests, tokens and costs of each period and model in the time range as a table."""
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
    """Return failed requests by provider and type of error, with the message of the latest one, as a table."""
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
        raise UnknownModel(f"The ledger has no request {context.path_parameters['id']!r}.")
    return tabulate_requests([row])


def _tabulate_mapping(context: PageContext) -> ExportTable:
    rows = [[one.tiers, one.target, list(one.fallbacks), one.reason] for one in context.setup.mapping]
    return ExportTable(["requested", "sent_to", "fallbacks", "setting"], rows)


def _tabulate_providers(context: PageContext) -> ExportTable:
    rows = [[one.name, one.prefix, one.state, one.base_url, one.detail, one.remedy] for one in context.setup.providers]
    return ExportTable(["provider", "prefix", "state", "address", "key", "remedy"], rows)


def _tabulate_settings(context: PageContext) -> ExportTable:
    """Return name, value and source of all settings as a table. Keys are masked."""
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
    "/dashboard/models": {"models": _tabulate_models, "mapping": _tabulate_mapping},
    "/dashboard/providers": {"providers": _tabulate_providers},
    "/dashboard/keys": {"keys": tabulate_keys, "teams": tabulate_teams},
    "/dashboard/keys/audit": {"changes": tabulate_changes},
    "/dashboard/keys/{id}": {"requests": tabulate_key_requests, "changes": tabulate_key_changes},
    "/dashboard/settings": {"settings": _tabulate_settings},
}
"""URL path of a page → name of a table → function that returns the table. The main table of the page is first."""
