"""Page Keys: all virtual keys and teams with state, limits, used budgets, requests and cost.

A virtual key is a key that this proxy gives to a client. `build_keys_page` returns the values for the template of the
page. `read_key_list` returns all keys and teams as a `KeyList`. `choose_key_rows` selects the keys that match the
filter and the search text. `read_used_budgets` returns how much of each budget is used.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from msgspec import Struct, structs

from anthropic_proxy.access.limits import Scope, list_scopes
from anthropic_proxy.access.queries import Spending, list_keys, list_teams, read_all_spending
from anthropic_proxy.access.rules import Rules
from anthropic_proxy.access.virtual_keys import Team, VirtualKey
from anthropic_proxy.dashboard import formats
from anthropic_proxy.dashboard.key_rows import STATUSES, KeyRow, KeyUsage, TeamRow, build_key_row, build_team_row
from anthropic_proxy.dashboard.page_context import PageContext
from anthropic_proxy.dashboard.sorting import SortableColumn, sort_rows
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.ledger import dashboard_queries as queries
from anthropic_proxy.ledger.key_queries import find_last_key_uses
from anthropic_proxy.ledger.sums import UsageSums, add_up_groups
from anthropic_proxy.plugins import StoreUnavailable

PATH = "/dashboard/keys"
"""URL path of the page Keys."""
MAX_ROWS = 100
"""Maximum number of virtual keys on one page."""
STATUS_TITLES = (("", "All"), *((status, status.capitalize()) for status in STATUSES))
"""Pairs: state of keys, as the parameter `by` of the URL, and title of the filter. "": all keys."""
STORE_PROBLEM = "The used amounts of budgets are not known: Redis is unavailable (REDIS_URL)."
"""Message for the page if the store of limits is not available."""


COLUMNS: Sequence[SortableColumn[KeyRow]] = (
    SortableColumn("used", "Budget used", lambda row: max((bar.share for bar in row.budgets), default=-1.0)),
    SortableColumn("last", "Last used", lambda row: row.last_used_at or 0),
    SortableColumn("requests", "Requests", lambda row: row.sums.requests),
    SortableColumn("cost", "Cost", lambda row: row.sums.cost),
)
"""Columns of the table of virtual keys by which the rows can be sorted."""


class KeyList(Struct, frozen=True):
    """All virtual keys and teams in the database, each with its requests, cost and used budgets."""

    keys: Sequence[KeyRow]
    teams: Sequence[TeamRow]
    problem: str = ""
    """Message that the store of limits is not available, so that used budgets are unknown. "": the store is available.
    """


class UsedBudgets(NamedTuple):
    """Used amounts of the budgets of keys and teams."""

    by_owner: Mapping[str, Sequence[Spending]]
    """Id of a key, or `team/NAME` → used amount of each budget. Absent: unknown."""
    problem: str = ""
    """Message that the store of limits cannot be read. "": it can be read."""


def build_keys_page(context: PageContext) -> Mapping[str, Any]:
    """Return the values for the template of the page Keys.

    `context`: parameters of the URL, state of the proxy, and connection to the ledger.
    """
    found = read_key_list(context)
    chosen = choose_key_rows(context, found.keys)
    ids = [row.key.id for row in chosen]
    start = ids.index(context.query.before) + 1 if context.query.before in ids else 0
    shown = chosen[start : start + MAX_ROWS]
    has_older = start + MAX_ROWS < len(chosen)
    earlier = ids[start - MAX_ROWS - 1] if start > MAX_ROWS else ""
    return {
        "verdict": _summarize(found.keys),
        "store_problem": found.problem,
        "rows": shown,
        "teams": found.teams,
        "columns": COLUMNS,
        "statuses": STATUS_TITLES,
        "is_empty": not found.keys,
        "hidden": f"{start + 1} to {start + len(shown)} of {len(chosen):,}" if len(chosen) > MAX_ROWS else "",
        "newer": context.query.link(before=earlier) if start else "",
        "older": context.query.link(before=shown[-1].key.id) if has_older else "",
    }


def read_key_list(context: PageContext) -> KeyList:
    """Return all virtual keys and teams, with their requests in the time range and their used budgets.

    Active keys come first.
    """
    keys, teams = list_keys(context.connection), list_teams(context.connection)
    named = {team.name: team for team in teams}
    named = {name: named.get(name, Team(name)) for name in sorted({*named, *(key.team for key in keys if key.team)})}
    spending, problem = read_used_budgets(context, [*keys, *named.values()])
    uses = find_last_key_uses(context.connection)
    own = structs.replace(context.selection, values={}, text="", is_changed=False)
    sums = add_up_groups((row.group, row.sums) for row in queries.sum_periods(context.connection, own, 0, "key_label"))
    rows = []
    for key in keys:
        usage = KeyUsage(sums.get(key.label, UsageSums()), spending.get(key.id), uses.get(key.label))
        link = context.query.link(
            "/dashboard/requests", facets={"key": key.label}, measure="", order="", text="", before=""
        )
        rows.append(build_key_row(key, usage, context.now, link))
    rows.sort(key=lambda row: (STATUSES.index(row.key.find_status(context.now)), row.key.label.lower()))
    team_rows = [
        build_team_row(team, [row for row in rows if row.key.team == name], spending.get(f"team/{name}"))
        for name, team in named.items()
    ]
    return KeyList(rows, team_rows, problem)


def read_used_budgets(context: PageContext, owners: Sequence[VirtualKey | Team]) -> UsedBudgets:
    """Return how much is used of each budget of `owners`, which are keys or teams."""
    scopes = {_name_owner(owner): _find_scope(owner) for owner in owners}
    store = context.store
    if store is None or not any(scope.rules != Rules() for scope in scopes.values()):
        return UsedBudgets({} if store is None else dict.fromkeys(scopes, ()))
    try:
        found = context.wait_for(read_all_spending(store, list(scopes.values()), context.now))
    except (StoreUnavailable, TimeoutError):
        return UsedBudgets({}, STORE_PROBLEM)
    return UsedBudgets(dict(zip(scopes, found, strict=True)))


def choose_key_rows(context: PageContext, rows: Sequence[KeyRow]) -> list[KeyRow]:
    """Return the keys of `rows` that match the filter and the search text of the URL.

    Raises `InvalidRequest` for an unknown filter or sort column.
    """
    query = context.query
    if query.measure not in ("", *STATUSES):
        raise InvalidRequest(f"by: {query.measure[:20]!r} is not allowed; use {', '.join(STATUSES)}.")
    text = query.text.lower()
    chosen = [
        row
        for row in rows
        if query.measure in ("", row.key.find_status(context.now))
        and any(text in value.lower() for value in (row.key.label, row.key.owner, row.key.team, row.hint, row.key.id))
    ]
    return sort_rows(chosen, COLUMNS, query.order)


def _name_owner(owner: VirtualKey | Team) -> str:
    return owner.id if isinstance(owner, VirtualKey) else f"team/{owner.name}"


def _find_scope(owner: VirtualKey | Team) -> Scope:
    """Return the scope (object with budgets) of `owner`: the key itself, without its team, or the team."""
    if isinstance(owner, VirtualKey):
        return list_scopes(owner, None)[0]
    return list_scopes(VirtualKey(id="", label=""), owner)[1]


def _summarize(rows: Sequence[KeyRow]) -> str:
    if not rows:
        return "No virtual keys yet."
    counts = {status: sum(row.state.text == status for row in rows) for status in STATUSES}
    expiring = sum(row.state.role == "warn" for row in rows)
    counted = [f"{counts['active'] + expiring:,} active"]
    counted += [f"{counts[status]:,} {status}" for status in ("expired", "revoked") if counts[status]]
    verdict = f"{formats.plural(len(rows), 'key')}: {', '.join(counted)}."
    if expiring:
        verdict += f" {expiring:,} {'expires' if expiring == 1 else 'expire'} within 7 days."
    used_up = sum(any(bar.role == "error" for bar in row.budgets) for row in rows)
    if used_up:
        verdict += f" {formats.plural(used_up, 'key')} used up a budget."
    return verdict
