"""Database queries of virtual keys, teams and the audit log, and the used amounts of budgets."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct, structs
from sqlalchemy import Connection, RowMapping, func, or_, select

from anthropic_proxy.console.keys.limits import Scope, build_budget_counter, format_counter_amount
from anthropic_proxy.console.keys.virtual_keys import (
    AuditEntry,
    Budget,
    KeyHash,
    Rules,
    Team,
    VirtualKey,
    find_period_start,
)
from anthropic_proxy.console.ledger.periods import RequestSelection
from anthropic_proxy.console.ledger.queries import sum_periods
from anthropic_proxy.console.ledger.tables import audit_log, key_hashes, teams, virtual_keys
from anthropic_proxy.console.ledger.units import MICROSECONDS, MICROSECONDS_PER_HOUR
from anthropic_proxy.errors import ConfigurationError, UnknownModel
from anthropic_proxy.gateway.money import NANO_DOLLARS
from anthropic_proxy.plugins import Store


def list_keys(connection: Connection) -> Sequence[VirtualKey]:
    """Revoked keys included, the newest first."""
    rows = connection.execute(select(virtual_keys).order_by(virtual_keys.c.created_at.desc(), virtual_keys.c.id))
    hashes: dict[str, list[RowMapping]] = {}
    for row in connection.execute(select(key_hashes).order_by(key_hashes.c.created_at.desc())).mappings():
        hashes.setdefault(row["key_id"], []).append(row)
    return [_decode_key(row, hashes.get(row["id"], ())) for row in rows.mappings()]


def find_key(connection: Connection, name: str) -> VirtualKey | None:
    chosen = or_(virtual_keys.c.id == name, virtual_keys.c.label == name)
    row = connection.execute(select(virtual_keys).where(chosen)).mappings().first()
    if row is None:
        return None
    found = select(key_hashes).where(key_hashes.c.key_id == row["id"]).order_by(key_hashes.c.created_at.desc())
    return _decode_key(row, connection.execute(found).mappings().all())


def require_key(connection: Connection, name: str) -> VirtualKey:
    key = find_key(connection, name)
    if key is None:
        raise UnknownModel(
            f"There is no key {name[:80]!r}. List the keys:  anthropic-proxy keys list", code="virtual-key-unknown"
        )
    return key


def list_teams(connection: Connection) -> Sequence[Team]:
    """Return all teams with rules, in the order of their names. A team without rules is not stored."""
    rows = connection.execute(select(teams).order_by(teams.c.name)).mappings()
    return [_decode_team(row) for row in rows]


def find_team(connection: Connection, name: str) -> Team | None:
    row = connection.execute(select(teams).where(teams.c.name == name)).mappings().first()
    return None if row is None else _decode_team(row)


def list_audit_entries(
    connection: Connection,
    *,
    since: float = 0.0,
    before_id: int | None = None,
    after_id: int | None = None,
    key_id: str = "",
    team: str = "",
    limit: int | None = None,
) -> Sequence[AuditEntry]:
    """The latest rows first. `since`: seconds since the epoch.

    `limit` keeps the latest rows, but with `after_id` those directly after this id.
    """
    column = audit_log.c.id
    statement = select(audit_log).where(audit_log.c.at >= round(since * MICROSECONDS))
    if before_id is not None:
        statement = statement.where(column < before_id)
    if after_id is not None:
        statement = statement.where(column > after_id)
    if key_id:
        statement = statement.where(audit_log.c.object.startswith(f"{key_id} ", autoescape=True))
    if team:
        statement = statement.where(audit_log.c.object == team)
    order = column.desc() if after_id is None else column.asc()
    rows = list(connection.execute(statement.order_by(order).limit(limit)).mappings())
    if after_id is not None:
        rows.reverse()
    return [
        AuditEntry(
            id=row["id"],
            at=row["at"] / MICROSECONDS,
            actor=row["actor"],
            action=row["action"],
            target=row["object"],
            changes=msgspec.json.decode(row["changes"], type=dict[str, tuple[object, object]]),
        )
        for row in rows
    ]


def find_newest_audit_id(connection: Connection) -> int:
    """0: the log is empty."""
    return connection.execute(select(func.max(audit_log.c.id))).scalar() or 0


def _decode_key(row: Mapping[Any, Any], hashes: Sequence[Mapping[Any, Any]]) -> VirtualKey:
    return VirtualKey(
        id=row["id"],
        label=row["label"],
        owner=row["owner"],
        team=row["team"],
        rules=_decode_rules(f"key {row['label']!r}", row["rules"]),
        created_at=row["created_at"] / MICROSECONDS,
        expires_at=_seconds(row["expires_at"]),
        revoked_at=_seconds(row["revoked_at"]),
        hashes=tuple(
            KeyHash(each["hash"], each["hint"], each["created_at"] / MICROSECONDS, _seconds(each["expires_at"]))
            for each in hashes
        ),
    )


def _decode_team(row: Mapping[Any, Any]) -> Team:
    return Team(row["name"], _decode_rules(f"team {row['name']!r}", row["rules"]))


def _decode_rules(owner: str, text: str) -> Rules:
    """Raises `ConfigurationError` for rules of a newer version."""
    try:
        return msgspec.json.decode(text, type=Rules) if text else Rules()
    except msgspec.DecodeError as error:
        raise ConfigurationError(
            f"The limits of the {owner} are of a newer version of anthropic-proxy: {error}. Update this one.",
            code="virtual-keys-of-a-newer-version",
        ) from None


def _seconds(microseconds: int | None) -> float | None:
    return None if microseconds is None else microseconds / MICROSECONDS


_MAX_COUNTERS = 200


class Spending(Struct, frozen=True):
    budget: Budget
    used: int
    """Used amount in nano-dollars or tokens, including the amounts that running requests have reserved."""

    def describe(self) -> str:
        return f"{format_counter_amount(self.used, self.budget)} of {self.budget.describe()}"

    @property
    def share(self) -> float:
        return min(max(self.used / self.budget.counter_amount, 0.0), 1.0)

    def encode(self) -> dict[str, object]:
        used = self.used / NANO_DOLLARS if self.budget.unit == "usd" else self.used
        return {"unit": self.budget.unit, "period": self.budget.period, "amount": self.budget.amount, "used": used}


async def read_spending(store: Store, scope: Scope, now: float) -> Sequence[Spending]:
    """Used amounts in the periods that contain `now` (seconds since the epoch). Raises `StoreUnavailable`."""
    return (await read_all_spending(store, [scope], now))[0]


async def read_all_spending(store: Store, scopes: Sequence[Scope], now: float) -> Sequence[Sequence[Spending]]:
    """Return the used amounts of all budgets of each of `scopes` (keys or teams), in the same order. The amounts are
    those of the period that contains `now`, in seconds since the epoch. Raises `StoreUnavailable`.
    """
    listed = [(index, budget) for index, scope in enumerate(scopes) for budget in scope.rules.budgets]
    found: list[list[Spending]] = [[] for _ in scopes]
    for start in range(0, len(listed), _MAX_COUNTERS):
        chosen = listed[start : start + _MAX_COUNTERS]
        counters = [build_budget_counter(scopes[index], budget, now) for index, budget in chosen]
        state = await store.reserve(counters)
        for (index, budget), counter, remaining in zip(chosen, counters, state.remaining, strict=True):
            found[index].append(Spending(budget, counter.maximum - remaining))
    return found


def sum_budget_use(connection: Connection, scope: Scope, budget: Budget, now: float) -> int:
    """Return the use of a budget in the period that contains `now`, by the ledger: nano-dollars, or tokens. It begins
    when the budget was set.
    """
    is_team = scope.kind == "team"
    start = find_period_start(budget.period, datetime.fromtimestamp(now, UTC)).timestamp()
    _, id_or_team = scope.counter.split("/", 1)
    kind, names = _find_budget_kind(budget.describe()), [scope.name]
    key_id, team = ("", id_or_team) if is_team else (id_or_team, "")
    for entry in list_audit_entries(connection, key_id=key_id, team=team, since=start):
        before, _ = entry.changes.get("budgets", (None, None))
        if isinstance(before, list) and kind not in map(_find_budget_kind, before):
            start = entry.at
            break
        if "label" in entry.changes:  # no other key gets an earlier label
            names.append(str(entry.changes["label"][0]))
    used = RequestSelection(start=round(start * MICROSECONDS), end=round(now * MICROSECONDS) + 1)
    parts = [used]
    if not used.is_short_range:  # sums of complete hours, and single requests of the part of an hour before them
        hour = -(-used.start // MICROSECONDS_PER_HOUR) * MICROSECONDS_PER_HOUR
        parts = [structs.replace(used, end=hour), structs.replace(used, start=hour)]
    sum_names = ("cost",) if budget.unit == "usd" else ("input_tokens", "cache_write_tokens", "output_tokens")
    return sum(
        getattr(found.sums, sum_name)
        for part in parts
        for name in names
        for found in sum_periods(
            connection,
            structs.replace(part, values={"team" if is_team else "key_label": name}),
            period_seconds=0,
            sum_names=sum_names,
        )
        for sum_name in sum_names
    )


def read_used_budgets(connection: Connection, scope: Scope, now: float) -> Sequence[Spending]:
    """Used amounts by the ledger, without those that running requests have reserved."""
    return [Spending(budget, sum_budget_use(connection, scope, budget, now)) for budget in scope.rules.budgets]


def _find_budget_kind(text: str) -> str:
    """Return `per month` of `$50.00 per month`, and `tokens per day` of `2,000,000 tokens per day`."""
    return text.split(" ", 1)[1]
