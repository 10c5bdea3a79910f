"""Replies that begin with reasoning and have only its end tag, at servers for which this is not known.

Chat templates put `<think>` at the end of the prompt. A whole reply is divided at once. A stream cannot be; the next
one of the same client is.
"""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from msgspec import Struct

from anthropic_proxy.engine.wires.upstream_http import UpstreamRequest
from anthropic_proxy.plugins import Client
from tests.support.harness import FakeResponse, ProxyHarness
from tests.support.replies import CHAT, OLLAMA, Reply, ReplyForm

THOUGHTS = "The user greets me.\nI greet back."
REASONED = f"{THOUGHTS}\n</think>\n\nHello!"
DIVIDED = [("thinking", f"{THOUGHTS}\n"), ("text", "Hello!")]
TOOL = {"name": "Read", "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}}}
CALLS = [("call_1", "Read", ['{"path": "a"}'])]


class Server(Struct, frozen=True):
    form: ReplyForm
    model: str
    settings: Mapping[str, str]


SERVERS = {
    "chat": Server(CHAT, "openai/mine", {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "OPENAI_WIRE": "chat"}),
    "ollama": Server(OLLAMA, "ollama/mine", {"OLLAMA_BASE_URL": "http://127.0.0.1:9"}),
}


class Model:
    """A model that writes `text` in pieces of three characters, and then calls a tool if `calls` is set."""

    def __init__(self, server: Server, text: str = REASONED, **settings: str) -> None:
        self.server, self.text, self.calls = server, text, False
        self.proxy = ProxyHarness(self._reply, **server.settings, **settings)

    def _reply(self, url: str, request: UpstreamRequest, _: Any) -> FakeResponse:
        texts = [self.text[place : place + 3] for place in range(0, len(self.text), 3)]
        reply = Reply(texts=texts, calls=CALLS if self.calls else ())
        form = self.server.form
        is_stream = bool(json.loads(request.body).get("stream"))
        return FakeResponse(200, *(form.stream(reply) if is_stream else [form.whole(reply)]))

    async def ask(self, *, stream: bool = True, client: Client | None = None, session: str = "", **fields: Any) -> Any:
        """Return the blocks that the client gets: type and content of each."""
        fields = {"thinking": {"type": "adaptive"}, **fields} if "thinking" not in fields else fields
        headers = {"x-claude-code-session-id": session} if session else {}
        sink = await self.proxy.post(
            model=self.server.model, stream=stream, tools=[TOOL], client=client, headers=headers, **fields
        )
        assert sink.error is None
        return _read_stream(sink.stream) if stream else _read_blocks(sink.body["content"])


def _read_blocks(content: Any) -> list[tuple[str, str]]:
    return [(block["type"], block.get("text") or block.get("thinking") or block.get("name")) for block in content]


def _read_stream(stream: bytes) -> list[tuple[str, str]]:
    blocks: list[list[str]] = []
    for line in stream.splitlines():
        event = json.loads(line.removeprefix(b"data: ")) if line.startswith(b"data: ") else {}
        if event.get("type") == "content_block_start":
            blocks.append([event["content_block"]["type"], event["content_block"].get("name", "")])
        elif event.get("type") == "content_block_delta":
            blocks[-1][1] += event["delta"].get("text") or event["delta"].get("thinking") or ""
    return [(kind, text) for kind, text in blocks]


@pytest.mark.parametrize("server", SERVERS.values(), ids=SERVERS)
async def test_a_whole_reply_is_divided_and_the_next_stream_too(server: Server) -> None:
    model = Model(server)
    assert await model.ask(stream=False) == DIVIDED
    assert await model.ask() == DIVIDED


@pytest.mark.parametrize("server", SERVERS.values(), ids=SERVERS)
@pytest.mark.parametrize("calls", [False, True])
async def test_the_first_stream_loses_nothing_and_the_next_one_is_divided(server: Server, calls: bool) -> None:
    model = Model(server)
    model.calls = calls
    call = [("tool_use", "Read")] if calls else []
    assert await model.ask() == [("text", REASONED), *call]
    assert await model.ask() == [*DIVIDED, *call]
    assert await model.ask(stream=False) == [*DIVIDED, *call]
    assert await model.ask(thinking={"type": "disabled"}) == [("text", "Hello!"), *call]


@pytest.mark.parametrize("server", SERVERS.values(), ids=SERVERS)
async def test_a_model_that_stops_to_reason_is_read_as_before(server: Server) -> None:
    model = Model(server)
    await model.ask(stream=False)
    model.text = "Just a text."
    assert await model.ask(thinking={"type": "disabled"}) == [("text", "Just a text.")]
    assert await model.ask() == [("text", "Just a text.")]
    await model.ask(stream=False)
    model.text, model.calls = "I read it.", True
    assert await model.ask() == [("text", "I read it."), ("tool_use", "Read")]


@pytest.mark.parametrize("server", SERVERS.values(), ids=SERVERS)
async def test_a_call_without_an_end_tag_ends_the_expectation(server: Server) -> None:
    model = Model(server)
    await model.ask(stream=False)
    model.text, model.calls = "I read it.", True
    await model.ask()
    assert await model.ask() == [("text", "I read it."), ("tool_use", "Read")]


@pytest.mark.parametrize("server", SERVERS.values(), ids=SERVERS)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_text_about_the_tag_is_a_text(server: Server, stream: bool) -> None:
    for text in TEXTS:
        model = Model(server, text)
        assert await model.ask(stream=stream) == [("text", text)]
        assert await model.ask(stream=stream) == [("text", text)]


TEXTS = (
    "DeepSeek R1 ends its reasoning with </think> and then replies.",
    "It ends with `</think>`.",
    "The end is\n```\n</think>\n```\nand the reply follows.",
    "~~~\nHm.\n</think>\n~~~\n",
    "````md\n```\nHm.\n</think>\nHello\n````\n",
    "```\n~~~\nHm.\n</think>\nHello\n```\n",
    "- ```\n  Hm.\n</think>\nHello\n  ```\n",
    f"> It says {'so ' * 400}this.</think>Hello",
    "> Hm.\n> </think>\n> Hi.",
    "First <think>, then the thoughts.\n</think>\nThen the reply.",
    "Once.\n</think>\nTwice.\n</think>\n",
    'The tag is "</think>".',
    "1. </think>\n2. The reply.",
    "It ends. </think> is its end.",
)


async def test_what_one_client_gets_teaches_nothing_for_another_one() -> None:
    model = Model(SERVERS["chat"], PROXY_API_KEY="sk-proxy-0123456789")
    ada, bob = Client(key_id="key_a", name="ada"), Client(key_id="key_b", name="bob")
    await model.ask(stream=False, client=ada)
    assert await model.ask(client=ada) == DIVIDED
    assert await model.ask(client=bob) == [("text", REASONED)]
    assert await model.ask(client=bob) == DIVIDED


async def test_each_key_of_a_person_has_what_the_others_have_learned() -> None:
    model = Model(SERVERS["chat"], PROXY_API_KEY="sk-proxy-0123456789")
    laptop, desk = (Client(key_id=f"key_{name}", person="ada") for name in ("laptop", "desk"))
    await model.ask(stream=False, client=laptop)
    for client in (laptop, desk, desk):
        blocks = await model.ask(client=client)
    assert blocks == DIVIDED
    model.text, model.calls = "I read it.", True
    await model.ask(client=desk)
    assert await model.ask(client=laptop) == [("text", "I read it."), ("tool_use", "Read")]


async def test_sessions_of_a_proxy_without_keys_are_clients() -> None:
    model = Model(SERVERS["chat"])
    await model.ask(stream=False, session="11111111-1111-4111-8111-111111111111")
    assert await model.ask(session="11111111-1111-4111-8111-111111111111") == DIVIDED
    assert await model.ask(session="22222222-2222-4222-8222-222222222222") == [("text", REASONED)]


async def test_another_model_of_the_server_is_not_known() -> None:
    model = Model(SERVERS["chat"])
    await model.ask(stream=False)
    model.server = Server(CHAT, "openai/other", model.server.settings)
    assert await model.ask() == [("text", REASONED)]


async def test_what_is_known_about_the_tags_of_a_model_stays() -> None:
    model = Model(Server(CHAT, "openai/gpt-4.1", SERVERS["chat"].settings))
    for stream in (False, True, True):
        assert await model.ask(stream=stream) == [("text", REASONED)]


async def test_the_log_tells_once_what_was_learned() -> None:
    model = Model(SERVERS["chat"])
    for _ in range(3):
        await model.ask()
    assert [line[10:] for line in model.proxy.log.getvalue().splitlines() if "</think>" in line] == [LEARNED]


LEARNED = (
    "openai/mine: a reply had </think> without <think> before it, so the text of later replies is read as thinking up "
    "to this tag"
)
