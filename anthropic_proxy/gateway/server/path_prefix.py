"""The path below which clients see the proxy, if `DASHBOARD_URL` has one: an Ingress forwards `/proxy/…` to it.

Whether the reverse proxy removes the path or not, requests are served. All paths inside the proxy are without it; the
links, redirects and cookies of a response get it at the end. The dashboard, which compresses pages, adds it before.
"""

import re
from collections.abc import Mapping, Sequence

from msgspec import structs

from anthropic_proxy.engine.patterns import compile_later
from anthropic_proxy.plugins import RouteResponse

_LINK = compile_later(rb"""( (?:href|action|src|data-events)=")/(?!/)""")
"""Pattern of a link to a path. Texts of others are escaped, so that they contain no quote."""
_ROOT = compile_later(r"(; ?(?:path|url)=|^)/(?!/)", re.IGNORECASE)
"""Pattern of a path in a header: in `Location`, and behind its name in `Set-Cookie` and `Refresh`."""
_HEADERS = ("location", "set-cookie", "refresh")
HOST_COOKIE = "__Host-"
"""Beginning of the name of a cookie that browsers accept with the path `/` only (RFC 6265bis, section 4.1.3.2)."""


def remove_prefix(path: str, prefix: str) -> str:
    return path[len(prefix) :] or "/" if path == prefix or path.startswith(f"{prefix}/") else path


def add_prefix(response: RouteResponse, prefix: str) -> RouteResponse:
    def add(value: str) -> str:
        return value if value.startswith(HOST_COOKIE) else _ROOT.sub(rf"\g<1>{prefix}/", value)

    headers: dict[str, str | Sequence[str]] = {**response.headers}
    for name in headers.keys() & _HEADERS:
        value = headers[name]
        headers[name] = add(value) if isinstance(value, str) else [add(each) for each in value]
    body = response.body
    if isinstance(body, bytes):
        body = add_prefix_to_links(headers, body, prefix)
    return structs.replace(response, headers=headers, body=body)


def add_prefix_to_links(headers: Mapping[str, str | Sequence[str]], body: bytes, prefix: str) -> bytes:
    """Return an HTML body with the path before its links. Another body, or a compressed one, is not changed."""
    is_page = str(headers.get("content-type", "")).startswith("text/html") and "content-encoding" not in headers
    return _LINK.sub(rb"\g<1>%s/" % prefix.encode(), body) if prefix and is_page else body
