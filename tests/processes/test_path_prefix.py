"""Below a path of a reverse proxy: sign-in from Claude Code, dashboard, cookies, redirects and links."""

import copy
import http.client
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest

from tests.support.fakes.oidc import ask_provider, running_provider
from tests.support.server_process import Proxy, running_proxy
from tests.support.sign_in import Browser, Device, list_sign_in_settings
from tests.support.waiting import WAIT_SECONDS

PREFIX = "/team/proxy"
ADMIN = "admin-0123456789"
LINK = re.compile(r'(?:href|src|action|data-events)="([^"]*)"')
_HOP_HEADERS = ("connection", "transfer-encoding", "content-length", "keep-alive")


class _Ingress(ThreadingHTTPServer):
    """Forwards what is below `PREFIX`, and answers 404 elsewhere."""

    daemon_threads = True
    port = 0
    removes_path = False


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Ingress

    def do_GET(self) -> None:
        if not self.path.startswith(f"{PREFIX}/"):
            self.send_error(404)
            return
        path = self.path[len(PREFIX) :] if self.server.removes_path else self.path
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=WAIT_SECONDS)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_HEADERS}
        upstream.request(self.command, path, body, headers)
        answer = upstream.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP_HEADERS:
                self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        upstream.close()

    do_POST = do_GET

    def log_message(self, *arguments: object) -> None: ...


@contextmanager
def running_ingress(*, removes_path: bool) -> Iterator[_Ingress]:
    server = _Ingress(("127.0.0.1", 0), _Requests)
    server.removes_path = removes_path
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(WAIT_SECONDS)


@pytest.mark.parametrize("removes_path", [True, False])
def test_everything_works_below_a_path(tmp_path: Path, removes_path: bool) -> None:
    with running_provider() as provider, running_ingress(removes_path=removes_path) as ingress:
        url = f"http://127.0.0.1:{ingress.server_port}{PREFIX}"
        provider.offers_refresh = True
        provider.redirect_uri = f"{url}/dashboard/oidc/callback"
        settings = {
            **list_sign_in_settings(provider),
            "DASHBOARD_URL": f"{url}/",
            "ADMIN_API_KEY": ADMIN,
            "SERVE_DEMO": "true",
            "LOG_LEVEL": "warning",
            "DATABASE_URL": f"sqlite:///{tmp_path}/ledger.sqlite3",
        }
        with running_proxy(tmp_path, settings) as proxy:
            ingress.port = urlsplit(proxy.url).port or 0
            seen = copy.copy(proxy)
            seen.url = url
            overview = seen.client(headers={"x-api-key": ADMIN}).get("/dashboard").text
            assert f"ANTHROPIC_BASE_URL={url} ANTHROPIC_AUTH_TOKEN=&#39;your key&#39; claude" in overview
            _sign_in_from_claude_code(seen, url)
            _use_dashboard(seen, url)
        assert provider.problems == []


def _sign_in_from_claude_code(proxy: Proxy, url: str) -> None:
    device, browser = Device(proxy), Browser(proxy)
    found = device.client.get("/.well-known/oauth-authorization-server").json()
    assert found["issuer"] == url
    assert {name: found[name] for name in found if name.endswith("_endpoint")} == {
        "device_authorization_endpoint": f"{url}/oauth/device_authorization",
        "token_endpoint": f"{url}/oauth/token",
        "revocation_endpoint": f"{url}/oauth/revoke",
    }
    begun = device.begin()
    assert begun["verification_uri"] == f"{url}/device"
    page = browser.open(begun)
    assert set(LINK.findall(page.text)) >= {f"{PREFIX}/device", f"{PREFIX}/dashboard"}
    by_origin = {"origin": url.removesuffix(PREFIX)}  # of an old browser, which sends no sec-fetch-site
    asked = browser.client.get(browser.follow(browser.confirm(begun["user_code"], headers=by_origin)))
    assert f"{PREFIX}/device" in LINK.findall(asked.text)
    done = browser.decide(asked, headers=by_origin)
    assert done.status_code == 200, done.text
    device.tokens = device.poll().json()
    assert device.send().status_code == 200
    assert device.refresh().status_code == 200
    assert device.client.post("/oauth/revoke", data={"token": device.tokens["refresh_token"]}).status_code == 200
    assert device.refresh().json()["error"] == "invalid_grant"


def _use_dashboard(proxy: Proxy, url: str) -> None:
    client = proxy.client()
    entry = client.get("/dashboard/costs")
    assert entry.headers["location"] == f"{PREFIX}/dashboard/sign-in?next=/dashboard/costs"
    form = client.get("/dashboard/sign-in", params={"next": "/dashboard/costs"})
    assert f"{PREFIX}/dashboard/oidc/start?next=/dashboard/costs" in LINK.findall(form.text)
    begun = client.get("/dashboard/oidc/start", params={"next": "/dashboard/costs"})
    assert f"Path={PREFIX}/dashboard/oidc;" in begun.headers["set-cookie"]
    done = client.get(ask_provider(begun.headers["location"]))
    assert done.headers["refresh"] == f"0; url={PREFIX}/dashboard/costs"
    cookies = done.headers.get_list("set-cookie")
    assert any(
        cookie.startswith("anthropic_proxy_session=") and f"Path={PREFIX}/dashboard;" in cookie for cookie in cookies
    )
    pages, waiting = set[str](), [f"{PREFIX}/dashboard/costs", f"{PREFIX}/", f"{PREFIX}/tour"]
    token = ""
    while waiting and len(pages) < 60:
        path = waiting.pop(0)
        if path in pages:
            continue
        pages.add(path)
        answer = client.get(urljoin(url, path), headers={"accept": "text/html"})
        assert answer.status_code == 200, (path, answer.status_code, answer.text[:300])
        if not answer.headers["content-type"].startswith("text/html"):
            continue
        links = [link.replace("&amp;", "&") for link in LINK.findall(answer.text)]
        assert [link for link in links if link.startswith("/") and not link.startswith(f"{PREFIX}/")] == [], path
        forms = re.findall(r'action="([^"]*)"', answer.text)
        token = next(iter(re.findall(r'name="token" value="([^"]+)"', answer.text)), token)
        leads = [link.partition("#")[0] for link in links if link.startswith(f"{PREFIX}/") and link not in forms]
        waiting += [link for link in leads if "?" not in link and not link.endswith("/live")]
    assert {f"{PREFIX}/dashboard", f"{PREFIX}/dashboard/requests", f"{PREFIX}/dashboard/costs"} <= pages
    assert any("/static/dashboard." in page for page in pages)
    assert client.get("/dashboard/palette").status_code == 200
    out = client.post("/dashboard/sign-out", data={"token": token})
    assert (out.status_code, out.headers["location"]) == (303, f"{PREFIX}/dashboard/sign-in")
    assert client.get("/dashboard/costs").status_code == 303
