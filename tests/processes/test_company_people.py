"""Two people who have one address after the other, seen from outside: Claude Code, API, dashboard and commands."""

import html
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.support.dashboard import wait_for_request
from tests.support.fakes.oidc import FakeProvider, running_provider
from tests.support.server_process import Proxy, environment_of, running_proxy
from tests.support.sign_in import (
    SAME_ORIGIN,
    Browser,
    Device,
    list_sign_in_settings,
    read_result,
    sign_in_to_dashboard,
)
from tests.support.waiting import wait_for

ADMIN_KEY = "admin-canary0123456789abcdef01234567"
ANN, SECOND = "ann@example.com", "ann@example.com (2)"
GROUPS = """
[sign_in]
keys_per_person = 3

[sign_in.groups.leads]
team = "build"
role = "team admin"

[sign_in.groups."*"]
team = "build"
budgets = ["5USD/day"]
"""
PAGES = (
    *("", "/requests", "/sessions", "/models", "/costs", "/keys", "/palette"),
    *("/requests/{id}", "/session?session={session}", "/keys/{key}"),
)


class Company:
    def __init__(self, proxy: Proxy, provider: FakeProvider, directory: Path, settings: dict[str, str]) -> None:
        self.proxy = proxy
        self.provider = provider
        self.settings = settings
        self.admin = proxy.client(headers={"x-api-key": ADMIN_KEY})
        self._environment = {**environment_of(directory), **settings, "DASHBOARD_URL": proxy.url}

    def be(self, subject: str, email: str = ANN, groups: tuple[str, ...] = ()) -> None:
        """Let the identity provider know this user."""
        self.provider.user = {"sub": subject, "email": email, "email_verified": True, "groups": list(groups)}

    def new_device(self, subject: str, email: str = ANN, groups: tuple[str, ...] = ()) -> Device:
        self.be(subject, email, groups)
        device = Device(self.proxy)
        device.sign_in()
        return device

    def open_dashboard(self, subject: str, email: str = ANN, groups: tuple[str, ...] = ()) -> httpx.Client:
        self.be(subject, email, groups)
        return sign_in_to_dashboard(self.proxy)

    def send(self, credential: str, words: str) -> str:
        """Send a message in a session with the name `words`, and return the id of the request."""
        body = {"model": "demo/demo", "max_tokens": 50, "messages": [{"role": "user", "content": f"words of {words}"}]}
        headers = {"authorization": f"Bearer {credential}", "x-claude-code-session-id": words}
        client = self.proxy.client(headers=headers)
        answer = wait_for(lambda: client.post("/v1/messages", json=body), lambda answer: answer.status_code == 200)
        wait_for_request(self.admin, answer.headers["request-id"])
        request_id: str = answer.headers["request-id"]
        return request_id

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "anthropic_proxy", "keys", *words]
        return subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)

    def list_keys(self) -> dict[str, dict[str, Any]]:
        return {one["name"]: one for one in self.admin.get("/admin/keys?limit=1000").json()["data"]}


@pytest.fixture
def company(tmp_path: Path) -> Iterator[Company]:
    (tmp_path / "anthropic-proxy.toml").write_text(GROUPS)
    with running_provider() as provider:
        provider.offers_refresh = True
        settings = {
            **list_sign_in_settings(provider),
            "ADMIN_API_KEY": ADMIN_KEY,
            "SERVE_DEMO": "true",
            "LEDGER_CONTENT": "true",
            "LOG_LEVEL": "warning",
            "DATABASE_URL": f"sqlite:///{tmp_path}/ledger.sqlite3",
        }
        with running_proxy(tmp_path, settings) as proxy:
            provider.redirect_uri = f"{proxy.url}/dashboard/oidc/callback"
            yield Company(proxy, provider, tmp_path, settings)
            assert provider.problems == []


