"""The tables `[sign_in.groups.NAME]`, applied to the persons that have signed in before.

A refresh sets team and rules of a person by the table of its group. After a change of the settings, or of a group by
SCIM, nobody waits for the next refresh: the rows of the persons are changed at once, apart from all other work. So
neither a start nor a revocation waits for them, however many they are.
"""

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from typing import Any

from msgspec import structs

from anthropic_proxy.console.identity.people import find_group
from anthropic_proxy.console.keys.administration import NAME_FIELDS, KeyAdministration
from anthropic_proxy.console.keys.queries import list_keys, list_keys_by_id
from anthropic_proxy.console.keys.scim_people import find_scim_facts
from anthropic_proxy.console.keys.sign_ins import list_people
from anthropic_proxy.console.keys.table_rules import list_person_fields
from anthropic_proxy.console.keys.virtual_keys import VirtualKey
from anthropic_proxy.console.ledger.connection import Connection, Reader
from anthropic_proxy.console.ledger.database import find_cause, is_value_failure, open_for_writing
from anthropic_proxy.console.units import to_microseconds
from anthropic_proxy.engine.own_thread import run_in_own_thread
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.settings import Settings

_ACTOR = "settings ([sign_in.groups])"
_PEOPLE_PER_TRANSACTION = 50
_RETRY_SECONDS = 1.0
_LOOK_SECONDS = 0.2
_WORKER = "group tables"
_WORKER_SECONDS = 10.0
"""Name of the row of `shared_values` that says which process applies tables to marked people, and the time after which
another one goes on."""
_PROCESS = secrets.token_hex(8)
_TAKEN = "SELECT 1 FROM shared_values WHERE name = ? AND value != ? AND expires_at > ? AND expires_at <= ?"
_ANSWER_SECONDS = 10.0
"""Time after which a change of a group is answered though not all of its people have their tables yet. Entra ID waits
30 seconds, and sends the change again."""


def mark_people(connection: Connection, key_ids: Sequence[str]) -> None:
    """Let an instance apply the tables to these people, after the transaction that has changed their groups."""
    statement = "INSERT INTO pending_tables (key_id) VALUES (?) ON CONFLICT (key_id) DO NOTHING"
    connection.execute_many(statement, [(key_id,) for key_id in key_ids])


def has_marked_people(connection: Reader) -> bool:
    return bool(connection.query("SELECT 1 FROM pending_tables LIMIT 1"))


def apply_group_tables(settings: Settings, is_stopped: Callable[[], bool] = lambda: False) -> None:
    """Give each person the team and the rules of its table, and the cost center. If there are tables, a person without
    one keeps its own, because the next settings may have the table again.

    What is stored about a person is read in the transaction that changes it, so that no later fact is overwritten.
    Between two transactions, others change keys for as long. A defect of one person is raised at the end.
    """
    if settings.sign_in is None:
        return
    failure: Exception | None = None
    with closing(open_for_writing(settings)) as connection:
        administration = KeyAdministration(connection, _ACTOR, settings=settings)
        differing = [key.id for key, _ in _list_differences(connection, settings, None)]
        for start in range(0, len(differing), _PEOPLE_PER_TRANSACTION):
            if is_stopped():
                return
            began_at = time.monotonic()
            part = differing[start : start + _PEOPLE_PER_TRANSACTION]
            apply = partial(_apply, connection, administration, settings)
            failure = _apply_together(administration, apply, part) or failure
            if start + _PEOPLE_PER_TRANSACTION < len(differing):
                time.sleep(time.monotonic() - began_at)
    if failure is not None:
        raise failure


def apply_marked_tables(
    settings: Settings, is_stopped: Callable[[], bool] = lambda: False, clock: Callable[[], float] = time.time
) -> None:
    """Do the same for the people that `mark_people` has marked, until no mark is left. A mark ends in the transaction
    that applies the table, so that nothing is lost when the process ends. One process does this at a time; others wait,
    and go on if it ends. A defect of one person keeps its mark, and is raised at the end.
    """
    if settings.sign_in is None:
        return
    after = ""
    failure: Exception | None = None
    with closing(open_for_writing(settings)) as connection:
        administration = KeyAdministration(connection, _ACTOR, settings=settings)

        def apply(key_ids: Sequence[str]) -> None:
            _apply(connection, administration, settings, key_ids)
            connection.execute_many("DELETE FROM pending_tables WHERE key_id = ?", [(one,) for one in key_ids])

        while has_marked_people(connection) and not is_stopped():
            began_at = time.monotonic()
            with administration.changing():
                part = _take_part(connection, after, to_microseconds(clock()))
            if part and (defect := _apply_together(administration, apply, part)) is not None:
                failure, after = defect, part[-1]
            if part is not None and len(part) < _PEOPLE_PER_TRANSACTION:
                break
            time.sleep(_LOOK_SECONDS if part is None else time.monotonic() - began_at)
    if failure is not None:
        raise failure


