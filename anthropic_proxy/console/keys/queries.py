"""Database queries of virtual keys, teams and the audit log, and the used amounts of budgets."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta, Struct, structs

from anthropic_proxy.console.keys.descriptions import format_time
from anthropic_proxy.console.keys.limits import Scope, ScopeKind, build_budget_counter
from anthropic_proxy.console.keys.rights import ADMINISTRATOR, Rights, is_of_person
from anthropic_proxy.console.keys.virtual_keys import (
    AuditEntry,
    KeyHash,
    Team,
    VirtualKey,
    find_period_end,
    find_period_start,
)
from anthropic_proxy.console.ledger.connection import Reader, query_parts
from anthropic_proxy.console.ledger.forecasts import PeriodBounds, PeriodUse
from anthropic_proxy.console.ledger.periods import RequestSelection
from anthropic_proxy.console.ledger.records import (
    BUDGET_TOKENS,
    COMMON_VALUES,
    MOVED_COLUMNS,
    REPLACEMENT,
    count_budget_tokens,
    move_sums,
)
from anthropic_proxy.console.ledger.schema import AUDIT_LOG, KEY_HASHES, OLDEST_REQUEST, VIRTUAL_KEYS, TableDefinition
from anthropic_proxy.console.ledger.users import escape_pattern, list_people_ids
from anthropic_proxy.console.units import (
    DAY_SECONDS,
    HOUR_SECONDS,
    MICROSECONDS,
    MICROSECONDS_PER_HOUR,
    to_microseconds,
)
from anthropic_proxy.engine.options import matches_model
from anthropic_proxy.engine.providers import find_registry
from anthropic_proxy.errors import InvalidRequest, UnknownModel
from anthropic_proxy.gateway.money import NANO_DOLLARS, format_amount
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.key_rules import Budget, Period, Rules
from anthropic_proxy.plugins import Store

_KEYS = f"SELECT {', '.join(VIRTUAL_KEYS.columns)} FROM virtual_keys"
_HASHES = f"SELECT {', '.join(KEY_HASHES.columns)} FROM key_hashes"
_TIMES = ("created_at", "expires_at", "revoked_at", "owner_since", "sessions_from", "left_at")
_TOKENS = " + ".join(BUDGET_TOKENS)
_NEWEST = "ORDER BY created_at DESC, id"
_ENTRIES = f"SELECT {', '.join(AUDIT_LOG.columns)} FROM audit_log"


def list_keys(connection: Reader) -> Sequence[VirtualKey]:
    """Revoked keys included, the newest first."""
    rows = connection.query(f"{_KEYS} {_NEWEST}")
    return _decode_keys(rows, connection.query(f"{_HASHES} ORDER BY created_at DESC"))


def count_keys(connection: Reader) -> int:
    ((count,),) = connection.query("SELECT count(*) FROM virtual_keys")
    return int(count)


def list_owned_keys(connection: Reader, person: str, owner: str = "") -> Sequence[VirtualKey]:
    """Return the keys of a person, the newest first, without the one that is the person. `person`: its id. `owner`: a
    name, so that keys with this owner belong to them too; upper and lower case are equal.
    """
    is_owned = "((person = ? AND person != '') OR (owner != '' AND LOWER(owner) = ?)) AND id != ?"
    return _read_keys(connection, is_owned, (person, owner.lower(), person))


def find_key(connection: Reader, name: str) -> VirtualKey | None:
    return next(iter(_read_keys(connection, "id = ? OR label = ?", (name, name))), None)


def list_keys_by_id(connection: Reader, ids: Sequence[str]) -> Sequence[VirtualKey]:
    """In any order."""
    return _add_hashes(connection, list(query_parts(connection, f"{_KEYS} WHERE id IN ({{marks}})", ids)))


def _read_keys(
    connection: Reader, condition: str, values: Sequence[object], limit: int | None = None
) -> Sequence[VirtualKey]:
    """Return the keys that meet a condition, the newest first."""
    end = "" if limit is None else f" LIMIT {limit:d}"
    return _add_hashes(connection, connection.query(f"{_KEYS} WHERE {condition} {_NEWEST}{end}", values))


def _add_hashes(connection: Reader, rows: Sequence[Sequence[Any]]) -> Sequence[VirtualKey]:
    ids = [row["id"] for row in name_columns(VIRTUAL_KEYS, rows)]
    sql = f"{_HASHES} WHERE key_id IN ({{marks}}) ORDER BY created_at DESC"
    return _decode_keys(rows, query_parts(connection, sql, ids))


def _decode_keys(rows: Sequence[Sequence[Any]], hashes: Iterable[Sequence[Any]]) -> Sequence[VirtualKey]:
    """`hashes`: rows of the keys, the newest of each key first."""
    of_keys: dict[str, list[Mapping[str, Any]]] = {}
    for row in name_columns(KEY_HASHES, hashes):
        of_keys.setdefault(row["key_id"], []).append(row)
    names = VIRTUAL_KEYS.columns
    named = (dict(zip(names, row, strict=True)) for row in rows)  # one at a time: all are several times their memory
    return [_decode_key(columns, of_keys.get(columns["id"], ())) for columns in named]


def name_columns(table: TableDefinition, rows: Iterable[Sequence[Any]]) -> Sequence[Mapping[str, Any]]:
    """Return each row with all columns of `table` as column → value."""
    return [dict(zip(table.columns, row, strict=True)) for row in rows]


def find_people(connection: Reader, address: str) -> Sequence[VirtualKey]:
    """Return the keys of people that have or had an address, the first one first."""
    keys = [find_key(connection, key_id) for key_id in list_people_ids(connection, address)]
    return [key for key in keys if key is not None]


def list_named_keys(connection: Reader, name: str) -> Sequence[VirtualKey]:
    """Return the keys that `name` may mean: the one with this id; the one with this label, and people that have or had
    this address.
    """
    key = find_key(connection, name)
    if key is not None and key.id == name:
        return [key]
    named = {} if key is None else {key.id: key}
    return [*(named | {person.id: person for person in find_people(connection, name.lower())}).values()]


def list_owners(connection: Reader, name: str) -> Sequence[VirtualKey]:
    """Return the keys of people and services that `name`, as for `list_named_keys`, may mean as an owner: upper and
    lower case of a label are equal.
    """
    is_label = "LOWER(label) = ? AND id NOT IN (SELECT key_id FROM key_hashes)"
    named = [key for key in list_named_keys(connection, name) if is_of_person(key)]
    return named or _read_keys(connection, is_label, (name.lower(),))


def require_key(connection: Reader, name: str, rights: Rights = ADMINISTRATOR) -> VirtualKey:
    """`name`: as for `list_named_keys`. `rights` are resolved: a key that they do not read seems to be missing. Raises
    `InvalidRequest` if several keys have the name.
    """
    matched = [key for key in list_named_keys(connection, name) if rights.reads(key)]
    if not matched:
        raise UnknownModel(
            f"There is no key {name[:80]!r}. List the keys:  anthropic-proxy keys list", code="virtual-key-unknown"
        )
    if len(matched) > 1:
        raise build_ambiguity_error(name, matched)
    return matched[0]


def build_ambiguity_error(address: str, keys: Sequence[VirtualKey]) -> InvalidRequest:
    described = "; ".join(
        f"{key.id} {key.label!r}, since {format_time(key.created_at)}"
        + ("" if key.revoked_at is None else f", revoked at {format_time(key.revoked_at)}")
        for key in keys
    )
    return InvalidRequest(
        f"{len(keys)} keys have or had the address {address!r}: {described}. Use the id of one of them.",
        code="person-ambiguous",
    )


def list_readable_keys(
    connection: Reader, rights: Rights, *, team: str = "", after: str = "", limit: int | None = None
) -> Sequence[VirtualKey]:
    """Return the keys that the user reads, the newest first. `team`: only those of this team. `after`: only those that
    follow the key with this id in the list.
    """
    return _read_keys(connection, *_select_readable(rights, team, after), limit)


def list_readable_ids(
    connection: Reader, rights: Rights, *, team: str = "", after: str = "", limit: int | None = None
) -> Sequence[str]:
    """Return the ids of `list_readable_keys`, which indexes have."""
    condition, values = _select_readable(rights, team, after)
    end = "" if limit is None else f" LIMIT {limit:d}"
    rows = connection.query(f"SELECT id FROM virtual_keys WHERE {condition} {_NEWEST}{end}", values)
    return [str(key_id) for (key_id,) in rows]


def _select_readable(rights: Rights, team: str, after: str) -> tuple[str, Sequence[object]]:
    conditions = [rights.select_keys()]
    if team:
        conditions.append(("team = ?", (team,)))
    if after:
        conditions.append((follow("virtual_keys"), (after, after, after)))
    return " AND ".join(text for text, _ in conditions), [value for _, given in conditions for value in given]


def follow(table: str) -> str:
    """Return the condition of the rows that follow the one with an id, three times the value of `?`, in the list of a
    table with the newest first.
    """
    at = f"(SELECT created_at FROM {table} WHERE id = ?)"
    return f"created_at <= {at} AND (created_at < {at} OR id > ?)"


def list_readable_teams(
    connection: Reader, rights: Rights, *, after: str = "", limit: int | None = None
) -> Sequence[Team]:
    """Return the teams with rules that the user reads, in the order of their names. `after`: only those that follow
    this name.
    """
    teams = [team for team in list_teams(connection) if rights.reads_team(team.name) and team.name > after]
    return teams[:limit]


def list_teams(connection: Reader) -> Sequence[Team]:
    """Return all teams with rules, in the order of their names. A team without rules is not stored."""
    return [_decode_team(*row) for row in connection.query("SELECT name, rules FROM teams ORDER BY name")]


def list_team_ids(connection: Reader, team: str) -> Sequence[str]:
    """Return the ids of the keys of a team."""
    return [str(key_id) for (key_id,) in connection.query("SELECT id FROM virtual_keys WHERE team = ?", (team,))]


def find_team(connection: Reader, name: str) -> Team | None:
    rows = connection.query("SELECT name, rules FROM teams WHERE name = ?", (name,))
    return _decode_team(*rows[0]) if rows else None


def list_audit_entries(
    connection: Reader,
    *,
    since: float = 0.0,
    before_id: int | None = None,
    after_id: int | None = None,
    key_id: str = "",
    limit: int | None = None,
) -> Sequence[AuditEntry]:
    """Return rows of the audit log, the latest first.

    `since`: seconds since the epoch.

    `limit` keeps the latest rows, but with `after_id` those directly after this id.
    """
    conditions: list[tuple[str, object]] = [("at >= ?", round(since * MICROSECONDS))]
    if before_id is not None:
        conditions.append(("id < ?", before_id))
    if after_id is not None:
        conditions.append(("id > ?", after_id))
    if key_id:
        conditions.append(("object LIKE ? ESCAPE '/'", f"{escape_pattern(key_id)} %"))
    sql = f"{_ENTRIES} WHERE {' AND '.join(text for text, _ in conditions)} ORDER BY id"
    sql += (" DESC" if after_id is None else "") + ("" if limit is None else f" LIMIT {limit:d}")
    rows = connection.query(sql, [value for _, value in conditions])
    if after_id is not None:
        rows.reverse()
    return [
        AuditEntry(
            id=entry_id,
            at=at / MICROSECONDS,
            actor=str(actor),
            action=str(action),
            target=str(target),
            changes=_decode_changes(changes),
        )
        for entry_id, at, actor, action, target, changes in rows
    ]


def _decode_changes(text: str) -> dict[str, tuple[object, object]]:
    try:
        return msgspec.json.decode(text, type=dict[str, tuple[object, object]])
    except (msgspec.DecodeError, TypeError):
        return {"unreadable": (None, str(text))}


def find_newest_audit_id(connection: Reader) -> int:
    """0: the log is empty."""
    newest: int | None = connection.query("SELECT max(id) FROM audit_log")[0][0]
    return newest or 0


def _decode_key(columns: Mapping[str, Any], hashes: Sequence[Mapping[str, Any]]) -> VirtualKey:
    """A key whose rows cannot be read has a `problem`."""
    try:
        values = to_seconds(columns, _TIMES)
        values["hashes"] = [to_seconds(row, ("created_at", "expires_at")) for row in hashes]
        values["rules"] = _decode_rules(columns["rules"])
        values["exceptions"] = msgspec.json.decode(columns["exceptions"]) if columns["exceptions"] else {}
        return msgspec.convert(values, VirtualKey)
    except Exception as error:  # noqa: BLE001  # SQLite stores any value in any column
        texts: dict[str, Any] = {
            name: str(columns[name]) for name in ("id", "label", "owner", "team", "person", "creator")
        }
        return VirtualKey(
            **texts,
            revoked_at=None if columns["revoked_at"] is None else 0.0,
            hashes=tuple(KeyHash(str(row["hash"]), "", 0.0, None) for row in hashes),
            problem=_describe_problem(f"key {columns['label']!r}", error),
        )


def _decode_team(name: str, rules: str) -> Team:
    """A team whose row cannot be read has a `problem`."""
    try:
        return msgspec.convert({"name": name, "rules": _decode_rules(rules)}, Team)
    except Exception as error:  # noqa: BLE001  # SQLite stores any value in any column
        return Team(str(name), problem=_describe_problem(f"team {name!r}", error))


def _decode_rules(text: str) -> Rules:
    return msgspec.json.decode(text, type=Rules) if text else Rules()


def _describe_problem(owner: str, error: Exception) -> str:
    return f"The {owner} cannot be read from the database: {error}. A newer version of the proxy may have stored it."


def to_seconds(columns: Mapping[str, Any], times: Iterable[str]) -> dict[str, Any]:
    """Return `columns` with `times` in seconds. Raises an error for a time that no calendar has."""
    values = dict(columns)
    for name in times:
        if values[name] is not None:
            values[name] /= MICROSECONDS
            datetime.fromtimestamp(values[name], UTC)
    return values


_MAX_COUNTERS = 200


class Spending(Struct, frozen=True):
    budget: Budget
    used: int
    """Used amount in nano-dollars or tokens, including the amounts that running requests have reserved."""
    forecast: int | None = None
    """Amount expected at the end of the period. None: unknown, because there is too little data."""

    def describe(self) -> str:
        expected = "" if self.forecast is None else f", about {self._format(self.forecast)} expected"
        return f"{self._format(self.used)} of {self.budget.describe()}{expected}"

    def _format(self, amount: int) -> str:
        return format_amount(amount) if self.budget.unit == "usd" else f"{amount:,} tokens"

    @property
    def share(self) -> float:
        return min(max(self.used / self.budget.counter_amount, 0.0), 1.0)

    def encode(self) -> dict[str, object]:
        names = ("unit", "period", "models", "soft", "amount")
        amounts: dict[str, float | None] = {"used": self.used, "forecast": self.forecast}
        if self.budget.unit == "usd":
            amounts = {name: None if amount is None else amount / NANO_DOLLARS for name, amount in amounts.items()}
        return {**{name: getattr(self.budget, name) for name in names}, **amounts}


_Amount = Annotated[float, Meta(ge=0, le=1e15)]


class _EncodedSpending(Struct):
    """The fields of `Spending.encode` that are not those of its budget."""

    used: _Amount
    forecast: _Amount | None = None


def decode_spending(encoded: object) -> Spending:
    """Return a used amount from its JSON value (`Spending.encode`). Raises `msgspec.ValidationError`."""
    budget = msgspec.convert(encoded, Budget)
    fields = msgspec.convert(encoded, _EncodedSpending)
    unit = NANO_DOLLARS if budget.unit == "usd" else 1
    forecast = fields.forecast
    return Spending(budget, round(fields.used * unit), forecast=None if forecast is None else round(forecast * unit))


async def read_all_spending(store: Store, scopes: Sequence[Scope], now: float) -> Sequence[Sequence[Spending]]:
    """Return the used amounts of all budgets of each of `scopes` (keys or teams), in the same order. The amounts are
    those of the period that contains `now`, in seconds since the epoch. Raises `StoreUnavailable`.
    """
    listed = [(index, budget) for index, scope in enumerate(scopes) for budget in scope.rules.budgets]
    spending: list[list[Spending]] = [[] for _ in scopes]
    for start in range(0, len(listed), _MAX_COUNTERS):
        chosen = listed[start : start + _MAX_COUNTERS]
        counters = [build_budget_counter(scopes[index], budget, now) for index, budget in chosen]
        state = await store.reserve(counters)
        for (index, budget), counter, remaining in zip(chosen, counters, state.remaining, strict=True):
            spending[index].append(Spending(budget, counter.maximum - remaining))
    return spending


def add_forecasts(
    connection: Reader, settings: Settings, scopes: Sequence[Scope], spending: Sequence[Sequence[Spending]], now: float
) -> Sequence[Sequence[Spending]]:
    """Return `spending`, the used amounts of the budgets of each of `scopes`, with their forecasts. The number of
    queries does not depend on the number of scopes, and they read the sums of these alone.
    """
    periods = {
        (current.budget.period, scope.is_personal)
        for scope, currents in zip(scopes, spending, strict=True)
        for current in currents
        if current.budget.period != "total"
    }
    if not periods:
        return spending
    names = _find_counted_names(connection, scopes)
    names_by_kind: dict[ScopeKind, set[str]] = {}
    for scope in scopes:
        if scope.rules.budgets:
            names_by_kind.setdefault(scope.kind, set()).update(names[scope.counter])
    prefixes = {row.name: row.prefix for row in find_registry(settings)}
    uses = {
        (period, is_local): _read_period_uses(
            partial(_read_uses, connection, prefixes, names_by_kind), _find_bounds(period, now, is_local=is_local)
        )
        for period, is_local in periods
    }

    def forecast(scope: Scope, current: Spending) -> Spending:
        if current.budget.period == "total":
            return current

        def choose(uses_of_range: _Uses) -> Sequence[_ModelUse]:
            return [
                use
                for name in names[scope.counter]
                for use in uses_of_range.get((scope.kind, name), ())
                if counts_stored_model(current.budget, use.model)
            ]

        def add_up(uses_of_range: _Uses) -> int:
            return sum(use.cost if current.budget.unit == "usd" else use.tokens for use in choose(uses_of_range))

        bounds, ranges = uses[current.budget.period, scope.is_personal]
        requests = sum(use.requests for use in choose(ranges[0]))
        rest = PeriodUse(bounds.elapsed_share, requests, *map(add_up, ranges)).expect_rest()
        return current if rest is None else structs.replace(current, forecast=current.used + rest)

    return [
        [forecast(scope, current) for current in currents] for scope, currents in zip(scopes, spending, strict=True)
    ]


class _ModelUse(NamedTuple):
    model: str
    """With the prefix of its provider."""
    requests: int
    cost: int
    tokens: int


_Uses = Mapping[tuple[str, str], Sequence[_ModelUse]]
"""Kind and name of a scope → use of each model."""


def _find_bounds(period: Period, now: float, *, is_local: bool) -> PeriodBounds:
    moment = datetime.fromtimestamp(now, UTC)
    start = find_period_start(period, moment, is_local=is_local)
    end = find_period_end(period, moment, is_local=is_local)
    assert end is not None
    before = find_period_start(period, start - timedelta(seconds=1), is_local=is_local)
    return PeriodBounds(start.timestamp(), end.timestamp(), before.timestamp(), now)


def _read_period_uses(
    read: Callable[[float, float], _Uses], bounds: PeriodBounds
) -> tuple[PeriodBounds, Sequence[_Uses]]:
    """Return the bounds of the period, and the uses in three ranges: in this period, in the one before until the same
    point, and in the whole one before.
    """
    ends = (bounds.same_point_before, bounds.start)
    return bounds, [read(bounds.start, bounds.now), *(read(bounds.start_before, last) for last in ends)]


def _read_uses(
    connection: Reader,
    prefixes: Mapping[str, str],
    names_by_kind: Mapping[ScopeKind, Collection[str]],
    first: float,
    last: float,
) -> _Uses:
    """Return the uses of these scopes in the hours between two times. Each row is found by an index."""
    hours = f"hour >= {int(first // HOUR_SECONDS):d} AND hour < {int(-(-last // HOUR_SECONDS)):d}"
    sums = f"provider, model, sum(requests), sum(cost), sum({_TOKENS}) FROM hourly WHERE {hours}"
    uses_by_scope: dict[tuple[str, str], list[_ModelUse]] = {}
    for kind, names in names_by_kind.items():
        column = _COLUMNS[kind]
        if column:
            condition = f"AND {column} IN ({{marks}}) GROUP BY {column}, provider, model"
            rows = query_parts(connection, f"SELECT {column}, {sums} {condition}", sorted(names))
        else:
            rows = iter(connection.query(f"SELECT '', {sums} GROUP BY provider, model"))
        for name, provider, model, *amounts in rows:
            use = _ModelUse(f"{prefixes.get(provider, provider)}/{model}", *map(int, amounts))
            uses_by_scope.setdefault((kind, name), []).append(use)
    return uses_by_scope


def find_counted_labels(connection: Reader, key_ids: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Return the id of each of these keys → labels of the requests that its budgets count: of the key and of the
    personal keys that refer to it, also former ones. Further keys may be in the result.
    """
    of_keys, rows = "SELECT id, label, person FROM virtual_keys WHERE", dict[str, tuple[str, str]]()
    for condition in ("id IN ({marks})", "person IN ({marks}) AND person != ''"):  # each by an index
        for key_id, label, person in query_parts(connection, f"{of_keys} {condition}", key_ids):
            rows[str(key_id)] = str(label), str(person)
    labels = {key_id: [label] for key_id, (label, _) in rows.items()}
    former = "SELECT label, key_id FROM former_labels WHERE key_id IN ({marks})"
    for label, key_id in query_parts(connection, former, [*rows]):
        labels[key_id].append(str(label))
    labels_of_key = {key_id: list(names) for key_id, names in labels.items()}
    for key_id, (_, person) in rows.items():
        if person in labels:
            labels[person] += labels_of_key[key_id]
    return labels


