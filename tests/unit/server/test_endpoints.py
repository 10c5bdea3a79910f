"""The endpoints without a socket: probes, errors, and effects that no request may have."""

import asyncio
import json
import re
from collections.abc import Mapping, MutableMapping
from html import unescape
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import pytest
from msgspec import structs

from anthropic_proxy.engine.platforms.program import COMMANDS_USER_AGENT, name_program
from anthropic_proxy.engine.providers.catalog import UNUSED_LIST_TIMEOUT_SECONDS
from anthropic_proxy.engine.trace_context import TraceContext
from anthropic_proxy.errors import InternalError
from anthropic_proxy.gateway.server.asgi import AsgiSink
from anthropic_proxy.gateway.server.endpoints import serve_request
from anthropic_proxy.gateway.services import Services
from anthropic_proxy.gateway.settings import CONFIG_FILE
from anthropic_proxy.gateway.stores.memory import MemoryStore
from anthropic_proxy.plugins import AdmissionRequest, Client, Headers, Receipt, StoreState
from tests.support.harness import STALL, FakeResponse, ProxyHarness
from tests.support.virtual_time import in_virtual_time


async def ask(
    services: Services, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
) -> tuple[int, dict[str, str], str]:
    """Return status, headers and body of the response to a client on this machine."""
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"" if body is None else json.dumps(body).encode()}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    pairs = [(name.encode(), value.encode()) for name, value in {"host": "localhost", **(headers or {})}.items()]
    path, _, query = path.partition("?")
    scope = {"type": "http", "method": method, "path": path, "headers": pairs, "query_string": query.encode()}
    await serve_request(services, {**scope, "client": ("127.0.0.1", 5)}, receive, send)
    assert ["status" in message for message in sent] == [True, *[False] * (len(sent) - 1)]
    response_headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], response_headers, b"".join(part.get("body", b"") for part in sent).decode()


class Broken:
    """A policy with a bug."""

    async def identify(self, headers: Headers) -> Client | None:
        return {}["nobody"]  # type: ignore[no-any-return]

    async def admit(self, ticket: AdmissionRequest) -> None:
        raise AssertionError


async def test_an_unexpected_error_of_an_endpoint_is_answered_in_the_envelope_and_logged() -> None:
    proxy = ProxyHarness(lambda *_: pytest.fail("nobody is called"))
    status, _, body = await ask(structs.replace(proxy.services, policies=[Broken()]), "GET", "/v1/models")
    assert (status, json.loads(body)["error"]["type"]) == (500, "api_error")
    log_text = proxy.log.getvalue()
    assert "KeyError: 'nobody'" in log_text
    assert "GET /v1/models 500" in log_text.splitlines()[-1]
    assert "✕ KeyError in the proxy" in log_text.splitlines()[-1]


class BrokenTracer:
    """A tracer with a bug."""

    def start_trace(self, parent: TraceContext | None) -> TraceContext:
        raise KeyError("trace")


async def test_an_unexpected_error_of_a_tracer_is_answered_and_logged() -> None:
    proxy = ProxyHarness(lambda *_: pytest.fail("nobody is called"))
    status, _, body = await ask(structs.replace(proxy.services, tracer=BrokenTracer()), "GET", "/v1/models")
    assert (status, json.loads(body)["error"]["type"]) == (500, "api_error")
    assert "KeyError: 'trace'" in proxy.log.getvalue()
    assert proxy.services.running.describe() == ""


async def test_after_a_header_that_cannot_be_sent_an_error_can_be_sent() -> None:
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    sink = AsgiSink(Receipt(request_id="req_1", client=Client(), started_at=0.0), receive, send)
    with pytest.raises(UnicodeEncodeError):
        await sink.send_relayed_bytes(b"{}", {"anthropic-x": "☃"}, is_stream=False, is_last=True)
    assert not sink.started
    await sink.send_error_response(InternalError("said in the envelope"))
    assert sent[0]["status"] == 500
    assert json.loads(sent[1]["body"])["error"]["message"] == "said in the envelope"


