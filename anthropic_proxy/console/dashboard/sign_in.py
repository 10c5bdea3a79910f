"""Signing in: sessions of browsers, the limit of failed sign-ins, and the pages of a sign-in.

A user signs in with a key of the proxy, or at an identity provider. Then the browser receives a cookie with a random
text. The session of this cookie is kept in a store, which all workers share. For a sign-in at the provider, the browser
has a cookie with random values until the provider's response arrives (authorization code flow with PKCE).
"""

import asyncio
import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from anthropic_proxy.console.dashboard.permissions import (
    RETRY,
    OidcError,
    OidcUser,
    Role,
    Session,
    require_accepted_user,
    resolve_role,
)
from anthropic_proxy.console.dashboard.web import (
    digest,
    find_cookie,
    is_https,
    read_own_form,
    redirect,
    render_public_page,
    require_equal_tokens,
    resolve_redirect_path,
)
from anthropic_proxy.engine.json_decoding import decode_json
from anthropic_proxy.errors import MissingExtra
from anthropic_proxy.gateway.settings import OidcSettings, Settings
from anthropic_proxy.plugins import Gateway, Limit, Reservation, RouteRequest, RouteResponse, Store

if TYPE_CHECKING:
    from anthropic_proxy.console.dashboard.oidc_client import OidcClient
    from anthropic_proxy.console.dashboard.site import Site

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
SIGN_IN_PATH = "/dashboard/sign-in"
START_PATH = "/dashboard/oidc/start"
CALLBACK_PATH = "/dashboard/oidc/callback"
ATTEMPT_COOKIE = "anthropic_proxy_oidc"
ATTEMPT_SECONDS = 600
_MAX_TARGET_CHARACTERS = 1_000
_MAX_SHOWN_CHARACTERS = 200
_MAX_CODE_CHARACTERS = 4_096
_WRONG_KEY = "This is not a key of the proxy. The keys are set by PROXY_API_KEY and ADMIN_API_KEY."


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
            stored = decode_json(text, _StoredSession)
            last_use = float(used_at)
            now = self._clock()
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


class SignInAttempt(Struct, frozen=True, kw_only=True):
    """Random values of one sign-in, which prove that the provider's response belongs to it. The browser keeps them in a
    cookie until the response arrives.
    """

    state: str = field(default_factory=partial(secrets.token_urlsafe, 24))
    """Random text in the request to the provider and in its response. It shows that the response belongs to this
    browser."""
    nonce: str = field(default_factory=partial(secrets.token_urlsafe, 24))
    """Random text that the ID token must contain. It shows that the token belongs to this sign-in."""
    verifier: str = field(default_factory=partial(secrets.token_urlsafe, 48))
    """Secret of PKCE, which the token request contains. The provider has received only its hash before."""


async def find_session(site: "Site", request: RouteRequest) -> Session | None:
    """Session of the browser that sent `request`. None: the browser is not signed in, or no sign-in is required."""
    if request.client.name:
        return None
    return await site.sessions.find(find_cookie(request.headers.get("cookie", ""), COOKIE))


async def sign_in(site: "Site", request: RouteRequest) -> RouteResponse:
    """Show the form for a key, or check the key that it sent."""
    if request.method != "POST":
        target = request.query.get("next", [""])[-1]
        if request.client.name or await find_session(site, request) is not None:
            return redirect(resolve_redirect_path(target))
        return await _send_page(site, request, target)
    form = read_own_form(request)
    key, target = form.get("key", "").strip(), form.get("next", "")
    begun = await _begin(site, site.key_limit, request)
    if begun.refused is not None:
        return await _refuse(site, request, target, begun)
    cookie = await site.sessions.create_for_key(key)
    await site.key_limit.settle_sign_in(site.gateway.store, begun, is_success=cookie is not None)
    if cookie is None:
        return await _send_page(site, request, target, _WRONG_KEY, status=401)
    return redirect(resolve_redirect_path(target), set_cookie=[_write_session_cookie(site, request, cookie)])


