"""Whether a virtual key is accepted now, and why not: the one answer for requests, lists and pages."""

import math
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

from msgspec import Struct, structs

from anthropic_proxy.console.identity.people import OidcError, OidcUser, require_group, resolve_role
from anthropic_proxy.console.keys.descriptions import format_time
from anthropic_proxy.console.keys.queries import find_key, list_keys_by_id, list_teams
from anthropic_proxy.console.keys.rights import is_of_person
from anthropic_proxy.console.keys.scim_people import SCIM, find_scim_facts
from anthropic_proxy.console.keys.sign_ins import list_access_ends, list_people
from anthropic_proxy.console.keys.virtual_keys import ACTIVE, KeyHash, KeyState, KeyStatus, VirtualKey
from anthropic_proxy.console.ledger.connection import Reader
from anthropic_proxy.console.units import DAY_SECONDS
from anthropic_proxy.errors import AuthenticationFailed
from anthropic_proxy.gateway.settings import Settings

Ending = Literal[
    "unknown",
    "revoked",
    "deactivated",
    "unreadable",
    "expired",
    "person expired",
    "replaced",
    "no access",
    "no group",
]
"""Reason for which a key or one of its secrets is not accepted. `deactivated`: revoked by SCIM. `replaced`: by a
rotation, which gave the key a new secret. `unreadable`: the row of the key, of its person or of its team in the
database is invalid. `no access`: the person was refused by the identity provider, or has not signed in for a long
time. `no group`: no table of the settings has it."""
_STATUSES: Mapping[Ending, KeyStatus] = {
    **dict.fromkeys(("unknown", "revoked", "deactivated"), "revoked"),
    "unreadable": "unreadable",
    **dict.fromkeys(("expired", "person expired", "replaced"), "expired"),
    **dict.fromkeys(("no access", "no group"), "inactive"),
}


class _Rejection(NamedTuple):
    """Text of the error that a request receives, with names of facts in braces."""

    cause: str
    remedy: str = ""
    """What an administrator does."""
    wish: str = ""
    """What a person asks an administrator for."""


_CREATE = "anthropic-proxy keys create LABEL"
_EXTEND = "The administrator of the proxy extends it:  anthropic-proxy keys change {argument} --expires 30d"
_REJECTED: Mapping[Ending, _Rejection] = {
    "unknown": _Rejection(
        "The key is not a key of this proxy{typed}.", f"Its administrator creates one:  {_CREATE}", "a key"
    ),
    "revoked": _Rejection(
        "The key {label!r} is revoked.",
        f"The administrator of the proxy creates another one:  {_CREATE}",
        "another key",
    ),
    "deactivated": _Rejection(
        "The key {label!r} is rejected, because the identity provider has deactivated its owner (SCIM).",
        "An administrator of the identity provider activates the owner again.",
        "access",
    ),
    "unreadable": _Rejection(
        "The key {label!r} is rejected, because its limits or those of its team cannot be read from the database.",
        "The log of the proxy has the reason. Its administrator repairs it, or creates another key:  " + _CREATE,
        "another key",
    ),
    "expired": _Rejection("The key {label!r} expired at {end}.", _EXTEND, "more time"),
    "person expired": _Rejection(
        "The key {label!r} is rejected, because the access of {person!r} expired at {end}.", _EXTEND, "more time"
    ),
    "replaced": _Rejection(
        "The key {label!r} was replaced at {end}. Use its new secret, or create another one:  "
        "anthropic-proxy keys rotate {argument}"
    ),
    "no access": _Rejection(
        "The key {label!r} is rejected, because the access of its owner has ended at {end}. The owner signs in again "
        "from Claude Code."
    ),
    "no group": _Rejection(
        "The key {label!r} is rejected, because none of the groups of its owner gives access any more.",
        "An administrator should add the owner to a group, or add a table [sign_in.groups.NAME].",
        "access",
    ),
}
_PERSON_REJECTED = _Rejection("The key {label!r} is {status}, so the person may not sign in.")
_SERVICE_REJECTED = _Rejection("The token is not accepted: its key {label!r} is {status}.")
_MAX_CHOSEN_KEYS = 2_000
_BEFORE_ALL = -math.inf
_ORDER: Mapping[Ending, int] = {"deactivated": -1, "unreadable": 1, "no group": 2}
"""Of several reasons from the beginning, the first one counts. Others: 0. The own keys of a deactivated person are
revoked too."""


class KeyEnd(Struct, frozen=True):
    at: float
    """Time from which the text or the key is rejected, in seconds since the epoch."""
    ending: Ending
    """Reason for the rejection from this time."""
    key: VirtualKey
    person: str = ""
    """Label of the key of the person, if its end is the reason. "": the end of the key itself."""

    @property
    def status(self) -> KeyStatus:
        """State of the key from this time."""
        return _STATUSES[self.ending]

    def find_status(self, now: float) -> KeyStatus:
        """Return the state of the key at a time in seconds since the epoch."""
        return "active" if now < self.at else self.status

    def build_error(self, typed: str = "", code: str = "virtual-key-rejected") -> AuthenticationFailed:
        """Return the error that a request receives. `typed`: words about a mistyped text."""
        key = self.key
        rejection = _REJECTED[self.ending]
        if is_of_person(key) and self.ending in ("revoked", "expired"):
            rejection = _PERSON_REJECTED if key.owner == key.label else _SERVICE_REJECTED
        facts = {
            "label": key.label,
            "person": self.person,
            "argument": shlex.quote(self.person or key.label),
            "status": self.status,
            "end": format_time(max(self.at, 0.0)),
            "typed": typed,
        }
        return AuthenticationFailed(
            rejection.cause.format(**facts),
            remedy=rejection.remedy.format(**facts),
            wish=rejection.wish,
            code=code,
            should_retry=False,
        )


