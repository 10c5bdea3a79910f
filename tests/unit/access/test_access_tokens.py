"""Access tokens of signed-in persons are accepted as long as their sign-in, key and group allow it."""

from collections.abc import AsyncIterator

import pytest
from msgspec import structs

from anthropic_proxy.console.gateway_protocol.grants import Grants
from anthropic_proxy.console.identity.people import OidcUser
from anthropic_proxy.console.keys.access_tokens import SignedInClients, TokenKeys, build_claims
from anthropic_proxy.console.keys.administration import KeyCommand, open_administration
from anthropic_proxy.console.keys.key_table import KeysUnavailable, KeyTable
from anthropic_proxy.console.ledger.database import open_for_writing
from anthropic_proxy.errors import AuthenticationFailed, PermissionDenied
from anthropic_proxy.gateway.settings import OidcSettings, Settings, SignInGroup, SignInSettings
from anthropic_proxy.plugins import Client
from anthropic_proxy.secrets import Secret
from tests.support.ledger import NOON
from tests.support.sign_in import answer

URL, ISSUER = "https://proxy.example.org", "https://login.example.org"
ANN = OidcUser(ISSUER, "proxy", "1", "ann@example.org", ("build", "night"), "Ann")
ENDED = (
    "The sign-in has ended: it was ended on the device or by an administrator, or its time is over. Sign in again:  "
    "/login"
)


class Proxy:
    """One instance with a clock that a test sets. The table does not read by itself."""

    def __init__(self, settings: Settings) -> None:
        self.now = NOON
        sign_in = SignInSettings(secrets=(Secret("a" * 32),), groups=(SignInGroup(name="build", team="core"),))
        oidc = OidcSettings(issuer=ISSUER, client_id="proxy")
        self.settings = structs.replace(settings, oidc=oidc, sign_in=sign_in, dashboard_url=URL)
        self.table = KeyTable(self.settings, lambda text: None, clock=lambda: self.now)
        self.clients = SignedInClients(self.table, lambda: self.settings, lambda: self.now)

    def sign_in(self) -> tuple[str, str]:
        """Return the id of a new sign-in, and its access token."""
        assert self.settings.sign_in is not None
        keys = TokenKeys(self.settings.sign_in)
        grants = Grants(self.settings, keys, lambda: self.now)
        code, user_code = grants.create_code("claude-code", "192.0.2.1")
        waiting = grants.find_code("user_code", user_code)
        assert waiting is not None
        grants.approve(grants.identify(waiting.code_hash, ANN, "token"))
        _, stored, _ = grants.redeem(code)
        assert stored is not None
        return stored.id, keys.sign(build_claims(ANN, stored.id, URL, self.now, 3_600))

    def change(self, command: KeyCommand) -> None:
        with open_administration(self.settings, "command", lambda: self.now) as administration:
            administration.execute(command)

    async def identify(self, token: str) -> Client | None:
        return await self.clients.identify([b"sk-of-the-client", token.encode()])

    async def reject(self, token: str) -> str:
        with pytest.raises(AuthenticationFailed) as refused:
            await self.identify(token)
        assert (refused.value.status, refused.value.should_retry) == (401, False)
        return refused.value.message


@pytest.fixture
async def proxy(sqlite: Settings) -> AsyncIterator[Proxy]:
    proxy = Proxy(sqlite)
    open_for_writing(sqlite).close()
    yield proxy
    await proxy.table.stop()


async def test_a_new_sign_in_is_read_from_the_database_once(proxy: Proxy) -> None:
    assert await proxy.table.refresh()
    sign_in, token = proxy.sign_in()
    client = await proxy.identify(token)
    assert client is not None
    assert (client.name, client.role, client.owner, client.team, client.groups, client.sign_in) == (
        *("ann@example.org", "member", "ann@example.org", "core"),
        *(("build", "night"), sign_in),
    )
    proxy.change(KeyCommand(action="sign-out", target=sign_in))
    assert await proxy.identify(token) is client, "the table was not read again"
    assert await proxy.table.refresh()
    assert await proxy.reject(token) == ENDED


async def test_a_token_of_an_unknown_sign_in_causes_no_query_after_a_minute(proxy: Proxy) -> None:
    assert await proxy.table.refresh()
    _, token = proxy.sign_in()
    proxy.now += 61
    assert await proxy.reject(token) == ENDED
    assert await proxy.table.refresh()
    assert await proxy.identify(token) is not None


async def test_a_flood_with_a_token_of_an_ended_sign_in_causes_one_query(proxy: Proxy) -> None:
    assert await proxy.table.refresh()
    sign_in, token = proxy.sign_in()
    proxy.change(KeyCommand(action="sign-out", target=sign_in))
    assert await proxy.reject(token) == ENDED
    _break_database(proxy)
    for _ in range(100):
        assert await proxy.reject(token) == ENDED


