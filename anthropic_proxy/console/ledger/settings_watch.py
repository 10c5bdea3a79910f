"""Changes of the settings: each one gets an entry in the audit log, and servers with the same files follow each other.

Theory of operation. The row of a server in the table `instances` has digests of its settings, and of the files from
which it has read them. If a server reads in the row of another one that a file has another content, and its own file
has this content too, the file is shared: then it reads its settings again. A file of its own keeps its content, and the
page Settings and the log name the server as one that has not followed. No content of a file is in the database.

Many settings change by a restart. So the database has the latest state of the settings too, in `shared_values`, and the
first server that starts with another one writes the entry. What is compared is what people have written, so that other
defaults of a new version are no change. While a server runs with the same value, its state is known already: an old
instance that starts again during a rolling change writes nothing.
"""

import asyncio
import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress

import msgspec
from msgspec import Struct

from anthropic_proxy.console.ledger.audit import Changes
from anthropic_proxy.console.ledger.connection import Connection
from anthropic_proxy.console.ledger.database import LEDGER_FAILURES, open_for_reading
from anthropic_proxy.console.ledger.instances import (
    Instance,
    KnownInstances,
    list_names,
    name_instances,
    read_instances,
    read_time,
)
from anthropic_proxy.console.ledger.schema import READ_LASTING_VALUE, STORE_LASTING_VALUE
from anthropic_proxy.engine.own_thread import run_in_own_thread
from anthropic_proxy.gateway.settings import Settings, digest_files
from anthropic_proxy.gateway.settings.changes import (
    SettingStates,
    digest_value,
    digest_values,
    list_changed_states,
    list_changes,
    show_values,
)
from anthropic_proxy.plugins import Gateway, StoreUnavailable, ValueStore

FOLLOW_SECONDS = 10.0
"""Time in seconds after a change in which servers with the same files follow."""
_AUTHOR_SECONDS = 60.0
_POLL_SECONDS = 0.5


class SettingsEntry(Struct, frozen=True):
    """A change of the settings for the audit log."""

    actor: str
    """`dashboard (NAME)`, or `file (.env)`."""
    changes: Changes


async def note_author(store: ValueStore, env_file: str | None, actor: str) -> None:
    """Remember who has written the settings files, for the servers that read them next."""
    files = await asyncio.to_thread(read_file_digests, env_file)
    with suppress(StoreUnavailable):
        await store.put(_name_author(files), actor, _AUTHOR_SECONDS)


def read_file_digests(env_file: str | None) -> Mapping[str, str]:
    """Return name → digest of the settings files as they are now."""
    return _name_files(digest_files(env_file))


class Reach(Struct, frozen=True):
    """The names of the running servers, by their value of a setting."""

    writer: str
    """Server whose setting was changed."""
    same: Sequence[str]
    """Servers with the value of this one, which is among them."""
    others: Sequence[str]


def find_reach(known: KnownInstances, writer: str, setting: str) -> Reach | None:
    """Return where a setting has the value that it has on the server with the id `writer`. None: this server is alone,
    or is not known.
    """
    running = known.list_running()
    digests = {instance.id: instance.settings.get(setting) for instance in running}
    if len(running) < 2 or writer not in digests:
        return None
    names = name_instances(running)
    return Reach(
        writer=names[writer],
        same=[names[id_] for id_, digest in digests.items() if digest == digests[writer]],
        others=[names[id_] for id_, digest in digests.items() if digest != digests[writer]],
    )


def read_reach(settings: Settings, writer: str, setting: str) -> Reach | None:
    known = _read(settings)
    return None if known is None else find_reach(known, writer, setting)


async def wait_for_reach(settings: Settings, setting: str) -> bool:
    """Wait until all servers have the value of `settings`, at most for the time in which they follow. Return whether
    there are several.
    """
    expected = (await run_in_own_thread("settings", digest_values, settings)).get(setting)
    end = time.monotonic() + FOLLOW_SECONDS
    while True:
        known = await run_in_own_thread("settings", _read, settings)
        running = () if known is None else known.list_running()
        is_reached = all(instance.settings.get(setting) == expected for instance in running)
        if len(running) < 2 or is_reached or time.monotonic() > end:
            return len(running) > 1
        await asyncio.sleep(_POLL_SECONDS)


def _read(settings: Settings) -> KnownInstances | None:
    """None: there is no database, or it cannot be read."""
    if not settings.has_ledger():
        return None
    try:
        with closing(open_for_reading(settings)) as connection:
            now, _ = read_time(connection)
            return read_instances(connection, now)
    except LEDGER_FAILURES:
        return None


