"""Claude Code as a new user starts it, with the README's command and an empty home: a wrong setting is named."""

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from aiohttp import web

from tests.support.fakes.server import RequestLog, Running, new_application, serving
from tests.support.paths import ROOT
from tests.support.server_process import Proxy, reserve_closed_port, running_proxy
from tests.support.waiting import wait_for

README = ROOT / "README.md"


async def answer(request: web.Request, body: bytes, journal: RequestLog) -> web.Response:
    """Know the paths of OpenAI's API and no model."""
    exchange = journal.open(request, None)
    journal.close(exchange, "refused")
    if request.path not in ("/v1/chat/completions", "/v1/responses"):
        return web.json_response({"detail": "Not Found"}, status=404)
    error = {"message": "The model `gpt-9` does not exist.", "type": "invalid_request_error", "code": "model_not_found"}
    return web.json_response({"error": error}, status=404)


@pytest.fixture
def upstream() -> Iterator[Running]:
    with serving(new_application(answer, RequestLog())) as running:
        yield running


def send_hello(program: Path, url: str, home: Path, **more: str) -> str:
    """Run the README's command against an address. Return the text that the user reads."""
    (shown,) = re.findall(r"^(ANTHROPIC_BASE_URL=\S+) (ANTHROPIC_AUTH_TOKEN=\S+) claude$", README.read_text(), re.M)
    variables = dict(pair.split("=", 1) for pair in shown)
    assert variables == {"ANTHROPIC_BASE_URL": "http://127.0.0.1:8082", "ANTHROPIC_AUTH_TOKEN": "local"}
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1,localhost"}
    empty = home / "empty"
    empty.mkdir()
    done = subprocess.run(
        [str(program), "-p", "say hello"],
        cwd=empty,
        env={"PATH": os.environ["PATH"], "HOME": str(empty), **nowhere, **variables, "ANTHROPIC_BASE_URL": url, **more},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


def requests_of(proxy: Proxy) -> int:
    return proxy.log.count("POST /v1/messages ")


def test_the_readme_s_command_works_without_a_login(claude: Path, server: Path, work: Path) -> None:
    with running_proxy(server, {"OLLAMA_API_BASE": f"http://127.0.0.1:{reserve_closed_port()}"}) as proxy:
        text = send_hello(claude, proxy.url, work)
    assert text
    assert "login" not in text
    assert "API Error" not in text


def local(upstream: Running, **more: str) -> Mapping[str, str]:
    return {"PREFERRED_PROVIDER": "openai", "OPENAI_BASE_URL": f"{upstream.url}/v1", **more}


def test_a_model_that_a_setting_chose(claude: Path, server: Path, work: Path, upstream: Running) -> None:
    (server / ".env").write_text("# mine\nBIG_MODEL=gpt-9\n")
    with running_proxy(server, local(upstream)) as proxy:
        text = send_hello(claude, proxy.url, work)
    assert text == (
        "API Error: 400 openai: The model `gpt-9` does not exist. The model openai/gpt-9 is set by BIG_MODEL, "
        ".env line 2. Remedy: set BIG_MODEL=openai/<another model>"
    )


def test_an_address_without_its_version(claude: Path, server: Path, work: Path, upstream: Running) -> None:
    with running_proxy(server, local(upstream, OPENAI_BASE_URL=upstream.url, BIG_MODEL="openai/q")) as proxy:
        text = send_hello(claude, proxy.url, work)
    assert text == (
        f"API Error: 424 openai: nothing is served at {upstream.url}/chat/completions: HTTP 404 (Not Found). The "
        f"address is set by OPENAI_BASE_URL, environment. Is /v1 missing? Try OPENAI_BASE_URL={upstream.url}/v1"
    )


def test_a_missing_extra(claude: Path, server: Path, work: Path) -> None:
    settings = {"PREFERRED_PROVIDER": "litellm", "BIG_MODEL": "mistral/m", "SMALL_MODEL": "mistral/m"}
    with running_proxy(server, settings) as proxy:
        text = send_hello(claude, proxy.url, work)
        assert wait_for(lambda: requests_of(proxy)) == 1
    assert text.startswith(
        "API Error: 500 mistral/m needs the line [providers.mistral] in anthropic-proxy.toml and the key of Mistral in "
        "MISTRAL_API_KEY, or else LiteLLM, which is not installed. Install it:  anthropic-proxy add litellm"
    )


def test_an_address_of_ollama_where_something_else_answers(
    claude: Path, server: Path, work: Path, upstream: Running
) -> None:
    settings = {"PREFERRED_PROVIDER": "ollama", "OLLAMA_API_BASE": f"{upstream.url}/ollama"}
    with running_proxy(server, settings) as proxy:
        text = send_hello(claude, proxy.url, work)
    assert text == (
        f"API Error: 424 ollama: nothing is served at {upstream.url}/ollama/api/chat: HTTP 404 (Not Found). The "
        f"address is set by OLLAMA_API_BASE, environment. Is /ollama superfluous? Try OLLAMA_API_BASE={upstream.url}"
    )


def test_a_base_address_with_the_version_works(claude: Path, server: Path, work: Path) -> None:
    with running_proxy(server, {"OLLAMA_API_BASE": f"http://127.0.0.1:{reserve_closed_port()}"}) as proxy:
        text = send_hello(claude, f"{proxy.url}/v1", work)
    assert text
    assert "issue with the selected model" not in text


@pytest.mark.parametrize("variable", ["ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_API_KEY"])
def test_a_wrong_key_of_the_proxy(claude: Path, server: Path, work: Path, variable: str) -> None:
    with running_proxy(server, {"PROXY_API_KEY": "a-key-of-this-proxy-1234"}) as proxy:
        given = {"ANTHROPIC_AUTH_TOKEN": "", variable: "another-key-0123456789"}
        text = send_hello(claude, proxy.url, work, **given)
        assert wait_for(lambda: requests_of(proxy)) == 1
    assert text == ("Failed to authenticate. API Error: 401 The key is not one of this proxy's keys (PROXY_API_KEY).")


def test_a_local_server_that_is_down_is_reported_at_once(claude: Path, server: Path, work: Path) -> None:
    address = f"http://127.0.0.1:{reserve_closed_port()}/v1"
    settings = {"PREFERRED_PROVIDER": "openai", "OPENAI_BASE_URL": address, "BIG_MODEL": "openai/q"}
    with running_proxy(server, settings) as proxy:
        text = send_hello(claude, proxy.url, work)
        assert wait_for(lambda: requests_of(proxy)) == 1
    assert text.startswith(
        f"API Error: 502 openai: no server responds at {address.removesuffix('/v1')} (connection refused). "
        "The address is "
        "set by OPENAI_BASE_URL"
    )
