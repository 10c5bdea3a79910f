"""Sessions of the browsers that are signed in to the dashboard, and the limit of failed sign-ins.

After a sign-in, the browser receives a cookie with a random text. The session of this cookie is kept in a store, which
all workers share.
"""

import asyncio
import hmac
import ipaddress
import secrets
from collections.abc import Callable

import msgspec
from msgspec import Struct

from anthropic_proxy.console.dashboard.forms import digest
from anthropic_proxy.console.dashboard.permissions import OidcUser, Role, Session, resolve_role
from anthropic_proxy.engine.json_decoding import decode_json
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Limit, Reservation, Store

COOKIE = "anthropic_proxy_session"
SESSION_SECONDS = 12 * 3600
IDLE_SECONDS = 2 * 3600
"""Time in seconds without a request after which a session ends. A page with live rows sends one request each minute."""
MAX_FAILURES = 5
"""Maximum number of failed sign-ins of one address within `FAILURE_SECONDS`. Later sign-ins are rejected, also correct
ones."""
FAILURE_SECONDS = 60.0
MAX_FAILURES_PER_HOUR = 100
MAX_PROVIDER_FAILURES = 60
MAX_PROVIDER_FAILURES_PER_HOUR = 600
_USE_INTERVAL_SECONDS = 60
"""Minimum time in seconds between two writes of the last use of a session, so that not every request writes."""
_ENDED = "ended"
"""Value that a sign-out stores in place of a session. A deletion would not reach other workers in every kind of store.
"""
_MAX_COOKIE_CHARACTERS = 100
_FORWARDED_FACTOR = 20
"""Factor of the limits for all addresses together that one reverse proxy forwards."""
_HOUR_SECONDS = 3_600.0
_IPV6_NETWORK_BITS = 64
"""Number of bits of an IPv6 address that identify a network. One client can use all addresses of its network."""


class _StoredSession(Struct, frozen=True, omit_defaults=True):
    """Content of a session in the store. Either `key_digest` or `user` is set."""

    created_at: float
    key_digest: str = ""
    """HMAC of the user's key with the cookie, so that the store reveals nothing about the key. "": no key."""
    user: OidcUser | None = None
    """User of the identity provider. None: the user signed in with a key."""


class BrowserSessions:
    """Sessions of signed-in browsers, in a store that all workers share. `clock` returns seconds since the epoch."""

    def __init__(
        self, current_settings: Callable[[], Settings], current_store: Callable[[], Store], clock: Callable[[], float]
    ) -> None:
        self._current_settings = current_settings
        self._current_store = current_store
        self._clock = clock
        self._unsaved_ends: set[str] = set()
        """Store keys of sessions that a sign-out ended while Redis was unavailable. They are written later."""

    async def create_for_key(self, key_text: str) -> str | None:
        """Begin a session for the user of a key, and return the value of its cookie. None: the settings do not contain
        this key.
        """
        matches = [hmac.compare_digest(key.encode(), key_text.encode()) for _, _, key in self._list_keys()]
        if not any(matches):
            return None
        cookie = secrets.token_urlsafe(32)
        await self._save(cookie, _StoredSession(self._clock(), key_digest=_sign(cookie, "key", key_text)))
        return cookie

    async def create_for_user(self, user: OidcUser) -> str:
        cookie = secrets.token_urlsafe(32)
        await self._save(cookie, _StoredSession(self._clock(), user=user))
        return cookie

    async def find(self, cookie: str) -> Session | None:
        """Return the session of the browser that sent this session cookie. None: the session is unknown or has ended,
        or the settings no longer permit it.
        """
        if not cookie or len(cookie) > _MAX_COOKIE_CHARACTERS:
            return None
        store, place = self._current_store(), _find_place(cookie)
        if self._unsaved_ends and store.state.available:
            await self._save_ends(store)
        text, used_at = await asyncio.gather(store.get(place), store.get(_use_of(place)))
        if text is None or text == _ENDED or used_at is None or place in self._unsaved_ends:
            return None
        try:
            stored, last_use, now = decode_json(text, _StoredSession), float(used_at), self._clock()
        except ValueError:  # a damaged store
            return None
        session = self._decode(cookie, stored) if now < stored.created_at + SESSION_SECONDS else None
        if session is not None and now >= last_use + _USE_INTERVAL_SECONDS:
            await store.put(_use_of(place), repr(now), IDLE_SECONDS)
        return session

    async def end(self, cookie: str) -> None:
        """End the session of a cookie for all workers. While Redis is unavailable, other processes may still accept the
        cookie.
        """
        store, place = self._current_store(), _find_place(cookie)
        self._unsaved_ends.add(place)
        await self._save_ends(store)

    async def _save(self, cookie: str, stored: _StoredSession) -> None:
        store, place = self._current_store(), _find_place(cookie)
        await store.put(_use_of(place), repr(self._clock()), IDLE_SECONDS)
        await store.put(place, msgspec.json.encode(stored).decode(), SESSION_SECONDS)

    async def _save_ends(self, store: Store) -> None:
        for place in sorted(self._unsaved_ends):
            await store.put(place, _ENDED, SESSION_SECONDS)
            if store.state.available:
                self._unsaved_ends.discard(place)

    def _decode(self, cookie: str, stored: _StoredSession) -> Session | None:
        """Return the session for `stored`, its content in the store. None: the key of the session, or the role of its
        user, is no longer in the settings.
        """
        form_token = _sign(cookie, "form", "")
        if (user := stored.user) is not None:
            provider = self._current_settings().oidc
            role = None if provider is None else resolve_role(provider, user)
            return role and Session(client_name=user.email, form_token=form_token, role=role, email=user.email)
        found = None
        for label, role, key in self._list_keys():
            if hmac.compare_digest(_sign(cookie, "key", key).encode(), stored.key_digest.encode()):
                found = Session(client_name=label, form_token=form_token, role=role)
        return found

    def _list_keys(self) -> list[tuple[str, Role, str]]:
        """Return each key in the settings as (name such as `admin key 1`, role, text of the key)."""
        settings = self._current_settings()
        admin: list[tuple[str, Role, str]] = [
            (f"admin key {number}", "admin", key.reveal()) for number, key in enumerate(settings.admin_api_keys, 1)
        ]
        proxy: list[tuple[str, Role, str]] = [
            (f"key {number}", "owner", key.reveal()) for number, key in enumerate(settings.proxy_api_keys, 1)
        ]
        return proxy + admin


