"""Headers and body fields of `[providers.NAME]`: what the provider gets, against strict fakes."""

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest
from aiohttp import web
from msgspec import structs

from anthropic_proxy.cli.explain import dry_run_request
from anthropic_proxy.engine.engine import Engine, build_engine
from anthropic_proxy.engine.exchange import attempt
from anthropic_proxy.engine.exchange.forwarding import count_tokens, forward_resource
from anthropic_proxy.engine.exchange.in_process import send_request
from anthropic_proxy.engine.options import CallOptions, KeySource
from anthropic_proxy.engine.providers import PROVIDERS
from anthropic_proxy.engine.providers.call_options import extend_request, merge_body
from anthropic_proxy.engine.providers.catalog import Catalog
from anthropic_proxy.engine.wires.bound_requests import BoundRequest
from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest
from anthropic_proxy.errors import InvalidRequest
from anthropic_proxy.gateway.settings import CONFIG_FILE, Settings, load_settings
from anthropic_proxy.gateway.settings_listing import list_settings
from anthropic_proxy.secrets import Secret
from tests.support.fakes.anthropic.server import KEY as ANTHROPIC_KEY
from tests.support.fakes.anthropic.server import new_anthropic
from tests.support.fakes.openai_chat.server import KEY as OPENAI_KEY
from tests.support.fakes.openai_chat.server import new_openai
from tests.support.fakes.server import Exchange, Running, serving, serving_strictly
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, new_client_request
from tests.support.messages import exactly
from tests.support.waiting import WAIT_SECONDS

SECRET = "the-secret-of-the-gateway-8f2c"
CALL: dict[str, Any] = {"max_tokens": 900, "messages": [{"role": "user", "content": "Say exactly: hello"}]}


def load(folder: Path, text: str, **environ: str) -> Settings:
    (folder / CONFIG_FILE).write_text(text)
    variables = {"GATEWAY_SECRET": SECRET, "PREFERRED_PROVIDER": "openai", **environ}
    return load_settings(variables, PROVIDERS, env_file=str(folder / ".env"))


async def ask(settings: Settings, model: str, *, status: int = 200, **headers: str) -> dict[str, Any]:
    engine: Engine = build_engine(settings)
    reply = await send_request(engine, json.dumps({"model": model, **CALL}).encode(), headers)
    body: dict[str, Any] = json.loads(b"".join([piece async for piece in reply.body]))
    await engine.close()
    assert reply.status == status, body
    return body


def at_openai(running: Running) -> dict[str, str]:
    return {"OPENAI_API_KEY": OPENAI_KEY, "OPENAI_BASE_URL": f"{running.url}/v1", "OPENAI_WIRE": "chat"}


async def sent_to_openai(folder: Path, text: str, **headers: str) -> Exchange:
    with serving_strictly(new_openai()) as running:
        await ask(load(folder, text, **at_openai(running)), "openai/gpt-4.1", **headers)
        (exchange,) = running.journal.exchanges
    return exchange


async def test_a_built_in_provider_gets_the_headers_and_fields_of_its_table(tmp_path: Path) -> None:
    plain = await sent_to_openai(tmp_path, "")
    found = await sent_to_openai(
        tmp_path,
        """
        [providers.openai.headers]
        Cf-Access-Client-Secret = { env = "GATEWAY_SECRET" }
        x-route = "blue 7"
        x-team = { client = "X-My-Team" }
        x-absent = { client = "x-nobody-sends-this" }
        user-agent = "ours"
        [providers.openai.body]
        store = true
        service_tier = "flex"
        metadata = { cost_center = "a1" }
        """,
        **{"x-my-team": "red", "x-other": "not named in the file"},
    )
    added = {"cf-access-client-secret": SECRET, "x-route": "blue 7", "x-team": "red", "user-agent": "ours"}
    ignored = {"host", "content-length"}
    assert {name: text for name, text in found.headers.items() if name not in ignored} == {
        **{name: text for name, text in plain.headers.items() if name not in ignored},
        **added,
    }
    extra = {"store": True, "service_tier": "flex", "metadata": {"cost_center": "a1"}}
    assert found.body == {**plain.body, **extra}
    assert list(found.body)[: len(plain.body)] == list(plain.body)  # the cached prefix of the prompt is unchanged


WITH_PASSWORD = """
    [providers.openai.body]
    store = true
    [providers.openai.body.metadata]
    password = { env = "GATEWAY_SECRET" }
    prompt_cache_key = "team"
"""


