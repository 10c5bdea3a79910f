"""A signed-in person uses the own keys, requests and limits, and texts of others are opened with a trace."""

import html
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
from tests.support.fakes.oidc import FakeProvider, ask_provider, running_provider
from tests.support.server_process import Proxy, environment_of, running_proxy
from tests.support.sign_in import SAME_ORIGIN, Browser, Device, list_sign_in_settings, sign_in_to_dashboard
from tests.support.waiting import WAIT_SECONDS, wait_for

ADMIN_KEY = "admin-canary0123456789abcdef01234567"
IMAGE = {"type": "base64", "media_type": "image/gif", "data": "R0lGODdhAQABAIAAAP///////ywAAAAAAQABAAACAkQBADs="}
GROUPS = """
[sign_in.groups.developers]
team = "build"
models = ["demo/*"]
budgets = ["5USD/day"]

[sign_in.groups.leads]
team = "build"
role = "team admin"

[sign_in.groups."*"]
"""


class Company:
    def __init__(self, proxy: Proxy, provider: FakeProvider) -> None:
        self.proxy = proxy
        self.provider = provider
        self.admin = proxy.client(headers={"x-api-key": ADMIN_KEY})
        self.environment: dict[str, str] = {}
        """That of commands on the machine of the proxy."""

    def enter(self, name: str, *groups: str) -> None:
        """Make a person the present user of the identity provider."""
        email = f"{name}@example.com"
        self.provider.user = {"sub": name, "email": email, "email_verified": True, "groups": groups}

    def new_client(self, name: str, *groups: str) -> httpx.Client:
        self.enter(name, *groups)
        token = Device(self.proxy).sign_in()["access_token"]
        return self.proxy.client(headers={"authorization": f"Bearer {token}"})

    def open_dashboard(self, name: str, *groups: str) -> httpx.Client:
        self.enter(name, *groups)
        return sign_in_to_dashboard(self.proxy)

    def enter_dashboard(self, name: str, *groups: str) -> httpx.Response:
        """Return the answer to the response of the identity provider."""
        self.enter(name, *groups)
        client = self.proxy.client()
        begun = client.get("/dashboard/oidc/start")
        return client.get(ask_provider(begun.headers["location"]))

    def send(self, client: httpx.Client, words: str, session: str) -> str:
        content = [{"type": "text", "text": words}, {"type": "image", "source": IMAGE}]
        body = {"model": "demo/demo", "max_tokens": 50, "messages": [{"role": "user", "content": content}]}
        headers = {"x-claude-code-session-id": session}
        answer = wait_for(
            lambda: client.post("/v1/messages", json=body, headers=headers), lambda found: found.status_code == 200
        )
        request_id: str = answer.headers["request-id"]
        wait_for_request(self.admin, request_id)
        return request_id


SIGN_IN = """
[sign_in]
keys_per_person = 2
admins = ["platform"]
"""


@pytest.fixture(scope="module")
def company(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company]:
    directory: Path = tmp_path_factory.mktemp("self-service")
    (directory / "anthropic-proxy.toml").write_text(GROUPS + SIGN_IN)
    with running_provider() as provider:
        settings = {
            **list_sign_in_settings(provider),
            "ADMIN_API_KEY": ADMIN_KEY,
            "SERVE_DEMO": "true",
            "LOG_LEVEL": "warning",
            "DATABASE_URL": f"sqlite:///{directory}/ledger.sqlite3",
            "LEDGER_CONTENT": "true",
            "ADMINS_READ_CONTENT": "true",
        }
        with running_proxy(directory, settings) as proxy:
            provider.redirect_uri = f"{proxy.url}/dashboard/oidc/callback"
            company = Company(proxy, provider)
            company.environment = {**environment_of(directory), **settings, "DASHBOARD_URL": proxy.url}
            yield company


