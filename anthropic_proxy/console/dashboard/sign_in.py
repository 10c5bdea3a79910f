"""Sign-in with a key of the proxy or with an identity provider (OpenID Connect), and sign-out.

At the start of a sign-in with a provider, random values are stored in a cookie of the browser, and the browser is
redirected to the provider, which sends it back with a code. The check of code and cookie creates a session.
"""

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from msgspec import Struct, field
from msgspec.structs import replace

from anthropic_proxy.console.dashboard.browser_sessions import (
    COOKIE,
    MAX_PROVIDER_FAILURES,
    MAX_PROVIDER_FAILURES_PER_HOUR,
    SESSION_SECONDS,
    BrowserSessions,
    SignInLimit,
    encode_session_cookie,
)
from anthropic_proxy.console.dashboard.forms import (
    digest,
    find_cookie,
    is_https,
    read_own_form,
    require_equal_tokens,
    resolve_redirect_path,
)
from anthropic_proxy.console.dashboard.permissions import RETRY, OidcError, Session, require_accepted_user
from anthropic_proxy.console.dashboard.responses import form_route, page_route, redirect, render_public_page
from anthropic_proxy.errors import ConfigurationError, MissingExtra
from anthropic_proxy.gateway.settings import OidcSettings, Settings
from anthropic_proxy.plugins import Gateway, Reservation, Route, RouteRequest, RouteResponse

if TYPE_CHECKING:
    from anthropic_proxy.console.dashboard.oidc_client import OidcClient

SIGN_IN_PATH = "/dashboard/sign-in"
START_PATH = "/dashboard/oidc/start"
CALLBACK_PATH = "/dashboard/oidc/callback"
ATTEMPT_COOKIE = "anthropic_proxy_oidc"
ATTEMPT_SECONDS = 600
_MAX_TARGET_CHARACTERS = 1_000
_MAX_SHOWN_CHARACTERS = 200
_MAX_CODE_CHARACTERS = 4_096
_WRONG_KEY = "This is not a key of the proxy. The keys are set by PROXY_API_KEY and ADMIN_API_KEY."


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


