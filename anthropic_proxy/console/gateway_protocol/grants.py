"""Device codes and sign-ins in the database of the ledger, which all instances share.

A device receives a device code, which it keeps secret, and a user code, which the person compares. When the person has
signed in at the identity provider, the device exchanges its code for a sign-in. All functions wait for the database.
"""

import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.console.identity.limits import SITE_BITS, name_network
from anthropic_proxy.console.identity.people import (
    OidcError,
    OidcUser,
    UserRefused,
    accept_user,
    require_group,
    states_facts,
)
from anthropic_proxy.console.keys.access_tokens import TokenKeys
from anthropic_proxy.console.keys.administration import KeyAdministration, KeyCommand, KeyOutcome, name_key
from anthropic_proxy.console.keys.admission import admit_person
from anthropic_proxy.console.keys.descriptions import format_time, hash_key
from anthropic_proxy.console.keys.queries import name_columns, to_seconds
from anthropic_proxy.console.keys.sign_ins import (
    SignIn,
    encode_user,
    find_active_sign_in,
    list_access_ends,
    read_end_reason,
    store_refusal,
)
from anthropic_proxy.console.ledger.audit import Changes
from anthropic_proxy.console.ledger.connection import Connection
from anthropic_proxy.console.ledger.database import open_for_reading, open_for_writing
from anthropic_proxy.console.ledger.schema import DEVICE_CODES, SIGN_INS
from anthropic_proxy.console.units import DAY_SECONDS, HOUR_SECONDS, to_microseconds
from anthropic_proxy.errors import UnknownModel
from anthropic_proxy.gateway.http_calls import TIMEOUT_SECONDS
from anthropic_proxy.gateway.settings import Settings, SignInSettings

if TYPE_CHECKING:
    from anthropic_proxy.console.identity.oidc_client import ProviderReply

CODE_SECONDS = 600
"""Lifetime of a device code."""
MAX_WAITING_DEVICES = 5_000
"""Maximum number of codes with which devices wait. A user code is guessed with a probability below one to five
millions."""
MAX_WAITING_OF_NETWORK = 500
"""Maximum number of codes of one address: enough if 300 people behind it sign in within ten minutes, and most of them
begin again; and a tenth of all."""
_USER_ALPHABET = "BCDFGHJKLMNPQRSTVWXZ"
"""Letters of a user code. Without vowels, no word occurs."""
_USER_CODE_LETTERS = 8
_SESSION_SECONDS = 12 * HOUR_SECONDS
"""Lifetime of a sign-in for which the identity provider has given no refresh token, so that it cannot be asked."""
MAX_DEVICES = 100
"""Maximum number of devices of a person. Each instance keeps all in memory."""
DESCRIPTION_SECONDS = 3 * TIMEOUT_SECONDS
"""Maximum time in which the identity provider describes a person after it has renewed the tokens: keys, newer keys and
user info."""
CLAIM_SECONDS = 3 * TIMEOUT_SECONDS + DESCRIPTION_SECONDS + 10.0
"""Time for which one instance asks the identity provider about a person, and others wait for the result. It is longer
than all that it protects: a wait for the provider's metadata, these, the tokens, the description, and the storing. A
second instance would send a refresh token that the first one has used."""
_END_CLAIM = "claimed_until = CASE WHEN claimed_until = ? THEN 0 ELSE claimed_until END"
"""A claim of another instance stays."""
State = Literal["pending", "approved", "denied", "refused"]
WAITS_NO_LONGER = (
    "The device waits no longer: its code has expired, was used, or was denied. Start the sign-in again there."
)


class DeviceCode(Struct, frozen=True, kw_only=True):
    """A device that waits for a person. Times are seconds since the epoch."""

    code_hash: str
    user_code: str
    state: State
    reason: str
    """Why the person was refused. "": the person was not."""
    device: str
    address: str
    key_id: str
    person: str
    """JSON of the `OidcUser` who has signed in at the identity provider, and whose approval counts. "": nobody has."""
    provider_token: str
    created_at: float
    expires_at: float
    stated_at: float
    """Time at which the identity provider has described the person."""

    @property
    def user(self) -> OidcUser | None:
        """None: nobody has signed in at the identity provider."""
        return msgspec.json.decode(self.person, type=OidcUser) if self.person else None


class Claim(Struct, frozen=True, kw_only=True):
    """`sign_in` as stored at present. None: it has ended."""

    sign_in: SignIn | None
    is_own: bool
    """True if this instance may ask the identity provider. False: another one does, or has asked."""


