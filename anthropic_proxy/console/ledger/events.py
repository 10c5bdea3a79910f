"""Events for a SIEM: entries of the audit log, and verdicts about tool calls and texts, without texts of requests.

`audit_log` has the former. `verdict_log` has the latter, stored with their requests, if a destination gets them. The
ids of both ascend in the order of the commits, so that the place of a destination is the id of the last event that it
has accepted.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct

from anthropic_proxy import __version__
from anthropic_proxy.console.ledger.connection import Connection
from anthropic_proxy.console.ledger.records import StoredRequest
from anthropic_proxy.console.units import MICROSECONDS, to_microseconds
from anthropic_proxy.gateway.settings.file_format import EventSource
from anthropic_proxy.plugins import CallCheck, InspectionRecord

_LOCK = 0x76657264
"""Number of the PostgreSQL advisory lock that is held from the insertion of verdicts to the commit."""
_NAMES_OF_REQUEST = {
    "key_label": "key",
    **{name: name for name in ("owner", "team", "cost_center", "project", "session", "client", "provider", "model")},
    "requested_model": "requested_model",
}
"""Column of a request → field of the event."""
_WARNING = 13
_INFO = 9
"""Severities of OpenTelemetry logs (opentelemetry.io/docs/specs/otel/logs/data-model, read 2026-11)."""
Event = Mapping[str, Any]


class EventRow(NamedTuple):
    id: int
    at: int
    """Microseconds since the epoch."""
    event: Event
    """Without the fields of all events: `id`, `type` and `time`."""


class _Source(NamedTuple):
    kind: Literal["audit", "verdict"]
    """Value of `type`, and beginning of the ids."""
    table: str
    columns: str
    decode: Callable[..., Event]


class EventCheck(Struct, frozen=True, omit_defaults=True):
    """Verdict about one tool call, without its reason, which may quote a text."""

    tool: str
    verdict: str
    kind: str
    request: str = ""
    """Id of the request to the checking model."""


def _decode_change(actor: str, action: str, target: str, changes: str) -> Event:
    return {"actor": actor, "action": action, "object": target, "changes": msgspec.json.decode(changes or "{}")}


SOURCES: Mapping[EventSource, _Source] = {
    "audit": _Source("audit", "audit_log", "actor, action, object, changes", _decode_change),
    "verdicts": _Source("verdict", "verdict_log", "body", msgspec.json.decode),
}


def add_verdicts(connection: Connection, rows: Iterable[StoredRequest]) -> None:
    """Call it at the end of a transaction: others wait for its commit."""
    found = [(row.started_at, msgspec.json.encode(event).decode()) for row in rows if (event := _build_verdict(row))]
    if found:
        if connection.is_postgres:
            connection.query("SELECT pg_advisory_xact_lock(?)", (_LOCK,))
        connection.insert("verdict_log", ("at", "body"), found)


def _build_verdict(row: StoredRequest) -> Event | None:
    """None: no model or service has judged the request, or all inspectors have let it pass. The requests to checking
    models have the verdict of the request to which they belong.
    """
    if row.parent or not (row.checks or row.inspections):
        return None
    checks = msgspec.json.decode(row.checks or "[]", type=list[CallCheck])
    judged = [one for one in checks if one.verdict != "harmless"]
    inspections = msgspec.json.decode(row.inspections or "[]", type=list[InspectionRecord])
    found = [one for one in inspections if one.decision != "passed"]
    if not (judged or found):
        return None
    names = {name: value for column, name in _NAMES_OF_REQUEST.items() if (value := getattr(row, column))}
    return {
        "request": row.id,
        **names,
        "verdict": row.verdict,
        "checks": [EventCheck(one.tool, one.verdict, one.kind, one.request) for one in judged],
        "inspections": [
            {
                "inspector": one.inspector,
                "part": one.part,
                "decision": one.decision,
                "kinds": one.kinds,
                "failure": one.failure,
            }
            for one in found
        ],
    }


_MAX_ID = 2**63 - 1


def read_events(
    connection: Connection, source: EventSource, after: int, count: int, until: int = _MAX_ID
) -> Sequence[EventRow]:
    row = SOURCES[source]
    sql = f"SELECT id, at, {row.columns} FROM {row.table} WHERE id > ? AND id <= ? ORDER BY id LIMIT {count}"
    return [EventRow(id_, at, row.decode(*values)) for id_, at, *values in connection.query(sql, (after, until))]


def find_place(connection: Connection, source: EventSource, since: float) -> int:
    """Return the id of the last event before `since`, in seconds since the epoch. 0: there is none."""
    table = SOURCES[source].table
    if since == math.inf:
        ((newest,),) = connection.query(f"SELECT max(id) FROM {table}")
    else:
        ((newest,),) = connection.query(f"SELECT max(id) FROM {table} WHERE at < ?", (to_microseconds(since),))
    return int(newest or 0)


def name_event(source: EventSource, event_id: int) -> str:
    return f"{SOURCES[source].kind}-{event_id}"


def count_events(connection: Connection, source: EventSource, after: int) -> int:
    ((count,),) = connection.query(f"SELECT count(*) FROM {SOURCES[source].table} WHERE id > ?", (after,))
    return int(count)


def encode_webhook(source: EventSource, rows: Sequence[EventRow]) -> bytes:
    """The body for the type `webhook`: a message of Standard Webhooks with several events."""
    events = [_complete(source, row) for row in rows]
    return msgspec.json.encode(
        {"type": f"{SOURCES[source].kind}.events", "timestamp": events[-1]["time"], "data": {"events": events}}
    )


def encode_otlp(source: EventSource, rows: Sequence[EventRow]) -> bytes:
    """The body for the type `otlp` (github.com/open-telemetry/opentelemetry-proto, `logs.proto` 1.10, read 2026-11)."""
    resource = _attributes({"service.name": "anthropic-proxy", "service.version": __version__})
    records = [_build_record(source, row) for row in rows]
    scopes = [{"scope": {"name": "anthropic_proxy.events"}, "logRecords": records}]
    return msgspec.json.encode({"resourceLogs": [{"resource": {"attributes": resource}, "scopeLogs": scopes}]})


def _build_record(source: EventSource, row: EventRow) -> Mapping[str, object]:
    event = _complete(source, row)
    decisions = {one["decision"] for one in event.get("inspections", ())}
    is_warning = event.get("verdict") in ("flagged", "unavailable") or not decisions.isdisjoint(("refused", "failed"))
    nanoseconds = str(row.at * 1_000)
    return {
        "timeUnixNano": nanoseconds,
        "observedTimeUnixNano": nanoseconds,
        "severityNumber": _WARNING if is_warning else _INFO,
        "severityText": "WARN" if is_warning else "INFO",
        "eventName": f"anthropic_proxy.{SOURCES[source].kind}",
        "body": {"stringValue": msgspec.json.encode(event).decode()},
        "attributes": _attributes(
            {f"anthropic_proxy.{name}": value for name, value in event.items() if isinstance(value, str) and value}
        ),
    }


def _complete(source: EventSource, row: EventRow) -> Event:
    kind = SOURCES[source].kind
    time = datetime.fromtimestamp(row.at / MICROSECONDS, UTC).isoformat(timespec="milliseconds")
    return {"id": name_event(source, row.id), "type": kind, "time": time.replace("+00:00", "Z"), **row.event}


def _attributes(texts: Mapping[str, str]) -> Sequence[Mapping[str, object]]:
    return [{"key": name, "value": {"stringValue": text}} for name, text in texts.items()]