def test_a_person_manages_the_own_keys_by_api(company: Company) -> None:
    ann, ben = company.new_client("ann", "developers"), company.new_client("ben", "developers")
    created = ann.post(
        "/admin/keys", json={"name": "laptop", "budgets": [{"amount": 1, "unit": "usd", "period": "day"}]}
    )
    assert (created.status_code, created.json()["owner"], created.json()["team"]) == (200, "ann@example.com", "build")
    key = company.proxy.client(headers={"x-api-key": created.json()["key"]})
    company.send(key, "hello", "laptop")
    assert sorted(one["name"] for one in ann.get("/admin/keys").json()["data"]) == ["ann@example.com", "laptop"]
    assert [one["name"] for one in ben.get("/admin/keys").json()["data"]] == ["ben@example.com"]
    shown = ann.get("/admin/keys/laptop").json()
    assert [one["amount"] for one in shown["spending"]] == [1.0]
    assert [one["name"] for one in ann.get("/admin/teams").json()["data"]] == []
    foreign = ben.post("/admin/keys/laptop/revoke")
    assert (foreign.status_code, _message(foreign)) == (
        404,
        "There is no key 'laptop'. List the keys:  anthropic-proxy keys list",
    )
    by_key = key.post("/admin/keys", json={"name": "more"})
    assert (by_key.status_code, _message(by_key)) == (
        403,
        "The key 'laptop' is for the API below /v1/, not for '/admin/keys'. Ask an administrator of the proxy for "
        "access.",
    )
    assert [one["name"] for one in ann.get("/api/usage?by=key").json()["groups"]] == ["laptop"]
    assert ben.get("/api/usage?by=key").json()["groups"] == []
    assert ann.post("/admin/keys/laptop/revoke").json()["status"] == "revoked"
    actors = {one["actor"] for one in company.admin.get("/admin/audit").json()["data"] if "laptop" in one["object"]}
    assert actors == {"API (ann@example.com)"}


def test_a_person_creates_a_key_on_the_page(company: Company) -> None:
    cat = company.open_dashboard("cat", "developers")
    page = cat.get("/dashboard/keys")
    assert ("New key" in page.text, "Audit log" in page.text) == (True, False)
    form = cat.get("/dashboard/keys/edit?action=create").text
    assert 'name="label"' in form
    assert 'name="owner"' not in form
    token = re.search(r'name="token" value="([^"]+)"', form)
    assert token is not None
    sent = {"token": token[1], "action": "create", "target": "", "label": "cat-pc", "models": "demo/demo"}
    preview = cat.post("/dashboard/keys/edit", data=sent, headers=SAME_ORIGIN).text
    before = re.search(r'name="before" value="([^"]+)"', preview)
    assert before is not None, preview
    done = cat.post("/dashboard/keys/edit", data={**sent, "before": before[1]}, headers=SAME_ORIGIN).text
    assert "Key cat-pc is created." in done
    assert "cat-pc" in cat.get("/dashboard/keys").text
    dan = company.open_dashboard("dan", "developers")
    assert "cat-pc" not in dan.get("/dashboard/keys").text
    key_id = re.search(r"/dashboard/keys/(key_\w+)", done)
    assert key_id is not None
    assert cat.get(f"/dashboard/keys/{key_id[1]}").status_code == 200
    assert dan.get(f"/dashboard/keys/{key_id[1]}").status_code == 404
    lead = company.open_dashboard("lead", "leads")
    assert "cat-pc" in lead.get("/dashboard/keys").text
    # the key has owner, team and cost center of its person, whoever changes it
    admin = company.open_dashboard("boss", "platform")
    held = re.compile(r'name="(owner|team|cost_center)"')
    assert held.findall(admin.get(f"/dashboard/keys/edit?action=change&target={key_id[1]}").text) == []
    assert held.findall(admin.get("/dashboard/keys/edit?action=create").text) == ["owner", "team", "cost_center"]
    assert "cat-pc" in lead.get("/dashboard/keys?format=json").text
    guest = company.open_dashboard("guest")
    assert "cat-pc" not in guest.get("/dashboard/keys?format=csv").text


