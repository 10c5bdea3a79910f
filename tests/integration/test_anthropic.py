"""Anthropic behind the proxy: the official SDK and plain HTTP receive the sent bytes, over real sockets."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2 as httpx
import pytest
from aiohttp import web

from anthropic_proxy.cli.lint_stream import check_bytes
from tests.support.fakes.anthropic import KEY, new_anthropic
from tests.support.fakes.anthropic.models import MODELS
from tests.support.fakes.anthropic.samples import READ, THOUGHT
from tests.support.fakes.anthropic.server import STAND_IN, Anthropic
from tests.support.fakes.server import RequestLog, Running, new_application, serving
from tests.support.sdk import open_sdk
from tests.support.server_process import Proxy, running_proxy
from tests.support.waiting import WAIT_SECONDS, wait_for

MODEL = "claude-sonnet-5-5"
PATH = "/v1/messages"
SECRET = "sk-ant-of-the-client-0123456789"


@pytest.fixture(scope="module")
def application() -> web.Application:
    return new_anthropic(KEY, SECRET)


@pytest.fixture(scope="module")
def upstream(application: web.Application) -> Iterator[Running]:
    with serving(application) as running:
        yield running


@pytest.fixture(scope="module")
def stand_in(application: web.Application) -> Anthropic:
    return application[STAND_IN]


@pytest.fixture(scope="module")
def settings(upstream: Running) -> dict[str, str]:
    return {
        "ANTHROPIC_API_KEY": KEY,
        "ANTHROPIC_UPSTREAM_URL": upstream.url,
        "PREFERRED_PROVIDER": "anthropic",
        "LOG_FORMAT": "json",
    }


@pytest.fixture(scope="module")
def proxy(settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running_proxy(tmp_path_factory.mktemp("proxy"), settings) as running:
        yield running
        assert "Traceback" not in running.log


@pytest.fixture
def client(proxy: Proxy, upstream: Running) -> Iterator[anthropic.Anthropic]:
    """The official SDK; a test fails where any request that it caused broke one of the API's rules."""
    start = len(upstream.journal.exchanges)
    with open_sdk(base_url=proxy.url, api_key=SECRET, max_retries=0) as client:
        yield client
    assert [breach for exchange in upstream.journal.exchanges[start:] for breach in exchange.breaches] == []


def user_messages(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def ask(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 300, "messages": user_messages(text), **fields}


def receipt_of(proxy: Proxy, request_id: str) -> dict[str, Any]:
    def read_lines() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in proxy.log.splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("request_id") == request_id]

    return wait_for(read_lines)[0]


# The official SDK


@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_with_thinking_and_tools_keeps_its_signatures(
    client: anthropic.Anthropic, upstream: Running, stream: bool
) -> None:
    given: Any = {"model": MODEL, "max_tokens": 300, "tools": [READ], "thinking": {"type": "adaptive"}}
    messages = user_messages("Read /note.txt")

    def reply() -> Any:
        if not stream:
            return client.messages.create(messages=messages, **given)
        with client.messages.stream(messages=messages, **given) as events:
            return events.get_final_message()

    first = reply()
    assert [block.type for block in first.content] == ["thinking", "tool_use"]
    assert first.stop_reason == "tool_use"
    result = {"type": "tool_result", "tool_use_id": first.content[1].id, "content": "milk"}
    messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    second = reply()
    assert second.content[-1].text == "The file says: milk"
    assert second.model == MODEL
    echoed = upstream.journal.exchanges[-1].body["messages"][1]["content"][0]
    assert echoed["signature"] == first.content[0].signature


def test_marked_prompts_are_read_from_the_cache_and_logged(client: anthropic.Anthropic, proxy: Proxy) -> None:
    marked: Any = [{"type": "text", "text": "be kind. " * 2_000, "cache_control": {"type": "ephemeral"}}]
    for read in (False, True):
        raw = client.messages.with_raw_response.create(**ask("Say exactly: a b c"), system=marked)
        usage = raw.parse().usage
        assert (
            (usage.cache_read_input_tokens or 0) > 1_000 if read else (usage.cache_creation_input_tokens or 0) > 1_000
        )
        line = receipt_of(proxy, raw.headers["request-id"])
        assert line["input_tokens"] == usage.input_tokens
        assert line["cache_read_tokens"] == usage.cache_read_input_tokens
        assert line["cache_write_tokens"] == usage.cache_creation_input_tokens
        assert line["output_tokens"] == usage.output_tokens
        assert (line["outcome"], line["provider"], line["model"]) == ("end_turn", "anthropic", MODEL)