async def sign_out(site: "Site", request: RouteRequest) -> RouteResponse:
    """End the session of the browser on the server, so that copies of its cookie are useless too."""
    form, session = read_own_form(request), await find_session(site, request)
    require_equal_tokens("" if session is None else session.form_token, form.get("token", ""))
    await site.sessions.end(find_cookie(request.headers.get("cookie", ""), COOKIE))
    return redirect(SIGN_IN_PATH, set_cookie=[_write_session_cookie(site, request, "", 0)])


async def start_oidc(site: "Site", request: RouteRequest) -> RouteResponse:
    """Redirect to the provider, with a cookie of random values that the response is compared with."""
    attempt = SignInAttempt()
    target = resolve_redirect_path(request.query.get("next", [""])[-1])
    target = target if len(target) <= _MAX_TARGET_CHARACTERS else "/dashboard"
    try:
        client = await _find_client(site)
        url = await client.build_authorization_url(attempt, _redirect_uri(site, request))
    except OidcError as error:
        return await _explain(site, request, error)
    signed = ".".join((attempt.state, attempt.nonce, attempt.verifier, quote(target, safe="")))
    cookie = _write_attempt_cookie(site, request, f"{_sign_attempt(signed, client.settings)}.{signed}", ATTEMPT_SECONDS)
    headers = {"location": url, "cache-control": "no-store", "set-cookie": cookie}
    return RouteResponse(status=303, headers=headers)


async def finish_oidc(site: "Site", request: RouteRequest) -> RouteResponse:
    try:
        attempt, target = _decode_attempt_cookie(site, request)
    except OidcError as error:  # not counted: other sites can cause this request with a link
        return await _explain(site, request, error)
    begun = await _begin(site, site.provider_limit, request)
    if begun.refused is not None:
        return await _refuse(site, request, "", begun)
    try:
        session = await _create_session(site, request, attempt)
    except OidcError as error:
        await site.provider_limit.settle_sign_in(site.gateway.store, begun, is_success=False)
        return await _explain(site, request, error)
    await site.provider_limit.settle_sign_in(site.gateway.store, begun, is_success=True)
    cookies = [_write_session_cookie(site, request, session), _write_attempt_cookie(site, request, "", 0)]
    # no redirect: after one that began at the identity provider, the browser would not send the session's cookie
    page = await asyncio.to_thread(render_public_page, request, "signed_in.html", "Signed in", {"target": target})
    location = redirect(target).headers["location"]
    return replace(page, headers={**page.headers, "refresh": f"0; url={location}", "set-cookie": cookies})


def _decode_attempt_cookie(site: "Site", request: RouteRequest) -> tuple[SignInAttempt, str]:
    """Return the sign-in that this browser began, and the page to show after it. Raises `OidcError`."""
    signature, _, signed = find_cookie(request.headers.get("cookie", ""), ATTEMPT_COOKIE).partition(".")
    own_signature = _sign_attempt(signed, _require_provider(site))
    if not hmac.compare_digest(signature.encode("utf-8", "replace"), own_signature.encode()):
        raise OidcError(
            "This browser has no sign-in in progress: it took more than ten minutes, or cookies are blocked. " + RETRY
        )
    state, nonce, verifier, target = signed.split(".", 3)
    if not hmac.compare_digest(state.encode(), request.query.get("state", [""])[-1].encode("utf-8", "replace")):
        raise OidcError(f"The response is not of the sign-in that this browser began last. {RETRY}")
    return SignInAttempt(state=state, nonce=nonce, verifier=verifier), resolve_redirect_path(unquote(target))


async def _create_session(site: "Site", request: RouteRequest, attempt: SignInAttempt) -> str:
    """Check the provider's response in the URL, and return the cookie of a new session. Raises `OidcError`."""
    query = {name: values[-1] for name, values in request.query.items()}
    client = await _find_client(site)
    used = await site.gateway.store.increment(f"dashboard/oidc/{digest(attempt.state)}", 1, ATTEMPT_SECONDS)
    if used > 1:  # a response is accepted only once
        raise OidcError(f"This sign-in was completed before, or was canceled. {RETRY}")
    await client.require_issuer(query.get("iss"))
    if error := query.get("error", ""):
        reason = query.get("error_description", "") or error
        raise OidcError(f"The identity provider refused the sign-in: {reason[:_MAX_SHOWN_CHARACTERS]}. {RETRY}")
    code = query.get("code", "")
    if not 0 < len(code) <= _MAX_CODE_CHARACTERS:
        raise OidcError(f"The response of the identity provider contains no code. {RETRY}")
    claims = await client.request_claims(code, attempt, _redirect_uri(site, request))
    return await site.sessions.create_for_user(require_accepted_user(client.settings, claims))


