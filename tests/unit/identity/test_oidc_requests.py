"""What the proxy sends to the identity provider: parameters of the authorization request, and the proof of the client
by a private key.
"""

import base64
import json
import re
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from joserfc.jwk import ECKey, OKPKey, RSAKey

from anthropic_proxy.app import App
from anthropic_proxy.console.doctor.identity import check_identity
from anthropic_proxy.console.doctor.run import open_backends
from anthropic_proxy.console.identity.client_keys import load_client_key
from anthropic_proxy.console.identity.offline_access import find_offline_access
from anthropic_proxy.console.identity.people import OidcError
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.errors import ConfigurationError
from anthropic_proxy.gateway.settings import OidcSettings, load_settings
from anthropic_proxy.secrets import Secret
from tests.support.device_sign_in import (
    REDIRECT_URI,
    URL,
    confirm,
    list_settings,
    post,
    read_cookies,
    refresh,
    sign_in,
)
from tests.support.fakes.oidc import CLIENT_ID, FakeProvider, ask_provider, running_provider
from tests.support.sign_in import DEVICE_GRANT
from tests.support.virtual_keys import Response, running_app, send
from tests.support.waiting import wait_for_async

OWN = ("state", "nonce", "code_challenge")
USUAL = {
    "response_type": "code",
    "client_id": CLIENT_ID,
    "redirect_uri": REDIRECT_URI,
    "scope": "openid email profile",
    "code_challenge_method": "S256",
}


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with running_provider() as provider:
        provider.redirect_uri = REDIRECT_URI
        yield provider
        assert provider.problems == []


def read_query(reply: Response) -> dict[str, str]:
    """Return the parameters of the authorization request to which the browser is sent, without random values."""
    assert reply.status == 303, reply.body
    query = {name: values[0] for name, values in parse_qs(urlsplit(reply.headers["location"]).query).items()}
    assert all(len(query.pop(name)) >= 32 for name in OWN)
    return query


