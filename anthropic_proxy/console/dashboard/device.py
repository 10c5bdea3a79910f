"""The page `/device`, on which a person confirms the code of a device that signs in from Claude Code.

Nothing is confirmed without a click, and a session of the dashboard is not enough: the identity provider says who the
person is.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from anthropic_proxy.console.dashboard.oidc import complete_attempt, end_attempt, log_rejection, redirect_to_provider
from anthropic_proxy.console.dashboard.web import SECURITY_HEADERS, read_form, send_public_page
from anthropic_proxy.console.gateway_protocol.grants import CODE_SECONDS, DeviceCode, Grants, normalize_user_code
from anthropic_proxy.console.identity.attempts import SignInAttempt
from anthropic_proxy.console.identity.limits import AddressLimit, Window
from anthropic_proxy.console.identity.people import OidcError, OidcUser, UserRefused
from anthropic_proxy.console.keys.access_tokens import TokenKeys
from anthropic_proxy.console.ledger.database import DATABASE_ERRORS
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Gateway, Limit, RouteRequest, RouteResponse

if TYPE_CHECKING:
    from anthropic_proxy.console.dashboard.site import Site

_WRONG_CODES = AddressLimit("sign-in/user-codes", (Window(300, 600.0),))
"""Limit of user codes that no device waits with. Those that are looked up at the moment count too. Each guess finds one
of 5,000 codes among 25,600 millions."""
_MAX_CONFIRMATIONS = 5
"""Maximum number of confirmations of one code, such as of a person that went back in the browser."""
ResultT = TypeVar("ResultT")
_NO_DATABASE = "The database of the proxy is not available. Try again in a moment."
_UNKNOWN_CODE = (
    "No device waits with this code. Compare it with the one that Claude Code shows. After ten minutes, start the "
    "sign-in again there."
)


async def show_device(site: "Site", request: RouteRequest) -> RouteResponse:
    """Show the form for a user code, or the device that waits with the code in the URL. A form confirms or denies."""
    if _find_grants(site.gateway.settings) is None:
        return await _send_device_page(
            site, request, "SIGN_IN_SECRET is not set, so nobody signs in from Claude Code here.", status=404
        )
    try:
        if request.method == "POST":
            return await _decide(site, request)
        text = request.query.get("user_code", [""])[-1]
        code = await _require_code(site, request, text) if text else None
        return await _send_device_page(site, request, code=code)
    except OidcError as error:
        return await _send_device_page(site, request, error.message, status=error.status)
    except (*DATABASE_ERRORS, ConfigurationError):
        return await _send_device_page(site, request, _NO_DATABASE, status=503)


async def _decide(site: "Site", request: RouteRequest) -> RouteResponse:
    """Raises `OidcError`, also if another web site may have sent the form."""
    settings, origin = site.gateway.settings, request.headers.get("origin", "")
    fetch_site = request.headers.get("sec-fetch-site")
    if fetch_site is None:
        is_own = f"{origin}{settings.path_prefix}" == settings.dashboard_url
    else:
        is_own = fetch_site in ("same-origin", "none")
    if not is_own:
        raise OidcError(
            f"The form did not come from the page of this proxy at {settings.dashboard_url}. Open the link that Claude "
            "Code shows."
        )
    form = read_form(request)
    code = await _require_code(site, request, form.get("user_code", ""))
    action = form.get("action", "")
    if action == "deny":
        await _use_grants(site, request, lambda grants: grants.reject(code.code_hash))
        return await _send_device_page(site, request, result="The sign-in is denied. You can close this page.")
    if action != "confirm":  # a code was entered
        return await _send_device_page(site, request, code=code)
    place = f"sign-in/confirmations/{code.code_hash}"
    counted = await site.gateway.store.reserve([Limit(place, "rate", 1, _MAX_CONFIRMATIONS, float(CODE_SECONDS))])
    if counted.refused is not None:
        raise OidcError("The code was confirmed too often. Start the sign-in again in Claude Code.", status=429)
    return await redirect_to_provider(site, request, SignInAttempt(purpose="device", target=code.code_hash))


async def _require_code(site: "Site", request: RouteRequest, text: str) -> DeviceCode:
    """Raises `OidcError` if no device waits with the user code `text`, and for too many such codes."""
    begun = await _WRONG_CODES.reserve(site.gateway.store, request)
    if begun.refused is not None:
        wait = int(begun.retry_after_seconds) + 1
        raise OidcError(f"Several codes from your address were wrong. Wait {wait} s, then try again.", status=429)
    user_code, code = normalize_user_code(text), None
    if user_code:
        code = await _use_grants(site, request, lambda grants: grants.find_code("user_code", user_code))
    is_waiting = code is not None and code.state == "pending"
    await _WRONG_CODES.settle(site.gateway.store, begun, is_success=is_waiting)
    if code is None or not is_waiting:
        raise OidcError(_UNKNOWN_CODE, status=404)
    return code


async def finish_device(site: "Site", request: RouteRequest, attempt: SignInAttempt) -> RouteResponse:
    """Answer the provider's response: the device may sign in as the user."""

    async def approve(user: OidcUser, provider_token: str) -> RouteResponse:
        try:
            code = await _use_grants(site, request, lambda grants: grants.approve(attempt.target, user, provider_token))
        except (*DATABASE_ERRORS, ConfigurationError):
            raise OidcError(_NO_DATABASE, status=503) from None
        result = f"{code.device} is signed in as {user.email}. Return to Claude Code, and confirm the account there."
        return end_attempt(site, request, await _send_device_page(site, request, result=result))

    async def explain(error: OidcError) -> RouteResponse:
        if isinstance(error, UserRefused):  # Claude Code shows the reason too
            with suppress(*DATABASE_ERRORS, ConfigurationError):
                await _use_grants(site, request, lambda grants: grants.reject(attempt.target, error.message))
        page = await _send_device_page(site, request, error.message, status=error.status)
        return log_rejection(site, request, error, page)

    return await complete_attempt(site, request, attempt, approve, explain)


def _find_grants(settings: Settings) -> Grants | None:
    return None if settings.sign_in is None else Grants(settings, TokenKeys(settings.sign_in))


async def _use_grants(site: "Site", request: RouteRequest, use: Callable[[Grants], ResultT]) -> ResultT:
    def call(gateway: Gateway) -> ResultT:
        grants = _find_grants(gateway.settings)
        assert grants is not None
        return use(grants)

    # the address may be that of a whole company, and its requests are limited before
    return await site.use_database(request, call, client=request.request_id)


async def _send_device_page(
    site: "Site",
    request: RouteRequest,
    problem: str = "",
    *,
    code: DeviceCode | None = None,
    result: str = "",
    status: int = 200,
) -> RouteResponse:
    """`code`: a device that waits. None: the page asks for a code, unless it has a `result`. Raises `OidcError`."""
    provider = site.gateway.settings.oidc
    values: dict[str, Any] = {
        "problem": problem,
        "code": code,
        "result": result,
        "provider": "" if provider is None else urlsplit(provider.issuer).netloc,
    }
    headers = {"referrer-policy": "no-referrer"}
    if code is not None:
        client = await site.provider.find_client()
        origin = await client.find_authorization_origin()
        # Chrome applies `form-action` to each redirect, and a provider may lead to the one of another company
        others = " https:" if origin.startswith("https:") else ""
        policy = SECURITY_HEADERS["content-security-policy"]
        allowed = policy.replace("form-action 'self'", f"form-action 'self' {origin}{others}")
        headers["content-security-policy"] = allowed
    return await send_public_page(
        request, "device.html", "Sign in from Claude Code", values, status=status, headers=headers
    )
