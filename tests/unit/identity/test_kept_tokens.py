"""The identity provider replaces its refresh token at each use. No failure loses the new one: the used one would end
the sign-in.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from anthropic_proxy.app import App
from anthropic_proxy.console.gateway_protocol.grants import Grants
from anthropic_proxy.console.keys.sign_ins import SignIn
from anthropic_proxy.gateway.http_calls import TIMEOUT_SECONDS
from tests.support.device_sign_in import list_settings, refresh, sign_in
from tests.support.fakes.oidc import FakeProvider
from tests.support.sign_in import open_grants
from tests.support.virtual_keys import Response, running_app
from tests.support.waiting import wait_for_async

PATIENCE_SECONDS = 10.0
"""Time after which Claude Code gives up a refresh."""
NOT_IN_TIME = (503, "The identity provider has not answered in time.")


class Device:
    """The device of a person."""

    def __init__(self, app: App, directory: Path, tokens: dict[str, Any]) -> None:
        self.app = app
        self.database = directory / "anthropic-proxy" / "ledger.sqlite3"
        self.tokens = tokens

    def open_grants(self, clock_ahead: float = 0.0) -> Grants:
        """Return the grants of another instance with the same database."""
        present = asyncio.get_running_loop().time
        start, now = present(), self.find_sign_in().created_at
        return open_grants(f"sqlite:///{self.database}", lambda: now + present() - start + clock_ahead)

    def find_sign_in(self) -> SignIn:
        found = open_grants(f"sqlite:///{self.database}").find_sign_in(self.tokens["refresh_token"])
        assert found is not None
        return found

    async def refresh(self) -> Response:
        return await refresh(self.app, self.tokens)

    async def refresh_until_known(self) -> Response:
        """Refresh until another answer comes than that of a failure that passes."""
        return await wait_for_async(self.refresh, lambda answer: answer.status != 503)


@asynccontextmanager
async def signed_in(provider: FakeProvider, directory: Path) -> AsyncIterator[Device]:
    async with running_app(directory, **list_settings(provider)) as app:
        yield Device(app, directory, await sign_in(app))


@asynccontextmanager
async def asked(provider: FakeProvider, device: Device) -> AsyncIterator["asyncio.Task[Response]"]:
    """Yield a refresh whose question has reached the provider, which answers at the end."""
    provider.may_refresh.clear()
    before = provider.refreshes
    refreshing = asyncio.create_task(device.refresh())
    await wait_for_async(lambda: provider.refreshes > before)
    yield refreshing
    provider.may_refresh.set()


def show(answer: Response) -> tuple[int, str]:
    return answer.status, answer.json.get("error_description", "")


async def test_a_failure_of_the_database_loses_no_token_of_the_provider(provider: FakeProvider, tmp_path: Path) -> None:
    async with signed_in(provider, tmp_path) as device:
        with closing(sqlite3.connect(device.database, isolation_level=None)) as other:
            async with asked(provider, device) as refreshing:
                other.execute("BEGIN IMMEDIATE")
            assert show(await refreshing) == NOT_IN_TIME
            assert show(await device.refresh()) == NOT_IN_TIME
            other.execute("ROLLBACK")
        assert [(await device.refresh_until_known()).status, (await device.refresh()).status] == [200, 200]
    assert provider.refreshes == 2


async def test_a_held_database_delays_no_answer_beyond_the_patience_of_a_client(
    provider: FakeProvider, tmp_path: Path
) -> None:
    """More people refresh than there are threads, each of which waits for the lock."""
    async with signed_in(provider, tmp_path) as device:
        devices = [await sign_in(device.app) for _ in range(12)]
        with closing(sqlite3.connect(device.database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            async with asyncio.timeout(PATIENCE_SECONDS):
                answers = await asyncio.gather(*(refresh(device.app, tokens) for tokens in devices))
            other.execute("ROLLBACK")
        assert {answer.status for answer in answers} == {503}
        assert (await device.refresh_until_known()).status == 200


async def test_a_stop_waits_for_the_answer_of_the_provider(provider: FakeProvider, tmp_path: Path) -> None:
    async with signed_in(provider, tmp_path) as device, asked(provider, device) as refreshing:
        asyncio.get_running_loop().call_soon(provider.may_refresh.set)
        await device.app.close()
    assert (await refreshing).status in (200, 503)
    async with running_app(tmp_path, **list_settings(provider)) as device.app:
        assert (await device.refresh_until_known()).status == 200


async def test_a_second_instance_waits_as_long_as_all_questions_may_last(
    provider: FakeProvider, tmp_path: Path
) -> None:
    async with signed_in(provider, tmp_path) as device:
        found = device.find_sign_in()
        async with asked(provider, device) as refreshing:
            assert not device.open_grants(6 * TIMEOUT_SECONDS).claim(found).is_own
        assert (await refreshing).status == 200
        assert device.open_grants().claim(device.find_sign_in()).is_own


async def test_a_token_that_another_instance_has_replaced_ends_no_sign_in(
    provider: FakeProvider, tmp_path: Path
) -> None:
    """Its claim was late, because the database was away for a long time."""
    async with signed_in(provider, tmp_path) as device:
        provider.refresh_failure = (400, {"error": "invalid_grant"})
        async with asked(provider, device) as refreshing:
            device.open_grants().keep_token(device.find_sign_in(), "token of the other instance")
        assert show(await refreshing) == (503, "Another instance has asked the identity provider.")
        assert show(await device.refresh()) == (
            400,
            "The sign-in has ended. The identity provider does not accept the refresh token: the person has no access "
            "any more, or has to sign in again.",
        )


async def test_each_failure_ends_the_claim(provider: FakeProvider, tmp_path: Path) -> None:
    async with signed_in(provider, tmp_path) as device:
        provider.is_thin = True
        provider.user_info_status = 500
        found = device.find_sign_in()
        assert (await device.refresh()).status == 503
        assert device.find_sign_in().provider_token != found.provider_token
        assert device.find_sign_in().claimed_until == 0
        with closing(sqlite3.connect(device.database)) as other, other:
            other.execute("ALTER TABLE people RENAME TO elsewhere")  # the facts about the person cannot be stored
        assert (await device.refresh()).status == 503
        with closing(sqlite3.connect(device.database)) as other, other:
            other.execute("ALTER TABLE elsewhere RENAME TO people")
        assert device.find_sign_in().claimed_until == 0
