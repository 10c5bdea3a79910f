"""Sign-ins at the identity provider: the way of the browser to it and back, and the sign-in to the dashboard."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from anthropic_proxy.console.dashboard.browser_sessions import (
    SESSION_COOKIE,
    SESSION_SECONDS,
)
from anthropic_proxy.console.dashboard.services import DashboardServices
from anthropic_proxy.console.dashboard.sign_in import (
    refuse_sign_in,
    send_sign_in_page,
)
from anthropic_proxy.console.dashboard.web import (
    digest,
    find_address,
    redirect,
    resolve_redirect_path,
    send_public_page,
)
from anthropic_proxy.console.identity.attempts import (
    ATTEMPT_COOKIE,
    ATTEMPT_SECONDS,
    CALLBACK_PATH,
    SignInAttempt,
    encode_attempt,
)
from anthropic_proxy.console.identity.limits import AddressLimit, Window
from anthropic_proxy.console.identity.people import (
    RETRY,
    OidcError,
    OidcUser,
    accept_user,
    require_role,
)
from anthropic_proxy.console.keys.administration import KeyOutcome, open_administration
from anthropic_proxy.console.keys.admission import admit_person
from anthropic_proxy.console.ledger.database import LEDGER_FAILURES, write_at_once
from anthropic_proxy.console.ledger.reader_threads import PASSING_FAILURES
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Gateway, RouteRequest, RouteResponse

if TYPE_CHECKING:
    from anthropic_proxy.console.identity.oidc_client import ProviderReply

_FAILED_RESPONSES = AddressLimit("dashboard/sign-in/provider", (Window(300, 60.0), Window(1_200, 3_600.0)))
"""Limit of rejected responses of the identity provider. Those that are checked at the moment count too."""
_MAX_TARGET_CHARACTERS = 1_000
_MAX_SHOWN_CHARACTERS = 200
_MAX_CODE_CHARACTERS = 4_096
NO_DATABASE = "The database of the proxy is not available. Load this page again in a moment."


async def start_oidc(services: DashboardServices, request: RouteRequest) -> RouteResponse:
    target = resolve_redirect_path(request.query.get("next", [""])[-1])
    target = target if len(target) <= _MAX_TARGET_CHARACTERS else "/dashboard"
    try:
        return await redirect_to_provider(services, request, SignInAttempt(target=target))
    except OidcError as error:
        return await explain_error(services, request, error)


async def finish_sign_in(services: DashboardServices, request: RouteRequest, attempt: SignInAttempt) -> RouteResponse:
    """Open a session of the dashboard for the user of the provider's response."""
    settings = services.gateway.settings

    async def open_session(user: OidcUser, reply: "ProviderReply") -> RouteResponse:
        person = ""
        if settings.virtual_keys:
            admitted = await _admit(services, request, user, reply.asked_at)
            log_notices(services, admitted)
            person = admitted.key.id
            user = admitted.user or user
        else:
            require_role(settings, user)
        session = await services.sessions.create_for_user(user, person)
        target = resolve_redirect_path(attempt.target)
        cookies = [
            SESSION_COOKIE.write(request, settings, session, SESSION_SECONDS),
            ATTEMPT_COOKIE.write(request, settings, "", 0),
        ]
        # no redirect: after one that began at the identity provider, the browser would not send the session's cookie
        page = await send_public_page(request, "signed_in.html", "Signed in", {"target": target})
        location = redirect(target).headers["location"]
        return replace(page, headers={**page.headers, "refresh": f"0; url={location}", "set-cookie": cookies})

    return await complete_attempt(services, request, attempt, open_session, partial(explain_error, services, request))


async def _admit(services: DashboardServices, request: RouteRequest, user: OidcUser, stated_at: float) -> KeyOutcome:
    """Raises `OidcError`."""

    def admit(gateway: Gateway[Settings]) -> KeyOutcome:
        with open_administration(gateway.settings, f"dashboard ({user.email})") as administration:
            return admit_person(administration, gateway.settings, user, require_role, stated_at=stated_at)

    # the address may be that of a whole company, and its requests are limited before
    return await services.use_database(request, admit, client=request.request_id)