KEY = "s3cr3t-proxy-key-1234"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/messages", {"model": f"demo/{KEY}"}),
        ("POST", "/v1/messages", {"model": f"groq/{KEY}"}),
        ("POST", "/v1/messages", {"model": KEY, "max_tokens": KEY}),
        ("POST", "/v1/messages", {"model": KEY, "stream": True}),
        ("POST", "/v1/messages", {"model": KEY}),
        ("POST", "/v1/messages/count_tokens", {"model": f"groq/{KEY}"}),
        ("GET", f"/v1/models/{KEY}", None),
        ("GET", f"/{KEY}", None),
        ("DELETE", f"/v1/models/{KEY}", None),
    ],
)
async def test_an_error_does_not_contain_a_proxy_key_that_was_sent_as_a_value(
    method: str, path: str, body: dict[str, Any] | None
) -> None:
    """The provider repeats the name of the model in its refusal."""
    refusal = json.dumps({"error": {"message": f"The model {KEY} does not exist.", "code": "model_not_found"}})
    proxy = ProxyHarness(lambda *_: FakeResponse(404, refusal.encode()), OPENAI_API_KEY="sk-none", PROXY_API_KEY=KEY)
    message = {"max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
    sent = None if body is None else {**message, **body}
    status, _, answer = await ask(proxy.services, method, path, sent, {"x-api-key": KEY})
    assert status >= 400 or path.endswith("count_tokens")
    assert KEY not in answer
    if path != "/v1/messages/count_tokens":
        assert "…1234" in answer or "groq has no key" in answer


class Waiting:
    """A policy that holds a request until it is cancelled."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()

    async def identify(self, headers: Any) -> None:
        return None

    async def admit(self, ticket: AdmissionRequest) -> None:
        self.reached.set()
        await asyncio.Event().wait()


async def test_a_request_that_is_cancelled_before_its_exchange_has_one_receipt_and_the_refusal() -> None:
    proxy = ProxyHarness(lambda *_: pytest.fail("no call expected"), OPENAI_API_KEY="sk-none")
    request = {"model": "gpt-4o", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
    policy = Waiting()
    services = structs.replace(proxy.services, policies=[policy])
    task = asyncio.create_task(ask(services, "POST", "/v1/messages", request))
    await policy.reached.wait()
    task.cancel()
    status, _, _ = await task
    assert status == 503
    assert [(receipt.status, receipt.outcome) for receipt in proxy.receipts] == [(503, "error")]
    assert proxy.log.getvalue().count("POST /v1/messages 503") == 1


class SharedStore(MemoryStore):
    """A store in Redis. `available`: False: Redis cannot be used."""

    available = True

    @property
    def state(self) -> StoreState:
        return StoreState(kind="redis", available=self.available, processes=3)


@pytest.mark.parametrize(
    ("policy", "condition"),
    [
        ("open", "unavailable, limits are approximated"),
        ("closed", "unavailable, requests with limits are rejected"),
    ],
)
async def test_redis_is_reported_with_the_effect_on_limits(policy: Literal["open", "closed"], condition: str) -> None:
    proxy, store = ProxyHarness(lambda *_: FakeResponse(500), REDIS_FAILURE=policy), SharedStore()
    services = structs.replace(proxy.services, store=store)
    for available, expected in ((True, "ok"), (False, condition)):
        store.available = available
        status, _, body = await ask(services, "GET", "/readyz")
        assert status == 200
        assert json.loads(body) == {"status": "ready", "checks": {"server": "ok", "redis": expected}}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("settings", [{}, {"PROXY_API_KEY": "a-key-of-this-proxy"}], ids=["open", "with a key"])
async def test_the_greeting_of_claude_code_gets_200_and_leaves_no_record(method: str, settings: dict[str, str]) -> None:
    """Claude Code 2.1.330 sends `HEAD /api/hello` at each interactive start."""
    proxy = ProxyHarness(lambda *_: FakeResponse(500), **settings)
    status, _, body = await ask(proxy.services, method, "/api/hello")
    assert (status, json.loads(body)) == (200, {"message": "hello"})
    assert (await proxy.services.receipts.feed.collect_snapshot()).finished == []


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_icon_that_browsers_request_leaves_no_record(method: str) -> None:
    proxy = ProxyHarness(lambda *_: FakeResponse(500), PROXY_API_KEY="a-key-of-this-proxy")
    status, headers, body = await ask(proxy.services, method, "/favicon.ico")
    assert (status, headers["content-type"]) == (200, "image/svg+xml")
    assert body.startswith("<svg")
    assert (await proxy.services.receipts.feed.collect_snapshot()).finished == []


async def test_a_browser_learns_how_to_install_the_dashboard_and_its_visit_leaves_no_record() -> None:
    proxy = ProxyHarness(lambda *_: FakeResponse(500))
    status, headers, page = await ask(proxy.services, "GET", "/dashboard", headers={"accept": "text/html"})
    assert (status, headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert "<p>The dashboard is not installed. Requests are served and stored without it.</p>" in page
    step = (
        f"<pre><code>{name_program('anthropic-proxy add dashboard')} prices</code></pre>\n"
        "<p>Run this command, then start the proxy again. <code>prices</code> adds the costs of requests.</p>"
    )
    assert step in page
    assert step in (await ask(proxy.services, "GET", "/", headers={"accept": "text/html"}))[2]
    status, headers, body = await ask(proxy.services, "GET", "/dashboard")
    assert (status, json.loads(body)["error"]["message"]) == (
        404,
        "The dashboard is not installed. Install it: anthropic-proxy add dashboard, then start the proxy again.",
    )
    assert (await proxy.services.receipts.feed.collect_snapshot()).finished == []


async def test_the_page_without_a_dashboard_needs_no_key_and_shows_others_no_path_of_this_machine() -> None:
    proxy = ProxyHarness(lambda *_: FakeResponse(500), PROXY_API_KEY="a-key-of-this-proxy")
    browser = {"accept": "text/html"}
    status, headers, page = await ask(proxy.services, "GET", "/dashboard", headers=browser)
    assert (status, headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert f"<pre><code>{name_program('anthropic-proxy add dashboard')} prices</code></pre>" in page
    browser |= {"x-forwarded-for": "203.0.113.9"}
    status, _, page = await ask(proxy.services, "GET", "/dashboard", headers=browser)
    assert (status, "<p>The dashboard is not installed. Requests are served and stored without it.</p>" in page) == (
        404,
        True,
    )
    assert "add dashboard" not in page


async def test_the_models_of_a_server_that_nothing_uses_yet_are_listed_with_their_windows(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text('[providers.acme]\nbase_url = "http://localhost:1/v1"\nmodels = ["m"]')
    reply = b'{"data": [{"id": "m", "context_length": 50000}]}'
    settings = {"GEMINI_API_KEY": "AIza-0123456789", "OPENAI_BASE_URL": "http://localhost:2/v1"}
    proxy = ProxyHarness(lambda *_: FakeResponse(200, reply), env_file=str(tmp_path / ".env"), **settings)
    _, _, body = await ask(proxy.services, "GET", "/v1/models?limit=1000")
    found = {entry["id"]: entry for entry in json.loads(body)["data"]}
    names = ["claude-openai/m", "claude-acme/m"]
    assert [found[name]["max_input_tokens"] for name in names] == [50_000, 50_000]
    assert [found[name]["max_input_tokens_assumed"] for name in names] == [False, False]
    await proxy.services.close()


@in_virtual_time
async def test_a_server_that_nothing_uses_and_that_is_switched_off_hardly_delays_the_list(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text('[providers.off]\nbase_url = "http://192.0.2.1/v1"\nmodels = ["m"]')
    env_file, key = str(tmp_path / ".env"), "AIza-0123456789"
    proxy = ProxyHarness(lambda *_: FakeResponse(200, STALL), env_file=env_file, GEMINI_API_KEY=key)
    status, _, body = await ask(proxy.services, "GET", "/v1/models?limit=1000")
    seconds = asyncio.get_running_loop().time()
    assert (status, "claude-off/m" in body) == (200, True)
    assert seconds == pytest.approx(UNUSED_LIST_TIMEOUT_SECONDS, abs=0.1)
    await ask(proxy.services, "GET", "/v1/models?limit=1000")
    assert asyncio.get_running_loop().time() == seconds
    await proxy.services.close()


async def test_the_help_header_of_an_error_leads_to_its_entry_on_a_page_without_a_key() -> None:
    proxy = ProxyHarness(lambda *_: FakeResponse(500), PROXY_API_KEY="a-key-of-this-proxy")
    _, headers, _ = await ask(proxy.services, "GET", "/v1/models")
    page, _, entry = headers["x-proxy-help"].partition("#")
    assert (page, entry) == ("/help/errors", "proxy-key-missing")
    _, headers, text = await ask(proxy.services, "GET", page)
    assert headers["content-type"] == "text/html; charset=utf-8"
    article = text.partition(f'<article id="{entry}">')[2].partition("</article>")[0]
    assert "<b>Remedy.</b> Give the client one of the keys of <code>PROXY_API_KEY</code>" in article


@pytest.mark.parametrize(
    ("provider", "target", "sent", "received"),
    [
        ("", "openai/gpt-4.1", "POST https://api.openai.com/v1/chat/completions", '"name":"Bash"'),
        ("responses", "openai/gpt-5.6-sol", "POST https://api.openai.com/v1/responses", '"stop_reason":"tool_use"'),
        ("gemini", "gemini/gemini-3.1-pro-preview", ":streamGenerateContent?alt=sse", '"output_tokens":42'),
        ("groq", "groq/openai/gpt-oss-120b", "POST https://api.groq.com/", '"name":"Bash"'),
        ("<script>", "openai/gpt-4.1", "POST https://api.openai.com/", '"name":"Bash"'),
    ],
)
async def test_a_tour_shows_one_request_from_client_to_costs_without_a_key(
    provider: str, target: str, sent: str, received: str
) -> None:
    proxy = ProxyHarness(lambda *_: FakeResponse(500), PROXY_API_KEY="a-key-of-this-proxy")
    status, headers, page = await ask(proxy.services, "GET", f"/tour?provider={quote(provider)}")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in headers["content-security-policy"]
    assert f"<p>claude-sonnet-5 → <b>{target}</b></p>" in page
    way = re.findall("<li><b>(.*?)</b><span>(.*?)</span></li>", unescape(page))
    assert [title for title, _ in way][::3] == ["Claude Code", "Claude Code"]
    assert way[1][1] == f"sends it to {target}. 7 fields; without an exact counterpart: top_k dropped."
    assert way[3][1] == 'gets the tool call that it knows: Bash {"command":"ls"}'
    assert way[4][0] == "Cost"
    translation, _, reply = unescape(page).partition("<h2>3 Reply</h2>")
    assert sent in translation
    assert '<tr><th scope="row"><code>top_k</code></th><td>dropped</td>' in translation
    assert received in reply.partition("Claude Code receives, at once:")[2]
    assert "event: message_stop" in reply
    assert "<script" not in page


async def test_a_tour_has_the_same_address_and_price_with_other_settings() -> None:
    costs = []
    for settings in ({}, {"OPENAI_BASE_URL": "https://gateway.example/v1"}):
        proxy = ProxyHarness(lambda *_: FakeResponse(500), **settings)
        page = (await ask(proxy.services, "GET", "/tour"))[2]
        assert "POST https://api.openai.com/v1/chat/completions" in page
        costs.append(page.partition("<h2>4 Cost</h2>")[2])
    assert costs[0] == costs[1]


THREAD = {
    "model": "demo/demo",
    "max_tokens": 9,
    "messages": [{"role": "user", "content": "x"}],
    "thread": {"type": "create"},
}


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/messages", THREAD, 400),
        ("POST", "/v1/messages/count_tokens", THREAD, 400),
        ("HEAD", "/nothing", None, 404),
        ("HEAD", "/v1/messages", None, 405),
        ("HEAD", "/v1/models/nothing", None, 405),
        ("GET", "/v1/messages/batches", None, 404),
        ("GET", "/v1/files/file_1", None, 404),
    ],
)
async def test_the_answer_no_to_a_question_is_no_failure(method: str, path: str, body: object, status: int) -> None:
    proxy = ProxyHarness(lambda *_: pytest.fail("nobody is called"), LOG_LEVEL="info")
    assert (await ask(proxy.services, method, path, body))[0] == status
    assert (proxy.log.getvalue(), proxy.receipts) == ("", [])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("POST", "/v1/messages/batches", 404), ("GET", "/v1/messages", 405)],
)
async def test_a_request_that_cannot_be_served_is_a_failure(method: str, path: str, status: int) -> None:
    proxy = ProxyHarness(lambda *_: pytest.fail("nobody is called"))
    assert (await ask(proxy.services, method, path, {}))[0] == status
    assert f"{method} {path} {status}" in proxy.log.getvalue()
    assert [one.outcome for one in proxy.receipts] == ["error"]


async def test_the_error_catalog_is_searched_by_all_words() -> None:
    proxy = ProxyHarness(lambda *_: pytest.fail("nobody is called"))
    _, headers, everything = await ask(proxy.services, "GET", "/help/errors")
    _, _, found = await ask(proxy.services, "GET", "/help/errors?q=LIMIT+fallback_")
    _, _, nothing = await ask(proxy.services, "GET", "/help/errors?q=%22%3E%3Cb%3E")
    assert "form-action 'self'" in headers["content-security-policy"]
    assert (
        everything.index('href="#rejected-key"') < everything.index('href="#rate-limit"') < everything.index("<article")
    )
    articles = re.findall(r'<article id="([^"]+)"', everything)
    assert articles[0] == "rejected-key"
    assert articles.index("prompt-too-long") < articles.index("dashboard-setting")
    assert (everything.count("<details>") > 0, found.count("<details>")) == (True, 0)
    assert re.findall(r'<article id="([^"]+)"', found) == ["rate-limit"]
    assert (nothing.count("<article"), 'value="&quot;&gt;&lt;b&gt;"' in nothing) == (0, True)
    assert 'No error has all these words. <a href="/help/errors">Show all</a>' in nothing


async def test_the_queries_of_the_commands_are_no_lines_of_the_log() -> None:
    proxy = ProxyHarness(lambda *_: pytest.fail("nobody is called"), LOG_LEVEL="info")
    await ask(proxy.services, "GET", "/v1/models", headers={"user-agent": COMMANDS_USER_AGENT})
    assert proxy.log.getvalue() == ""
    await ask(proxy.services, "GET", "/v1/models")
    assert "GET /v1/models 200" in proxy.log.getvalue()
