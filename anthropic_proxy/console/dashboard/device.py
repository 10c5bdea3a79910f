"""The page `/device`, on which a person confirms the code of a device that signs in from Claude Code, and then approves
the sign-in with the account that the identity provider has named.

A session of the dashboard is not enough. The provider asks a known user nothing, so its response alone approves nothing
either: it may be to a link of somebody else (RFC 8628, section 5.4). The form that approves has a signature over the
code, the account and a cookie, so that only the browser that returned from the provider can send it.
"""

import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from msgspec import structs

from anthropic_proxy.console.dashboard.oidc import (
    NO_DATABASE,
    complete_attempt,
    log_notices,
    log_rejection,
    redirect_to_provider,
)
from anthropic_proxy.console.dashboard.services import DashboardServices
from anthropic_proxy.console.dashboard.web import SECURITY_HEADERS, read_form, send_public_page
from anthropic_proxy.console.gateway_protocol.grants import (
    CODE_SECONDS,
    WAITS_NO_LONGER,
    DeviceCode,
    Grants,
    normalize_user_code,
)
from anthropic_proxy.console.identity.attempts import SignInAttempt, is_signed, sign_text
from anthropic_proxy.console.identity.cookies import Cookie
from anthropic_proxy.console.identity.limits import AddressLimit, Window
from anthropic_proxy.console.identity.people import OidcError, OidcUser, UserRefused
from anthropic_proxy.console.keys.access_tokens import TokenKeys
from anthropic_proxy.console.ledger.reader_threads import PASSING_FAILURES
from anthropic_proxy.engine.platforms.program import COMMANDS_USER_AGENT
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Gateway, Limit, RouteRequest, RouteResponse

if TYPE_CHECKING:
    from anthropic_proxy.console.identity.oidc_client import ProviderReply

_WRONG_CODES = AddressLimit("sign-in/user-codes", (Window(300, 600.0),))
"""Limit of user codes that no device waits with. Those that are looked up at the moment count too. Each guess finds one
of 5,000 codes among 25,600 millions."""
_BROWSER_COOKIE = Cookie(name="anthropic_proxy_device", path="/", same_site="Lax")
"""Random text of a browser that returned from the provider: several devices in several tabs have the same one. With
`Strict`, the browser would not send it with the provider's response."""
_CLAUDE_CODE = "Claude Code"
_TERMINAL = "the terminal"
"""Where a sign-in begins: the terminal is that of `anthropic-proxy login`."""
_MAX_CONFIRMATIONS = 5
"""Maximum number of confirmations of one code, such as of a person that went back in the browser."""
ResultT = TypeVar("ResultT")
_UNKNOWN_CODE = (
    "No device waits with this code. Compare it with the one that the device shows. After ten minutes, start the "
    "sign-in again there."
)


async def show_device(services: DashboardServices, request: RouteRequest) -> RouteResponse:
    """Show the form for a user code, or the device that waits with the code in the URL. A form confirms or denies."""
    if _find_grants(services.gateway.settings) is None:
        return await _send_device_page(
            services, request, "SIGN_IN_SECRET is not set, so nobody signs in from Claude Code here.", status=404
        )
    try:
        if request.method == "POST":
            return await _decide(services, request)
        text = request.query.get("user_code", [""])[-1]
        code = await _require_code(services, request, text) if text else None
        return await _send_device_page(services, request, code=code)
    except OidcError as error:
        return await _send_device_page(services, request, _explain(services, error), status=error.status)
    except PASSING_FAILURES:
        return await _send_device_page(services, request, NO_DATABASE, status=503)


async def _decide(services: DashboardServices, request: RouteRequest) -> RouteResponse:
    """Raises `OidcError`, also if another web site may have sent the form."""
    settings = services.gateway.settings
    origin = request.headers.get("origin", "")
    fetch_site = request.headers.get("sec-fetch-site")
    if fetch_site is None:
        is_own = f"{origin}{settings.path_prefix}" == settings.dashboard_url
    else:
        is_own = fetch_site in ("same-origin", "none")
    if not is_own:
        raise OidcError(
            f"The form did not come from the page of this proxy at {settings.dashboard_url}. Open the link that the "
            "device shows."
        )
    form = read_form(request)
    action = form.get("action", "")
    missing = WAITS_NO_LONGER if action == "approve" else _UNKNOWN_CODE
    code = await _require_code(services, request, form.get("user_code", ""), missing)
    if action == "deny":
        await _use_grants(services, request, lambda grants: grants.reject(code.code_hash))
        return await _send_device_page(services, request, result="The sign-in is denied. You can close this page.")
    if action == "approve":
        return await _approve(services, request, code, form.get("token", ""))
    if action != "confirm":  # a code was entered
        return await _send_device_page(services, request, code=code)
    place = f"sign-in/confirmations/{code.code_hash}"
    counted = await services.gateway.store.reserve([Limit(place, "rate", 1, _MAX_CONFIRMATIONS, float(CODE_SECONDS))])
    if counted.refused is not None:
        raise OidcError("The code was confirmed too often. Start the sign-in again on the device.", status=429)
    return await redirect_to_provider(services, request, SignInAttempt(purpose="device", target=code.code_hash))