class Grants:
    """`keys` encrypts refresh tokens of the identity provider. `clock` returns seconds since the epoch."""

    def __init__(self, settings: Settings, keys: TokenKeys, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._keys = keys
        self._clock = clock

    def create_code(self, device: str, address: str) -> tuple[str, str]:
        """Return a device code and its user code. If too many devices wait, another one gives way."""
        now = self._clock()
        code = self._keys.seal("device code", now + CODE_SECONDS)
        letters = "".join(secrets.choice(_USER_ALPHABET) for _ in range(_USER_CODE_LETTERS))
        user_code = format_user_code(letters)
        with self._open() as connection, connection.transaction():
            _make_room(connection, address, now)
            row = {
                "code_hash": hash_key(code.encode()),
                "user_code": user_code,
                "state": "pending",
                "device": device,
                "address": address,
                "created_at": to_microseconds(now),
                "expires_at": to_microseconds(now + CODE_SECONDS),
            }
            connection.insert_row("device_codes", row)
        return code, user_code

    def find_code(self, column: str, value: str) -> DeviceCode | None:
        """`column`: `user_code` or `code_hash`. None: no device waits with this code, or it has expired."""
        with self._open() as connection:
            return self._find_code(connection, column, value)

    def reject(self, code_hash: str, reason: str = "") -> None:
        """End the sign-in of a device that waits. `reason`: why the person is refused. "": the person has denied."""
        with self._open() as connection, connection.transaction():
            statement = (
                "UPDATE device_codes SET state = ?, reason = ?, provider_token = '' "
                "WHERE code_hash = ? AND state = 'pending'"
            )
            connection.execute(statement, ("refused" if reason else "denied", reason, code_hash))

    def identify(self, code_hash: str, user: OidcUser, provider_token: str) -> DeviceCode:
        """Store who has signed in at the identity provider for a device that waits. The device gets nothing before
        `approve`. Raises `OidcError` with the reason if the user may not sign in.
        """
        with self._open() as connection:
            code = self._find_code(connection, "code_hash", code_hash)
            if code is None or code.state != "pending":
                raise OidcError(WAITS_NO_LONGER)
            now = self._clock()
            named = self._admit(connection, user, now, dry_run=True).user or user
            person = encode_user(named)
            encrypted = self._encrypt(provider_token, user)
            with connection.transaction():
                statement = (
                    "UPDATE device_codes SET person = ?, provider_token = ?, stated_at = ? "
                    "WHERE code_hash = ? AND state = 'pending'"
                )
                if not connection.execute(statement, (person, encrypted, to_microseconds(now), code_hash)):
                    raise OidcError(WAITS_NO_LONGER)
        return structs.replace(code, person=person, provider_token=encrypted, stated_at=now)

    def approve(self, code: DeviceCode) -> KeyOutcome:
        """Let the device sign in as the user of `code`, and return the key of the person. Raises `OidcError` with the
        reason if that is refused, also if another user has signed in for the device since.
        """
        user = code.user
        assert user is not None
        with self._open() as connection:
            admitted = self._admit(connection, user, code.stated_at)
            with connection.transaction():
                statement = (
                    "UPDATE device_codes SET state = 'approved', key_id = ?, person = ? "
                    "WHERE code_hash = ? AND state = 'pending' AND person = ? AND expires_at > ?"
                )
                person = encode_user(admitted.user or user)
                now = to_microseconds(self._clock())
                values = (admitted.key.id, person, code.code_hash, code.person, now)
                if not connection.execute(statement, values):
                    raise OidcError(WAITS_NO_LONGER)
        return admitted

    def redeem(self, device_code: str) -> tuple[DeviceCode | None, SignIn | None, str]:
        """Return the device code, and after the approval a new sign-in with its refresh token. The code is deleted when
        the device waits no longer. None: it is unknown or has expired.
        """
        code_hash = hash_key(device_code.encode())
        with self._open() as connection:
            code = self._find_code(connection, "code_hash", code_hash)
            if code is None or code.state == "pending":
                return code, None, ""
            sign_in = None
            token = ""
            user = code.user if code.state == "approved" else None
            administration = self._administer(connection, user)
            with administration.changing():
                if not connection.execute("DELETE FROM device_codes WHERE code_hash = ?", (code_hash,)):
                    return None, None, ""
                if user is not None:
                    sign_in, token = self._add_sign_in(connection, code, user)
                    key = administration.require_key(code.key_id)
                    ended = _end_oldest(connection, key.id, self._clock())
                    shown: dict[str, tuple[object, object]] = {
                        "device": (None, f"{code.device} from {code.address}"),
                        "sign_in": (None, sign_in.id),
                        **({"sign_ins": (ended, [])} if ended else {}),
                    }
                    administration.record("sign in", name_key(key), shown)
        return code, sign_in, token

    def _add_sign_in(self, connection: Connection, code: DeviceCode, user: OidcUser) -> tuple[SignIn, str]:
        """Return the new sign-in and its refresh token."""
        now = self._clock()
        seconds = self._sign_in_settings.days * DAY_SECONDS if code.provider_token else _SESSION_SECONDS
        sign_in = SignIn(
            id=f"sign_{secrets.token_hex(12)}",
            key_id=code.key_id,
            user=user,
            device=code.device,
            address=code.address,
            created_at=now,
            checked_at=now,
            refreshed_at=now,
            ends_at=now + seconds,
            provider_token=code.provider_token,
        )
        token = self._keys.seal("refresh token", sign_in.ends_at)
        values = structs.asdict(sign_in) | {"person": encode_user(user), "refresh_hash": hash_key(token.encode())}
        row: dict[str, Any] = {name: values[name] for name in SIGN_INS.columns if name in values}
        times = ("created_at", "checked_at", "refreshed_at", "ends_at")
        row |= {name: to_microseconds(row[name]) for name in times}
        connection.insert_row("sign_ins", row)
        return sign_in, token

    def find_sign_in(self, refresh_token: str) -> SignIn | None:
        """None: no sign-in has this refresh token, or it has ended."""
        with closing(open_for_reading(self._settings)) as connection:
            refresh_hash = hash_key(refresh_token.encode())
            return find_active_sign_in(connection, "refresh_hash", refresh_hash, self._clock())

    def claim(self, sign_in: SignIn) -> Claim:
        """Decide that this instance asks the identity provider about the person, unless another one does, or has done
        so since `sign_in` was read: its client may have waited here for a provider that is slow.
        """
        now = self._clock()
        with self._open() as connection, connection.transaction():
            statement = "UPDATE sign_ins SET claimed_until = ? WHERE id = ? AND claimed_until < ? AND checked_at = ?"
            times = map(to_microseconds, (now, sign_in.checked_at))
            is_own = connection.execute(statement, (to_microseconds(now + CLAIM_SECONDS), sign_in.id, *times)) > 0
            return Claim(sign_in=find_active_sign_in(connection, "id", sign_in.id, now), is_own=is_own)

    def release(self, sign_in: SignIn) -> None:
        """End a claim without a result. A later claim of another instance stays."""
        with self._open() as connection, connection.transaction():
            statement = "UPDATE sign_ins SET claimed_until = 0 WHERE id = ? AND claimed_until = ?"
            connection.execute(statement, (sign_in.id, to_microseconds(sign_in.claimed_until)))

    def renew(self, sign_in: SignIn, reply: "ProviderReply | None") -> SignIn | None:
        """End a claim, and store what the identity provider said about the person. None: the sign-in has ended
        meanwhile. `reply` None: the provider was not asked. Raises `UserRefused` if the person may not sign in any more
        by this answer, and `OidcError` if this sign-in has no access: by earlier answers, or as that of another person.
        """
        now = self._clock()
        checked_at = sign_in.checked_at if reply is None else now
        claims = {} if reply is None else reply.claims
        stated_at = reply.asked_at if reply is not None and states_facts(self._settings, claims) else 0.0
        is_stated = False

        def complete(known: OidcUser) -> OidcUser:
            nonlocal is_stated
            is_stated = stated_at > 0
            return accept_user(self._settings, claims, known) if is_stated else known

        with self._open() as connection:
            try:
                admitted = self._admit(connection, sign_in.user, stated_at, complete)
            except UserRefused as error:
                if is_stated:
                    raise
                raise OidcError(error.cause, remedy=error.remedy, wish=error.wish) from None
            key = admitted.key
            user = admitted.user or sign_in.user
            if key.id != sign_in.key_id:
                raise OidcError("The sign-in is of a person who has been moved or replaced. Sign in again.")
            administration = self._administer(connection, user)
            with administration.changing():
                ends_at = self._find_access_end(connection, key.id)
                statement = (
                    "UPDATE sign_ins SET checked_at = ?, refreshed_at = ?, refused_at = NULL, denied_at = NULL, "
                    f"end_reason = '', {_END_CLAIM} WHERE id = ? AND ended_at IS NULL"
                )
                times = map(to_microseconds, (checked_at, now, sign_in.claimed_until))
                if not connection.execute(statement, (*times, sign_in.id)):
                    return None
                changes = self._compare_access(connection, key.id, ends_at)
                if sign_in.refused_at is not None:
                    changes = {"refused_at": (format_time(sign_in.refused_at), None), **changes}
                if changes:
                    administration.record("change sign-in", name_key(key), changes)
        renewed = {"checked_at": checked_at, "refreshed_at": now, "refused_at": None, "end_reason": ""}
        return structs.replace(sign_in, user=user, claimed_until=0.0, **renewed)

    def keep_token(self, sign_in: SignIn, provider_token: str) -> SignIn:
        """Store the token for the next question, unless another instance has stored one since `sign_in` was claimed."""
        encrypted = self._encrypt(provider_token, sign_in.user)
        with self._open() as connection, connection.transaction():
            statement = (
                "UPDATE sign_ins SET provider_token = ? WHERE id = ? AND provider_token = ? AND ended_at IS NULL"
            )
            connection.execute(statement, (encrypted, sign_in.id, sign_in.provider_token))
        return structs.replace(sign_in, provider_token=encrypted)

    def mark_refused(self, sign_in: SignIn, refusal: OidcError) -> bool:
        """End a claim, and store that the identity provider refuses a refresh. Return False if it has refused the one
        before too, or if the sign-in has ended meanwhile.
        """
        now = self._clock()
        shown = refusal.describe_to_people(self._settings.limit_contact)
        with self._open() as connection:
            administration = self._administer(connection, sign_in.user)
            with administration.changing():
                ends_at = self._find_access_end(connection, sign_in.key_id)
                statement = (
                    f"UPDATE sign_ins SET refused_at = coalesce(refused_at, ?), end_reason = ?, {_END_CLAIM} "
                    "WHERE id = ? AND ended_at IS NULL"
                )
                values = (to_microseconds(now), shown, to_microseconds(sign_in.claimed_until), sign_in.id)
                is_stored = connection.execute(statement, values) > 0
                if is_stored:
                    store_refusal(connection, "id", sign_in.id, to_microseconds(now))
                is_first = is_stored and sign_in.refused_at is None
                changes = self._compare_access(connection, sign_in.key_id, ends_at)
                if is_first or changes:
                    changes = {"sign_in": (None, sign_in.id), "reason": (None, refusal.message), **changes}
                    key = administration.require_key(sign_in.key_id)
                    administration.record("refuse sign-in", name_key(key), changes)
        return is_first

    def _find_access_end(self, connection: Connection, key_id: str) -> float:
        return list_access_ends(connection, self._sign_in_settings.token_seconds, [key_id])[key_id]

    def _compare_access(self, connection: Connection, key_id: str, before: float) -> Changes:
        """Return how an answer about one device has changed the end of the person's access. It has to be an entry of
        the audit log, because only then do instances read who is accepted.
        """
        after = self._find_access_end(connection, key_id)
        return {} if after == before else {"access_ends_at": (format_time(before), format_time(after))}

    def end(self, sign_in: str, user: OidcUser, refusal: OidcError | None = None) -> None:
        """`sign_in`: id of the sign-in, or of the person's key for all its sign-ins. `refusal`: why the person has no
        access any more; None: the person has signed out. Does nothing if the sign-in has ended.
        """
        fields: Mapping[str, Any] = {}
        if refusal is not None:
            shown = refusal.describe_to_people(self._settings.limit_contact)
            fields = {"reason": refusal.message, "shown_reason": shown}
        with self._open() as connection:
            try:
                self._administer(connection, user).execute(KeyCommand(action="sign-out", target=sign_in, fields=fields))
            except UnknownModel:
                return

    def find_end_reason(self, refresh_token: str) -> str:
        """Return why the sign-in with this refresh token was ended, as the person reads it. "": not known."""
        with closing(open_for_reading(self._settings)) as connection:
            return read_end_reason(connection, "refresh_hash", hash_key(refresh_token.encode()))

    def find_active(self, sign_in: str) -> SignIn | None:
        with closing(open_for_reading(self._settings)) as connection:
            return find_active_sign_in(connection, "id", sign_in, self._clock())

    def decrypt(self, sign_in: SignIn) -> str | None:
        return self._keys.decrypt(sign_in.provider_token, sign_in.user)

    def _encrypt(self, provider_token: str, user: OidcUser) -> str:
        return self._keys.encrypt(provider_token, user) if provider_token else ""

    @property
    def _sign_in_settings(self) -> SignInSettings:
        assert self._settings.sign_in is not None
        return self._settings.sign_in

    def _admit(
        self,
        connection: Connection,
        user: OidcUser,
        stated_at: float,
        complete: Callable[[OidcUser], OidcUser] | None = None,
        *,
        dry_run: bool = False,
    ) -> KeyOutcome:
        """Raises `UserRefused`."""
        administration = self._administer(connection, user)
        return admit_person(
            administration,
            self._settings,
            user,
            require_group,
            stated_at=stated_at,
            complete=complete,
            dry_run=dry_run,
        )

    def _administer(self, connection: Connection, user: OidcUser | None) -> KeyAdministration:
        actor = "sign-in" if user is None else f"sign-in ({user.unique_name})"
        return KeyAdministration(connection, actor, self._clock, settings=self._settings)

    @contextmanager
    def _open(self) -> Iterator[Connection]:
        with closing(open_for_writing(self._settings)) as connection:
            yield connection

    def _find_code(self, connection: Connection, column: str, value: str) -> DeviceCode | None:
        sql = f"SELECT {', '.join(DEVICE_CODES.columns)} FROM device_codes WHERE {column} = ? AND expires_at > ?"
        rows = name_columns(DEVICE_CODES, connection.query(sql, (value, to_microseconds(self._clock()))))
        if not rows:
            return None
        return msgspec.convert(to_seconds(rows[0], ("created_at", "expires_at", "stated_at")), DeviceCode)


def _end_oldest(connection: Connection, key_id: str, now: float) -> Sequence[str]:
    """End the sign-ins of a person above the maximum that were refreshed longest ago, and return their ids."""
    moment = to_microseconds(now)
    active = "key_id = ? AND ended_at IS NULL AND ends_at > ? ORDER BY refreshed_at DESC, created_at DESC"
    rows = connection.query(f"SELECT id FROM sign_ins WHERE {active}", (key_id, moment))
    oldest = [str(sign_in) for (sign_in,) in rows[MAX_DEVICES:]]
    for sign_in in oldest:
        connection.execute("UPDATE sign_ins SET ended_at = ?, provider_token = '' WHERE id = ?", (moment, sign_in))
    return oldest


def _make_room(connection: Connection, address: str, now: float) -> None:
    """Delete a code if its network has too many, or all together. It is then the oldest one of the site that has most.

    So a flood displaces its own codes, and not those of others. A code for which a person has signed in at the identity
    provider does not give way.
    """
    condition = "state = 'pending' AND person = '' AND expires_at > ?"
    values = (to_microseconds(now),)
    ((number,),) = connection.query(f"SELECT count(*) FROM device_codes WHERE {condition}", values)
    if number < MAX_WAITING_OF_NETWORK:
        return
    of_network: list[str] = []
    by_site: dict[str, list[str]] = defaultdict(list)
    network = name_network(address)
    find_network = cache(name_network)
    rows = connection.query(
        f"SELECT code_hash, address FROM device_codes WHERE {condition} ORDER BY created_at", values
    )
    for code_hash, owner in rows:
        by_site[find_network(owner, SITE_BITS)].append(code_hash)
        if find_network(owner) == network:
            of_network.append(code_hash)
    greediest = max(by_site.values(), key=len) if number >= MAX_WAITING_DEVICES else []
    for code_hash in (of_network if len(of_network) >= MAX_WAITING_OF_NETWORK else greediest)[:1]:
        connection.execute("DELETE FROM device_codes WHERE code_hash = ?", (code_hash,))


def format_user_code(letters: str) -> str:
    half = _USER_CODE_LETTERS // 2
    return f"{letters[:half]}-{letters[half:]}"


def normalize_user_code(text: str) -> str:
    """Return a user code as it is stored, for one in lower case or without the hyphen. "": the text is no user code."""
    letters = text.upper().replace("-", "").replace(" ", "")
    is_code = (
        text.isascii() and len(letters) == _USER_CODE_LETTERS and all(letter in _USER_ALPHABET for letter in letters)
    )
    return format_user_code(letters) if is_code else ""