def test_who_gets_the_address_of_somebody_else_reads_nothing_of_the_earlier_person(company: Company) -> None:
    device = company.new_device("sub-1")
    token = device.tokens["access_token"]
    person = company.proxy.client(headers={"authorization": f"Bearer {token}"})
    laptop = person.post("/admin/keys", json={"name": "walrus-laptop"}).json()["key"]
    given = company.admin.post("/admin/keys", json={"name": "walrus-ci", "owner": "Ann@example.com"}).json()["key"]
    ids = [company.send(credential, f"walrus {number}") for number, credential in enumerate((token, laptop, given))]
    earlier = company.open_dashboard("sub-1")
    assert "words of walrus 0" in earlier.get(f"/dashboard/requests/{ids[0]}").text
    assert "words of walrus 2" in earlier.get(f"/dashboard/requests/{ids[2]}").text

    other = company.new_device("sub-2")
    warning = (
        f"{ANN} was of another person before, so this one is '{SECOND}'. What the settings give to {ANN} is not for "
        "this person."
    )
    assert wait_for(lambda: " ".join(company.proxy.log.split()).count(warning)) == 1
    keys = company.list_keys()
    assert {name: key["subject"] for name, key in keys.items() if key["subject"]} == {ANN: "sub-1", SECOND: "sub-2"}
    api = company.proxy.client(headers={"authorization": f"Bearer {other.tokens['access_token']}"})
    assert [one["name"] for one in api.get("/admin/keys").json()["data"]] == [SECOND]
    assert [one["name"] for one in api.get("/admin/sign-ins").json()["data"]] == [SECOND]
    assert api.get("/api/usage?by=key").json()["groups"] == []
    assert api.get("/api/requests?since=1d").json()["requests"] == []
    assert [api.get(f"/api/requests/{one}").status_code for one in ids] == [404] * 3
    assert [api.post(f"/admin/keys/{name}/revoke").status_code for name in ("walrus-laptop", "walrus-ci")] == [404] * 2
    assert "sub-2" in html.unescape(api.get(f"/admin/keys/{ANN}").text), "the one that this person may read"
    browser = company.open_dashboard("sub-2")
    for page, form in itertools.product(PAGES, ("", "json", "csv")):
        values = {"id": ids[0], "session": "walrus 0", "key": keys["walrus-laptop"]["id"]}
        address = f"/dashboard{page.format(**values)}"
        address += f"{'&' if '?' in address else '?'}format={form}" if form else ""
        answer = browser.get(address)
        assert answer.status_code == (404 if "{" in page else 200) or form, address
        assert "walrus" not in answer.text.replace(address, "").replace(html.escape(address), ""), address
        assert ids[0] not in answer.text or ids[0] in address, address
    with browser.stream("GET", "/dashboard/live") as stream:
        assert "walrus" not in next(stream.iter_text())
    lead = company.open_dashboard("sub-2", groups=("leads",))
    assert "words of walrus 0" not in lead.get(f"/dashboard/requests/{ids[0]}").text
    company.open_dashboard("sub-2")  # the device of the person is not of a lead any more either
    company.send(other.tokens["access_token"], "narwhal")
    wait_for(lambda: [one["name"] for one in api.get("/api/usage?by=key").json()["groups"]] == [SECOND])
    bill = company.admin.get("/api/usage?by=owner").json()["groups"]
    assert {one["name"]: one["requests"] for one in bill} == {ANN: 3, SECOND: 1}
    assert "narwhal" not in earlier.get("/dashboard/sessions").text

    ambiguous = company.run("revoke", ANN)
    assert ambiguous.returncode == 2
    message = (
        rf"✕ 2 keys have or had the address '{re.escape(ANN)}': {keys[ANN]['id']} '{re.escape(ANN)}', since \S+; "
        rf"{keys[SECOND]['id']} '{re.escape(SECOND)}', since \S+\. Use the id of one of them\.\n"
    )
    assert re.fullmatch(message, ambiguous.stderr), ambiguous.stderr
    assert company.admin.post(f"/admin/keys/{ANN}/revoke").status_code == 400
    assert company.run("revoke", keys[ANN]["id"]).stdout == f"  ✓ Key {ANN} is revoked.\n"
    for credential in (token, laptop, given):
        wait_for(lambda credential=credential: device.send(credential), lambda answer: answer.status_code == 401)
    wait_for(lambda: earlier.get("/dashboard").status_code, lambda status: status == 303)
    assert other.send().status_code == 200
    assert browser.get("/dashboard").status_code == 200
    company.be("sub-1")
    page = Browser(company.proxy).approve(Device(company.proxy).begin())
    refused = f"The key '{ANN}' is revoked, so the person may not sign in."
    assert html.unescape(read_result(page)) == refused
    company.be("sub-2")
    assert other.refresh().status_code == 200


