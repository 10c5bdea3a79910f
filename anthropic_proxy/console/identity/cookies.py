"""Cookies of the proxy. Where its address is https, no other host can set one.

A host such as `app.example.org` can set a cookie of any name for all hosts of `example.org`, and the receiver does not
learn who has set it. With such a cookie, it would continue a sign-in or a session that somebody else began. A browser
accepts a name with `__Host-` only from the host itself, over https, for all its paths (RFC 6265bis, section 4.1.3.2).
As such a cookie has no path, the names of proxies below a path of one host have a hash of it.
"""

import hashlib
from typing import Literal

from msgspec import Struct

from anthropic_proxy.gateway.server.path_prefix import HOST_COOKIE
from anthropic_proxy.gateway.settings import Settings
from anthropic_proxy.plugins import RouteRequest

_HASH_CHARACTERS = 12


class Cookie(Struct, frozen=True, kw_only=True):
    name: str
    path: str
    """Path of the cookie at an address with http."""
    same_site: Literal["Lax", "Strict"]

    def read(self, request: RouteRequest, settings: Settings) -> str:
        """Return the value that the browser sent. "": none. At an address with https, a cookie that another host could
        have set is not read.
        """
        return find_cookie(request.headers.get("cookie", ""), self._find_name(request, settings))

    def write(self, request: RouteRequest, settings: Settings, value: str, seconds: int | None = None) -> str:
        """Return the header `Set-Cookie`. With 0 `seconds`, the browser removes the cookie. None: it keeps the cookie
        until it is closed.
        """
        lifetime = "" if seconds is None else f"; Max-Age={seconds}"
        place = "Path=/; Secure" if _is_https(request, settings) else f"Path={self.path}"
        name = self._find_name(request, settings)
        return f"{name}={value}; {place}{lifetime}; HttpOnly; SameSite={self.same_site}"

    def _find_name(self, request: RouteRequest, settings: Settings) -> str:
        if not _is_https(request, settings):
            return self.name
        prefix = settings.path_prefix
        suffix = f"-{hashlib.sha256(prefix.encode()).hexdigest()[:_HASH_CHARACTERS]}" if prefix else ""
        return f"{HOST_COOKIE}{self.name}{suffix}"


def find_cookie(header: str, name: str) -> str:
    """ "": there is none. Only space and tab stand around a pair. `strip` removes others too, such as U+00A0: a name
    behind one of them does not begin with `__Host-` for the browser, which accepts it from any host.
    """
    for pair in header.split(";"):
        key, _, value = pair.strip(" \t").partition("=")
        if key == name:
            return value
    return ""


def _is_https(request: RouteRequest, settings: Settings) -> bool:
    """The reverse proxy uses TLS if `DASHBOARD_URL` begins with `https:`."""
    return request.scheme == "https" or settings.dashboard_url.startswith("https:")