def test_texts_of_others_are_opened_by_an_admin_with_an_entry_of_the_audit_log(company: Company) -> None:
    eve = company.new_client("eve", "developers")
    request_id = company.send(eve, "words of eve", "session-of-eve")
    pages = [f"/dashboard/requests/{request_id}", "/dashboard/session?session=session-of-eve"]
    image = f"/dashboard/requests/{request_id}/images/0"
    lists = ["/dashboard/sessions", "/dashboard/requests", "/dashboard/palette", "/dashboard/costs"]
    exports = [f"{page}{'&' if '?' in page else '?'}format={form}" for page in pages for form in ("json", "csv")]
    lead, root = company.open_dashboard("lead", "leads"), company.open_dashboard("root", "platform")
    own = company.open_dashboard("eve", "developers")
    assert all("words of eve" in own.get(path).text for path in pages)
    for path in (*pages, *lists, *exports):
        answer = lead.get(path)
        assert answer.status_code == 200, path
        assert "words of eve" not in answer.text, path
    assert "The role team admin reads only own texts." in lead.get(pages[0]).text
    assert lead.get(image).status_code == 404
    assert "session-of-eve" not in lead.get("/dashboard/sessions?q=words").text
    for path in (*lists, *exports):
        assert "words of eve" not in root.get(path).text, path
    assert _list_looks(company, "root") == []
    assert root.get(image).status_code == 200
    assert all("words of eve" in html.unescape(root.get(path).text) for path in (*pages, pages[0]))
    owner = {"key": {"before": "", "after": "eve@example.com"}, "owner": {"before": "", "after": "eve@example.com"}}
    assert _list_looks(company, "root") == [
        ("dashboard (root@example.com)", request_id, owner),
        ("dashboard (root@example.com)", "session session-of-eve", owner),
    ]
    by_key = company.proxy.client()
    by_key.post("/dashboard/sign-in", data={"key": ADMIN_KEY})
    assert "words of eve" in by_key.get(pages[0]).text
    assert ("dashboard (admin key 1)", request_id, owner) in _list_looks(company, "admin key 1")
    company.admin.post("/admin/keys/eve@example.com", json={"owner": "lead@example.com"})
    assert "words of eve" not in lead.get(pages[0]).text
    listed = company.admin.get(f"/api/requests/{request_id}").text
    assert "words of eve" not in listed


def test_a_new_owner_of_a_key_opens_the_texts_that_others_send_with_it_only_with_an_entry(company: Company) -> None:
    """An administrator makes itself the owner of a key that another person goes on to use."""
    created = company.admin.post("/admin/keys", json={"name": "shared", "owner": "hal@example.com"}).json()
    key = company.proxy.client(headers={"x-api-key": created["key"]})
    boss = company.open_dashboard("boss", "platform")
    company.send(key, "walrus before", "session-before")
    for owner in ("boss@example.com", "lead@example.com"):
        assert company.admin.post("/admin/keys/shared", json={"owner": owner}).json()["owner"] == owner
        after = company.send(key, f"walrus for {owner}", "session-after")
    company.admin.post("/admin/keys/shared", json={"owner": "boss@example.com"})
    after = company.send(key, "walrus after", "session-after")
    lead = company.open_dashboard("lead", "leads")
    for path in ("/dashboard/sessions", "/dashboard/palette", "/dashboard/sessions?q=session"):
        assert "walrus" not in boss.get(path).text, path
    page, session = f"/dashboard/requests/{after}", "/dashboard/session?session=session-after"
    assert "walrus" not in lead.get(session).text
    assert "walrus after" not in boss.get(f"{page}?format=json").text
    assert _list_looks(company, "boss") == []
    assert "walrus after" in boss.get(page).text
    owner = {"key": {"before": "", "after": "shared"}, "owner": {"before": "", "after": "boss@example.com"}}
    assert _list_looks(company, "boss") == [("dashboard (boss@example.com)", after, owner)]
    rotated = company.admin.post("/admin/keys/shared/rotate").json()["key"]
    own = company.send(company.proxy.client(headers={"x-api-key": rotated}), "walrus of boss", "session-of-boss")
    assert "walrus of boss" in boss.get(f"/dashboard/requests/{own}").text
    assert len(_list_looks(company, "boss")) == 1