async def _approve(services: DashboardServices, request: RouteRequest, code: DeviceCode, token: str) -> RouteResponse:
    """Raises `OidcError`, also if another browser or another user has signed in for the device since."""
    settings = services.gateway.settings
    user = code.user
    browser = _BROWSER_COOKIE.read(request, settings)
    if user is None or not browser or not is_signed("approval", _list_approved(browser, code), token, settings):
        raise OidcError("The form is not of the last sign-in for this code. Open the link that the device shows again.")
    try:
        admitted = await _use_grants(services, request, lambda grants: grants.approve(code))
    except UserRefused as error:
        await _refuse(services, request, code.code_hash, error)
        raise
    log_notices(services, admitted)
    program = _name_program(code)
    end = f"Return to {program}." if program == _TERMINAL else f"Return to {program}, and confirm the account there."
    result = f"{code.device} is signed in as {user.email}. {end}"
    return await _send_device_page(services, request, result=result, program=program)


def _name_program(code: DeviceCode | None) -> str:
    """Return where the person has begun the sign-in, as the device states it."""
    return _TERMINAL if code is not None and code.device == COMMANDS_USER_AGENT else _CLAUDE_CODE


def _list_approved(browser: str, code: DeviceCode) -> str:
    """Return what a signature of the form is for. `browser`: value of the cookie."""
    return f"{browser}.{code.code_hash}.{code.person}"


async def _refuse(services: DashboardServices, request: RouteRequest, code_hash: str, error: UserRefused) -> None:
    """Claude Code shows the reason too."""
    with suppress(*PASSING_FAILURES):
        await _use_grants(services, request, lambda grants: grants.reject(code_hash, _explain(services, error)))


def _explain(services: DashboardServices, error: OidcError) -> str:
    return error.describe_to_people(services.gateway.settings.limit_contact)


async def _require_code(
    services: DashboardServices, request: RouteRequest, text: str, missing: str = _UNKNOWN_CODE
) -> DeviceCode:
    """Raises `OidcError` with the text `missing` if no device waits with the user code `text`, and for too many such
    codes.
    """
    begun = await _WRONG_CODES.reserve(services.gateway.store, request)
    if begun.refused is not None:
        wait = int(begun.retry_after_seconds) + 1
        raise OidcError(f"Several codes from your address were wrong. Wait {wait} s, then try again.", status=429)
    user_code = normalize_user_code(text)
    is_wrong = not user_code
    code = None
    try:
        if user_code:
            code = await _use_grants(services, request, lambda grants: grants.find_code("user_code", user_code))
            is_wrong = code is None or code.state != "pending"
    finally:  # a failure says nothing about the code
        await _WRONG_CODES.settle(services.gateway.store, begun, is_success=not is_wrong)
    if code is None or is_wrong:
        raise OidcError(missing, status=404)
    return code


async def finish_device(services: DashboardServices, request: RouteRequest, attempt: SignInAttempt) -> RouteResponse:
    """Answer the provider's response: ask the user whether the device may sign in."""
    settings = services.gateway.settings

    async def ask(user: OidcUser, reply: "ProviderReply") -> RouteResponse:
        target = attempt.target
        code = await _use_grants(services, request, lambda grants: grants.identify(target, user, reply.refresh_token))
        browser = _BROWSER_COOKIE.read(request, settings) or secrets.token_urlsafe(32)
        token = sign_text("approval", _list_approved(browser, code), settings)
        page = await _send_device_page(services, request, code=code, user=user, token=token)
        # the cookie of the attempt stays: a person that comes back to this page reads that the sign-in is completed
        cookie = _BROWSER_COOKIE.write(request, settings, browser, CODE_SECONDS)
        return structs.replace(page, headers={**page.headers, "set-cookie": cookie})

    async def explain(error: OidcError) -> RouteResponse:
        if isinstance(error, UserRefused):
            await _refuse(services, request, attempt.target, error)
        page = await _send_device_page(services, request, _explain(services, error), status=error.status)
        return log_rejection(services, request, error, page)

    return await complete_attempt(services, request, attempt, ask, explain)


def _find_grants(settings: Settings) -> Grants | None:
    return None if settings.sign_in is None else Grants(settings, TokenKeys(settings.sign_in))


async def _use_grants(services: DashboardServices, request: RouteRequest, use: Callable[[Grants], ResultT]) -> ResultT:
    def call(gateway: Gateway[Settings]) -> ResultT:
        grants = _find_grants(gateway.settings)
        assert grants is not None
        return use(grants)

    # the address may be that of a whole company, and its requests are limited before
    return await services.use_database(request, call, client=request.request_id)


async def _send_device_page(
    services: DashboardServices,
    request: RouteRequest,
    problem: str = "",
    *,
    code: DeviceCode | None = None,
    user: OidcUser | None = None,
    token: str = "",
    result: str = "",
    program: str = "",
    status: int = 200,
) -> RouteResponse:
    """`code`: a device that waits. None: the page asks for a code, unless it has a `result`. `user`: who has signed in
    at the provider, and approves with `token`; None: the page leads to the provider. Raises `OidcError`.
    """
    provider = services.gateway.settings.oidc
    program = program or _name_program(code)
    values: dict[str, Any] = {
        "problem": problem,
        "code": code,
        "account": "" if user is None else user.email,
        "token": token,
        "result": result,
        "program": program,
        "provider": "" if provider is None else urlsplit(provider.issuer).netloc,
    }
    headers = {"referrer-policy": "no-referrer"}
    if code is not None and user is None:
        client = await services.provider.find_client()
        origin = await client.find_authorization_origin()
        # Chrome applies `form-action` to each redirect, and a provider may lead to the one of another company
        others = " https:" if origin.startswith("https:") else ""
        policy = SECURITY_HEADERS["content-security-policy"]
        allowed = policy.replace("form-action 'self'", f"form-action 'self' {origin}{others}")
        headers["content-security-policy"] = allowed
    return await send_public_page(
        request, "device.html", f"Sign in from {program}", values, status=status, headers=headers
    )
