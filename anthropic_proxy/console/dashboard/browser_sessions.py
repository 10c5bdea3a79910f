"""`BrowserSessions`: who uses a browser.

A user signs in with a key of the proxy, or at an identity provider. Then the browser receives a cookie with a random
text. The session of this cookie is kept in a store, which all workers share.
"""

import asyncio
import hmac
import secrets
from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct, structs

from anthropic_proxy.console.dashboard.permissions import Session
from anthropic_proxy.console.dashboard.web import digest
from anthropic_proxy.console.identity.cookies import Cookie
from anthropic_proxy.console.identity.people import OidcUser, find_group, resolve_role
from anthropic_proxy.console.keys.ended_people import EndedPeople
from anthropic_proxy.engine.json_decoding import decode_json
from anthropic_proxy.gateway.permissions import Role
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Store
from anthropic_proxy.secrets import Secret

SESSION_COOKIE = Cookie(name="anthropic_proxy_session", path="/dashboard", same_site="Strict")
SESSION_SECONDS = 12 * 3600
IDLE_SECONDS = 2 * 3600
"""Time in seconds without a request after which a session ends. A page with live rows sends one request each minute."""
_USE_INTERVAL_SECONDS = 60
"""Minimum time in seconds between two writes of the last use of a session, so that not every request writes."""
_ENDED = "ended"
"""Value that a sign-out stores in place of a session. A deletion would not reach other workers in every kind of store.
"""
_MAX_COOKIE_CHARACTERS = 100
SIGN_IN_PATH = "/dashboard/sign-in"


class _StoredSession(Struct, frozen=True, omit_defaults=True):
    """Content of a session in the store. Either `key_digest` or `user` is set."""

    created_at: float
    key_digest: str = ""
    """HMAC of the user's key with the cookie, so that the store reveals nothing about the key. "": no key."""
    user: OidcUser | None = None
    """User of the identity provider. None: the user signed in with a key."""
    person: str = ""
    """Id of the key of the person, if there are virtual keys."""


class BrowserSessions:
    """Sessions of signed-in browsers, in a store that all workers share. `clock` returns seconds since the epoch.
    `people`: users whose sessions an administrator has ended.
    """

    def __init__(
        self,
        current_settings: Callable[[], Settings],
        current_store: Callable[[], Store],
        clock: Callable[[], float],
        people: EndedPeople | None = None,
    ) -> None:
        self._current_settings = current_settings
        self._current_store = current_store
        self._clock = clock
        self._people = people
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

    async def create_for_user(self, user: OidcUser, person: str) -> str:
        """`person`: id of the key of the person. "": there are no virtual keys."""
        cookie = secrets.token_urlsafe(32)
        await self._save(cookie, _StoredSession(self._clock(), user=user, person=person))
        return cookie

    async def find(self, cookie: str) -> Session | None:
        """Return the session of the browser that sent this session cookie. None: the session is unknown or has ended,
        or the settings no longer permit it. Raises `KeysUnavailable` if it is not known whether the user has access.
        """
        if not cookie or len(cookie) > _MAX_COOKIE_CHARACTERS:
            return None
        store = self._current_store()
        place = _find_place(cookie)
        if self._unsaved_ends and store.state.available:
            await self._save_ends(store)
        text, used_at = await asyncio.gather(store.get(place), store.get(_use_of(place)))
        if text is None or text == _ENDED or used_at is None or place in self._unsaved_ends:
            return None
        try:
            stored = decode_json(text, _StoredSession)
            last_use = float(used_at)
            now = self._clock()
        except ValueError:  # a damaged store
            return None
        if now >= stored.created_at + SESSION_SECONDS:
            return None
        person, people = stored.person, self._people
        if person and people is not None and await people.is_ended(person, stored.created_at):
            return None
        if stored.user is not None and people is not None:
            stored = structs.replace(stored, user=people.describe(person, stored.user))
        session = self._decode(cookie, stored)
        if session is None:
            return None
        if now >= last_use + _USE_INTERVAL_SECONDS:
            await store.put(_use_of(place), repr(now), IDLE_SECONDS)
        return session

    async def end(self, cookie: str) -> None:
        """End the session of a cookie for all workers. While Redis is unavailable, other processes may still accept the
        cookie.
        """
        store = self._current_store()
        place = _find_place(cookie)
        self._unsaved_ends.add(place)
        await self._save_ends(store)

    async def _save(self, cookie: str, stored: _StoredSession) -> None:
        store = self._current_store()
        place = _find_place(cookie)
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
            settings = self._current_settings()
            role = resolve_role(settings, user)
            if not role or (settings.virtual_keys and not stored.person):
                return None
            name = user.unique_name
            group = find_group(settings, user)
            return Session(client_name=name, form_token=form_token, role=role, person=stored.person, group=group)
        session = None
        for label, role, key in self._list_keys():
            if hmac.compare_digest(_sign(cookie, "key", key).encode(), stored.key_digest.encode()):
                session = Session(client_name=label, form_token=form_token, role=role)
        return session

    def _list_keys(self) -> list[tuple[str, Role, str]]:
        """Return each key in the settings as (name such as `admin key 1`, role, text of the key)."""
        settings = self._current_settings()
        kinds: Sequence[tuple[str, Role, Sequence[Secret]]] = (
            ("key", "owner", settings.proxy_api_keys),
            ("admin key", "admin", settings.admin_api_keys),
        )
        return [(f"{kind} {n}", role, key.reveal()) for kind, role, keys in kinds for n, key in enumerate(keys, 1)]


def _find_place(cookie: str) -> str:
    return f"dashboard/session/{digest(cookie)}"


def _use_of(place: str) -> str:
    """Return the key of the time of the last use. It is stored apart from the session, so that writing it never
    overwrites the end of the session.
    """
    return f"{place}/used"


def _sign(cookie: str, purpose: str, content: str) -> str:
    return hmac.digest(cookie.encode(), f"{purpose}\0{content}".encode(), "sha256").hex()