async def test_a_device_asks_for_a_refresh_token_as_a_strict_provider_requires_it(
    provider: FakeProvider, tmp_path: Path
) -> None:
    provider.offers_refresh = True
    async with running_app(tmp_path, **list_settings(provider)) as app:
        device, _ = await confirm(app)
        assert read_query(device) == {**USUAL, "scope": "openid email profile offline_access", "prompt": "consent"}
        assert read_query(await send(app, "GET", "/dashboard/oidc/start")) == USUAL, "a session is never refreshed"
        tokens = await sign_in(app)
        refreshed = await post(
            app, "/oauth/token", {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
        )
        assert (refreshed.status, provider.refreshes) == (200, 1)


@pytest.mark.parametrize("has_refresh_token", [True, False])
@pytest.mark.parametrize("changed", ["issuer", "client"])
async def test_a_refresh_token_is_sent_to_its_own_provider_and_client_only(
    provider: FakeProvider, tmp_path: Path, changed: str, has_refresh_token: bool
) -> None:
    provider.offers_refresh = has_refresh_token
    async with running_app(tmp_path, **list_settings(provider)) as app:
        tokens = await sign_in(app)
    with running_provider() as other:
        asked = other if changed == "issuer" else provider
        settings = list_settings(asked, **({"OIDC_CLIENT_ID": "other"} if changed == "client" else {}))
        number = asked.token_requests
        async with running_app(tmp_path, **settings) as app:
            answers = [await refresh(app, tokens) for _ in range(2)]
        assert asked.token_requests == number
    ended = {
        "error": "invalid_grant",
        "error_description": "The sign-in has ended. It is of another identity provider or client than this proxy has "
        "now. Sign in again.",
    }
    assert [(answer.status, answer.json) for answer in answers] == [(400, ended)] * 2


@pytest.mark.parametrize(
    ("path", "in_token", "in_user_info"),
    [
        ("groups", {}, {"groups": ["leads"]}),
        ("groups", {"groups": None}, {"groups": "leads"}),
        ("realm_access.roles", {"realm_access": {}}, {"realm_access": {"roles": ["leads"]}}),
        ("realm_access.roles", {"realm_access": {"verify_caller": True}}, {"realm_access": {"roles": ["leads"]}}),
        ("https://example.org/roles", {}, {"https://example.org/roles": ["leads"]}),
        ("groups", {"email": None, "groups": ["leads"]}, {}),
    ],
    ids=str,
)
async def test_what_the_id_token_lacks_comes_from_the_user_info(
    provider: FakeProvider, tmp_path: Path, path: str, in_token: dict[str, Any], in_user_info: dict[str, Any]
) -> None:
    provider.offers_refresh = True
    provider.user |= in_user_info

    def change(claims: dict[str, Any]) -> None:
        for name in in_user_info:
            claims.pop(name)
        claims.update(in_token)

    provider.change = change
    (tmp_path / "anthropic-proxy.toml").write_text('[sign_in.groups.leads]\nteam = "core"\n')
    async with running_app(tmp_path, **list_settings(provider, OIDC_ROLE_CLAIM=path)) as app:
        tokens = await sign_in(app)
        renewed = await refresh(app, tokens)
    assert (renewed.status, renewed.json["email"]) == (200, "ann@example.com")


@pytest.mark.parametrize(
    ("path", "in_token", "in_user_info"),
    [
        ("cost_center", {}, {"cost_center": "4711"}),
        ("org.center", {"org": {"name": "Shop"}}, {"org": {"center": 4711}}),
        ("cost_center", {"cost_center": "4711"}, {"cost_center": "4712"}),
    ],
    ids=str,
)
async def test_a_cost_center_that_the_id_token_lacks_comes_from_the_user_info(
    provider: FakeProvider, tmp_path: Path, path: str, in_token: dict[str, Any], in_user_info: dict[str, Any]
) -> None:
    provider.user |= {"groups": ["leads"], **in_user_info}

    def change(claims: dict[str, Any]) -> None:
        for name in in_user_info:
            claims.pop(name)
        claims.update(in_token)

    provider.change = change
    (tmp_path / "anthropic-proxy.toml").write_text(f'[sign_in]\ncost_center_claim = "{path}"\n')
    async with running_app(tmp_path, **list_settings(provider)) as app:
        await sign_in(app)
    with closing(sqlite3.connect(tmp_path / "anthropic-proxy" / "ledger.sqlite3")) as connection:
        assert connection.execute("SELECT cost_center FROM virtual_keys").fetchall() == [("4711",)]


@pytest.mark.parametrize("verified", [None, False])
async def test_the_user_info_verifies_no_other_address_than_its_own(
    provider: FakeProvider, tmp_path: Path, verified: bool | None
) -> None:
    """The ID token has an address that anybody can enter, and the user info another one, which is verified."""

    def change(claims: dict[str, Any]) -> None:
        claims |= {"email": "root@example.com", "email_verified": verified}

    provider.change = change
    async with running_app(tmp_path, **list_settings(provider)) as app:
        confirmed, code = await confirm(app)
        back = ask_provider(confirmed.headers["location"])
        page = await send(app, "GET", back.removeprefix(URL), cookie=read_cookies(confirmed))
        redeemed = await post(app, "/oauth/token", {"grant_type": DEVICE_GRANT, "device_code": code})
    assert page.status == 403
    assert (redeemed.status, redeemed.json["error"]) == (403, "unauthorized_client")
    assert redeemed.json["error_description"].startswith(
        "The identity provider has not verified the address root@example.com. Confirm it there, then try again."
    )


async def test_a_provider_that_does_not_offer_the_scope_is_not_asked_for_it(
    provider: FakeProvider, tmp_path: Path
) -> None:
    async with running_app(tmp_path, **list_settings(provider)) as app:
        assert read_query((await confirm(app))[0]) == USUAL
    asked = {**USUAL, "scope": "openid email offline_access", "prompt": "consent"}
    async with running_app(tmp_path, **list_settings(provider, OIDC_SCOPES="email offline_access")) as app:
        assert read_query((await confirm(app))[0]) == asked, "the settings say that it has the scope"
        assert read_query(await send(app, "GET", "/dashboard/oidc/start")) == {**USUAL, "scope": "openid email"}


async def test_a_table_adds_replaces_and_removes_parameters(provider: FakeProvider, tmp_path: Path) -> None:
    provider.offers_refresh = True
    table = '[sign_in.authorization]\nprompt = "login consent"\nhd = "example.org"\nkc_idp_hint = "a&b=c d"\n'
    (tmp_path / "anthropic-proxy.toml").write_text(table)
    own = {"prompt": "login consent", "hd": "example.org", "kc_idp_hint": "a&b=c d"}
    async with running_app(tmp_path, **list_settings(provider)) as app:
        device = read_query((await confirm(app))[0])
        assert device == {**USUAL, "scope": "openid email profile offline_access", **own}
        assert read_query(await send(app, "GET", "/dashboard/oidc/start")) == {**USUAL, **own}
    (tmp_path / "anthropic-proxy.toml").write_text('[sign_in.authorization]\nprompt = ""\n')
    async with running_app(tmp_path, **list_settings(provider)) as app:
        device = read_query((await confirm(app))[0])
        assert device == {**USUAL, "scope": "openid email profile offline_access"}


async def test_a_provider_without_the_scope_gives_a_refresh_token_by_the_table(
    provider: FakeProvider, tmp_path: Path
) -> None:
    provider.offers_refresh_by_access_type = True
    table = '[sign_in.authorization]\naccess_type = "offline"\nprompt = "consent"\n'
    (tmp_path / "anthropic-proxy.toml").write_text(table)
    async with running_app(tmp_path, **list_settings(provider)) as app:
        tokens = await sign_in(app)
        form = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
        assert (await post(app, "/oauth/token", form)).status == 200
        assert provider.refreshes == 1


@pytest.mark.parametrize(
    ("issuer", "supported", "scope", "parameters"),
    [
        ("https://login.example.org", ["openid", "offline_access"], "offline_access", {"prompt": "consent"}),
        ("https://login.example.org", ["openid"], "", {}),
        ("https://accounts.google.com", ["openid", "email"], "", {"access_type": "offline", "prompt": "consent"}),
        ("https://login.microsoftonline.com/1-2/v2.0", ["openid", "offline_access"], "offline_access", {}),
        ("https://login.microsoftonline.com.example.org", ["offline_access"], "offline_access", {"prompt": "consent"}),
    ],
)
def test_providers_differ_in_how_they_are_asked_for_a_refresh_token(
    issuer: str, supported: Sequence[str], scope: str, parameters: dict[str, str]
) -> None:
    found = find_offline_access(OidcSettings(issuer=issuer, client_id="c"), supported)
    assert (found.scope, found.parameters) == (scope, parameters)


def write_pem(path: Path, *options: str) -> Path:
    subprocess.run(["openssl", "genpkey", *options, "-out", str(path)], check=True, capture_output=True)
    return path


EC = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
RSA = ("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048")


async def test_a_private_key_in_a_file_is_replaced_without_a_reload(provider: FakeProvider, tmp_path: Path) -> None:
    provider.offers_refresh = True
    file = write_pem(tmp_path / "client.pem", *RSA)
    provider.client_keys = [RSAKey.import_key(file.read_bytes())]
    settings = list_settings(provider, OIDC_CLIENT_SECRET="", OIDC_CLIENT_KEY_FILE="client.pem")
    async with running_app(tmp_path, **settings) as app:
        form = {"grant_type": "refresh_token", "refresh_token": (await sign_in(app))["refresh_token"]}
        assert provider.assertion_header == {"alg": "RS256", "typ": "JWT"}
        successor = write_pem(tmp_path / "next.pem", *EC)
        provider.client_keys.append(ECKey.import_key(successor.read_bytes()))
        successor.replace(file)
        assert (await post(app, "/oauth/token", form)).status == 200
        assert provider.assertion_header == {"alg": "ES256", "typ": "JWT"}
        del provider.client_keys[0]
        assert (await post(app, "/oauth/token", form)).status == 200
        file.write_text("-----BEGIN PRIVATE KEY-----\n")
        waiting = await post(app, "/oauth/token", form)
        assert (waiting.status, waiting.json["error"]) == (503, "temporarily_unavailable"), "nobody is signed out"
        write_pem(file, *RSA)
        assert (await post(app, "/oauth/token", form)).json["error"] == "temporarily_unavailable", "invalid_client"


async def test_a_private_key_in_the_environment_names_itself_and_its_algorithm(
    provider: FakeProvider, tmp_path: Path
) -> None:
    key = RSAKey.generate_key(2048, {"kid": "client-2", "alg": "PS256"})
    provider.client_keys = [key]
    settings = list_settings(provider, OIDC_CLIENT_SECRET="", OIDC_CLIENT_KEY=to_json(key))
    async with running_app(tmp_path, **settings) as app:
        await sign_in(app)
    assert provider.assertion_header == {"alg": "PS256", "typ": "JWT", "kid": "client-2"}


def to_json(*keys: RSAKey | ECKey | OKPKey) -> str:
    listed = [key.as_dict(private=True) for key in keys]
    return json.dumps(listed[0] if len(listed) == 1 else {"keys": listed})


def new_settings(text: str) -> OidcSettings:
    return OidcSettings(issuer="https://login.example.org", client_id="c", client_key=Secret(text))


def test_the_algorithm_follows_from_the_key_and_from_what_the_provider_states(tmp_path: Path) -> None:
    pem = write_pem(tmp_path / "key.pem", *RSA).read_text()
    key = load_client_key(new_settings(pem))
    assert key is not None
    assert [sign_header(key, supported) for supported in ([], ["ES256", "PS256"], ["PS512", "RS512"])] == [
        "RS256",
        "PS256",
        "RS512",
    ]
    with pytest.raises(OidcError) as raised:
        key.sign("c", "a", ["ES256", "EdDSA"], 0.0)
    assert raised.value.message == (
        "The identity provider accepts assertions with ES256 or EdDSA, and the private key of this proxy signs with "
        "RS256, PS256, RS384, PS384, RS512 or PS512. An administrator should use a key of another type."
    )
    for made, algorithm in (
        (ECKey.generate_key("P-384"), "ES384"),
        (ECKey.generate_key("P-521"), "ES512"),
        (OKPKey.generate_key("Ed25519"), "EdDSA"),
    ):
        other = load_client_key(new_settings(to_json(made, ECKey.generate_key("P-256"))))
        assert other is not None
        assert sign_header(other, []) == algorithm, "of a set of keys, the first one signs"


def sign_header(key: Any, supported: Sequence[str]) -> str:
    header = key.sign("c", "a", supported, 0.0).partition(".")[0]
    found: str = json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))["alg"]
    return found