async def test_a_field_of_the_body_has_the_value_of_a_variable(tmp_path: Path) -> None:
    found = await sent_to_openai(tmp_path, WITH_PASSWORD)
    assert found.body["metadata"] == {"password": SECRET, "prompt_cache_key": "team"}


def test_the_value_of_a_variable_in_the_body_is_masked(tmp_path: Path) -> None:
    settings = load(tmp_path, WITH_PASSWORD, OPENAI_API_KEY="sk-proj-0123456789abcdef4f2a")
    assert SECRET in settings.reveal_all_secrets()
    assert SECRET not in repr(settings)
    shown = dry_run_request(settings, json.dumps({"model": "openai/gpt-4.1", **CALL}).encode(), "a file", None)
    assert shown.result.recorded is not None
    assert json.loads(shown.result.recorded.request.body)["metadata"]["password"] == "…8f2c"
    rows = {row.name: row.value for row in list_settings(settings, Catalog())}
    assert rows["body.metadata of [providers.openai]"] == '{"password":"…8f2c","prompt_cache_key":"team"}'
    assert SECRET not in str(rows)


async def test_a_relay_gets_them_too_and_a_count_of_tokens_only_the_headers(tmp_path: Path) -> None:
    text = """
        [providers.anthropic]
        headers = { x-route = "blue" }
        body = { service_tier = "standard_only" }
    """
    with serving_strictly(new_anthropic()) as running:
        variables = {"ANTHROPIC_API_KEY": ANTHROPIC_KEY, "ANTHROPIC_UPSTREAM_URL": running.url}
        settings = load(tmp_path, text, **variables, PREFERRED_PROVIDER="anthropic")
        await ask(settings, "claude-sonnet-5-5", **{"anthropic-version": "2023-06-01"})
        engine = build_engine(settings)
        body = json.dumps({"model": "claude-sonnet-5-5", "messages": CALL["messages"]}).encode()
        incoming = new_client_request(body, {"anthropic-version": "2023-06-01"}, path="/v1/messages/count_tokens")
        await count_tokens(engine, incoming, asyncio.Event().wait)  # type: ignore[arg-type]
        await engine.close()
        message, count = running.journal.exchanges
    assert (message.headers["x-route"], message.body["service_tier"]) == ("blue", "standard_only")
    assert (count.headers["x-route"], "service_tier" in count.body) == ("blue", False)


async def test_claude_platform_on_aws_gets_the_request_of_the_official_client(tmp_path: Path) -> None:
    text = """
        [providers.anthropic]
        key_header = "authorization"
        headers = { anthropic-workspace-id = "wrkspc_01" }
    """
    with serving_strictly(new_anthropic()) as running:
        variables = {"ANTHROPIC_API_KEY": ANTHROPIC_KEY, "ANTHROPIC_UPSTREAM_URL": running.url}
        settings = load(tmp_path, text, **variables, PREFERRED_PROVIDER="anthropic")
        await ask(settings, "claude-sonnet-5-5", **{"anthropic-version": "2026-10-21"})
        with httpx2.Client(trust_env=False) as http:
            client = anthropic.AnthropicAWS(
                api_key=ANTHROPIC_KEY, workspace_id="wrkspc_01", base_url=running.url, http_client=http
            )
            client.messages.create(model="claude-sonnet-5-5", **CALL)
        ours, theirs = running.journal.exchanges
    assert (ours.method, ours.path, ours.body) == (theirs.method, theirs.path, theirs.body)
    for name in ("x-api-key", "anthropic-workspace-id", "anthropic-version", "content-type", "authorization"):
        assert ours.headers.get(name) == theirs.headers.get(name), name


async def test_each_message_of_a_batch_gets_the_fields_of_the_body(tmp_path: Path) -> None:
    text = """
        [providers.anthropic]
        body = { service_tier = "standard_only", thinking = { type = "disabled" } }
    """
    call = {"model": "claude-sonnet-5-5", **CALL}
    given = [
        {"custom_id": "a", "params": call},
        {"custom_id": "b", "params": {**call, "service_tier": "auto", "thinking": {"type": "adaptive"}}},
    ]
    sent: list[bytes] = []

    async def upstream(bound: BoundRequest) -> FakeResponse:
        sent.append(bound.request.body)
        return FakeResponse(200, b"{}")

    settings = load(tmp_path, text, ANTHROPIC_API_KEY=ANTHROPIC_KEY, PREFERRED_PROVIDER="anthropic")
    engine = structs.replace(build_engine(settings), transports={"anthropic": upstream})
    incoming = new_client_request(json.dumps({"requests": given}).encode(), path="/v1/messages/batches")
    await forward_resource(engine, incoming, "POST", RecordingSink())
    await engine.close()
    fields = {"service_tier": "standard_only", "thinking": {"type": "disabled"}}
    (batch,) = map(json.loads, sent)
    assert batch == {"requests": [{"custom_id": name, "params": {**call, **fields}} for name in ("a", "b")]}