class SignIn:
    def __init__(self, sessions: BrowserSessions) -> None:
        self._sessions = sessions
        self._limit = SignInLimit()
        self._provider_limit = SignInLimit("provider", MAX_PROVIDER_FAILURES, MAX_PROVIDER_FAILURES_PER_HOUR)
        self._started: Gateway | None = None
        self._client: OidcClient | None = None

    def start(self, gateway: Gateway) -> None:
        self._started = gateway

    @property
    def _gateway(self) -> Gateway:
        assert self._started is not None
        return self._started

    def routes(self) -> Sequence[Route]:
        return [
            page_route(SIGN_IN_PATH, self._show),
            form_route(SIGN_IN_PATH, self._sign_in),
            form_route("/dashboard/sign-out", self._sign_out),
            page_route(START_PATH, self._start_oidc),
            page_route(CALLBACK_PATH, self._finish_oidc),
        ]

    async def find_session(self, request: RouteRequest) -> Session | None:
        """Session of the browser that sent `request`. None: the browser is not signed in, or no sign-in is required."""
        if request.client.name:
            return None
        return await self._sessions.find(find_cookie(request.headers.get("cookie", ""), COOKIE))

    async def _show(self, request: RouteRequest) -> RouteResponse:
        target = request.query.get("next", [""])[-1]
        if request.client.name or await self.find_session(request) is not None:
            return redirect(resolve_redirect_path(target))
        return await self._send_page(request, target)

    async def _sign_in(self, request: RouteRequest) -> RouteResponse:
        form = read_own_form(request)
        key, target = form.get("key", "").strip(), form.get("next", "")
        begun = await self._begin(self._limit, request)
        if begun.refused is not None:
            return await self._refuse(request, target, begun)
        cookie = await self._sessions.create_for_key(key)
        await self._limit.settle_sign_in(self._gateway.store, begun, is_success=cookie is not None)
        if cookie is None:
            return await self._send_page(request, target, _WRONG_KEY, status=401)
        return redirect(resolve_redirect_path(target), set_cookie=[self._write_session_cookie(request, cookie)])

    async def _start_oidc(self, request: RouteRequest) -> RouteResponse:
        """Redirect to the provider, with a cookie of random values that the response is compared with."""
        attempt = SignInAttempt()
        target = resolve_redirect_path(request.query.get("next", [""])[-1])
        target = target if len(target) <= _MAX_TARGET_CHARACTERS else "/dashboard"
        try:
            client = await self._find_client()
            url = await client.build_authorization_url(attempt, self._redirect_uri(request))
        except OidcError as error:
            return await self._explain(request, error)
        signed = ".".join((attempt.state, attempt.nonce, attempt.verifier, quote(target, safe="")))
        cookie = self._write_attempt_cookie(request, f"{_sign(signed, client.settings)}.{signed}", ATTEMPT_SECONDS)
        headers = {"location": url, "cache-control": "no-store", "set-cookie": cookie}
        return RouteResponse(status=303, headers=headers)

    async def _finish_oidc(self, request: RouteRequest) -> RouteResponse:
        try:
            attempt, target = self._decode_attempt_cookie(request)
        except OidcError as error:  # not counted: other sites can cause this request with a link
            return await self._explain(request, error)
        begun = await self._begin(self._provider_limit, request)
        if begun.refused is not None:
            return await self._refuse(request, "", begun)
        try:
            session = await self._create_session(request, attempt)
        except OidcError as error:
            await self._provider_limit.settle_sign_in(self._gateway.store, begun, is_success=False)
            return await self._explain(request, error)
        await self._provider_limit.settle_sign_in(self._gateway.store, begun, is_success=True)
        cookies = [self._write_session_cookie(request, session), self._write_attempt_cookie(request, "", 0)]
        # no redirect: after one that began at the identity provider, the browser would not send the session's cookie
        page = await asyncio.to_thread(render_public_page, request, "signed_in.html", "Signed in", {"target": target})
        location = redirect(target).headers["location"]
        return replace(page, headers={**page.headers, "refresh": f"0; url={location}", "set-cookie": cookies})

    def _decode_attempt_cookie(self, request: RouteRequest) -> tuple[SignInAttempt, str]:
        """Return the sign-in that this browser began, and the page to show after it. Raises `OidcError`."""
        signature, _, signed = find_cookie(request.headers.get("cookie", ""), ATTEMPT_COOKIE).partition(".")
        own_signature = _sign(signed, self._require_provider())
        if not hmac.compare_digest(signature.encode("utf-8", "replace"), own_signature.encode()):
            raise OidcError(
                "This browser has no sign-in in progress: it took more than ten minutes, or cookies are blocked. "
                + RETRY
            )
        state, nonce, verifier, target = signed.split(".", 3)
        if not hmac.compare_digest(state.encode(), request.query.get("state", [""])[-1].encode("utf-8", "replace")):
            raise OidcError(f"The response is not of the sign-in that this browser began last. {RETRY}")
        return SignInAttempt(state=state, nonce=nonce, verifier=verifier), resolve_redirect_path(unquote(target))

    async def _create_session(self, request: RouteRequest, attempt: SignInAttempt) -> str:
        """Check the provider's response in the URL, and return the cookie of a new session. Raises `OidcError`."""
        query = {name: values[-1] for name, values in request.query.items()}
        client = await self._find_client()
        used = await self._gateway.store.increment(f"dashboard/oidc/{digest(attempt.state)}", 1, ATTEMPT_SECONDS)
        if used > 1:  # a response is accepted only once
            raise OidcError(f"This sign-in was completed before, or was canceled. {RETRY}")
        await client.require_issuer(query.get("iss"))
        if error := query.get("error", ""):
            reason = query.get("error_description", "") or error
            raise OidcError(f"The identity provider refused the sign-in: {reason[:_MAX_SHOWN_CHARACTERS]}. {RETRY}")
        code = query.get("code", "")
        if not 0 < len(code) <= _MAX_CODE_CHARACTERS:
            raise OidcError(f"The response of the identity provider contains no code. {RETRY}")
        claims = await client.request_claims(code, attempt, self._redirect_uri(request))
        return await self._sessions.create_for_user(require_accepted_user(client.settings, claims))

    def _redirect_uri(self, request: RouteRequest) -> str:
        base = self._gateway.settings.dashboard_url or f"{request.scheme}://{request.headers.get('host', '')}"
        return f"{base}{CALLBACK_PATH}"

    def _require_provider(self) -> OidcSettings:
        if (provider := self._gateway.settings.oidc) is None:
            raise OidcError("This proxy has no identity provider. Sign in with a key.", status=404)
        return provider

    async def _find_client(self) -> "OidcClient":
        """The first call loads Authlib."""
        provider = self._require_provider()
        if self._client is None or self._client.settings != provider:
            self._client = await asyncio.to_thread(_open_client, provider, self._gateway)
        return self._client

    async def _sign_out(self, request: RouteRequest) -> RouteResponse:
        """End the session of the browser on the server, so that copies of its cookie are useless too."""
        form, session = read_own_form(request), await self.find_session(request)
        require_equal_tokens("" if session is None else session.form_token, form.get("token", ""))
        await self._sessions.end(find_cookie(request.headers.get("cookie", ""), COOKIE))
        return redirect(SIGN_IN_PATH, set_cookie=[encode_session_cookie("", 0, is_https=self._is_https(request))])

    async def _begin(self, limit: SignInLimit, request: RouteRequest) -> Reservation:
        return await limit.reserve_sign_in(
            self._gateway.store, request.address, request.headers.get("x-forwarded-for", "")
        )

    async def _refuse(self, request: RouteRequest, target: str, begun: Reservation) -> RouteResponse:
        wait = int(begun.retry_after_seconds) + 1
        self._gateway.log_warning_once(
            f"Sign-ins to the dashboard from {request.address} are refused after several failures."
        )
        text = f"Several sign-ins from your address have failed. Wait {wait} s, then try again."
        return await self._send_page(request, target, text, status=429, retry_after=wait)

    async def _explain(self, request: RouteRequest, error: OidcError) -> RouteResponse:
        self._gateway.log_warning_each_time(f"Sign-in from {request.address} was rejected. {error.message}")
        page = await self._send_page(request, "", error.message, status=error.status)
        return replace(page, headers={**page.headers, "set-cookie": self._write_attempt_cookie(request, "", 0)})

    def _is_https(self, request: RouteRequest) -> bool:
        return is_https(request, self._gateway.settings)

    def _write_session_cookie(self, request: RouteRequest, cookie: str) -> str:
        return encode_session_cookie(cookie, SESSION_SECONDS, is_https=self._is_https(request))

    def _write_attempt_cookie(self, request: RouteRequest, value: str, seconds: int) -> str:
        """By this cookie, the proxy later recognizes the browser that began the sign-in. 0 `seconds`: it is removed."""
        secure = "; Secure" if self._is_https(request) else ""
        return f"{ATTEMPT_COOKIE}={value}; Path=/dashboard/oidc; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"

    async def _send_page(
        self, request: RouteRequest, target: str, problem: str = "", *, status: int = 200, retry_after: int = 0
    ) -> RouteResponse:
        provider = self._gateway.settings.oidc
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


