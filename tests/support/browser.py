"""A browser that sends requests to applications in this process, with cookies as RFC 6265bis describes them."""

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlencode, urljoin, urlsplit

from anthropic_proxy.app import App
from tests.support.fakes.oidc import ask_provider
from tests.support.virtual_keys import Response, send

FORM = "application/x-www-form-urlencoded"


class _Cookie(NamedTuple):
    domain: str
    """Host to which it is sent; with a dot in front, also all hosts below it."""
    path: str
    name: str
    value: str
    is_secure: bool
    attributes: Mapping[str, str]


class Browser:
    """`apps`: base URL → application that is served there. Only the redirects of a provider are real requests."""

    def __init__(self, apps: Mapping[str, App]) -> None:
        self.apps = apps
        self.refused: list[str] = []
        """Headers `Set-Cookie` that a browser does not accept."""
        self._cookies: list[_Cookie] = []

    async def get(self, url: str) -> Response:
        return await self._send("GET", url, b"", sec_fetch_site="none")

    async def post(self, url: str, **form: str) -> Response:
        parts = urlsplit(url)
        own = {"origin": f"{parts.scheme}://{parts.netloc}", "sec_fetch_site": "same-origin", "content_type": FORM}
        return await self._send("POST", url, urlencode(form).encode(), **own)

    async def follow(self, url: str, answer: Response) -> Response:
        """Go to the identity provider to which `answer` sends the browser, and return with its response."""
        assert answer.status == 303, answer.body
        return await self.get(ask_provider(urljoin(url, answer.headers["location"])))

    def receive(self, url: str, header: str) -> None:
        """Store a cookie of the server at `url`, unless a browser refuses it."""
        parts, fields = urlsplit(url), [piece.strip() for piece in header.split(";")]
        name, _, value = fields[0].partition("=")
        attributes = {key.lower(): text for key, _, text in (field.partition("=") for field in fields[1:])}
        host, domain = parts.hostname or "", attributes.get("domain", "")
        is_secure = "secure" in attributes
        is_host_name = name.startswith("__Host-")
        if (
            (domain and not f".{host}".endswith(f".{domain}"))
            or (is_secure and parts.scheme != "https")
            or (is_host_name and not (is_secure and attributes.get("path") == "/" and not domain))
        ):
            self.refused.append(header)
            return
        path = attributes.get("path", parts.path.rpartition("/")[0] or "/")
        stored = _Cookie(f".{domain}" if domain else host, path, name, value, is_secure, attributes)
        self._cookies = [one for one in self._cookies if one[:3] != stored[:3]]
        if attributes.get("max-age") != "0":
            self._cookies.append(stored)

    def find(self, url: str) -> Mapping[str, _Cookie]:
        """Return the cookies that are sent to `url`."""
        return {one.name: one for one in self._cookies if self._is_sent(one, url)}

    @staticmethod
    def _is_sent(cookie: _Cookie, url: str) -> bool:
        parts = urlsplit(url)
        host, path = parts.hostname or "", parts.path or "/"
        below = cookie.path.removesuffix("/")
        is_host = f".{host}".endswith(cookie.domain) if cookie.domain.startswith(".") else host == cookie.domain
        is_path = path == cookie.path or path.startswith(f"{below}/")
        return is_host and is_path and (parts.scheme == "https" or not cookie.is_secure)

    async def _send(self, method: str, url: str, body: bytes, **headers: str) -> Response:
        base = max((one for one in self.apps if url.startswith(one)), key=len)
        sent = [one for one in self._cookies if self._is_sent(one, url)]
        sent.sort(key=lambda one: -len(one.path))  # RFC 6265bis, section 5.8.3
        if sent:
            headers["cookie"] = "; ".join(f"{one.name}={one.value}" for one in sent)
        parts = urlsplit(url)
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        answer = await send(self.apps[base], method, path, body, host=parts.netloc, **headers)
        for header in answer.cookies:
            self.receive(url, header)
        return answer
