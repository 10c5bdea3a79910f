"""Sign-in with a key of the proxy or with an identity provider (OpenID Connect), and sign-out."""

import asyncio
from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlsplit

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
    find_cookie,
    is_https,
    read_own_form,
    require_equal_tokens,
    resolve_redirect_path,
)
from anthropic_proxy.console.dashboard.oidc_roles import OidcError
from anthropic_proxy.console.dashboard.oidc_sign_in import CALLBACK_PATH, START_PATH, OidcSignIn, encode_attempt_cookie
from anthropic_proxy.console.dashboard.permissions import Session
from anthropic_proxy.console.dashboard.responses import form_route, page_route, redirect
from anthropic_proxy.plugins import Gateway, Reservation, Route, RouteRequest, RouteResponse, Store

SIGN_IN_PATH = "/dashboard/sign-in"
_WRONG_KEY = "This is not a key of the proxy. The keys are set by PROXY_API_KEY and ADMIN_API_KEY."


class SignIn:
    def __init__(self, sessions: BrowserSessions) -> None:
        self._sessions = sessions
        self._limit = SignInLimit()
        self._provider_limit = SignInLimit("provider", MAX_PROVIDER_FAILURES, MAX_PROVIDER_FAILURES_PER_HOUR)
        self._gateway: Gateway | None = None
        self._oidc: OidcSignIn | None = None

    def start(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._oidc = OidcSignIn(gateway, self._sessions)

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

    async def require_form_token(self, request: RouteRequest, form: Mapping[str, str]) -> None:
        session = await self.find_session(request)
        require_equal_tokens("" if session is None else session.form_token, form.get("token", ""))

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
        await self._limit.settle_sign_in(self._store, begun, is_success=cookie is not None)
        if cookie is None:
            return await self._send_page(request, target, _WRONG_KEY, status=401)
        return redirect(resolve_redirect_path(target), set_cookie=[self._write_session_cookie(request, cookie)])

    async def _start_oidc(self, request: RouteRequest) -> RouteResponse:
        assert self._oidc is not None
        try:
            return await self._oidc.start(request)
        except OidcError as error:
            return await self._explain(request, error)

    async def _finish_oidc(self, request: RouteRequest) -> RouteResponse:
        assert self._oidc is not None
        try:
            sign_in = self._oidc.decode_attempt_cookie(request)
        except OidcError as error:  # not counted: other sites can cause this request with a link
            return await self._explain(request, error)
        begun = await self._begin(self._provider_limit, request)
        if begun.refused is not None:
            return await self._refuse(request, "", begun)
        try:
            signed_in = await self._oidc.finish(request, sign_in)
        except OidcError as error:
            await self._provider_limit.settle_sign_in(self._store, begun, is_success=False)
            return await self._explain(request, error)
        await self._provider_limit.settle_sign_in(self._store, begun, is_success=True)
        ended = encode_attempt_cookie("", 0, is_https=self._is_https(request))
        cookies = [self._write_session_cookie(request, signed_in.cookie), ended]
        return await asyncio.to_thread(_continue_to, request, signed_in.target, cookies)

    async def _sign_out(self, request: RouteRequest) -> RouteResponse:
        """End the session of the browser on the server, so that copies of its cookie are useless too."""
        await self.require_form_token(request, read_own_form(request))
        await self._sessions.end(find_cookie(request.headers.get("cookie", ""), COOKIE))
        return redirect(SIGN_IN_PATH, set_cookie=[encode_session_cookie("", 0, is_https=self._is_https(request))])

    @property
    def _store(self) -> Store:
        assert self._gateway is not None
        return self._gateway.store

    async def _begin(self, limit: SignInLimit, request: RouteRequest) -> Reservation:
        return await limit.reserve_sign_in(self._store, request.address, request.headers.get("x-forwarded-for", ""))

    async def _refuse(self, request: RouteRequest, target: str, begun: Reservation) -> RouteResponse:
        assert self._gateway is not None
        wait = int(begun.retry_after_seconds) + 1
        self._gateway.log_warning_once(
            f"Sign-ins to the dashboard from {request.address} are refused after several failures."
        )
        text = f"Several sign-ins from your address have failed. Wait {wait} s, then try again."
        return await self._send_page(request, target, text, status=429, retry_after=wait)

    async def _explain(self, request: RouteRequest, error: OidcError) -> RouteResponse:
        assert self._gateway is not None
        self._gateway.log_warning_each_time(f"Sign-in from {request.address} was rejected. {error.message}")
        page = await self._send_page(request, "", error.message, status=error.status)
        ended = encode_attempt_cookie("", 0, is_https=self._is_https(request))
        return replace(page, headers={**page.headers, "set-cookie": ended})

    def _is_https(self, request: RouteRequest) -> bool:
        assert self._gateway is not None
        return is_https(request, self._gateway.settings)

    def _write_session_cookie(self, request: RouteRequest, cookie: str) -> str:
        return encode_session_cookie(cookie, SESSION_SECONDS, is_https=self._is_https(request))

    async def _send_page(
        self, request: RouteRequest, target: str, problem: str = "", *, status: int = 200, retry_after: int = 0
    ) -> RouteResponse:
        provider = None if self._gateway is None else self._gateway.settings.oidc
        path = resolve_redirect_path(target)

        def render() -> RouteResponse:
            from anthropic_proxy.console.dashboard.rendering import render_public_page  # noqa: PLC0415

            values = {
                "target": path,
                "problem": problem,
                "provider": "" if provider is None else urlsplit(provider.issuer).netloc,
                "start": f"{START_PATH}?next={quote(path, safe='/')}",
            }
            headers = {"retry-after": str(retry_after)} if retry_after else {}
            return render_public_page(request, "sign_in.html", "Sign in", values, status=status, headers=headers)

        return await asyncio.to_thread(render)


def _continue_to(request: RouteRequest, target: str, set_cookie: Sequence[str]) -> RouteResponse:
    """A redirect cannot be used: after a redirect that began at the identity provider, the browser would not send the
    cookie of the session.
    """
    from anthropic_proxy.console.dashboard.rendering import render_public_page  # noqa: PLC0415

    page = render_public_page(request, "signed_in.html", "Signed in", {"target": target})
    location = redirect(target).headers["location"]
    return replace(page, headers={**page.headers, "refresh": f"0; url={location}", "set-cookie": set_cookie})
