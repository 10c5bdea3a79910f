"""Conditions of a `RequestSelection`, and queries for single requests, sorted lists and sessions.

The index of a facet leaves out the most common value of its column, because most rows have it. A condition on such a
column must name this value (`value_condition`), or the database reads all rows of the time range. A filter by the
common value itself reads the hourly sums first (`narrow_to_matching_hours`).
"""

import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct, structs
from sqlalchemy import ColumnElement, Connection, FromClause, Table, and_, bindparam, case, func, not_, or_, select

from anthropic_proxy.console.ledger.contents import StoredContent
from anthropic_proxy.console.ledger.periods import RequestSelection
from anthropic_proxy.console.ledger.receipt_queue import EXCHANGE_PATH
from anthropic_proxy.console.ledger.records import (
    COMMON_VALUES,
    SESSION_KEYS,
    SUM_NAMES,
    StoredRequest,
    UsageSums,
    decode_attempt_times,
    decode_block_times,
    decode_checks,
    decode_inspections,
    decode_model_usage,
    decode_tool_times,
    list_decoder,
)
from anthropic_proxy.console.ledger.tables import (
    SUM_TABLES,
    contents,
    hourly,
    hourly_sums,
    request_sums,
    requests,
    session_hours,
    session_titles,
)
from anthropic_proxy.console.units import MICROSECONDS, MICROSECONDS_PER_HOUR
from anthropic_proxy.engine.messages.fidelity import FidelityNote, FidelityReport
from anthropic_proxy.engine.messages.purpose import CONVERSATION_KINDS
from anthropic_proxy.plugins import CallCheck, Client, Receipt

_STREAMED_ROWS = 1_000
SEARCHED_COLUMNS = (
    "id",
    "error",
    "error_code",
    "model",
    "requested_model",
    "project",
    "session",
    "agent",
    "failed_attempts",
)