def test_a_body_that_cannot_be_merged_is_refused() -> None:
    request = UpstreamRequest(path="/v1/messages", body=b"{", headers={})
    with pytest.raises(InvalidRequest, match=exactly("The request body is not valid JSON: Input data was truncated.")):
        extend_request(CallOptions(body={"service_tier": "flex"}), request, with_body=True)


async def test_only_messages_take_a_place_of_the_requests_per_minute(tmp_path: Path) -> None:
    with serving_strictly(new_anthropic()) as running:
        variables = {"ANTHROPIC_API_KEY": ANTHROPIC_KEY, "ANTHROPIC_UPSTREAM_URL": running.url}
        variables |= {"PREFERRED_PROVIDER": "anthropic", "UPSTREAM_FIRST_BYTE_TIMEOUT": "20"}
        engine = build_engine(load(tmp_path, "[providers.anthropic]\nrequests_per_minute = 1\n", **variables))
        body = json.dumps({"model": "claude-sonnet-5-5", "messages": CALL["messages"]}).encode()
        headers = {"anthropic-version": "2023-06-01"}
        incoming = new_client_request(body, headers, path="/v1/messages/count_tokens")
        for _ in range(3):
            await count_tokens(engine, incoming, asyncio.Event().wait)  # type: ignore[arg-type]
        statuses = []
        for _ in range(2):
            reply = await send_request(engine, json.dumps({"model": "claude-sonnet-5-5", **CALL}).encode(), headers)
            statuses.append(reply.status)
        await count_tokens(engine, incoming, asyncio.Event().wait)  # type: ignore[arg-type]
        await engine.close()
        paths = [exchange.path for exchange in running.journal.exchanges]
    assert statuses == [200, 529]
    assert paths == [*["/v1/messages/count_tokens"] * 3, "/v1/messages", "/v1/messages/count_tokens"]


async def test_the_key_is_in_the_header_that_the_table_names(tmp_path: Path) -> None:
    with serving(new_openai()) as running:
        text = f"""
            [providers.gateway]
            base_url = "{running.url}/v1"
            api_key = {{ env = "THE_KEY" }}
            key_header = "X-Key"
            headers = {{ authorization = {{ env = "GATEWAY_SECRET" }} }}
        """
        settings = load(tmp_path, text, THE_KEY="a-key-for-the-server-1")
        # the strict fake knows the key only in `authorization`, so it rejects this call
        await ask(settings, "gateway/gpt-4.1", status=424)
        sent = running.journal.exchanges[0]
    assert (sent.headers["x-key"], sent.headers["authorization"]) == ("a-key-for-the-server-1", SECRET)


