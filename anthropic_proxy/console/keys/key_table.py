"""In-memory table of all virtual keys and teams, so that a client request needs no database query.

A virtual key is a key that the proxy issues to a client. A key can have several secrets, because a rotation may
leave the old one valid for a while: each has an entry. A background task queries the database for changes. If it
cannot be read, the keys of the last query stay in use.
"""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import TypeVar

from msgspec import Struct, structs

from anthropic_proxy.console.identity.offline_access import NO_REFRESH_TOKEN
from anthropic_proxy.console.identity.people import OidcUser
from anthropic_proxy.console.keys.acceptance import KeyEnd
from anthropic_proxy.console.keys.group_tables import GroupTables, has_marked_people
from anthropic_proxy.console.keys.limits import Scope, build_key_scope, build_team_scope, find_proxy_scopes
from anthropic_proxy.console.keys.sign_ins import SignIn, list_sign_ins, list_sign_ins_of, read_end_reason
from anthropic_proxy.console.keys.stored_keys import Reading, StoredKeys, replace_values
from anthropic_proxy.console.keys.unpriced import find_unpriced
from anthropic_proxy.console.keys.virtual_keys import KeyHash, KeyStatus, Team, VirtualKey
from anthropic_proxy.console.ledger.connection import Connection, DatabaseError
from anthropic_proxy.console.ledger.database import (
    LEDGER_FAILURES,
    classify_database_error,
    find_cause,
    find_condition,
    find_database,
    open_for_reading,
    open_for_writing,
)
from anthropic_proxy.engine.own_thread import close_in_own_thread, run_in_own_thread
from anthropic_proxy.errors import ProxyBusy
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Client, LedgerCondition

ResultT = TypeVar("ResultT")
REFRESH_SECONDS = 1.0
"""Pause in seconds between two queries for changes. A change takes effect after at most this time and the duration of
two queries."""
RETRY_SECONDS = 2.0
_IF_READ_BEFORE = "The keys of the last query stay in use."
_IF_NEVER_READ = "Until they are read, requests with a virtual key receive 529."
_UNTIL_REPAIRED = "Until it is repaired, requests with it receive 401."


_CONDITIONS: Mapping[LedgerCondition, str] = {
    "disk full": "has no space on its disk",
    "locked": "is locked by another program",
    "read-only": "is read-only",
    "corrupt": "is damaged",
    "newer schema": "has the tables of a newer version of the proxy",
    **dict.fromkeys(("ok", "unreachable", "failed"), "is not available"),
}


class KeysUnavailable(ProxyBusy):
    """Error: virtual keys cannot be checked or read, because their database is not available. The client may retry."""

    code = "keys-unavailable-database"

    def __init__(self, condition: LedgerCondition = "unreachable") -> None:
        """`condition`: that of the database."""
        super().__init__(
            f"The proxy cannot check keys, because its database {_CONDITIONS[condition]}. Try again in a moment.",
            retry_after=2,
        )


def with_database_errors(call: Callable[[], ResultT]) -> ResultT:
    """Return the result of a query. Raises `KeysUnavailable` if the database cannot be read."""
    try:
        return call()
    except LEDGER_FAILURES as error:
        raise KeysUnavailable(classify_database_error(error)) from None


class KeyEntry(Struct, frozen=True):
    """One text (secret) of a virtual key."""

    end: KeyEnd
    """Time from which the text is rejected, and the reason."""
    client: Client


class SignInEntry(Struct, frozen=True):
    """One device of a signed-in person."""

    ends_at: float
    """Time from which its tokens are rejected, in seconds since the epoch."""
    end: KeyEnd
    """End of the person, with the reason."""
    user: OidcUser
    client: Client


UNKNOWN = KeyEntry(KeyEnd(-math.inf, "unknown", VirtualKey(id="", label="")), Client(name=""))
"""Entry for each text that is no virtual key. It is always rejected."""


