"""Database queries of virtual keys, teams and the audit log, and the used amounts of budgets."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.console.keys.limits import Scope, build_budget_counter
from anthropic_proxy.console.keys.virtual_keys import (
    AuditEntry,
    Budget,
    KeyHash,
    Rules,
    Team,
    VirtualKey,
    find_budget_start,
)
from anthropic_proxy.console.ledger.database import Reader
from anthropic_proxy.console.ledger.periods import RequestSelection
from anthropic_proxy.console.ledger.records import COMMON_VALUES
from anthropic_proxy.console.ledger.schema import AUDIT_LOG, KEY_HASHES, VIRTUAL_KEYS
from anthropic_proxy.console.ledger.units import MICROSECONDS, MICROSECONDS_PER_HOUR
from anthropic_proxy.errors import UnknownModel
from anthropic_proxy.gateway.money import NANO_DOLLARS, format_amount
from anthropic_proxy.plugins import Store

_KEYS = f"SELECT {', '.join(VIRTUAL_KEYS.columns)} FROM virtual_keys"
_HASHES = f"SELECT {', '.join(KEY_HASHES.columns)} FROM key_hashes"
_ENTRIES = f"SELECT {', '.join(AUDIT_LOG.columns)} FROM audit_log"


def list_keys(connection: Reader) -> Sequence[VirtualKey]:
    """Revoked keys included, the newest first."""
    hashes: dict[str, list[Sequence[Any]]] = {}
    for row in connection.query(f"{_HASHES} ORDER BY created_at DESC"):
        hashes.setdefault(row[1], []).append(row)
    return [
        _decode_key(row, hashes.get(row[0], ())) for row in connection.query(f"{_KEYS} ORDER BY created_at DESC, id")
    ]


def find_key(connection: Reader, name: str) -> VirtualKey | None:
    found = connection.query(f"{_KEYS} WHERE id = ? OR label = ?", (name, name))
    if not found:
        return None
    hashes = connection.query(f"{_HASHES} WHERE key_id = ? ORDER BY created_at DESC", (found[0][0],))
    return _decode_key(found[0], hashes)


def require_key(connection: Reader, name: str) -> VirtualKey:
    key = find_key(connection, name)
    if key is None:
        raise UnknownModel(
            f"There is no key {name[:80]!r}. List the keys:  anthropic-proxy keys list", code="virtual-key-unknown"
        )
    return key


def list_teams(connection: Reader) -> Sequence[Team]:
    """Return all teams with rules, in the order of their names. A team without rules is not stored."""
    return [_decode_team(*row) for row in connection.query("SELECT name, rules FROM teams ORDER BY name")]


def find_team(connection: Reader, name: str) -> Team | None:
    found = connection.query("SELECT name, rules FROM teams WHERE name = ?", (name,))
    return _decode_team(*found[0]) if found else None


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
            id=number,
            at=at / MICROSECONDS,
            actor=str(actor),
            action=str(action),
            target=str(target),
            changes=_decode_changes(changes),
        )
        for number, at, actor, action, target, changes in rows
    ]


def _decode_changes(text: str) -> dict[str, tuple[object, object]]:
    try:
        return msgspec.json.decode(text, type=dict[str, tuple[object, object]])
    except (msgspec.DecodeError, TypeError):
        return {"unreadable": (None, str(text))}


def escape_pattern(text: str) -> str:
    """Return `text` for a pattern of LIKE with `ESCAPE '/'`."""
    return text.replace("/", "//").replace("%", "/%").replace("_", "/_")


def find_newest_audit_id(connection: Reader) -> int:
    """0: the log is empty."""
    newest: int | None = connection.query("SELECT max(id) FROM audit_log")[0][0]
    return newest or 0


def _decode_key(row: Sequence[Any], hashes: Sequence[Sequence[Any]]) -> VirtualKey:
    """A key whose rows cannot be read has a `problem`."""
    number, label, owner, team, rules, created_at, expires_at, revoked_at = row
    try:
        texts = [
            {
                "hash": key_hash,
                "hint": hint,
                "created_at": _to_seconds(since),
                "expires_at": _to_seconds(end),
            }
            for key_hash, _, hint, since, end in hashes
        ]
        values = {
            "id": number,
            "label": label,
            "owner": owner,
            "team": team,
            "rules": _decode_rules(rules),
            "created_at": _to_seconds(created_at),
            "expires_at": _to_seconds(expires_at),
            "revoked_at": _to_seconds(revoked_at),
            "hashes": texts,
        }
        return msgspec.convert(values, VirtualKey)
    except Exception as error:  # noqa: BLE001  # SQLite stores any value in any column
        return VirtualKey(
            id=str(number),
            label=str(label),
            owner=str(owner),
            team=str(team),
            revoked_at=None if revoked_at is None else 0.0,
            hashes=tuple(KeyHash(str(key_hash), "", 0.0, None) for key_hash, *_ in hashes),
            problem=_describe_problem(f"key {label!r}", error),
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


def _to_seconds(microseconds: int | None) -> float | None:
    """Raises an error for a time that no calendar has."""
    if microseconds is None:
        return None
    seconds = microseconds / MICROSECONDS
    datetime.fromtimestamp(seconds, UTC)
    return seconds


_MAX_COUNTERS = 200


class Spending(Struct, frozen=True):
    budget: Budget
    used: int
    """Used amount in nano-dollars or tokens, including the amounts that running requests have reserved."""

    def describe(self) -> str:
        used = format_amount(self.used) if self.budget.unit == "usd" else f"{self.used:,} tokens"
        return f"{used} of {self.budget.describe()}"

    @property
    def share(self) -> float:
        return min(max(self.used / self.budget.counter_amount, 0.0), 1.0)

    def encode(self) -> dict[str, object]:
        used = self.used / NANO_DOLLARS if self.budget.unit == "usd" else self.used
        return {"unit": self.budget.unit, "period": self.budget.period, "amount": self.budget.amount, "used": used}


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


def sum_budget_use(connection: Reader, scope: Scope, budget: Budget, now: float) -> int:
    """Return the use of a budget in the period that contains `now`, by the ledger: nano-dollars, or tokens."""
    is_team = scope.kind == "team"
    start = find_budget_start(budget, now)
    names = [scope.name]
    if not is_team:
        _, key_id = scope.counter.split("/", 1)
        entries = list_audit_entries(connection, key_id=key_id, since=start)
        # no other key gets an earlier label
        names += [str(entry.changes["label"][0]) for entry in entries if "label" in entry.changes]
    used = RequestSelection(start=round(start * MICROSECONDS), end=round(now * MICROSECONDS) + 1)
    parts = [used]
    if not used.is_short_range:  # sums of complete hours, and single requests of the part of an hour before them
        hour = -(-used.start // MICROSECONDS_PER_HOUR) * MICROSECONDS_PER_HOUR
        parts = [structs.replace(used, end=hour), structs.replace(used, start=hour)]
    column = "team" if is_team else "key_label"
    added = "cost" if budget.unit == "usd" else "input_tokens + cache_write_tokens + output_tokens"
    total = 0
    for part in parts:
        if part.is_short_range:
            table, time, first, last = "requests", "started_at", part.start, part.end
        else:
            table, time, first, last = "hourly", "hour", part.start // MICROSECONDS_PER_HOUR, part.end_hour
        for name in names:
            condition = f"{time} >= ? AND {time} < ? AND {column} = ?"
            if table == "requests" and name != COMMON_VALUES[column]:  # the index leaves this value out
                condition += f" AND {column} != '{COMMON_VALUES[column]}'"
            sql = f"SELECT sum({added}) FROM {table} WHERE {condition}"
            total += int(connection.query(sql, (first, last, name))[0][0] or 0)
    return total


def read_used_budgets(connection: Reader, scope: Scope, now: float) -> Sequence[Spending]:
    """Used amounts by the ledger, without those that running requests have reserved."""
    return [Spending(budget, sum_budget_use(connection, scope, budget, now)) for budget in scope.rules.budgets]