def hourly_conditions(chosen: RequestSelection, sums: Table = hourly) -> list[ColumnElement[bool]]:
    """The fields `text` and `is_changed` of the selection are ignored, because they apply only to single requests."""
    # a table of hourly sums has no columns for a text search
    conditions = [sums.c.hour >= chosen.start // MICROSECONDS_PER_HOUR, sums.c.hour < chosen.end_hour]
    conditions += [sums.c[name] == value for name, value in chosen.values.items()]
    if chosen.labels is not None:
        conditions.append(sums.c.key_label.in_(chosen.labels))
    if chosen.has_model and "requested_model" in sums.c:
        conditions.append(sums.c.requested_model != "")
    return conditions


def request_conditions(chosen: RequestSelection) -> list[ColumnElement[bool]]:
    column = requests.c
    conditions: list[ColumnElement[bool]] = [column.started_at >= chosen.start, column.started_at < chosen.end]
    conditions += [value_condition(name, value) for name, value in chosen.values.items()]
    if chosen.labels is not None:
        conditions.append(column.key_label.in_(chosen.labels))
    if chosen.has_model:
        conditions.append(column.requested_model != "")
    return conditions + search_conditions(chosen, column)


def value_condition(column_name: str, value: Any) -> ColumnElement[bool]:
    """Return the condition that a column has a value. `value` is a text, or another column."""
    # a database uses the index without the common value only if the condition names this value
    matches: ColumnElement[bool] = requests.c[column_name] == value
    if column_name not in COMMON_VALUES or (isinstance(value, str) and value == COMMON_VALUES[column_name]):
        return matches
    return and_(matches, uncommon_value_condition(column_name))


def uncommon_value_condition(column_name: str, columns: Any = requests.c) -> ColumnElement[bool]:
    """The index of the column does not have these rows, so the database uses the index only with this condition."""
    is_other: ColumnElement[bool] = columns[column_name] != bindparam(
        None, COMMON_VALUES[column_name], literal_execute=True
    )
    return is_other


def narrow_to_matching_hours(connection: Connection, chosen: RequestSelection) -> RequestSelection:
    """The index of a column does not contain its most common value, so the query would read all rows of the range.

    The range is therefore reduced to the hours from the first to the last with this value, by the hourly sums.
    """
    for sums, keys in SUM_TABLES.items():
        values = {name: value for name, value in chosen.values.items() if name in keys}
        if any(COMMON_VALUES.get(name) == value and name != "outcome_class" for name, value in values.items()):
            known = structs.replace(chosen, values=values)
            hours = select(func.min(sums.c.hour), func.max(sums.c.hour)).where(*hourly_conditions(known, sums))
            first, last = connection.execute(hours).one()
            if first is None:
                start = end = chosen.end
            else:
                start = first * MICROSECONDS_PER_HOUR
                end = (last + 1) * MICROSECONDS_PER_HOUR
            chosen = structs.replace(chosen, start=max(chosen.start, start), end=min(chosen.end, end))
    return chosen


def search_conditions(chosen: RequestSelection, columns: Any) -> list[ColumnElement[bool]]:
    """Return the SQL conditions for the text search of `chosen` and for its filter `is_changed`. This filter selects
    requests that the translation to the provider's format changed. `columns` has the columns of `requests`, or of a
    subquery with the same columns.
    """
    conditions: list[ColumnElement[bool]] = []
    if chosen.is_changed:
        conditions.append(columns.note_count > 0)
    if chosen.text:
        conditions.append(or_(*(columns[name].icontains(chosen.text, autoescape=True) for name in SEARCHED_COLUMNS)))
    return conditions


_decode_texts = list_decoder(str)
_decode_notes = list_decoder(FidelityNote)
_LISTS: Mapping[str, Callable[[str], object]] = {
    "failed_attempts": _decode_texts,
    "notes": _decode_notes,
    "adaptations": _decode_texts,
    "attempt_times": decode_attempt_times,
    "reply_blocks": decode_block_times,
    "checks": decode_checks,
    "tool_times": decode_tool_times,
    "model_usage": decode_model_usage,
}
"""Column with a list as JSON text → its decoder."""
LATEST_START = round(datetime.max.replace(tzinfo=UTC).timestamp()) * MICROSECONDS - MICROSECONDS
"""Latest start of a request, in microseconds since the epoch, that a calendar has."""


class _Values(StoredRequest, array_like=True, gc=False):
    """The values of a row as a list, by which their types are checked."""


def build_stored_request(connection: Connection, values: Sequence[Any]) -> StoredRequest:
    """Return the request of a row of `requests`. SQLite stores any value in any column, so one that cannot be read has
    its default. Such a row is reported to the execution option `warn` of the connection, if there is one.
    """
    row = StoredRequest(*values)
    try:
        msgspec.convert(tuple(values), _Values)
        for name, decode in _LISTS.items():
            if text := getattr(row, name):
                decode(text)
        if 0 <= row.started_at <= LATEST_START:
            return row
    except msgspec.DecodeError:
        pass
    damaged = [field for field in structs.fields(StoredRequest) if not _is_readable(field, getattr(row, field.name))]
    for field in damaged:
        setattr(row, field.name, str(row.id) if field.name == "id" else field.default)
    if (warn := connection.get_execution_options().get("warn")) is not None:
        names = ", ".join(field.name for field in damaged)
        warn(f"The stored request {row.id} cannot be read completely: {names}.")
    return row


def _is_readable(field: structs.FieldInfo, value: Any) -> bool:
    try:
        msgspec.convert(value, field.type)
        if value and field.name in _LISTS:
            _LISTS[field.name](value)
    except msgspec.DecodeError:
        return False
    return field.name != "started_at" or 0 <= value <= LATEST_START


def list_stored_requests(
    connection: Connection,
    chosen: RequestSelection,
    limit: int,
    before: tuple[int, str] | None = None,
    after: tuple[int, str] | None = None,
) -> list[StoredRequest]:
    """Return at most `limit` requests, the latest first. With `after`, they are the oldest of the later requests."""
    column = requests.c
    position_conditions = []
    chosen = narrow_to_matching_hours(connection, chosen)
    if before is not None:  # one limit of time, so that the database begins at this place of the index
        chosen = structs.replace(chosen, end=min(chosen.end, before[0] + 1))
        position_conditions.append(not_(and_(column.started_at == before[0], column.id >= before[1])))
    if after is not None:
        chosen = structs.replace(chosen, start=max(chosen.start, after[0]))
        position_conditions.append(not_(and_(column.started_at == after[0], column.id <= after[1])))
    order = [key.desc() if after is None else key.asc() for key in (column.started_at, column.id)]
    query = select(requests).where(*request_conditions(chosen), *position_conditions).order_by(*order).limit(limit)
    rows = [build_stored_request(connection, row) for row in connection.execute(query)]
    return rows if after is None else rows[::-1]


def stream_stored_requests(connection: Connection) -> Iterator[StoredRequest]:
    """Yield all stored requests, the oldest first, for an export. They are not all in memory at once."""
    query = select(requests).order_by(requests.c.started_at, requests.c.id)
    for row in connection.execution_options(yield_per=_STREAMED_ROWS).execute(query):
        yield build_stored_request(connection, row)


def find_stored_request(connection: Connection, request_id: str) -> StoredRequest | None:
    row = connection.execute(select(requests).where(requests.c.id == request_id)).first()
    return None if row is None else build_stored_request(connection, row)


def list_request_ids(check: CallCheck) -> list[str]:
    """Return the ids of the requests to the checking models."""
    return [request_id for request_id in (check.request, check.confirmation) if request_id]


def find_check_requests(connection: Connection, checks: Iterable[CallCheck]) -> dict[str, StoredRequest]:
    """Return id → stored request to a checking model."""
    ids = [request_id for check in checks for request_id in list_request_ids(check)]
    if not ids:
        return {}
    rows = connection.execute(select(requests).where(requests.c.id.in_(ids)))
    return {row.id: build_stored_request(connection, row) for row in rows}


def find_latest_adaptations(connection: Connection, provider: str, model: str) -> Sequence[str]:
    """Return what was known about a model in its latest request, by the name of its provider."""
    column = requests.c
    query = select(column.adaptations).where(column.provider == provider, column.model == model)
    return _decode_texts(connection.execute(query.order_by(column.started_at.desc()).limit(1)).scalar() or "")


def read_contents(connection: Connection, request_id: str) -> list[StoredContent]:
    query = select(contents.c.kind, contents.c.size, contents.c.data).where(contents.c.request_id == request_id)
    # the descending order is sent, request, reply
    rows = connection.execute(query.order_by(contents.c.kind.desc()))
    return [StoredContent(kind, size, zlib.decompress(data)) for kind, size, data in rows]


def read_several_contents(
    connection: Connection, request_ids: Sequence[str], kinds: Sequence[str]
) -> dict[str, dict[str, StoredContent]]:
    """Return request id → kind → text. Requests without stored texts are missing."""
    column = contents.c
    chosen = (column.request_id.in_(request_ids), column.kind.in_(kinds))
    query = select(column.request_id, column.kind, column.size, column.data).where(*chosen)
    texts: dict[str, dict[str, StoredContent]] = {}
    for request_id, kind, size, data in connection.execute(query):
        texts.setdefault(request_id, {})[kind] = StoredContent(kind, size, zlib.decompress(data))
    return texts


MAX_SORTED_REQUESTS = 30_000
_column = requests.c
_HIGHEST = float(1 << 62)
_LOWEST = -1.0


class SortOrder(Struct, frozen=True):
    key: ColumnElement[Any]
    """Expression of the number by which requests are sorted. NULL is the last value in both directions."""
    is_descending: bool = True


class SortedPosition(NamedTuple):
    """Position of a request in a sorted list."""

    value: float
    """Value of the sorted column."""
    started_at: int
    id: str


class SortedRequest(Struct, frozen=True):
    request: StoredRequest
    position: SortedPosition


def list_sorted_requests(
    connection: Connection,
    chosen: RequestSelection,
    order: SortOrder,
    limit: int,
    *,
    before: SortedPosition | None = None,
    after: SortedPosition | None = None,
) -> list[SortedRequest]:
    """Return at most `limit` requests. The page begins after the position `before`, or ends before `after`; without
    both, it is the first.
    """
    unknown = _LOWEST if order.is_descending else _HIGHEST
    value = func.coalesce(order.key * 1.0, unknown).label("value")
    latest = (
        select(_column.id, _column.started_at, value)
        .where(*request_conditions(narrow_to_matching_hours(connection, chosen)))
        .order_by(_column.started_at.desc())
        .limit(MAX_SORTED_REQUESTS)
        .subquery()
    )
    keys = (latest.c.value, latest.c.started_at, latest.c.id)
    descending = [is_highest_first == (after is None) for is_highest_first in (order.is_descending, True, True)]
    conditions = []
    if (position := before or after) is not None:
        # the results follow the position `before` in the list, and precede the position `after`
        compared = zip(keys, position, descending, strict=True)
        by_value, by_time, by_id = (key < place if falls else key > place for key, place, falls in compared)
        has_value = latest.c.value == position.value
        has_time = latest.c.started_at == position.started_at
        conditions.append(or_(by_value, and_(has_value, by_time), and_(has_value, has_time, by_id)))
    ordered = [key.desc() if falls else key.asc() for key, falls in zip(keys, descending, strict=True)]
    nearest = select(*keys).where(*conditions).order_by(*ordered).limit(limit)
    positions = [
        SortedPosition(float(row.value), int(row.started_at), str(row.id)) for row in connection.execute(nearest)
    ]
    query = select(requests).where(_column.id.in_([place.id for place in positions]))
    rows = {row.id: build_stored_request(connection, row) for row in connection.execute(query)}
    listed = [SortedRequest(rows[place.id], place) for place in positions if place.id in rows]
    return listed if after is None else listed[::-1]


MAX_SESSION_REQUESTS = 1_000
MAX_SAMPLED_REQUESTS = 50_000


class SessionRow(Struct, frozen=True):
    session: str
    project: str
    sums: UsageSums
    """Sums of its requests that named a model, as `usage` has them."""
    started_at: int
    """Start of the first request of the session in microseconds since the epoch."""
    last_at: int
    """Start of the last request of the session in microseconds since the epoch."""
    max_context: int


class SessionList(Struct, frozen=True):
    rows: Sequence[SessionRow]
    count: int
    """Number of all sessions of the selection with a request to a model, also those beyond the limit of the list."""
    is_complete: bool
    """True if all requests of the selection were read. False: only the latest `MAX_SAMPLED_REQUESTS` were read."""


def list_sessions(connection: Connection, chosen: RequestSelection, limit: int) -> SessionList:
    """The latest first."""
    chosen = structs.replace(chosen, has_model=False)
    if chosen.has_sums(SESSION_KEYS) and not chosen.is_short_range:
        first = chosen.start // MICROSECONDS_PER_HOUR
        last = chosen.end_hour
        whole = structs.replace(chosen, start=first * MICROSECONDS_PER_HOUR, end=last * MICROSECONDS_PER_HOUR)
        conditions = [*hourly_conditions(chosen, session_hours), session_hours.c.session != ""]
        return _select_hours(connection, conditions, request_conditions(whole), limit, has_model=True)
    column = requests.c
    named = and_(*request_conditions(structs.replace(chosen, has_model=True)), column.session != "")
    sample = select(*column).where(named).order_by(column.started_at.desc()).limit(MAX_SAMPLED_REQUESTS)
    sampled = sample.subquery().c
    context = sampled.input_tokens + sampled.cache_read_tokens + sampled.cache_write_tokens
    values = _SessionValues(
        dict(zip(SUM_NAMES, request_sums(sampled), strict=True)),
        started_at=func.min(sampled.started_at),
        last_at=func.max(sampled.started_at),
        max_context=func.max(case((sampled.kind.in_(CONVERSATION_KINDS), context), else_=0)),
    )
    return _select(connection, sampled, values, [], limit)


def sum_session(connection: Connection, session: str) -> SessionRow | None:
    return next(iter(sum_sessions(connection, [session])), None)


def sum_sessions(connection: Connection, sessions: Collection[str]) -> Sequence[SessionRow]:
    """Those without a request that named a model are included."""
    conditions = session_hours.c.session.in_(sessions)
    single_conditions = requests.c.session.in_(sessions)
    return _select_hours(connection, [conditions], [single_conditions], len(sessions), has_model=False).rows


def list_session_requests(connection: Connection, session: str) -> list[StoredRequest]:
    """Return the latest requests of the session with the id `session`, in order of time. At most `MAX_SESSION_REQUESTS`
    are returned.
    """
    chosen = RequestSelection(values={"session": session})
    return list_stored_requests(connection, chosen, MAX_SESSION_REQUESTS)[::-1]


def find_prompt_starts(connection: Connection, prompts: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Return prompt → session and start of its first request."""
    column = requests.c
    has_prompt = and_(column.prompt_id.in_(prompts), uncommon_value_condition("prompt_id"))
    query = select(column.prompt_id, func.min(column.session), func.min(column.started_at)).where(has_prompt)
    return {
        prompt: (session, started) for prompt, session, started in connection.execute(query.group_by(column.prompt_id))
    }


def find_session_titles(
    connection: Connection, sessions: Collection[str], labels: Collection[str] | None = None
) -> dict[str, str]:
    """Return session id → its latest title. Sessions without one are missing. `labels`: only titles that clients with
    these keys got. None: all that the connection shows.
    """
    column = session_titles.c
    conditions = [column.session.in_(sessions), *([] if labels is None else [column.key_label.in_(labels)])]
    query = select(column.session, column.title).where(*conditions).order_by(column.started_at)
    return {row.session: row.title for row in connection.execute(query)}


class LatestModel(Struct, frozen=True):
    name: str
    """Id of the model with the prefix of the provider."""
    key_label: str


def find_latest_models(connection: Connection, rows: Sequence[SessionRow]) -> dict[str, LatestModel]:
    """Session id → model and key of the latest request of its conversation. A session without one is missing."""
    column = requests.c
    latest = dict[str, LatestModel]()
    query = select(column.prefix, column.provider, column.model, column.key_label)
    for session in (row.session for row in rows):
        of_session = value_condition("session", session), column.model != "", column.kind.in_(CONVERSATION_KINDS)
        found = connection.execute(query.where(*of_session).order_by(column.started_at.desc()).limit(1)).first()
        if found is not None:
            latest[session] = LatestModel(f"{found.prefix or found.provider}/{found.model}", found.key_label)
    return latest


def _select_hours(
    connection: Connection,
    conditions: Sequence[ColumnElement[bool]],
    single_conditions: Sequence[ColumnElement[bool]],
    limit: int,
    *,
    has_model: bool,
) -> SessionList:
    """`single_conditions`: the `conditions` for single requests. `has_model`: leave out sessions whose requests named
    no model.
    """
    # the hourly sums have no requested models, but an index finds the few requests that named none
    column = session_hours.c
    names = ("session", *SUM_NAMES)
    sums = (requests.c.session, *request_sums(requests.c))
    labeled = [value.label(name) for value, name in zip(sums, names, strict=True)]
    unnamed = (
        select(*labeled)
        .where(*single_conditions, requests.c.requested_model == "")
        .group_by(requests.c.session)
        .subquery()
    )
    every = zip(SUM_NAMES, hourly_sums(session_hours), strict=True)
    values = _SessionValues(
        {name: total - func.coalesce(func.max(unnamed.c[name]), 0) for name, total in every},
        started_at=func.min(column.started_at),
        last_at=func.max(column.last_at),
        max_context=func.max(column.max_context),
    )
    source = session_hours.outerjoin(unnamed, unnamed.c.session == column.session)
    return _select(connection, column, values, conditions, limit, source=source, has_model=has_model)


class _SessionValues(Struct, frozen=True):
    """Expressions of the values of a `SessionRow`."""

    sums: Mapping[str, ColumnElement[Any]]
    """Field of `UsageSums` → its expression."""
    started_at: ColumnElement[Any]
    last_at: ColumnElement[Any]
    max_context: ColumnElement[Any]


def _select(
    connection: Connection,
    column: Any,
    values: _SessionValues,
    conditions: Sequence[ColumnElement[bool]],
    limit: int,
    *,
    source: FromClause | None = None,
    has_model: bool = False,
) -> SessionList:
    count = values.sums["requests"]
    query = select(
        column.session,
        func.min(column.project).label("first_project"),
        func.max(column.project).label("last_project"),
        func.count().over().label("all_sessions"),
        func.sum(count).over().label("all_requests"),
        values.started_at.label("started_at"),
        values.last_at.label("last_at"),
        values.max_context.label("max_context"),
        *(value.label(name) for name, value in values.sums.items()),
    )
    query = query.where(*conditions).group_by(column.session)
    if source is not None:
        query = query.select_from(source)
    if has_model:
        query = query.having(count > 0)
    session_rows = connection.execute(query.order_by(values.last_at.desc()).limit(limit)).mappings().all()
    moved = [row["session"] for row in session_rows if row["first_project"] != row["last_project"]]
    latest: dict[str, str] = {}
    if moved:
        by_project = select(column.session, column.project).where(*conditions, column.session.in_(moved))
        grouped = by_project.group_by(column.session, column.project).order_by(values.last_at, column.project)
        latest = {row.session: row.project for row in connection.execute(grouped)}  # the last row of a session counts
    rows = [
        SessionRow(
            row["session"],
            latest.get(row["session"], row["first_project"]),
            UsageSums(**{name: int(row[name]) for name in values.sums}),
            started_at=row["started_at"],
            last_at=row["last_at"],
            max_context=row["max_context"],
        )
        for row in session_rows
    ]
    is_complete = (
        column is session_hours.c or not session_rows or session_rows[0]["all_requests"] < MAX_SAMPLED_REQUESTS
    )
    return SessionList(rows, session_rows[0]["all_sessions"] if session_rows else 0, is_complete)


_DEFAULTS = {field.name: field.default for field in structs.fields(Receipt)}
_COPIED = tuple(
    field.name
    for field in structs.fields(StoredRequest)
    if isinstance(field.default, str | int) and type(field.default) is type(_DEFAULTS.get(field.name))
)
"""Texts, numbers and flags that a receipt has too. Other fields have another form there."""


def list_failed_attempts(row: StoredRequest) -> list[str]:
    """Return the failed calls to providers in the stored request `row`, as provider and HTTP status: `groq 429`."""
    return _decode_texts(row.failed_attempts)


def list_fallbacks(row: StoredRequest) -> list[bool]:
    """Return for each of `list_failed_attempts` whether another model was called after it."""
    failed = list_failed_attempts(row)
    times = decode_attempt_times(row.attempt_times)
    models = [(attempt.provider, attempt.model) for attempt in times]
    if len(times) <= len(failed):  # a target without credentials was not called
        models = [(attempt.partition(" ")[0], "") for attempt in failed] + [(row.prefix or row.provider, "")]
    return [models[number] != models[number + 1] for number in range(len(failed))]


def list_notes(row: StoredRequest) -> list[FidelityNote]:
    return _decode_notes(row.notes)


def to_receipt(row: StoredRequest) -> Receipt:
    """Fields that the ledger does not store have their default values."""
    fidelity = FidelityReport()
    fidelity.add_notes(list_notes(row))
    copied = {name: getattr(row, name) for name in _COPIED}
    copied["method"] = row.method or ("POST" if row.path == EXCHANGE_PATH else "–")
    return Receipt(
        **copied,
        request_id=row.id,
        client=Client(name=row.key_label, owner=row.owner, team=row.team, cost_center=row.cost_center),
        started_at=row.started_at / MICROSECONDS,
        first_token_seconds=None if row.first_token is None else row.first_token / MICROSECONDS,
        duration_seconds=row.duration / MICROSECONDS,
        failed_attempts=list_failed_attempts(row),
        adaptations=_decode_texts(row.adaptations),
        checks=decode_checks(row.checks),
        inspections=decode_inspections(row.inspections),
        tool_times=[(tool.name, tool.duration / MICROSECONDS) for tool in decode_tool_times(row.tool_times)],
        fidelity=fidelity,
    )
