"""The pages of a sign-in with a key, and of its end."""

from urllib.parse import quote, urlsplit

from anthropic_proxy.console.dashboard.browser_sessions import SESSION_COOKIE, SESSION_SECONDS, SIGN_IN_PATH
from anthropic_proxy.console.dashboard.services import DashboardServices
from anthropic_proxy.console.dashboard.web import (
    read_own_form,
    redirect,
    require_equal_tokens,
    resolve_redirect_path,
    send_public_page,
)
from anthropic_proxy.console.identity.limits import AddressLimit, Window, explain_limit
from anthropic_proxy.plugins import Reservation, RouteRequest, RouteResponse

FAILED_KEYS = AddressLimit("dashboard/sign-in/key", (Window(5, 60.0), Window(100, 3_600.0)))
"""Limit of sign-ins with a wrong key. Later ones are rejected, also correct ones."""
START_PATH = "/dashboard/oidc/start"
_WRONG_KEY = "This is not a key of the proxy. The keys are set by PROXY_API_KEY and ADMIN_API_KEY."


async def sign_in(services: DashboardServices, request: RouteRequest) -> RouteResponse:
    """Show the form for a key, or check the key that it sent."""
    if request.method != "POST":
        target = request.query.get("next", [""])[-1]
        if request.client.name or await services.find_session(request) is not None:
            return redirect(resolve_redirect_path(target))
        return await send_sign_in_page(services, request, target)
    form = read_own_form(request)
    key = form.get("key", "").strip()
    target = form.get("next", "")
    begun = await FAILED_KEYS.reserve(services.gateway.store, request)
    if begun.refused is not None:
        return await refuse_sign_in(services, request, target, begun)
    cookie = await services.sessions.create_for_key(key)
    await FAILED_KEYS.settle(services.gateway.store, begun, is_success=cookie is not None)
    if cookie is None:
        return await send_sign_in_page(services, request, target, _WRONG_KEY, status=401)
    sent = SESSION_COOKIE.write(request, services.gateway.settings, cookie, SESSION_SECONDS)
    return redirect(resolve_redirect_path(target), set_cookie=[sent])


async def sign_out(services: DashboardServices, request: RouteRequest) -> RouteResponse:
    """End the session of the browser on the server, so that copies of its cookie are useless too."""
    form = read_own_form(request)
    session = await services.find_session(request)
    require_equal_tokens("" if session is None else session.form_token, form.get("token", ""))
    settings = services.gateway.settings
    await services.sessions.end(SESSION_COOKIE.read(request, settings))
    return redirect(SIGN_IN_PATH, set_cookie=[SESSION_COOKIE.write(request, settings, "", 0)])


async def refuse_sign_in(
    services: DashboardServices, request: RouteRequest, target: str, begun: Reservation
) -> RouteResponse:
    wait = int(begun.retry_after_seconds) + 1
    services.gateway.log_warning_once(
        f"Sign-ins to the dashboard from {request.address} are refused after several failures."
        f"{explain_limit(request, services.gateway.settings)}"
    )
    text = f"Several sign-ins from your address have failed. Wait {wait} s, then try again."
    return await send_sign_in_page(services, request, target, text, status=429, retry_after=wait)


async def send_sign_in_page(
    services: DashboardServices,
    request: RouteRequest,
    target: str,
    problem: str = "",
    *,
    status: int = 200,
    retry_after: int = 0,
) -> RouteResponse:
    provider = services.gateway.settings.oidc
    path = resolve_redirect_path(target)
    values = {
        "target": path,
        "problem": problem,
        "provider": "" if provider is None else urlsplit(provider.issuer).netloc,
        "start": f"{START_PATH}?next={quote(path, safe='/')}",
    }
    headers = {"retry-after": str(retry_after)} if retry_after else {}
    return await send_public_page(request, "sign_in.html", "Sign in", values, status=status, headers=headers)
