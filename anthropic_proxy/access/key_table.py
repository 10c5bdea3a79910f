"""In-memory table of all virtual keys and teams, so that a client request needs no database query.

A virtual key is a key that the proxy issues to a client. Its key text is the secret that the client sends. `KeyTable`
finds a key by the hash of this text. A key can have several texts, because a rotation (replacement of the text) may
leave the old text valid for a while. Each text has its own `KeyEntry`. `UNKNOWN` is the entry for a text that belongs
to no key. A background task queries the database for changes.
"""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from anthropic_proxy.access.virtual_keys import KeyHash, Team, VirtualKey
from anthropic_proxy.plugins import Client
from anthropic_proxy.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Engine
from datetime import UTC, datetime

from anthropic_proxy.access.descriptions import format_time
from anthropic_proxy.access.limits import KeyLimit, Scope
from anthropic_proxy.access.rules import Budget, find_period_end
from anthropic_proxy.errors import AuthenticationFailed, LimitReached, PermissionDenied, ProxyBusy
from anthropic_proxy.plugins import AdmissionRequest, AdmissionTarget, Reservation

REFRESH_SECONDS = 1.0
"""Pause in seconds between two queries for changes. A change takes effect after at most this time and the duration of
two queries."""
RETRY_SECONDS = 2.0
"""Pause in seconds after a failed query, before the next one."""
_FAILURE_EFFECTS = {
    True: "The keys of the last query stay in use.",
    False: "Until they are read, requests with a virtual key receive 529.",
}
"""True if keys were read since the start → effect of a failed query, as the end of a warning."""
Ending = Literal["unknown", "revoked", "expired", "replaced"]
"""Reason for which the text of a key is not accepted. `replaced`: by a rotation, which gave the key a new text."""


class KeyEntry(Struct, frozen=True):
    """Entry of the key table for one text (secret) of a virtual key, with the time from which this text is rejected."""

    ends_at: float
    """Time from which the text is rejected, in seconds since the epoch."""
    ending: Ending
    """Reason for the rejection from this time."""
    key: VirtualKey
    client: Client
    """Client that a request with this text of the key comes from."""


UNKNOWN = KeyEntry(-math.inf, "unknown", VirtualKey(id="", label=""), Client(name=""))
"""Entry for each text that is no virtual key. It is always rejected."""