_decode_states = msgspec.json.Decoder(dict[str, tuple[str, str | None]]).decode
_STORE_STATES = f"{STORE_LASTING_VALUE} UPDATE SET value = excluded.value"


def record_states(
    connection: Connection, place: str | None, states: SettingStates, others: Sequence[Instance]
) -> Changes:
    """Store the state of the settings in `place`, and return what has changed since the one before. Call it within
    `changing`.

    `others`: running servers. A change that one of them has too is not returned, because it is known, and nothing is
    stored then.
    """
    name = f"settings/states/{digest_value('place', place or '', is_secret=False)}"
    rows = connection.query(READ_LASTING_VALUE, (name,))
    changes: Changes = {}
    if rows:
        before = _read_states(str(rows[0][0]))
        if before == states:
            return {}
        changes = list_changed_states(before, states)
        digests = {name: states[name][0] if name in states else None for name in changes}
        if any(digests == {name: other.settings.get(name) for name in changes} for other in others):
            return {}
    connection.execute(_STORE_STATES, (name, msgspec.json.encode(states).decode()))
    return changes


def _read_states(text: str) -> SettingStates:
    try:
        return _decode_states(text)
    except msgspec.DecodeError:  # somebody else has written it
        return {}


class SettingsWatch:
    """What the first worker of a server notes. `started`: the settings of the start."""

    def __init__(self, gateway: Gateway[Settings], started: Settings) -> None:
        self._gateway = gateway
        self._examined = started
        self.values: Mapping[str, str] | None = None
        """Name of a setting → digest of its value. None: not calculated yet."""
        self.states: SettingStates = {}
        """The same with the values as people read them."""
        self.files: Mapping[str, str] = {}
        """Name of a settings file → digest of the content that was read."""
        self._followed: frozenset[tuple[str, str]] = frozenset()
        """Names and digests of files for which the settings were read again. They may be invalid."""
        self._changed: tuple[float, Sequence[str]] | None = None
        """Monotonic time of the last change, and names of the settings, until its reach is reported."""

    async def examine(self) -> SettingsEntry | None:
        """Return what has changed since the last call."""
        before = self._examined
        after = self._gateway.settings
        if before is after and self.values is not None:
            return None
        self.values = await run_in_own_thread("settings", digest_values, after)
        shown = show_values(after)
        self.states = {name: (digest, shown[name]) for name, digest in self.values.items()}
        self.files = await run_in_own_thread("settings", _name_files, after.files)
        self._examined = after
        changes = list_changes(before, after)
        if not changes:
            return None
        if self._followed.isdisjoint(self.files.items()):
            self._changed = time.monotonic(), [*changes]
        self._followed = frozenset()
        return SettingsEntry(await self._find_author(before, after), changes)

    async def follow(self, known: KnownInstances, own_id: str) -> None:
        """Read the settings again if another server has read a file that this one has too."""
        missing = {
            (name, digest)
            for instance in known.list_running()
            for name, digest in instance.files.items()
            if instance.id != own_id and digest != self.files.get(name)
        } - self._followed
        if not missing or self._examined.env_file is None:
            return
        present = await run_in_own_thread("settings", read_file_digests, self._examined.env_file)
        shared = missing & present.items()
        if shared:
            self._followed = frozenset(shared)
            await self._gateway.reload_settings()

    def report_reach(self, known: KnownInstances, own_id: str) -> str:
        """Return a warning about the servers that have not followed a change. "": there is nothing to report now."""
        if self._changed is None or time.monotonic() < self._changed[0] + FOLLOW_SECONDS:
            return ""
        _, names = self._changed
        self._changed = None
        reached = [find_reach(known, own_id, setting) for setting in names]
        others = dict.fromkeys(name for reach in reached if reach is not None for name in reach.others)
        if not others:
            return ""
        shown = list_names(names)
        return f"The change of {shown} has not reached {list_names([*others])}: change the settings there too."

    async def _find_author(self, before: Settings, after: Settings) -> str:
        with suppress(StoreUnavailable):
            if author := await self._gateway.store.get(_name_author(self.files)):
                return author
        paths = dict.fromkeys((*after.files, *before.files))
        changed = [os.path.basename(path) for path in paths if before.files.get(path) != after.files.get(path)]
        return f"file ({', '.join(changed)})" if changed else "reload"


def _name_files(files: Mapping[str, str]) -> Mapping[str, str]:
    """`files`: path → digest. All are in one folder, so their names differ. A file may have a short secret, so the
    digest of the database is one of a secret.
    """
    return {
        (name := os.path.basename(path)): digest_value(name, digest, is_secret=True) for path, digest in files.items()
    }


def _name_author(files: Mapping[str, str]) -> str:
    return f"settings/author/{hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()}"
