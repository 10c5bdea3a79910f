"""What a stranger can cause at the addresses of the sign-in: no query, and no higher limit."""

import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from anthropic_proxy.console.keys.access_tokens import TokenKeys
from anthropic_proxy.gateway.settings import SignInSettings
from anthropic_proxy.secrets import Secret
from tests.support.sign_in import DEVICE_GRANT, ISSUER, SECRET, approve_device
from tests.support.virtual_keys import Response, running_app, send

KEYS = TokenKeys(SignInSettings(secrets=(Secret(SECRET),)))
SETTINGS = {
    "OIDC_ISSUER": "http://127.0.0.1:9",
    "OIDC_CLIENT_ID": "proxy",
    "DASHBOARD_URL": "http://127.0.0.1:8082",
    "SIGN_IN_SECRET": SECRET,
}
UNAVAILABLE = (503, {"error": "temporarily_unavailable", "error_description": "Try again in a moment."})
ENDED = (
    400,
    {"error": "invalid_grant", "error_description": "The sign-in is unknown or has ended. Sign in again."},
)
EXPIRED = (
    400,
    {"error": "expired_token", "error_description": "The code is unknown or has expired. Start the sign-in again."},
)
LIMITED = (
    429,
    {
        "error": "slow_down",
        "error_description": "Too many unknown codes or tokens came from this address. Wait a minute.",
    },
)
FORM = "application/x-www-form-urlencoded"


def show(reply: Response) -> tuple[int, object]:
    return reply.status, reply.json


async def test_false_tokens_and_codes_cost_no_query(tmp_path: Path) -> None:
    """The database is damaged, so that each query would be an error."""
    async with running_app(tmp_path, **SETTINGS) as app:

        async def post(path: str, **form: str) -> tuple[int, object]:
            return show(await send(app, "POST", path, urlencode(form).encode(), content_type=FORM))

        async def refresh(token: str) -> tuple[int, object]:
            return await post("/oauth/token", grant_type="refresh_token", refresh_token=token)

        async def poll(code: str) -> tuple[int, object]:
            return await post("/oauth/token", grant_type=DEVICE_GRANT, device_code=code)

        for file in (tmp_path / "anthropic-proxy").glob("ledger.sqlite3*"):
            file.write_bytes(b"no database" * 1_000)
        soon = time.time() + 60
        own = KEYS.seal("refresh token", soon)
        assert await refresh(own) == UNAVAILABLE, "the database is asked about tokens of the proxy"
        assert await post("/oauth/revoke", token=own) == UNAVAILABLE
        assert await poll(KEYS.seal("device code", soon)) == (429, {"error": "slow_down"})
        other = TokenKeys(SignInSettings(secrets=(Secret("b" * 32),)))
        false = ("x", "A" * 72, KEYS.seal("device code", soon), KEYS.seal("refresh token", 1.0))
        for token in (*false, other.seal("refresh token", soon)):
            assert await refresh(token) == ENDED
            assert await post("/oauth/revoke", token=token) == (200, {})
        for code in ("x", KEYS.seal("refresh token", soon), KEYS.seal("device code", 1.0)):
            assert await poll(code) == EXPIRED
        answers = [await refresh(f"false {number}") for number in range(100 - 2 * 5 - 3 + 1)]
        assert answers == [*[ENDED] * 87, LIMITED]
        assert await refresh(own) == UNAVAILABLE, "others at the address are not concerned"
        uses = [await refresh(KEYS.seal("refresh token", soon)) for _ in range(3)]
        assert uses == [UNAVAILABLE] * 3


async def test_a_token_of_the_proxy_is_looked_up_120_times_a_minute(tmp_path: Path) -> None:
    token = KEYS.seal("refresh token", time.time() + 3_600)
    form = urlencode({"grant_type": "refresh_token", "refresh_token": token}).encode()
    async with running_app(tmp_path, **SETTINGS) as app:
        answers = [show(await send(app, "POST", "/oauth/token", form, content_type=FORM)) for _ in range(121)]
    slow = {"error": "slow_down", "error_description": "The device uses its token too often."}
    assert answers == [*[ENDED] * 120, (429, slow)]


