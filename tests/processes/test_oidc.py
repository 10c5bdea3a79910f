"""Sign-in to the dashboard with an identity provider: roles, own usage of members, each kind of invalid response."""

import html
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.support.dashboard import wait_for_request
from tests.support.fakes import oidc
from tests.support.fakes.oidc import CLIENT_ID, CLIENT_SECRET, FakeProvider, ask_provider, running_provider, sign
from tests.support.server_process import Proxy, running_proxy
from tests.support.waiting import wait_for

ADMIN_KEY = "admin-canary0123456789abcdef01234567"
START = "/dashboard/oidc/start"
RETRY = "Sign in again."
CHECK_ISSUER = "An administrator should check OIDC_ISSUER."
REMEDIES = {
    CHECK_ISSUER: "help",
    "domains of [sign_in] lists the accepted ones.": "access",
    "An administrator should allow the scope email for the client, or set email_claim of [sign_in].": "help",
    "An administrator should set email_claim of [sign_in] to a claim with such an address.": "help",
    "If the provider sends no claim email_verified, an administrator should set email_claim of [sign_in] to a claim "
    "that users cannot change.": "help",
}
"""End of a message in the log → what the page says to ask for instead."""
INVALID = "The identity provider sent an ID token that is not valid: "
IMAGE = {"type": "base64", "media_type": "image/gif", "data": "R0lGODdhAQABAIAAAP///////ywAAAAAAQABAAACAkQBADs="}
PAGES = ("", "/requests", "/sessions", "/models", "/requests/{id}", "/session?session={session}")


class Team:
    """A proxy and its identity provider. Ann and Ben have one virtual key each."""

    def __init__(self, proxy: Proxy, provider: FakeProvider) -> None:
        self.proxy = proxy
        self.provider = provider
        self.admin = proxy.client(headers={"x-api-key": ADMIN_KEY})
        self.ids = {owner: self._send(owner) for owner in ("ann", "ben")}

    def _send(self, owner: str) -> str:
        """Create a virtual key, send a request with it, and return the request id."""
        created = self.admin.post("/admin/keys", json={"name": f"key-of-{owner}", "owner": f"{owner}@example.com"})
        assert created.status_code in (200, 201), created.text
        key = created.json()["key"]
        headers = {"x-project": f"project-of-{owner}", "x-claude-code-session-id": f"session-of-{owner}"}
        with self.proxy.client(headers={**headers, "x-api-key": key}) as client:
            content = [{"type": "text", "text": f"words-of-{owner}"}, {"type": "image", "source": IMAGE}]
            body = {"model": "demo/demo", "max_tokens": 50, "messages": [{"role": "user", "content": content}]}
            answer = wait_for(lambda: client.post("/v1/messages", json=body), lambda answer: answer.status_code == 200)
        request_id: str = answer.headers["request-id"]
        wait_for_request(self.admin, request_id)
        return request_id

    def begin(self, client: httpx.Client, target: str = "/dashboard") -> str:
        answer = client.get(START, params={"next": target})
        assert answer.status_code == 303, answer.text
        returned = ask_provider(answer.headers["location"])
        assert returned.startswith(f"{self.proxy.url}/dashboard/oidc/callback?")
        return returned.removeprefix(self.proxy.url)

    def sign_in(self, **user: Any) -> httpx.Client:
        self.provider.user = {"sub": "user-1", "email": "ann@example.com", "email_verified": True, **user}
        client = self.proxy.client()
        answer = client.get(self.begin(client))
        assert (answer.status_code, answer.headers.get("refresh")) == (200, "0; url=/dashboard"), answer.text
        return client


