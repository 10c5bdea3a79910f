"""People of an identity provider: claims that look like those of others, own keys, and pages and ids of others."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx

from tests.attacks.buyer import ADMIN_KEY, Attempts
from tests.attacks.lab import Attack, Row
from tests.faults.client import Answer
from tests.support.fakes.oidc import FakeProvider, running_provider
from tests.support.server_process import Proxy, environment_of, running_proxy
from tests.support.sign_in import SAME_ORIGIN, Browser, Device, list_sign_in_settings, read_form, sign_in_to_dashboard
from tests.support.waiting import wait_for

_MAX_KEYS = 3
_GROUPS = f"""
[sign_in]
keys_per_person = {_MAX_KEYS}

[sign_in.groups.admins]
team = "core"
role = "admin"

[sign_in.groups."boss@example.com"]
team = "core"
role = "admin"

[sign_in.groups.leads]
team = "build"
role = "team admin"

[sign_in.groups.developers]
team = "build"
models = ["demo/*"]
requests_per_minute = 1000
budgets = ["5USD/day"]
"""
_BODY = {"model": "demo/demo", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}


@dataclass
class _Company:
    proxy: Proxy
    provider: FakeProvider
    directory: Path

    def enter(self, person: str, *groups: str, **claims: Any) -> None:
        """Make a person the present user of the identity provider."""
        usual = {"sub": person, "email": f"{person}@example.com", "email_verified": True, "groups": list(groups)}
        self.provider.user = {**usual, **claims}

    def sign_in(self, person: str, *groups: str) -> httpx.Client:
        """Return a client with the access token of the person."""
        self.enter(person, *groups)
        token = Device(self.proxy).sign_in()["access_token"]
        return self.proxy.client(headers={"authorization": f"Bearer {token}"})

    def open_dashboard(self, person: str, *groups: str) -> httpx.Client:
        self.enter(person, *groups)
        return sign_in_to_dashboard(self.proxy)

    @property
    def admin(self) -> httpx.Client:
        return self.proxy.client(headers={"x-api-key": ADMIN_KEY})


@contextmanager
def _running_company() -> Iterator[_Company]:
    with tempfile.TemporaryDirectory() as name, running_provider() as provider:
        directory = Path(name)
        (directory / "anthropic-proxy.toml").write_text(_GROUPS)
        settings = {
            **list_sign_in_settings(provider),
            "SERVE_DEMO": "true",
            "DASHBOARD": "true",
            "ADMIN_API_KEY": ADMIN_KEY,
            "LEDGER_CONTENT": "true",
            "DATABASE_URL": f"sqlite:///{directory}/ledger.sqlite3",
        }
        provider.offers_refresh = True
        with running_proxy(directory, settings) as proxy:
            provider.redirect_uri = f"{proxy.url}/dashboard/oidc/callback"
            yield _Company(proxy, provider, directory)
            assert "Traceback" not in proxy.log, proxy.log


def _in_company(attempt_all: Callable[[_Company, Attempts], None]) -> Callable[[Attack], list[Answer]]:
    def run(attack: Attack) -> list[Answer]:
        attempts = Attempts()
        with _running_company() as company:
            attempt_all(company, attempts)
        return attempts.finish(attack)

    return run


_LIKE_ADMINS: Mapping[str, Any] = {
    "another case": ["Admins"],
    "capitals": ["ADMINS"],
    "a blank behind it": ["admins "],
    "a blank before it": [" admins"],
    "a NUL behind it": ["admins\x00"],
    "a line end": ["admins\n"],
    "wide letters": ["ａｄｍｉｎｓ"],
    "Cyrillic": ["аdmins"],
    "a long s": ["adminſ"],
    "a dotless i": ["admıns"],
    "a blank of no width": ["adm\u200bins"],
    "a soft hyphen": ["adm\u00adins"],
    "two names in one": ["developer,admins"],
    "names with a semicolon": ["developer;admins"],
    "one text with a comma": "developer,admins",
    "one text with blanks": "developer admins",
    "a text of JSON": '["admins"]',
    "an object": {"admins": True},
    "a list in a list": [["admins"]],
    "an object in a list": [{"name": "admins"}],
    "an object with a display name": [{"id": "1", "displayName": "admins"}],
    "a path": ["/admins"],
    "a DN": ["CN=admins,OU=groups"],
    "a star": ["*"],
    "a pattern": ["admin*"],
    "the name of the table": ["sign_in.groups.admins"],
    "an empty text": [""],
    "null": [None],
    "true": [True],
    "numbers": [0, 1],
    "bytes": ["YWRtaW5z"],
    "the address of a person": ["boss@example.com"],
}
_LIKE_BOSS: Mapping[str, Mapping[str, Any]] = {
    "not verified": {"email": "boss@example.com", "email_verified": False},
    "verified as a text": {"email": "boss@example.com", "email_verified": "no"},
    "verified as null": {"email": "boss@example.com", "email_verified": None},
    "verified as a number": {"email": "boss@example.com", "email_verified": 0},
    "verified as a list": {"email": "boss@example.com", "email_verified": [True]},
    "a list": {"email": ["boss@example.com"]},
    "an object": {"email": {"value": "boss@example.com"}},
    "a NUL": {"email": "boss@example.com\x00"},
    "a line end": {"email": "boss@example.com\n"},
    "two addresses": {"email": "boss@example.com,mallory@example.com"},
    "a name before it": {"email": "Boss <boss@example.com>"},
    "Cyrillic": {"email": "bоss@example.com"},
    "wide": {"email": "ｂoss@example.com"},
    "the name of a second person": {"email": "boss@example.com (2)"},
    "a blank of no width": {"email": "boss@exam\u200bple.com"},
    "a comment": {"email": "boss(x)@example.com"},
    "quotes": {"email": '"boss"@example.com'},
    "another claim": {"email": "m@example.com", "preferred_username": "boss@example.com", "upn": "boss@example.com"},
    "no address": {"email": None, "preferred_username": "boss@example.com"},
    "a nested claim": {"email": "m@example.com", "boss": {"email": "boss@example.com"}},
    "a subject that is an address": {"sub": "boss@example.com", "email": "m2@example.com"},
}
_SUBJECTS: Mapping[str, Any] = {
    "another case": "ANN",
    "a blank behind it": "ann ",
    "a NUL behind it": "ann\x00",
    "an issuer before it": "http://127.0.0.1 ann",
    "wide letters": "ａnn",
    "another normal form": "ann\u0301",
    "a list": ["ann"],
    "a number": 1,
    "nothing": "",
    "null": None,
    "10 kB": "ann" + "n" * 10_000,
}


def _pretend(company: _Company, attempts: Attempts) -> None:
    """Nobody becomes somebody else by claims that look like those of another person or group."""

    def begin(name: str, person: str, *groups: str, **claims: Any) -> httpx.Client | None:
        """Return the client of a person that was accepted. None: it was refused."""
        company.enter(person, *groups, **claims)
        device = Device(company.proxy)
        page = Browser(company.proxy).approve(device.begin())
        answer = device.poll()
        attempts.check(f"{name}: no error of the server", page.status_code < 500 > answer.status_code, page.text)
        if answer.status_code != 200:
            return None
        return company.proxy.client(headers={"authorization": f"Bearer {answer.json()['access_token']}"})

    def read_team(client: httpx.Client) -> str:
        rows = client.get("/admin/keys").json().get("data", [])
        return ", ".join(str(row.get("team")) for row in rows)

    ann = begin("control", "ann", "developers")
    assert ann is not None
    assert begin("control", "carl", "admins") is not None
    for number, (name, groups) in enumerate(_LIKE_ADMINS.items()):
        client = begin(f"group, {name}", f"mallory-{number}", groups=groups)
        attempts.check(f"group, {name}", client is None, client and read_team(client))
    for number, (name, claims) in enumerate(_LIKE_BOSS.items()):
        client = begin(f"address, {name}", f"eve-{number}", "developers", **claims)
        teams = "" if client is None else read_team(client)
        attempts.check(f"address, {name}", "core" not in teams, teams)
    ann.post("/admin/keys", json={"name": "of-ann"})
    for name, subject in _SUBJECTS.items():
        client = begin(f"subject, {name}", "x", "developers", sub=subject, email="ann@example.com")
        shown = "" if client is None else client.get("/admin/keys").text
        attempts.check(f"subject, {name}", "of-ann" not in shown, shown)


def _use_own_keys(company: _Company, attempts: Attempts) -> None:
    """A person has no more keys, rights, models or money than the group allows, and reaches nothing of others."""
    ann, bob = company.sign_in("ann", "developers"), company.sign_in("bob", "developers")
    lead = company.sign_in("lead", "leads")

    def create(client: httpx.Client, **fields: Any) -> httpx.Response:
        return client.post(
            "/admin/keys", json={"name": f"key-{len(attempts.names)}-{fields.get('name', '')}", **fields}
        )

    with ThreadPoolExecutor(12) as pool:
        answers = [*pool.map(lambda number: create(ann, name=f"together-{number}"), range(12))]
    created = [answer.json() for answer in answers if answer.status_code == 200]
    attempts.check("12 keys at the same time", len(created) == _MAX_KEYS, [answer.text[:80] for answer in answers])
    attempts.check("one more key", create(ann).status_code != 200)
    key = created[0]
    with ThreadPoolExecutor(8) as pool:
        rotated = [*pool.map(lambda _: ann.post(f"/admin/keys/{key['id']}/rotate", json={}), range(8))]
    listed = ann.get("/admin/keys").json()["data"]
    attempts.check("8 rotations at the same time make no key", len(listed) <= _MAX_KEYS + 1, listed)
    text = next((answer.json()["key"] for answer in reversed(rotated) if answer.status_code == 200), key["key"])
    holder = company.proxy.client(headers={"x-api-key": text})
    other = create(bob, name="of-bob").json()
    person = next(row for row in company.admin.get("/admin/keys").json()["data"] if row["name"] == "bob@example.com")
    own = next(row for row in company.admin.get("/admin/keys").json()["data"] if row["name"] == "ann@example.com")
    fields: Mapping[str, Mapping[str, Any]] = {
        "models": {"models": ["*"]},
        "no models": {"models": None},
        "providers": {"providers": ["openai", "demo"]},
        "a budget": {"budgets": [{"amount": 9_000_000, "unit": "usd", "period": "day"}]},
        "no budgets": {"budgets": None},
        "the team": {"team": "core"},
        "no team": {"team": ""},
        "the owner": {"owner": "bob@example.com"},
        "no owner": {"owner": ""},
        "the id of the owner": {"owner": person["id"]},
        "the role": {"role": "admin"},
        "the id": {"id": other["id"]},
        "the creator": {"creator": "admin key 1"},
        "the hash": {"hash": "0" * 64},
        "the state": {"status": "active", "revoked_at": None},
        "exceptions": {"exceptions": []},
        "the issuer": {"issuer": "x", "subject": "y"},
        "groups": {"groups": ["admins"]},
    }
    for name, change in fields.items():
        ann.post(f"/admin/keys/{key['id']}", json=change)
        refused = holder.post("/v1/messages", json={**_BODY, "model": "openai/gpt-4.1"})
        attempts.check(f"own key, {name}: its models", refused.status_code in (401, 403), refused.text)
        stored = company.admin.get(f"/admin/keys/{key['id']}").json()
        is_same = (stored["owner"], stored["team"]) == ("ann@example.com", "build")
        attempts.check(f"own key, {name}: its owner and team", is_same, stored)
        before = company.admin.get(f"/admin/keys/{own['id']}").json()
        ann.post(f"/admin/keys/{own['id']}", json=change)
        after = company.admin.get(f"/admin/keys/{own['id']}").json()
        before.pop("spending"), after.pop("spending")
        attempts.check(f"key of the own person, {name}", before == after, after)
        answer = create(ann, **change)
        attempts.check(f"new key with {name}", answer.status_code != 200, answer.text)
    for name, target in {
        "a key of another": other["id"],
        "another person": person["id"],
        "by label": other["name"],
    }.items():
        for action, body in {
            "": {"name": "stolen"},
            "/rotate": {"overlap_seconds": 3600},
            "/revoke": {},
            "/allow": {},
        }.items():
            answer = ann.post(f"/admin/keys/{target}{action}", json=body)
            attempts.check(f"{name}{action or ' changed'}", answer.status_code in (400, 403, 404), answer.text)
        attempts.check(f"{name} read", ann.get(f"/admin/keys/{target}").status_code in (403, 404))
    attempts.check(
        "the key of another still works", company.admin.get(f"/admin/keys/{other['id']}").json()["status"] == "active"
    )
    for name, path in {
        "audit": "/admin/audit",
        "sign-ins of another": "/admin/sign-ins?email=bob@example.com",
        "keys by team": "/admin/keys?team=core",
        "keys behind the id of another": f"/admin/keys?after_id={other['id']}",
        "keys of all states": "/admin/keys?status=active&limit=1000",
        "usage of another": "/api/usage?owner=bob@example.com&by=owner",
        "requests of another": "/api/requests?owner=bob@example.com",
        "requests by key": "/api/requests?client=of-bob&key=of-bob",
        "teams": "/admin/teams",
        "settings": "/dashboard/settings",
    }.items():
        answer = ann.get(path)
        attempts.check(f"list: {name}", "bob" not in answer.text and "of-bob" not in answer.text, answer.text)
    for name, change in {"a team": {"models": ["*"]}, "its budget": {"budgets": []}}.items():
        for who, client in {"a developer": ann, "a team admin": lead}.items():
            answer = client.post("/admin/teams/build", json=change)
            attempts.check(f"{who} changes {name}", answer.status_code in (403, 404), answer.text)
    for name, change in {
        "an owner of another team": {"owner": "carl@example.com"},
        "another team": {"team": "core"},
        "no team": {"team": ""},
        "the group of administrators": {"team": "admins"},
        "its own person as an administrator": {"role": "admin"},
    }.items():
        company.enter("carl", "admins")
        answer = create(lead, **change)
        attempts.check(f"a team admin creates a key with {name}", answer.status_code != 200, answer.text)
    for override in ("x-http-method-override", "x-http-method", "x-method-override"):
        answer = ann.get(f"/admin/keys/{key['id']}/revoke", headers={override: "POST"})
        attempts.check(f"the method in {override}", answer.status_code >= 400, answer.text)
    answer = ann.get("/admin/keys", params={"_method": "POST", "name": "x"})
    attempts.check("the method in the query", answer.status_code in (200, 400), answer.text)
    company.admin.post("/admin/keys/ann@example.com/revoke", json={})
    wait_for(lambda: ann.get("/v1/models"), lambda answer: answer.status_code == 401)
    for row in created:
        dead = company.proxy.client(headers={"x-api-key": row["key"]})
        answer = wait_for(lambda dead=dead: dead.get("/v1/models"), lambda answer: answer.status_code == 401)
        attempts.check("a key of a revoked person", answer.status_code == 401)
        answer = bob.post(f"/admin/keys/{row['id']}/rotate", json={})
        attempts.check("another person rotates it", answer.status_code in (403, 404), answer.text)
        answer = lead.post(f"/admin/keys/{row['id']}/rotate", json={})
        again = company.proxy.client(headers={"x-api-key": answer.json().get("key", "none")})
        attempts.check(
            "a team admin rotates it", again.post("/v1/messages", json=_BODY).status_code == 401, answer.text
        )


def _open_pages(company: _Company, attempts: Attempts) -> None:
    """Pages, exports and forms show and change nothing of others, and accept no form of another origin or person."""
    ann, bob = company.open_dashboard("ann", "developers"), company.open_dashboard("bob", "developers")
    holder = company.sign_in("bob", "developers")
    sent = holder.post(
        "/v1/messages",
        json={**_BODY, "messages": [{"role": "user", "content": "walrus-of-bob"}]},
        headers={"x-claude-code-session-id": "session-of-bob", "x-project": "project-of-bob"},
    )
    request_id = sent.headers["request-id"]
    wait_for(lambda: bob.get(f"/dashboard/requests/{request_id}"), lambda answer: answer.status_code == 200)
    holder.post("/admin/keys", json={"name": "laptop-of-bob"})
    keys = {row["name"]: row["id"] for row in company.admin.get("/admin/keys").json()["data"]}
    shown = bob.get("/dashboard/keys").text + bob.get(f"/dashboard/requests/{request_id}").text
    attempts.check("a control", "laptop-of-bob" in shown and "walrus-of-bob" in shown)
    marks = ("laptop-of-bob", "walrus-of-bob", "session-of-bob", "project-of-bob", "bob@example.com")
    for path in (
        f"/dashboard/requests/{request_id}",
        f"/dashboard/requests/{request_id}/images/0",
        f"/dashboard/keys/{keys['laptop-of-bob']}",
        f"/dashboard/keys/{keys['bob@example.com']}",
        *("/dashboard/session?id=session-of-bob", "/dashboard/sessions?q=walrus", "/dashboard/requests?q=walrus"),
        *("/dashboard/requests?owner=bob%40example.com", "/dashboard/requests?key=laptop-of-bob"),
        *("/dashboard/costs?by=owner", "/dashboard/costs?by=key&split=project", "/dashboard/costs?format=csv&by=owner"),
        *("/dashboard/models?owner=bob%40example.com", "/dashboard/palette?q=bob", "/dashboard/palette?q=session"),
        *("/dashboard/keys?q=bob", "/dashboard/keys?format=json", "/dashboard/keys?format=csv", "/dashboard/settings"),
        *("/dashboard/requests?format=csv", "/dashboard/requests?format=json&limit=10000", "/dashboard/providers"),
        *("/dashboard/sessions?format=csv", "/dashboard/keys/audit", "/dashboard/keys/audit?format=csv"),
        *("/dashboard?owner=bob%40example.com", "/api/requests", "/api/usage", "/admin/keys", "/metrics"),
        *("/dashboard/requests?sort=owner&after=0", "/dashboard/requests?team=build", "/dashboard/sessions?team=build"),
        "/dashboard/keys/edit?action=rotate&target=laptop-of-bob",
        "/dashboard/keys/edit?action=revoke&target=bob%40example.com",
        "/dashboard/keys/edit?action=team&target=build",
    ):
        answer = ann.get(path)
        found = [mark for mark in marks if mark in answer.text and mark not in path.replace("%40", "@")]
        is_held = answer.status_code < 500 and not found
        attempts.check(f"page {path.replace(request_id, 'ID')[:70]}", is_held, (answer.status_code, found))
    page = ann.get("/dashboard/keys/edit?action=create")
    token, foreign = (read_form(each)["token"] for each in (page, bob.get("/dashboard/keys/edit?action=create")))
    usual = {"token": token, "action": "create", "target": "", "label": "made-by-evil", "models": "demo/demo"}
    preview = read_form(ann.post("/dashboard/keys/edit", data=usual, headers=SAME_ORIGIN))
    form = {**usual, "before": preview["before"]}
    origins: Mapping[str, dict[str, str]] = {
        "cross-site": {"sec-fetch-site": "cross-site"},
        "same-site": {"sec-fetch-site": "same-site"},
        "another origin": {"origin": "https://evil.example"},
        "no origin": {"origin": "null"},
        "another port": {"origin": "http://127.0.0.1:1"},
        "a longer host": {"origin": f"{company.proxy.url}.evil.example"},
        "a user in the origin": {"origin": f"http://127.0.0.1@{company.proxy.url.removeprefix('http://')}"},
    }
    for name, headers in origins.items():
        for path, data in (
            ("/dashboard/keys/edit", form),
            ("/dashboard/sign-in", {"key": ADMIN_KEY}),
            ("/dashboard/settings/edit", {"token": token, "name": "LOG_LEVEL", "value": "debug"}),
            ("/dashboard/providers/doctor", {"token": token}),
        ):
            client = company.proxy.client() if path == "/dashboard/sign-in" else ann
            answer = client.post(path, data=data, headers=headers)
            is_held = answer.status_code in (400, 403, 404)
            attempts.check(f"form of {name}, {path}", is_held, (answer.status_code, answer.text[-300:]))
    for name, data in {
        "the token of another person": {**form, "token": foreign},
        "no token": {**form, "token": ""},
        "another action": {**form, "action": "rotate", "target": "laptop-of-bob"},
        "a revocation": {**form, "action": "revoke", "target": keys["laptop-of-bob"]},
        "the person of another": {**form, "action": "revoke", "target": "bob@example.com"},
        "a team": {**form, "action": "team", "target": "build", "models": "*"},
        "an allowance": {**form, "action": "allow", "target": "bob@example.com"},
        "a sign-out": {**form, "action": "sign-out", "target": "bob@example.com"},
        "an unknown action": {**form, "action": "delete", "target": "laptop-of-bob"},
        "an owner": {**form, "owner": "bob@example.com"},
        "another team": {**form, "team": "core"},
    }.items():
        first = ann.post("/dashboard/keys/edit", data=data, headers=SAME_ORIGIN)
        confirmed = {**data, "before": read_form(first).get("before", data["before"])}
        second = ann.post("/dashboard/keys/edit", data=confirmed, headers=SAME_ORIGIN)
        rows = company.admin.get("/admin/keys").json()["data"]
        states = {row["name"]: (row["status"], row["owner"], row["team"]) for row in rows}
        own = states.get("made-by-evil", ("active", "ann@example.com", "build"))
        is_same = states["laptop-of-bob"] == ("active", "bob@example.com", "build")
        is_held = is_same and own[1:] == ("ann@example.com", "build") and second.status_code < 500
        attempts.check(f"form with {name}", is_held, (first.status_code, states))
    attempts.check("the person of another still works", holder.get("/v1/models").status_code == 200)
    for name, content, kind in (
        ("JSON", json.dumps(form).encode(), "application/json"),
        ("plain text", "&".join(f"{key}={value}" for key, value in form.items()).encode(), "text/plain"),
    ):
        headers = {"content-type": kind, "sec-fetch-site": "cross-site", "origin": "https://evil.example"}
        answer = ann.post("/dashboard/keys/edit", content=content, headers=headers)
        attempts.check(f"a form as {name}", answer.status_code in (400, 403, 415), answer.status_code)


_SPOKEN = (
    *("\x1b]52;c;ZXZpbA==\x07", "\x1b[2J", "\x9b2J", "\u202e", "\r\n2026 forged line", "\u2028", "<script>", "=cmd()"),
)
"""Texts of people that a terminal, a log, a page or a table would obey."""


def _speak(company: _Company, attempts: Attempts) -> None:
    """Names, groups, programs and addresses of people reach logs, terminals and pages without their commands."""
    for number, text in enumerate(_SPOKEN):
        claims = {"name": f"Ann {text}", "preferred_username": text}
        company.enter(f"ann-{number}", groups=["developers", text], **claims)
        device = Device(company.proxy)
        program = "".join(filter(str.isprintable, f"claude-code/{text}")).encode("latin-1", "replace")
        device.client.headers = httpx.Headers([(b"user-agent", program)])
        page = Browser(company.proxy).approve(device.begin())
        attempts.check(f"{text!r}: page of the device", not _find_commands(page.text), page.text[-300:])
        answer = device.poll()
        assert answer.status_code == 200, answer.text
        client = company.proxy.client(headers={"authorization": f"Bearer {answer.json()['access_token']}"})
        created = client.post("/admin/keys", json={"name": f"k{number}{text}"})
        attempts.check(f"{text!r}: label of a key", created.status_code < 500, created.text)
        company.enter(f"eve-{number}", groups=[text])
        refused = Browser(company.proxy).approve(Device(company.proxy).begin())
        attempts.check(f"{text!r}: page of a refusal", not _find_commands(refused.text), refused.text[-300:])
        company.enter(f"eva-{number}", "developers", email=f"eva{text}@example.com")
        refused = Browser(company.proxy).approve(Device(company.proxy).begin())
        attempts.check(f"{text!r}: page of a false address", not _find_commands(refused.text), refused.text[-300:])
    for path in ("/admin/sign-ins", "/admin/audit", "/admin/keys"):
        answer = company.admin.get(path)
        attempts.check(f"{path} is JSON", answer.status_code == 200 and "\x1b" not in answer.text)
    environment = {
        **environment_of(company.directory),
        "DATABASE_URL": f"sqlite:///{company.directory}/ledger.sqlite3",
        "VIRTUAL_KEYS": "true",
    }
    for words in (("keys", "sign-ins"), ("keys", "list"), ("keys", "audit"), ("keys", "audit", "--csv")):
        command = [sys.executable, "-m", "anthropic_proxy", *words]
        done = subprocess.run(command, env=environment, capture_output=True, check=False, cwd=company.directory)
        shown = (done.stdout + done.stderr).decode("utf-8", "replace").replace("\r\n", "\n")
        is_held = done.returncode == 0 and not _find_commands(shown, of_pages=False)
        attempts.check(" ".join(words), is_held, (done.returncode, _find_commands(shown, of_pages=False), shown[-300:]))
    log = company.proxy.log
    is_held = not _find_commands(log, of_pages=False) and "\n2026 forged line" not in log
    attempts.check("the log", is_held, (_find_commands(log, of_pages=False), log[-600:]))


def _find_commands(text: str, *, of_pages: bool = True) -> list[str]:
    """Return what a terminal or a browser obeys."""
    marks = ("\x1b", "\x9b", "\x07", "Ann <script>") if of_pages else ("\x1b", "\x9b", "\x07", "\u202e", "\u2028", "\r")
    return [mark for mark in marks if mark in text]


PEOPLE: tuple[Row, ...] = (
    Row(name="people: claims that look like those of others", run=_in_company(_pretend)),
    Row(name="people: own keys, and keys of others", run=_in_company(_use_own_keys)),
    Row(name="people: pages and forms of others", run=_in_company(_open_pages)),
    Row(name="people: texts of people in logs and terminals", run=_in_company(_speak)),
)
