"""The tables `[[inspectors]]` in a running server: what providers and the ledger get, and a guardrail service."""

import json
import re
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.support.command_line import run_command
from tests.support.fakes.server import RequestLog, Running, new_application, serving
from tests.support.process_checks import MESSAGES, reload
from tests.support.replies import CHAT, Reply
from tests.support.replies import MESSAGES as RELAYED
from tests.support.secret_canaries import new_canary
from tests.support.server_process import Proxy, running_proxy
from tests.support.waiting import wait_for

SECRET = "sk-live-0a1b2c3d4e5f6g7h8i9j"
PLACEHOLDER = re.compile(r"REDACTED_KEY_[0-9a-f]{16}")
GUARD_KEY = new_canary("guard-")
CONFIG = """
[[inspectors]]
name = "secrets"
type = "patterns"
detect = ["keys", "card-numbers"]

[[inspectors]]
name = "guard"
type = "guardrail"
base_url = "{url}/guard"
api_key = {{ env = "GUARD_API_KEY" }}
reads = ["requests", "replies"]
timeout = 10
"""


async def answer(request: web.Request, raw: bytes, journal: RequestLog) -> web.StreamResponse:
    """A provider that repeats the placeholder, with Chat Completions and the Messages API, and a guardrail service."""
    body = json.loads(raw)
    exchange = journal.open(request, body)
    exchange.status = 200
    if request.path.startswith("/guard"):
        exchange.headers["key"] = request.headers.get("x-api-key", "")
        if any("down" in text for text in body["texts"]):
            return web.json_response({}, status=503)
        if any("moved" in text for text in body["texts"]):
            return web.Response(status=307, headers={"location": "/guard/elsewhere"})
        if any("huge" in text for text in body["texts"]):
            return web.Response(
                body=b'{"action":"NONE","texts":["' + b"a" * 50_000_000, content_type="application/json"
            )
        if any("nested" in text for text in body["texts"]):
            return web.Response(body=b'{"action":"NONE","x":' + b"[" * 500_000, content_type="application/json")
        if any("forbidden" in text for text in body["texts"]):
            return web.json_response({"action": "BLOCKED", "blocked_reason": "That is forbidden."})
        changed = [text.replace("ugly", "nice") for text in body["texts"]]
        if changed != body["texts"]:
            return web.json_response({"action": "GUARDRAIL_INTERVENED", "texts": changed})
        return web.json_response({"action": "NONE"})
    found = PLACEHOLDER.search(raw.decode())
    words = f"An ugly key: {found[0] if found else ''}"
    form = CHAT if request.path.endswith("/chat/completions") else RELAYED
    reply = Reply(texts=[*words], calls=[("call_1", "Bash", [json.dumps({"command": words})])])
    if not body.get("stream"):
        return web.Response(body=form.whole(reply), content_type="application/json")
    return web.Response(body=b"".join(form.stream(reply)), content_type="text/event-stream")


@pytest.fixture(scope="module")
def upstream() -> Iterator[Running]:
    with serving(new_application(answer, RequestLog())) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inspectors")


@pytest.fixture(scope="module")
def settings(folder: Path, upstream: Running) -> dict[str, str]:
    (folder / "anthropic-proxy.toml").write_text(CONFIG.format(url=upstream.url))
    return {
        "OPENAI_API_KEY": new_canary("sk-"),
        "OPENAI_BASE_URL": f"{upstream.url}/v1",
        "OPENAI_WIRE": "chat",
        "ANTHROPIC_API_KEY": new_canary("sk-ant-"),
        "ANTHROPIC_UPSTREAM_URL": upstream.url,
        "GUARD_API_KEY": GUARD_KEY,
        "DATABASE_URL": f"sqlite:///{folder / 'ledger.sqlite3'}",
        "LEDGER_CONTENT": "true",
    }


@pytest.fixture(scope="module")
def proxy(folder: Path, settings: dict[str, str]) -> Iterator[Proxy]:
    with running_proxy(folder, settings) as running:
        yield running


def send(proxy: Proxy, text: str, model: str = "openai/gpt-4.1", **fields: Any) -> Any:
    tools = [{"name": "Bash", "input_schema": {"type": "object", "properties": {}}}]
    message = {"role": "user", "content": text}
    return proxy.client().post(
        MESSAGES, json={"model": model, "max_tokens": 900, "messages": [message], "tools": tools, **fields}
    )


