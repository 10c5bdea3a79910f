"""What browsers send to the dashboard: cookies, and forms with their protection against forgery (CSRF).

Other web sites can make a browser send a form in the user's name. Each form of the dashboard therefore contains a
token, a random text that other sites cannot read: that of the session, or of a cookie if no sign-in is required.
"""

import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from msgspec import Struct

from anthropic_proxy.console.dashboard.permissions import Session
from anthropic_proxy.errors import InvalidRequest, PermissionDenied
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import Gateway, RouteRequest, RouteResponse

MAX_FORM_BYTES = 4_096
_MAX_FORM_FIELDS = 20
TOKEN_COOKIE = "anthropic_proxy_form"
MAX_TARGET_CHARACTERS = 2_000


def is_https(request: RouteRequest, settings: Settings) -> bool:
    """The reverse proxy uses TLS if `DASHBOARD_URL` begins with `https:`."""
    return request.scheme == "https" or settings.dashboard_url.startswith("https:")


def find_cookie(header: str, name: str) -> str:
    for pair in header.split(";"):
        key, _, value = pair.strip().partition("=")
        if key == name:
            return value
    return ""


def read_own_form(request: RouteRequest) -> Mapping[str, str]:
    """Raises `PermissionDenied` if another site sent the form, and `InvalidRequest` for too many fields."""
    if not is_from_own_page(request):
        raise PermissionDenied(
            f"Forms of the web page {request.headers.get('origin', '')!r} are not accepted.", code="dashboard-form"
        )
    try:
        fields = parse_qs(request.body.decode("utf-8", "replace"), max_num_fields=_MAX_FORM_FIELDS)
    except ValueError:
        raise InvalidRequest(
            f"The form has more than {_MAX_FORM_FIELDS} fields. Open /dashboard again.", code="dashboard-parameter"
        ) from None
    return {name: values[-1] for name, values in fields.items()}


def is_from_own_page(request: RouteRequest) -> bool:
    """The result is False for any other site, also for another host of the same domain."""
    headers = request.headers
    origin = headers.get("origin", "")
    if origin and origin.partition("://")[2].lower() != headers.get("host", "").lower():
        return False
    return headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")


def resolve_redirect_path(target: str) -> str:
    # prevents a link that redirects the browser to another site after the sign-in
    is_own = target == "/dashboard" or target.startswith(("/dashboard/", "/dashboard?"))
    is_short = len(target) <= MAX_TARGET_CHARACTERS
    return target if is_own and is_short and "\\" not in target and target.isprintable() else "/dashboard"


class FormToken(NamedTuple):
    """Random text that each form of one browser contains, as protection against forms of other sites."""

    token: str
    set_cookie: str = ""
    """Value of a header `Set-Cookie` that stores the token. "": the browser has it in its session or a cookie."""


def find_or_create_form_token(request: RouteRequest, session: Session | None, *, is_https: bool) -> FormToken:
    if session is not None:
        return FormToken(session.form_token)
    token = find_cookie(request.headers.get("cookie", ""), TOKEN_COOKIE)
    if len(token) >= 32:
        return FormToken(token)
    token = secrets.token_urlsafe(32)
    secure = "; Secure" if is_https else ""
    return FormToken(token, f"{TOKEN_COOKIE}={token}; Path=/dashboard; HttpOnly; SameSite=Strict{secure}")


def require_token(request: RouteRequest, session: Session | None, presented: str) -> None:
    token, new_cookie = find_or_create_form_token(request, session, is_https=True)
    require_equal_tokens("" if new_cookie else token, presented)


def require_equal_tokens(token: str, presented: str) -> None:
    """The error is also raised if `token` is empty, because the browser then has no token."""
    if not token or not hmac.compare_digest(token.encode(), presented.encode()):
        raise PermissionDenied("The form is not of this session. Open /dashboard again.", code="dashboard-form")


class OpenedForm(Struct, frozen=True):
    request: RouteRequest
    session: Session | None
    """None: no sign-in is required."""
    gateway: Gateway
    respond: Callable[[str, Mapping[str, Any]], Awaitable[RouteResponse]]
    """Renders a template. A text in `problem` of the values makes the HTTP status 400."""


def digest(text: str) -> str:
    """Return the SHA-256 of `text` as hexadecimal digits. Characters that UTF-8 cannot encode are hashed as `?`."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