async def test_a_new_sign_in_is_not_judged_if_the_table_cannot_be_read(proxy: Proxy) -> None:
    """A 401 would sign the device out."""
    assert await proxy.table.refresh()
    _, token = proxy.sign_in()
    _break_database(proxy)
    with pytest.raises(KeysUnavailable):
        await proxy.identify(token)


async def test_a_sign_in_that_could_not_be_read_for_long_is_not_judged(proxy: Proxy) -> None:
    """It began at another instance while the database did not answer this one, which has read the keys before."""
    assert await proxy.table.refresh()
    _, token = proxy.sign_in()
    proxy.now += 600.0
    _break_database(proxy)
    assert not await proxy.table.refresh()
    with pytest.raises(KeysUnavailable):
        await proxy.identify(token)


def build_keys(*letters: str) -> TokenKeys:
    return TokenKeys(SignInSettings(secrets=tuple(Secret(letter * 32) for letter in letters)))


def test_a_sealed_text_proves_its_purpose_and_its_end() -> None:
    keys = build_keys("a")
    text = keys.seal("refresh token", NOON + 60)
    assert keys.find_sealed(text, "refresh token", NOON + 59) == text[:40]
    assert text != keys.seal("refresh token", NOON + 60)
    assert keys.find_sealed(text, "refresh token", NOON + 60) is None
    assert keys.find_sealed(text, "device code", NOON) is None
    assert build_keys("b").find_sealed(text, "refresh token", NOON) is None
    for place in range(len(text)):
        changed = f"{text[:place]}{'A' if text[place] != 'A' else 'B'}{text[place + 1 :]}"
        assert keys.find_sealed(changed, "refresh token", NOON) is None, place
    cut = [text[:end] for end in range(len(text))]
    for false in (*cut, text + "A", text + "AAAA", text[:-1] + "é", text[:-1] + "=", "A" * len(text), " " * len(text)):
        assert keys.find_sealed(false, "refresh token", NOON) is None, false


def test_the_seals_of_a_text_do_not_change_what_identifies_it() -> None:
    """Otherwise, each spelling would have limits of its own."""
    text = build_keys("a", "b", "c").seal("refresh token", NOON + 60)
    for changed in (text[:72] + "A" * 48, text[:72] + text[96:] + text[72:96], text[:96]):
        assert build_keys("a", "c").find_sealed(changed, "refresh token", NOON) == text[:40]


@pytest.mark.parametrize(
    ("issuing", "reading"), [("a", "ba"), ("ba", "a"), ("ba", "b"), ("ab", "ba"), ("cba", "bd"), ("abcdefgh", "h")]
)
def test_one_secret_in_common_is_enough(issuing: str, reading: str) -> None:
    """Instances read changed settings at different times, and in any order."""
    issuer, reader, other = build_keys(*issuing), build_keys(*reading), build_keys("x", "y")
    claims = build_claims(ANN, "sign_1", URL, NOON, 60)
    token = issuer.sign(claims)
    assert reader.find_signed_claims(token) == issuer.find_signed_claims(token) == {**claims, "groups": [*ANN.groups]}
    assert other.find_signed_claims(token) is None
    header, payload, signatures = token.split(".")
    forged = build_keys("x").sign({**claims, "sub": "2"})
    for false in (
        f"{header}.{forged.split('.')[1]}.{signatures}",
        f"{header}.{payload}.{forged.split('.')[2]}",
        *(f"{header}.{payload}.{signatures[:end]}" for end in range(42)),
    ):
        assert reader.find_signed_claims(false) is None, false
    sealed = issuer.seal("device code", NOON + 60)
    assert reader.find_sealed(sealed, "device code", NOON) == sealed[:40]
    assert other.find_sealed(sealed, "device code", NOON) is None
    encrypted = issuer.encrypt("of the provider", ANN)
    assert reader.decrypt(encrypted, ANN) == "of the provider"
    assert reader.decrypt(encrypted, structs.replace(ANN, subject="2")) is None
    assert other.decrypt(encrypted, ANN) is None


def test_a_sealed_text_has_one_spelling() -> None:
    keys = build_keys("a")
    for mark, other in (("-", "+"), ("_", "/")):
        text = next(one for one in iter(lambda: keys.seal("device code", NOON + 60), "") if mark in one)
        assert keys.find_sealed(text, "device code", NOON) is not None
        assert keys.find_sealed(text.replace(mark, other), "device code", NOON) is None


