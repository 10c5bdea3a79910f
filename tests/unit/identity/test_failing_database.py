"""A database that fails for a moment refuses nothing for good: each request of a sign-in, sent again, then succeeds."""

import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from anthropic_proxy.app import App
from tests.support.browser import Browser
from tests.support.device_sign_in import URL, list_settings, post, refresh, sign_in
from tests.support.fakes.oidc import FakeProvider, ask_provider
from tests.support.sign_in import DEVICE_GRANT
from tests.support.virtual_keys import Response, running_app, send

Request = Callable[[App], Awaitable[Response]]
DATABASE = "The database of the proxy is not available. Load this page again in a moment."
UNAVAILABLE = {"error": "temporarily_unavailable", "error_description": "Try again in a moment."}
TABLES = ("device_codes", "sign_ins", "virtual_keys", "people")
MAX_WRONG_CODES = 300


def lose_tables(database: sqlite3.Connection) -> Callable[[], object]:
    """Each query fails, after a transaction has begun."""
    for table in TABLES:
        database.execute(f"ALTER TABLE {table} RENAME TO lost_{table}")
    return lambda: [database.execute(f"ALTER TABLE lost_{table} RENAME TO {table}") for table in TABLES]


def migrate(database: sqlite3.Connection) -> Callable[[], object]:
    """Each connection for writing fails."""
    ((version,),) = database.execute("SELECT version_num FROM alembic_version").fetchall()
    database.execute("UPDATE alembic_version SET version_num = 'newer'")
    return lambda: database.execute("UPDATE alembic_version SET version_num = ?", (version,))


FAILURES = {"tables are missing": lose_tables, "newer schema": migrate}


@contextmanager
def failing(directory: Path, fail: Callable[[sqlite3.Connection], Callable[[], object]]) -> Iterator[None]:
    with closing(sqlite3.connect(directory / "anthropic-proxy" / "ledger.sqlite3", isolation_level=None)) as database:
        repair = fail(database)
        yield
        repair()


@asynccontextmanager
async def running(provider: FakeProvider, directory: Path) -> AsyncIterator[App]:
    async with running_app(directory, **list_settings(provider)) as app:
        yield app


async def begin(app: App) -> dict[str, Any]:
    begun = await post(app, "/oauth/device_authorization", {"surface": "claude_code"})
    assert begun.status == 200
    answer: dict[str, Any] = begun.json
    return answer


async def prepare_authorization(app: App) -> Request:
    return lambda app: post(app, "/oauth/device_authorization", {"surface": "claude_code"})


async def prepare_poll(app: App) -> Request:
    code = (await begin(app))["device_code"]
    return lambda app: post(app, "/oauth/token", {"grant_type": DEVICE_GRANT, "device_code": code})


async def prepare_page(app: App) -> Request:
    code = (await begin(app))["user_code"]
    return lambda app: send(app, "GET", f"/device?user_code={code}")


async def prepare_confirmation(app: App) -> Request:
    form = {"user_code": (await begin(app))["user_code"], "action": "confirm"}
    return lambda app: post(app, "/device", form, sec_fetch_site="same-origin")


async def prepare_denial(app: App) -> Request:
    form = {"user_code": (await begin(app))["user_code"], "action": "deny"}
    return lambda app: post(app, "/device", form, sec_fetch_site="same-origin")


async def prepare_return(app: App) -> Request:
    browser = Browser({URL: app})
    sent = await browser.post(f"{URL}/device", user_code=(await begin(app))["user_code"], action="confirm")
    return load(browser, ask_provider(sent.headers["location"]))


async def prepare_approval(app: App) -> Request:
    browser = Browser({URL: app})
    sent = await browser.post(f"{URL}/device", user_code=(await begin(app))["user_code"], action="confirm")
    page = await browser.follow(URL, sent)
    form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page.text))
    return lambda app: browser.post(f"{URL}/device", **form, action="approve")


async def prepare_refresh(app: App) -> Request:
    tokens = await sign_in(app)
    return lambda app: refresh(app, tokens)


async def prepare_revocation(app: App) -> Request:
    tokens = await sign_in(app)
    return lambda app: post(app, "/oauth/revoke", {"token": tokens["refresh_token"]})


async def prepare_dashboard(app: App) -> Request:
    browser = Browser({URL: app})
    begun = await browser.get(f"{URL}/dashboard/oidc/start?next=/dashboard")
    return load(browser, ask_provider(begun.headers["location"]))


def load(browser: Browser, url: str) -> Request:
    """Load a page in this browser, from whichever instance answers."""

    async def get(app: App) -> Response:
        browser.apps = {URL: app}
        return await browser.get(url)

    return get


REQUESTS: dict[str, tuple[Callable[[App], Awaitable[Request]], int, object, int]] = {
    "device authorization": (prepare_authorization, 503, UNAVAILABLE, 200),
    "poll": (prepare_poll, 429, {"error": "slow_down"}, 429),  # four seconds have not passed
    "page of a code": (prepare_page, 503, DATABASE, 200),
    "confirmation": (prepare_confirmation, 503, DATABASE, 303),
    "denial": (prepare_denial, 503, DATABASE, 200),
    "return of a device": (prepare_return, 503, DATABASE, 200),
    "approval": (prepare_approval, 503, DATABASE, 200),
    "refresh": (prepare_refresh, 503, UNAVAILABLE, 200),
    "revocation": (prepare_revocation, 503, UNAVAILABLE, 200),
    "return to the dashboard": (prepare_dashboard, 503, DATABASE, 200),
}


def read(answer: Response) -> object:
    """Return the error of an answer, or the problem that a page shows."""
    if answer.headers["content-type"] == "application/json":
        return answer.json
    found = re.search(r'role="alert">(?:<span[^>]*>[^<]*</span> )?([^<]*)</p>', answer.text)
    return found and found[1]


@pytest.mark.parametrize("fail", FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize(("prepare", "status", "shown", "later"), REQUESTS.values(), ids=REQUESTS)
async def test_a_request_that_is_sent_again_succeeds(
    provider: FakeProvider,
    tmp_path: Path,
    fail: Callable[[sqlite3.Connection], Callable[[], object]],
    prepare: Callable[[App], Awaitable[Request]],
    status: int,
    shown: object,
    later: int,
) -> None:
    async with running(provider, tmp_path) as app:
        request = await prepare(app)
        with failing(tmp_path, fail):
            for _ in range(2):
                answer = await request(app)
                assert (answer.status, read(answer)) == (status, shown)
        answer = await request(app)
        assert answer.status == later, answer.text


@pytest.mark.parametrize("prepare", [prepare_return, prepare_dashboard])
async def test_another_instance_answers_the_response_of_the_provider(
    provider: FakeProvider, tmp_path: Path, prepare: Callable[[App], Awaitable[Request]]
) -> None:
    async with running(provider, tmp_path) as one, running(provider, tmp_path) as other:
        request = await prepare(one)
        with failing(tmp_path, migrate):
            assert (await request(one)).status == 503
        assert (await request(other)).status == 200


async def test_codes_that_cannot_be_looked_up_are_not_wrong(provider: FakeProvider, tmp_path: Path) -> None:
    async with running(provider, tmp_path) as app:
        request = await prepare_page(app)
        with failing(tmp_path, migrate):
            assert {(await request(app)).status for _ in range(MAX_WRONG_CODES + 1)} == {503}
        assert (await request(app)).status == 200
