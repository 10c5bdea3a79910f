"""Tokens of services whose claims look like those of others, and tokens and cookies of another proxy."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.attacks.buyer import ADMIN_KEY, Attempts
from tests.attacks.lab import Attack, Row
from tests.faults.client import Answer
from tests.support.fakes.oidc import (
    FakeProvider,
    change_payload,
    encode_unsigned,
    running_provider,
    sign,
    sign_with_foreign_key,
    sign_with_header,
    sign_with_public_key_as_secret,
)
from tests.support.server_process import Proxy, running_proxy
from tests.support.sign_in import SAME_ORIGIN, Browser, Device, list_sign_in_settings, read_form, sign_in_to_dashboard

_AUDIENCE = "https://proxy.example.org"
_TABLES = """
[token_issuers.ci]
issuer = "{issuer}"
audience = "https://proxy.example.org"
owner_claim = "repository"
required_claims = { repository_owner = "company", ref = ["refs/heads/main", "refs/tags/v*"] }
team = "build"
models = ["demo/*"]

[token_issuers.deploy]
issuer = "{issuer}"
audience = "https://deploy.example.org"
owner_claim = "repository"
team = "core"
"""
_BODY = {"model": "demo/demo", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}


@contextmanager
def _running(tables: str = "") -> Iterator[tuple[Proxy, FakeProvider]]:
    with tempfile.TemporaryDirectory() as name, running_provider() as provider:
        directory = Path(name)
        sign_in = "[sign_in]\nkeys_per_person = 3\n"
        (directory / "anthropic-proxy.toml").write_text(sign_in + tables.replace("{issuer}", provider.issuer))
        provider.offers_refresh = True
        settings = {
            **list_sign_in_settings(provider),
            "SERVE_DEMO": "true",
            "DASHBOARD": "true",
            "ADMIN_API_KEY": ADMIN_KEY,
            "DATABASE_URL": f"sqlite:///{directory}/ledger.sqlite3",
        }
        with running_proxy(directory, settings) as proxy:
            provider.redirect_uri = f"{proxy.url}/dashboard/oidc/callback"
            yield proxy, provider
            assert "Traceback" not in proxy.log, proxy.log


_CLAIMS: Mapping[str, Mapping[str, Any]] = {
    "another owner": {"repository_owner": "evil"},
    "an owner in capitals": {"repository_owner": "Company"},
    "an owner with a blank": {"repository_owner": "company "},
    "an owner with a line end": {"repository_owner": "company\n"},
    "a longer owner": {"repository_owner": "company-evil"},
    "no owner": {"repository_owner": None},
    "an owner in an object": {"repository_owner": {"name": "company"}},
    "a branch like main": {"ref": "refs/heads/main2"},
    "a branch before main": {"ref": "x/refs/heads/main"},
    "a branch with a line end": {"ref": "refs/heads/main\n"},
    "a tag in capitals": {"ref": "REFS/TAGS/v1"},
    "a pattern as the tag": {"ref": "refs/tags/*"},
    "another audience": {"aud": "https://other.example.org"},
    "a longer audience": {"aud": f"{_AUDIENCE}/x"},
    "an audience with a slash": {"aud": f"{_AUDIENCE}/"},
    "no audience": {"aud": None},
    "an empty list of audiences": {"aud": []},
    "another issuer": {"iss": "https://login.example.org"},
    "an issuer with a slash": {"iss": "{issuer}/"},
    "no issuer": {"iss": None},
    "no end": {"exp": None},
    "a past end": {"exp": 1},
    "an end as a text": {"exp": "99999999999"},
    "an infinite end": {"exp": 1e400},
    "a later beginning": {"nbf": 99_999_999_999},
    "issued later": {"iat": 99_999_999_999},
    "a token of a sign-in": {"nonce": "x"},
    "a token with a hash": {"at_hash": "x"},
    "no repository": {"repository": None},
    "an empty repository": {"repository": ""},
    "an object as the repository": {"repository": {"a": 1}},
    "a repository of blanks": {"repository": "   "},
    "a repository with escapes": {"repository": "company/\x1b[2J"},
    "a repository with a NUL": {"repository": "company/a\x00"},
    "a long repository": {"repository": "company/" + "a" * 200},
}


def _pretend(attack: Attack) -> list[Answer]:
    attempts = Attempts()
    with _running(_TABLES) as (proxy, provider):
        now = int(time.time())
        usual = {
            "iss": provider.issuer,
            "aud": _AUDIENCE,
            "sub": "job",
            "iat": now,
            "exp": now + 600,
            "repository": "company/a",
            "repository_owner": "company",
            "ref": "refs/heads/main",
        }

        def send(token: str) -> tuple[int, str]:
            answer = proxy.client(headers={"authorization": f"Bearer {token}"}).post("/v1/messages", json=_BODY)
            return answer.status_code, answer.text[:200]

        attempts.check("a control", send(sign(usual, "rsa"))[0] == 200, send(sign(usual, "rsa")))
        attempts.check("a control of a tag", send(sign({**usual, "ref": "refs/tags/v1"}, "ec"))[0] == 200)
        for name, claims in _CLAIMS.items():
            changed = {**usual, **claims}
            if isinstance(changed["iss"], str):
                changed["iss"] = changed["iss"].replace("{issuer}", provider.issuer)
            status, text = send(sign({key: value for key, value in changed.items() if value is not None}, "rsa"))
            attempts.check(name, status in (401, 403), (status, text))
        for name, token in {
            "unsigned": encode_unsigned(usual),
            "a foreign key": sign_with_foreign_key(usual),
            "the public key as a secret": sign_with_public_key_as_secret(usual),
            "another payload": change_payload(usual),
            "a key for encryption": sign(usual, "rsa", kid="encryption"),
            "the name of another key": sign(usual, "rsa", kid="ec"),
            "an unknown key": sign(usual, "rsa", kid="other"),
            "no name of a key": sign_with_header({"alg": "RS256"}, usual),
            "another type": sign_with_header({"alg": "RS256", "kid": "rsa", "typ": "logout+jwt"}, usual),
            "a critical extension": sign_with_header({"alg": "RS256", "kid": "rsa", "crit": ["x"], "x": 1}, usual),
            "a key in the token": sign_with_header({"alg": "RS256", "jwk": {"kty": "RSA"}}, usual),
            "an address of keys": sign_with_header({"alg": "RS256", "kid": "rsa2", "jku": "http://127.0.0.1:9"}, usual),
            "a path as the key": sign_with_header({"alg": "RS256", "kid": "../../rsa"}, usual),
            "another algorithm": sign_with_header({"alg": "RS512", "kid": "rsa"}, usual),
            "an algorithm in small letters": sign_with_header({"alg": "rs256", "kid": "rsa"}, usual),
            "a signature less": sign(usual, "rsa").rpartition(".")[0] + ".",
            "a part more": sign(usual, "rsa") + ".x",
            "a letter behind": sign(usual, "rsa") + "A",
            "padding": sign(usual, "rsa") + "=",
        }.items():
            status, text = send(token)
            attempts.check(name, status in (401, 403), (status, text))
        # a service that is called like a person is not this person
        provider.user = {"sub": "ann", "email": "ann@example.com", "email_verified": True}
        ann = proxy.client(headers={"authorization": f"Bearer {Device(proxy).sign_in()['access_token']}"})
        mine = ann.post("/v1/messages", json=_BODY).headers["request-id"]
        for name in ("ann@example.com", "ann@example.com (2)", "key_1", "admin", "local"):
            token = sign({**usual, "repository": name}, "rsa")
            service = proxy.client(headers={"authorization": f"Bearer {token}"})
            service.post("/v1/messages", json=_BODY)
            for path in ("/api/requests/recent", f"/api/requests/{mine}", "/admin/keys", "/api/usage", "/dashboard"):
                answer = service.get(path)
                is_held = answer.status_code >= 300 or mine not in answer.text
                attempts.check(f"a service {name}, {path[:14]}", is_held, (answer.status_code, answer.text[:200]))
        # two services whose names differ late or only in their case are two
        for repository in ("company/" + "a" * 52 + "1", "company/" + "a" * 52 + "2", "Company/a", "company/A"):
            send(sign({**usual, "repository": repository}, "rsa"))
        rows = proxy.client(headers={"x-api-key": ADMIN_KEY}).get("/admin/keys", params={"limit": 100}).json()["data"]
        names = [row["name"] for row in rows if row["name"].startswith("ci/")]
        ids = {row["id"] for row in rows}
        attempts.check(
            "each service has a key of its own", len(names) == len(set(names)) and len(ids) == len(rows), names
        )
    return attempts.finish(attack)


def _carry_over(attack: Attack) -> list[Answer]:
    """Nothing of one proxy counts at another one on the same host with the same secret."""
    attempts = Attempts()
    with _running() as (one, of_one), _running() as (two, of_two):
        for provider in (of_one, of_two):
            provider.user = {"sub": "ann", "email": "ann@example.com", "email_verified": True}
        device, own = Device(one), Device(two)
        device.sign_in(), own.sign_in()
        foreign: Mapping[str, Callable[[], Any]] = {
            "access token": lambda: own.send(device.tokens["access_token"]),
            "access token at keys": lambda: two.client(
                headers={"authorization": f"Bearer {device.tokens['access_token']}"}
            ).get("/admin/keys"),
            "access token at settings": lambda: two.client(
                headers={"authorization": f"Bearer {device.tokens['access_token']}"}
            ).get("/managed/settings"),
            "refresh token": lambda: two.client().post(
                "/oauth/token", data={"grant_type": "refresh_token", "refresh_token": device.tokens["refresh_token"]}
            ),
        }
        for name, send in foreign.items():
            answer = send()
            attempts.check(f"{name} of another proxy", answer.status_code in (400, 401, 403), answer.text[:200])
        begun = Device(one)
        begun.begin()
        other = Device(two)
        other.begun = begun.begun
        attempts.check("a device code of another proxy", other.poll().status_code == 400, other.poll().text)
        page = two.client().post(
            "/device", data={"user_code": begun.begun["user_code"], "action": "confirm"}, headers=SAME_ORIGIN
        )
        attempts.check("a user code of another proxy", page.status_code != 303, page.status_code)
        approval = Browser(one).return_from_provider(begun.begun)
        answer = two.client().post("/device", data={**read_form(approval), "action": "approve"}, headers=SAME_ORIGIN)
        attempts.check("a form of another proxy", begun.poll().status_code == 400, answer.text[-200:])
        session, other_session = sign_in_to_dashboard(one), sign_in_to_dashboard(two)
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in session.cookies.jar)
        client = two.client(headers={"cookie": cookies})
        for path in ("/dashboard", "/dashboard/keys", "/api/usage", "/dashboard/requests"):
            answer = client.get(path)
            attempts.check(f"a session of another proxy, {path}", answer.status_code >= 300, answer.text[:200])
        token = read_form(session.get("/dashboard/keys/edit?action=create"))["token"]
        data = {"token": token, "action": "create", "target": "", "label": "x", "before": ""}
        answer = other_session.post("/dashboard/keys/edit", data=data, headers=SAME_ORIGIN)
        listed = [row["name"] for row in two.client(headers={"x-api-key": ADMIN_KEY}).get("/admin/keys").json()["data"]]
        attempts.check("a form token of another proxy", "x" not in listed, answer.text[-200:])
        key = one.client(headers={"authorization": f"Bearer {device.tokens['access_token']}"}).post(
            "/admin/keys", json={"name": "laptop"}
        )
        answer = two.client(headers={"x-api-key": key.json()["key"]}).get("/v1/models")
        attempts.check("a key of another proxy", answer.status_code == 401, answer.text)
    return attempts.finish(attack)


SERVICES: tuple[Row, ...] = (
    Row(name="services: tokens with claims like those of others", run=_pretend),
    Row(name="services: tokens and cookies of another proxy", run=_carry_over),
)
