"""The instances of the proxy: servers that use the same database know each other by its table `instances`.

Theory of operation. The first worker of each server writes one row for the server, again after each heartbeat. All
workers read the rows of the others. A server without heartbeats has ended. One that has run for less than
`COMPANY_SECONDS` shows no problem yet, and neither does one that completes its last requests: a server that replaces
another one runs beside it for a moment. All times are those of the database.

On SQLite, servers are processes of one machine, such as those of the command `code`. They are no problem, and write
less often.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from itertools import islice
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.console.ledger.connection import Connection, Reader
from anthropic_proxy.console.ledger.database import (
    LEDGER_FAILURES,
    describe_database_failure,
    find_database,
    is_disk_full,
    new_full_disk_error,
    open_for_reading,
)
from anthropic_proxy.console.ledger.schema import INSTANCES
from anthropic_proxy.console.units import MICROSECONDS
from anthropic_proxy.engine.advice import ProblemKind, report_problem, report_warning
from anthropic_proxy.errors import join_with_and
from anthropic_proxy.gateway.conditions import (
    MAX_CLOCK_DIFFERENCE_SECONDS,
    build_ledger_condition,
    describe_clock_difference,
)
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Condition

HEARTBEAT_SECONDS = 5.0
"""Time in seconds between two heartbeats on PostgreSQL."""
LOCAL_HEARTBEAT_SECONDS = 30.0
"""Time in seconds between two heartbeats on SQLite."""
MISSED_HEARTBEATS = 3
"""Number of heartbeats without which a server has ended."""
EXPIRY_SECONDS = MISSED_HEARTBEATS * HEARTBEAT_SECONDS
COMPANY_SECONDS = EXPIRY_SECONDS + HEARTBEAT_SECONDS
"""Time in seconds for which a server runs before it counts as one of several. It is longer than the time for which the
row of a killed server remains, so that its successor is alone."""
_KEPT_SECONDS = 600.0
"""Time in seconds after which the row of a server that has ended is deleted."""
_MAX_NAMED = 5
_ID_LENGTH = 8
"""Characters of an id that tell apart the servers of one host and port."""
UNKNOWN_REDIS = "?"


class Instance(Struct, frozen=True, kw_only=True):
    """A row of `instances`: one server. Times are in seconds since the epoch, by the clock of the database."""

    id: str
    name: str
    """Name of its host."""
    address: str
    """URL at which it listens. "": unknown."""
    version: str
    state: Literal["serving", "stopping"]
    redis: str
    """Id of the data in Redis that it shares with others. "": it uses no Redis; `UNKNOWN_REDIS`: it has not reached its
    Redis server yet."""
    processes: int
    clock_difference: float
    """Seconds by which its clock is ahead of that of the database."""
    settings: Mapping[str, str] = {}
    """Name of a setting → digest of its value."""
    files: Mapping[str, str] = {}
    """Name of a settings file → digest of the content that it has read."""
    started_at: float = 0.0
    seen_at: float = 0.0


_TIMES = ("clock_difference", "started_at", "seen_at")
_DIGESTS = ("settings", "files")
MAX_DIGESTS = 1_000
"""Maximum number of settings of which a row has digests."""
_COLUMNS = Instance.__struct_fields__
_STORE = (
    f"INSERT INTO {INSTANCES.name} ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) "
    "ON CONFLICT (id) DO UPDATE SET "
    f"{', '.join(f'{name} = excluded.{name}' for name in _COLUMNS if name not in ('id', 'started_at'))}"
)


def read_time(connection: Reader, clock: Callable[[], float] = time.time) -> tuple[float, float]:
    """Return the time of the database in seconds since the epoch, and by how many seconds `clock` is ahead of it. A
    difference that the duration of the query explains is 0.
    """
    if not connection.is_postgres:  # it has the clock of this machine
        return clock(), 0.0
    before = clock()
    ((seconds,),) = connection.query("SELECT extract(epoch FROM clock_timestamp())::float8")
    after = clock()
    now = float(seconds)
    difference = (before + after) / 2 - now
    error = abs(after - before) / 2
    return now, difference if abs(difference) > error else 0.0


def store_instance(connection: Connection, instance: Instance, now: float) -> None:
    """Write the heartbeat of a server. Rows of servers that ended long ago are deleted."""
    row = structs.asdict(structs.replace(instance, started_at=now, seen_at=now))
    row |= {name: round(row[name] * MICROSECONDS) for name in _TIMES}
    row |= {name: msgspec.json.encode(dict(islice(row[name].items(), MAX_DIGESTS))).decode() for name in _DIGESTS}
    with connection.transaction():
        connection.execute(_STORE, [row[name] for name in _COLUMNS])
        connection.execute(
            f"DELETE FROM {INSTANCES.name} WHERE seen_at < ?", (round((now - _KEPT_SECONDS) * MICROSECONDS),)
        )


def list_instances(connection: Reader) -> Sequence[Instance]:
    """Return all stored servers, in the order of their starts, without rows that cannot be read."""
    instances = []
    rows = connection.query(f"SELECT {', '.join(_COLUMNS)} FROM {INSTANCES.name} ORDER BY started_at, id")
    for values in rows:
        row = dict(zip(_COLUMNS, values, strict=True))
        with suppress(msgspec.DecodeError, TypeError, ValueError):  # SQLite stores any value in any column
            row |= {name: row[name] / MICROSECONDS for name in _TIMES}
            row |= {name: msgspec.json.decode(row[name] or "{}") for name in _DIGESTS}
            instance = msgspec.convert(row, Instance)
            _ = urlsplit(instance.address).port  # a damaged address raises an error
            instances.append(instance)
    return instances


class KnownInstances(NamedTuple):
    """The servers of a database at a time of its clock."""

    now: float
    instances: Sequence[Instance]
    heartbeat_seconds: float = HEARTBEAT_SECONDS

    def list_running(self) -> Sequence[Instance]:
        oldest = self.now - MISSED_HEARTBEATS * self.heartbeat_seconds
        return [instance for instance in self.instances if instance.seen_at > oldest]

    def list_company(self) -> Sequence[Instance]:
        """Return the servers that share the work now."""
        running = [instance for instance in self.list_running() if instance.state == "serving"]
        return [instance for instance in running if instance.started_at <= self.now - COMPANY_SECONDS]


def read_instances(connection: Reader, now: float) -> KnownInstances:
    """`now`: time of the database."""
    seconds = HEARTBEAT_SECONDS if connection.is_postgres else LOCAL_HEARTBEAT_SECONDS
    return KnownInstances(now, list_instances(connection), seconds)


def name_instances(instances: Sequence[Instance]) -> Mapping[str, str]:
    """Return id → name for people, which is different for each server: that of the host, with the port if several
    servers have this host, and the beginning of the id if they have the same port too, such as containers.
    """
    hosts = Counter(instance.name for instance in instances)
    places = {
        instance.id: add_port(instance.name, instance.address) if hosts[instance.name] > 1 else instance.name
        for instance in instances
    }
    uses = Counter(places.values())
    return {id_: place if uses[place] == 1 else f"{place} (id {id_[:_ID_LENGTH]})" for id_, place in places.items()}


def add_port(host: str, address: str) -> str:
    """Return the name of a host with the port of the URL `address`, if it has one."""
    port = urlsplit(address).port
    return host if port is None else f"{host}:{port}"


def find_conditions(known: KnownInstances, settings: Settings) -> Sequence[Condition]:
    """Return what is wrong now with the servers on a PostgreSQL database."""
    return [*_find_separate_limits(known, settings), *_find_wrong_clocks(known)]


def _find_separate_limits(known: KnownInstances, settings: Settings) -> Sequence[Condition]:
    company = known.list_company()
    count = len(company)
    names = name_instances(company)
    groups: dict[str, list[str]] = {}
    for instance in company:
        groups.setdefault(instance.redis, []).append(names[instance.id])
    unknown = groups.pop(UNKNOWN_REDIS, [])
    has_limits = settings.virtual_keys or any(call.requests_per_minute for call in settings.call_options.values())
    if count < 2 or not has_limits or (len(groups) < 2 and "" not in groups):
        return []
    if len(groups) == 1 and not unknown:
        problem = report_problem(ProblemKind.SEPARATE_LIMITS, "REDIS_URL", count=count)
        state = f"{count} without Redis: each counts limits per minute by itself"
    else:
        uses = [f"{list_names(members)}: {title}" for title, members in _title_groups(groups, unknown)]
        problem = report_problem(ProblemKind.SEPARATE_STORES, "REDIS_URL", count=count, uses="; ".join(uses))
        state = f"{count} with separate limits and budgets"
    return [Condition(check="instances", state=state, problem=problem)]


def _title_groups(groups: Mapping[str, Sequence[str]], unknown: Sequence[str]) -> Iterator[tuple[str, Sequence[str]]]:
    titles = iter(["one Redis server"])
    for group, members in groups.items():
        yield next(titles, "another Redis server") if group else "no Redis server", members
    if unknown:
        yield "a Redis server that does not answer", unknown


def _find_wrong_clocks(known: KnownInstances) -> Sequence[Condition]:
    running = known.list_running()
    names = name_instances(running)
    wrong = [instance for instance in running if abs(instance.clock_difference) > MAX_CLOCK_DIFFERENCE_SECONDS]
    largest = max((instance.clock_difference for instance in wrong), key=abs, default=0.0)
    return [
        Condition(
            check="clock",
            state=f"{len(wrong)} of {len(running)} differ: {describe_clock_difference(largest)} that of the database",
            problem=report_warning(
                ProblemKind.WRONG_CLOCK,
                names[instance.id],
                difference=f"{describe_clock_difference(instance.clock_difference)} that of the database",
            ),
        )
        for instance in wrong[:_MAX_NAMED]
    ]


def list_names(names: Sequence[str]) -> str:
    more = [f"{len(names) - _MAX_NAMED} more"] if len(names) > _MAX_NAMED else []
    return join_with_and([*names[:_MAX_NAMED], *more])


def read_conditions(settings: Settings) -> Sequence[Condition]:
    """Return what is wrong with the servers on the database of `settings`, for a command. On SQLite, this is a full
    disk. Empty if the database cannot be read.
    """
    try:
        if not settings.has_ledger():
            return ()
        address = find_database(settings)
        if is_disk_full(address):
            text = describe_database_failure("disk full", address.describe(), new_full_disk_error())
            return [build_ledger_condition("disk full", text)]
        if address.file is not None:
            return ()
        with closing(open_for_reading(settings)) as connection:
            now, _ = read_time(connection)
            return find_conditions(read_instances(connection, now), settings)
    except (*LEDGER_FAILURES, ImportError):
        return ()
