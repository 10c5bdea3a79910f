"""Pages about virtual keys, the keys that this proxy gives to clients: list of keys and teams, one key, and audit log.

The audit log has each change of a key or a team, with time, author, and old and new values.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from msgspec import Struct, structs

from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.charts import chart_models, divide_range
from anthropic_proxy.console.dashboard.page import Figure, Page, PageContext, PageTable
from anthropic_proxy.console.dashboard.requests import list_exported_requests
from anthropic_proxy.console.dashboard.tables import (
    SortableColumn,
    build_finished_row,
    format_sums,
    page_list,
    page_rows,
    sort_rows,
)
from anthropic_proxy.console.keys.descriptions import describe_changes, describe_rules
from anthropic_proxy.console.keys.descriptions import format_time as format_key_time
from anthropic_proxy.console.keys.limits import build_key_scope, build_team_scope
from anthropic_proxy.console.keys.queries import (
    Spending,
    find_key,
    find_team,
    list_audit_entries,
    list_keys,
    list_teams,
    read_all_spending,
    require_key,
)
from anthropic_proxy.console.keys.virtual_keys import LIST_FIELDS, AuditEntry, KeyStatus, Rules, Team, VirtualKey
from anthropic_proxy.console.ledger import queries
from anthropic_proxy.console.ledger.engines import EngineReader
from anthropic_proxy.console.ledger.export import ExportTable, format_time, tabulate_requests, to_dollars
from anthropic_proxy.console.ledger.queries import find_last_key_uses
from anthropic_proxy.console.ledger.records import UsageSums, add_up, add_up_groups
from anthropic_proxy.console.ledger.request_queries import list_stored_requests
from anthropic_proxy.console.ledger.units import MICROSECONDS
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.plugins import StoreUnavailable

EXPIRY_NOTICE_SECONDS = 7 * 86_400
"""Seconds before the expiry of a key from which its state mentions the expiry."""
_MAX_KEY_ROWS = 100
_MAX_REQUESTS = 20
_MAX_CHANGES = 20
_MAX_AUDIT_ROWS = 50
_HIGH_SHARE = 0.8
STORE_PROBLEM = "The used amounts of budgets are not known: Redis is unavailable (REDIS_URL)."
_STATUS_SIGNS: Mapping[KeyStatus, tuple[str, str]] = {
    "active": ("✓", "ok"),
    "unreadable": ("✕", "error"),
    "expired": ("✕", "error"),
    "revoked": ("–", ""),
}
STATUSES = tuple(_STATUS_SIGNS)
STATUS_TITLES = (("", "All"), *((status, status.capitalize()) for status in STATUSES if status != "unreadable"))
"""Pairs: state of keys, as the parameter `by` of the URL, and title of the filter. "": all keys."""


class BudgetBar(Struct, frozen=True):
    text: str
    share: float
    role: str


class KeyState(Struct, frozen=True):
    sign: str
    role: str
    text: str


class KeyRow(Struct, frozen=True, kw_only=True):
    key: VirtualKey
    state: KeyState
    hint: str
    expires: str
    """Text about the expiry of an active key, if the state does not mention it. "": the key does not expire, or only
    its state mentions the expiry."""
    allowed: Sequence[tuple[str, str]]
    """Pairs of a title (such as models) and the allowed names. Empty: everything is allowed."""
    limits: str
    budgets: Sequence[BudgetBar]
    last_used_at: int | None
    """Start of the last stored request in microseconds since the epoch. None: no stored request."""
    last_used: str
    sums: UsageSums
    requests: str
    cost: str
    requests_link: str = ""


class TeamRow(Struct, frozen=True, kw_only=True):
    name: str
    rules: Rules
    key_rows: Sequence[KeyRow]
    keys: str
    allowed: Sequence[tuple[str, str]]
    limits: str
    budgets: Sequence[BudgetBar]
    sums: UsageSums
    requests: str
    cost: str
    requests_link: str
    costs_link: str


class ChangeRow(Struct, frozen=True):
    time: str
    full_time: str
    actor: str
    action: str
    target: str
    key_id: str
    """Id of the changed key, for a link. "": a team was changed."""
    changes: str


_KEY_TITLES = (
    *("id", "label", "hint", "status", "owner", "team"),
    *("created_at", "expires_at", "revoked_at", "last_used_at"),
)
_RULE_TITLES = (*LIST_FIELDS, "requests_per_minute", "tokens_per_minute", "concurrency", "budgets")
_USED_TITLES = ("budgets_used", "requests", "errors", "tokens", "cost")
COLUMNS: Sequence[SortableColumn[KeyRow]] = (
    SortableColumn("used", "Budget used", lambda row: max((bar.share for bar in row.budgets), default=-1.0)),
    SortableColumn("last", "Last used", lambda row: row.last_used_at or 0, ends=("latest", "earliest")),
    SortableColumn("requests", "Requests", lambda row: row.sums.requests),
    SortableColumn("cost", "Cost", lambda row: row.sums.cost),
)


def build_keys_page(context: PageContext) -> Mapping[str, Any]:
    found = read_key_list(context)
    chosen = choose_key_rows(context, found.keys)
    part, before = page_list(context.query, chosen, _MAX_KEY_ROWS, lambda row: row.key.id)
    hidden = ""
    if len(chosen) > _MAX_KEY_ROWS:
        hidden = f"{before + 1} to {before + len(part.rows)} of {len(chosen):,}"
    return {
        "verdict": _summarize(found.keys),
        "store_problem": found.problem,
        "part": part,
        "teams": found.teams,
        "columns": COLUMNS,
        "order": context.query.order,
        "statuses": STATUS_TITLES,
        "is_empty": not found.keys,
        "hidden": hidden,
    }


def _summarize(rows: Sequence[KeyRow]) -> str:
    if not rows:
        return "No virtual keys yet."
    counts = {status: sum(row.state.text == status for row in rows) for status in STATUSES}
    expiring = sum(row.state.role == "warn" for row in rows)
    counted = [f"{counts['active'] + expiring:,} active"]
    counted += [f"{counts[status]:,} {status}" for status in STATUSES[1:] if counts[status]]
    verdict = f"{formats.plural(len(rows), 'key')}: {', '.join(counted)}."
    if expiring:
        verdict += f" {expiring:,} {'expires' if expiring == 1 else 'expire'} within 7 days."
    used_up = sum(any(bar.role == "error" for bar in row.budgets) for row in rows)
    if used_up:
        verdict += f" {formats.plural(used_up, 'key')} used up a budget."
    return verdict


def choose_key_rows(context: PageContext, rows: Sequence[KeyRow]) -> list[KeyRow]:
    """Raises `InvalidRequest` for an unknown filter or sort column."""
    query = context.query
    if query.measure not in ("", *STATUSES):
        raise InvalidRequest(
            f"by: {query.measure[:20]!r} is not allowed; use {', '.join(STATUSES)}.", code="dashboard-parameter"
        )
    text = query.text.lower()
    chosen = [
        row
        for row in rows
        if query.measure in ("", row.key.find_status(context.now))
        and (
            any(text in value.lower() for value in (row.key.label, row.key.owner, row.key.team, row.hint))
            or row.key.id.startswith(text)  # a random id contains many short words
        )
    ]
    return sort_rows(chosen, COLUMNS, query.order)


class KeyList(Struct, frozen=True):
    keys: Sequence[KeyRow]
    teams: Sequence[TeamRow]
    problem: str = ""
    """Why the store of limits is not available, so that used budgets are unknown. "": it is available."""


def read_key_list(context: PageContext) -> KeyList:
    """Active keys come first."""
    keys, teams = list_keys(EngineReader(context.connection)), list_teams(EngineReader(context.connection))
    named = {team.name: team for team in teams}
    own = structs.replace(context.model_selection, values={}, text="", is_changed=False)
    sums, team_sums = (
        add_up_groups((row.group, row.sums) for row in queries.sum_periods(context.connection, own, 0, column))
        for column in ("key_label", "team")
    )
    names = sorted({*named, *(key.team for key in keys), *team_sums} - {""})
    named = {name: named.get(name, Team(name)) for name in names}
    spending, problem = read_used_budgets(context, [*keys, *named.values()])
    uses = find_last_key_uses(context.connection)
    rows = []
    for key in keys:
        usage = KeyUsage(sums.get(key.label, UsageSums()), spending.get(key.id), uses.get(key.label))
        link = context.query.link("/dashboard/requests", facets={"key": key.label}, measure="", order="", text="")
        rows.append(build_key_row(key, usage, context.now, link))
    rows.sort(key=lambda row: (STATUSES.index(row.key.find_status(context.now)), row.key.label.lower()))
    team_rows = [
        build_team_row(context, team, [row for row in rows if row.key.team == name], team_sums, spending)
        for name, team in named.items()
    ]
    return KeyList(rows, team_rows, problem)


class UsedBudgets(NamedTuple):
    by_owner: Mapping[str, Sequence[Spending]]
    """Id of a key, or `team/NAME` → used amount of each budget. Absent: unknown."""
    problem: str = ""
    """Why the store of limits cannot be read. "": it can be read."""


def read_used_budgets(context: PageContext, owners: Sequence[VirtualKey | Team]) -> UsedBudgets:
    scopes = {
        (one.id if isinstance(one, VirtualKey) else f"team/{one.name}"): (
            build_key_scope(one) if isinstance(one, VirtualKey) else build_team_scope(one)
        )
        for one in owners
    }
    store = context.store
    if store is None or not any(scope.rules != Rules() for scope in scopes.values()):
        return UsedBudgets({} if store is None else dict.fromkeys(scopes, ()))
    try:
        found = context.wait_for(read_all_spending(store, list(scopes.values()), context.now))
    except (StoreUnavailable, TimeoutError):
        return UsedBudgets({}, STORE_PROBLEM)
    return UsedBudgets(dict(zip(scopes, found, strict=True)))


def build_key_page(context: PageContext) -> Mapping[str, Any] | None:
    """Return the template values of the page about the virtual key in the URL. None: this key does not exist."""
    key = find_key(EngineReader(context.connection), context.path_parameters["id"])
    if key is None:
        return None
    context = limit_to_key(context, key)
    periods, chosen = divide_range(context.charted_query), context.selection
    by_period = queries.sum_model_periods(context.connection, context.model_selection, periods.seconds)
    total = add_up(row.model.sums for row in by_period)
    team = find_team(EngineReader(context.connection), key.team) if key.team else None
    spending, problem = read_used_budgets(context, [key] if team is None else [key, team])
    usage = KeyUsage(total, spending.get(key.id), find_last_key_uses(context.connection, key.label).get(key.label))
    row = build_key_row(key, usage, context.now, context.query.link("/dashboard/requests"))
    latest = list_stored_requests(context.connection, chosen, _MAX_REQUESTS)
    state = {
        "active": "",
        "unreadable": f"Rejected. {key.problem} ",
        "expired": f"Rejected since {formats.long_time(key.expires_at)}. ",
        "revoked": f"Rejected since {formats.long_time(key.revoked_at)}. ",
    }[key.find_status(context.now)]
    facts = [
        ("Id", key.id),
        ("Owner", key.owner),
        ("Team", key.team),
        ("Created", formats.long_time(key.created_at)),
        ("Expires", formats.long_time(key.expires_at) or "never"),
        ("Revoked", formats.long_time(key.revoked_at)),
    ]
    for each in key.hashes:
        end = "" if each.expires_at is None else f", until {formats.long_time(each.expires_at)}"
        facts.append(("Text", f"{each.hint}, from {formats.long_time(each.created_at)}{end}"))
    shown = format_sums(total)
    return {
        "title": f"Key {key.label}",
        "query": context.query,
        "row": row,
        "key": key,
        "verdict": f"{state}{formats.plural(total.requests, 'request')} in this range.",
        "store_problem": problem,
        "facts": [(title, value) for title, value in facts if value],
        "figures": [
            Figure("Requests", formats.count(total.requests), "in this range"),
            Figure(
                "Errors", formats.error_share(total.errors, total.requests), formats.plural(total.errors, "request")
            ),
            Figure("Cost", shown, "in this range"),
            Figure(
                "Tokens", formats.short_count(total.all_tokens), f"{formats.short_count(total.output_tokens)} output"
            ),
            Figure("Last used", row.last_used, "in the ledger"),
        ],
        "team": None if team is None else (team, build_budget_bars(team.rules, spending.get(f"team/{team.name}"))),
        "team_limits": "" if team is None else describe_limits(team.rules),
        "team_allowed": [] if team is None else list_allowed_names(team.rules),
        "chart": chart_models(
            periods,
            by_period,
            (lambda sums: sums.cost) if total.cost else (lambda sums: sums.requests),
            formats.chart_money if total.cost else formats.count,
        ),
        "chart_title": f"{'Cost' if total.cost else 'Requests'} per {periods.length_name} and model",
        "requests": [build_finished_row(one, context.now) for one in latest],
        "changes": [
            build_change_row(entry)
            for entry in list_audit_entries(EngineReader(context.connection), key_id=key.id, limit=_MAX_CHANGES)
        ],
    }


def limit_to_key(context: PageContext, key: VirtualKey) -> PageContext:
    """Return a copy of `context` that selects only the requests of `key`."""
    query = structs.replace(context.query, facets={"key": key.label}, text="", has_notes=False, measure="", order="")
    return structs.replace(context, query=query)


def build_audit_page(context: PageContext) -> Mapping[str, Any]:
    found = list_shown_entries(context, _MAX_AUDIT_ROWS + 1)
    part = page_rows(context.query, found, _MAX_AUDIT_ROWS, lambda entry: str(entry.id))
    verdict = "Each change of a key or a team, the latest first. It contains no text of a key."
    return {
        "title": "Audit log",
        "verdict": verdict if part.rows else "No change of a key or a team is recorded.",
        "part": structs.replace(part, rows=[build_change_row(entry) for entry in part.rows]),
    }


def list_shown_entries(context: PageContext, limit: int = _MAX_AUDIT_ROWS) -> Sequence[AuditEntry]:
    """Raises `InvalidRequest` for an invalid URL parameter."""
    query = context.query
    for name, text in (("before", query.before), ("after", query.after)):
        if text and not (text.isascii() and text.isdecimal() and len(text) < 10):
            raise InvalidRequest(f"{name}: {text[:40]!r} is not an id of this list.", code="paging")
    return list_audit_entries(
        EngineReader(context.connection),
        before_id=int(query.before) if query.before else None,
        after_id=int(query.after) if query.after else None,
        limit=limit,
    )


def build_change_row(entry: AuditEntry) -> ChangeRow:
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


class KeyUsage(Struct, frozen=True):
    sums: UsageSums
    spending: Sequence[Spending] | None
    """Used amounts of the budgets. None: the store of limits is not available."""
    last_used_at: int | None = None


def build_key_row(key: VirtualKey, usage: KeyUsage, now: float, requests_link: str = "") -> KeyRow:
    """`now`: seconds since the epoch."""
    last, expires = usage.last_used_at, ""
    if key.expires_at is not None and key.expires_at - now > EXPIRY_NOTICE_SECONDS and key.revoked_at is None:
        expires = f"expires in {_describe_span(key.expires_at - now)}"
    return KeyRow(
        key=key,
        state=describe_state(key, now),
        hint=key.hashes[0].hint if key.hashes else "",
        expires=expires,
        allowed=list_allowed_names(key.rules),
        limits=describe_limits(key.rules),
        budgets=build_budget_bars(key.rules, usage.spending),
        last_used_at=last,
        last_used=formats.UNKNOWN if last is None else formats.ago(now - last / MICROSECONDS),
        sums=usage.sums,
        requests=formats.count(usage.sums.requests),
        cost=format_sums(usage.sums),
        requests_link=requests_link,
    )


def build_team_row(
    context: PageContext,
    team: Team,
    keys: Sequence[KeyRow],
    sums: Mapping[str, UsageSums],
    spending: Mapping[str, Sequence[Spending]],
) -> TeamRow:
    """The sums are those of the team at the time of each request, also if a key has changed its team since."""
    total = sums.get(team.name, UsageSums())
    facets = {"team": team.name}
    active = sum(row.state.text not in STATUSES[1:] for row in keys)
    return TeamRow(
        name=team.name,
        rules=team.rules,
        key_rows=keys,
        sums=total,
        keys=f"{active} active of {len(keys)}" if active != len(keys) else formats.count(active),
        allowed=list_allowed_names(team.rules),
        limits=describe_limits(team.rules),
        budgets=build_budget_bars(team.rules, spending.get(f"team/{team.name}")),
        requests=formats.count(total.requests),
        cost=format_sums(total),
        requests_link=context.query.link("/dashboard/requests", facets=facets, order="", text=""),
        costs_link=context.query.link("/dashboard/costs", facets=facets, measure="key", order="", text=""),
    )


def describe_state(key: VirtualKey, now: float) -> KeyState:
    """State of a virtual key: active, expired or revoked. An active key that expires within `EXPIRY_NOTICE_SECONDS` has
    a warning with the remaining time. `now`: seconds since the epoch.
    """
    status = key.find_status(now)
    if status == "active" and key.expires_at is not None and key.expires_at - now <= EXPIRY_NOTICE_SECONDS:
        return KeyState("!", "warn", f"expires in {_describe_span(key.expires_at - now)}")
    return KeyState(*_STATUS_SIGNS[status], status)


def list_allowed_names(rules: Rules) -> Sequence[tuple[str, str]]:
    """Return the models, providers and routes to which `rules` limit a key or a team. Each item is a pair: `models`,
    `providers` or `routes`, and the allowed names as one text. If a kind is missing, all its names are allowed.
    """
    return [(name, ", ".join(names)) for name in LIST_FIELDS if (names := getattr(rules, name))]


def describe_limits(rules: Rules) -> str:
    """Return the limits per minute and of simultaneous requests of a key or team: `60 requests/min, 4 at a time`."""
    return describe_rules(
        Rules(
            requests_per_minute=rules.requests_per_minute,
            tokens_per_minute=rules.tokens_per_minute,
            concurrency=rules.concurrency,
        )
    )


def build_budget_bars(rules: Rules, spending: Sequence[Spending] | None) -> Sequence[BudgetBar]:
    """`spending` has their used amounts in the same order. None: the amounts are unknown."""
    if spending is None:
        return [BudgetBar(f"{formats.UNKNOWN} of {budget.describe()}", 0.0, "accent") for budget in rules.budgets]
    bars = []
    for one in spending:
        role = "error" if one.share >= 1 else "warn" if one.share >= _HIGH_SHARE else "accent"
        bars.append(BudgetBar(one.describe(), one.share, role))
    return bars


def _describe_span(seconds: float) -> str:
    return formats.ago(seconds).removesuffix(" ago")


def _tabulate_keys(context: PageContext) -> ExportTable:
    rows = [
        [
            *(row.key.id, row.key.label, row.hint, row.key.find_status(context.now), row.key.owner, row.key.team),
            *(format_key_time(time) for time in (row.key.created_at, row.key.expires_at, row.key.revoked_at)),
            None if row.last_used_at is None else format_time(row.last_used_at),
            *_list_rules(row.key.rules),
            *([bar.text for bar in row.budgets], *_list_sums(row.sums)),
        ]
        for row in choose_key_rows(context, read_key_list(context).keys)
    ]
    return ExportTable([*_KEY_TITLES, *_RULE_TITLES, *_USED_TITLES], rows)


def _tabulate_teams(context: PageContext) -> ExportTable:
    rows = [
        [row.name, len(row.key_rows), *_list_rules(row.rules), [bar.text for bar in row.budgets], *_list_sums(row.sums)]
        for row in read_key_list(context).teams
    ]
    return ExportTable(["team", "keys", *_RULE_TITLES, *_USED_TITLES], rows)


def _tabulate_key_changes(context: PageContext) -> ExportTable:
    key = require_key(EngineReader(context.connection), context.path_parameters["id"])
    return _tabulate_entries(list_audit_entries(EngineReader(context.connection), key_id=key.id))


def _tabulate_key_requests(context: PageContext) -> ExportTable:
    key = require_key(EngineReader(context.connection), context.path_parameters["id"])
    return tabulate_requests(list_exported_requests(limit_to_key(context, key)))


def _tabulate_entries(entries: Sequence[AuditEntry]) -> ExportTable:
    rows = [
        [one.id, format_key_time(one.at), one.actor, one.action, one.target, describe_changes(one.changes)]
        for one in entries
    ]
    return ExportTable(["id", "at", "actor", "action", "object", "changes"], rows)


def _list_rules(rules: Rules) -> list[Any]:
    names = [list(getattr(rules, name)) for name in LIST_FIELDS]
    limits = [rules.requests_per_minute, rules.tokens_per_minute, rules.concurrency]
    return [*names, *limits, [budget.encoded_text for budget in rules.budgets]]


def _list_sums(sums: UsageSums) -> list[Any]:
    return [sums.requests, sums.errors, sums.all_tokens, to_dollars(sums.known_cost)]


PAGE = Page(
    section="Keys",
    template="keys.html",
    build=build_keys_page,
    tables={"keys": PageTable(_tabulate_keys), "teams": PageTable(_tabulate_teams)},
    adds_up=False,
)
AUDIT_PAGE = Page(
    section="Keys",
    template="key_audit.html",
    build=build_audit_page,
    tables={"changes": PageTable(lambda context: _tabulate_entries(list_shown_entries(context)))},
    adds_up=False,
)
KEY_PAGE = Page(
    section="Keys",
    template="key.html",
    build=build_key_page,
    tables={"requests": PageTable(_tabulate_key_requests), "changes": PageTable(_tabulate_key_changes)},
    missing="There is no virtual key with this id. The page Keys lists all keys, also revoked ones.",
)
