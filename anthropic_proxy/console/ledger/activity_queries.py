"""Sums of the table `activity` by period or by a column, for the selection of a page or of the command `usage`."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import structs
from sqlalchemy import Connection, func, select

from anthropic_proxy.console.ledger.activity import ACTIVITY_KEYS, ACTIVITY_NAMES, Activity, add_up_activity
from anthropic_proxy.console.ledger.periods import RequestSelection
from anthropic_proxy.console.ledger.queries import UsageGroup, name_time
from anthropic_proxy.console.ledger.read_access import read_groups
from anthropic_proxy.console.ledger.records import FACETS, UsageSums
from anthropic_proxy.console.ledger.request_queries import hourly_conditions
from anthropic_proxy.console.ledger.tables import activity
from anthropic_proxy.console.units import HOUR_SECONDS

_TIMES = ("day", "hour")
ACTIVITY_GROUPS = (*_TIMES, *(name for name, facet in FACETS.items() if facet.column in ACTIVITY_KEYS))
"""Names of groups for which the work is known."""


def has_activity(connection: Connection) -> bool:
    """Return True if any work is stored that the user of the connection may read."""
    return connection.execute(select(activity.c.hour).limit(1)).first() is not None


def sum_activity_hours(connection: Connection, selection: RequestSelection) -> Mapping[int, Activity]:
    """Return hour since the epoch → its sums. Empty if the selection has a filter that is unknown for work."""
    return _sum(connection, selection, "hour")


def add_activity(
    connection: Connection, selection: RequestSelection, by: str, groups: Sequence[UsageGroup]
) -> Sequence[UsageGroup]:
    """Return the groups of `sum_usage`, which are not divided, with the work of the same full hours. Those with work
    and without requests follow.
    """
    if by not in ACTIVITY_GROUPS or not _is_known(selection):
        return groups
    found: dict[str, list[Activity]] = {}
    if by in _TIMES:
        for hour, sums in sum_activity_hours(connection, selection).items():
            found.setdefault(name_time(by, hour * HOUR_SECONDS), []).append(sums)
    else:
        found = {name: [sums] for name, sums in _sum(connection, selection, FACETS[by].column).items()}
    work = {name: add_up_activity(several) for name, several in found.items()}
    named = [structs.replace(group, activity=work.pop(group.name, Activity())) for group in groups]
    named += [UsageGroup(name=name, sums=UsageSums(), activity=one) for name, one in sorted(work.items())]
    return sorted(named, key=lambda group: group.name) if by in _TIMES else named


def _is_known(selection: RequestSelection) -> bool:
    return structs.replace(selection, has_model=False).has_sums(ACTIVITY_KEYS)


def _sum(connection: Connection, selection: RequestSelection, column: str) -> Mapping[Any, Activity]:
    if not _is_known(selection):
        return {}
    conditions = hourly_conditions(structs.replace(selection, has_model=False), activity)
    key = activity.c[column]
    query = select(key, *(func.sum(activity.c[name]) for name in ACTIVITY_NAMES)).where(*conditions).group_by(key)
    return {
        name: Activity(**dict(zip(ACTIVITY_NAMES, map(int, sums), strict=True)))
        for name, *sums in read_groups(connection, query.order_by(key))
    }
