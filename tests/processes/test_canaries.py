"""Keys are never disclosed: neither by a provider's echo, nor by a client, a wrong setting, or a crash of ours."""

import base64
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from aiohttp import web

from anthropic_proxy.engine.wires.upstream_http import Credential
from anthropic_proxy.gateway.settings.fields import Secret
from tests.support.command_line import run_command
from tests.support.fakes.server import RequestLog, Running, new_application, serving
from tests.support.process_checks import MESSAGES, ask
from tests.support.secret_canaries import find_leaks, new_canary, secrets_in
from tests.support.server_process import Proxy, running_proxy
from tests.support.waiting import wait_for

HOSTILE = "claude\r\nx-evil: 1\x1b[2J\u2028\u202e\x00\x9b31m"
RAW = set("\r\x1b\u2028\u2029\u202e\x00\x9b")
FORMS = ({"LOG_FORMAT": "plain", "LOG_LEVEL": "debug"}, {"LOG_FORMAT": "json", "LOG_LEVEL": "debug"}, {})


def _echo(key: str, how: str) -> web.Response:
    """Answer as a provider does that discloses the key."""
    body_text = {
        "error": json.dumps({"error": {"message": f"Incorrect API key provided: {key}.", "code": "invalid_api_key"}}),
        "page": f"<html><body>denied for {key} ({quote(key)})</body></html>",
        "base64": json.dumps({"error": {"message": "basic " + base64.b64encode(f":{key}".encode()).decode()}}),
        "deep": json.dumps({"error": {"message": "no", "type": key, "param": key, "code": key, "details": [key]}}),
        "redirect": "",
        "header": json.dumps({"error": {"message": "slow down"}}),
        "lines": json.dumps({"error": {"message": f"{HOSTILE} {key}\r\nPOST /v1/messages 200", "param": HOSTILE}}),
    }[how]
    status = {"redirect": 307, "header": 429, "page": 502}.get(how, 401)
    headers = {"location": f"https://elsewhere.example/{key}?key={key}"} if how == "redirect" else {}
    if how == "header":
        headers = {"retry-after": key, "x-request-id": key, "server": key, "anthropic-ratelimit-key": key}
    kind = "text/html" if how == "page" else "application/json"
    return web.Response(status=status, text=body_text, headers=headers, content_type=kind)


DISCLOSURES = ("error", "page", "base64", "deep", "redirect", "header", "lines")


@pytest.fixture(scope="module")
def echoing() -> Iterator[Running]:
    """Yield a provider of every wire that answers each request with the key that came with it."""

    async def answer(request: web.Request, raw: bytes, _: RequestLog) -> web.Response:
        given = (request.headers.get(name) for name in ("authorization", "x-api-key", "x-goog-api-key"))
        key = next((value for value in given if value), "none")
        how = next((disclosure for disclosure in DISCLOSURES if f"how={disclosure}" in raw.decode()), "error")
        return _echo(key.removeprefix("Bearer "), how)

    with serving(new_application(answer, RequestLog())) as running:
        yield running


MODELS = ("openai/gpt-4.1", "xai/grok-4", "gemini/gemini-3-pro", "ollama/qwen3", "anthropic/claude-sonnet-4-5")


def settings_for(url: str) -> dict[str, str]:
    """One provider for each wire, all of them the echoing one."""
    return {
        "PREFERRED_PROVIDER": "openai",
        "OPENAI_API_KEY": f"{new_canary('sk-')},{new_canary('plain-')}",
        "OPENAI_BASE_URL": f"{url}/v1",
        "XAI_API_KEY": new_canary("xai-"),
        "XAI_BASE_URL": f"{url}/v1",
        "XAI_WIRE": "responses",
        "GEMINI_API_KEY": new_canary("AIza"),
        "GEMINI_BASE_URL": url,
        "OLLAMA_API_KEY": new_canary("ollama/+="),
        "OLLAMA_API_BASE": url,
        "ANTHROPIC_API_KEY": new_canary("sk-ant-"),
        "ANTHROPIC_UPSTREAM_URL": url,
        "SOME_OTHER_TOKEN": new_canary("tok_"),
        "PROXY_API_KEY": new_canary("own-"),
    }


@pytest.mark.parametrize("form", FORMS, ids=["plain", "json", "usual"])
def test_a_key_that_a_provider_discloses_goes_nowhere(echoing: Running, tmp_path: Path, form: dict[str, str]) -> None:
    settings = settings_for(echoing.url)
    with running_proxy(tmp_path, {**settings, **form}) as proxy:
        client = proxy.client(headers={"x-api-key": settings["PROXY_API_KEY"]})
        for place, how in enumerate(DISCLOSURES):
            for model in MODELS:
                body = ask(f"how={how}", model=model, stream=bool(place % 2))
                assert client.post(MESSAGES, json=body).status_code >= 400
        assert client.get("/v1/models").status_code == 200
        page = client.get("/metrics").text
        assert "anthropic_proxy_requests_total{" in page
        assert find_leaks(page, secrets_in(settings)) == []
        wait_for(lambda: proxy.log.count(MESSAGES) >= len(DISCLOSURES) * len(MODELS))
        expect_one_line_each(proxy)


def expect_one_line_each(proxy: Proxy) -> None:
    """Nothing in the log moves a cursor, begins a line of its own or turns one round."""
    assert not RAW & set(proxy.log)
    assert not [line for line in proxy.log.split("\n") if line.startswith(("x-evil", "POST"))]


