"""Sign-in from Claude Code by the gateway protocol, with a strict identity provider."""

import html
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fakes.oidc import FakeProvider, running_provider
from tests.support.server_process import Proxy, running_proxy
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
GROUPS = """
[sign_in.groups.platform]
team = "core"
role = "admin"
models = ["demo/*"]
budgets = ["5USD/day"]

[sign_in.groups.developers]
team = "build"
requests_per_minute = 60
"""


class Company:
    def __init__(self, proxy: Proxy, provider: FakeProvider) -> None:
        self.proxy = proxy
        self.provider = provider
        self.admin = proxy.client(headers={"x-api-key": ADMIN_KEY})

    def new_device(self, email: str = "ann@example.com", groups: tuple[str, ...] = ("developers",)) -> Device:
        self.provider.user = {
            "sub": f"subject of {email}",
            "email": email,
            "email_verified": True,
            "name": email.partition("@")[0].title(),
            "groups": [*groups, "not named by the settings"],
        }
        return Device(self.proxy)


SIGN_IN = """
[sign_in]
notice = "Questions: platform@example.com"
contact = "https://go.example.com/claude"
domains = ["example.com"]
keys_per_person = 2
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company]:
    directory: Path = tmp_path_factory.mktemp("company")
    (directory / "anthropic-proxy.toml").write_text(GROUPS + SIGN_IN)
    with running_provider() as provider:
        provider.offers_refresh = True
        settings = {
            **list_sign_in_settings(provider),
            "ADMIN_API_KEY": ADMIN_KEY,
            "SERVE_DEMO": "true",
            "LOG_LEVEL": "info",
            "DATABASE_URL": f"sqlite:///{directory}/ledger.sqlite3",
        }
        with running_proxy(directory, settings) as proxy:
            provider.redirect_uri = f"{proxy.url}/dashboard/oidc/callback"
            yield Company(proxy, provider)
            assert provider.problems == []


@pytest.fixture
def company(shared: Company) -> Company:
    shared.provider.refresh_failure = None
    shared.provider.may_refresh.set()
    shared.provider.error = ""
    shared.provider.refreshes_shortly = False
    return shared


def test_discovery_and_device_authorization_have_the_form_of_the_protocol(company: Company) -> None:
    url, device = company.proxy.url, company.new_device()
    found = device.client.get("/.well-known/oauth-authorization-server")
    assert (found.status_code, found.json()) == (
        200,
        {
            "issuer": url,
            "device_authorization_endpoint": f"{url}/oauth/device_authorization",
            "token_endpoint": f"{url}/oauth/token",
            "revocation_endpoint": f"{url}/oauth/revoke",
            "grant_types_supported": ["urn:ietf:params:oauth:grant-type:device_code", "refresh_token"],
            "response_types_supported": [],
            "token_endpoint_auth_methods_supported": ["none"],
            "scopes_supported": ["openid", "profile", "email"],
            "gateway_protocol_version": 1,
        },
    )
    begun = device.begin()
    code = begun["user_code"]
    assert begun == {
        "device_code": begun["device_code"],
        "user_code": code,
        "verification_uri": f"{url}/device",
        "verification_uri_complete": f"{url}/device?user_code={code}",
        "expires_in": 600,
        "interval": 5,
        "login_notice": "Questions: platform@example.com",
    }
    assert len(begun["device_code"]) == 72
    pending = device.poll()
    early = wait_for(device.poll, lambda answer: answer.status_code == 429)  # on a busy machine, some are not too early
    assert (pending.status_code, pending.json()) == (400, {"error": "authorization_pending"})
    assert (early.status_code, early.json()) == (429, {"error": "slow_down"})
    wrong = device.client.post("/oauth/token", data={"grant_type": "refresh_token", "refresh_token": "x"})
    wait_for(lambda: wrong.headers["request-id"] in company.proxy.log)
    assert pending.headers["request-id"] not in company.proxy.log, "polls are no errors"


def test_a_person_signs_in_and_is_a_virtual_key_of_the_team_of_the_group(company: Company) -> None:
    device = company.new_device("bea@example.com", ("developers",))
    begun, browser = device.begin(), Browser(company.proxy)
    page = browser.open(begun)
    text = html.unescape(page.text)
    for shown in (begun["user_code"], "claude-code/2.1.332", "127.0.0.1"):
        assert f">{shown}<" in text
    policy = page.headers["content-security-policy"]
    assert f"form-action 'self' {company.provider.issuer}; " in policy
    asked = browser.client.get(browser.follow(browser.confirm(begun["user_code"].lower().replace("-", ""))))
    done = browser.decide(asked)
    assert read_result(done) == (
        "claude-code/2.1.332 is signed in as bea@example.com. Return to Claude Code, and confirm the account there."
    )
    answer = device.poll()
    again = wait_for(device.poll, lambda polled: polled.status_code != 400)  # 400: it came as late as a poll should
    assert (again.status_code, again.json()) == (429, {"error": "slow_down"})
    tokens = answer.json()
    assert (answer.status_code, {**tokens, "access_token": "", "refresh_token": ""}) == (
        200,
        {
            "access_token": "",
            "token_type": "Bearer",
            "expires_in": 3600,
            "refresh_token": "",
            "email": "bea@example.com",
        },
    )
    assert device.send(tokens["access_token"]).status_code == 200
    found = company.admin.get("/admin/keys/bea@example.com").json()
    shown = {name: found[name] for name in ("name", "owner", "team", "status", "requests_per_minute", "budgets")}
    assert shown == {
        "name": "bea@example.com",
        "owner": "bea@example.com",
        "team": "build",
        "status": "active",
        "requests_per_minute": 60,
        "budgets": [],
    }
    (listed,) = [one for one in company.admin.get("/admin/sign-ins").json()["data"] if one["email"] == found["name"]]
    assert (listed["device"], listed["address"], listed["key_id"]) == ("claude-code/2.1.332", "127.0.0.1", found["id"])


def test_a_refresh_asks_the_provider_and_follows_the_groups(company: Company) -> None:
    device = company.new_device("cem@example.com", ("developers",))
    device.sign_in()
    before = company.provider.refreshes
    company.new_device("cem@example.com", ("platform",))
    answer = device.refresh()
    assert (answer.status_code, sorted(answer.json())) == (200, ["access_token", "email", "expires_in", "token_type"])
    assert company.provider.refreshes == before + 1
    found = company.admin.get("/admin/keys/cem@example.com").json()
    assert (found["team"], found["models"], found["requests_per_minute"]) == ("core", ["demo/*"], None)
    assert [(one["amount"], one["unit"], one["period"]) for one in found["budgets"]] == [(5.0, "usd", "day")]
    assert device.send(answer.json()["access_token"]).status_code == 200
    company.new_device("cem@example.com", ())
    refused = device.refresh()
    reason = (
        "The sign-in has ended. cem@example.com may not use Claude Code, because none of the groups of the user gives "
        "access. Ask for access: https://go.example.com/claude"
    )
    for answer in (refused, device.refresh()):
        assert (answer.status_code, answer.json()) == (400, {"error": "invalid_grant", "error_description": reason})
    # Claude Code drops the refresh token, and shows the answer to its next request
    late = wait_for(device.send, lambda answer: answer.status_code == 401)
    assert late.json()["error"] == {"type": "authentication_error", "message": reason}
    entries = company.admin.get("/admin/audit").json()["data"]
    (logged,) = (one for one in entries if one["action"] == "sign out" and "cem@" in one["object"])
    assert logged["changes"]["reason"]["after"] == (
        "cem@example.com may not use Claude Code, because none of the groups of the user gives access. An "
        "administrator should add the user to a group with a table [sign_in.groups.NAME] (platform or developers), or "
        "add a table."
    )
    assert late.headers["x-should-retry"] == "false"


def test_a_person_without_a_group_gets_no_access_by_keys_of_the_dashboard(company: Company) -> None:
    """The dashboard accepts everybody whom the identity provider knows, as a member."""
    device = company.new_device("leo@example.com", ("developers",))
    person = company.proxy.client(headers={"authorization": f"Bearer {device.sign_in()['access_token']}"})
    created = person.post("/admin/keys", json={"name": "leo's laptop"}).json()
    company.new_device("leo@example.com", ())
    assert device.refresh().status_code == 400
    dashboard = sign_in_to_dashboard(company.proxy)
    reason = (
        "None of your groups gives access, so your keys get no new secret. "
        "Ask an administrator of the proxy for access."
    )
    creation = {"action": "create", "target": "", "label": "leo-2"}
    for sent in (creation, {"action": "rotate", "target": created["id"], "overlap": "0m"}):
        form = dashboard.get("/dashboard/keys/edit", params=sent)
        (token,) = set(re.findall(r'name="token" value="([^"]+)"', form.text))
        answer = dashboard.post("/dashboard/keys/edit", data={"token": token, **sent}, headers=SAME_ORIGIN)
        assert (answer.status_code, reason in html.unescape(answer.text)) == (403, True)
    names = [one["name"] for one in company.admin.get("/admin/keys?limit=1000").json()["data"]]
    assert "leo-2" not in names
    # at first, the access has ended; then the table of keys has read that no group gives it
    refused = wait_for(lambda: device.send(created["key"]), lambda answer: "groups" in answer.text)
    assert refused.json()["error"]["message"] == (
        'The key "leo\'s laptop" is rejected, because none of the groups of its owner gives access any more. Ask for '
        "access: https://go.example.com/claude"
    ), "the sign-in to the dashboard has stated no group"


def test_own_keys_end_with_the_access_of_their_person(company: Company) -> None:
    """Also with a second device, which has not asked since."""
    first = company.new_device("ida@example.com", ("developers",))
    token = first.sign_in()["access_token"]
    second = Device(company.proxy)
    second.sign_in()
    person = company.proxy.client(headers={"authorization": f"Bearer {token}"})
    key = person.post("/admin/keys", json={"name": "ida's laptop"}).json()["key"]
    assert wait_for(lambda: first.send(key), lambda answer: answer.status_code == 200)
    company.new_device("ida@example.com", ())
    assert first.refresh().status_code == 400
    refused = wait_for(lambda: first.send(key), lambda answer: answer.status_code == 401)
    before, _, rest = refused.json()["error"]["message"].partition(" has ended at ")
    assert before == 'The key "ida\'s laptop" is rejected, because the access of its owner'
    assert rest.partition(". ")[2] == "The owner signs in again from Claude Code."
    assert second.refresh().status_code == 400
    company.new_device("ida@example.com", ("developers",)).sign_in()
    assert wait_for(lambda: first.send(key), lambda answer: answer.status_code == 200)


def test_a_refresh_without_id_token_and_new_refresh_token_reads_the_user_info(company: Company) -> None:
    device = company.new_device("hal@example.com", ("developers",))
    device.sign_in()
    company.provider.refreshes_shortly = True
    company.new_device("hal@example.com", ("platform",))
    assert [device.refresh().status_code for _ in range(2)] == [200, 200]
    assert company.admin.get("/admin/keys/hal@example.com").json()["team"] == "core"
    company.provider.revoke_refresh_tokens()
    assert device.refresh().json()["error"] == "invalid_grant"
    entry = company.admin.get("/admin/audit").json()["data"][0]
    assert (entry["actor"], entry["action"], entry["changes"]["reason"]["after"]) == (
        "sign-in (hal@example.com)",
        "sign out",
        "The identity provider does not accept the refresh token: the person has no access any more, or has to sign in "
        "again.",
    )


STATED: list[tuple[str, dict[str, object], tuple[int, str]]] = [
    ("other groups, without an address", {"groups": ["platform"]}, (200, "core")),
    ("no groups, without an address", {"groups": []}, (400, "")),
    ("neither groups nor an address", {}, (200, "build")),
    ("an address, without groups", {"email": "lia@example.com", "email_verified": True}, (400, "")),
    (
        "another address",
        {"email": "lia.new@example.com", "email_verified": True, "groups": ["developers"]},
        (200, "build"),
    ),
    ("a false address", {"email": "lia@example.com", "email_verified": False, "groups": ["developers"]}, (400, "")),
]


@pytest.mark.parametrize("has_id_token", [True, False])
@pytest.mark.parametrize(("stated", "expected"), [row[1:] for row in STATED], ids=[row[0] for row in STATED])
def test_a_refresh_takes_what_the_provider_states_and_keeps_the_rest(
    company: Company, stated: dict[str, object], expected: tuple[int, str], has_id_token: bool
) -> None:
    device = company.new_device("lia@example.com", ("developers",))
    device.sign_in()
    company.provider.refreshes_shortly = not has_id_token
    company.provider.user = {"sub": "subject of lia@example.com", **stated}
    status, team = expected
    answer = device.refresh()
    assert answer.status_code == status, answer.text
    if status == 200:
        assert answer.json()["email"] == stated.get("email", "lia@example.com")
        assert company.admin.get(f"/admin/keys/{answer.json()['email']}").json()["team"] == team
        assert device.send(answer.json()["access_token"]).status_code == 200


@pytest.mark.parametrize("place", ["ID token", "user info"])
def test_a_refresh_with_the_facts_of_another_user_ends_the_sign_in(company: Company, place: str) -> None:
    device = company.new_device("max@example.com", ("developers",))
    device.sign_in()
    if place == "ID token":
        company.new_device("nia@example.com", ("platform",))
        reason = "The identity provider sent an ID token of another user. Sign in again."
    else:
        company.provider.user = {"sub": "subject of max@example.com", "groups": ["platform"]}
        company.provider.user_info_subject = "subject of nia@example.com"
        reason = "The user info of the identity provider is of another user than the ID token. Sign in again."
    answer = device.refresh()
    company.provider.user_info_subject = ""
    ended = {"error": "invalid_grant", "error_description": f"The sign-in has ended. {reason}"}
    assert (answer.status_code, answer.json()) == (400, ended)
    entry = company.admin.get("/admin/audit").json()["data"][0]
    assert (entry["actor"], entry["action"]) == ("sign-in (max@example.com)", "sign out")
    assert entry["changes"]["reason"]["after"] == reason


def test_a_provider_that_does_not_answer_ends_no_sign_in(company: Company) -> None:
    device = company.new_device("dan@example.com")
    device.sign_in()
    company.provider.refresh_failure = (500, {"error": "server_error"})
    waiting = device.refresh()
    assert (waiting.status_code, waiting.json()) == (
        503,
        {
            "error": "temporarily_unavailable",
            "error_description": f"The identity provider answered {company.provider.issuer}/token with HTTP 500. Ask "
            "for help: https://go.example.com/claude",
        },
    )
    company.provider.refresh_failure = None
    company.provider.may_refresh.clear()
    slow = device.refresh()
    assert (slow.status_code, slow.json()) == (
        503,
        {
            "error": "temporarily_unavailable",
            "error_description": "The identity provider has not answered in time.",
        },
    )
    company.provider.may_refresh.set()
    # the late answer has replaced the provider's refresh token, and was stored
    assert device.refresh().status_code == 200
    assert device.refresh().status_code == 200


def test_a_person_without_a_group_is_refused_with_the_reason_in_browser_and_terminal(company: Company) -> None:
    device = company.new_device("eve@example.com", ())
    page = Browser(company.proxy).approve(device.begin())
    reason = (
        "eve@example.com may not use Claude Code, because none of the groups of the user gives access. Ask for access: "
        "https://go.example.com/claude"
    )
    assert (page.status_code, html.unescape(read_result(page))) == (403, reason)
    answer = device.poll()
    assert (answer.status_code, answer.json()) == (403, {"error": "unauthorized_client", "error_description": reason})


def test_a_refresh_token_of_absurd_size_is_not_stored(company: Company) -> None:
    company.provider.refresh_characters = 20_000
    page = Browser(company.proxy).approve(company.new_device("kim@example.com").begin())
    company.provider.refresh_characters = 22
    assert (page.status_code, html.unescape(read_result(page))) == (
        502,
        "The identity provider sent a refresh token with 20,000 characters; 16,384 are allowed. Ask for help: "
        "https://go.example.com/claude",
    )


def test_a_denied_code_is_denied_on_the_device(company: Company) -> None:
    device = company.new_device("fay@example.com")
    page = Browser(company.proxy).confirm(device.begin()["user_code"], "deny")
    assert read_result(page) == "The sign-in is denied. You can close this page."
    answer = device.poll()
    assert (answer.status_code, answer.json()) == (
        400,
        {"error": "access_denied", "error_description": "The sign-in was denied in the browser."},
    )


def test_a_sign_out_on_the_device_and_by_the_administrator_ends_the_sign_in(company: Company) -> None:
    device, other = company.new_device("gus@example.com"), company.new_device("gus@example.com")
    device.sign_in()
    other.sign_in()
    out = device.client.post("/oauth/revoke", data={"token": device.tokens["access_token"]})
    assert (out.status_code, out.json()) == (200, {})
    refresh = {"token": device.tokens["refresh_token"], "token_type_hint": "refresh_token"}
    assert device.client.post("/oauth/revoke", data=refresh).json() == {}
    wait_for(device.send, lambda answer: answer.status_code == 401)
    assert other.send().status_code == 200
    ended = company.admin.post("/admin/sign-ins/gus@example.com/sign-out")
    assert [one["email"] for one in ended.json()["data"]] == ["gus@example.com"]
    assert other.send().status_code == 401
    assert other.refresh().status_code == 400
    entries = company.admin.get("/admin/audit").json()["data"]
    found = [(one["actor"], one["action"]) for one in entries if "gus@" in one["object"]]
    assert found == [
        ("API (admin key 1)", "sign out"),
        ("sign-in (gus@example.com)", "sign out"),
        ("sign-in (gus@example.com)", "sign in"),
        ("sign-in (gus@example.com)", "sign in"),
        ("sign-in (gus@example.com)", "create key"),
    ]