def require_usable_identity_provider(settings: Settings) -> None:
    """Raise `ConfigurationError` if an identity provider is set, but cannot be used.

    Sign-ins need the package Authlib, and a setting that requires keys of clients: without one, every client can read
    the stored requests anyway.
    """
    if settings.oidc is None:
        return
    if not settings.requires_client_key():
        raise ConfigurationError(
            "OIDC_ISSUER is set, but clients need no key, so they read all requests without a sign-in. Set "
            "VIRTUAL_KEYS=true or PROXY_API_KEY too.",
            code="identity-provider",
        )
    if find_spec("authlib") is None:
        raise ConfigurationError(
            MissingExtra("Sign-in with OIDC_ISSUER needs Authlib", "oidc").message, code="package-missing"
        )


def _open_client(provider: OidcSettings, gateway: Gateway) -> "OidcClient":
    if find_spec("authlib") is None:
        raise OidcError(f"{MissingExtra('Sign-in with OIDC_ISSUER needs Authlib', 'oidc').message}", status=502)
    from anthropic_proxy.console.dashboard.oidc_client import OidcClient  # noqa: PLC0415

    return OidcClient(provider, gateway)


def _sign(text: str, provider: OidcSettings) -> str:
    """Return the signature of a cookie, which all workers and instances can check.

    So invented cookies cause no request to the provider. A client without a secret (PKCE only) has no such protection.
    """
    secret = "" if provider.client_secret is None else provider.client_secret.reveal()
    key = f"sign-in\n{provider.issuer}\n{provider.client_id}\n{secret}".encode()
    return hmac.new(key, text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
