"""Anthropic behind the proxy: the official SDK and plain HTTP receive the sent bytes, over real sockets."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2 as httpx
import pytest
from aiohttp import web

from tests.support.event_grammar import check_bytes
from tests.support.fakes.anthropic import KEY, new_anthropic
from tests.support.fakes.anthropic.models import MODELS
from tests.support.fakes.anthropic.samples import READ
from tests.support.fakes.server import RequestLog, Running, new_application, serving
from tests.support.sdk import open_sdk
from tests.support.server_process import Proxy, running_forked_proxy

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
def settings(upstream: Running) -> dict[str, str]:
    return {
        "ANTHROPIC_API_KEY": KEY,
        "ANTHROPIC_UPSTREAM_URL": upstream.url,
        "PREFERRED_PROVIDER": "anthropic",
        "LOG_FORMAT": "json",
    }


@pytest.fixture(scope="module")
def proxy(settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running_forked_proxy(tmp_path_factory.mktemp("proxy"), settings) as running:
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


def test_counts_and_models_are_the_api_s_own(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model=MODEL, messages=user_messages("x" * 400), tools=[READ])
    assert counted.input_tokens > 100
    listed = client.models.list(limit=2)
    assert [entry.display_name for entry in listed] == [model.title for model in MODELS.values()]
    assert client.models.retrieve("claude-haiku-4-5").id == "claude-haiku-4-5-20251001"
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("claude-unheard-of")


# Streams


def stream_of(proxy: Proxy, text: str, **fields: Any) -> httpx.Response:
    return proxy.client().post(PATH, json=ask(text, stream=True, **fields))


def test_nothing_of_ours_is_written_into_an_idle_stream(proxy: Proxy) -> None:
    answer = stream_of(proxy, "Say exactly: late [fault:silence seconds=9]")
    assert answer.text.startswith("event: message_start\n")
    assert answer.text.count("event: ping") == 1
    assert check_bytes(answer.content) == []


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
        with running_forked_proxy(tmp_path_factory.mktemp("taped"), environ) as proxy:
            yield proxy


def test_request_and_reply_are_the_same_to_the_byte(tape: Tape, taped: Proxy) -> None:
    body = b'\t{ "model":"claude-sonnet-5-5" ,\r\n "max_tokens" : 1.0e1, "x":[1,\n2 ],"thread":{"a":"\\u00e9\xc3\xa9"}'
    body += b',"thinking" :{"type": "adaptive"},"messages":[]}\n'
    tape.reply = (
        b'{"type" : "message",\n "id":"msg_1", "role":"assistant", "model":"claude-sonnet-5-5-20260101", '
        b'"content":[ ], "stop_reason":"end_turn", "stop_sequence": null, '
        b'"usage":{"input_tokens":1.0e1,\r\n"output_tokens":1}}\n'
    )
    answer = taped.client().post(PATH + "?beta=true", content=body, headers={"x-api-key": SECRET, "cookie": "a=b"})
    assert tape.raw == body
    assert answer.content == tape.reply
    assert tape.headers["x-api-key"] == SECRET
    assert "cookie" not in tape.headers
    mapped = body.replace(b"claude-sonnet-5-5", b"claude-haiku-4-5")
    block, end = b'{"type":"text","text":"","model":"claude-opus-5-5"}', tape.reply.partition(b'"content":[ ],')[2]
    tape.reply = b'{"type":"message","id":"msg_1","role":"assistant","content":[%b],"model" : "%b",%b'
    tape.reply = tape.reply % (block, b"claude-opus-5-5", end)
    answer = taped.client().post(PATH, content=mapped)
    assert tape.raw == body.replace(b"claude-sonnet-5-5", b"claude-opus-5-5")
    assert answer.content == tape.reply.replace(b'"model" : "claude-opus-5-5"', b'"model" : "claude-haiku-4-5"')


# Payment


# Other backends before, and in its place


def test_a_server_of_the_user_s_with_the_same_language(upstream: Running, tmp_path: Path) -> None:
    environ = {
        "PREFERRED_PROVIDER": "openai",
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": f"{upstream.url}/v1",
        "OPENAI_WIRE": "messages",
        "BIG_MODEL": "openai/claude-haiku-5-5",
    }
    with running_forked_proxy(tmp_path, environ) as other:
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
            offered = [entry.id for entry in client.models.list(limit=1000)]
            configured = ["claude-openai/gpt-4.1-mini", "claude-openai/claude-haiku-5-5"]
            assert [name for name in offered if name.startswith("claude-openai/")] == configured
        answer = other.client().post(PATH, json=ask("x [fault:missing]"))
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "policy_blocked")
        assert answer.json()["error"]["message"].startswith("openai: ")