SIGN_IN = """
[sign_in]
admins = ["platform", "Root@example.com"]
viewers = ["finance"]
domains = ["example.com"]
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    directory: Path = tmp_path_factory.mktemp("oidc")
    (directory / "anthropic-proxy.toml").write_text(SIGN_IN, "utf-8")
    with running_provider() as provider:
        settings = {
            "VIRTUAL_KEYS": "true",
            "LEDGER_CONTENT": "true",
            "ADMIN_API_KEY": ADMIN_KEY,
            "SERVE_DEMO": "true",
            "LOG_LEVEL": "warning",
            "DATABASE_URL": f"sqlite:///{directory}/ledger.sqlite3",
            "OIDC_ISSUER": provider.issuer,
            "OIDC_CLIENT_ID": CLIENT_ID,
            "OIDC_CLIENT_SECRET": CLIENT_SECRET,
        }
        with running_proxy(directory, settings) as proxy:
            provider.redirect_uri = f"{proxy.url}/dashboard/oidc/callback"
            yield Team(proxy, provider)
            assert provider.problems == []
            assert CLIENT_SECRET not in proxy.log


@pytest.fixture
def team(shared: Team) -> Team:
    """The team, with a provider that changes nothing."""
    fresh = FakeProvider(shared.provider.issuer)
    for name in (
        "user",
        "change",
        "sign",
        "published",
        "is_thin",
        "user_info_subject",
        "sends_issuer",
        "error",
        "token_reply",
    ):
        setattr(shared.provider, name, getattr(fresh, name))
    return shared


@pytest.mark.parametrize(
    ("user", "role"),
    [
        ({"groups": ["platform", "other"]}, "admin"),
        ({"email": "root@example.com"}, "admin"),
        ({"groups": "finance"}, "viewer"),
        ({"email": "ANN@example.com"}, "member"),
        ({"groups": ["root@example.com"]}, "member"),
    ],
)
def test_groups_and_addresses_select_the_role(team: Team, user: dict[str, Any], role: str) -> None:
    client = team.sign_in(**user)
    page = client.get("/dashboard")
    email = user.get("email", "ann@example.com").lower()
    assert f"{email} · {role}" in page.text
    allowed = 403 if role == "member" else 200
    assert client.get("/dashboard/settings").status_code == allowed
    assert client.get("/dashboard/providers").status_code == allowed
    assert client.get("/dashboard/settings/edit?name=BIG_MODEL").status_code == (200 if role == "admin" else 403)


def test_a_member_reads_only_the_own_requests(team: Team) -> None:
    member, viewer = team.sign_in(), team.sign_in(groups=["finance"])
    for owner, page, form in itertools.product(("ann", "ben"), PAGES, ("", "json", "csv")):
        address = "/dashboard" + page.format(id=team.ids[owner], session=f"session-of-{owner}")
        address += f"{'&' if '?' in address else '?'}format={form}" if form else ""
        found, complete = member.get(address), viewer.get(address)
        is_foreign_object = owner == "ben" and "{" in page
        assert complete.status_code == 200, address
        assert found.status_code == 200 or is_foreign_object, address
        assert found.status_code == 404 or not is_foreign_object or form, address
        assert "key-of-ben" not in found.text, address
        assert "project-of-ben" not in found.text, address
        assert "words-of-ben" not in found.text, address
        assert owner == "ann" or is_foreign_object or team.ids["ben"] not in found.text, address
    assert "project-of-ann" in member.get("/dashboard/requests").text
    assert "project-of-ben" in viewer.get("/dashboard/requests").text
    assert "words-of-ann" in member.get(f"/dashboard/requests/{team.ids['ann']}").text
    images = [f"/dashboard/requests/{team.ids[owner]}/images/0" for owner in ("ann", "ben")]
    assert [member.get(image).status_code for image in images] == [200, 404]
    assert [viewer.get(image).status_code for image in images] == [200, 404]
    assert team.proxy.client().get(images[0]).status_code == 403
    assert "key-of-ann" in read_snapshot(member)
    assert "ben" not in read_snapshot(member)
    assert "key-of-ben" in read_snapshot(viewer)
    assert member.get("/api/requests").status_code == 401, "the cookie opens only the dashboard"


def read_snapshot(client: httpx.Client) -> str:
    with client.stream("GET", "/dashboard/live") as answer:
        return next(answer.iter_text()).partition("\n\n")[0]


def test_a_sign_out_ends_the_session_and_a_sign_in_leads_to_the_requested_page(team: Team) -> None:
    client = team.proxy.client()
    opened = client.get("/dashboard/requests?q=x")
    form = client.get(opened.headers["location"])
    link = re.search(r'href="(/dashboard/oidc/start[^"]*)"', form.text)
    target = html.unescape(link[1]).partition("next=")[2]
    answer = client.get(team.begin(client, httpx.QueryParams(f"next={target}")["next"]))
    assert (answer.status_code, answer.headers["refresh"]) == (200, "0; url=/dashboard/requests?q=x")
    cookies = answer.headers.get_list("set-cookie")
    assert cookies[0].endswith("; Path=/dashboard; Max-Age=43200; HttpOnly; SameSite=Strict")
    assert cookies[1] == "anthropic_proxy_oidc=; Path=/dashboard/oidc; Max-Age=0; HttpOnly; SameSite=Lax"
    copied = team.proxy.client(headers={"cookie": cookies[0].partition(";")[0]})
    token = re.search(r'name="token" value="([^"]+)"', copied.get("/dashboard").text)
    assert client.post("/dashboard/sign-out", data={"token": token[1]}).status_code == 303
    assert copied.get("/dashboard").status_code == 303


def test_user_info_adds_what_the_token_lacks(team: Team) -> None:
    team.provider.is_thin = True
    client = team.sign_in(groups=["finance"])
    assert "ann@example.com · viewer" in client.get("/dashboard").text


def test_new_keys_of_the_provider_are_read(team: Team) -> None:
    team.provider.sign = lambda claims: sign(claims, "ec")
    assert team.sign_in().get("/dashboard").status_code == 200


Change = Callable[[dict[str, Any]], object]
CLAIMS: list[tuple[str, Change, str]] = [
    ("other issuer", lambda claims: claims.update(iss="https://other.example"), "it is of another issuer"),
    ("no issuer", lambda claims: claims.pop("iss"), "the claim iss is missing"),
    ("other audience", lambda claims: claims.update(aud="other"), "it is for another client (claim aud)"),
    ("no audience", lambda claims: claims.pop("aud"), "the claim aud is missing"),
    ("two audiences", lambda claims: claims.update(aud=[CLIENT_ID, "other"]), "the claim azp is missing"),
    ("other party", lambda claims: claims.update(azp="other"), "it is for another client (claim azp)"),
    ("expired", lambda claims: claims.update(exp=claims["iat"] - 120), "it has expired"),
    ("no expiry", lambda claims: claims.pop("exp"), "the claim exp is missing"),
    (
        "not yet valid",
        lambda claims: claims.update(nbf=claims["iat"] + 120),
        "it is not valid yet: compare the clocks of both servers",
    ),
    (
        "of the future",
        lambda claims: claims.update(iat=claims["iat"] + 120),
        "it is of the future: compare the clocks of both servers",
    ),
    ("no nonce", lambda claims: claims.pop("nonce"), "the claim nonce is missing"),
    ("other nonce", lambda claims: claims.update(nonce="x" * 32), "its nonce is not that of this sign-in"),
    ("no subject", lambda claims: claims.pop("sub"), "the claim sub is missing"),
    ("other access token", lambda claims: claims.update(at_hash="x" * 22), "it does not belong to the access token"),
]


@pytest.mark.parametrize(("change", "reason"), [row[1:] for row in CLAIMS], ids=[row[0] for row in CLAIMS])
def test_an_id_token_with_wrong_claims_is_rejected(team: Team, change: Change, reason: str) -> None:
    team.provider.change = change
    require_rejection(team, f"{INVALID}{reason}. {RETRY}")


SIGNATURES: list[tuple[str, Callable[[dict[str, Any]], str], str]] = [
    ("foreign key", oidc.sign_with_foreign_key, f"its signature does not match a key of the provider. {RETRY}"),
    ("changed payload", oidc.change_payload, f"its signature does not match a key of the provider. {RETRY}"),
    (
        "half of a character",
        lambda claims: oidc.sign_with_header({"alg": "RS256", "kid": "rsa"}, {**claims, "sub": "ann\ud800"}),
        f"a text in it has half of a surrogate pair, which is no character. {RETRY}",
    ),
    ("none", oidc.encode_unsigned, f"its signature has the algorithm 'none', which is not accepted. {RETRY}"),
    (
        "HS256 with the public key",
        oidc.sign_with_public_key_as_secret,
        f"its signature has the algorithm 'HS256', which is not accepted. {RETRY}",
    ),
    (
        "unknown key",
        lambda claims: sign(claims, "rsa", kid="unknown"),
        "its key is not one of the provider. Sign in again in a minute.",
    ),
    (
        "key for encryption",
        lambda claims: sign(claims, "encryption"),
        "its key is not one of the provider. Sign in again in a minute.",
    ),
    (
        "key of another type",
        lambda claims: sign(claims, "ec", kid="rsa"),
        f"its signature does not match a key of the provider. {RETRY}",
    ),
    ("no token", lambda _: "x.y", f"it is not a signed token. {RETRY}"),
]


@pytest.mark.parametrize(("signed", "reason"), [row[1:] for row in SIGNATURES], ids=[row[0] for row in SIGNATURES])
def test_an_id_token_with_a_wrong_signature_is_rejected(
    team: Team, signed: Callable[[dict[str, Any]], str], reason: str
) -> None:
    team.provider.sign = signed
    before = team.provider.key_requests
    require_rejection(team, f"{INVALID}{reason}")
    assert team.provider.key_requests - before <= 1


def require_rejection(team: Team, message: str, status: int = 403) -> None:
    """Sign in, and require that the page and the log contain this message."""
    client = team.proxy.client()
    answer = client.get(team.begin(client))
    require_page(team, answer, message, status)
    assert client.get("/dashboard").status_code == 303


def require_page(team: Team, answer: httpx.Response, message: str, status: int = 403) -> None:
    assert answer.status_code == status
    shown = message
    for remedy, wish in REMEDIES.items():
        shown = shown.replace(remedy, f"Ask an administrator of the proxy for {wish}.")
    assert f"{shown}</p>" in html.unescape(answer.text)
    assert "anthropic_proxy_session" not in str(answer.headers)
    wait_for(lambda: f"Sign-in from 127.0.0.1 was rejected. {message}" in " ".join(team.proxy.log.split()))


@pytest.mark.parametrize(
    ("user", "message"),
    [
        (
            {"email": "ann@other.example"},
            "The domain of ann@other.example is not accepted. domains of [sign_in] lists the accepted ones.",
        ),
        (
            {"email_verified": False},
            "The identity provider has not verified the address ann@example.com. Confirm it there, then try again. If "
            "the provider sends no claim email_verified, an administrator should set email_claim of [sign_in] to a "
            "claim that users cannot change.",
        ),
        (
            {"email": "a@b@example.com"},
            "The identity provider sent an e-mail address that is not accepted (claim 'email'). Accepted ones have one "
            "@ and only printable ASCII characters, without spaces and parentheses. An administrator should set "
            "email_claim of [sign_in] to a claim with such an address.",
        ),
        (
            {"email": "ann\x1b[2J@example.com"},
            "The identity provider sent an e-mail address that is not accepted (claim 'email'). Accepted ones have one "
            "@ and only printable ASCII characters, without spaces and parentheses. An administrator should set "
            "email_claim of [sign_in] to a claim with such an address.",
        ),
        (
            {"email": ""},
            "The identity provider sent no e-mail address (claim 'email'). An administrator should allow the scope "
            "email for the client, or set email_claim of [sign_in].",
        ),
    ],
)
def test_a_user_that_the_settings_exclude_is_rejected(team: Team, user: dict[str, Any], message: str) -> None:
    team.provider.user |= user
    require_rejection(team, message)


def test_user_info_of_another_user_is_rejected(team: Team) -> None:
    team.provider.is_thin, team.provider.user_info_subject = True, "user-2"
    require_rejection(team, f"The user info of the identity provider is of another user than the ID token. {RETRY}")


def test_the_user_info_verifies_its_own_address_only(team: Team) -> None:
    def change(claims: dict[str, Any]) -> None:
        claims["email"] = "root@example.com"
        del claims["email_verified"]

    team.provider.change = change
    require_rejection(
        team,
        "The identity provider has not verified the address root@example.com. Confirm it there, then try again. If the "
        "provider sends no claim email_verified, an administrator should set email_claim of [sign_in] to a claim that "
        "users cannot change.",
    )


def test_an_id_token_of_absurd_size_is_rejected(team: Team) -> None:
    team.provider.change = lambda claims: claims.update(groups=["x" * 100] * 1_000)
    client = team.proxy.client()
    answer = client.get(team.begin(client))
    assert answer.status_code == 403
    assert re.search(r"that is not valid: it has \d{3},\d{3} characters; 131,072 are allowed\.", answer.text), (
        answer.text
    )


def test_an_error_of_the_provider_is_shown(team: Team) -> None:
    team.provider.error = "access_denied"
    require_rejection(team, f"The identity provider refused the sign-in: not today. {RETRY}")


@pytest.mark.parametrize("body", [b'{"id_token":' + b"[" * 100_000, b'{"id_token":"\xff"}', b"no JSON", b"[]"])
def test_a_body_that_is_no_json_object_is_an_error_of_the_provider(team: Team, body: bytes) -> None:
    team.provider.token_reply = body
    message = f"The identity provider answered {team.provider.issuer}/token with HTTP 200. {CHECK_ISSUER}"
    require_rejection(team, message, status=502)


def test_a_response_is_accepted_once_and_only_in_the_browser_that_began(team: Team) -> None:
    client, other = team.proxy.client(), team.proxy.client()
    path = team.begin(client)
    cookie = {"cookie": f"anthropic_proxy_oidc={client.cookies['anthropic_proxy_oidc']}"}
    missing = f"This browser has no sign-in in progress: it took more than ten minutes, or cookies are blocked. {RETRY}"
    require_page(team, other.get(path), missing)
    team.begin(other)
    require_page(team, other.get(path), f"The response is not of the sign-in that this browser began last. {RETRY}")
    assert client.get(path).status_code == 200
    again = team.proxy.client(headers=cookie)
    require_page(team, again.get(path), f"This sign-in was completed before, or was canceled. {RETRY}")


def test_an_invented_or_changed_cookie_causes_no_request_to_the_provider(team: Team) -> None:
    client = team.proxy.client()
    path = team.begin(client)
    value = client.cookies["anthropic_proxy_oidc"]
    state = httpx.URL(f"{team.proxy.url}{path}").params["state"]
    message = f"This browser has no sign-in in progress: it took more than ten minutes, or cookies are blocked. {RETRY}"
    before = team.provider.token_requests
    for invented in (value[:-1], f"x{value[1:]}", f".{state}..x.", f"{state}.n.v.t", "é", ""):
        sent = team.proxy.client(headers={"cookie": f"anthropic_proxy_oidc={invented}".encode()})
        require_page(team, sent.get(path), message)
    assert team.provider.token_requests == before


def test_a_code_of_another_sign_in_and_a_used_code_are_rejected(team: Team) -> None:
    client, other = team.proxy.client(), team.proxy.client()
    used = httpx.URL(team.begin(client)).params["code"]
    assert client.get(str(httpx.URL(f"{team.proxy.url}{team.begin(client)}").raw_path, "ascii")).status_code == 200
    path = httpx.URL(f"{team.proxy.url}{team.begin(other)}")
    fresh = path.copy_set_param("code", "unknown")
    message = f"The identity provider does not accept the code: it was used before, or it has expired. {RETRY}"
    require_page(team, other.get(str(fresh)), message)
    path = httpx.URL(f"{team.proxy.url}{team.begin(other)}").copy_set_param("code", used)
    team.provider.problems.clear()
    answer = other.get(str(path))
    assert answer.status_code == 403
    assert team.provider.problems == ["the code verifier does not match"]
    team.provider.problems.clear()


def test_a_response_that_names_another_provider_is_rejected(team: Team) -> None:
    client = team.proxy.client()
    path = httpx.URL(f"{team.proxy.url}{team.begin(client)}").copy_set_param("iss", "https://other.example")
    message = f"The response is of another identity provider (parameter iss). {RETRY}"
    require_page(team, client.get(str(path)), message)
