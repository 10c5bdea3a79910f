"""The response of the identity provider: it belongs to a sign-in to the dashboard, or to one of a device."""

from anthropic_proxy.console.dashboard.oidc import explain_error, finish_sign_in
from anthropic_proxy.console.dashboard.services import DashboardServices
from anthropic_proxy.console.identity.attempts import ATTEMPT_COOKIE, decode_attempt
from anthropic_proxy.console.identity.people import OidcError, require_provider
from anthropic_proxy.plugins import RouteRequest, RouteResponse


async def finish_oidc(services: DashboardServices, request: RouteRequest) -> RouteResponse:
    """Answer the request with which the provider's response comes."""
    settings = services.gateway.settings
    try:
        require_provider(settings)
        cookie = ATTEMPT_COOKIE.read(request, settings)
        attempt = decode_attempt(cookie, request.query.get("state", [""])[-1], settings)
    except OidcError as error:  # not counted: other sites can cause this request with a link
        return await explain_error(services, request, error)
    if attempt.purpose == "dashboard":
        return await finish_sign_in(services, request, attempt)
    from anthropic_proxy.console.dashboard.device import finish_device  # noqa: PLC0415  # needs an optional library

    return await finish_device(services, request, attempt)
