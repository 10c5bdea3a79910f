"""A device and a browser of a person that signs in from Claude Code, as the gateway protocol describes it."""

import html
import re
import time
from collections.abc import Callable
from typing import Any

import httpx2 as httpx

from anthropic_proxy.console.gateway_protocol.grants import Grants
from anthropic_proxy.console.identity.oidc_client import ProviderReply
from anthropic_proxy.console.identity.people import OidcUser
from anthropic_proxy.console.keys.access_tokens import TokenKeys
from anthropic_proxy.console.keys.sign_ins import SignIn
from anthropic_proxy.gateway.settings import OidcSettings, Settings, SignInSettings
from anthropic_proxy.secrets import Secret
from tests.support.fakes.oidc import CLIENT_ID, CLIENT_SECRET, FakeProvider, ask_provider
from tests.support.server_process import Proxy

_HIDDEN = re.compile(r'<input type="hidden" name="(\w+)" value="([^"]*)">')
ISSUER = "https://login.example.org"
_CLIENT = "proxy"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
SECRET = "sign-in-canary-0123456789abcdef0123456789"
USER_AGENT = "claude-code/2.1.332"
SAME_ORIGIN = {"sec-fetch-site": "same-origin"}


def list_sign_in_settings(provider: FakeProvider) -> dict[str, str]:
    return {
        "VIRTUAL_KEYS": "true",
        "OIDC_ISSUER": provider.issuer,
        "OIDC_CLIENT_ID": CLIENT_ID,
        "OIDC_CLIENT_SECRET": CLIENT_SECRET,
        "DASHBOARD_URL": "http://127.0.0.1:{port}",
        "SIGN_IN_SECRET": SECRET,
    }


def open_grants(database_url: str, clock: Callable[[], float] = time.time) -> Grants:
    """Return the grants in a database. The identity provider itself is not asked."""
    sign_in = SignInSettings(secrets=(Secret(SECRET),))
    oidc = OidcSettings(issuer=ISSUER, client_id=_CLIENT)
    return Grants(Settings(database_url=Secret(database_url), oidc=oidc, sign_in=sign_in), TokenKeys(sign_in), clock)


def approve_device(
    database_url: str, user_code: str, email: str = "ann@example.org", clock: Callable[[], float] = time.time
) -> None:
    """Let a person approve the device with this code, as the identity provider and the browser would cause it."""
    grants = open_grants(database_url, clock)
    waiting = grants.find_code("user_code", user_code)
    assert waiting is not None
    grants.approve(grants.identify(waiting.code_hash, OidcUser(ISSUER, _CLIENT, f"id of {email}", email), ""))


def store_sign_in(database_url: str, email: str = "ann@example.org", clock: Callable[[], float] = time.time) -> SignIn:
    """Return a sign-in in a database."""
    grants = open_grants(database_url, clock)
    code, user_code = grants.create_code(USER_AGENT, "192.0.2.1")
    approve_device(database_url, user_code, email, clock)
    _, stored, _ = grants.redeem(code)
    assert stored is not None
    return stored


def answer(user: OidcUser, asked_at: float) -> ProviderReply:
    """Return the answer to a refresh that states everything about the user. `asked_at`: seconds since the epoch."""
    claims = {"sub": user.subject, "email": user.email, "email_verified": True, "groups": [*user.groups]}
    return ProviderReply({**claims, "name": user.name, "cost_center": user.cost_center}, "", asked_at)


class Device:
    """Claude Code on one machine. `address`: the one that a reverse proxy states. "": there is no reverse proxy."""

    def __init__(self, proxy: Proxy, address: str = "") -> None:
        self.proxy = proxy
        self.address = address
        self.client = proxy.client(headers={"user-agent": USER_AGENT, **_forward(address)})
        self.begun: dict[str, Any] = {}
        self.tokens: dict[str, Any] = {}

    def begin(self) -> dict[str, Any]:
        answer = self.client.post("/oauth/device_authorization", data={"surface": "claude_code"})
        assert answer.status_code == 200, answer.text
        self.begun = answer.json()
        return self.begun

    def poll(self) -> httpx.Response:
        form = {"grant_type": DEVICE_GRANT, "device_code": self.begun["device_code"]}
        return self.client.post("/oauth/token", data=form)

    def sign_in(self) -> dict[str, Any]:
        """Sign in as the present user of the identity provider."""
        self.begin()
        page = Browser(self.proxy, self.address).approve(self.begun)
        assert page.status_code == 200, page.text
        answer = self.poll()
        assert answer.status_code == 200, answer.text
        self.tokens = answer.json()
        return self.tokens

    def refresh(self) -> httpx.Response:
        form = {"grant_type": "refresh_token", "refresh_token": self.tokens["refresh_token"]}
        return self.client.post("/oauth/token", data=form)

    def send(self, token: str = "") -> httpx.Response:
        """Send a message with the access token."""
        body = {"model": "demo/demo", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}
        headers = {"authorization": f"Bearer {token or self.tokens['access_token']}"}
        return self.client.post("/v1/messages", json=body, headers=headers)


class Browser:
    """The browser of a person. The identity provider asks nothing."""

    def __init__(self, proxy: Proxy, address: str = "") -> None:
        self.client = proxy.client(headers=_forward(address))

    def open(self, begun: dict[str, Any]) -> httpx.Response:
        return self.client.get(begun["verification_uri_complete"])

    def confirm(self, user_code: str, action: str = "confirm", headers: dict[str, str] = SAME_ORIGIN) -> httpx.Response:
        return self.client.post("/device", data={"user_code": user_code, "action": action}, headers=headers)

    def follow(self, answer: httpx.Response) -> str:
        """Go to the identity provider, and return the address to which it sends the browser."""
        assert answer.status_code == 303, answer.text
        return ask_provider(answer.headers["location"])

    def return_from_provider(self, begun: dict[str, Any]) -> httpx.Response:
        """Confirm the code, and return the page behind the identity provider, which asks for the approval."""
        assert self.open(begun).status_code == 200
        return self.client.get(self.follow(self.confirm(begun["user_code"])))

    def decide(self, page: httpx.Response, action: str = "approve", headers: dict[str, str] = SAME_ORIGIN) -> Any:
        """Send the form of the page behind the identity provider."""
        return self.client.post("/device", data={**read_form(page), "action": action}, headers=headers)

    def approve(self, begun: dict[str, Any]) -> httpx.Response:
        """Return the last page of the sign-in, or the one that refuses it before."""
        page = self.return_from_provider(begun)
        return self.decide(page) if page.status_code == 200 else page


def sign_in_to_dashboard(proxy: Proxy) -> httpx.Client:
    """Return the browser of the present user of the identity provider, with a session of the dashboard."""
    client = proxy.client()
    begun = client.get("/dashboard/oidc/start", params={"next": "/dashboard"})
    assert begun.status_code == 303, begun.text
    answer = client.get(ask_provider(begun.headers["location"]))
    assert (answer.status_code, answer.headers.get("refresh")) == (200, "0; url=/dashboard"), answer.text
    return client


def _forward(address: str) -> dict[str, str]:
    return {"x-forwarded-for": address} if address else {}


def read_form(page: httpx.Response) -> dict[str, str]:
    """Return the hidden fields of the form of a page."""
    return {name: html.unescape(value) for name, value in _HIDDEN.findall(page.text)}


def read_result(page: httpx.Response) -> str:
    """Return the sentence about the result, or the problem, of the page of a device."""
    found = re.search(r'role="(?:status|alert)">(?:<span[^>]*>[^<]*</span> )?([^<]*)</p>', page.text)
    assert found is not None, page.text
    return found[1]