class KeyTable:
    """The keys and teams of the last query. `settings`: those of the start, with the database. `warn` logs the first of
    several failed queries, and each key or team that cannot be read.
    """

    def __init__(
        self,
        settings: Settings,
        warn: Callable[[str], None],
        current_settings: Callable[[], Settings] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._current_settings = current_settings or (lambda: settings)
        self._warn = warn
        self.proxy_scopes = find_proxy_scopes(settings)
        self._entries: Mapping[str, KeyEntry] = {}
        self._keys: Mapping[str, VirtualKey] = {}
        self._people: Mapping[str, str] = {}
        """Name of a person in lower case → id of its key."""
        self._stored = StoredKeys()
        self._teams: Mapping[str, Team] = {}
        self._sign_ins: Mapping[str, SignInEntry] = {}
        self._devices: Mapping[str, Sequence[str]] = {}
        """Id of the key of a person → ids of its sign-ins."""
        self._unasked: frozenset[str] = frozenset()
        """Ids of the keys of people with a sign-in about which the identity provider cannot be asked."""
        self._unpriced: Sequence[str] = ()
        """What is wrong with budgets of keys and teams."""
        self._warnings: Mapping[str, None] = {}
        """Those in force at the last refresh. Each is logged once."""
        self._examined: tuple[Settings | None, int] = None, -1
        """Settings and version of the budgets with which `_unpriced` was found."""
        self._budgets_version = 0
        """Number of readings that concerned budgets."""
        self._scopes_with_budgets: tuple[int, Sequence[Scope]] = -1, ()
        """Version of the budgets, and its scopes."""
        self.is_loaded = False
        self._access: object = None
        """Settings of the sign-in with which keys and sign-ins were read. None: not read."""
        self._tables = GroupTables(self._current_settings, warn)
        self._tabled: object = None
        """Settings of the sign-in whose tables are applied. None: there were none."""
        self._has_marks = False
        """True: there are people whose groups SCIM has changed, and whose tables are not applied yet."""
        self._is_created = False
        """True if the tables were created or migrated."""
        self._connection: Connection | None = None
        self._connection_lock = threading.RLock()
        """Held by the thread that uses the connection. A query may last longer than the task that waits for it."""
        self._task: asyncio.Task[None] | None = None
        self._is_failing = False
        self.condition: LedgerCondition = "ok"
        """That of the database at the last query."""
        self._reading = asyncio.Lock()
        """Held while the keys are read, so that a slow query does not replace the result of a later one."""
        self._reading_reason = asyncio.Lock()
        """Held while the reason of an ended sign-in is read, so that one thread does it."""

    def find_entry(self, key_hash: str) -> KeyEntry:
        """`UNKNOWN`: no key has this text."""
        return self._entries.get(key_hash, UNKNOWN)

    def find_key_end(self, key_id: str) -> KeyEnd | None:
        """None: the key is not in the table."""
        return self._stored.ends.get(key_id)

    def find_status(self, key_id: str) -> KeyStatus | None:
        """Return the present state of a key. None: the key is not in the table."""
        return self._stored.find_status(key_id, self._clock())

    def list_keys(self, start: str) -> Sequence[VirtualKey]:
        """Return the keys whose labels begin with `start`."""
        return [key for key in self._keys.values() if key.label.startswith(start)]

    def find_scopes(self, key_id: str) -> Sequence[Scope]:
        """Return the key, its person, its team and the proxy, whose rules apply to its requests. Raises
        `KeysUnavailable` if the key is not in the table.
        """
        key = self._keys.get(key_id)
        if key is None:
            raise KeysUnavailable(self.condition)
        scopes = [build_key_scope(key)]
        if (person := self._keys.get(key.person)) is not None:
            scopes.append(build_key_scope(person))
        if key.team and (team := self._teams.get(key.team)) is not None:
            scopes.append(build_team_scope(team))
        return [*scopes, *self.proxy_scopes]

    def find_sign_in(self, sign_in_id: str) -> SignInEntry | None:
        """None: it is unknown or has ended."""
        return self._sign_ins.get(sign_in_id)

    async def read_end_reason(self, sign_in: str) -> str | None:
        """Return why the person of a sign-in that has ended was refused. "": it was not. None: the database cannot be
        read.
        """

        def read() -> str:
            with closing(open_for_reading(self._settings)) as connection:
                return read_end_reason(connection, "id", sign_in)

        async with self._reading_reason:
            try:
                return await run_in_own_thread("sign-ins", partial(with_database_errors, read))
            except KeysUnavailable:
                return None

    def list_scopes_with_budgets(self) -> Sequence[Scope]:
        """Return the keys and teams with budgets, without revoked keys."""
        version, scopes = self._scopes_with_budgets
        if version != self._budgets_version:
            version = self._budgets_version
            keys = [build_key_scope(key) for key in self._keys.values() if key.revoked_at is None]
            found = (*keys, *map(build_team_scope, self._teams.values()), *self.proxy_scopes)
            scopes = [scope for scope in found if scope.rules.budgets]
            self._scopes_with_budgets = version, scopes
        return scopes

    async def start(self) -> None:
        await self.refresh()
        self._task = asyncio.create_task(self._poll())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await self._tables.stop()
        await close_in_own_thread("keys", self._close)

    async def refresh(self) -> bool:
        """Return False, and keep the present keys, if the database cannot be read."""
        async with self._reading:
            problem = await run_in_own_thread("keys", self._load)
            if problem and not self._is_failing:
                effect = _IF_READ_BEFORE if self.is_loaded else _IF_NEVER_READ
                self._warn(f"The virtual keys cannot be read: {problem} {effect}")
            self._is_failing = bool(problem)
            if not problem:
                await self._examine_prices()
                self._begin_tables()
            unasked = (NO_REFRESH_TOKEN,) if self._unasked else ()
            unread = (*self._stored.unread.values(), *self._stored.unread_teams.values())
            problems = [f"{problem} {_UNTIL_REPAIRED}" for problem in unread]
            known, self._warnings = self._warnings, dict.fromkeys((*unasked, *problems, *self._unpriced))
            for text in self._warnings:
                if text not in known:
                    self._warn(text)
        return not problem

    def _begin_tables(self) -> None:
        """Apply the tables of changed settings. Nobody waits for it: neither a revocation nor the start."""
        if self._has_marks and self._current_settings().sign_in is not None:
            self._tables.begin_marked()  # another instance may have ended before all were applied
        if self._access == self._tabled:
            return
        self._tabled = self._access
        if self._current_settings().sign_in is not None:
            self._tables.begin()

    async def _examine_prices(self) -> None:
        """Find budgets without prices, after a change of budgets or the settings."""
        settings, version = self._current_settings(), self._budgets_version
        if settings is self._examined[0] and version == self._examined[1]:
            return
        self._examined = settings, version
        keys, teams = self._keys.values(), self._teams.values()
        try:
            problems = await run_in_own_thread("prices", find_unpriced, settings, keys, teams)
        except Exception as error:  # noqa: BLE001  # a defect: the keys stay in use
            reason = str(error).strip() or type(error).__name__
            self._warn(f"The prices for the budgets of keys and teams cannot be examined: {reason.rstrip('.')}.")
            return
        self._unpriced = [problem.text for problem in problems]

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(RETRY_SECONDS if self._is_failing else REFRESH_SECONDS)
            await self.refresh()

    def _load(self) -> str:
        """Return the reason of a failure; "": success."""
        try:
            with self._connection_lock:
                is_kept = self._connection is not None
                try:
                    self._read(self._open())
                except DatabaseError:
                    self._close()
                    if not is_kept:
                        raise
                    self._read(self._open())  # the server of the database may have ended the kept connection
        except Exception as error:  # noqa: BLE001  # also of a defect: later queries must continue
            self.condition = find_condition(find_database(self._settings), error)
            cause = find_cause(error)
            reason = str(cause).strip() or type(cause).__name__
            return f"{reason.splitlines()[0].rstrip('.')}."
        self.condition = "ok"
        return ""

    def _open(self) -> Connection:
        if not self._is_created:
            open_for_writing(self._settings).close()
            self._is_created = True
        if self._connection is not None and self._connection.is_replaced:
            self._close()
        if self._connection is None:
            self._stored.forget()  # another connection may lead to a restored database
            self._connection = open_for_reading(self._settings)
        return self._connection

    def _read(self, connection: Connection) -> None:
        settings = self._current_settings()
        try:
            reading = self._stored.read(connection, settings)
            self._has_marks = has_marked_people(connection)
            if reading is not None:
                self._apply(connection, settings, reading)
        except BaseException:
            self._stored.forget()
            raise
        self._access = settings.oidc, settings.sign_in
        self.is_loaded = True

    def _apply(self, connection: Connection, settings: Settings, reading: Reading) -> None:
        """Each mapping is replaced: others iterate over it."""
        ids, before, keys, facts, scim = reading
        is_all = ids is None
        active: Sequence[SignIn] = []
        if settings.sign_in is not None:
            now = self._clock()
            active = list_sign_ins(connection, now) if ids is None else list_sign_ins_of(connection, now, sorted(ids))
        gone = [key.id for key in before]
        ends = {key.id: self._stored.ends[key.id] for key in keys}
        self._people = replace_values(
            self._people,
            [key.label.lower() for key in before if key.subject],
            {key.label.lower(): key.id for key in keys if key.subject},
            is_all=is_all,
        )
        teams = self._stored.teams
        has_other_budgets = teams != self._teams or any(key.rules.budgets for key in (*before, *keys))
        self._teams = teams
        readable = {key.id: key for key in keys if ends[key.id].ending != "unreadable"}
        self._keys = replace_values(self._keys, gone, readable, is_all=is_all)
        self._budgets_version += has_other_budgets  # behind both: the event loop may look meanwhile
        # the last one: `find_scopes` finds the key of each accepted entry
        self._entries = replace_values(
            self._entries,
            [text_hash.hash for key in before for text_hash in key.hashes],
            {
                text_hash.hash: KeyEntry(facts.find_end(key, text_hash), self.build_client(key, text_hash))
                for key in keys
                for text_hash in key.hashes
            },
            is_all=is_all,
        )
        sign_ins, devices, unasked = dict[str, SignInEntry](), dict[str, list[str]](), set[str]()
        for sign_in in active:
            if not sign_in.provider_token:
                unasked.add(sign_in.key_id)
            end = ends.get(sign_in.key_id)
            if end is not None and (end.key.issuer, end.key.subject) == (sign_in.user.issuer, sign_in.user.subject):
                user = scim.describe(end.key.id, sign_in.user)
                client = structs.replace(self.build_client(end.key), groups=user.groups, sign_in=sign_in.id)
                # a person without a group gets the reason of the present settings
                ends_at = sign_in.ends_at if end.ending == "no group" else min(sign_in.ends_at, end.at)
                sign_ins[sign_in.id] = SignInEntry(ends_at, end, user, client)
                devices.setdefault(end.key.id, []).append(sign_in.id)
        earlier = [device for key_id in gone for device in self._devices.get(key_id, ())]
        self._sign_ins = replace_values(self._sign_ins, earlier, sign_ins, is_all=is_all)
        self._devices = replace_values(self._devices, gone, devices, is_all=is_all)
        self._unasked = frozenset(unasked) if ids is None else (self._unasked - {*ids}) | unasked

    def build_client(self, key: VirtualKey, text: KeyHash | None = None) -> Client:
        has_foreign_texts = text is not None and key.owner_since is not None and text.created_at < key.owner_since
        person = key.person or (key.id if key.subject else "")
        if not has_foreign_texts:
            person = person or self._people.get(key.owner.lower(), "")
        return Client(
            name=key.label,
            role="member",
            key_id=key.id,
            owner=key.owner,
            person=person,
            team=key.team,
            cost_center=key.cost_center,
            is_restricted=self.is_restricted(key.id),
            has_foreign_texts=has_foreign_texts,
        )

    def is_restricted(self, key_id: str) -> bool:
        """Return True if rules or budgets of a key, its person or its team hold only if all called models are known."""
        return key_id not in self._keys or any(scope.rules.restrict_models for scope in self.find_scopes(key_id))

    def _close(self) -> None:
        with self._connection_lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