@pytest.mark.parametrize(("trusted", "last"), [({}, 429), ({"TRUSTED_PROXIES": "127.0.0.0/8"}, 404)])
async def test_an_invented_address_raises_no_limit_of_codes(tmp_path: Path, trusted: dict[str, str], last: int) -> None:
    async with running_app(tmp_path, **SETTINGS, **trusted) as app:
        statuses = [
            (
                await send(
                    app, "GET", "/device?user_code=BCDF-GHJL", x_forwarded_for=f"198.51.{number // 250}.{number % 250}"
                )
            ).status
            for number in range(301)
        ]
    assert statuses == [404] * 300 + [last]


@pytest.mark.parametrize(("trusted", "last"), [({}, 429), ({"TRUSTED_PROXIES": "127.0.0.0/8"}, 401)])
async def test_an_invented_address_raises_no_limit_of_keys(tmp_path: Path, trusted: dict[str, str], last: int) -> None:
    async with running_app(tmp_path, **SETTINGS, **trusted) as app:
        own = {"content_type": FORM, "origin": "http://127.0.0.1", "sec_fetch_site": "same-origin"}
        statuses = [
            (
                await send(
                    app, "POST", "/dashboard/sign-in", b"key=wrong", **own, x_forwarded_for=f"198.51.100.{number}"
                )
            ).status
            for number in range(6)
        ]
    assert statuses == [401] * 5 + [last]


@pytest.mark.merge
async def test_three_hundred_people_behind_one_address_begin_within_ten_minutes(tmp_path: Path) -> None:
    async with running_app(tmp_path, **SETTINGS) as app:
        begun = [
            await send(app, "POST", "/oauth/device_authorization", b"surface=claude_code", content_type=FORM)
            for _ in range(501)
        ]
        assert [each.status for each in begun] == [200] * 500 + [429]
        assert begun[-1].json == {
            "error": "slow_down",
            "error_description": "Too many sign-ins begin at this address. Wait some minutes.",
        }
        for each in begun[:300:50]:  # the limit of wrong codes does not concern them
            form = urlencode({"grant_type": DEVICE_GRANT, "device_code": each.json["device_code"]}).encode()
            reply = await send(app, "POST", "/oauth/token", form, content_type=FORM)
            assert show(reply) == (400, {"error": "authorization_pending"})


async def test_an_access_token_ends_with_the_sign_in_at_the_latest(tmp_path: Path) -> None:
    """A sign-in without a refresh token of the identity provider ends after 12 hours."""
    settings = SETTINGS | {"OIDC_ISSUER": ISSUER, "SIGN_IN_TOKEN_MINUTES": "1440"}
    async with running_app(tmp_path, **settings) as app:

        async def ask_for_token(**form: str) -> dict[str, Any]:
            reply = await send(app, "POST", "/oauth/token", urlencode(form).encode(), content_type=FORM)
            assert reply.status == 200, reply.text
            return reply.json

        begun = await send(app, "POST", "/oauth/device_authorization", b"surface=claude_code", content_type=FORM)
        approve_device(f"sqlite:///{tmp_path}/anthropic-proxy/ledger.sqlite3", begun.json["user_code"])
        first = await ask_for_token(grant_type=DEVICE_GRANT, device_code=begun.json["device_code"])
        second = await ask_for_token(grant_type="refresh_token", refresh_token=first["refresh_token"])
    for tokens in (first, second):
        claims = KEYS.find_signed_claims(tokens["access_token"])
        assert claims is not None
        assert claims["exp"] - claims["iat"] == tokens["expires_in"] <= 12 * 3_600
    assert second["email"] == "ann@example.org"
