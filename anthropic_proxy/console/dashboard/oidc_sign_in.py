"""Sign-in with an identity provider (OpenID Connect): the redirect to the provider, and the way back.

The start stores random values in a cookie of the browser. The provider sends the browser back with a code, and the
check of code and cookie creates a session.
"""

import asyncio
import hashlib
import hmac
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from msgspec import Struct

from anthropic_proxy.console.dashboard.browser_sessions import BrowserSessions
from anthropic_proxy.console.dashboard.forms import digest, find_cookie, is_https, resolve_redirect_path
from anthropic_proxy.console.dashboard.oidc_roles import RETRY, OidcError, require_accepted_user
from anthropic_proxy.errors import ConfigurationError, MissingExtra
from anthropic_proxy.gateway.settings import OidcSettings, Settings
from anthropic_proxy.plugins import Gateway, RouteRequest, RouteResponse

if TYPE_CHECKING:
    from anthropic_proxy.console.dashboard.oidc_client import OidcClient, SignInAttempt

START_PATH = "/dashboard/oidc/start"
CALLBACK_PATH = "/dashboard/oidc/callback"
ATTEMPT_COOKIE = "anthropic_proxy_oidc"
ATTEMPT_SECONDS = 600
_MAX_TARGET_CHARACTERS = 1_000
_MAX_SHOWN_CHARACTERS = 200
_MAX_CODE_CHARACTERS = 4_096


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


class CompletedSignIn(Struct, frozen=True):
    cookie: str
    target: str


class OidcSignIn:
    def __init__(self, gateway: Gateway, sessions: BrowserSessions) -> None:
        self._gateway = gateway
        self._sessions = sessions
        self._client: OidcClient | None = None

    async def start(self, request: RouteRequest) -> RouteResponse:
        """Redirect to the provider, with a cookie of random values that `finish` checks. Raises `OidcError`."""
        client = await self._find_client()
        from anthropic_proxy.console.dashboard.oidc_client import SignInAttempt  # noqa: PLC0415

        attempt = SignInAttempt.new()
        target = resolve_redirect_path(request.query.get("next", [""])[-1])
        target = target if len(target) <= _MAX_TARGET_CHARACTERS else "/dashboard"
        url = await client.build_authorization_url(attempt, self._redirect_uri(request))
        signed = ".".join((attempt.state, attempt.nonce, attempt.verifier, quote(target, safe="")))
        value = f"{_sign(signed, client.settings)}.{signed}"
        return RouteResponse(
            status=303,
            headers={
                "location": url,
                "cache-control": "no-store",
                "set-cookie": encode_attempt_cookie(value, ATTEMPT_SECONDS, is_https=is_https(request, self._settings)),
            },
        )

    def decode_attempt_cookie(self, request: RouteRequest) -> "PendingSignIn":
        """Raises `OidcError` if the cookie is missing or not valid."""
        from anthropic_proxy.console.dashboard.oidc_client import SignInAttempt  # noqa: PLC0415

        signature, _, signed = find_cookie(request.headers.get("cookie", ""), ATTEMPT_COOKIE).partition(".")
        if not hmac.compare_digest(
            signature.encode("utf-8", "replace"), _sign(signed, self._require_provider()).encode()
        ):
            raise OidcError(
                "This browser has no sign-in in progress: it took more than ten minutes, or cookies are blocked. "
                + RETRY
            )
        own_state, nonce, verifier, target = signed.split(".", 3)
        if not hmac.compare_digest(
            own_state.encode(), (request.query.get("state", [""])[-1]).encode("utf-8", "replace")
        ):
            raise OidcError(f"The response is not of the sign-in that this browser began last. {RETRY}")
        attempt = SignInAttempt(state=own_state, nonce=nonce, verifier=verifier)
        return PendingSignIn(attempt, resolve_redirect_path(unquote(target)))

    async def finish(self, request: RouteRequest, begun: "PendingSignIn") -> CompletedSignIn:
        """Check the response in the URL and create a session. `begun`: from the cookie. Raises `OidcError`."""
        query = {name: values[-1] for name, values in request.query.items()}
        attempt = begun.attempt
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
        user = require_accepted_user(client.settings, claims)
        return CompletedSignIn(await self._sessions.create_for_user(user), begun.target)

    @property
    def _settings(self) -> Settings:
        return self._gateway.settings

    def _redirect_uri(self, request: RouteRequest) -> str:
        base = self._settings.dashboard_url or f"{request.scheme}://{request.headers.get('host', '')}"
        return f"{base}{CALLBACK_PATH}"

    def _require_provider(self) -> OidcSettings:
        if (provider := self._settings.oidc) is None:
            raise OidcError("This proxy has no identity provider. Sign in with a key.", status=404)
        return provider

    async def _find_client(self) -> "OidcClient":
        provider = self._require_provider()
        if self._client is None or self._client.settings != provider:
            self._client = await asyncio.to_thread(_open_client, provider, self._gateway)
        return self._client


class PendingSignIn(Struct, frozen=True):
    attempt: "SignInAttempt"
    target: str


def encode_attempt_cookie(value: str, seconds: int, *, is_https: bool) -> str:
    """Return the value of a header `Set-Cookie` with the values of a sign-in that has begun. By this cookie, the proxy
    later recognizes the browser that began the sign-in. With 0 `seconds`, the browser removes the cookie.
    """
    secure = "; Secure" if is_https else ""
    return f"{ATTEMPT_COOKIE}={value}; Path=/dashboard/oidc; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"


def _open_client(provider: OidcSettings, gateway: Gateway) -> "OidcClient":
    """The first call loads Authlib."""
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
