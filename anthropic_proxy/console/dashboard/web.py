"""HTTP of the pages: forms and their protection against forgery (CSRF), compression, static files, templates.

Other web sites can make a browser send a form in the user's name. Each form of the dashboard therefore contains a
token, a random text that other sites cannot read: that of the session, or of a cookie if no sign-in is required.

The URL of a static file (such as the style sheet) contains a hash of its content, so that browsers can keep the file.
"""

import asyncio
import gzip
import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from msgspec import Struct

from anthropic_proxy import __version__
from anthropic_proxy.console import formats
from anthropic_proxy.console.dashboard.charts import BASE, HEIGHT, trace_sparkline
from anthropic_proxy.console.dashboard.conversation import escape_controls, mark_up
from anthropic_proxy.console.dashboard.frames import ErrorFrame, Frame, NavigationFrame
from anthropic_proxy.console.dashboard.panels import FailedPanel
from anthropic_proxy.console.dashboard.permissions import Session
from anthropic_proxy.console.dashboard.query import session_link, title_month
from anthropic_proxy.console.identity.cookies import Cookie
from anthropic_proxy.engine.patterns import compile_anchored
from anthropic_proxy.engine.platforms.program import name_program
from anthropic_proxy.errors import InvalidRequest, PermissionDenied
from anthropic_proxy.gateway.money import format_cost
from anthropic_proxy.gateway.readiness import name_target
from anthropic_proxy.gateway.server.path_prefix import add_prefix_to_links
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import RouteRequest, RouteResponse

SECURITY_HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}
"""Response headers of all pages and static files. No page contains an inline style or script."""
_MIN_COMPRESSED_BYTES = 1_000
_GZIP_LEVEL = 5
_MAX_FORM_FIELDS = 20
FORM_COOKIE = Cookie(name="anthropic_proxy_form", path="/dashboard", same_site="Strict")
MAX_TARGET_CHARACTERS = 2_000


def read_own_form(request: RouteRequest) -> Mapping[str, str]:
    """Raises `PermissionDenied` if another site sent the form, and `InvalidRequest` for too many fields."""
    if not is_from_own_page(request):
        raise PermissionDenied(
            f"Forms of the web page {request.headers.get('origin', '')!r} are not accepted.", code="dashboard-form"
        )
    return read_form(request)


def read_form(request: RouteRequest) -> Mapping[str, str]:
    """Raises `InvalidRequest` for too many fields. The caller checks which site has sent the form."""
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


def find_or_create_form_token(request: RouteRequest, session: Session | None, settings: Settings) -> tuple[str, str]:
    """Return the random text that each form of one browser contains, as protection against forms of other sites, and
    the value of a header `Set-Cookie` that stores it. "": the browser has it in its session or a cookie.
    """
    if session is not None:
        return session.form_token, ""
    token = FORM_COOKIE.read(request, settings)
    if len(token) >= 32:
        return token, ""
    token = secrets.token_urlsafe(32)
    return token, FORM_COOKIE.write(request, settings, token)


def require_token(request: RouteRequest, session: Session | None, settings: Settings, presented: str) -> None:
    token, new_cookie = find_or_create_form_token(request, session, settings)
    require_equal_tokens("" if new_cookie else token, presented)


def require_equal_tokens(token: str, presented: str) -> None:
    """The error is also raised if `token` is empty, because the browser then has no token."""
    if not token or not hmac.compare_digest(token.encode(), presented.encode()):
        raise PermissionDenied("The form is not of this session. Open /dashboard again.", code="dashboard-form")


def find_address(request: RouteRequest, settings: Settings) -> str:
    """Return the address of the proxy for browsers and clients, without a path at the end: `https://host/path`."""
    return settings.dashboard_url or f"{request.scheme}://{request.headers.get('host', '')}"


