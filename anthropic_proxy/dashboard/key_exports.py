"""Tables about virtual keys, teams and their changes, for download as CSV or JSON. They do not contain the keys' texts.

A virtual key is a key that this proxy gives to a client. Each function `tabulate_*` returns one table.
"""

from collections.abc import Sequence
from typing import Any

from anthropic_proxy.access.descriptions import describe_changes
from anthropic_proxy.access.descriptions import format_time as format_seconds
from anthropic_proxy.access.queries import list_audit_entries, require_key
from anthropic_proxy.access.rules import LIST_FIELDS, Rules
from anthropic_proxy.access.virtual_keys import AuditEntry, VirtualKey
from anthropic_proxy.dashboard.key import limit_to_key
from anthropic_proxy.dashboard.key_audit import list_shown_entries
from anthropic_proxy.dashboard.keys import choose_key_rows, read_key_list
from anthropic_proxy.dashboard.page_context import PageContext
from anthropic_proxy.dashboard.requests import list_exported_requests
from anthropic_proxy.ledger.export import ExportTable, format_time, tabulate_requests, to_dollars
from anthropic_proxy.ledger.sums import UsageSums

_KEY_TITLES = (
    *("id", "label", "hint", "status", "owner", "team"),
    *("created_at", "expires_at", "revoked_at", "last_used_at"),
)
_RULE_TITLES = (*LIST_FIELDS, "requests_per_minute", "tokens_per_minute", "concurrency", "budgets")
_USED_TITLES = ("budgets_used", "requests", "errors", "tokens", "cost")


def tabulate_keys(context: PageContext) -> ExportTable:
    """Return the virtual keys that the filters in the URL select, as a table. Keys on later pages are included."""
    rows = [
        [
            *(row.key.id, row.key.label, row.hint, row.key.find_status(context.now), row.key.owner, row.key.team),
            *_list_times(row.key),
            None if row.last_used_at is None else format_time(row.last_used_at),
            *_list_rules(row.key.rules),
            *([bar.text for bar in row.budgets], *_list_sums(row.sums)),
        ]
        for row in choose_key_rows(context, read_key_list(context).keys)
    ]
    return ExportTable([*_KEY_TITLES, *_RULE_TITLES, *_USED_TITLES], rows)


def tabulate_teams(context: PageContext) -> ExportTable:
    """Return all teams of virtual keys as a table."""
    rows = [
        [row.name, len(row.key_rows), *_list_rules(row.rules), [bar.text for bar in row.budgets], *_list_sums(row.sums)]
        for row in read_key_list(context).teams
    ]
    return ExportTable(["team", "keys", *_RULE_TITLES, *_USED_TITLES], rows)


def tabulate_changes(context: PageContext) -> ExportTable:
    """Return the changes of keys and teams that the opened page of the audit log lists, as a table."""
    return _tabulate_entries(list_shown_entries(context))


def tabulate_key_changes(context: PageContext) -> ExportTable:
    """Return all changes of the virtual key in the URL as a table."""
    key = require_key(context.connection, context.path_parameters["id"])
    return _tabulate_entries(list_audit_entries(context.connection, key_id=key.id))


def tabulate_key_requests(context: PageContext) -> ExportTable:
    """Return the stored requests that clients sent with the virtual key in the URL, as a table.

    Only requests in the time range of the URL are included.
    """
    key = require_key(context.connection, context.path_parameters["id"])
    return tabulate_requests(list_exported_requests(limit_to_key(context, key)))


def _tabulate_entries(entries: Sequence[AuditEntry]) -> ExportTable:
    rows = [
        [one.id, format_seconds(one.at), one.actor, one.action, one.target, describe_changes(one.changes)]
        for one in entries
    ]
    return ExportTable(["id", "at", "actor", "action", "object", "changes"], rows)


def _list_times(key: VirtualKey) -> list[str | None]:
    return [format_seconds(time) for time in (key.created_at, key.expires_at, key.revoked_at)]


def _list_rules(rules: Rules) -> list[Any]:
    names = [list(getattr(rules, name)) for name in LIST_FIELDS]
    limits = [rules.requests_per_minute, rules.tokens_per_minute, rules.concurrency]
    return [*names, *limits, [budget.encoded_text for budget in rules.budgets]]


def _list_sums(sums: UsageSums) -> list[Any]:
    return [sums.requests, sums.errors, sums.all_tokens, to_dollars(sums.known_cost)]