@pytest.mark.parametrize("model", ["openai/gpt-4.1", "anthropic/claude-sonnet-4-5"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_key_leaves_as_a_placeholder_and_is_stored_as_one(
    proxy: Proxy, upstream: Running, folder: Path, settings: dict[str, str], model: str, stream: bool
) -> None:
    before = len(upstream.journal.exchanges)
    response = send(proxy, f"Use {SECRET}, {model} {stream}", model, stream=stream)
    assert response.status_code == 200, response.text
    # text fragments of a stream are joined by whole blocks, because the service reads them
    assert f"An nice key: {SECRET}" in response.text
    assert "ugly" not in response.text
    sent = upstream.journal.exchanges[before:]
    assert all(SECRET not in json.dumps(one.body) for one in sent)
    first, *_ = (one for one in sent if one.path.startswith("/guard"))
    assert first.headers["key"] == GUARD_KEY
    assert any(PLACEHOLDER.search(text) for text in first.body["texts"])
    request_id = response.headers["request-id"]

    def read_rows() -> dict[str, str]:
        with closing(sqlite3.connect(folder / "ledger.sqlite3")) as database, suppress(sqlite3.OperationalError):
            rows = database.execute("SELECT kind, data FROM contents WHERE request_id = ?", [request_id])
            return {kind: zlib.decompress(data).decode() for kind, data in rows}
        return {}  # the tables do not exist yet

    stored = wait_for(read_rows)
    assert {*stored} == {"request", "reply", "sent"}
    assert all(SECRET not in text for text in stored.values())
    assert PLACEHOLDER.search(stored["request"])
    assert PLACEHOLDER.search(stored["reply"])
    told = run_command("explain", request_id, directory=folder, settings=settings).stdout
    lines = [line.strip().rpartition(" (")[0] for line in told.splitlines() if line.startswith("    inspector")]
    assert lines == [
        "inspector  secrets redacted the request: 1 × key",
        "inspector  guard passed the request",
        "inspector  guard redacted the reply: 2 × text",
    ]
    wait_for(lambda: "~ secrets redacted the request: 1 × key; ~ guard redacted the reply: 2 × text" in proxy.log)


def test_a_service_refuses_and_its_failure_is_told_at_once(proxy: Proxy, upstream: Running) -> None:
    response = send(proxy, "something forbidden")
    assert (response.status_code, response.headers["x-should-retry"]) == (400, "false")
    error = response.json()["error"]
    assert error == {"type": "policy_blocked", "message": "That is forbidden."}
    response = send(proxy, "the service is down")
    assert (response.status_code, response.headers["x-should-retry"]) == (503, "false")
    assert response.json()["error"] == {
        "type": "api_error",
        "message": "The inspector guard of this proxy, which must read each request, is not available. "
        "Try again in a moment.",
    }
    wait_for(lambda: "Inspector guard: the guardrail service answered with status 503" in proxy.log)
    assert all("chat" not in one.path for one in upstream.journal.exchanges[-2:])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("it has moved", "the guardrail service answered with status 307"),
        ("it is huge", "the reply is larger than 1 MiB"),
        ("it is nested", "the answer of the guardrail service cannot be read: "),
    ],
)
def test_an_answer_that_cannot_be_used_is_a_failure(proxy: Proxy, upstream: Running, text: str, reason: str) -> None:
    before = len(upstream.journal.exchanges)
    assert send(proxy, text).status_code == 503
    assert [one.path for one in upstream.journal.exchanges[before:]] == ["/guard/beta/litellm_basic_guardrail_api"]
    wait_for(lambda: f"Inspector guard: {reason}" in proxy.log)
    assert "Traceback" not in proxy.log


def test_metrics_count_decisions_and_their_time(proxy: Proxy) -> None:
    send(proxy, f"Use {SECRET} for the metrics")

    def read_metrics() -> str:
        text: str = proxy.client().get("/metrics").text
        return text if 'inspector="guard",part="reply"' in text or 'part="reply"' in text else ""

    text = wait_for(read_metrics)
    labels = 'anthropic_proxy_inspections_total{decision="redacted",inspector="secrets",part="request"}'
    assert labels in text
    assert 'anthropic_proxy_inspection_seconds_total{decision="redacted",inspector="guard",part="reply"}' in text


def test_new_requests_get_the_inspectors_of_a_changed_file(
    settings: dict[str, str], upstream: Running, tmp_path: Path
) -> None:
    file = tmp_path / "anthropic-proxy.toml"
    fields = 'name = "law"\ntype = "patterns"\naction = "refuse"\nreason = "Rule 7."\npatterns = {{ word = "{}" }}'
    table = f"[[inspectors]]\n{fields}"
    with running_proxy(tmp_path, settings | {"DATABASE_URL": "off"}) as proxy:
        assert send(proxy, "one two").status_code == 200
        for word, other in (("one", "two"), ("two", "one")):
            file.write_text(table.format(word))
            assert reload(proxy) == "Settings reloaded: inspectors changed."
            assert send(proxy, other).status_code == 200
            refused = send(proxy, word)
            assert (refused.status_code, refused.json()["error"]["message"]) == (400, "Rule 7. Found: word.")
        file.write_text("")
        reload(proxy)
        assert send(proxy, "one two").status_code == 200
        assert "will take effect at the next start" not in proxy.log


def test_all_workers_have_the_same_placeholders(settings: dict[str, str], upstream: Running, tmp_path: Path) -> None:
    (tmp_path / "anthropic-proxy.toml").write_text('[[inspectors]]\nname = "s"\ntype = "patterns"\ndetect = ["keys"]')
    before = len(upstream.journal.exchanges)
    command = ("-m", "anthropic_proxy", "serve", "--workers", "2")
    with running_proxy(tmp_path, settings | {"DATABASE_URL": "off"}, command) as proxy:
        for number in range(16):  # each on a connection of its own
            assert send(proxy, f"Use {SECRET}, {number}").status_code == 200
            proxy.clients.pop().close()
    found = {PLACEHOLDER.findall(json.dumps(one.body))[0] for one in upstream.journal.exchanges[before:]}
    assert len(found) == 1