class KeyFacts(Struct, frozen=True, kw_only=True):
    """What decides about a key beside its own row."""

    people: Mapping[str, VirtualKey]
    """Id → key of a person, whose end is that of the keys that refer to it."""
    unreadable_teams: Collection[str]
    access_ends: Mapping[str, float]
    """Id of a person's key → time until which the person is taken to have access."""
    access_seconds: float
    """Time of access of a person without a sign-in, from the creation or rotation of its key."""
    refused: Collection[str] = ()
    """Ids of the keys of those people that may not use Claude Code by the settings."""
    described: Mapping[str, OidcUser] = {}
    """Id of a person's key → the person, as the identity provider described it last."""
    provisioned: Collection[str] = ()
    """Ids of the keys of people that SCIM has."""

    def find_end(self, key: VirtualKey, text: KeyHash | None = None) -> KeyEnd:
        """Return the end that comes first: the expiry or revocation of the text, the key or its person, or the end of
        the person's access. `text` None: the newest one.
        """
        newest = next(iter(key.hashes), None)
        text = text or newest
        person = self.people.get(key.person)
        # only somebody with access creates or rotates an own key
        since = key.created_at if text is None else text.created_at
        access_end = self.access_ends.get(key.person or key.id, since + self.access_seconds if key.person else math.inf)
        ends = [KeyEnd(math.inf, "expired", key), KeyEnd(access_end, "no access", key)]
        for holder in (key,) if person is None else (key, person):
            whose = "" if holder is key else holder.label
            if holder.problem or holder.team in self.unreadable_teams:
                ends.append(KeyEnd(_BEFORE_ALL, "unreadable", key))
            if holder.revoked_at is not None:
                ends.append(KeyEnd(_BEFORE_ALL, "deactivated" if holder.ended_by else "revoked", key))
            if holder.expires_at is not None:
                ends.append(KeyEnd(holder.expires_at, "person expired" if whose else "expired", key, whose))
            if holder.id in self.refused:
                ends.append(KeyEnd(_BEFORE_ALL, "no group", key))
        if text is not None and text.expires_at is not None:
            ends.append(KeyEnd(text.expires_at, "replaced", key))
        return min(ends, key=lambda end: (end.at, _ORDER.get(end.ending, 0)))

    def find_state(self, key: VirtualKey, now: float) -> KeyState:
        end = self.find_end(key)
        if now < end.at:
            return ACTIVE
        error = end.build_error()
        return KeyState(end.status, error.message, remedy=error.remedy, wish=error.wish)


def read_key_facts(connection: Reader, settings: Settings, keys: Sequence[VirtualKey]) -> KeyFacts:
    """Return what decides about `keys`. Only the rows of these keys and of their people are read, unless they are so
    many that all rows are less work.
    """
    people = {key.id: key for key in keys if is_of_person(key)}
    missing = sorted({key.person for key in keys} - people.keys() - {""})
    people |= {person.id: person for person in list_keys_by_id(connection, missing)}
    all_ids = sorted({*people, *(key.id for key in keys)})
    ids = all_ids if len(all_ids) <= _MAX_CHOSEN_KEYS else None
    sign_in = settings.sign_in
    groups = find_scim_facts(connection, settings, ids)
    described = {key_id: groups.describe(key_id, user) for key_id, user in list_people(connection, ids).items()}
    access_ends = {} if sign_in is None else list_access_ends(connection, sign_in.token_seconds, ids)
    refused = set()
    for person_id in access_ends.keys() & described.keys():  # others have only used the dashboard
        try:
            require_group(settings, described[person_id])
        except OidcError:
            refused.add(person_id)
    return KeyFacts(
        people=people,
        unreadable_teams={team.name for team in list_teams(connection) if team.problem},
        access_ends=access_ends,
        access_seconds=math.inf if sign_in is None else sign_in.days * DAY_SECONDS,
        refused=refused,
        described=described,
        provisioned=groups.cost_centers.keys(),
    )


def list_key_states(
    connection: Reader, settings: Settings, keys: Sequence[VirtualKey], now: float
) -> Sequence[KeyState]:
    """Return the states of `keys`, in the same order. `now`: seconds since the epoch."""
    # the team administrators who created some of the keys for their team
    names = {key.creator for key in keys if not key.person} - {""}
    found = {name: find_key(connection, name) for name in names}
    people = {name: person for name, person in found.items() if person is not None and is_of_person(person)}
    facts = read_key_facts(connection, settings, [*keys, *people.values()])
    creators = dict[str, str]()
    for name, person in people.items():
        status: str = facts.find_state(person, now).status
        user = facts.described.get(person.id)
        if status == "active" and user is not None and resolve_role(settings, user) not in ("team admin", "admin"):
            status = "no team admin"
        creators[name] = status
    return [
        structs.replace(
            facts.find_state(key, now),
            creator_status="" if key.person else creators.get(key.creator, ""),
            source=SCIM if key.id in facts.provisioned else "",
        )
        for key in keys
    ]