async def complete_attempt(
    services: DashboardServices,
    request: RouteRequest,
    attempt: SignInAttempt,
    complete: Callable[[OidcUser, "ProviderReply"], Awaitable[RouteResponse]],
    explain: Callable[[OidcError], Awaitable[RouteResponse]],
) -> RouteResponse:
    """Find the user of the provider's response. `complete` gets the user and the response, and may
    raise `OidcError` and `PASSING_FAILURES`. `explain` answers if the response or the user is rejected.

    The provider answers once about its response. So it is asked after the database has taken a change, and its answer
    is kept for the browser if that fails nevertheless.
    """
    store = services.gateway.store
    begun = await _FAILED_RESPONSES.reserve(store, request)
    if begun.refused is not None:
        return await refuse_sign_in(services, request, "", begun)
    reply = services.kept_replies.pop(attempt.state, None)
    try:
        if services.gateway.settings.virtual_keys:
            await services.use_database(request, _require_database, client=request.request_id)
        if reply is None:
            reply = await _request_user(services, request, attempt)
        page = await complete(accept_user(services.gateway.settings, reply.claims), reply)
    except PASSING_FAILURES as error:
        if reply is not None:
            services.kept_replies[attempt.state] = reply
        await _FAILED_RESPONSES.settle(store, begun, is_success=True)
        text = NO_DATABASE if isinstance(error, LEDGER_FAILURES) else error.message
        return await explain(OidcError(text, status=503))
    except OidcError as error:
        await _FAILED_RESPONSES.settle(store, begun, is_success=False)
        return await explain(error)
    await _FAILED_RESPONSES.settle(store, begun, is_success=True)
    return page


def _require_database(gateway: Gateway[Settings]) -> None:
    write_at_once(gateway.settings, lambda connection: None)


async def redirect_to_provider(
    services: DashboardServices, request: RouteRequest, attempt: SignInAttempt
) -> RouteResponse:
    """The response has a cookie of random values that the provider's response is compared with. Raises `OidcError`."""
    client = await services.provider.find_client()
    url = await client.build_authorization_url(attempt, _redirect_uri(services, request))
    settings = services.gateway.settings
    cookie = ATTEMPT_COOKIE.write(request, settings, encode_attempt(attempt, settings), ATTEMPT_SECONDS)
    headers = {"location": url, "cache-control": "no-store", "set-cookie": cookie}
    return RouteResponse(status=303, headers=headers)


async def _request_user(services: DashboardServices, request: RouteRequest, attempt: SignInAttempt) -> "ProviderReply":
    """Check the provider's response in the URL, and ask for its user. Raises `OidcError`."""
    query = {name: values[-1] for name, values in request.query.items()}
    client = await services.provider.find_client()
    used = await services.gateway.store.increment(f"dashboard/oidc/{digest(attempt.state)}", 1, ATTEMPT_SECONDS)
    if used > 1:  # a response is accepted only once
        raise OidcError(f"This sign-in was completed before, or was canceled. {RETRY}")
    await client.require_issuer(query.get("iss"))
    if error := query.get("error", ""):
        reason = query.get("error_description", "") or error
        raise OidcError(f"The identity provider refused the sign-in: {reason[:_MAX_SHOWN_CHARACTERS]}. {RETRY}")
    code = query.get("code", "")
    if not 0 < len(code) <= _MAX_CODE_CHARACTERS:
        raise OidcError(f"The response of the identity provider contains no code. {RETRY}")
    return await client.request_claims(code, attempt, _redirect_uri(services, request))


def _redirect_uri(services: DashboardServices, request: RouteRequest) -> str:
    return f"{find_address(request, services.gateway.settings)}{CALLBACK_PATH}"


async def explain_error(services: DashboardServices, request: RouteRequest, error: OidcError) -> RouteResponse:
    text = error.describe_to_people(services.gateway.settings.limit_contact)
    page = await send_sign_in_page(services, request, "", text, status=error.status)
    return log_rejection(services, request, error, page)


def log_notices(services: DashboardServices, admitted: KeyOutcome) -> None:
    for notice in admitted.notices:
        services.gateway.log_warning_each_time(notice)


def log_rejection(
    services: DashboardServices, request: RouteRequest, error: OidcError, page: RouteResponse
) -> RouteResponse:
    """Return the page that states the reason, so that it ends the attempt, unless the reason passes."""
    services.gateway.log_warning_each_time(f"Sign-in from {request.address} was rejected. {error.message}")
    if error.passes:
        return page
    cookie = ATTEMPT_COOKIE.write(request, services.gateway.settings, "", 0)
    return replace(page, headers={**page.headers, "set-cookie": cookie})
