"""Vertex AI with the settings of users: the sources of credentials and project, and their failures."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2 as httpx
import pytest

from tests.support.fakes.gemini.server import KEY, PROJECT, new_gemini
from tests.support.fakes.google_tokens import PROJECT as PROJECT_OF_CREDENTIALS
from tests.support.fakes.google_tokens import (
    TokenServers,
    new_token_servers,
    write_authorized_user,
    write_external_account,
    write_service_account,
)
from tests.support.fakes.server import Running, serving
from tests.support.server_process import Proxy, running_proxy
from tests.support.waiting import WAIT_SECONDS, wait_for

PLACE = f"/v1/projects/{PROJECT}/locations/us-central1/publishers/google/models/gemini-3.6-flash:generateContent"


class Cloud(NamedTuple):
    """Google's cloud on loopback."""

    servers: TokenServers
    tokens: Running
    vertex: Running

    @property
    def settings(self) -> dict[str, str]:
        return {
            "PREFERRED_PROVIDER": "vertex",
            "VERTEX_BASE_URL": self.vertex.url,
            "VERTEX_PROJECT": PROJECT,
            "BIG_MODEL": "gemini-3.6-flash",
        }


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    servers = TokenServers()
    with serving(new_gemini(accepts_token=servers.accepts)) as vertex, serving(new_token_servers(servers)) as tokens:
        yield Cloud(servers, tokens, vertex)
        assert vertex.journal.violations() == []
        assert tokens.journal.violations() == []


@contextmanager
def proxy_with(directory: Path, settings: dict[str, str]) -> Iterator[Proxy]:
    with running_proxy(directory, settings) as proxy:
        yield proxy
        assert "Traceback" not in proxy.log
        for secret in ("ya29.", "PRIVATE KEY", "1//fake-refresh-token", "GOCSPX"):
            assert secret not in proxy.log


def ask(proxy: Proxy, text: str = "Say exactly: x", **fields: Any) -> httpx.Response:
    body = {
        "model": "claude-sonnet-4-6",
        "max_tokens": 20_000,
        "messages": [{"role": "user", "content": text}],
        **fields,
    }
    return proxy.client().post("/v1/messages", json=body)


def reply_text(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["content"][-1]["text"])


