"""Tokens for Vertex AI, from fakes of Google's token servers on loopback."""

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.credentials import Credentials
from anthropic_proxy.engine.upstream.cloud_credentials import (
    EXPIRY_MARGIN_SECONDS,
    FAILURE_SECONDS,
    MAX_ABANDONED_THREADS,
    MIN_RENEWAL_INTERVAL_SECONDS,
    RENEW_BEFORE_EXPIRY_SECONDS,
    GoogleCredentials,
    TokenCache,
)
from anthropic_proxy.errors import (
    AuthenticationFailed,
    MissingExtra,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from anthropic_proxy.gateway.settings import Settings
from tests.support.fakes.google_tokens import (
    PROJECT,
    TokenServers,
    new_token_servers,
    write_authorized_user,
    write_external_account,
    write_service_account,
)
from tests.support.fakes.server import Running, serving
from tests.support.messages import exactly
from tests.support.waiting import WAIT_SECONDS

pytestmark = pytest.mark.filterwarnings("ignore:.*load_credentials_from_file:DeprecationWarning")
VERTEX = PROVIDERS.find("vertex")
FILES = [write_service_account, write_authorized_user, write_external_account]


class Clock:
    def __init__(self) -> None:
        self.passed = 0.0

    def __call__(self) -> float:
        return time.time() + self.passed


@pytest.fixture
def servers() -> TokenServers:
    return TokenServers()


@pytest.fixture
def google(servers: TokenServers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    with serving(new_token_servers(servers)) as running:
        monkeypatch.setattr("google.oauth2.credentials._GOOGLE_OAUTH2_TOKEN_ENDPOINT", f"{running.url}/token")
        yield running
        servers.gate.set()
        assert running.journal.violations() == []


def tokens_of(path: Path, clock: Callable[[], float] = time.time, *, needs_project: bool = False) -> TokenCache:
    return TokenCache(GoogleCredentials(str(path), needs_project=needs_project, connect_timeout=5), clock=clock)


async def settled(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():  # noqa: ASYNC110  # other threads make it true
            await asyncio.sleep(0.005)
    await asyncio.sleep(0)  # a task that is done has not run its callbacks yet: they run in the same round of the loop


@pytest.mark.parametrize("write", FILES)
async def test_a_file_of_credentials_becomes_a_header(
    write: Callable[[Path, str], Path], servers: TokenServers, google: Running, tmp_path: Path
) -> None:
    credential, project = await tokens_of(write(tmp_path, google.url)).acquire_token()
    assert (credential.header, credential.value) == ("authorization", f"Bearer {servers.issued[0]}")
    assert credential.origin == "GOOGLE_APPLICATION_CREDENTIALS"
    assert credential.extra_headers == {}
    assert project == (PROJECT if write is write_service_account else None)
    assert servers.issued[0] not in repr(credential)


async def test_the_billed_project_is_sent_with_the_token(google: Running, tmp_path: Path) -> None:
    path = write_authorized_user(tmp_path, google.url, quota_project_id="who-pays")
    credential, _ = await tokens_of(path).acquire_token()
    assert credential.extra_headers == {"x-goog-user-project": "who-pays"}


async def test_a_token_is_renewed_before_its_end_and_nobody_waits(
    servers: TokenServers, google: Running, tmp_path: Path
) -> None:
    clock = Clock()
    tokens = tokens_of(write_service_account(tmp_path, google.url), clock)
    await tokens.acquire_token()
    clock.passed = servers.lifetime - RENEW_BEFORE_EXPIRY_SECONDS - 5
    await tokens.acquire_token()
    assert len(servers.issued) == 1
    clock.passed += 10
    servers.gate.clear()
    found = await asyncio.gather(*(tokens.acquire_token() for _ in range(50)))
    assert {one.value for one, _ in found} == {f"Bearer {servers.issued[0]}"}
    servers.gate.set()
    await settled(lambda: len(servers.issued) == 2)
    await settled(lambda: len(asyncio.all_tasks()) == 1)
    assert (await tokens.acquire_token())[0].value == f"Bearer {servers.issued[1]}"
    assert len(google.journal.exchanges) == 2


async def test_a_token_at_its_end_is_waited_for_once(servers: TokenServers, google: Running, tmp_path: Path) -> None:
    clock = Clock()
    tokens = tokens_of(write_service_account(tmp_path, google.url), clock)
    await tokens.acquire_token()
    clock.passed = servers.lifetime - EXPIRY_MARGIN_SECONDS + 1
    found = await asyncio.gather(*(tokens.acquire_token() for _ in range(50)))
    assert {one.value for one, _ in found} == {f"Bearer {servers.issued[1]}"}
    assert len(servers.issued) == 2


async def test_a_slow_token_server_holds_up_nobody_else(servers: TokenServers, google: Running, tmp_path: Path) -> None:
    servers.gate.clear()
    tokens = tokens_of(write_service_account(tmp_path, google.url))
    waiting, leaving = asyncio.create_task(tokens.acquire_token()), asyncio.create_task(tokens.acquire_token())
    await settled(servers.waiting.is_set)  # a loop that stood still could not come here and open the gate
    leaving.cancel()
    await asyncio.wait([leaving])
    servers.gate.set()
    assert (await waiting)[0].value == f"Bearer {servers.issued[0]}"
    assert len(google.journal.exchanges) == 1


async def test_a_renewal_that_hangs_fails_only_those_who_wait_for_it(
    servers: TokenServers, google: Running, tmp_path: Path
) -> None:
    path = write_service_account(tmp_path, google.url)
    tokens = TokenCache(GoogleCredentials(str(path), needs_project=False, connect_timeout=5), seconds=2)
    servers.gate.clear()
    leaving = asyncio.create_task(tokens.acquire_token())
    await settled(servers.waiting.is_set)
    leaving.cancel()  # the first caller decides nothing for later callers
    failures = await asyncio.gather(*(tokens.acquire_token() for _ in range(3)), return_exceptions=True)
    expected_message = "no access token: its server did not answer within 2 s (GOOGLE_APPLICATION_CREDENTIALS)"
    assert [(type(error), getattr(error, "message", "")) for error in failures] == [
        (UpstreamTimeout, expected_message)
    ] * 3
    servers.gate.set()  # for all later callers; the thread that hangs gets its answer too, which is discarded
    assert (await tokens.acquire_token())[0].value in {f"Bearer {token}" for token in servers.issued}
    assert len(google.journal.exchanges) == 2


async def test_threads_that_hang_do_not_pile_up(servers: TokenServers, google: Running, tmp_path: Path) -> None:
    path = write_service_account(tmp_path, google.url)
    tokens = TokenCache(GoogleCredentials(str(path), needs_project=False, connect_timeout=5), seconds=0.02)
    servers.gate.clear()
    for _ in range(MAX_ABANDONED_THREADS):
        with pytest.raises(UpstreamTimeout):
            await tokens.acquire_token()
    with pytest.raises(UpstreamTimeout) as caught:
        await tokens.acquire_token()
    origin = "GOOGLE_APPLICATION_CREDENTIALS"
    assert caught.value.message == f"no access token: 16 earlier requests for one still hang ({origin})"
    servers.gate.set()
    await settled(lambda: not any(thread.name == "google-auth" for thread in threading.enumerate()))
    tokens = TokenCache(GoogleCredentials(str(path), needs_project=False, connect_timeout=5))
    assert (await tokens.acquire_token())[0].value in {f"Bearer {token}" for token in servers.issued}


async def test_a_renewal_that_fails_leaves_the_token_that_still_holds(
    servers: TokenServers, google: Running, tmp_path: Path
) -> None:
    clock = Clock()
    tokens = tokens_of(write_authorized_user(tmp_path, google.url), clock)
    await tokens.acquire_token()
    clock.passed = servers.lifetime - RENEW_BEFORE_EXPIRY_SECONDS + 5
    servers.failure = (400, {"error": "invalid_grant"})
    for _ in range(5):
        assert (await tokens.acquire_token())[0].value == f"Bearer {servers.issued[0]}"
        await settled(lambda: len(asyncio.all_tasks()) == 1)
    assert len(google.journal.exchanges) == 3  # the second renewal has read the file again
    servers.failure = None
    clock.passed += MIN_RENEWAL_INTERVAL_SECONDS
    await tokens.acquire_token()
    await settled(lambda: len(servers.issued) == 2)


async def test_a_file_that_was_replaced_after_a_failed_renewal_is_read(
    servers: TokenServers, google: Running, tmp_path: Path
) -> None:
    clock = Clock()
    tokens = tokens_of(write_authorized_user(tmp_path, google.url), clock)
    await tokens.acquire_token()
    clock.passed = servers.lifetime
    servers.failure = (400, {"error": "invalid_grant", "error_description": "Token has been expired or revoked."})
    for _ in range(2):
        with pytest.raises(AuthenticationFailed, match="invalid_grant"):
            await tokens.acquire_token()
    servers.failure = None
    write_service_account(tmp_path, google.url)
    clock.passed += FAILURE_SECONDS
    assert (await tokens.acquire_token())[1] == PROJECT


async def test_a_file_that_was_replaced_before_the_token_ends_is_read_at_once(
    servers: TokenServers, google: Running, tmp_path: Path
) -> None:
    clock = Clock()
    tokens = tokens_of(write_authorized_user(tmp_path, google.url, refresh_token="1//the-old-one"), clock)
    servers.refresh_tokens = {"1//the-old-one"}
    await tokens.acquire_token()
    clock.passed = servers.lifetime
    servers.refresh_tokens = {"1//the-new-one"}
    write_authorized_user(tmp_path, google.url, refresh_token="1//the-new-one")
    assert (await tokens.acquire_token())[0].value == f"Bearer {servers.issued[1]}"
    google.journal.exchanges[1].breaches.clear()  # the old one was tried


async def test_a_refused_token_is_renewed_once(servers: TokenServers, google: Running, tmp_path: Path) -> None:
    clock = Clock()
    tokens = tokens_of(write_service_account(tmp_path, google.url), clock)
    pool = Credentials(Settings(vertex_project="p"), {"google": tokens})
    refused = UpstreamError("no", status=401)
    first, _ = await pool.next_token_and_url(VERTEX, "http://x")
    assert not pool.exclude_failed_key(VERTEX, first, UpstreamError("no", status=403))
    assert pool.exclude_failed_key(VERTEX, first, refused)
    second, _ = await pool.next_token_and_url(VERTEX, "http://x")
    assert second.value != first.value
    assert pool.exclude_failed_key(VERTEX, first, refused)  # another request that still had the first one
    assert not pool.exclude_failed_key(VERTEX, second, refused)
    assert (await pool.next_token_and_url(VERTEX, "http://x"))[0] == second
    clock.passed += MIN_RENEWAL_INTERVAL_SECONDS
    assert pool.exclude_failed_key(VERTEX, second, refused)
    assert len(servers.issued) == 2


@pytest.mark.parametrize(("setting", "project"), [("mine", "mine"), (None, PROJECT)])
async def test_the_project_is_the_setting_s_else_the_credentials_own(
    setting: str | None, project: str, google: Running, tmp_path: Path
) -> None:
    tokens = tokens_of(write_service_account(tmp_path, google.url), needs_project=setting is None)
    pool = Credentials(Settings(vertex_project=setting), {"google": tokens})
    _, address = await pool.next_token_and_url(VERTEX, f"http://x/projects/{setting or '{project}'}/locations/eu")
    assert address == f"http://x/projects/{project}/locations/eu"


async def test_without_a_project_the_variable_is_named(google: Running, tmp_path: Path) -> None:
    tokens = tokens_of(write_authorized_user(tmp_path, google.url), needs_project=True)
    with pytest.raises(
        AuthenticationFailed,
        match=exactly(
            "vertex_ai has no project: VERTEX_PROJECT is not set, and the credentials "
            "(GOOGLE_APPLICATION_CREDENTIALS) name none. Set it in .env and reload the proxy, or in the environment "
            "and start it again."
        ),
    ) as caught:
        await Credentials(Settings(), {"google": tokens}).next_token_and_url(VERTEX, "http://x/projects/{project}")
    assert caught.value.should_retry is False


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "no such file"),
        ("{", "not a valid json file"),
        ("[]", "has no access token: the credentials, or an answer of their server, have an unexpected form. "),
        (
            '{"type": "impersonated_service_account"}',
            "has no access token: the credentials, or an answer of their server, have an unexpected form. ",
        ),
        ('{"type": "service_account"}', "service account"),
        ('{"type": "what"}', "valid type"),
    ],
)
async def test_a_file_without_credentials_is_a_401_that_names_the_setting(
    content: str | None, named: str, tmp_path: Path
) -> None:
    path = tmp_path / "credentials.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(AuthenticationFailed, match="GOOGLE_APPLICATION_CREDENTIALS") as caught:
        await tokens_of(path).acquire_token()
    assert named in caught.value.message
    assert caught.value.should_retry is False


