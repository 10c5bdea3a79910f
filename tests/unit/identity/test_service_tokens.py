"""Tokens of identity providers as keys: a real issuer, every kind of false token, and the virtual key of the owner."""

import asyncio
import json
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from anthropic_proxy.app import App
from anthropic_proxy.console.keys.key_table import KeyTable
from anthropic_proxy.console.keys.service_tokens import ServiceTokens
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.upstream.transports import Transports
from anthropic_proxy.errors import AuthenticationFailed
from anthropic_proxy.gateway.http_calls import HttpCalls
from anthropic_proxy.gateway.settings import CONFIG_FILE, Settings, load_settings
from anthropic_proxy.gateway.settings.load import SettingsReader
from anthropic_proxy.plugins import Gateway
from tests.support.fakes import oidc
from tests.support.fakes.oidc import FakeProvider, running_provider, sign, sign_with_foreign_key
from tests.support.virtual_keys import Response, running_app, send
from tests.support.waiting import wait_for_async

ADMIN = "admin-0123456789"
AUDIENCE = "https://proxy.example.org"
ASKED = {"model": "demo/demo", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
Claims = dict[str, Any]
TABLES = """
[token_issuers.ci]
issuer = "{issuer}"
audience = "https://proxy.example.org"
owner_claim = "repository"
required_claims = {{ company = "example", ref = ["refs/heads/*"] }}
group_claim = "groups"
team = "build"
models = ["demo/*"]
requests_per_minute = 4

[token_issuers.deployment]
issuer = "{issuer}"
audience = ["deployment", "other"]
team = "platform"
"""


@pytest.fixture(scope="module")
def shared() -> Iterator[FakeProvider]:
    with running_provider() as provider:
        yield provider


@pytest.fixture
def provider(shared: FakeProvider) -> FakeProvider:
    shared.published, shared.key_requests, shared.described_issuer = ["rsa", "ec", "encryption"], 0, ""
    return shared


@pytest.fixture
async def app(provider: FakeProvider, tmp_path: Path) -> AsyncIterator[App]:
    (tmp_path / "anthropic-proxy.toml").write_text(TABLES.format(issuer=provider.issuer))
    async with running_app(tmp_path, ADMIN_API_KEY=ADMIN, LEDGER_DAYS="30") as app:
        yield app


@contextmanager
def held_database(directory: Path) -> Iterator[None]:
    """Another program holds the lock for writing."""
    with closing(sqlite3.connect(directory / "anthropic-proxy" / "ledger.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def new_claims(provider: FakeProvider, **changes: Any) -> Claims:
    """`changes`: None removes a claim."""
    now = int(time.time())
    claims = {
        "iss": provider.issuer,
        "aud": AUDIENCE,
        "sub": "repo:example/app:ref:refs/heads/main",
        "repository": "example/app",
        "company": "example",
        "ref": "refs/heads/main",
        "iat": now,
        "nbf": now,
        "exp": now + 300,
        **changes,
    }
    return {name: value for name, value in claims.items() if value is not None}


async def ask(app: App, token: str) -> Response:
    return await send(app, "POST", "/v1/messages", ASKED, authorization=f"Bearer {token}")


async def test_a_service_is_a_virtual_key_of_its_team(app: App, provider: FakeProvider) -> None:
    for key in ("rsa", "ec"):
        assert (await ask(app, sign(new_claims(provider, key=key), key))).status == 200
    deployment = sign(new_claims(provider, aud=["deployment"], sub="job-7"), "rsa")
    assert (await ask(app, deployment)).status == 200
    listed = (await send(app, "GET", "/admin/keys", x_api_key=ADMIN)).json["data"]
    shown = [[one[name] for name in ("name", "owner", "team", "models", "partial_key_hint")] for one in listed]
    assert sorted(shown) == [
        ["ci/example/app", "example/app", "build", ["demo/*"], ""],
        ["deployment/job-7", "job-7", "platform", [], ""],
    ]
    entries = (await send(app, "GET", "/admin/audit", x_api_key=ADMIN)).json["data"]
    assert [(one["actor"], one["action"]) for one in entries] == [
        ("token issuer (deployment)", "create key"),
        ("token issuer (ci)", "create key"),
    ]
    assert provider.key_requests == 1

    async def find_usage() -> Any:
        return (await send(app, "GET", "/api/usage?by=team", x_api_key=ADMIN)).json["groups"]

    usage = await wait_for_async(find_usage, lambda groups: sum(one["requests"] for one in groups) == 3)
    assert {one["name"]: one["requests"] for one in usage} == {"build": 2, "platform": 1}


async def test_the_rules_of_the_table_apply_to_an_owner(app: App, provider: FakeProvider) -> None:
    token = sign(new_claims(provider), "rsa")
    answers = [await ask(app, token) for _ in range(4)]
    assert [answer.status for answer in answers] == [200] * 4
    limited = await ask(app, sign(new_claims(provider, jti="another"), "rsa"))
    assert (limited.status, re.sub(r"in \d+ s", "in 61 s", limited.message)) == (
        429,
        "The key 'ci/example/app' has reached its limit of 4 requests per minute. Try again in 61 s. Ask an "
        "administrator of the proxy for more.",
    )
    assert (await ask(app, sign(new_claims(provider, repository="example/site"), "rsa"))).status == 200
    denied = await send(app, "GET", "/admin/keys", authorization=f"Bearer {token}")
    assert (denied.status, denied.message) == (
        403,
        "The key 'ci/example/app' is for the API below /v1/, not for '/admin/keys'. Ask an administrator of the "
        "proxy for access.",
    )


async def test_a_revoked_owner_is_refused(app: App, provider: FakeProvider, tmp_path: Path) -> None:
    """Also by a new token, and while another program holds the database."""
    token = sign(new_claims(provider), "rsa")
    assert (await ask(app, token)).status == 200
    (listed,) = (await send(app, "GET", "/admin/keys", x_api_key=ADMIN)).json["data"]
    assert (await send(app, "POST", f"/admin/keys/{listed['id']}/revoke", x_api_key=ADMIN)).status == 200
    new = sign(new_claims(provider, jti="new"), "rsa")
    with held_database(tmp_path):
        for refused in (await ask(app, token), await ask(app, new)):
            assert (refused.status, refused.message) == (
                401,
                "The token is not accepted: its key 'ci/example/app' is revoked.",
            )


async def test_new_tokens_of_a_known_service_wait_for_no_lock_of_the_database(
    app: App, provider: FakeProvider, tmp_path: Path
) -> None:
    """Also if an administrator has given the service another team than its table."""
    for repository in ("example/app", "example/site"):
        assert (await ask(app, sign(new_claims(provider, repository=repository), "rsa"))).status == 200
    listed = (await send(app, "GET", "/admin/keys", x_api_key=ADMIN)).json["data"]
    (site,) = (key["id"] for key in listed if key["name"] == "ci/example/site")
    assert (await send(app, "POST", f"/admin/keys/{site}", b'{"team": "core"}', x_api_key=ADMIN)).status == 200
    with held_database(tmp_path):
        tokens = [
            sign(new_claims(provider, repository=repository, jti=str(number)), "rsa")
            for number in range(2)
            for repository in ("example/app", "example/site")
        ]
        answers = await asyncio.gather(*(ask(app, token) for token in tokens))
        new = await ask(app, sign(new_claims(provider, repository="example/new"), "rsa"))
    assert [answer.status for answer in (*answers, new)] == [200] * 4 + [529]


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (f'audience = "{AUDIENCE}"', 'audience = "another"', "it is for another audience (claim aud)"),
        (
            'company = "example"',
            'company = "other"',
            "its claim company is 'example', which [token_issuers.ci] does not accept",
        ),
        ("[token_issuers.ci]", "[token_issuers.jobs]", ""),
    ],
)
async def test_a_reload_applies_the_tables_to_tokens_that_were_accepted_before(
    provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str, reason: str
) -> None:
    tables = TABLES.format(issuer=provider.issuer)
    (tmp_path / CONFIG_FILE).write_text(tables)
    (tmp_path / ".env").write_text(f"ADMIN_API_KEY={ADMIN}\nLOG_LEVEL=error\nSERVE_DEMO=true\nVIRTUAL_KEYS=true\n")
    for name in ("ANTHROPIC_PROXY_CONFIG", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    reader = SettingsReader(PROVIDERS)
    app = App(reader.read(), reader=reader, logs_startup=False)
    await app.start()
    token = sign(new_claims(provider), "rsa")
    assert (await ask(app, token)).status == 200
    (tmp_path / CONFIG_FILE).write_text(tables.replace(before, after))
    await app.reload_settings()
    reply = await ask(app, token)
    listed = (await send(app, "GET", "/admin/keys", x_api_key=ADMIN)).json["data"]
    await app.close()
    if reason:
        assert (reply.status, reply.message) == (401, f"The token is not accepted: {reason}.")
    else:
        assert (reply.status, {one["name"] for one in listed}) == (200, {"ci/example/app", "jobs/example/app"})


class Instance(HttpCalls):
    """What an instance has for the tokens of services."""

    settings: Settings


async def test_a_token_that_was_accepted_ends_with_its_time(provider: FakeProvider, tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text(TABLES.format(issuer=provider.issuer))
    environ = {"VIRTUAL_KEYS": "true", "XDG_DATA_HOME": str(tmp_path)}
    settings = load_settings(environ, PROVIDERS, env_file=str(tmp_path / ".env"))
    transports, table, now = Transports(settings), KeyTable(settings, lambda text: None), float(NOW)
    gateway = cast("Gateway", Instance(lambda: transports.http, settings))
    services = ServiceTokens(table, gateway, lambda: now)
    token = sign(new_claims(provider, iat=NOW, nbf=NOW, exp=NOW + 300), "rsa").encode()
    names = []
    for seconds in (300, 59):
        now += seconds
        client = await services.identify([token])
        names.append(client and client.name)
    now += 1  # the clocks of two servers may differ by a minute
    with pytest.raises(AuthenticationFailed) as refused:
        await services.identify([token])
    await table.stop()
    await transports.close()
    assert names == ["ci/example/app"] * 2
    assert refused.value.message == "The token is not accepted: it has expired."


def encode(header: object, claims: object, signature: str = "") -> str:
    parts = (piece if isinstance(piece, bytes) else json.dumps(piece).encode() for piece in (header, claims))
    return ".".join([*map(oidc._to_base64, parts), signature])


def with_header(**header: Any) -> Callable[[Claims], str]:
    """A valid signature over another header."""
    return lambda claims: oidc.sign_with_header({"alg": "RS256", "kid": "rsa", **header}, claims)


def twice(claims: Claims) -> str:
    text = json.dumps(claims)
    return encode({"alg": "RS256", "kid": "rsa"}, f'{{"aud": "other", {text[1:]}'.encode(), "AAAA")


NESTED = "[" * 5_000 + "]" * 5_000
NO_JSON = "its header or its claims are no JSON, or have a member twice"
NOW = int(time.time())
FALSE_TOKENS: dict[str, tuple[Callable[[Claims], str], Claims, str]] = {
    "none": (oidc.encode_unsigned, {}, "its signature has the algorithm 'none', which is not accepted"),
    "None": (
        lambda claims: encode({"alg": "nOnE", "kid": "rsa"}, claims),
        {},
        "its signature has the algorithm 'nOnE', which is not accepted",
    ),
    "no algorithm": (
        lambda claims: encode({"kid": "rsa"}, claims, "AAAA"),
        {},
        "it is not a signed token",
    ),
    "public key as secret": (
        oidc.sign_with_public_key_as_secret,
        {},
        "its signature has the algorithm 'HS256', which is not accepted",
    ),
    "wrong key": (sign_with_foreign_key, {}, "its signature does not match a key of the provider"),
    "other key of the issuer": (
        lambda claims: sign(claims, "ec", kid="rsa"),
        {},
        "its signature does not match a key of the provider",
    ),
    "encryption key": (
        lambda claims: sign(claims, "encryption"),
        {},
        "its key is not one of the issuer (header kid)",
    ),
    "changed claims": (oidc.change_payload, {}, "its signature does not match a key of the provider"),
    "no signature": (
        lambda claims: sign(claims, "rsa").rpartition(".")[0] + ".",
        {},
        "its signature does not match a key of the provider",
    ),
    "no kid": (with_header(kid=None), {}, "it does not name its key"),
    "unknown kid": (lambda claims: sign(claims, "rsa", kid="x"), {}, "its key is not one of the issuer (header kid)"),
    "path as kid": (
        lambda claims: sign(claims, "rsa", kid="../../dev/null"),
        {},
        "its key is not one of the issuer (header kid)",
    ),
    "SQL as kid": (
        lambda claims: sign(claims, "rsa", kid="x' UNION SELECT 'key'--"),
        {},
        "its key is not one of the issuer (header kid)",
    ),
    "number as kid": (with_header(kid=7), {}, "the name of its key is not valid (header kid)"),
    "half of a character": (
        lambda claims: oidc.sign_with_header({"alg": "RS256", "kid": "rsa"}, {**claims, "sub": "ann\ud800"}),
        {},
        "a text in it has half of a surrogate pair, which is no character",
    ),
    "huge kid": (with_header(kid="x" * 300), {}, "the name of its key is not valid (header kid)"),
    "own key in the header": (
        with_header(kid="own", jwk={"kty": "oct", "k": "AA"}, jku="https://evil.example/keys"),
        {},
        "its key is not one of the issuer (header kid)",
    ),
    "critical extension": (
        with_header(crit=["exp"]),
        {},
        "it demands an extension, or contains another token (header crit or cty)",
    ),
    "nested token": (
        with_header(cty="JWT"),
        {},
        "it demands an extension, or contains another token (header crit or cty)",
    ),
    "type of a sign-out": (
        with_header(typ="logout+jwt"),
        {},
        "its type is 'logout+jwt', which is not accepted (header typ)",
    ),
    "foreign issuer": (
        lambda claims: sign(claims, "rsa"),
        {"iss": "https://evil.example"},
        "no table [token_issuers.NAME] has its issuer 'https://evil.example'",
    ),
    "no issuer": (
        lambda claims: sign(claims, "rsa"),
        {"iss": None},
        "no table [token_issuers.NAME] has its issuer 'None'",
    ),
    "issuer as list": (
        lambda claims: sign(claims, "rsa"),
        {"iss": ["https://evil.example"]},
        "no table [token_issuers.NAME] has its issuer \"['https://evil.example']\"",
    ),
    "wrong audience": (
        lambda claims: sign(claims, "rsa"),
        {"aud": "another"},
        "it is for another audience (claim aud)",
    ),
    "no audience": (lambda claims: sign(claims, "rsa"), {"aud": None}, "it is for another audience (claim aud)"),
    "audience as object": (
        lambda claims: sign(claims, "rsa"),
        {"aud": {AUDIENCE: True}},
        "it is for another audience (claim aud)",
    ),
    "ID token of a sign-in": (
        lambda claims: sign(claims, "rsa"),
        {"nonce": "x"},
        "it is the ID token of a sign-in (claim nonce)",
    ),
    "expired": (lambda claims: sign(claims, "rsa"), {"exp": NOW - 3_600}, "it has expired"),
    "no expiry": (lambda claims: sign(claims, "rsa"), {"exp": None}, "the claim exp is missing"),
    "expiry as text": (lambda claims: sign(claims, "rsa"), {"exp": "2999"}, "the claim exp is not a time"),
    "expiry as bool": (lambda claims: sign(claims, "rsa"), {"exp": True}, "the claim exp is not a time"),
    "endless": (lambda claims: sign(claims, "rsa"), {"exp": 1e300}, "the claim exp is not a time"),
    "not yet": (
        lambda claims: sign(claims, "rsa"),
        {"nbf": NOW + 7_200},
        "it is not valid yet (claim nbf): compare the clocks of both servers",
    ),
    "future": (
        lambda claims: sign(claims, "rsa"),
        {"iat": NOW + 7_200},
        "it is of the future (claim iat): compare the clocks of both servers",
    ),
    "required claim": (
        lambda claims: sign(claims, "rsa"),
        {"company": "evil"},
        "its claim company is 'evil', which [token_issuers.ci] does not accept",
    ),
    "owner as list": (
        lambda claims: sign(claims, "rsa"),
        {"repository": ["example/app", "example/site"]},
        "its claim repository names no owner",
    ),
    "long owner": (
        lambda claims: sign(claims, "rsa"),
        {"repository": "x" * 70},
        f"its owner '{'x' * 64}' is too long: 'ci/{'x' * 17}' … has 73 characters, and a label at most 64. Choose "
        "another owner_claim",
    ),
    "huge": (
        lambda claims: sign({**claims, "filler": "x" * 20_000}, "rsa"),
        {},
        "it has 27,3NN characters; 16,384 are allowed",
    ),
    "claims twice": (twice, {}, NO_JSON),
    "deep JSON": (lambda claims: encode({"alg": "RS256", "kid": "rsa"}, NESTED.encode(), "AAAA"), {}, NO_JSON),
    "list as claims": (
        lambda claims: encode({"alg": "RS256", "kid": "rsa"}, [claims], "AAAA"),
        {},
        "its header or its claims are no JSON object",
    ),
    "no base64": (lambda claims: "eyJ!!.eyJ!!.AAAA", {}, NO_JSON),
}


@pytest.mark.parametrize("name", FALSE_TOKENS)
async def test_a_false_token_is_refused(app: App, provider: FakeProvider, name: str) -> None:
    make, changes, reason = FALSE_TOKENS[name]
    token = make(new_claims(provider, **changes))
    refused = await ask(app, token)
    message = re.sub(r"has 27,3\d\d ", "has 27,3NN ", refused.message)  # the port of the issuer has 4 or 5 digits
    assert (refused.status, message) == (401, f"The token is not accepted: {reason}.")
    assert provider.key_requests <= 2
    assert (await send(app, "GET", "/admin/keys", x_api_key=ADMIN)).json["data"] == []


async def test_without_keys_of_the_issuer_a_token_has_to_wait(app: App, provider: FakeProvider) -> None:
    provider.published = ["encryption"]
    for _ in range(3):
        waiting = await ask(app, sign(new_claims(provider), "rsa"))
        assert (waiting.status, waiting.headers["retry-after"], waiting.message) == (
            529,
            "5",
            "The token cannot be checked. The identity provider has no usable keys for signatures.",
        )
    assert provider.key_requests == 1


async def test_keys_in_the_document_of_another_issuer_prove_nothing(app: App, provider: FakeProvider) -> None:
    provider.described_issuer = "https://another.example.org"
    waiting = await ask(app, sign(new_claims(provider), "rsa"))
    assert (waiting.status, waiting.message) == (
        529,
        f"The token cannot be checked. The discovery document of {provider.issuer} is of another issuer.",
    )
    assert provider.key_requests == 0


async def test_an_unknown_key_causes_one_request_for_new_keys(app: App, provider: FakeProvider) -> None:
    assert (await ask(app, sign(new_claims(provider), "rsa"))).status == 200
    for number in range(5):
        assert (await ask(app, sign(new_claims(provider), "rsa", kid=f"key-{number}"))).status == 401
    assert provider.key_requests <= 2