class KeyTable:
    """Table of all virtual keys and teams in memory.

    `find_entry` finds a key by the hash of its text, `find_key` by its id, and `find_team` finds a team by its name.
    If the database cannot be read, the keys of the last query stay in use. Before the first query has succeeded, keys
    cannot be checked. `warn` logs the first of several failed queries.
    """

    def __init__(self, settings: Settings, warn: Callable[[str], None]) -> None:
        self._settings = settings
        self._warn = warn
        self._entries: Mapping[str, KeyEntry] = {}
        self._keys: Mapping[str, VirtualKey] = {}
        self._teams: Mapping[str, Team] = {}
        self._version = -1
        self._engine: Engine | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_failing = False
        self._reading = asyncio.Lock()
        """Held while the keys are read, so that a slow query does not replace the result of a later one."""

    @property
    def is_loaded(self) -> bool:
        """True if the database was read at least once since the start, so that keys can be checked."""
        return self._version >= 0

    def find_entry(self, key_hash: str) -> KeyEntry:
        """Return the entry for `key_hash`, the hash of the text that a client sent. `UNKNOWN`: no key has this text."""
        return self._entries.get(key_hash, UNKNOWN)

    def find_key_by_id(self, key_id: str) -> VirtualKey | None:
        """Return the virtual key with the id `key_id`. None: there is no such key."""
        return self._keys.get(key_id)

    def find_team(self, name: str) -> Team | None:
        """Return the team `name`. None: the team has no rules."""
        return self._teams.get(name)

    async def start(self) -> None:
        """Read all keys from the database, and start the background task that queries for changes."""
        await self.refresh()
        self._task = asyncio.create_task(self._poll())

    async def stop(self) -> None:
        """End the background task that queries for changes."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._engine is not None:
            self._engine.dispose()

    async def refresh(self) -> bool:
        """Read all keys and teams again if they have changed in the database.

        Return False, and keep the present keys, if the database cannot be read.
        """
        async with self._reading:
            problem = await asyncio.to_thread(self._load)
            if problem and not self._is_failing:
                effect = _FAILURE_EFFECTS[self.is_loaded]
                self._warn(f"The virtual keys cannot be read: {problem} {effect}")
            self._is_failing = bool(problem)
        return not problem

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(RETRY_SECONDS if self._is_failing else REFRESH_SECONDS)
            await self.refresh()

    def _load(self) -> str:
        """Read all keys from the database if the audit log has a new row.

        Return the reason of a failure; "": success.
        """
        from anthropic_proxy.access.queries import (  # noqa: PLC0415  # only with virtual keys
            find_newest_audit_id,
            list_keys,
            list_teams,
        )
        from anthropic_proxy.errors import ConfigurationError  # noqa: PLC0415
        from anthropic_proxy.ledger.database import (  # noqa: PLC0415
            DATABASE_ERRORS,
            open_for_reading,
            open_for_writing,
        )

        try:
            if self._engine is None:
                open_for_writing(self._settings).dispose()  # creates or migrates the database
                self._engine = open_for_reading(self._settings)
            with self._engine.connect() as connection:
                version = find_newest_audit_id(connection)
                if version != self._version:
                    self._replace({key.id: key for key in list_keys(connection)}, list_teams(connection))
                    self._version = version
        except (*DATABASE_ERRORS, ConfigurationError) as error:
            reason = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
            return f"{reason.splitlines()[0].rstrip('.')}."
        return ""

    def _replace(self, keys: Mapping[str, VirtualKey], teams: Sequence[Team]) -> None:
        entries = {each.hash: _build_entry(key, each) for key in keys.values() for each in key.hashes}
        self._keys, self._teams = keys, {team.name: team for team in teams}
        self._entries = entries  # the last one: `find_key` finds each key of an entry


def _build_entry(key: VirtualKey, key_hash: KeyHash) -> KeyEntry:
    """Return the entry for one text of `key`, which ends when the text expires, or the key expires or is revoked.

    `key_hash`: hash and expiry of the text. The earliest end counts.
    """
    ends: list[tuple[float, Ending]] = [(math.inf, "expired")]
    if key.revoked_at is not None:
        ends.append((-math.inf, "revoked"))
    if key.expires_at is not None:
        ends.append((key.expires_at, "expired"))
    if key_hash.expires_at is not None:
        ends.append((key_hash.expires_at, "replaced"))
    ends_at, ending = min(ends)
    return KeyEntry(ends_at, ending, key, Client(name=key.label, role="member", key_id=key.id, team=key.team or ""))


RESERVED_WAIT_SECONDS = 1.0
"""Value of `Reservation.retry_after_seconds` for a budget that has no room only because running requests have reserved
the remainder."""

_REJECTED: Mapping[Ending, str] = {
    "unknown": "The key is not a key of this proxy{typed}. Its administrator creates one:  "
    "anthropic-proxy keys create LABEL",
    "revoked": "The key {label!r} is revoked{typed}. The administrator of the proxy creates another one:  "
    "anthropic-proxy keys create LABEL",
    "expired": "The key {label!r} expired at {end}{typed}. The administrator of the proxy extends it:  "
    "anthropic-proxy keys change {label!r} --expires 30d",
    "replaced": "The key {label!r} was replaced at {end}{typed}. Use its new text, or create another one:  "
    "anthropic-proxy keys rotate {label!r}",
}
"""Reason for which a virtual key is rejected → text of the message for the client."""


class KeysUnavailable(ProxyBusy):
    """Error: virtual keys cannot be checked or read, because their database is not available. The client may retry."""

    def __init__(self) -> None:
        super().__init__(
            "The proxy cannot check keys, because its database is not available. Try again in a moment.",
            retry_after=2,
        )


def rejected_key_error(entry: KeyEntry, has_valid_checksum: bool) -> AuthenticationFailed:
    """Return the error (401) for a virtual key that the proxy does not accept.

    `has_valid_checksum` is False if the key text is mistyped or incomplete.
    """
    typed = ("" if has_valid_checksum else ", or it was not copied completely") * (entry.ending == "unknown")
    end = format_time(max(entry.ends_at, 0.0))
    message = _REJECTED[entry.ending].format(label=entry.key.label, end=end, typed=typed)
    return AuthenticationFailed(message, should_retry=False)


def limit_reached_error(refused: KeyLimit, reservation: Reservation, now: float) -> LimitReached:
    """Return the error (429) for a request that would exceed a limit of its virtual key or team.

    `now` is in seconds since the epoch.
    """
    wait = reservation.retry_after_seconds
    scope, maximum = refused.scope, refused.limit.maximum
    if refused.budget is not None:
        return _budget_error(refused, refused.budget, wait, now)
    if refused.rule == "concurrency":
        message = (
            f"{scope.describe()} has {_count(maximum, 'request')} in progress, which is its limit. Try again when one "
            f"ends. Another limit:  {scope.format_change_command('--concurrency N')}"
        )
        return LimitReached(message, retry_after=wait)
    unit, option = _UNITS[refused.rule]
    message = (
        f"{scope.describe()} has reached its limit of {_count(maximum, unit)} per minute. Try again in "
        f"{math.ceil(wait)} s. Another limit:  {scope.format_change_command(f'{option} N')}"
    )
    return LimitReached(message, retry_after=wait)


_UNITS = {
    "requests_per_minute": ("request", "--rpm"),
    "token_counts_per_minute": ("token count", "--rpm"),
    "tokens_per_minute": ("token", "--tpm"),
}
"""Field of `Rules` with the limit → (unit of its amount, command option that sets the limit)."""


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _budget_error(refused: KeyLimit, budget: Budget, wait: float, now: float) -> LimitReached:
    scope = refused.scope
    end = find_period_end(budget.period, datetime.fromtimestamp(now, UTC))
    change = f"Another budget:  {scope.format_change_command(f'--budget AMOUNT/{budget.period}')}"
    if wait <= RESERVED_WAIT_SECONDS:
        message = (
            f"{scope.describe()} has a budget of {budget.describe()}, and running requests reserve the remainder. Try "
            f"again when one ends. {change}"
        )
        return LimitReached(message, retry_after=wait)
    renewal = "It is not renewed." if end is None else f"It is renewed at {format_time(end.timestamp())}."
    message = f"{scope.describe()} has used up its budget of {budget.describe()}. {renewal} {change}"
    retry_after = None if end is None else end.timestamp() - now
    return LimitReached(message, retry_after=retry_after, should_retry=False)


def require_allowed_models(scopes: Sequence[Scope], request: AdmissionRequest) -> None:
    """Raise `PermissionDenied` if a virtual key or its team may not use a model or provider of `request`."""
    for scope in scopes:
        rules = scope.rules
        used = [f"{target.prefix}/{target.model}" for target in request.targets]
        if not rules.allows_model([request.normalized_model or request.model]):  # an alias may name another provider
            denied = next((name for name in used if not rules.allows_model([name])), None)
            if denied is not None or not used:
                raise PermissionDenied(
                    f"{scope.describe()} does not allow the model {request.model!r} ({denied}). Allowed: "
                    f"{', '.join(rules.models)}. Another list:  {scope.format_change_command('--models LIST')}"
                )
        for target in request.targets:
            if not rules.allows_provider(target.prefix):
                raise PermissionDenied(
                    f"{scope.describe()} does not allow the provider {target.prefix!r}, to which {request.model!r} is "
                    f"sent. Allowed: {', '.join(rules.providers)}. Another list:  "
                    f"{scope.format_change_command('--providers LIST')}"
                )


def require_allowed_route(scopes: Sequence[Scope], request: AdmissionRequest) -> None:
    """Raise `PermissionDenied` if a virtual key or its team may not use the route of `request`.

    A list of allowed routes excludes requests without a route.
    """
    for scope in scopes:
        if scope.rules.allows_route(request.route):
            continue
        allowed = ", ".join(scope.rules.routes)
        if request.route:
            raise PermissionDenied(
                f"{scope.describe()} does not allow the route {request.route!r}, which matches this request. Allowed: "
                f"{allowed}. Another list:  {scope.format_change_command('--routes LIST')}"
            )
        raise PermissionDenied(
            f"{scope.describe()} allows only requests of certain routes, and no route matches this one. Allowed: "
            f"{allowed}. Another list:  {scope.format_change_command('--routes LIST')}"
        )


def unknown_price_error(scope: Scope, target: AdmissionTarget) -> PermissionDenied:
    """Return the error (403) for a request to a model without a known price.

    The virtual key or team `scope` has a budget in dollars, which cannot be checked without a price.
    """
    name = f"{target.prefix}/{target.model}"
    return PermissionDenied(
        f"{scope.describe()} has a budget in dollars, and the price of {name} is unknown. Add a table "
        f'[prices."{name}"] to anthropic-proxy.toml, or use a budget in tokens.'
    )