async def test_credentials_that_are_refused_are_a_401(servers: TokenServers, google: Running, tmp_path: Path) -> None:
    path = write_authorized_user(tmp_path, google.url)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"refresh_token": "1//another-secret"}))
    with pytest.raises(
        AuthenticationFailed,
        match=exactly(
            "has no access token: invalid_grant: Token has been expired or revoked. "
            "The credentials come from GOOGLE_APPLICATION_CREDENTIALS. "
            "Set GOOGLE_APPLICATION_CREDENTIALS, or log in with: gcloud auth application-default login"
        ),
    ) as caught:
        await tokens_of(path).acquire_token()
    assert "1//another-secret" not in caught.value.message
    google.journal.exchanges.clear()


async def test_a_token_server_that_fails_is_worth_another_try(
    servers: TokenServers, google: Running, tmp_path: Path
) -> None:
    tokens = tokens_of(write_service_account(tmp_path, google.url))
    servers.failure = (503, {"error": "server_error"})
    with pytest.raises(UpstreamUnreachable) as caught:
        await tokens.acquire_token()
    assert caught.value.retryable
    servers.failure = None
    assert (await tokens.acquire_token())[0].value == f"Bearer {servers.issued[0]}"


@pytest.mark.parametrize("answer", [{}, [1], "text", {"access_token": "t", "expires_in": 10**18}])
async def test_a_token_server_that_answers_something_else_is_worth_another_try(
    answer: Any, servers: TokenServers, google: Running, tmp_path: Path
) -> None:
    tokens = tokens_of(write_service_account(tmp_path, google.url))
    servers.failure = (200, answer)
    with pytest.raises(UpstreamUnreachable) as caught:
        await tokens.acquire_token()
    assert caught.value.message == (
        "no access token: 127.0.0.1 answered without a token. (GOOGLE_APPLICATION_CREDENTIALS)"
    )
    servers.failure = None
    assert (await tokens.acquire_token())[0].value == f"Bearer {servers.issued[0]}"


