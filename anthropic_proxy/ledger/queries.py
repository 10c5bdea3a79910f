"""Queries for sums of usage: requests, tokens and costs by day, model, provider, project or session.

`sum_usage` returns one `UsageGroup` for each day, model or other group. For a `UsageRange` above three hours, the sums
come from tables of hourly sums. For a shorter one, single requests are added up.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any, Literal, get_args

from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, select

from anthropic_proxy.ledger.sums import UsageSums, add_up_groups, hourly_sums, request_sums, session_sums, to_sums
from anthropic_proxy.ledger.tables import hourly, requests, session_hours
from anthropic_proxy.ledger.units import HOUR_SECONDS, MICROSECONDS, MICROSECONDS_PER_HOUR

GroupName = Literal["day", "hour", "model", "requested", "provider", "project", "key", "session", "route"]
"""Name of the quantity by which sums are grouped.

`requested` is the model that the client requested. `route` is the rule of the configuration file that chose the
provider.
"""
GROUP_NAMES: Sequence[str] = get_args(GroupName)
NOT_SENT = "not sent"
"""Name of the provider and the model of requests that were sent to none."""
MAX_SHORT_RANGE_HOURS = 3
"""Maximum length in hours of a time range for which sums are added up from single requests."""
_COLUMNS: Mapping[str, Sequence[str]] = {
    "hour": ("hour",),
    "day": ("hour",),
    "model": ("provider", "model"),
    "requested": ("requested_model",),
    "provider": ("provider",),
    "project": ("project",),
    "key": ("key_label",),
    "route": ("route",),
}
"""Name of the quantity → columns of the table `hourly` that contain it."""


class UsageRange(Struct, frozen=True):
    """Time range of requests, in seconds since the epoch.

    A range above three hours begins and ends at a full hour, because its sums are stored by hour.
    """

    start: int
    end: int
    """First second after the range, in seconds since the epoch."""

    @property
    def is_short_range(self) -> bool:
        """True if the range has at most three hours, so that single requests are added up instead of hourly sums."""
        return self.end - self.start <= MAX_SHORT_RANGE_HOURS * HOUR_SECONDS


class UsageGroup(Struct, frozen=True, kw_only=True):
    """Sums of the requests of one group, such as those with the same model."""

    name: str
    """Name of the group, such as a day (`2026-11-20`), an hour (`2026-11-20T13:00Z`) or a model.

    "": the requests have no value.
    """
    provider: str = ""
    """Name of the provider of a model. "": not grouped by model, or no provider was called."""
    sums: UsageSums


def sum_usage(
    connection: Connection, chosen: UsageRange, by: GroupName, timezone: tzinfo | None = None
) -> list[UsageGroup]:
    """Return the sums of requests in the range `chosen` for each group that has requests.

    Days and hours are in order of time, other groups by descending cost.
    """
    if by == "session":
        return _sort(_sum_sessions(connection, chosen))
    if by in ("day", "hour"):
        return _sum_times(connection, chosen, _day_namer(timezone) if by == "day" else _name_hour)
    columns = _COLUMNS[by]
    return _sort(
        UsageGroup(name=str(keys[-1]), provider=str(keys[0]) if by == "model" else "", sums=sums)
        for keys, sums in _sum_hourly(connection, chosen, columns)
    )


def _sum_hourly(
    connection: Connection, chosen: UsageRange, names: Sequence[str]
) -> list[tuple[Sequence[Any], UsageSums]]:
    if chosen.is_short_range:
        hour = (requests.c.started_at // MICROSECONDS_PER_HOUR).label("hour")
        keys, sums = [hour if name == "hour" else requests.c[name] for name in names], request_sums(requests.c)
    else:
        keys, sums = [hourly.c[name] for name in names], hourly_sums()
    rows = connection.execute(select(*keys, *sums).where(*_conditions(chosen, hourly.c.hour)).group_by(*keys)).all()
    return [(row[: len(keys)], to_sums(row[len(keys) :])) for row in rows]


def _sum_times(connection: Connection, chosen: UsageRange, name_time: Callable[[int], str]) -> list[UsageGroup]:
    """Return the sums of requests in the range `chosen`, grouped by day or by hour.

    `name_time` returns the name of the day or hour for a number of hours since the epoch.
    """
    hours = sorted(_sum_hourly(connection, chosen, ("hour",)), key=lambda row: int(row[0][0]))
    found = add_up_groups((name_time(hour), sums) for (hour,), sums in hours)
    return [UsageGroup(name=name, sums=sums) for name, sums in found.items()]


def _sum_sessions(connection: Connection, chosen: UsageRange) -> Iterable[UsageGroup]:
    session = requests.c.session if chosen.is_short_range else session_hours.c.session
    sums = request_sums(requests.c) if chosen.is_short_range else session_sums()
    query = select(session, *sums).where(*_conditions(chosen, session_hours.c.hour)).group_by(session)
    return [UsageGroup(name=row[0], sums=to_sums(row[1:])) for row in connection.execute(query)]


def _conditions(chosen: UsageRange, hour: ColumnElement[int]) -> Sequence[ColumnElement[bool]]:
    """Return the SQL conditions for rows of a table of sums that belong to the range `chosen`.

    `hour` is the column with the hour of a row. For a range of at most three hours, single requests are selected.
    """
    if chosen.is_short_range:
        time = requests.c.started_at
        return time >= chosen.start * MICROSECONDS, time < chosen.end * MICROSECONDS
    return hour >= chosen.start // HOUR_SECONDS, hour < -(-chosen.end // HOUR_SECONDS)


def _sort(groups: Iterable[UsageGroup]) -> list[UsageGroup]:
    """Return `groups` in the order of cost, then of tokens, then of requests, the highest first."""
    return sorted(
        groups, key=lambda group: (-group.sums.cost, -group.sums.all_tokens, -group.sums.requests, group.name)
    )


def _day_namer(timezone: tzinfo | None) -> Callable[[int], str]:
    # an hour belongs to the day in which it ends, as in `local_periods`
    return lambda hour: (
        datetime.fromtimestamp((hour + 1) * HOUR_SECONDS - 1, UTC).astimezone(timezone).date().isoformat()
    )


def _name_hour(hour: int) -> str:
    return f"{datetime.fromtimestamp(hour * HOUR_SECONDS, UTC):%Y-%m-%dT%H:00Z}"
