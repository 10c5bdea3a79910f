"""Sign-in to the dashboard: sessions end with time, key and sign-out in every process; wrong keys are limited."""

import pytest
from msgspec import structs

from anthropic_proxy.console.dashboard.browser_sessions import (
    IDLE_SECONDS,
    SESSION_SECONDS,
    BrowserSessions,
)
from anthropic_proxy.console.dashboard.sign_in import (
    FAILED_KEYS,
)
from anthropic_proxy.console.identity.people import OidcUser
from anthropic_proxy.gateway.settings import OidcSettings, Settings
from anthropic_proxy.gateway.stores.memory import MemoryStore
from anthropic_proxy.plugins import RouteRequest, StoreState
from anthropic_proxy.secrets import Secret

MINUTE, HOUR = FAILED_KEYS.windows


class Setup:
    """Settings, store and clock of several processes."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.settings = Settings(
            proxy_api_keys=(Secret("first-key"), Secret("second-key")), admin_api_keys=(Secret("admin-key"),)
        )
        self.store = MemoryStore(clock=lambda: self.now)

    def new_process(self) -> BrowserSessions:
        return BrowserSessions(lambda: self.settings, lambda: self.store, lambda: self.now)


async def test_a_session_ends_after_its_time_and_with_its_key() -> None:
    setup = Setup()
    one, other = setup.new_process(), setup.new_process()
    cookie = await one.create_for_key("second-key")
    assert cookie is not None
    assert await one.create_for_key("third-key") is None
    session = await other.find(cookie)
    assert session is not None
    assert (session.client_name, session.role) == ("key 2", "owner")
    admin = await one.find(await one.create_for_key("admin-key") or "")
    assert admin is not None
    assert (admin.client_name, admin.role) == ("admin key 1", "admin")
    for _ in range(SESSION_SECONDS // IDLE_SECONDS * 2 - 1):
        setup.now += IDLE_SECONDS / 2
        assert await one.find(cookie) is not None
    setup.now += IDLE_SECONDS / 2
    assert await one.find(cookie) is None
    unused, removed = await one.create_for_key("first-key"), await one.create_for_key("second-key")
    assert unused is not None
    assert removed is not None
    setup.settings = Settings(proxy_api_keys=(Secret("first-key"),))
    assert await other.find(removed) is None
    setup.now += IDLE_SECONDS
    assert await other.find(unused) is None


async def test_a_session_of_a_user_who_is_no_person_of_virtual_keys_ends_with_their_start() -> None:
    setup = Setup()
    oidc = OidcSettings(issuer="https://login.example.org", client_id="proxy")
    setup.settings = structs.replace(setup.settings, oidc=oidc)
    user = OidcUser(oidc.issuer, oidc.client_id, "1", "ann@example.org")
    sessions = setup.new_process()
    without, person = await sessions.create_for_user(user, ""), await sessions.create_for_user(user, "key_1")
    assert await sessions.find(without) is not None
    setup.settings = structs.replace(setup.settings, virtual_keys=True)
    assert await sessions.find(without) is None
    session = await sessions.find(person)
    assert session is not None
    assert (session.client_name, session.role, session.person) == ("ann@example.org", "member", "key_1")


async def test_sign_out_ends_every_copy_of_a_cookie_in_every_process() -> None:
    setup = Setup()
    one, other = setup.new_process(), setup.new_process()
    cookie = await one.create_for_key("first-key")
    assert cookie is not None
    setup.now += 120.0
    await one.end(cookie)
    assert await other.find(cookie) is None
    assert await one.find(cookie) is None


async def test_the_store_contains_neither_cookie_nor_key() -> None:
    setup = Setup()
    stored: list[str] = []
    setup.store.publish_to(lambda key, value, _: stored.extend((key, value)))
    cookie = await setup.new_process().create_for_key("first-key")
    assert stored
    assert not [text for text in stored if str(cookie) in text or "first-key" in text]


class FailingStore(MemoryStore):
    """A store with a server that can fail. Values of that time are lost."""

    available = True

    @property
    def state(self) -> StoreState:
        return StoreState(kind="redis", available=self.available)

    async def put(self, key: str, value: str, seconds: float) -> None:
        if self.available:
            await super().put(key, value, seconds)


async def test_a_sign_out_without_redis_applies_to_all_processes_afterwards() -> None:
    setup = Setup()
    setup.store = store = FailingStore(clock=lambda: setup.now)
    one, other = setup.new_process(), setup.new_process()
    cookie = await one.create_for_key("first-key")
    assert cookie is not None
    store.available = False
    await one.end(cookie)
    assert await one.find(cookie) is None
    store.available = True
    assert await one.find(cookie) is None
    assert await other.find(cookie) is None


def sent_from(address: str) -> RouteRequest:
    return RouteRequest(path="/dashboard/sign-in", address=address)


@pytest.mark.parametrize(
    ("first", "second", "is_shared"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
    ],
)
async def test_wrong_keys_are_limited_by_address(first: str, second: str, is_shared: bool) -> None:
    setup, limit = Setup(), FAILED_KEYS
    for _ in range(MINUTE.maximum):
        correct = await limit.reserve(setup.store, sent_from(first))
        await limit.settle(setup.store, correct, is_success=True)
        begun = await limit.reserve(setup.store, sent_from(first))
        assert begun.refused is None
        await limit.settle(setup.store, begun, is_success=False)
    refused = await limit.reserve(setup.store, sent_from(first))
    assert refused.refused == 0
    assert 0 < refused.retry_after_seconds <= MINUTE.seconds * 1.1
    assert ((await limit.reserve(setup.store, sent_from(second))).refused is not None) == is_shared
    failures = MINUTE.maximum
    while (begun := await limit.reserve(setup.store, sent_from(first))).refused != 1:
        failures += begun.refused is None
        setup.now += MINUTE.seconds / 2
    assert failures >= HOUR.maximum - is_shared


async def test_wrong_keys_from_all_networks_of_a_site_are_limited_together() -> None:
    setup, limit = Setup(), FAILED_KEYS
    refused = [
        (await limit.reserve(setup.store, sent_from(f"2001:db8:0:{number:x}::1"))).refused
        for number in range(20 * MINUTE.maximum + 1)
    ]
    assert refused == [None] * 20 * MINUTE.maximum + [2]
    assert (await limit.reserve(setup.store, sent_from("2001:db8:1::1"))).refused is None


async def test_parallel_wrong_keys_are_limited_before_they_are_compared() -> None:
    setup, limit = Setup(), FAILED_KEYS
    begun = [await limit.reserve(setup.store, sent_from("192.0.2.1")) for _ in range(50)]
    assert len([one for one in begun if one.refused is None]) == MINUTE.maximum
