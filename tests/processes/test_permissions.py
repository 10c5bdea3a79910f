"""Who may do what, cell by cell: `golden_texts/access` has each path and method of a real server, and what each role
gets.
"""

import html
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest

from anthropic_proxy.gateway.permissions import Role, find_permission, may
from tests.site.permissions_page import list_served_paths
from tests.support.fakes.oidc import running_provider
from tests.support.golden_texts import GOLDEN, Check
from tests.support.server_process import running_proxy
from tests.support.sign_in import Device, list_sign_in_settings, sign_in_to_dashboard

PROXY_KEY = "proxy-canary0123456789abcdef01234567"
ADMIN_KEY = "admin-canary0123456789abcdef01234567"
MONITOR_KEY = "monitor-canary0123456789abcdef012345"
SCIM_TOKEN = "scim-canary0123456789abcdef01234567"
NOBODY = "nobody"
_DENIED = re.compile(r"40[13] (?!The form|The response|This is not a key)")
GROUPS = {"admin": ("platform",), "team admin": ("leads",), "viewer": ("finance",), "member": ("developers",)}
SIGN_IN = """
[sign_in]
admins = ["platform"]
viewers = ["finance"]
team_admins = ["leads"]
"""
Clients = Mapping[str, tuple[httpx.Client | None, httpx.Client]]
"""Role → its client of the API, and its browser. None: the role has no client of the API."""


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    """A client of each role. `nobody` has no key and no session."""
    directory: Path = tmp_path_factory.mktemp("permissions")
    (directory / "anthropic-proxy.toml").write_text(SIGN_IN, "utf-8")
    with running_provider() as provider:
        settings = {
            **list_sign_in_settings(provider),
            "ADMIN_API_KEY": ADMIN_KEY,
            "PROXY_API_KEY": PROXY_KEY,
            "MONITOR_API_KEY": MONITOR_KEY,
            "SCIM_TOKEN": SCIM_TOKEN,
            "SERVE_DEMO": "true",
            "LOG_LEVEL": "error",
            "DATABASE_URL": f"sqlite:///{directory}/ledger.sqlite3",
        }
        with running_proxy(directory, settings) as proxy:
            provider.redirect_uri = f"{proxy.url}/dashboard/oidc/callback"
            admin = proxy.client(headers={"x-api-key": ADMIN_KEY})
            key = admin.post("/admin/keys", json={"name": "ci"}).json()["key"]
            browsers, tokens = {}, {}
            for role, groups in GROUPS.items():
                email = f"{role.replace(' ', '-')}@example.com"
                provider.user = {"sub": role, "email": email, "email_verified": True, "groups": groups}
                browsers[role] = sign_in_to_dashboard(proxy)
                if role in ("member", "team admin"):
                    token = Device(proxy).sign_in()["access_token"]
                    tokens[role] = proxy.client(headers={"authorization": f"Bearer {token}"})
            owner = proxy.client()
            assert owner.post("/dashboard/sign-in", data={"key": PROXY_KEY}).status_code == 303
            both = {"key": proxy.client(headers={"x-api-key": key})}
            both |= {"monitor": proxy.client(headers={"x-api-key": MONITOR_KEY})}
            both |= {"provisioner": proxy.client(headers={"x-api-key": SCIM_TOKEN}), NOBODY: proxy.client()}
            yield {
                "owner": (proxy.client(headers={"x-api-key": PROXY_KEY}), owner),
                "admin": (admin, browsers["admin"]),
                **{role: (tokens.get(role), browsers[role]) for role in ("team admin", "viewer", "member")},
                **{role: (client, client) for role, client in both.items()},
            }


def test_golden_access(clients: Clients, golden: Check) -> None:
    def show(given: str) -> str:
        method, path = given.split(" ")
        is_page = path.startswith(("/dashboard", "/device"))
        answers = {
            role: _describe(client, method, path)
            for role, both in clients.items()
            if (client := both[is_page]) is not None
        }
        shown = dict.fromkeys(answers.values(), "")
        for role, answer in answers.items():
            shown[answer] += f", {role}"
        return "\n".join(f"{roles[2:]}: {answer}" for answer, roles in shown.items())

    golden("access", show)


def _describe(client: httpx.Client, method: str, path: str) -> str:
    """Return the status, with the message of a denial."""
    with client.stream(method, path) as answer:
        if answer.status_code not in (303, 401, 403):
            return "served" if answer.status_code != 404 else "not found"
        text = answer.read().decode("utf-8", "replace")
    if location := answer.headers.get("location"):
        return f"{answer.status_code} to {urlsplit(location).path}"
    if "json" in answer.headers["content-type"]:
        body = answer.json()
        error = body["detail"] if "detail" in body else body["error"]  # below /scim/, errors have the form of SCIM
        return f"{answer.status_code} {error['message'] if isinstance(error, dict) else error}"
    found = re.search(r'<p class="(?:verdict|state-line error)[^"]*"[^>]*>(.*?)</p>', text, re.DOTALL)
    shown = html.unescape(re.sub("<[^>]+>|✕", "", found[1])).strip() if found else ""
    return re.sub(r"http://127.0.0.1:\d+", "ADDRESS", f"{answer.status_code} {shown}")


def test_each_cell_of_the_page_is_called() -> None:
    """The text has each path that the server serves, and denies exactly what the table of permissions denies."""
    cases = re.findall(r"^< (\S+) (\S+)\n((?:>.*\n)+)", (GOLDEN / "access.txt").read_text("utf-8"), re.MULTILINE)
    called = {(method, re.sub(r"/(?:ID|NAME|NUMBER|REST)\b", "/{}", path)) for method, path, _ in cases}
    served = {
        (method, re.sub(r"\{\w+\*?\}", "{}", path))
        for path, methods in list_served_paths().items()
        for method in methods
    }
    assert called == served
    for method, path, lines in cases:
        answers = {
            role: text
            for roles, text in re.findall(r"^> ([\w, ]+): (.*)", lines, re.MULTILINE)
            for role in roles.split(", ")
        }
        # a form without its token, or a wrong key, is refused after the role was accepted
        denied = {role for role, text in answers.items() if _DENIED.match(text)}
        expected = {role for role in get_args(Role) if role in answers and not may(role, find_permission(method, path))}
        assert denied - {NOBODY} == expected, f"{method} {path}"
