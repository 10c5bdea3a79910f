"""Sign-ins: addresses, forms, cookies and tokens that somebody else has made, seen from outside."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from tests.attacks.lab import Attack, Row, ordinary
from tests.faults.client import Answer
from tests.support.fakes.oidc import FakeProvider, ask_provider, running_provider
from tests.support.server_process import Proxy, running_proxy
from tests.support.sign_in import DEVICE_GRANT, Browser, Device, list_sign_in_settings

_EVIL = "evil.example"
_NEXT = (
    f"//{_EVIL}",
    f"https://{_EVIL}/dashboard",
    f"/\\{_EVIL}",
    f"\\\\{_EVIL}",
    f"/dashboard/..//{_EVIL}",
    f"/dashboard\r\nlocation: https://{_EVIL}",
    f"/\t/{_EVIL}",
    "javascript:alert(1)//evil.example",
    f"/dashboard@{_EVIL}",
    f"https:{_EVIL}",
    f"///{_EVIL}",
    f"/%2f{_EVIL}",
)
_IDENTITIES = (
    *("x-forwarded-user", "x-forwarded-email", "x-auth-request-email", "x-auth-request-user", "remote-user"),
    *("x-goog-authenticated-user-email", "cf-access-authenticated-user-email", "x-ms-client-principal-name"),
    *("x-remote-user", "x-user", "x-email", "x-anthropic-proxy-user", "x-webauth-user", "tailscale-user-login"),
)
_HOSTS = ({"host": _EVIL}, {"x-forwarded-host": _EVIL}, {"forwarded": f"host={_EVIL};proto=https"}, {"x-host": _EVIL})
_FORMS = (
    {},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"origin": f"https://{_EVIL}"},
    {"origin": "null"},
    {"sec-fetch-site": "cross-site", "origin": "null"},
)
_PAGES = ("/dashboard", "/dashboard/keys", "/dashboard/requests", "/api/usage", "/admin/keys", "/admin/teams")


def _try_all(proxy: Proxy, provider: FakeProvider) -> Iterator[str]:
    """Yield what was not as required."""
    for headers in _HOSTS:
        answer = proxy.client(headers=headers).post("/oauth/device_authorization", data={"surface": "claude_code"})
        if _EVIL in answer.text:
            yield f"the host {headers} is in the address of the page: {answer.text[:300]}"
    for target in _NEXT:
        browser = proxy.client()
        begun = browser.get("/dashboard/oidc/start", params={"next": target})
        if begun.status_code == 303:
            answer = browser.get(ask_provider(begun.headers["location"]))
            destination = answer.headers.get("refresh", "").partition("url=")[2] or answer.headers.get("location", "")
            is_own = not urlsplit(destination).netloc and destination.startswith("/dashboard")
            if answer.status_code >= 500 or not is_own or "\\" in destination:
                yield f"the next page {target!r}: {answer.status_code} {destination!r}"
            for cookie in (*begun.headers.get_list("set-cookie"), *answer.headers.get_list("set-cookie")):
                lower = cookie.lower()
                if "httponly" not in lower or "samesite" not in lower or "domain=" in lower:
                    yield f"the cookie {cookie.partition('=')[0]}: {lower.partition(';')[2]}"
        elif begun.status_code >= 500 or _EVIL in begun.headers.get("location", ""):
            yield f"the next page {target!r}: {begun.status_code}"
    for name in _IDENTITIES:
        for page in _PAGES:
            answer = proxy.client(headers={name: "ann@example.com"}).get(page)
            if (answer.status_code < 300 and "ann@example.com" in answer.text) or answer.status_code >= 500:
                yield f"the header {name} at {page}: {answer.status_code} {answer.text[:200]}"
    for headers in _FORMS:
        device, person = Device(proxy), Browser(proxy)
        page = person.return_from_provider(device.begin())
        answer = person.decide(page, headers=headers)
        if headers and device.poll().status_code == 200:
            yield f"a form with {headers}: {answer.status_code} signs in"
    first = Device(proxy)
    old = dict(first.sign_in())
    replaced = first.refresh()
    if replaced.status_code != 200:
        yield f"a refresh: {replaced.status_code} {replaced.text}"
    first.tokens = replaced.json()
    credentials = {
        "refresh token": old["refresh_token"],
        "device code": first.begun["device_code"],
        "user code": first.begun["user_code"],
        "address": "ann@example.com",
    }
    for name, text in credentials.items():
        if first.send(text).status_code != 401:
            yield f"the {name} is accepted as an access token"
    for name, text in {**credentials, "access token": old["access_token"]}.items():
        forms = [{"grant_type": DEVICE_GRANT, "device_code": text}]
        if name != "refresh token":
            forms.append({"grant_type": "refresh_token", "refresh_token": text})
        for form in forms:
            if first.client.post("/oauth/token", data=form).status_code == 200:
                yield f"the {name} is accepted as {form['grant_type']}"
        for cookie in ("anthropic_proxy_session", "__Host-anthropic_proxy_session", "anthropic_proxy_oidc"):
            if proxy.client(headers={"cookie": f"{cookie}={text}"}).get("/api/usage").status_code < 400:
                yield f"the {name} is accepted as the cookie {cookie}"
    provider.user = {**provider.user, "sub": "user-1 ", "email": "ANN@example.com"}
    second = Device(proxy)
    second.sign_in()
    second.client.post("/oauth/revoke", data={"token": second.tokens["refresh_token"]})
    if first.send().status_code != 200:
        yield "the end of the sign-in of another subject ends that of the first"


def _sign_in(attack: Attack) -> list[Answer]:
    with tempfile.TemporaryDirectory() as directory, running_provider() as provider:
        provider.offers_refresh = True
        settings = {
            **list_sign_in_settings(provider),
            "SERVE_DEMO": "true",
            "DASHBOARD": "true",
            "DATABASE_URL": f"sqlite:///{directory}/ledger.sqlite3",
        }
        with running_proxy(Path(directory), settings) as proxy:
            provider.redirect_uri = f"{proxy.url}/dashboard/oidc/callback"
            failed = [*_try_all(proxy, provider)]
            assert failed == [], "\n".join(failed)
            assert "Traceback" not in proxy.log
    return [attack.post(ordinary("openai/gpt-4.1"))]


SIGN_IN: tuple[Row, ...] = (Row(name="sign-in: pages, cookies and tokens of somebody else", run=_sign_in),)