async def test_a_token_ends_with_its_time_its_sign_in_and_its_key(proxy: Proxy) -> None:
    _, token = proxy.sign_in()
    assert await proxy.identify(token) is not None
    proxy.change(KeyCommand(action="change", target="ann@example.org", fields={"expires_at": NOON + 60}))
    assert await proxy.table.refresh()
    proxy.now += 60
    assert await proxy.reject(token) == ENDED
    proxy.change(KeyCommand(action="change", target="ann@example.org", fields={"expires_at": None}))
    assert await proxy.table.refresh()
    assert await proxy.identify(token) is not None
    proxy.now += 3_600
    assert await proxy.reject(token) == (
        "The access token has expired. Claude Code replaces it before a request. If it does not, sign in again:  /login"
    )
    proxy.now = NOON
    proxy.change(KeyCommand(action="revoke", target="ann@example.org"))
    assert await proxy.table.refresh()
    assert await proxy.reject(token) == ENDED


async def test_a_reload_applies_groups_and_secrets_at_once(proxy: Proxy) -> None:
    _, token = proxy.sign_in()
    assert await proxy.identify(token) is not None
    before = proxy.settings
    assert before.sign_in is not None
    proxy.settings = structs.replace(
        before, sign_in=structs.replace(before.sign_in, groups=(SignInGroup(name="platform"),))
    )
    with pytest.raises(PermissionDenied) as refused:
        await proxy.identify(token)
    assert (refused.value.status, refused.value.message) == (
        403,
        "ann@example.org may not use Claude Code, because none of the groups of the user gives access. An "
        "administrator should add the user to a group with a table [sign_in.groups.NAME] (platform), or add a table.",
    )
    proxy.settings = structs.replace(
        before, sign_in=structs.replace(before.sign_in, secrets=(Secret("b" * 32), Secret("a" * 32)))
    )
    assert await proxy.identify(token) is not None
    proxy.settings = structs.replace(before, sign_in=structs.replace(before.sign_in, secrets=(Secret("b" * 32),)))
    assert await proxy.reject(token) == (
        "The access token is not valid: its signature does not match SIGN_IN_SECRET. Sign in again:  /login"
    )
    assert before.oidc is not None
    proxy.settings = structs.replace(before, oidc=structs.replace(before.oidc, issuer="https://new.example.org"))
    assert await proxy.reject(token) == "The identity provider of this proxy has been replaced. Sign in again:  /login"
    proxy.settings = structs.replace(before, sign_in=None)
    assert await proxy.identify(token) is None


async def test_a_token_of_another_proxy_with_the_same_secret_is_refused(proxy: Proxy) -> None:
    number, _ = proxy.sign_in()
    assert proxy.settings.sign_in is not None
    claims = build_claims(ANN, number, "https://other.example.org", proxy.now, 3_600)
    assert await proxy.reject(TokenKeys(proxy.settings.sign_in).sign(claims)) == (
        "The access token is not valid: it is of another proxy (claim iss). Sign in again:  /login"
    )


async def test_a_token_that_was_used_has_the_role_and_groups_of_the_latest_refresh(proxy: Proxy) -> None:
    assert proxy.settings.sign_in is not None
    groups = (SignInGroup(name="night", team="core", role="team admin"), SignInGroup(name="build", team="core"))
    sign_in = structs.replace(proxy.settings.sign_in, groups=groups)
    proxy.settings = structs.replace(proxy.settings, sign_in=sign_in)
    number, token = proxy.sign_in()
    found = [await proxy.identify(token)]
    grants = Grants(proxy.settings, TokenKeys(sign_in), lambda: proxy.now)
    stored = grants.find_active(number)
    assert stored is not None
    grants.renew(stored, answer(structs.replace(ANN, groups=("build",)), proxy.now))
    assert await proxy.table.refresh()
    found.append(await proxy.identify(token))
    assert [client and (client.role, client.groups) for client in found] == [
        ("team admin", ("build", "night")),
        ("member", ("build",)),
    ]


async def test_other_keys_and_tokens_are_left_to_others(proxy: Proxy) -> None:
    assert await proxy.clients.identify([b"sk-ap-0123", b"eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJhcGkifQ.x"]) is None


async def test_a_token_with_other_characters_is_no_token(proxy: Proxy) -> None:
    """A decoder of base64 skips characters that it does not know."""
    _, token = proxy.sign_in()
    for foreign in ("é", "\N{LATIN SMALL LETTER Y WITH DIAERESIS}"):
        assert await proxy.identify(f"{token[:-5]}{foreign}{token[-5:]}") is None


async def test_without_a_database_a_token_is_not_judged(proxy: Proxy) -> None:
    _, token = proxy.sign_in()
    _break_database(proxy)
    with pytest.raises(KeysUnavailable):
        await proxy.identify(token)


def _break_database(proxy: Proxy) -> None:
    folder = proxy.settings.data_directory
    assert folder is not None
    for file in folder.glob("ledger.sqlite3*"):
        file.write_bytes(b"no database" * 1_000)