def test_a_command_ends_all_access_of_a_person_and_allows_it_again(company: Company) -> None:
    ida, browser = company.new_client("ida", "developers"), company.open_dashboard("ida", "developers")
    texts = [
        ida.post("/admin/keys", json={"name": "ida-pc"}).json()["key"],
        company.admin.post("/admin/keys", json={"name": "ida-ci", "owner": "Ida@example.com"}).json()["key"],
    ]
    keys = [company.proxy.client(headers={"x-api-key": text}) for text in texts]
    for client in (ida, *keys):
        wait_for(lambda client=client: client.get("/v1/models").status_code, lambda status: status == 200)
    root = company.open_dashboard("root", "platform")
    end = html.unescape(root.get("/dashboard/keys/edit?action=sign-out&target=ida@example.com").text)
    assert re.search(r"The keys of ida@example\.com stay valid: ida-(pc, ida-ci|ci, ida-pc)\. End one:", end)
    assert "To end all access of the person:  anthropic-proxy keys revoke ida@example.com" in end
    signed_out = company.admin.post("/admin/sign-ins/ida@example.com/sign-out").json()
    assert sorted(signed_out["valid_keys"]) == ["ida-ci", "ida-pc"]
    ida = company.new_client("ida", "developers")
    assert browser.get("/dashboard").status_code == 200

    def run(*words: str) -> str:
        command = [sys.executable, "-m", "anthropic_proxy", "keys", *words]
        return subprocess.run(command, env=company.environment, capture_output=True, text=True, check=False).stdout

    assert run("revoke", "ida@example.com") == "  ✓ Key ida@example.com is revoked.\n"
    for client in (ida, *keys):
        wait_for(lambda client=client: client.get("/v1/models").status_code, lambda status: status == 401)
    wait_for(lambda: browser.get("/dashboard").status_code, lambda status: status == 303)
    refused = company.enter_dashboard("ida", "developers")
    assert (refused.status_code, "is revoked, so the person may not sign in." in refused.text) == (403, True)
    listed = {one["name"]: one for one in company.admin.get("/admin/keys?limit=1000").json()["data"]}
    for name, client in (("ida-pc", keys[0]), ("ida-ci", keys[1])):
        cause = f"The key '{name}' is revoked."
        command = "The administrator of the proxy creates another one:  anthropic-proxy keys create LABEL"
        assert (listed[name]["status"], listed[name]["status_reason"]) == ("revoked", f"{cause} {command}")
        assert _message(client.get("/v1/models")) == f"{cause} Ask an administrator of the proxy for another key."
    page = root.get(f"/dashboard/keys/{listed['ida@example.com']['id']}").text
    assert ("Allow again" in page, "is revoked, so the person may not sign in." in page) == (True, True)
    form = root.get("/dashboard/keys/edit?action=allow&target=ida@example.com").text
    assert "Keys and sign-ins that the revocation ended stay ended." in form
    assert run("allow", "ida@example.com") == "  ✓ Key ida@example.com is allowed.\n"
    wait_for(lambda: company.enter_dashboard("ida", "developers").status_code, lambda status: status == 200)
    assert browser.get("/dashboard").status_code == 303
    assert company.new_client("ida", "developers").get("/v1/models").status_code == 200
    assert [client.get("/v1/models").status_code for client in keys] == [401, 401]