def test_betas_and_their_fields_reach_the_api(client: anthropic.Anthropic, upstream: Running) -> None:
    client.beta.messages.create(
        **ask("Say exactly: x"),
        betas=["context-management-2025-06-27", "a-beta-of-tomorrow"],
        context_management={"edits": [{"type": "clear_tool_uses_20250919"}]},
        extra_headers={"x-of-my-own": "kept"},
        extra_query={"beta": "true"},
    )
    exchange = upstream.journal.exchanges[-1]
    assert exchange.path == "/v1/messages?beta=true"
    assert exchange.headers["anthropic-beta"] == "context-management-2025-06-27,a-beta-of-tomorrow"
    assert exchange.headers["x-of-my-own"] == "kept"
    assert exchange.headers["x-stainless-lang"] == "python"
    assert exchange.headers["user-agent"].startswith("Anthropic/Python")


def test_counts_and_models_are_the_api_s_own(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model=MODEL, messages=user_messages("x" * 400), tools=[READ])
    assert counted.input_tokens > 100
    listed = client.models.list(limit=2)
    assert [entry.display_name for entry in listed] == [model.title for model in MODELS.values()]
    assert client.models.retrieve("claude-haiku-4-5").id == "claude-haiku-4-5-20251001"
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("claude-unheard-of")


