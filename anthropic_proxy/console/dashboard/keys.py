"""Pages about virtual keys, the keys that this proxy gives to clients: list of keys and teams, one key, and audit log.

The audit log has each change of a key, a team or the settings, with time, author, and old and new values.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple
from urllib.parse import quote

from markupsafe import Markup
from msgspec import Struct, structs

from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.charts import chart_models, divide_range
from anthropic_proxy.console.dashboard.page import Figure, Page, PageContext, PageTable, StateLine
from anthropic_proxy.console.dashboard.query import ViewQuery
from anthropic_proxy.console.dashboard.requests import list_exported_requests
from anthropic_proxy.console.dashboard.tables import (
    Cell,
    PagedRows,
    RowT,
    ShareBar,
    Table,
    TableColumn,
    build_finished_row,
    build_request_table,
    build_table,
    fit_text,
    measure_column,
    page_list,
    page_rows,
    read_order,
    sort_rows,
)
from anthropic_proxy.console.keys.acceptance import list_key_states
from anthropic_proxy.console.keys.descriptions import (
    describe_author_of_end,
    describe_changes,
    describe_creator,
    describe_exceptions,
    describe_rules,
)
from anthropic_proxy.console.keys.descriptions import format_time as format_key_time
from anthropic_proxy.console.keys.limits import build_key_scope, build_team_scope
from anthropic_proxy.console.keys.machine_reports import read_reports
from anthropic_proxy.console.keys.queries import (
    Spending,
    add_forecasts,
    find_key,
    find_team,
    list_audit_entries,
    list_readable_ids,
    list_readable_keys,
    list_readable_teams,
    read_all_spending,
    require_key,
)
from anthropic_proxy.console.keys.rights import HELD_FIELDS, is_of_person
from anthropic_proxy.console.keys.sign_ins import SignIn, describe_refresh, encode_sign_in, list_sign_ins
from anthropic_proxy.console.keys.virtual_keys import AuditEntry, KeyState, KeyStatus, Team, VirtualKey
from anthropic_proxy.console.ledger import queries
from anthropic_proxy.console.ledger.connection import Reader
from anthropic_proxy.console.ledger.engines import EngineReader
from anthropic_proxy.console.ledger.export import format_time, tabulate, tabulate_requests, to_dollars
from anthropic_proxy.console.ledger.periods import RequestSelection
from anthropic_proxy.console.ledger.queries import find_last_key_uses
from anthropic_proxy.console.ledger.records import UsageSums, add_up, add_up_groups
from anthropic_proxy.console.ledger.request_queries import list_stored_requests
from anthropic_proxy.console.measures import format_sums
from anthropic_proxy.console.units import MICROSECONDS
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.permissions import may
from anthropic_proxy.gateway.settings.key_rules import LIMIT_FIELDS, LIST_FIELDS, Rules
from anthropic_proxy.plugins import StoreUnavailable

EXPIRY_NOTICE_SECONDS = 7 * 86_400
"""Seconds before the expiry of a key from which its state mentions the expiry."""
_MAX_KEY_ROWS = 100
_MAX_REQUESTS = 20
_MAX_CHANGES = 20
_MAX_AUDIT_ROWS = 50
_MAX_SIGN_INS = 200
_MAX_TEAMS = 200
_HIGH_SHARE = 0.8
_WHOLE = "of the budget"
STORE_PROBLEM = "The used amounts of budgets are not known: Redis is unavailable (REDIS_URL)."
_STATUS_SIGNS: Mapping[KeyStatus, tuple[str, str]] = {
    "active": ("✓", "ok"),
    "inactive": ("✕", "error"),
    "unreadable": ("✕", "error"),
    "expired": ("✕", "error"),
    "revoked": ("–", ""),
}
STATUSES = tuple(_STATUS_SIGNS)
STATUS_TITLES = (("", "All"), *((status, status.capitalize()) for status in STATUSES if status != "unreadable"))
"""Pairs: state of keys, as the parameter `by` of the URL, and title of the filter. "": all keys."""


class ListedKey(NamedTuple):
    """What a list of all keys knows of one."""

    key: VirtualKey
    status: KeyStatus


class KeyRow(Struct, frozen=True):
    key: VirtualKey
    access: KeyState
    sums: UsageSums
    budgets: Sequence[ShareBar]
    last_used_at: int | None
    """Start of the last stored request in microseconds since the epoch. None: no stored request."""
    now: float
    """Seconds since the epoch."""
    query: ViewQuery

    @property
    def requests_link(self) -> str:
        facets = {"key": self.key.label}
        return self.query.link("/dashboard/requests", facets=facets, measure="", order="", text="")

    @property
    def rules(self) -> Rules:
        return self.key.rules

    @property
    def hint(self) -> str:
        return self.key.hashes[0].hint if self.key.hashes else ""

    @property
    def used_share(self) -> float:
        return max((bar.share or 0.0 for bar in self.budgets), default=-1.0)

    @property
    def state(self) -> StateLine:
        """An active key that expires within `EXPIRY_NOTICE_SECONDS` has a warning with the remaining time."""
        status = self.access.status
        end = self.key.expires_at
        if status == "active" and end is not None and end - self.now <= EXPIRY_NOTICE_SECONDS:
            return StateLine("!", "warn", f"expires in {formats.whole_time(end - self.now)}")
        return StateLine(*_STATUS_SIGNS[status], status)

    @property
    def expires(self) -> str:
        """Text about the expiry of a key, if the state does not mention it. "": the key does not expire, or only its
        state mentions the expiry."""
        end = self.key.expires_at
        if end is None or end - self.now <= EXPIRY_NOTICE_SECONDS or self.key.revoked_at is not None:
            return ""
        return f"expires in {formats.whole_time(end - self.now)}"

    def show_last_use(self) -> Cell:
        if (at := self.last_used_at) is None:
            return Cell(text=formats.UNKNOWN)
        return Cell(text=formats.ago(self.now - at / MICROSECONDS), title=formats.full_time(at))

    def show_state(self) -> Cell:
        return Cell(
            tag=structs.astuple(self.state),
            title=self.access.reason,
            note=describe_author_of_end(self.key) or self.expires,
        )

    def show_owner(self) -> Cell:
        creator = describe_creator(self.key, self.access)
        note = ", ".join(filter(None, (self.key.team, self.key.cost_center, creator and f"created by {creator}")))
        return Cell(text=self.key.owner or formats.UNKNOWN, note=note)


class TeamRow(Struct, frozen=True):
    team: Team
    key_count: int
    active_count: int
    sums: UsageSums
    """Those of the team at the time of each request, also if a key has changed its team since."""
    budgets: Sequence[ShareBar]
    query: ViewQuery

    @property
    def rules(self) -> Rules:
        return self.team.rules

    def show_keys(self) -> str:
        active, count = self.active_count, self.key_count
        return f"{active} active of {count}" if active != count else formats.count(active)

    @property
    def requests_link(self) -> str:
        return self.query.link("/dashboard/requests", facets={"team": self.team.name}, order="", text="")

    def show_cost(self) -> Cell:
        cost = format_sums(self.sums)
        facets = {"team": self.team.name}
        href = self.query.link("/dashboard/costs", facets=facets, measure="key", order="", text="")
        return Cell(text=cost, href=href, label=f"Cost of the team {self.team.name} by key: {cost}")


def show_rules(rules: Rules, key: VirtualKey | None = None) -> Cell:
    """Return the allowed names and limits of a key or a team, without the budgets. `key`: the one whose exceptions are
    named.
    """
    lines = [(name, ", ".join(names)) for name in LIST_FIELDS if (names := getattr(rules, name))]
    limits = describe_rules(structs.replace(rules, budgets=(), **dict.fromkeys(LIST_FIELDS, ())))
    exceptions = "" if key is None else describe_exceptions(key)
    further = [("", limits), ("exceptions", exceptions)]
    return Cell(lines=[*(lines or [("all models and routes", "")]), *(line for line in further if line[1])])


def show_budgets(budgets: Sequence[ShareBar], none: str = formats.UNKNOWN) -> Cell:
    return Cell(bars=budgets) if budgets else Cell(lines=[(none, "")], style="extra")


def _show_moment(seconds: float) -> Cell:
    return Cell(text=formats.day_and_time(seconds * MICROSECONDS), title=formats.full_time(seconds * MICROSECONDS))


def _show_refresh(sign_in: SignIn) -> Cell:
    """The identity provider is asked at each refresh, unless it gave no refresh token."""
    return structs.replace(_show_moment(sign_in.refreshed_at), note=describe_refresh(sign_in))


def _link_key(key_id: str, text: str, note: str = "") -> Cell:
    return Cell(text=text, href=f"/dashboard/keys/{quote(key_id, safe='')}", note=note)


def _show_requests(row: KeyRow | TeamRow, name: str) -> Cell:
    text = formats.count(row.sums.requests)
    return Cell(text=text, href=row.requests_link, label=f"Requests of {name}: {text}")


_COLUMNS: Sequence[TableColumn[KeyRow]] = (
    TableColumn("key", "Key", lambda row: _link_key(row.key.id, row.key.label, row.hint), style="a-what wrap"),
    TableColumn("state", "State", KeyRow.show_state, style="a-state"),
    TableColumn("owner", "Owner, team", KeyRow.show_owner, style="wrap"),
    TableColumn("allowed", "Allowed, limits", lambda row: show_rules(row.rules, row.key), style="small allowed"),
    TableColumn("used", "Budget used", lambda row: show_budgets(row.budgets), attrgetter("used_share"), style="full"),
    TableColumn(
        "last", "Last used", KeyRow.show_last_use, lambda row: row.last_used_at or 0, ends=("latest", "earliest")
    ),
    structs.replace(measure_column("requests"), text=lambda row: _show_requests(row, row.key.label), style="a-when"),
    measure_column("cost"),
)


def _action_column(name: str, title: str, action: str, find: Callable[[RowT], tuple[str, str]]) -> TableColumn[RowT]:
    """Column of a link to the form of a change. `find` returns the target and the words behind `title`."""

    def show(row: RowT) -> Cell:
        target, words = find(row)
        href = f"/dashboard/keys/edit?action={action}&target={quote(target, safe='')}"
        return Cell(text=title, href=href, label=f"{title} {words}")

    hidden = Markup('<span class="hidden-text">{}</span>').format(title)
    return TableColumn(name, hidden, show, is_number=True, style="full change")


def _show_target(entry: AuditEntry) -> Cell:
    key_id, _, label = entry.target.partition(" ")
    return _link_key(key_id, label) if entry.action.endswith("key") else Cell(text=entry.target)


_TEAM_COLUMNS: Sequence[TableColumn[TeamRow]] = (
    TableColumn(
        "team",
        "Team",
        lambda row: Cell(text=row.team.name, href=row.query.link(text=row.team.name)),
        style="a-what wrap",
    ),
    TableColumn("keys", "Keys", TeamRow.show_keys, style="a-state nowrap", phone_label="keys"),
    TableColumn("allowed", "Allowed, limits", lambda row: show_rules(row.rules), style="small allowed"),
    TableColumn("used", "Budget used", lambda row: show_budgets(row.budgets), is_number=True, style="full"),
    structs.replace(
        measure_column("requests"), text=lambda row: _show_requests(row, f"the team {row.team.name}"), style="a-when"
    ),
    structs.replace(measure_column("cost"), text=TeamRow.show_cost),
    _action_column("change", "Change", "team", lambda row: (row.team.name, f"the team {row.team.name}")),
)


_CHANGE_COLUMNS: Sequence[TableColumn[AuditEntry]] = (
    TableColumn("time", "Time", lambda entry: _show_moment(entry.at), style="a-state nowrap"),
    TableColumn("action", "Action", lambda entry: entry.action, style="a-change nowrap"),
    TableColumn("target", "Key, team or instance", _show_target, style="full wrap"),
    TableColumn("actor", "Actor", lambda entry: fit_text(entry.actor, "wrap"), style="full muted"),
    TableColumn(
        "changes", "Changes", lambda entry: describe_changes(entry.changes) or formats.UNKNOWN, style="full wrap"
    ),
)


_SIGN_IN_COLUMNS: Sequence[TableColumn[SignIn]] = (
    TableColumn(
        "person", "Person", lambda row: _link_key(row.key_id, row.user.unique_name, row.user.name), style="a-what wrap"
    ),
    TableColumn("device", "Device, address", lambda row: Cell(text=row.device, note=row.address), style="wrap"),
    TableColumn("groups", "Groups", lambda row: ", ".join(row.user.groups) or formats.UNKNOWN, style="small wrap"),
    TableColumn("since", "Signed in", lambda row: _show_moment(row.created_at), style="nowrap"),
    TableColumn("refreshed", "Last refresh", _show_refresh, style="nowrap"),
    TableColumn("ends", "Ends", lambda row: _show_moment(row.ends_at), style="nowrap"),
    _action_column(
        "end", "End", "sign-out", lambda row: (row.id, f"the sign-in of {row.user.unique_name} on {row.device}")
    ),
)


def build_keys_page(context: PageContext) -> Mapping[str, Any]:
    listed = list_page_keys(context)
    chosen = choose_keys(context.query, listed)
    part, before, problem = _page_keys(context, chosen)
    team_rows, team_problem, is_cut = read_team_rows(context, listed, _MAX_TEAMS)
    sign_ins = _list_sign_ins(context, _MAX_SIGN_INS + 1)
    keys = "Virtual keys; requests and cost of the range"
    teams = "Teams; requests and cost of the range"
    persons = "Persons that have signed in from Claude Code"
    by_label: Mapping[str, Any] = {"style": "keys", "default_order": "label"}
    others: Mapping[str, Any] = {"style": "keys", "is_link": False}
    hidden = ""
    if len(chosen) > _MAX_KEY_ROWS:
        hidden = f"{before + 1} to {before + len(part.rows)} of {len(chosen):,}"
    return {
        "verdict": _summarize(context, listed, part.rows),
        "store_problem": problem or team_problem,
        "part": part,
        "table": build_table(keys, _COLUMNS, part.rows, attrgetter("key.id"), query=context.query, **by_label),
        "teams": build_table(teams, _TEAM_COLUMNS, team_rows, lambda row: row.team.name, id="teams", **others),
        "sign_ins": build_table(
            persons, _SIGN_IN_COLUMNS, sign_ins[:_MAX_SIGN_INS], lambda row: row.id, id="sign-ins", **others
        ),
        "statuses": STATUS_TITLES,
        "is_empty": not listed,
        "no_new_key": context.rights.explain_no_new_key(),
        "changes_teams": may(context.rights.role, "manage all keys"),
        "reads_audit": may(context.rights.role, "read all keys"),
        "hidden": hidden,
        "hidden_sign_ins": f": the latest {_MAX_SIGN_INS}" if len(sign_ins) > _MAX_SIGN_INS else "",
        "hidden_teams": f": the first {_MAX_TEAMS}" if is_cut else "",
    }


def _list_sign_ins(context: PageContext, limit: int | None = None) -> Sequence[SignIn]:
    return list_sign_ins(require_reader(context), context.now, context.rights.sign_ins_of, limit=limit)


def _summarize(context: PageContext, listed: Sequence[ListedKey], shown: Sequence[KeyRow]) -> str:
    """`shown`: the keys of the page, of which alone is known what they have used."""
    if not listed:
        return "No virtual keys yet."
    counts = Counter(row.status for row in listed)
    verdict = formats.plural(len(listed), "key")
    counted = [f"{counts['active']:,} active"]
    counted += [f"{counts[status]:,} {status}" for status in STATUSES[1:] if counts[status]]
    verdict += f": {', '.join(counted)}."
    latest = context.now + EXPIRY_NOTICE_SECONDS
    if expiring := sum(row.status == "active" and (row.key.expires_at or math.inf) <= latest for row in listed):
        verdict += f" {expiring:,} {'expires' if expiring == 1 else 'expire'} within 7 days."
    where = " of this page" if len(shown) < len(listed) else ""
    if used_up := sum(any(bar.role == "error" for bar in row.budgets) for row in shown):
        verdict += f" {formats.plural(used_up, 'key')}{where} used up a budget."
    if exceeded := sum(any(bar.role == "warn" and bar.share == 1 for bar in row.budgets) for row in shown):
        verdict += f" {formats.plural(exceeded, 'key')}{where} exceeded a soft budget."
    return verdict


def list_page_keys(context: PageContext) -> Sequence[ListedKey]:
    """Return all keys that the user reads. Active keys come first."""
    reader, rights = require_reader(context), context.rights
    stored, now = context.stored_keys, context.now
    if may(rights.role, "read all keys"):
        ids = None
    else:
        ids = list_readable_ids(reader, rights)
        if len(ids) <= _MAX_KEY_ROWS:  # those of a person are less work than all
            keys = list_readable_keys(reader, rights)
            states = list_key_states(reader, context.settings, keys, now)
            return _sort_keys(ListedKey(key, state.status) for key, state in zip(keys, states, strict=True))
    stored.read(reader, context.settings)
    ends = stored.ends
    chosen = ends.values() if ids is None else [ends[key_id] for key_id in ids if key_id in ends]
    return _sort_keys(ListedKey(end.key, end.find_status(now)) for end in chosen)


def _sort_keys(listed: Iterable[ListedKey]) -> Sequence[ListedKey]:
    return sorted(listed, key=lambda row: (STATUSES.index(row.status), row.key.label.lower()))


def choose_keys(query: ViewQuery, listed: Sequence[ListedKey]) -> Sequence[ListedKey]:
    """Raises `InvalidRequest` for an unknown filter."""
    if query.measure not in ("", *STATUSES):
        allowed = ", ".join(STATUSES)
        raise InvalidRequest(f"by: {query.measure[:20]!r} is not allowed; use {allowed}.", code="dashboard-parameter")
    if query.measure:
        listed = [row for row in listed if row.status == query.measure]
    text = query.text.lower()
    return [row for row in listed if _has_text(row.key, text)] if text else listed


def _has_text(key: VirtualKey, text: str) -> bool:
    if key.id.startswith(text):  # a random id contains many short words
        return True
    hint = key.hashes[0].hint if key.hashes else ""
    return any(text in value.lower() for value in (key.label, key.owner, key.team, hint))


class UsedKeys(NamedTuple):
    rows: Sequence[KeyRow]
    problem: str
    """Why the store of limits is not available, so that used budgets are unknown. "": it is available."""


def read_key_rows(context: PageContext, listed: Sequence[ListedKey]) -> UsedKeys:
    """The rows have no reasons of states."""
    keys = [row.key for row in listed]
    # of many keys, the sums of all are less work
    labels = [key.label for key in keys] if len(keys) <= _MAX_KEY_ROWS else None
    selection = structs.replace(_select_all(context), labels=labels)
    periods = queries.sum_periods(context.connection, selection, 0, "key_label") if keys else []
    sums = add_up_groups((row.group, row.sums) for row in periods)
    budgets, problem = read_budget_bars(context, keys)
    uses = find_last_key_uses(context.connection, labels)
    query = structs.replace(context.query, before="", after="")
    rows = [
        KeyRow(
            key=key,
            access=KeyState(status),
            sums=sums.get(key.label, UsageSums()),
            budgets=budgets[f"key/{key.id}"],
            last_used_at=uses.get(key.label),
            now=context.now,
            query=query,
        )
        for key, status in listed
    ]
    return UsedKeys(rows, problem)


def _add_states(context: PageContext, rows: Sequence[KeyRow]) -> Sequence[KeyRow]:
    states = _list_states(context, [row.key for row in rows])
    return [structs.replace(row, access=state) for row, state in zip(rows, states, strict=True)]


def read_team_rows(
    context: PageContext, listed: Sequence[ListedKey], limit: int | None = None
) -> tuple[Sequence[TeamRow], str, bool]:
    """Return the teams of these keys and all others that the user reads, the problem of `UsedKeys`, and whether there
    are more than `limit`.
    """
    rights = context.rights
    named = {team.name: team for team in list_readable_teams(require_reader(context), rights)}
    periods = queries.sum_periods(context.connection, _select_all(context), 0, "team")
    sums = add_up_groups((row.group, row.sums) for row in periods)
    counts = Counter(row.key.team for row in listed)
    active = Counter(row.key.team for row in listed if row.status == "active")
    names = sorted({*named, *counts, *filter(rights.reads_team, sums)} - {""})
    teams = [named.get(name, Team(name)) for name in names[:limit]]
    budgets, problem = read_budget_bars(context, teams)
    rows = [
        TeamRow(
            team=team,
            key_count=counts[team.name],
            active_count=active[team.name],
            sums=sums.get(team.name, UsageSums()),
            budgets=budgets[f"team/{team.name}"],
            query=context.query,
        )
        for team in teams
    ]
    return rows, problem, len(teams) < len(names)


def _select_all(context: PageContext) -> RequestSelection:
    """Return the requests of the range without the filters of the page, which are about keys."""
    return structs.replace(context.model_selection, values={}, text="", is_changed=False)


def _page_keys(context: PageContext, listed: Sequence[ListedKey]) -> tuple[PagedRows[KeyRow], int, str]:
    """Return the part of the list that the URL selects, the number of rows before it, and the problem of `UsedKeys`.
    What a key has used is read for this part, unless the list is sorted by it; the reason of a state always.
    """
    query = context.query
    if read_order(query.order, _COLUMNS) is None:
        keys, before = page_list(query, listed, _MAX_KEY_ROWS, lambda row: row.key.id)
        used = read_key_rows(context, keys.rows)
        return PagedRows(_add_states(context, used.rows), keys.newer, keys.older), before, used.problem
    used = read_key_rows(context, listed)
    part, before = page_list(query, sort_rows(used.rows, _COLUMNS, query.order), _MAX_KEY_ROWS, lambda row: row.key.id)
    return structs.replace(part, rows=_add_states(context, part.rows)), before, used.problem


def list_exported_keys(context: PageContext) -> Sequence[KeyRow]:
    rows = _add_states(context, read_key_rows(context, choose_keys(context.query, list_page_keys(context))).rows)
    return sort_rows(rows, _COLUMNS, context.query.order)


def _list_states(context: PageContext, keys: Sequence[VirtualKey]) -> Sequence[KeyState]:
    """Commands of administrators stand only on their pages."""
    states = list_key_states(require_reader(context), context.settings, keys, context.now)
    if may(context.rights.role, "manage all keys"):
        return states
    return [state.for_people(context.settings.limit_contact) for state in states]


def require_reader(context: PageContext) -> Reader:
    return context.keys or EngineReader(context.connection)


def read_budget_bars(
    context: PageContext, owners: Sequence[VirtualKey | Team]
) -> tuple[Mapping[str, Sequence[ShareBar]], str]:
    """Return `key/ID` or `team/NAME` → its budgets with their used amounts, and why the store of limits cannot be read,
    so that the amounts are unknown. "": it can be read.
    """
    store = context.store
    problem = ""
    scopes = [build_key_scope(owner) if isinstance(owner, VirtualKey) else build_team_scope(owner) for owner in owners]
    if store is not None and any(scope.rules != Rules() for scope in scopes):
        try:
            now = store.state.find_time(lambda: context.now)
            used = context.wait_for(read_all_spending(store, scopes, now))
            spending_by_scope = add_forecasts(require_reader(context), context.settings, scopes, used, now)
            return {
                scope.counter: [*map(_draw_budget, spending)]
                for scope, spending in zip(scopes, spending_by_scope, strict=True)
            }, ""
        except (StoreUnavailable, TimeoutError):
            problem = STORE_PROBLEM
    unknown = {
        scope.counter: [
            ShareBar(f"{formats.UNKNOWN} of {budget.describe()}", 0.0, _WHOLE) for budget in scope.rules.budgets
        ]
        for scope in scopes
    }
    return unknown, problem


def _draw_budget(spending: Spending) -> ShareBar:
    is_refused = spending.share >= 1 and not spending.budget.soft
    role = "error" if is_refused else "warn" if spending.share >= _HIGH_SHARE else "accent"
    return ShareBar(spending.describe(), spending.share, _WHOLE, role)


def build_key_page(context: PageContext) -> Mapping[str, Any] | None:
    """Return the template values of the page about the virtual key in the URL. None: this key does not exist."""
    key = find_key(require_reader(context), context.path_parameters["id"])
    if key is None or not context.rights.reads(key):
        return None
    context = limit_to_key(context, key)
    periods = divide_range(context.charted_query)
    by_period = queries.sum_model_periods(context.connection, context.model_selection, periods.seconds)
    total = add_up(row.model.sums for row in by_period)
    team = find_team(require_reader(context), key.team) if key.team else None
    budgets, problem = read_budget_bars(context, [key] if team is None else [key, team])
    last = find_last_key_uses(context.connection, [key.label])
    (state,) = _list_states(context, [key])
    row = KeyRow(
        key=key,
        access=state,
        sums=total,
        budgets=budgets[f"key/{key.id}"],
        last_used_at=last.get(key.label),
        now=context.now,
        query=context.query,
    )
    latest = list_stored_requests(context.connection, context.selection, _MAX_REQUESTS)
    shown = [build_finished_row(row, context.now) for row in latest]
    reason = {
        "active": "",
        "inactive": f"{state.reason} ",
        "unreadable": f"Rejected. {key.problem or state.reason} ",
        "expired": f"Rejected since {formats.long_time(key.expires_at)}. " if key.expires_at else f"{state.reason} ",
        "revoked": f"Rejected since {formats.long_time(key.revoked_at)}. " if key.revoked_at else f"{state.reason} ",
    }[state.status]
    facts = [
        ("Id", key.id),
        ("Error of its requests", state.reason),
        ("Owner", key.owner),
        ("Subject", f"{key.subject} at {key.issuer}" if key.subject else ""),
        ("Team", key.team),
        ("Cost center", key.cost_center),
        ("Created by", describe_creator(key, state)),
        ("Created", formats.long_time(key.created_at)),
        ("Expires", formats.long_time(key.expires_at) or "never"),
        ("Revoked", ", ".join(filter(None, (formats.long_time(key.revoked_at), describe_author_of_end(key))))),
        ("Exceptions", describe_exceptions(key)),
    ]
    for text_hash in key.hashes:
        end = "" if text_hash.expires_at is None else f", until {formats.long_time(text_hash.expires_at)}"
        facts.append(("Text", f"{text_hash.hint}, from {formats.long_time(text_hash.created_at)}{end}"))
    if context.store is not None:
        with suppress(StoreUnavailable, TimeoutError):
            reports = context.wait_for(read_reports(context.store, key.id))
            facts += [
                ("Settings", f"{report.describe()}, {formats.ago(context.now - report.at)}") for report in reports
            ]
    errors = formats.error_share(total.errors, total.requests)
    measure, text = ("Cost", formats.chart_money) if total.cost else ("Requests", formats.count)
    listed = _list_changes(context, key, _MAX_CHANGES)
    columns = [column for column in _CHANGE_COLUMNS if column.name != "target"]
    return {
        "title": f"Key {key.label}",
        "refusal": context.rights.explain_denial(key),
        "changes_fields": context.rights.changes_fields(key),
        "may_allow": state.status == "revoked" and is_of_person(key) and may(context.rights.role, "manage all keys"),
        "reads_audit": may(context.rights.role, "read all keys"),
        "query": context.query,
        "row": row,
        "key": key,
        "verdict": f"{reason}{formats.plural(total.requests, 'request')} in this range.",
        "store_problem": problem,
        "facts": [(title, value) for title, value in facts if value],
        "figures": [
            Figure("Requests", formats.count(total.requests), "in this range"),
            Figure("Errors", errors, formats.plural(total.errors, "request")),
            Figure("Cost", format_sums(total), "in this range"),
            Figure(
                "Tokens", formats.short_count(total.all_tokens), f"{formats.short_count(total.output_tokens)} output"
            ),
            Figure("Last used", row.show_last_use().text, "in the ledger"),
        ],
        "rules": show_rules(key.rules),
        "budgets": show_budgets(row.budgets, "no budget"),
        "team": team,
        "team_cells": [show_rules(team.rules), show_budgets(budgets[f"team/{team.name}"])] if team else [],
        "chart": chart_models(periods, by_period, attrgetter(measure.lower()), text),
        "chart_title": f"{measure} per {periods.length_name} and model",
        "requests": build_request_table(shown, "Latest requests of the key"),
        "changes": _build_change_table(listed, "Changes of the key", "changes", columns),
    }


def _list_changes(context: PageContext, key: VirtualKey, limit: int | None = None) -> Sequence[AuditEntry]:
    return list_audit_entries(require_reader(context), key_id=key.id, limit=limit)


def limit_to_key(context: PageContext, key: VirtualKey) -> PageContext:
    """Return a copy of `context` that selects only the requests of `key`."""
    query = structs.replace(context.query, facets={"key": key.label}, text="", has_notes=False, measure="", order="")
    return structs.replace(context, query=query)


def build_audit_page(context: PageContext) -> Mapping[str, Any]:
    entries = list_shown_entries(context, _MAX_AUDIT_ROWS + 1)
    part = page_rows(context.query, entries, _MAX_AUDIT_ROWS, lambda entry: str(entry.id))
    verdict = "Each change of a key, a team or the settings, the latest first. It contains no text of a key."
    return {
        "title": "Audit log",
        "verdict": verdict if part.rows else "No change of a key, a team or the settings is recorded.",
        "part": part,
        "table": _build_change_table(part.rows, "Changes of keys, teams and settings", "rows"),
    }


def _build_change_table(
    entries: Sequence[AuditEntry], caption: str, name: str, columns: Sequence[TableColumn[AuditEntry]] = _CHANGE_COLUMNS
) -> Table:
    return build_table(caption, columns, entries, lambda entry: str(entry.id), is_link=False, id=name)


def list_shown_entries(context: PageContext, limit: int = _MAX_AUDIT_ROWS) -> Sequence[AuditEntry]:
    """Raises `InvalidRequest` for an invalid URL parameter."""
    query = context.query
    for name, text in (("before", query.before), ("after", query.after)):
        if text and not (text.isascii() and text.isdecimal() and len(text) < 10):
            raise InvalidRequest(f"{name}: {text[:40]!r} is not an id of this list.", code="paging")
    return list_audit_entries(
        require_reader(context),
        before_id=int(query.before) if query.before else None,
        after_id=int(query.after) if query.after else None,
        limit=limit,
    )


_RULES_AND_USE: Mapping[str, Callable[[Any], Any]] = {
    **{name: attrgetter(f"rules.{name}") for name in (*LIST_FIELDS, *LIMIT_FIELDS)},
    "budgets": lambda row: [budget.encoded_text for budget in row.rules.budgets],
    "budgets_used": lambda row: [bar.text for bar in row.budgets],
    **{name: attrgetter(f"sums.{name}") for name in ("requests", "errors")},
    "tokens": attrgetter("sums.all_tokens"),
    "cost": lambda row: to_dollars(row.sums.known_cost),
}
_KEY_EXPORT: Mapping[str, Callable[[KeyRow], Any]] = {
    **{name: attrgetter(f"key.{name}") for name in ("id", "label")},
    "hint": attrgetter("hint"),
    "status": attrgetter("access.status"),
    **{name: attrgetter(f"key.{name}") for name in HELD_FIELDS},
    "created_at": lambda row: format_key_time(row.key.created_at),
    "expires_at": lambda row: format_key_time(row.key.expires_at),
    "revoked_at": lambda row: format_key_time(row.key.revoked_at),
    "exceptions": lambda row: describe_exceptions(row.key),
    "last_used_at": lambda row: None if row.last_used_at is None else format_time(row.last_used_at),
    **_RULES_AND_USE,
}
_TEAM_EXPORT: Mapping[str, Callable[[TeamRow], Any]] = {
    "team": lambda row: row.team.name,
    "keys": attrgetter("key_count"),
    **_RULES_AND_USE,
}
_ENTRY_EXPORT: Mapping[str, Callable[[AuditEntry], Any]] = {
    "id": attrgetter("id"),
    "at": lambda entry: format_key_time(entry.at),
    **{name: attrgetter(name) for name in ("actor", "action")},
    "object": attrgetter("target"),
    "changes": lambda entry: describe_changes(entry.changes),
}


_SIGN_IN_TIMES = ("created_at", "refreshed_at", "checked_at", "ends_at")
_SIGN_IN_NAMES = ("id", "name", "email", "key_id", "device", "address", *_SIGN_IN_TIMES)
_SIGN_IN_STATES = ("provider_refresh_token", "refused_at", "refusal")
_SIGN_IN_EXPORT = {name: itemgetter(name) for name in (*_SIGN_IN_NAMES, *_SIGN_IN_STATES)}


def _require_key(context: PageContext) -> VirtualKey:
    return require_key(require_reader(context), context.path_parameters["id"], context.rights)


PAGE = Page(
    section="Keys",
    template="keys.html",
    build=build_keys_page,
    tables={
        "keys": PageTable(lambda context: tabulate(_KEY_EXPORT, list_exported_keys(context))),
        "teams": PageTable(lambda context: tabulate(_TEAM_EXPORT, read_team_rows(context, list_page_keys(context))[0])),
        "sign-ins": PageTable(lambda context: tabulate(_SIGN_IN_EXPORT, map(encode_sign_in, _list_sign_ins(context)))),
    },
    adds_up=False,
)
AUDIT_PAGE = Page(
    section="Keys",
    template="key_audit.html",
    build=build_audit_page,
    tables={"changes": PageTable(lambda context: tabulate(_ENTRY_EXPORT, list_shown_entries(context)))},
    adds_up=False,
)
KEY_PAGE = Page(
    section="Keys",
    template="key.html",
    build=build_key_page,
    tables={
        "requests": PageTable(
            lambda context: tabulate_requests(list_exported_requests(limit_to_key(context, _require_key(context))))
        ),
        "changes": PageTable(lambda context: tabulate(_ENTRY_EXPORT, _list_changes(context, _require_key(context)))),
    },
    missing="There is no virtual key with this id. The page Keys lists all keys, also revoked ones.",
)