@pytest.mark.parametrize("form", FORMS[:2], ids=["plain", "json"])
def test_a_key_in_a_body_of_a_client_is_not_logged(echoing: Running, tmp_path: Path, form: dict[str, str]) -> None:
    own, settings = new_canary("sk-ant-"), settings_for(echoing.url)
    wrong: list[dict[str, object]] = [
        {"max_tokens": own},
        {"model": f"sk-{own}"},
        {"api_key": own, "metadata": {"user_id": own}, "model": HOSTILE},
        {"messages": own},
        {"messages": [{"role": own, "content": HOSTILE}]},
        {"tools": [{"name": own, "input_schema": own}]},
        {own: own, "stop_sequences": HOSTILE},
    ]
    with running_proxy(tmp_path, {**settings, **form}) as proxy:
        client = proxy.client(headers={"x-api-key": settings["PROXY_API_KEY"]})
        for fields in wrong:
            client.post(MESSAGES, json=ask("how=lines") | fields)
        client.post(MESSAGES, content=b'{"model": "' + own.encode() + b'", \x1b[31m')
        client.get(f"/v1/models/{quote(HOSTILE, safe='')}")
        client.get(f"/{quote(HOSTILE, safe='')}?key={own}", headers=[(b"user-agent", b"evil\x9b31m")])
        proxy.client(headers={"authorization": f"Bearer {own}"}).post(MESSAGES, json=ask("x"))
        page = client.get("/metrics").text
        assert find_leaks(page, [own, *secrets_in(settings)]) == []
        assert not RAW & set(page)
        wait_for(lambda: proxy.log.count("/v1/m") >= len(wrong) + 3)
        expect_one_line_each(proxy)
        assert find_leaks(proxy.log, [own]) == []


SABOTAGE = """
import sys
from anthropic_proxy.engine.upstream.http.connection import Connection
async def ask(self, head, body):
    raise RuntimeError("never foreseen: %s\\r\\nPOST forged\\x1b[2J" % head.decode())
Connection.send_request = ask
from anthropic_proxy.cli import main
sys.argv = ["anthropic-proxy", "serve", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize("form", FORMS[:2], ids=["plain", "json"])
def test_the_trace_of_a_bug_holds_no_key(echoing: Running, tmp_path: Path, form: dict[str, str]) -> None:
    settings = settings_for(echoing.url)
    with running_proxy(tmp_path, {**settings, **form}, ("-c", SABOTAGE)) as proxy:
        client = proxy.client(headers={"x-api-key": settings["PROXY_API_KEY"]})
        for model in MODELS:
            answer = client.post(MESSAGES, json=ask("x", model=model, stream=False))
            assert answer.status_code == 500
            assert "RuntimeError in the proxy" in answer.json()["error"]["message"]
        wait_for(lambda: proxy.log.count("never foreseen") >= len(MODELS))
        expect_one_line_each(proxy)


def start_with(directory: Path, env_file: str, **settings: str) -> str:
    (directory / ".env").write_text(env_file, encoding="utf-8")
    ended = run_command("serve", directory=directory, settings=settings)
    assert ended.returncode != 0
    return ended.stdout + ended.stderr


@pytest.mark.parametrize(
    "line",
    [
        "PORT={key}",
        "PREFERRED_PROVIDER={key}",
        "OPENAI_BASE_URL=ftp://user:{key}@example.com",
        "OPENAI_BASE_URL={key}",
        "LOG_LEVEL={key}",
        "HOST={key}/",
        "UPSTREAM_TIMEOUT={key}",
        "{key}\nPORT=x",
        "OPENAI_API_KEY='{key}\nPORT=x",
        "OPENAI_API_KEY = {key} {key}\nOPENAI_KEY={key}\nPORT=x",
        "export OPENAI-API-KEY={key}\nPORT=x",
    ],
)
def test_a_start_that_fails_discloses_no_key(tmp_path: Path, line: str) -> None:
    key = new_canary("sk-proj-")
    output = start_with(tmp_path, line.format(key=key))
    assert find_leaks(output, [key]) == []
    assert "Traceback" not in output


def test_a_key_that_no_header_can_hold_is_not_disclosed(echoing: Running, tmp_path: Path) -> None:
    key = f"{new_canary('sk-')}\r\nx-evil: 1"
    settings = {**settings_for(echoing.url), "OPENAI_API_KEY": key, "LOG_LEVEL": "debug"}
    with contextlib.suppress(AssertionError), running_proxy(tmp_path, settings) as proxy:
        proxy.client(headers={"x-api-key": settings["PROXY_API_KEY"]}).post(MESSAGES, json=ask("x"))
    (log,) = tmp_path.glob("proxy-*.log")
    assert find_leaks(log.read_text(), [key.partition("\r")[0]]) == []


def test_secrets_do_not_print() -> None:
    key = new_canary("sk-")
    shown = [
        form.format(Secret(key, "X"), Credential("authorization", f"Bearer {key}")) for form in ("{} {}", "{!r} {!r}")
    ]
    assert find_leaks(" ".join(shown), [key]) == []


def test_a_disclosed_key_is_found() -> None:
    key = new_canary("sk-")
    (setting,) = secrets_in({"A_KEY": key, "PORT": "8082"})
    for spelled in (key, quote(key), base64.b64encode(f"user:{key}".encode()).decode(), key[-15:], key[::-1]):
        assert find_leaks(f"before {spelled} after", [setting]), spelled
    assert find_leaks(f"…{key[-4:]}", [setting]) == []