@pytest.mark.parametrize(
    ("fault", "error", "status"),
    [
        ("unauthorized", anthropic.AuthenticationError, 401),
        ("forbidden", anthropic.PermissionDeniedError, 403),
        ("missing", anthropic.NotFoundError, 404),
        ("billing", anthropic.BadRequestError, 400),
        ("large", anthropic.APIStatusError, 413),
        ("rate after=30", anthropic.RateLimitError, 429),
        ("server", anthropic.InternalServerError, 500),
        ("gateway", anthropic.InternalServerError, 502),
        ("final", anthropic.InternalServerError, 529),
        ("overflow", anthropic.BadRequestError, 400),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_pass(
    client: anthropic.Anthropic, fault: str, error: type[anthropic.APIStatusError], status: int, stream: bool
) -> None:
    with pytest.raises(error) as caught:
        client.messages.create(**ask(f"Say exactly: x [fault:{fault}]"), stream=stream)
    answer = caught.value.response
    assert answer.status_code == status
    assert answer.headers["request-id"].startswith("req_")
    assert "Planned0123456789" not in answer.text
    assert not {"set-cookie", "server", "cf-ray"} & set(answer.headers)
    assert answer.headers["anthropic-ratelimit-requests-limit"] == "4000"
    if fault.startswith("rate"):
        assert answer.headers["retry-after"] == "30"
        assert answer.headers["anthropic-ratelimit-input-tokens-remaining"] == "0"
    if fault == "overflow":
        assert "prompt is too long: 1004321 tokens > 1000000 maximum" in answer.text
    if fault == "unauthorized":
        assert "x-api-key" not in answer.text  # Claude Code would hide the text
    elif fault != "gateway":
        assert json.loads(answer.content)["request_id"] == answer.headers["x-upstream-request-id"]


# Streams


def stream_of(proxy: Proxy, text: str, **fields: Any) -> httpx.Response:
    return proxy.client().post(PATH, json=ask(text, stream=True, **fields))


@pytest.mark.parametrize("fault", ["cut", "half", "torn", "half pieces=7", "torn pieces=20"])
def test_a_stream_that_breaks_ends_with_one_error_on_the_border_of_an_event(proxy: Proxy, fault: str) -> None:
    answer = stream_of(proxy, f"Count to 30 [fault:{fault}]")
    assert answer.status_code == 200
    assert answer.text.count("event: error") == 1
    assert "message_stop" not in answer.text
    assert check_bytes(answer.content) == []
    assert receipt_of(proxy, answer.headers["request-id"])["outcome"] == "error"


def test_the_end_of_the_message_is_the_end_whoever_keeps_the_connection_open(proxy: Proxy) -> None:
    with open_sdk(base_url=proxy.url, api_key="x", max_retries=0, timeout=WAIT_SECONDS) as client:
        created = client.messages.create(**ask("Say exactly: done [fault:lingering seconds=60]"), stream=True)
        assert [event.type for event in created][-1] == "message_stop"


def test_nothing_of_ours_is_written_into_an_idle_stream(proxy: Proxy) -> None:
    answer = stream_of(proxy, "Say exactly: late [fault:silence seconds=9]")
    assert answer.text.startswith("event: message_start\n")
    assert answer.text.count("event: ping") == 1
    assert check_bytes(answer.content) == []


def test_an_upstream_that_stalls_ends_the_stream_with_one_error(settings: dict[str, str], tmp_path: Path) -> None:
    with running_proxy(tmp_path, {**settings, "UPSTREAM_TIMEOUT": "1"}) as impatient:
        answer = stream_of(impatient, "Count to 30 [fault:stall seconds=30]")
        assert answer.text.count("event: error") == 1
        assert "timeout_error" in answer.text
        assert check_bytes(answer.content) == []
        assert stream_of(impatient, "Count to 30 [fault:late seconds=30]").status_code == 504


# To the byte


class Tape:
    """A server that keeps the bytes that it is sent, and answers with bytes, a few in a packet."""

    def __init__(self) -> None:
        self.reply = b""
        self.packet = 7
        self.raw = b""
        self.headers: dict[str, str] = {}

    async def answer(self, request: web.Request, raw: bytes, _: RequestLog) -> web.StreamResponse:
        self.raw, self.headers = raw, {name.lower(): value for name, value in request.headers.items()}
        if not self.reply.startswith((b"event:", b":")):
            return web.Response(body=self.reply, content_type="application/json")
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for start in range(0, len(self.reply), self.packet):
            await response.write(self.reply[start : start + self.packet])
        await response.write_eof()
        return response


@pytest.fixture(scope="module")
def tape() -> Tape:
    return Tape()


@pytest.fixture(scope="module")
def taped(tape: Tape, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with serving(new_application(tape.answer, RequestLog())) as running:
        environ = {"PREFERRED_PROVIDER": "anthropic", "ANTHROPIC_UPSTREAM_URL": running.url}
        environ["MODEL_HAIKU"] = "anthropic/claude-opus-5-5"
        with running_proxy(tmp_path_factory.mktemp("taped"), environ) as proxy:
            yield proxy


def test_request_and_reply_are_the_same_to_the_byte(tape: Tape, taped: Proxy) -> None:
    body = b'\t{ "model":"claude-sonnet-5-5" ,\r\n "max_tokens" : 1.0e1, "x":[1,\n2 ],"thread":{"a":"\\u00e9\xc3\xa9"}'
    body += b',"messages":[]}\n'
    tape.reply = b'{"type" : "message",\n "model":"claude-sonnet-5-5-20260101", "usage":{"input_tokens":1.0e1}}\n'
    answer = taped.client().post(PATH + "?beta=true", content=body, headers={"x-api-key": SECRET, "cookie": "a=b"})
    assert tape.raw == body
    assert answer.content == tape.reply
    assert tape.headers["x-api-key"] == SECRET
    assert "cookie" not in tape.headers
    mapped = body.replace(b"claude-sonnet-5-5", b"claude-haiku-4-5")
    tape.reply = b'{"type":"message","content":[{"model":"claude-opus-5-5"}],"model" : "claude-opus-5-5"}'
    answer = taped.client().post(PATH, content=mapped)
    assert tape.raw == body.replace(b"claude-sonnet-5-5", b"claude-opus-5-5")
    assert answer.content == b'{"type":"message","content":[{"model":"claude-opus-5-5"}],"model" : "claude-haiku-4-5"}'


# Payment


def test_the_client_s_own_key_goes_to_anthropic_and_nobody_else(
    upstream: Running, openai: Running, tmp_path: Path
) -> None:
    environ = {
        "PREFERRED_PROVIDER": "anthropic",
        "ANTHROPIC_UPSTREAM_URL": upstream.url,
        "OPENAI_API_KEY": "sk-openai-not-the-right-one",
        "OPENAI_BASE_URL": f"{openai.url}/v1",
    }
    with running_proxy(tmp_path, environ) as lending:
        for given in ({"api_key": SECRET}, {"auth_token": SECRET}):
            with open_sdk(base_url=lending.url, max_retries=0, **given) as client:  # type: ignore[arg-type]
                assert client.messages.create(**ask("Say exactly: mine")).content[0].text == "mine"  # type: ignore[union-attr]
                with pytest.raises(anthropic.AuthenticationError):
                    client.messages.create(**{**ask("x"), "model": "openai/gpt-4.1"})
        nobody = lending.client().post(PATH, json=ask("x"))
        assert nobody.status_code == 401
        assert "x-api-key header is required" in nobody.text
    assert SECRET not in json.dumps([exchange.headers for exchange in openai.journal.exchanges])
    assert SECRET not in lending.log


# Other backends before, and in its place


def test_a_conversation_that_began_elsewhere_goes_on(client: anthropic.Anthropic, upstream: Running) -> None:
    foreign = [
        {"type": "thinking", "thinking": tag, "signature": f"px1.{tag}.e30"}
        for tag in ("oai", "xai", "gem", "vtx", "groq", "kimi", "ds", "oll", "ka")
    ]
    call = {"type": "tool_use", "id": "toolu_px01", "name": "Read", "input": {"path": "/a"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_px01", "content": "milk"}
    messages: Any = [
        *user_messages("Think"),
        {"role": "assistant", "content": foreign},
        *user_messages("Read /a"),
        {
            "role": "assistant",
            "content": [foreign[0], {"type": "redacted_thinking", "data": "px1.oai.e30"}, THOUGHT, call],
        },
        {"role": "user", "content": [result]},
    ]
    reply = client.messages.create(model=MODEL, max_tokens=200, tools=[READ], messages=messages)
    assert reply.content[-1].text == "The file says: milk"  # type: ignore[union-attr]
    sent = upstream.journal.exchanges[-1].body["messages"]
    assert sent[1]["content"] == [{"type": "text", "text": "…"}]
    assert [block["type"] for block in sent[3]["content"]] == ["thinking", "tool_use"]


def test_a_server_of_the_user_s_with_the_same_language(upstream: Running, tmp_path: Path) -> None:
    environ = {
        "PREFERRED_PROVIDER": "openai",
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": f"{upstream.url}/v1",
        "OPENAI_WIRE": "messages",
        "BIG_MODEL": "openai/claude-haiku-5-5",
    }
    with running_proxy(tmp_path, environ) as other:
        with open_sdk(base_url=other.url, api_key=SECRET, max_retries=0) as client:
            reply = client.messages.create(**ask("Say exactly: hello"), metadata={"user_id": "somebody"})
            assert reply.model == MODEL
            assert reply.content[0].text == "hello"  # type: ignore[union-attr]
            exchange = upstream.journal.exchanges[-1]
            assert exchange.body["model"] == "claude-haiku-5-5"
            assert "metadata" not in exchange.body
            assert exchange.headers["authorization"] == f"Bearer {KEY}"
            assert not {"x-api-key", "x-stainless-lang", "anthropic-beta"} & set(exchange.headers)
            assert client.messages.count_tokens(model=MODEL, messages=user_messages("x" * 400)).input_tokens > 100
            assert upstream.journal.exchanges[-1].path == "/v1/messages/count_tokens"
            assert "claude-openai/gpt-4.1" in [entry.id for entry in client.models.list(limit=1000)]
        answer = other.client().post(PATH, json=ask("x [fault:missing]"))
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
        assert answer.json()["error"]["message"].startswith("openai: ")