def refused(answer: httpx.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["type"], error["message"]


@pytest.mark.parametrize("write", [write_service_account, write_external_account])
def test_a_file_of_credentials_opens_vertex(write: Any, cloud: Cloud, tmp_path: Path) -> None:
    settings = {**cloud.settings, "GOOGLE_APPLICATION_CREDENTIALS": str(write(tmp_path, cloud.tokens.url))}
    with proxy_with(tmp_path, settings) as proxy:
        assert reply_text(ask(proxy)) == "x"
        assert reply_text(ask(proxy)) == "x"
        wait_for(lambda: "ready: vertex (fake-project)" in proxy.log)
    assert [exchange.path for exchange in cloud.vertex.journal.exchanges] == [PLACE, PLACE]
    assert len(cloud.servers.issued) == 1


def test_a_file_named_in_the_env_file_is_found(cloud: Cloud, tmp_path: Path) -> None:
    file = write_service_account(tmp_path, cloud.tokens.url)
    (tmp_path / ".env").write_text(f'GOOGLE_APPLICATION_CREDENTIALS="{file}"\nVERTEX_LOCATION=global\n')
    with proxy_with(tmp_path, cloud.settings) as proxy:
        assert reply_text(ask(proxy)) == "x"
    assert cloud.vertex.journal.exchanges[0].path == PLACE.replace("us-central1", "global")


def test_the_metadata_server_gives_tokens_and_the_project(cloud: Cloud, tmp_path: Path) -> None:
    settings = {**cloud.settings, "GCE_METADATA_HOST": cloud.tokens.url.removeprefix("http://")}
    settings |= {"GCE_METADATA_IP": settings["GCE_METADATA_HOST"]}
    del settings["VERTEX_PROJECT"]
    with proxy_with(tmp_path, settings) as proxy:
        status, kind, message = refused(ask(proxy))
    assert (status, kind) == (424, "invalid_request_error")
    assert f"projects/{PROJECT_OF_CREDENTIALS}/locations/us-central1" in message
    assert cloud.servers.issued


def test_keys_of_google_are_not_used_where_vertex_is_asked_for(cloud: Cloud, tmp_path: Path) -> None:
    settings = {
        **cloud.settings,
        "PREFERRED_PROVIDER": "google",
        "USE_VERTEX_AUTH": "true",
        "GEMINI_API_KEY": KEY,
        "GEMINI_BASE_URL": cloud.vertex.url,
        "GOOGLE_APPLICATION_CREDENTIALS": str(write_service_account(tmp_path, cloud.tokens.url)),
    }
    with proxy_with(tmp_path, settings) as proxy:
        assert reply_text(ask(proxy)) == "x"
        assert reply_text(ask(proxy, model="gemini/gemini-3.6-flash")) == "x"
    assert [exchange.path for exchange in cloud.vertex.journal.exchanges] == [PLACE, PLACE]


def test_many_requests_at_once_wait_for_one_token(cloud: Cloud, tmp_path: Path) -> None:
    settings = {
        **cloud.settings,
        "GOOGLE_APPLICATION_CREDENTIALS": str(write_service_account(tmp_path, cloud.tokens.url)),
    }
    cloud.servers.gate.clear()
    with proxy_with(tmp_path, settings) as proxy, ThreadPoolExecutor(8) as crowd:
        answers = [crowd.submit(ask, proxy) for _ in range(8)]
        assert cloud.servers.waiting.wait(WAIT_SECONDS)
        assert proxy.client().get("/health").status_code == 200  # a loop that stood still would not answer
        cloud.servers.gate.set()
        assert [reply_text(answer.result()) for answer in answers] == ["x"] * 8
    assert len(cloud.servers.issued) == 1


def test_a_token_server_that_hangs_once_fails_one_request(cloud: Cloud, tmp_path: Path) -> None:
    settings = {
        **cloud.settings,
        "GOOGLE_APPLICATION_CREDENTIALS": str(write_service_account(tmp_path, cloud.tokens.url)),
        "UPSTREAM_FIRST_BYTE_TIMEOUT": "5",
    }
    cloud.servers.gate.clear()
    with proxy_with(tmp_path, settings) as proxy:
        status, kind, message = refused(ask(proxy))
        cloud.servers.gate.set()
        assert reply_text(ask(proxy)) == "x"
    assert (status, kind) == (504, "timeout_error")
    origin = "GOOGLE_APPLICATION_CREDENTIALS"
    assert message == f"vertex_ai: no access token: its server did not answer within 5 s ({origin})"


def test_a_token_that_is_refused_is_renewed_once(cloud: Cloud, tmp_path: Path) -> None:
    settings = {
        **cloud.settings,
        "GOOGLE_APPLICATION_CREDENTIALS": str(write_service_account(tmp_path, cloud.tokens.url)),
    }
    with proxy_with(tmp_path, settings) as proxy:
        assert reply_text(ask(proxy)) == "x"
        cloud.servers.revoked.add(cloud.servers.issued[0])
        assert reply_text(ask(proxy, stream=False)) == "x"
        assert len(cloud.servers.issued) == 2
        cloud.servers.revoked.add(cloud.servers.issued[1])
        status, kind, message = refused(ask(proxy))
    assert (status, kind) == (424, "invalid_request_error")
    assert "GOOGLE_APPLICATION_CREDENTIALS" in message
    assert len(cloud.servers.issued) == 2


def test_rejected_credentials_are_reported(cloud: Cloud, tmp_path: Path) -> None:
    file = write_service_account(tmp_path, cloud.tokens.url)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"client_email": "else@where.example"}))
    with proxy_with(tmp_path, {**cloud.settings, "GOOGLE_APPLICATION_CREDENTIALS": str(file)}) as proxy:
        answer = ask(proxy)
        assert refused(answer)[:2] == (424, "invalid_request_error")
        assert "GOOGLE_APPLICATION_CREDENTIALS" in refused(answer)[2]
        assert answer.headers["x-should-retry"] == "false"
    cloud.tokens.journal.exchanges.clear()


def test_without_credentials_the_error_names_the_remedy(cloud: Cloud, tmp_path: Path) -> None:
    with proxy_with(tmp_path, {**cloud.settings, "NO_GCE_CHECK": "true"}) as proxy:
        answer = ask(proxy)
        assert refused(answer)[:2] == (424, "invalid_request_error")
        assert "gcloud auth application-default login" in refused(answer)[2]
        assert answer.headers["x-should-retry"] == "false"


def test_without_a_project_the_error_names_the_variable(cloud: Cloud, tmp_path: Path) -> None:
    settings = {
        **cloud.settings,
        "GOOGLE_APPLICATION_CREDENTIALS": str(write_service_account(tmp_path, cloud.tokens.url)),
    }
    del settings["VERTEX_PROJECT"]
    file = Path(settings["GOOGLE_APPLICATION_CREDENTIALS"])
    file.write_text(
        json.dumps({name: value for name, value in json.loads(file.read_text()).items() if name != "project_id"})
    )
    with proxy_with(tmp_path, settings) as proxy:
        status, kind, message = refused(ask(proxy))
    assert (status, kind) == (424, "invalid_request_error")
    assert "VERTEX_PROJECT is not set" in message


def test_a_person_s_log_in_is_read_and_not_sent_elsewhere(cloud: Cloud, tmp_path: Path) -> None:
    """google-auth asks Google's own server about it, which is out of reach here: the error names it, no secrets."""
    file = write_authorized_user(tmp_path, cloud.tokens.url)
    closed = {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
    with proxy_with(tmp_path, {**cloud.settings, **closed, "GOOGLE_APPLICATION_CREDENTIALS": str(file)}) as proxy:
        status, kind, message = refused(ask(proxy))
    assert (status, kind) == (502, "api_error")
    assert "no access token" in message
    assert "1//fake-refresh-token" not in message
    assert cloud.tokens.journal.exchanges == []