def _redirect_uri(site: "Site", request: RouteRequest) -> str:
    base = site.gateway.settings.dashboard_url or f"{request.scheme}://{request.headers.get('host', '')}"
    return f"{base}{CALLBACK_PATH}"


def _require_provider(site: "Site") -> OidcSettings:
    if (provider := site.gateway.settings.oidc) is None:
        raise OidcError("This proxy has no identity provider. Sign in with a key.", status=404)
    return provider


async def _find_client(site: "Site") -> "OidcClient":
    """The first call loads Authlib."""
    provider = _require_provider(site)
    if site.oidc_client is None or site.oidc_client.settings != provider:
        site.oidc_client = await asyncio.to_thread(_open_client, provider, site.gateway)
    return site.oidc_client


async def _begin(site: "Site", limit: SignInLimit, request: RouteRequest) -> Reservation:
    return await limit.reserve_sign_in(site.gateway.store, request.address, request.headers.get("x-forwarded-for", ""))


async def _refuse(site: "Site", request: RouteRequest, target: str, begun: Reservation) -> RouteResponse:
    wait = int(begun.retry_after_seconds) + 1
    site.gateway.log_warning_once(
        f"Sign-ins to the dashboard from {request.address} are refused after several failures."
    )
    text = f"Several sign-ins from your address have failed. Wait {wait} s, then try again."
    return await _send_page(site, request, target, text, status=429, retry_after=wait)


async def _explain(site: "Site", request: RouteRequest, error: OidcError) -> RouteResponse:
    site.gateway.log_warning_each_time(f"Sign-in from {request.address} was rejected. {error.message}")
    page = await _send_page(site, request, "", error.message, status=error.status)
    return replace(page, headers={**page.headers, "set-cookie": _write_attempt_cookie(site, request, "", 0)})


def _write_session_cookie(site: "Site", request: RouteRequest, cookie: str, seconds: int = SESSION_SECONDS) -> str:
    return encode_session_cookie(cookie, seconds, is_https=is_https(request, site.gateway.settings))


def _write_attempt_cookie(site: "Site", request: RouteRequest, value: str, seconds: int) -> str:
    """By this cookie, the proxy later recognizes the browser that began the sign-in. 0 `seconds`: it is removed."""
    secure = "; Secure" if is_https(request, site.gateway.settings) else ""
    return f"{ATTEMPT_COOKIE}={value}; Path=/dashboard/oidc; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"


async def _send_page(
    site: "Site", request: RouteRequest, target: str, problem: str = "", *, status: int = 200, retry_after: int = 0
) -> RouteResponse:
    provider = site.gateway.settings.oidc
    path = resolve_redirect_path(target)
    values = {
        "target": path,
        "problem": problem,
        "provider": "" if provider is None else urlsplit(provider.issuer).netloc,
        "start": f"{START_PATH}?next={quote(path, safe='/')}",
    }
    headers = {"retry-after": str(retry_after)} if retry_after else {}
    return await asyncio.to_thread(
        render_public_page, request, "sign_in.html", "Sign in", values, status=status, headers=headers
    )


def _open_client(provider: OidcSettings, gateway: Gateway) -> "OidcClient":
    if find_spec("authlib") is None:
        raise OidcError(f"{MissingExtra('Sign-in with OIDC_ISSUER needs Authlib', 'oidc').message}", status=502)
    from anthropic_proxy.console.dashboard.oidc_client import OidcClient  # noqa: PLC0415

    return OidcClient(provider, gateway)


def _sign_attempt(text: str, provider: OidcSettings) -> str:
    """Return the signature of a cookie, which all workers and instances can check.

    So invented cookies cause no request to the provider. A client without a secret (PKCE only) has no such protection.
    """
    secret = "" if provider.client_secret is None else provider.client_secret.reveal()
    key = f"sign-in\n{provider.issuer}\n{provider.client_id}\n{secret}".encode()
    return hmac.new(key, text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