def test_commands_show_texts_of_others_with_an_entry_of_the_audit_log(company: Company) -> None:
    gil = company.new_client("gil", "developers")
    request_id = company.send(gil, "words of gil", "session-of-gil")

    def explain(setting: str) -> subprocess.CompletedProcess[str]:
        environment = {**company.environment, "ADMINS_READ_CONTENT": setting}
        command = [sys.executable, "-m", "anthropic_proxy", "explain", request_id, "--body"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    refused = explain("false")
    assert "words of gil" not in refused.stdout
    assert refused.stderr.startswith(
        f"✕ --body needs the text of {request_id}, which another person has sent. Administrators read texts of others "
        "only with ADMINS_READ_CONTENT=true in "
    )
    assert _list_looks(company, "command (") == []
    assert "words of gil" in explain("true").stdout
    ((_, place, changes),) = _list_looks(company, "command (")
    assert (place, changes["owner"]["after"]) == (request_id, "gil@example.com")


def test_commands_of_another_machine_use_the_proxy_of_the_company(company: Company, tmp_path: Path) -> None:
    company.enter("fay", "developers")
    url = company.proxy.url
    command = [sys.executable, "-m", "anthropic_proxy", "login", url]
    with subprocess.Popen(command, env=environment_of(tmp_path), stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        link, code = (started.stdout.readline().split()[-1] for _ in range(2))
        assert link == f"{url}/device?user_code={code}"
        Browser(company.proxy).approve({"verification_uri_complete": link, "user_code": code})
        assert started.wait(WAIT_SECONDS) == 0
    (file,) = tmp_path.rglob("sign-in.json")
    assert file.stat().st_mode & 0o777 == 0o600

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "anthropic_proxy", *words],
            env=environment_of(tmp_path),
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout + done.stderr

    created = run("keys", "create", "fay-pc", "--expires", "30d", "--budget", "2USD/day")
    text = created.splitlines()[0]
    assert company.proxy.client(headers={"x-api-key": text}).get("/v1/models").status_code == 200
    assert [one["name"] for one in json.loads(run("keys", "list", "--json"))] == ["fay-pc", "fay@example.com"]
    shown = run("keys", "show", "fay-pc")
    assert "fay@example.com" in shown
    assert "$0.00 of $2.00 per day" in shown
    assert "Key fay-pc is rotated" in run("keys", "rotate", "fay-pc")
    for team in ("other", ""):  # an empty text is a change too
        assert run("keys", "change", "fay-pc", "--team", team) == (
            f"✕ {url}: The team is {team!r}. Keys that fay@example.com creates have 'build': leave it out.\n"
        )
    assert run("keys", "revoke", "fay-pc").strip() == "✓ Key fay-pc is revoked."
    assert run("keys", "team", "build", "--rpm", "9") == (
        f"✕ You are signed in at {url}, where administrators change teams and end sign-ins. On the machine of a proxy "
        "with VIRTUAL_KEYS=true, this command changes its database.\n"
    )
    stored = json.loads(file.read_text())
    file.write_text(json.dumps({**stored, "expires_at": 0.0}))
    assert "fay-pc" in run("keys", "list")
    assert json.loads(file.read_text())["expires_at"] > 0
    ended = company.admin.post("/admin/sign-ins/fay@example.com/sign-out")
    assert ended.status_code == 200
    again = f"Sign in again:  anthropic-proxy login {url}"
    assert wait_for(lambda: run("keys", "list"), lambda shown: shown.startswith("✕")) == (
        f"✕ {url}: The sign-in has ended: it was ended on the device or by an administrator, or its time is over. "
        f"{again}\n"
    )
    file.write_text(json.dumps({**stored, "expires_at": 0.0}))
    assert run("keys", "list") == (
        f"✕ The sign-in at {url} cannot be refreshed: The sign-in is unknown or has ended. {again}\n"
    )
    assert "Signed out at" in run("logout")
    assert not file.exists()
    client = company.proxy.client(headers={"authorization": f"Bearer {stored['access_token']}"})
    wait_for(lambda: client.get("/v1/models"), lambda answer: answer.status_code == 401)


def _list_looks(company: Company, name: str) -> list[tuple[str, str, Any]]:
    entries = company.admin.get("/admin/audit?limit=200").json()["data"]
    looks = [(one["actor"], one["object"], one["changes"]) for one in entries[::-1] if one["action"] == "read texts"]
    return [look for look in looks if name in look[0]]


def _message(answer: httpx.Response) -> str:
    text: str = answer.json()["error"]["message"]
    return text