def _apply_together(
    administration: KeyAdministration, apply: Callable[[Sequence[str]], None], key_ids: Sequence[str]
) -> Exception | None:
    """Apply the tables of these people in one transaction. After a defect, each has one of its own. Return the defect
    of one person.
    """
    try:
        with administration.changing():
            apply(key_ids)
    except Exception as error:
        if not is_value_failure(error):
            raise
        if len(key_ids) == 1:
            return error
        defects = [_apply_together(administration, apply, [key_id]) for key_id in key_ids]
        return next(filter(None, defects), None)
    return None


def _take_part(connection: Connection, after: str, now: int) -> Sequence[str] | None:
    """Return ids of marked people behind the id `after`, and keep other processes from the marks meanwhile, within a
    transaction. None: another process works on them.
    """
    end = now + to_microseconds(_WORKER_SECONDS)
    if connection.query(_TAKEN, (_WORKER, _PROCESS, now, end)):  # a later end is that of a wrong clock
        return None
    statement = "SELECT key_id FROM pending_tables WHERE key_id > ? ORDER BY key_id LIMIT ?"
    part = [str(key_id) for (key_id,) in connection.query(statement, (after, _PEOPLE_PER_TRANSACTION))]
    connection.execute("DELETE FROM shared_values WHERE name = ?", (_WORKER,))
    if len(part) == _PEOPLE_PER_TRANSACTION:
        row = {"name": _WORKER, "value": _PROCESS, "expires_at": end}
        connection.insert_row("shared_values", row)
    return part


def _apply(
    connection: Connection, administration: KeyAdministration, settings: Settings, key_ids: Sequence[str]
) -> None:
    for key, fields in _list_differences(connection, settings, key_ids):
        with suppress(InvalidRequest):  # the key has expired or cannot be read, so it is refused anyway
            administration.set_table_fields(key, fields)


def _list_differences(
    connection: Reader, settings: Settings, key_ids: Sequence[str] | None
) -> Iterator[tuple[VirtualKey, Mapping[str, Any]]]:
    """Return the keys of people that have not what their tables give, with the fields of the tables. `key_ids`: only
    these. None: all.
    """
    people = list_people(connection, key_ids)
    scim = find_scim_facts(connection, settings, key_ids)
    assert settings.sign_in is not None
    for key in list_keys(connection) if key_ids is None else list_keys_by_id(connection, key_ids):
        user = scim.describe(key.id, people[key.id]) if key.id in people else None
        if user is None or (key.issuer, key.subject) != (user.issuer, user.subject) or key.revoked_at is not None:
            continue
        if settings.sign_in.groups and find_group(settings, user) is None:
            continue
        fields = list_person_fields(settings, user)
        if not all(_is_equal(key, name, value) for name, value in fields.items() if name not in key.exceptions):
            yield key, fields


def _is_equal(key: VirtualKey, name: str, value: object) -> bool:
    if name == "budgets":  # the stored ones have what belongs to the time at which they were set
        return tuple(structs.replace(budget, since=0.0, used_before=0) for budget in key.rules.budgets) == value
    return bool(getattr(key if name in NAME_FIELDS else key.rules, name) == value)


class GroupTables:
    """Applies the tables in a thread of its own, one after the other, until the database has taken all.

    `warn` logs why they are applied later.
    """

    def __init__(self, current_settings: Callable[[], Settings], warn: Callable[[str], None]) -> None:
        self._current_settings = current_settings
        self._warn = warn
        self._are_marked_waiting = False
        self._are_all_waiting = False
        """Tables are applied next to people with a mark, or to all."""
        self._is_failing = False
        self._task: asyncio.Task[None] | None = None
        self._stopped = threading.Event()

    def begin(self) -> None:
        """Apply the tables to all people."""
        self._are_all_waiting = True
        self._begin()

    def begin_marked(self) -> None:
        """Apply them to those that `mark_people` has marked."""
        self._are_marked_waiting = True
        self._begin()

    def _begin(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())

    async def wait(self) -> None:
        """Wait until all have their tables, or for some seconds."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=_ANSWER_SECONDS)

    async def stop(self) -> None:
        """The next start applies the rest, and any instance that of people with a mark."""
        self._stopped.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def _must_end(self) -> bool:
        """Return True also if other settings are applied to all people next."""
        return self._stopped.is_set() or self._are_all_waiting

    async def _work(self) -> None:
        while self._are_marked_waiting or self._are_all_waiting:
            is_all = self._are_all_waiting
            self._are_all_waiting = False
            self._are_marked_waiting = self._are_marked_waiting and is_all
            apply = apply_group_tables if is_all else apply_marked_tables
            try:
                await run_in_own_thread("group-tables", apply, self._current_settings(), self._must_end)
                self._is_failing = False
            except Exception as error:  # noqa: BLE001  # a defect of a person, or a database that is read-only
                is_defect = is_value_failure(error)
                if not self._is_failing:
                    effect = "cannot be applied" if is_defect else "are applied later"
                    self._warn(f"The tables [sign_in.groups] {effect}: {_describe(error)}.")
                self._is_failing = True
                if not is_defect:
                    self._are_all_waiting = self._are_all_waiting or is_all
                    self._are_marked_waiting = self._are_marked_waiting or not is_all
                    await asyncio.sleep(_RETRY_SECONDS)


def _describe(error: Exception) -> str:
    cause = find_cause(error)
    return (str(cause).strip() or type(cause).__name__).splitlines()[0].rstrip(".")