def _find_counted_names(connection: Reader, scopes: Sequence[Scope]) -> Mapping[str, Sequence[str]]:
    """Return the counter of each scope → values of its column in `_COLUMNS` that its budgets count."""
    labels = find_counted_labels(connection, [scope.key_id for scope in scopes if scope.kind == "key"])
    return {
        scope.counter: labels.get(scope.key_id, [scope.name]) if scope.kind == "key" else [scope.name]
        for scope in scopes
    }


_COLUMNS: Mapping[ScopeKind, str] = {"key": "key_label", "team": "team", "proxy": ""}
"""Kind of a scope → column with the name of its requests. "": all requests count."""


_UNENDED_SECONDS = 366 * DAY_SECONDS


def sum_budget_uses(
    connection: Reader, settings: Settings, budgets: Sequence[tuple[Scope, Budget]], now: float
) -> Sequence[int]:
    """Return the use of each budget in its period that contains `now`, by the ledger: nano-dollars, or tokens."""
    oldest = next((row[0] for row in connection.query(OLDEST_REQUEST)), None)
    parts = [_list_counted_parts(scope, budget, now, oldest) for scope, budget in budgets]
    uses = list[int]()
    for (_, budget), counted, used in zip(
        budgets, parts, _sum_parts(connection, settings, budgets, parts), strict=True
    ):
        has_hour_of_start = counted[0][:2] == (_SUMS, to_microseconds(budget.since) // MICROSECONDS_PER_HOUR)
        uses.append(max(used - budget.used_before, 0) if has_hour_of_start else used)
    return uses


def add_earlier_use(connection: Reader, settings: Settings | None, scope: Scope, now: float) -> Rules:
    """Return the rules of a scope. Those of its budgets that are set at the time `now` get `used_before`."""
    budgets = scope.rules.budgets
    chosen = [(scope, budget) for budget in budgets if budget.since == now]
    end = to_microseconds(now)
    parts = [(_REQUESTS, end - end % MICROSECONDS_PER_HOUR, end)]
    uses = iter(_sum_parts(connection, settings, chosen, [parts] * len(chosen)))
    dated = [structs.replace(one, used_before=next(uses)) if one.since == now else one for one in budgets]
    return structs.replace(scope.rules, budgets=tuple(dated))


_Parts = Sequence[tuple[str, int, int]]
"""Tables, each with a range of its times."""


def _sum_parts(
    connection: Reader, settings: Settings | None, budgets: Sequence[tuple[Scope, Budget]], parts: Sequence[_Parts]
) -> Sequence[int]:
    needs_prefixes = any(budget.models for _, budget in budgets)
    rows_of_registry = find_registry(settings) if needs_prefixes and settings is not None else ()
    prefixes = {row.name: row.prefix for row in rows_of_registry}
    names = _find_counted_names(connection, [*{scope.counter: scope for scope, _ in budgets}.values()])
    uses = []
    for (scope, budget), parts_of_budget in zip(budgets, parts, strict=True):
        counted = names[scope.counter]
        rows = [
            (table, first, last, _COLUMNS[scope.kind], counted[place : place + _MAX_NAMES])
            for table, first, last in parts_of_budget
            for place in range(0, len(counted), _MAX_NAMES)
        ]
        uses.append(_sum_rows(connection, budget, rows, prefixes))
    return uses


_REQUESTS, _SUMS = "requests", "hourly"
_MAX_NAMES = 500
"""Maximum number of names of one query. A person may have had many, and keys with many."""


def _list_counted_parts(scope: Scope, budget: Budget, now: float, oldest: int | None) -> _Parts:
    """`oldest`: start of the oldest stored request."""
    start = scope.find_budget_start(budget, now)
    period_end = scope.find_budget_end(budget, now)
    # to the end of the period: rows have the time of their server, whose clock may be ahead of that of the budgets
    end = now + _UNENDED_SECONDS if period_end is None else period_end.timestamp()
    counted = RequestSelection(start=round(start * MICROSECONDS), end=round(end * MICROSECONDS))
    hour = -(-counted.start // MICROSECONDS_PER_HOUR)
    if oldest is None or oldest > counted.start:  # earlier ones may be deleted: their sums are kept
        return [(_SUMS, counted.start // MICROSECONDS_PER_HOUR, counted.end_hour)]
    if counted.is_short_range:
        return [(_REQUESTS, counted.start, counted.end)]
    # sums of complete hours, and single requests of the part of an hour before them
    return [(_REQUESTS, counted.start, hour * MICROSECONDS_PER_HOUR), (_SUMS, hour, counted.end_hour)]


def _sum_rows(
    connection: Reader,
    budget: Budget,
    rows: Sequence[tuple[str, int, int, str, Sequence[str]]],
    prefixes: Mapping[str, str],
) -> int:
    """`rows`: a table, a range of its times, and a column with its values; "": all rows of the range count."""
    added = "cost" if budget.unit == "usd" else _TOKENS
    total = 0
    for table, first, last, column, names in rows:
        time = "started_at" if table == _REQUESTS else "hour"
        values: tuple[object, ...] = (first, last)
        condition = f"{time} >= ? AND {time} < ?"
        if column:
            condition = f"{condition} AND {column} IN ({', '.join('?' * len(names))})"
            values = (first, last, *names)
        if column and table == _REQUESTS and COMMON_VALUES[column] not in names:  # the index leaves this value out
            condition += f" AND {column} != '{COMMON_VALUES[column]}'"
        if not budget.models:
            sql = f"SELECT sum({added}) FROM {table} WHERE {condition}"
            total += int(connection.query(sql, values)[0][0] or 0)
            continue
        sql = f"SELECT provider, model, sum({added}) FROM {table} WHERE {condition} GROUP BY provider, model"
        used_by_model = [(row[0], row[1], int(row[2] or 0)) for row in connection.query(sql, values)]
        if table == _REQUESTS:
            sql = f"SELECT {', '.join(MOVED_COLUMNS)} FROM {table} WHERE {condition} AND model_usage != ''"
            replies = connection.query(sql, values)
            moved = [part for row in replies for part in move_sums(**dict(zip(MOVED_COLUMNS, row, strict=True)))]
            for of_model in moved:
                used = of_model.sums.cost if budget.unit == "usd" else count_budget_tokens(of_model.sums)
                used_by_model.append((of_model.provider, of_model.model, used))
        for provider, model, used in used_by_model:
            total += used * counts_stored_model(budget, f"{prefixes.get(provider, provider)}/{model}")
    return total


def counts_stored_model(budget: Budget, model: str) -> bool:
    """As `Budget.counts`, for a name of the ledger. A replaced one counts if the provider may have a model that does,
    so that no client frees a budget by many names.
    """
    if budget.counts(model):
        return True
    prefix, _, name = model.partition("/")
    provider, slash, _ = budget.models.partition("/")
    return name == REPLACEMENT and (not slash or matches_model(prefix, provider))


def read_used_budgets(connection: Reader, settings: Settings, scope: Scope, now: float) -> Sequence[Spending]:
    """Used amounts by the ledger, without those that running requests have reserved, and their forecasts."""
    budgets = scope.rules.budgets
    uses = sum_budget_uses(connection, settings, [(scope, budget) for budget in budgets], now)
    spending = [Spending(budget, used) for budget, used in zip(budgets, uses, strict=True)]
    (current,) = add_forecasts(connection, settings, [scope], [spending], now)
    return current