async def test_a_token_server_that_closes_the_connection_is_named_without_exceptions(tmp_path: Path) -> None:
    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)
        writer.close()

    async with await asyncio.start_server(close, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(UpstreamUnreachable) as caught:
            await tokens_of(write_service_account(tmp_path, f"http://127.0.0.1:{port}")).acquire_token()
    assert caught.value.message == (
        f"no access token: http://127.0.0.1:{port} closed the connection without an answer. "
        "(GOOGLE_APPLICATION_CREDENTIALS)"
    )


async def test_without_the_extra_the_error_names_the_install_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hidden: Any = None
    monkeypatch.setitem(sys.modules, "google.auth.transport", hidden)
    monkeypatch.setitem(sys.modules, "google.auth.transport.requests", hidden)
    with pytest.raises(MissingExtra) as caught:
        await tokens_of(tmp_path / "credentials.json").acquire_token()
    assert (caught.value.status, caught.value.error_type, caught.value.should_retry) == (500, "api_error", False)
    assert caught.value.message == (
        "A token of Google Cloud needs google-auth, which is not installed. Install it:  anthropic-proxy add vertex"
    )


def test_nothing_of_it_is_loaded_before_a_request_needs_it() -> None:
    code = "import sys, anthropic_proxy.app; print([m for m in sys.modules if m.startswith(('google', 'requests'))])"
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert completed.stdout.strip() == "[]"