def _find_place(cookie: str) -> str:
    return f"dashboard/session/{digest(cookie)}"


def _use_of(place: str) -> str:
    """The time is stored separately, so that it never overwrites the end of the session."""
    return f"{place}/used"


def _sign(cookie: str, purpose: str, content: str) -> str:
    return hmac.digest(cookie.encode(), f"{purpose}\0{content}".encode(), "sha256").hex()


def encode_session_cookie(value: str, seconds: int, *, is_https: bool) -> str:
    """Return the header `Set-Cookie` with the session cookie of a signed-in browser. With 0 `seconds`, the browser
    removes the cookie.
    """
    secure = "; Secure" if is_https else ""
    return f"{COOKIE}={value}; Path=/dashboard; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"


class SignInLimit:
    """Limit of failed sign-ins for each client address. All workers share the counters. Each `kind` of sign-in, by a
    key or by an identity provider, has its own counters.
    """

    def __init__(
        self, kind: str = "key", per_minute: int = MAX_FAILURES, per_hour: int = MAX_FAILURES_PER_HOUR
    ) -> None:
        self._kind = kind
        self._per_minute, self._per_hour = per_minute, per_hour

    async def reserve_sign_in(self, store: Store, address: str, forwarded_for: str = "") -> Reservation:
        """Count a sign-in before its check, so that simultaneous ones cannot exceed the limit.

        If `refused` of the result is set, the caller must reject the sign-in. Otherwise it passes the result of the
        check to `settle_sign_in`.
        """
        place = f"dashboard/sign-in/{self._kind}/{_find_network(address)}"
        limits = self._list_limits(place, _FORWARDED_FACTOR if forwarded_for else 1)
        if forwarded_for:
            own = f"{place}/{_find_network(forwarded_for.rpartition(',')[2].strip())}"
            limits = [*self._list_limits(own, 1), *limits]
        return await store.reserve(limits)

    def _list_limits(self, place: str, factor: int) -> list[Limit]:
        return [
            Limit(f"{place}/minute", "rate", 1, self._per_minute * factor, FAILURE_SECONDS),
            Limit(f"{place}/hour", "rate", 1, self._per_hour * factor, _HOUR_SECONDS),
        ]

    async def settle_sign_in(self, store: Store, reservation: Reservation, *, is_success: bool) -> None:
        """Complete the count of a sign-in: only a failed one stays counted."""
        await store.settle(reservation, [0 if is_success else 1] * len(reservation.limits))


def _find_network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        name = address
    else:
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped  # of an IPv4 client of a socket for both
        bits = 32 if parsed.version == 4 else _IPV6_NETWORK_BITS
        name = str(ipaddress.ip_network((parsed, bits), strict=False))
    return digest(name)[:32]
