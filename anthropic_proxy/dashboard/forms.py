"""Forms of the dashboard, and their protection against forms that other web sites send in the user's name (CSRF).

Each form contains a token, a random text that other sites cannot read. `find_or_create_form_token` returns it as a
`FormToken`, and `require_token` rejects a sent form without it. `read_own_form` returns the fields of a sent form.
`is_from_own_page` returns False for a request that another site caused. `resolve_redirect_path` prevents redirects to
other sites.
"""

import hmac
import secrets
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qs

from anthropic_proxy.dashboard.browser_sessions import Session
from anthropic_proxy.dashboard.sign_in import find_cookie
from anthropic_proxy.errors import InvalidRequest, PermissionDenied
from anthropic_proxy.plugins import RouteRequest

MAX_FORM_BYTES = 4_096
"""Maximum size in bytes of a form that a browser sends."""
_MAX_FORM_FIELDS = 20
TOKEN_COOKIE = "anthropic_proxy_form"
MAX_TARGET_CHARACTERS = 2_000
"""Maximum number of characters of the URL path to which a browser is redirected after sign-in."""


def read_own_form(request: RouteRequest) -> Mapping[str, str]:
    """Return the fields of the form in the body of `request`.

    Raises `PermissionDenied` if another site sent the form, and `InvalidRequest` for too many fields.
    """
    if not is_from_own_page(request):
        raise PermissionDenied(f"Forms of the web page {request.headers.get('origin', '')!r} are not accepted.")
    try:
        fields = parse_qs(request.body.decode("utf-8", "replace"), max_num_fields=_MAX_FORM_FIELDS)
    except ValueError:
        raise InvalidRequest(f"The form has more than {_MAX_FORM_FIELDS} fields. Open /dashboard again.") from None
    return {name: values[-1] for name, values in fields.items()}


def is_from_own_page(request: RouteRequest) -> bool:
    """Return True if a page of this proxy sent `request`, or the user opened its URL directly.

    The request headers decide this. The result is False for any other site, also for another host of the same domain.
    """
    headers = request.headers
    origin = headers.get("origin", "")
    if origin and origin.partition("://")[2].lower() != headers.get("host", "").lower():
        return False
    return headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")


def resolve_redirect_path(target: str) -> str:
    """Return `target` if it is a path of the dashboard, otherwise `/dashboard`."""
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
    """Return the random text that the forms of this browser contain. A browser without one receives a new one."""
    if session is not None:
        return FormToken(session.form_token)
    token = find_cookie(request.headers.get("cookie", ""), TOKEN_COOKIE)
    if len(token) >= 32:
        return FormToken(token)
    token = secrets.token_urlsafe(32)
    secure = "; Secure" if is_https else ""
    return FormToken(token, f"{TOKEN_COOKIE}={token}; Path=/dashboard; HttpOnly; SameSite=Strict{secure}")


def require_token(request: RouteRequest, session: Session | None, presented: str) -> None:
    """Raise `PermissionDenied` if `presented`, the token in a sent form, is not the token of the browser."""
    token, new_cookie = find_or_create_form_token(request, session, is_https=True)
    require_equal_tokens("" if new_cookie else token, presented)


def require_equal_tokens(token: str, presented: str) -> None:
    """Raise `PermissionDenied` if `presented`, the token in a sent form, differs from `token`, that of the browser.

    The error is also raised if `token` is empty, because the browser then has no token.
    """
    if not token or not hmac.compare_digest(token.encode(), presented.encode()):
        raise PermissionDenied("The form is not of this session. Open /dashboard again.")