def test_a_changed_address_and_a_changed_subject(company: Company) -> None:
    device = company.new_device("sub-1")
    before = company.list_keys()[ANN]["id"]
    company.be("sub-1", "ann.lee@example.com")
    assert device.refresh().json()["email"] == "ann.lee@example.com"
    assert {name: key["id"] for name, key in company.list_keys().items()} == {"ann.lee@example.com": before}
    assert device.send().status_code == 200
    company.be("sub-2", "ann.lee@example.com")
    ended = {
        "error": "invalid_grant",
        "error_description": "The sign-in has ended. The identity provider sent an ID token of another user. Sign in "
        "again.",
    }
    assert (device.refresh().status_code, device.refresh().json()) == (400, ended)
    assert [*company.list_keys()] == ["ann.lee@example.com"]


def test_a_person_creates_keys_on_the_page_with_the_own_name(company: Company) -> None:
    company.new_device("sub-1")
    browser = company.open_dashboard("sub-2")
    form = browser.get("/dashboard/keys/edit?action=create").text
    (token,) = set(re.findall(r'name="token" value="([^"]+)"', form))
    sent = {"token": token, "action": "create", "target": "", "label": "narwhal-pc"}
    preview = browser.post("/dashboard/keys/edit", data=sent, headers=SAME_ORIGIN).text
    (before,) = re.findall(r'name="before" value="([^"]+)"', preview)
    done = browser.post("/dashboard/keys/edit", data={**sent, "before": before}, headers=SAME_ORIGIN).text
    assert "Key narwhal-pc is created." in done
    created = company.list_keys()["narwhal-pc"]
    assert (created["owner"], created["creator"], created["team"]) == (SECOND, SECOND, "build")
    actors = {one["actor"] for one in company.admin.get("/admin/audit").json()["data"] if "narwhal" in one["object"]}
    assert actors == {f"dashboard ({SECOND})"}


def test_people_go_on_at_another_identity_provider_after_one_command(company: Company, tmp_path: Path) -> None:
    company.new_device("sub-1")
    company.new_device("sub-ben", "ben@example.com")
    company.new_device("sub-old", "cem@example.com")
    company.new_device("sub-new", "cem@example.com")
    keys = company.list_keys()
    with running_provider() as provider:
        provider.offers_refresh = True
        settings = {**company.settings, **list_sign_in_settings(provider)}
        with running_proxy(tmp_path, settings) as proxy:
            provider.redirect_uri = f"{proxy.url}/dashboard/oidc/callback"
            moved = Company(proxy, provider, tmp_path, settings)
            nothing = moved.run("move-people", "--dry-run")
            moved.be("new-sub-1")
            page = Browser(proxy).approve(Device(proxy).begin())
            assert html.unescape(read_result(page)) == (
                f"{ANN} is known here from another identity provider or client ({company.provider.issuer}, "
                "anthropic-proxy). Ask an administrator of the proxy for access."
            )
            done = moved.run("move-people")
            lines = [f"  ✓ The next user with the address {one} is {one}." for one in (ANN, "ben@example.com")]
            assert sorted(done.stdout.splitlines()) == lines
            assert done.returncode == 1
            assert (
                f"2 keys have or had the address 'cem@example.com': {keys['cem@example.com (2)']['id']}" in done.stderr
            )
            assert nothing.stdout == done.stdout
            assert moved.new_device("new-sub-1").send().status_code == 200
            assert moved.list_keys()[ANN]["id"] == keys[ANN]["id"]
            assert moved.run("move-people", keys["cem@example.com"]["id"]).stdout == (
                "  ✓ The next user with the address cem@example.com is cem@example.com.\n"
            )
            again = moved.run("audit", "--json").stdout.splitlines()
            entries = [entry for entry in map(json.loads, again) if entry["action"] == "move person"]
            assert len(entries) == 3
            assert {entry["actor"].partition(" ")[0] for entry in entries} == {"command"}