def test_a_certificate_beside_the_key_is_named_by_its_thumbprints(tmp_path: Path) -> None:
    """Microsoft Entra ID finds the public key by them."""
    pem = write_pem(tmp_path / "key.pem", *RSA).read_text()
    private = RSAKey.import_key(pem).private_key
    name, now = x509.Name([]), datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, private.public_key(), 1, now, now + timedelta(days=1))
        .sign(private, SHA256())
        .public_bytes(Encoding.PEM)
        .decode()
    )
    for text in (pem + certificate, certificate + pem):
        key = load_client_key(new_settings(text))
        assert key is not None
        assert {name: len(value) for name, value in key.header.items()} == {"x5t": 27, "x5t#S256": 43}


REMEDY = (
    "Use the private key that belongs to the public one of this client at the identity provider: PEM without a "
    "password, or JWK."
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "contains no private key that can be read"),
        ('{"kty": "RSA"}', "contains no private key that can be read"),
        ("{", "contains no private key that can be read"),
        ('{"keys": [[]]}', "contains no private key that can be read"),
        ('{"keys": []}', "contains no private key that can be read"),
        ('{"kty": "oct", "k": "AAAA"}', "contains no private key of the type RSA, EC or OKP"),
        (to_json(RSAKey.generate_key(1024)), "contains an RSA key of less than 2,048 bits"),
        (to_json(ECKey.generate_key("secp256k1")), "contains a key with the curve secp256k1, which is not supported"),
        (
            to_json(RSAKey.generate_key(2048, {"alg": "ES256"})),
            'has the algorithm "ES256", which this type of key does not have',
        ),
    ],
)
def test_a_private_key_that_cannot_be_used_is_named_at_the_start(text: str, reason: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load_client_key(new_settings(text))
    assert raised.value.message == f"OIDC_CLIENT_KEY {reason}. {REMEDY}"


async def test_a_start_without_the_file_of_the_key_is_refused(provider: FakeProvider, tmp_path: Path) -> None:
    settings = list_settings(provider, OIDC_CLIENT_SECRET="", OIDC_CLIENT_KEY_FILE="client.pem")
    with pytest.raises(ConfigurationError) as raised:
        async with running_app(tmp_path, **settings):
            pass
    shown = re.sub(r"\(.*/client.pem\)", "(…/client.pem)", raised.value.message)
    assert shown == f"OIDC_CLIENT_KEY_FILE (…/client.pem) cannot be read: no such file. {REMEDY}"


NO_REFRESH_TOKEN = (
    "The identity provider gave no refresh token, so it cannot be asked whether a person still has access: people sign "
    "in from Claude Code again every 12 hours, and whoever is removed keeps the access for up to 12 hours. Let the "
    "provider offer the scope offline_access to this client, or set what it needs in [sign_in.authorization]: see the "
    'section "Refresh tokens" of docs/guide/company.md.'
)


async def test_a_sign_in_without_a_refresh_token_is_said_once_and_in_the_list(
    provider: FakeProvider, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = list_settings(provider, ADMIN_API_KEY="admin-0123456789", LOG_LEVEL="warning")

    def count_warnings() -> int:
        return " ".join(capsys.readouterr().err.split()).count(NO_REFRESH_TOKEN)

    async def list_marks(app: App) -> list[tuple[bool, int]]:
        listed = (await send(app, "GET", "/admin/sign-ins", x_api_key="admin-0123456789")).json["data"]
        return [(one["provider_refresh_token"], find_hours(one)) for one in listed]

    async with running_app(tmp_path, **settings) as app:
        await sign_in(app)
        await sign_in(app)
        assert await list_marks(app) == [(False, 12), (False, 12)]
        await wait_for_async(count_warnings, lambda number: number == 1)
    provider.offers_refresh = True
    async with running_app(tmp_path, **settings) as app:
        assert count_warnings() == 1, "at the start"
        await sign_in(app)
        assert await list_marks(app) == [(True, 720), (False, 12), (False, 12)]
        assert count_warnings() == 0


def find_hours(listed: dict[str, Any]) -> int:
    begin, end = (datetime.fromisoformat(listed[name]) for name in ("created_at", "ends_at"))
    return round((end - begin).total_seconds() / 3_600)


async def test_the_doctor_names_what_the_identity_provider_lacks(provider: FakeProvider, tmp_path: Path) -> None:
    async def examine(**changes: str) -> Sequence[str]:
        fixed = {"VIRTUAL_KEYS": "true", "XDG_DATA_HOME": str(tmp_path)}
        settings = load_settings({**fixed, **list_settings(provider, **changes)}, PROVIDERS)
        async with open_backends(settings) as (services, _):
            return await check_identity(services)

    assert await examine() == [
        "The identity provider does not offer the scope offline_access, so it may give no refresh token. Then people "
        "sign in from Claude Code again every 12 hours, and whoever is removed keeps the access for up to 12 hours. "
        "Let the provider offer the scope, or set what it needs in [sign_in.authorization]."
    ]
    async with running_app(tmp_path, **list_settings(provider)) as app:
        await sign_in(app)
    provider.offers_refresh = True
    assert await examine() == [f"1 of 1 sign-in cannot be checked later. {NO_REFRESH_TOKEN}"]
    (tmp_path / "anthropic-proxy" / "ledger.sqlite3").unlink()
    assert not await examine()
    provider.assertion_algorithms = ["ES256"]
    key = to_json(RSAKey.generate_key(2048))
    assert await examine(OIDC_CLIENT_SECRET="", OIDC_CLIENT_KEY=key) == [
        "The identity provider accepts assertions with ES256, and the private key of this proxy signs with RS256, "
        "PS256, RS384, PS384, RS512 or PS512. An administrator should use a key of another type."
    ]
    provider.published = []
    assert await examine() == [
        "The identity provider has no usable keys for signatures. An administrator should check OIDC_ISSUER."
    ]
    assert not await examine(SIGN_IN_SECRET="")
