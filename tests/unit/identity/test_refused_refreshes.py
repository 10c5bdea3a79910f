"""What an error of the identity provider at a refresh means: for the device, the keys of the person, and the lists.

`invalid_grant` ends the access. Any other error of the token endpoint may be about the person or about everybody, so it
ends the access only if it lasts as long as an access token. Failures of the provider and errors about the client change
nothing.
"""

import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from anthropic_proxy.app import App
from anthropic_proxy.console import formats
from anthropic_proxy.console.doctor.identity import check_identity
from anthropic_proxy.console.doctor.run import open_backends
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.gateway.settings import load_settings
from tests.support.command_line import run_command
from tests.support.device_sign_in import list_settings, refresh, sign_in
from tests.support.fakes.oidc import FakeProvider
from tests.support.virtual_keys import Response, running_app, send
from tests.support.waiting import wait_for_async

ADMIN_KEY = "admin-0123456789"
HOUR = 3_600
REFUSED = "The identity provider refuses to renew the sign-in: {}. Sign in again."
NO_USER = 'invalid_request (There is no "user" for this token.)'
HELP = "Ask an administrator of the proxy for help."
REJECTED = f"The identity provider rejected the request for tokens: {{}}. {HELP}"
CANAILLE = {"error": "invalid_request", "error_description": 'There is no "user" for this token.'}
"""Answer of Canaille 0.3.6 to the refresh of a deleted account."""


class Person:
    """A signed-in person with a key of its own."""

    def __init__(self, app: App, database: Path, tokens: dict[str, Any]) -> None:
        self.app = app
        self.database = database
        self.tokens = tokens
        self.key = ""

    async def create_key(self) -> None:
        authorization = f"Bearer {self.tokens['access_token']}"
        created = await send(self.app, "POST", "/admin/keys", b'{"name": "laptop"}', authorization=authorization)
        assert created.status == 200, created.text
        self.key = created.json["key"]
        await self.wait_for_key(200)

    async def refresh(self) -> Response:
        return await refresh(self.app, self.tokens)

    async def wait_for_key(self, status: int) -> str:
        """Return the answer to a request with the key of the person, when it has this status."""
        body = b'{"model": "demo/demo", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}'
        answer = await wait_for_async(
            lambda: send(self.app, "POST", "/v1/messages", body, x_api_key=self.key),
            lambda answer: answer.status == status,
        )
        return answer.text

    async def read_sign_in(self) -> dict[str, Any]:
        (found,) = (await send(self.app, "GET", "/admin/sign-ins", x_api_key=ADMIN_KEY)).json["data"]
        read: dict[str, Any] = found
        return read

    async def read_actions(self) -> list[str]:
        entries = (await send(self.app, "GET", "/admin/audit", x_api_key=ADMIN_KEY)).json["data"]
        return [entry["action"] for entry in entries]

    async def let_an_hour_pass_since_the_refusal(self) -> None:
        with closing(sqlite3.connect(self.database)) as connection, connection:
            hour = HOUR * 1_000_000
            names = ("refused_at", "denied_at", "checked_at")
            earlier = f"UPDATE sign_ins SET {', '.join(f'{name} = {name} - ?' for name in names)}"
            connection.execute(earlier, [hour] * len(names))
        # a change of any key lets the server read sign-ins again
        await send(self.app, "POST", "/admin/keys", b'{"name": "other"}', x_api_key=ADMIN_KEY)


@asynccontextmanager
async def signed_in(provider: FakeProvider, directory: Path) -> AsyncIterator[Person]:
    settings = list_settings(provider, ADMIN_API_KEY=ADMIN_KEY, KEYS_PER_PERSON="2", LOG_LEVEL="warning")
    async with running_app(directory, **settings) as app:
        person = Person(app, directory / "anthropic-proxy" / "ledger.sqlite3", await sign_in(app))
        await person.create_key()
        yield person