def digest(text: str) -> str:
    """Return the SHA-256 of `text` as hexadecimal digits. Characters that UTF-8 cannot encode are hashed as `?`."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def compress_response(request: RouteRequest, response: RouteResponse) -> RouteResponse:
    body = response.body
    if not isinstance(body, bytes) or len(body) < _MIN_COMPRESSED_BYTES or not accepts_gzip(request):
        return response
    fields = {**response.headers, "content-encoding": "gzip", "vary": "accept-encoding, cookie"}
    body = add_prefix_to_links(response.headers, body, request.path_prefix)
    return RouteResponse(status=response.status, headers=fields, body=gzip.compress(body, _GZIP_LEVEL, mtime=0))


_GZIP = compile_anchored(r"\s*gzip\s*(;\s*q=(1|0?\.0*[1-9]|0\.0*[1-9])[0-9.]*\s*)?")


def accepts_gzip(request: RouteRequest) -> bool:
    codings = request.headers.get("accept-encoding", "").lower().split(",")
    return any(_GZIP.fullmatch(coding) for coding in codings)


def redirect(target: str, *, set_cookie: Sequence[str] = ()) -> RouteResponse:
    location = quote(target, safe="/?&=%:+,;@!$'()*#~-._")
    headers = {"location": location, "cache-control": "no-store"}
    return RouteResponse(status=303, headers={**headers, "set-cookie": set_cookie} if set_cookie else headers)


_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
_HASH_CHARACTERS = 12


class Asset(Struct, frozen=True):
    url: str
    media_type: str
    content: bytes
    compressed: bytes


@cache
def load_assets() -> Mapping[str, Asset]:
    """Return all static files by name. The name has no hash: `dashboard.css`."""
    assets = {}
    for file in files(__package__).joinpath("static").iterdir():
        stem, _, extension = file.name.rpartition(".")
        if extension in _TYPES:
            content = file.read_bytes()
            digest = hashlib.sha256(content).hexdigest()[:_HASH_CHARACTERS]
            url = f"/dashboard/static/{stem}.{digest}.{extension}"
            assets[file.name] = Asset(url, _TYPES[extension], content, gzip.compress(content, mtime=0))
    return assets


def find_asset(url: str) -> Asset | None:
    return next((asset for asset in load_assets().values() if asset.url == url), None)


@cache
def load_environment() -> Environment:
    """Values in a template are escaped for HTML, and their control characters are visible. A template that uses a name
    without a value raises an error.
    """
    environment = Environment(
        loader=PackageLoader("anthropic_proxy.console.dashboard"),
        autoescape=True,
        finalize=escape_controls,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    of_formats = "count short_count seconds percent rate clock_time local_day day_and_time full_time describe_zone ago"
    for name in [*of_formats.split(), "plural", "provider_role", "keep_units", "digits_in_groups", "UNKNOWN"]:
        environment.globals[name] = getattr(formats, name)
    for function in (format_cost, session_link, trace_sparkline, name_program, mark_up, title_month, name_target):
        environment.globals[function.__name__] = function
    environment.globals |= {"version": __version__, "assets": load_assets(), "BASE": BASE, "HEIGHT": HEIGHT}
    environment.tests["failed"] = lambda panel: isinstance(panel, FailedPanel)
    return environment


Headers = Mapping[str, str] | None
"""Further headers of a response. None: none."""


def render_page(
    request: RouteRequest,
    template: str,
    frame: Frame,
    values: Mapping[str, Any] = {},
    *,
    status: int = 200,
    headers: Headers = None,
) -> RouteResponse:
    """`values`: those of the page itself."""
    body = load_environment().get_template(template).render({**frame, **values}).encode("utf-8", "replace")
    fields = {"content-type": "text/html; charset=utf-8", "cache-control": "no-store", **SECURITY_HEADERS}
    return compress_response(request, RouteResponse(status=status, headers={**fields, **(headers or {})}, body=body))


def render_error(
    request: RouteRequest,
    frame: NavigationFrame,
    status: int,
    message: str,
    *,
    setting: str = "",
    headers: Headers = None,
) -> RouteResponse:
    """Return a page with the navigation and a message. `setting`: line for `.env` that helps."""
    values: ErrorFrame = {**frame, "live": False, "message": message, "setting": setting, "tables": ()}
    return render_page(request, "error.html", values, status=status, headers=headers)


async def send_public_page(
    request: RouteRequest,
    template: str,
    title: str,
    values: Mapping[str, Any],
    *,
    status: int = 200,
    headers: Headers = None,
) -> RouteResponse:
    """Return the response with a page that needs no sign-in, such as the sign-in page, without links to other pages."""
    frame: Frame = {
        "title": title,
        "section": "",
        "pages": (),
        "theme": "",
        "running": (),
        "form_token": "",
        "live": False,
    }
    return await asyncio.to_thread(render_page, request, template, frame, values, status=status, headers=headers)