async def test_no_error_log_or_list_of_settings_contains_the_secret(tmp_path: Path) -> None:

    async def echo(request: web.Request, *_: Any) -> web.StreamResponse:
        copied = [request.headers[name] for name in ("x-login", "x-team-token", "x-color")]
        text = f"{request.headers['x-gateway-secret']} is not allowed here, {', '.join(copied)}"
        return web.json_response({"error": {"message": text, "type": "invalid_request_error"}}, status=400)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", echo)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    text = f"""
        [providers.vllm]
        base_url = "http://127.0.0.1:{port}/v1"
        [providers.vllm.headers]
        x-gateway-secret = {{ env = "GATEWAY_SECRET" }}
        x-login = {{ client = "x-my-password" }}
        x-team-token = {{ client = "x-team" }}
        x-color = {{ client = "x-my-color" }}
    """
    settings = load(tmp_path, text)
    sent = {"x-my-password": "the-password-of-a-client-77aa", "x-team": "the-token-of-the-team-55bb"}
    body = await ask(settings, "vllm/m", status=400, **sent, **{"x-my-color": "bluish-green-colour"})
    await runner.cleanup()
    assert SECRET not in json.dumps(body)
    assert "…8f2c is not allowed here, …77aa, …55bb, bluish-green-colour" in body["error"]["message"]
    assert SECRET in settings.reveal_all_secrets()
    assert SECRET not in repr(settings)
    rows = {row.name: row.value for row in list_settings(settings, Catalog())}
    assert rows["headers.x-gateway-secret of [providers.vllm]"] == "…8f2c"
    assert not any(SECRET in value for value in rows.values())


@pytest.mark.parametrize(
    ("given", "merged"),
    [
        ('{"thinking":{"type":"enabled","budget_tokens":2000},"n":1}', '{"thinking":{"type":"disabled"},"n":1}'),
        (
            '{"thinking":{"budget_tokens":2000,"type":"disabled"}}',
            '{"thinking":{"budget_tokens":2000,"type":"disabled"}}',
        ),
        ('{"thinking":{"budget_tokens":2000}}', '{"thinking":{"budget_tokens":2000,"type":"disabled"}}'),
        ('{"n":1}', '{"n":1,"thinking":{"type":"disabled"}}'),
    ],
)
def test_a_table_of_another_type_replaces_an_object(given: str, merged: str) -> None:
    assert merge_body(given.encode(), {"thinking": {"type": "disabled"}}) == merged.encode()


def test_a_copied_header_of_a_client_is_visible_ascii() -> None:
    request = UpstreamRequest(path="/x", body=b"", headers={"x-team": "of the wire"})
    options = CallOptions(copied_headers={"x-team": "x-mine"})
    for text, expected in [("red", "red"), ("", ""), ("r\u00e9d", "of the wire"), ("a\udcffb", "of the wire")]:
        assert extend_request(options, request, client_headers={"x-mine": text}).headers == {"x-team": expected}
    assert extend_request(options, request).headers == {"x-team": "of the wire"}


def test_explain_masks_the_secret(tmp_path: Path) -> None:
    text = "[providers.openai]\nheaders = { x-gateway-secret = { env = 'GATEWAY_SECRET' }, x-route = 'blue' }\n"
    settings = load(tmp_path, text, OPENAI_API_KEY="sk-proj-0123456789abcdef4f2a")
    body = json.dumps({"model": "openai/gpt-4.1", **CALL}).encode()
    shown = dry_run_request(settings, body, "a file", None)
    assert b"\r\nx-route: blue\r\n" in shown.head
    assert "\r\nx-gateway-secret: …8f2c\r\n" in shown.head.decode()
    assert shown.result.recorded is not None
    assert SECRET not in str(shown.result.recorded.request.headers)


async def test_an_error_in_a_relayed_stream_does_not_quote_the_secret(tmp_path: Path) -> None:
    event = {"type": "error", "error": {"type": "api_error", "message": f"no access with {SECRET}"}}
    start = {
        "type": "message_start",
        "message": {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": 1},
        },
    }
    parts = [f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in (start, event)]

    async def stream(_: web.Request) -> web.StreamResponse:
        return web.Response(body=b"".join(parts), headers={"content-type": "text/event-stream"})

    application = web.Application()
    application.router.add_post("/v1/messages", stream)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    text = "[providers.anthropic]\nheaders = { x-gateway-secret = { env = 'GATEWAY_SECRET' } }\n"
    variables = {"ANTHROPIC_UPSTREAM_URL": f"http://127.0.0.1:{runner.addresses[0][1]}"}
    settings = load(tmp_path, text, **variables, ANTHROPIC_API_KEY=ANTHROPIC_KEY, PREFERRED_PROVIDER="anthropic")
    engine = build_engine(settings)
    body = json.dumps({"model": "claude-sonnet-5-5", "stream": True, **CALL}).encode()
    reply = await send_request(engine, body, {"anthropic-version": "2023-06-01"})
    received = b"".join([piece async for piece in reply.body]).decode()
    await engine.close()
    await runner.cleanup()
    assert "no access with …8f2c" in received
    assert SECRET not in received


async def test_a_key_command_that_hangs_delays_the_next_target_briefly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "MAX_QUEUE_SECONDS", 0.01)
    released = threading.Event()
    (tmp_path / "key").write_text("sk-that-has-ended")

    def read(source: KeySource) -> Secret:
        released.wait(WAIT_SECONDS)
        return Secret("sk-too-late", source.origin)

    with serving(new_openai()) as running:
        (tmp_path / CONFIG_FILE).write_text(
            f'[providers.first]\nbase_url = "{running.url}/v1"\napi_key = {{ file = "key" }}\n'
        )
        variables = {
            "OPENAI_API_KEY": OPENAI_KEY,
            "OPENAI_BASE_URL": f"{running.url}/v1",
            "BIG_MODEL": "first/gpt-4.1",
            "FALLBACK_OPUS": "openai/gpt-4.1",
        }
        settings = load_settings(variables, PROVIDERS, env_file=str(tmp_path / ".env"), resolves_keys=True)
        engine = build_engine(settings, read_key=read)
        body = {"model": "claude-opus-5-5", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
        reply = await asyncio.wait_for(send_request(engine, json.dumps(body).encode(), {}), WAIT_SECONDS / 2)
        released.set()
        await engine.close()
        statuses = [exchange.status for exchange in running.journal.exchanges]
    assert (reply.status, statuses) == (200, [401, 200])


HINTS = {
    "x-claude-code-request-class": "subagent",
    "x-claude-1p-request-class": "blocking-subagent",
    "x-claude-code-agent-type": "Explore",
    "x-claude-code-parent-agent-id": "a0",
    "x-claude-code-prompt-id": "0b2c8f6e-0000-4000-8000-000000000001",
    "x-claude-code-prev-tool-durations": "Bash=1166",
    "x-claude-code-compaction": "auto",
    "x-claude-code-context-compacted": "true",
    "x-claude-code-managed-settings-checksum": "sha256:0123456789abcdef",
    "x-claude-gateway-user-id": "user-7",
    "x-claude-gateway-user-email": "ann@example.com",
    "x-litellm-end-user-id": "ann@example.org",
}
AT_EACH_WIRE: dict[str, tuple[str, dict[str, str]]] = {
    "chat": ("openai/gpt-4.1", {"OPENAI_API_KEY": "k-0123456789", "OPENAI_WIRE": "chat"}),
    "responses": ("openai/gpt-4.1", {"OPENAI_API_KEY": "k-0123456789", "OPENAI_WIRE": "responses"}),
    "gemini": ("gemini/gemini-3-pro", {"GEMINI_API_KEY": "k-0123456789"}),
    "ollama": ("ollama/qwen3.6", {"OLLAMA_BASE_URL": "http://127.0.0.1:9"}),
    "relay": ("anthropic/claude-sonnet-5-5", {"ANTHROPIC_API_KEY": "k-0123456789"}),
    "relay with the key of the client": ("anthropic/claude-sonnet-5-5", {"PREFERRED_PROVIDER": "anthropic"}),
    "gateway": (
        "openai/claude-sonnet-5-5",
        {"OPENAI_API_KEY": "k-0123456789", "OPENAI_WIRE": "messages", "OPENAI_BASE_URL": "https://gateway.example.com"},
    ),
    "bedrock": (
        "bedrock/anthropic.claude-sonnet-5-5",
        {"AWS_BEARER_TOKEN_BEDROCK": "k-0123456789", "AWS_REGION": "eu-west-1"},
    ),
}


@pytest.mark.parametrize("wire", AT_EACH_WIRE)
async def test_no_wire_sends_what_claude_code_tells_the_proxy(wire: str) -> None:
    sent: list[UpstreamRequest] = []

    def answer(_url: str, request: UpstreamRequest, _credential: Any) -> FakeResponse:
        sent.append(request)
        return FakeResponse(500, b"{}")

    model, settings = AT_EACH_WIRE[wire]
    await ProxyHarness(answer, **settings).post(
        model=model,
        max_tokens=9,
        headers={"x-api-key": "sk-ant-client-0123", "anthropic-version": "2023-06-01", **HINTS},
    )
    assert sent
    for request in sent:
        assert not HINTS.keys() & {name.lower() for name in request.headers}
        whole = repr(request.headers) + request.body.decode(errors="replace") + request.path
        assert [value for value in HINTS.values() if len(value) > 5 and value in whole] == []


@pytest.mark.parametrize("model", ["openai/gpt-4.1", "anthropic/claude-sonnet-5-5"])
async def test_no_provider_gets_what_claude_code_tells_the_proxy_about_a_request(model: str, tmp_path: Path) -> None:
    text = 'headers = { x-team = { client = "x-my-team" } }\n'
    text = f"[providers.openai]\n{text}[providers.anthropic]\n{text}"
    with serving_strictly(new_openai()) as openai, serving_strictly(new_anthropic()) as running:
        variables = {"ANTHROPIC_API_KEY": ANTHROPIC_KEY, "ANTHROPIC_UPSTREAM_URL": running.url, **at_openai(openai)}
        settings = load(tmp_path, text, **variables)
        await ask(settings, model, **{"anthropic-version": "2023-06-01", "x-my-team": "red", **HINTS})
        (sent,) = [*openai.journal.exchanges, *running.journal.exchanges]
    assert sent.headers["x-team"] == "red"
    assert not HINTS.keys() & sent.headers.keys()
    assert not {*HINTS.values()} & {*sent.headers.values()}