async def examine(provider: FakeProvider, directory: Path) -> list[str]:
    """Return what the doctor says about the identity provider."""
    fixed = {"VIRTUAL_KEYS": "true", "XDG_DATA_HOME": str(directory)}
    settings = load_settings({**fixed, **list_settings(provider)}, PROVIDERS)
    async with open_backends(settings) as (services, _):
        return [*await check_identity(services)]


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ((400, CANAILLE), NO_USER),
        ((400, {"error": "invalid_scope", "error_description": "a\nb"}), "invalid_scope (a b)"),
        ((400, {"error": "interaction_required", "error_description": ["x"]}), "interaction_required"),
        ((403, {"error": "access_denied"}), "access_denied"),
        ((400, {"error": "user_disabled", "error_description": "x" * 500}), f"user_disabled ({'x' * 200})"),
        ((200, {"error": "bad_refresh_token"}), "bad_refresh_token"),
        ((200, {"error": "a\x1b[2J" + "c" * 300}), "a [2J" + "c" * 195),
        (401, ""),
        (403, ""),
    ],
)
async def test_an_error_that_may_be_about_the_person_is_said_and_marked(
    provider: FakeProvider, tmp_path: Path, failure: Any, words: str
) -> None:
    async with signed_in(provider, tmp_path) as person:
        text = REFUSED.format(words)
        if isinstance(failure, int):  # the refresh succeeds, and the user info is refused
            provider.user_info_status, provider.is_thin = failure, True
            text = f"The identity provider answered {provider.issuer}/userinfo with HTTP {failure}. {HELP}"
        else:
            provider.refresh_failure = failure
        answers = [await person.refresh() for _ in range(2)]
        waiting = {"error": "temporarily_unavailable", "error_description": text}
        assert [(answer.status, answer.json) for answer in answers] == [(503, waiting)] * 2
        marked = await person.read_sign_in()
        assert marked["refusal"] == text
        assert marked["created_at"] <= marked["refused_at"] < marked["ends_at"]
        assert (await person.read_actions()).count("refuse sign-in") == 1
        await person.wait_for_key(200)


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        ((401, {"error": "invalid_client"}), REJECTED.format("invalid_client")),
        ((400, {"error": "unauthorized_client"}), REJECTED.format("unauthorized_client")),
        ((400, {"error": "unsupported_grant_type"}), REJECTED.format("unsupported_grant_type")),
        ((401, {"error": "invalid_request"}), REJECTED.format("invalid_request")),
        ((400, {"error": "temporarily_unavailable"}), REJECTED.format("temporarily_unavailable")),
        *(((status, {"error": "invalid_grant"}), "HTTP {status}") for status in (408, 429, 500, 503)),
        *(((400, body), "HTTP {status}") for body in ({}, {"error": None}, {"error": {"code": "invalid_grant"}})),
        ((404, {}), "HTTP {status}"),
        ((200, {}), f"The identity provider has sent no token. {HELP}"),
        (500, ""),
    ],
)
async def test_a_failure_or_an_error_about_the_client_changes_nothing(
    provider: FakeProvider, tmp_path: Path, failure: Any, text: str
) -> None:
    if isinstance(failure, int):  # the provider replaces its refresh token, and the user info fails
        text = f"The identity provider answered {provider.issuer}/userinfo with HTTP {failure}. {HELP}"
    elif text.startswith("HTTP"):
        text = f"The identity provider answered {provider.issuer}/token with HTTP {failure[0]}. {HELP}"
    async with signed_in(provider, tmp_path) as person:
        before = await person.read_sign_in(), await person.read_actions()
        if isinstance(failure, int):
            provider.user_info_status, provider.is_thin = failure, True
        else:
            provider.refresh_failure = failure
        answer = await person.refresh()
        waiting = {"error": "temporarily_unavailable", "error_description": text}
        assert (answer.status, answer.json) == (503, waiting)
        assert (await person.read_sign_in(), await person.read_actions()) == before
        provider.refresh_failure, provider.user_info_status = None, 200
        assert (await person.refresh()).status == 200


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_a_refresh_token_without_access_ends_device_and_keys_at_once(
    provider: FakeProvider, tmp_path: Path, status: int
) -> None:
    async with signed_in(provider, tmp_path) as person:
        provider.refresh_failure = (status, {"error": "invalid_grant"})
        ended = await person.refresh()
        assert (ended.status, ended.json["error"]) == (400, "invalid_grant")
        await person.wait_for_key(401)


async def test_a_refusal_that_lasts_as_long_as_an_access_token_ends_the_access(
    provider: FakeProvider, tmp_path: Path
) -> None:
    async with signed_in(provider, tmp_path) as person:
        provider.refresh_failure = (400, CANAILLE)
        assert (await person.refresh()).status == 503
        await person.let_an_hour_pass_since_the_refusal()
        refused = await person.wait_for_key(401)
        assert re.search(
            "The key 'laptop' is rejected, because the access of its owner has ended at [^ ]*Z. The owner signs in "
            r"again from Claude Code\.",
            refused,
        )
        ended = await person.refresh()
        reason = f"The sign-in has ended. {REFUSED.format(NO_USER)}"
        assert (ended.status, ended.json) == (400, {"error": "invalid_grant", "error_description": reason})
        assert (await person.read_actions())[0] == "sign out"


async def test_a_refresh_that_succeeds_ends_the_refusal_and_gives_the_keys_back(
    provider: FakeProvider, tmp_path: Path
) -> None:
    async with signed_in(provider, tmp_path) as person:
        before = await person.read_sign_in()
        provider.refresh_failure = (400, CANAILLE)
        assert (await person.refresh()).status == 503
        await person.let_an_hour_pass_since_the_refusal()
        await person.wait_for_key(401)
        provider.refresh_failure = None
        assert (await person.refresh()).status == 200
        await person.wait_for_key(200)
        after = await person.read_sign_in()
        assert (after["refused_at"], after["refusal"], after["ends_at"]) == (None, "", before["ends_at"])
        assert (await person.read_actions())[0] == "change sign-in"


async def test_administrators_see_a_refusal_in_log_list_and_doctor(
    provider: FakeProvider, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with signed_in(provider, tmp_path) as person:
        provider.refresh_failure = (400, CANAILLE)
        for _ in range(2):
            assert (await person.refresh()).status == 503
        since = (await person.read_sign_in())["refused_at"]
    log = " ".join(capsys.readouterr().err.split())
    assert log.count(NO_USER) == 1, "each sign-in once"
    assert (
        f"The sign-in of ann@example.com ends in 60 minutes, unless a refresh succeeds. {REFUSED.format(NO_USER)}"
    ) in log
    at = formats.full_time(datetime.fromisoformat(since).timestamp() * 1e6)
    assert await examine(provider, tmp_path) == [
        f"The identity provider refuses to renew 1 of 1 sign-in, since {at}. The latest answer: "
        f"{REFUSED.format(NO_USER)} If the provider refuses many people, it may have changed what it requires of this "
        "client. List them:  anthropic-proxy keys sign-ins"
    ]
    listed = run_command("keys", "sign-ins", directory=tmp_path, settings={"XDG_DATA_HOME": str(tmp_path)})
    assert f"(provider refuses since {since})" in listed.stdout
