"""Events of the database for the destinations of `[siem.NAME]`, each at least once.

Theory of operation. A row of `event_cursors` is the place of a destination in one source of events. All processes look
for events behind it. The one that claims the row sends the next batch, and moves the place only after the destination
has accepted it. A claim ends after a minute, so that another process goes on for one that was killed, which may repeat
a batch. The row has the end of the batch, so that it is repeated with the same events and the same `webhook-id`,
however many have come since. While a destination does not accept, its events wait in the database, and requests wait
for nothing.

A rejected batch is halved. An event that is rejected alone, while the destination accepts the next one, is parked: it
is a row of `parked_events`, and a condition of the server. It is sent again after as long as it has been parked, and at
once when the destination accepts events again after an outage.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import closing, suppress
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from anthropic_proxy.console.ledger.connection import Connection
from anthropic_proxy.console.ledger.database import open_for_reading, write_at_once
from anthropic_proxy.console.ledger.events import (
    EventRow,
    count_events,
    encode_otlp,
    encode_webhook,
    find_place,
    name_event,
    read_events,
)
from anthropic_proxy.console.ledger.webhook import LEASE_SECONDS, Delivery, build_headers, deliver, find_pause
from anthropic_proxy.console.units import MICROSECONDS, to_microseconds
from anthropic_proxy.engine.advice import ProblemKind, report_problem
from anthropic_proxy.engine.own_thread import run_in_own_thread
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.gateway.settings.fields import SiemSettings
from anthropic_proxy.gateway.settings.file_format import EventSource
from anthropic_proxy.plugins import Condition, Gateway

_Result = TypeVar("_Result")
CHECK_SECONDS = 5.0
"""Pause between two looks for new events."""
MAX_EVENTS = 100
"""Maximum number of events of a request."""
MAX_BYTES = 512 * 1024
"""Maximum size of the events of a request, unless a single one is larger."""
LONGEST_PAUSE_SECONDS = 300.0
"""Maximum pause after a batch that was not accepted, unless the destination wants a longer one."""
REPORT_SECONDS = 60.0
"""Time after which a destination that does not accept is a problem of the server."""
MAX_REJECTIONS = 16
"""Number of attempts, in about an hour, after which an event is parked though no next one was accepted."""
MIN_PARKED_SECONDS = 300.0
MAX_PARKED_SECONDS = 86_400.0
"""Shortest and longest pause after which a parked event is sent again."""
_MAX_NAMED = 5
"""Maximum number of parked events that a condition names."""
_MAX_REPLY_BYTES = 64 * 1024
_REJECTIONS = (400, 413, 422)
"""Statuses that depend on the events: other or fewer ones may be accepted."""


class _Cursor(Struct, frozen=True):
    """A row of `event_cursors`. Times are in microseconds since the epoch."""

    position: int
    """Id of the last event that the destination has accepted."""
    attempts: int
    """Number of attempts to send the events behind it."""
    next_at: int
    """Time from which these are sent, again or by another process."""
    failing_since: int | None
    batch_end: int = 0
    """Id of the last event of the batch that is sent, or is to be sent again. 0: there is none."""


class _Claim(Struct, frozen=True):
    destination: SiemSettings
    source: EventSource
    cursor: _Cursor
    """The claimed row."""
    rows: Sequence[EventRow]


class _PartialSuccess(Struct):
    rejectedLogRecords: int | str = 0  # noqa: N815  # names of OTLP; 64-bit integers are texts in JSON
    errorMessage: str = ""  # noqa: N815


class _OtlpReply(Struct):
    partialSuccess: _PartialSuccess | None = None  # noqa: N815


class EventPush:
    """`clock` returns seconds since the epoch, if the store has no clock that all processes share."""

    def __init__(self, gateway: Gateway[Settings], clock: Callable[[], float] = time.time) -> None:
        self._gateway = gateway
        self._clock = clock
        self._known: set[tuple[str, EventSource]] = set()
        """Destinations and sources with a row."""
        self._limits: dict[tuple[str, EventSource], int] = {}
        """Maximum number of events of a request, if a destination rejected a larger one."""
        self._conditions: Sequence[Condition] = ()
        self._running: dict[tuple[str, EventSource], asyncio.Task[None]] = {}
        self._is_failing = False

    def list_conditions(self) -> Sequence[Condition]:
        return self._conditions if self._gateway.settings.siem else ()

    async def run(self) -> None:
        try:
            while True:
                await self._attempt(self._start())
                await asyncio.sleep(CHECK_SECONDS)
        finally:
            for task in self._running.values():
                task.cancel()

    async def work(self) -> None:
        """Send what is due."""
        await self._start()
        await asyncio.gather(*self._running.values())
        await self._note_conditions()

    async def _start(self) -> None:
        """Send what is due to each destination in a task of its own, so that none waits for another one."""
        cursors = self._list_cursors()
        new = [(one, source) for one, source in cursors if (one.name, source) not in self._known]
        if new:
            await self._write(lambda connection: _add_cursors(connection, new))
            self._known.update((one.name, source) for one, source in new)
        await self._note_conditions()
        for destination, source in cursors:
            key = (destination.name, source)
            if key not in self._running or self._running[key].done():
                self._running[key] = asyncio.create_task(self._attempt(self._send_all(destination, source)))

    def _list_cursors(self) -> Sequence[tuple[SiemSettings, EventSource]]:
        return [(one, source) for one in self._gateway.settings.siem for source in one.events]

    async def _note_conditions(self) -> None:
        self._conditions = await run_in_own_thread("siem", self._find_conditions, self._list_cursors())

    async def _attempt(self, step: Coroutine[None, None, None]) -> None:
        try:
            await step
            self._is_failing = False
        except Exception as error:  # noqa: BLE001  # of the database: requests are served
            if not self._is_failing:
                self._gateway.log_warning_each_time(f"Events for [siem] wait: {type(error).__name__}: {error}")
            self._is_failing = True

    async def _send_all(self, destination: SiemSettings, source: EventSource) -> None:
        while await run_in_own_thread("siem", self._is_due, destination.name, source):
            claim = await self._write(lambda connection: self._claim(connection, destination, source))
            if claim is None or not await self._send(claim):
                return
        while (parked := await self._claim_parked(destination.name, source)) is not None:
            await self._send_parked(destination, source, parked)

    def _now(self) -> int:
        return to_microseconds(self._gateway.store.state.find_time(self._clock))

    def _is_due(self, name: str, source: EventSource) -> bool:
        with closing(open_for_reading(self._gateway.settings)) as connection:
            cursor = _read_cursor(connection, name, source)
            if cursor is None or cursor.next_at > self._now():
                return False
            return bool(read_events(connection, source, cursor.position, 1))

    def _claim(self, connection: Connection, destination: SiemSettings, source: EventSource) -> _Claim | None:
        """None: there is nothing to send, or another process sends it."""
        cursor = _read_cursor(connection, destination.name, source)
        if cursor is None or cursor.next_at > self._now():
            return None
        rows: Sequence[EventRow] = ()
        if cursor.batch_end:
            rows = read_events(connection, source, cursor.position, MAX_EVENTS, cursor.batch_end)
        if not rows:
            limit = self._limits.get((destination.name, source), MAX_EVENTS)
            rows = _bound(read_events(connection, source, cursor.position, limit))
        if not rows:
            return None
        claimed = _Cursor(
            cursor.position,
            cursor.attempts + 1,
            self._now() + to_microseconds(LEASE_SECONDS),
            cursor.failing_since,
            rows[-1].id,
        )
        is_claimed = _replace_cursor(connection, destination.name, source, cursor, claimed)
        return _Claim(destination, source, claimed, rows) if is_claimed else None

    async def _send(self, claim: _Claim) -> bool:
        """Return True if the next batch can follow at once."""
        answer = await self._post(claim.destination, claim.source, claim.rows)
        problem = answer.problem
        is_rejection = answer.status in _REJECTIONS
        key = (claim.destination.name, claim.source)
        before = claim.cursor
        pause = 0.0
        place: int | None = None
        if not problem:
            self._limits[key] = min(MAX_EVENTS, self._limits.get(key, MAX_EVENTS) * 2)
            cursor = _Cursor(claim.rows[-1].id, 0, self._now(), None)
            if before.failing_since is not None:
                self._report(claim.destination, f"accepts events ({claim.source}) again.")
        elif is_rejection and len(claim.rows) > 1:
            self._limits[key] = len(claim.rows) // 2
            cursor = _Cursor(before.position, before.attempts - 1, self._now(), before.failing_since)
        elif is_rejection and (place := await self._find_place_behind(claim)) is not None:
            cursor = _Cursor(place, 0, self._now(), None if place > claim.rows[0].id else before.failing_since)
        else:
            pause = find_pause(before.attempts, LONGEST_PAUSE_SECONDS, answer.retry_after)
            since = self._now() if before.failing_since is None else before.failing_since
            again_at = self._now() + to_microseconds(pause)
            cursor = _Cursor(before.position, before.attempts, again_at, since, before.batch_end)
            if before.failing_since is None:
                self._report(
                    claim.destination,
                    f"has not accepted events ({claim.source}): {problem}. They wait in the database and are sent "
                    f"again, first in {pause:.0f} s.",
                )

        parked = None if place is None else claim.rows[0]

        def move(connection: Connection) -> bool:
            is_own = _replace_cursor(connection, *key, before, cursor)
            if is_own and parked is not None:
                _park(connection, key, parked, problem, self._now())
            elif is_own and not problem and before.failing_since is not None:
                sql = "UPDATE parked_events SET next_at = ? WHERE destination = ? AND source = ?"
                connection.execute(sql, (self._now(), *key))
            return is_own

        is_own = await self._write(move)
        if is_own and parked is not None:
            self._report(
                claim.destination,
                f"has rejected the event {name_event(claim.source, parked.id)}: {problem}. It is stored, and is sent "
                f"again, first in {MIN_PARKED_SECONDS / 60:.0f} min; others follow.",
            )
        if is_own and not problem and claim.source == "verdicts":
            # in a transaction of its own: of several destinations that accept at once, the last one sees all places
            await self._write(lambda connection: connection.execute(_DELETE_ACCEPTED))
        return is_own and not pause

    async def _find_place_behind(self, claim: _Claim) -> int | None:
        """Return the place behind an event that the destination rejects alone. None: it is sent again, because the
        destination does not accept the next one either.
        """

        def read_next() -> Sequence[EventRow]:
            with closing(open_for_reading(self._gateway.settings)) as connection:
                return read_events(connection, claim.source, event.id, 1)

        (event,) = claim.rows
        following = await run_in_own_thread("siem", read_next)
        if following and not (await self._post(claim.destination, claim.source, following)).problem:
            return following[0].id
        return event.id if claim.cursor.attempts >= MAX_REJECTIONS else None

    async def _claim_parked(self, name: str, source: EventSource) -> EventRow | None:
        """None: no parked event is due."""
        now = self._now()
        values = (name, source, now)
        condition = "destination = ? AND source = ? AND next_at <= ?"

        def read(connection: Connection) -> Sequence[Sequence[Any]]:
            sql = f"SELECT event_id, at, body, parked_at FROM parked_events WHERE {condition} ORDER BY event_id LIMIT 1"
            return connection.query(sql, values)

        def read_alone() -> bool:
            with closing(open_for_reading(self._gateway.settings)) as connection:
                return bool(read(connection))

        def claim(connection: Connection) -> EventRow | None:
            for event_id, at, body, parked_at in read(connection):
                sql = f"UPDATE parked_events SET next_at = ? WHERE {condition} AND event_id = ?"
                if connection.execute(sql, (now + _find_parked_pause(now - parked_at), *values, event_id)) == 1:
                    return EventRow(event_id, at, msgspec.json.decode(body))
            return None

        return await self._write(claim) if await run_in_own_thread("siem", read_alone) else None

    async def _send_parked(self, destination: SiemSettings, source: EventSource, event: EventRow) -> None:
        problem = (await self._post(destination, source, [event])).problem
        key = (destination.name, source, event.id)
        condition = "destination = ? AND source = ? AND event_id = ?"
        if problem:
            sql = f"UPDATE parked_events SET problem = ? WHERE {condition}"
            await self._write(lambda connection: connection.execute(sql, (problem, *key)))
            return
        await self._write(lambda connection: connection.execute(f"DELETE FROM parked_events WHERE {condition}", key))
        self._report(destination, f"has accepted the event {name_event(source, event.id)}, which it had rejected.")

    async def _post(self, destination: SiemSettings, source: EventSource, rows: Sequence[EventRow]) -> Delivery:
        is_otlp = destination.type == "otlp"
        body = (encode_otlp if is_otlp else encode_webhook)(source, rows)
        message_id = _name_batch(destination.name, source, rows)
        own = build_headers(message_id, self._now() // MICROSECONDS, body, destination.secrets)
        headers = {name: value.reveal() for name, value in destination.headers.items()} | own
        size = _MAX_REPLY_BYTES if is_otlp else 0
        answer = await deliver(self._gateway, destination.url, headers, body, purpose="siem", max_bytes=size)
        if is_otlp and not answer.problem:
            names = [name_event(source, row.id) for row in rows]
            self._report_rejected(destination, answer.body, f"{names[0]} to {names[-1]}")
        return answer

    def _report_rejected(self, destination: SiemSettings, body: bytes, names: str) -> None:
        """A collector that accepts only a part does not want the others again ("Partial Success" of OTLP)."""
        with suppress(msgspec.MsgspecError, ValueError):
            part = msgspec.json.decode(body, type=_OtlpReply).partialSuccess
            if part is not None and (count := int(part.rejectedLogRecords)):
                self._report(destination, f"has rejected {count} of the events {names}. They are not sent again.")

    def _report(self, destination: SiemSettings, text: str) -> None:
        host = urlsplit(destination.url.reveal()).netloc
        self._gateway.log_warning_each_time(f"[siem.{destination.name}], {host}, {text}")

    def _find_conditions(self, cursors: Sequence[tuple[SiemSettings, EventSource]]) -> Sequence[Condition]:
        with closing(open_for_reading(self._gateway.settings)) as connection:
            found = [
                find(connection, one.name, source)
                for one, source in cursors
                for find in (self._find_condition, _find_parked)
            ]
        return [condition for condition in found if condition is not None]

    def _find_condition(self, connection: Connection, name: str, source: EventSource) -> Condition | None:
        cursor = _read_cursor(connection, name, source)
        if cursor is None or cursor.failing_since is None:
            return None
        seconds = (self._now() - cursor.failing_since) // MICROSECONDS
        if seconds < REPORT_SECONDS:
            return None
        count = count_events(connection, source, cursor.position)
        problem = report_problem(
            ProblemKind.WAITING_EVENTS,
            f"[siem.{name}]",
            source=source,
            count=count,
            events="event waits" if count == 1 else "events wait",
            minutes=seconds // 60,
        )
        return Condition(check="siem", state=f"{count} {source} wait", problem=problem)

    async def _write(self, function: Callable[[Connection], _Result]) -> _Result:
        return await run_in_own_thread("siem", partial(write_at_once, self._gateway.settings, function))


_COLUMNS = _Cursor.__struct_fields__
_DELETE_ACCEPTED = (
    "DELETE FROM verdict_log WHERE id < (SELECT min(position) FROM event_cursors WHERE source = 'verdicts')"
)
"""The last one stays, because SQLite counts on from the highest id."""


def _name_batch(destination: str, source: EventSource, rows: Sequence[EventRow]) -> str:
    """Return the same id for the same events, whatever a version of the program writes about them."""
    named = f"{destination}\n{source}\n{rows[0].at}\n{rows[0].id}\n{rows[-1].id}"
    return f"msg_{hashlib.sha256(named.encode()).hexdigest()[:32]}"


def _bound(rows: Sequence[EventRow]) -> Sequence[EventRow]:
    size = 0
    for number, row in enumerate(rows):
        size += len(msgspec.json.encode(row.event))
        if size > MAX_BYTES and number:
            return rows[:number]
    return rows


def _add_cursors(connection: Connection, new: Sequence[tuple[SiemSettings, EventSource]]) -> None:
    sql = (
        "INSERT INTO event_cursors (destination, source, position) VALUES (?, ?, ?) "
        "ON CONFLICT (destination, source) DO NOTHING"
    )
    for destination, source in new:
        connection.execute(sql, (destination.name, source, find_place(connection, source, destination.since)))


def _park(connection: Connection, key: tuple[str, EventSource], event: EventRow, problem: str, now: int) -> None:
    sql = (
        "INSERT INTO parked_events (destination, source, event_id, at, body, problem, parked_at, next_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (destination, source, event_id) DO NOTHING"
    )
    body = msgspec.json.encode(event.event).decode()
    next_at = now + _find_parked_pause(0)
    connection.execute(sql, (*key, event.id, event.at, body, problem, now, next_at))


def _find_parked_pause(age: int) -> int:
    """Both in microseconds."""
    return min(max(age, to_microseconds(MIN_PARKED_SECONDS)), to_microseconds(MAX_PARKED_SECONDS))


def _find_parked(connection: Connection, name: str, source: EventSource) -> Condition | None:
    condition = "destination = ? AND source = ?"
    sql = f"SELECT event_id, problem FROM parked_events WHERE {condition} ORDER BY event_id LIMIT {_MAX_NAMED}"
    rows = connection.query(sql, (name, source))
    if not rows:
        return None
    ((count,),) = connection.query(f"SELECT count(*) FROM parked_events WHERE {condition}", (name, source))
    names = ", ".join(name_event(source, event_id) for event_id, _ in rows)
    problem = report_problem(
        ProblemKind.PARKED_EVENTS,
        f"[siem.{name}]",
        source=source,
        count=count,
        events="event" if count == 1 else "events",
        places="It waits" if count == 1 else "They wait",
        sending="is" if count == 1 else "are",
        names=names if count <= _MAX_NAMED else f"{names} and {count - _MAX_NAMED:,} more",
        answer=rows[-1][1],
    )
    return Condition(check="siem", state=f"{count} {source} rejected", problem=problem)


def _read_cursor(connection: Connection, name: str, source: EventSource) -> _Cursor | None:
    sql = f"SELECT {', '.join(_COLUMNS)} FROM event_cursors WHERE destination = ? AND source = ?"
    rows = connection.query(sql, (name, source))
    return _Cursor(*rows[0]) if rows else None


def _replace_cursor(connection: Connection, name: str, source: EventSource, before: _Cursor, after: _Cursor) -> bool:
    """Return False if another process has changed the row since `before`."""
    sql = (
        "UPDATE event_cursors SET position = ?, attempts = ?, next_at = ?, failing_since = ?, batch_end = ? "
        "WHERE destination = ? AND source = ? AND position = ? AND attempts = ? AND next_at = ?"
    )
    new = (after.position, after.attempts, after.next_at, after.failing_since, after.batch_end)
    return connection.execute(sql, (*new, name, source, before.position, before.attempts, before.next_at)) == 1
