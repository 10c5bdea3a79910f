"""`context_management` at servers with the Messages API that do not edit conversations: the proxy does it."""

import json
from pathlib import Path
from typing import Any

import pytest
from anthropic.types.beta import BetaMessage

from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.exchange.forwarding import count_tokens
from tests.support.event_grammar import check_bytes
from tests.support.golden_runner import fold_events
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, new_client_request
from tests.support.routes import CONFIG_FILE

Json = dict[str, Any]
MOONSHOT = {"MOONSHOT_API_KEY": "sk-0123456789", "MOONSHOT_WIRE": "messages"}
DEEPSEEK = {
    "OPENAI_API_KEY": "sk-0123456789",
    "OPENAI_BASE_URL": "https://api.deepseek.com/anthropic",
    "OPENAI_WIRE": "messages",
}
READ: Json = {"name": "read", "input_schema": {"type": "object", "properties": {}}}
CLEARED = "[This result was removed to save space. Call the tool again if you need it.]"
BY_USES: Json = {"type": "clear_tool_uses_20250919", "trigger": {"type": "tool_uses", "value": 2}}
THINKING: Json = {"type": "clear_thinking_20251015"}
BETAS = {"anthropic-beta": "context-management-2025-06-27"}
EMULATED = "the proxy edits the conversation, and counts tokens by its own estimate"
WORDS = 'He says "message_delta".'


def claude(*, stream: bool, line_end: str = "\n", space: str = " ") -> FakeResponse:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "kimi", "stop_sequence": None}
    usage = {"input_tokens": 500, "output_tokens": 20}
    if not stream:
        whole = {**message, "content": [{"type": "text", "text": WORDS}], "stop_reason": "end_turn", "usage": usage}
        return FakeResponse(200, json.dumps(whole, indent=1).encode())
    events: list[Json] = [
        {"type": "message_start", "message": {**message, "content": [], "stop_reason": None, "usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": WORDS}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": usage},
        {"type": "message_stop"},
    ]
    lines = [f"event:{space}{event['type']}{line_end}data:{space}{json.dumps(event)}{line_end * 2}" for event in events]
    return FakeResponse(200, *[line.encode() for line in lines], headers={"content-type": "text/event-stream"})


class Server:
    """A server with the Messages API, and the requests that it got."""

    def __init__(
        self, *, line_end: str = "\n", space: str = " ", streams: bool | None = None, has_counts: bool = True
    ) -> None:
        """`space`: what follows the names of the fields of an event. `streams`: what it answers, whatever it is asked
        for. None: what it is asked for.
        """
        self.bodies: list[Json] = []
        self.headers: list[Any] = []
        self._line_end = line_end
        self._space = space
        self._streams = streams
        self._has_counts = has_counts

    def __call__(self, base_url: str, request: Any, credential: Any) -> FakeResponse:
        body = json.loads(request.body)
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        if request.path.endswith("count_tokens"):
            if not self._has_counts:
                return FakeResponse(404, b'{"error": "not found"}')
            return FakeResponse(200, b'{"input_tokens": %d}' % (len(request.body) // 4))
        streams = bool(body.get("stream")) if self._streams is None else self._streams
        return claude(stream=streams, line_end=self._line_end, space=self._space)


def conversation(turns: int = 5) -> list[Json]:
    messages: list[Json] = [{"role": "user", "content": "hello"}]
    for turn in range(turns):
        thought = {"type": "thinking", "thinking": f"thought {turn}", "signature": "s"}
        call = {"type": "tool_use", "id": f"call_{turn}", "name": "read", "input": {"turn": turn}}
        result = {"type": "tool_result", "tool_use_id": f"call_{turn}", "content": f"{turn} " + "word " * 200}
        messages += [{"role": "assistant", "content": [thought, call]}, {"role": "user", "content": [result]}]
    return [*messages, {"role": "assistant", "content": "done"}, {"role": "user", "content": "And now?"}]


def message_of(sink: RecordingSink) -> Any:
    """The reply as the official SDK accepts it."""
    assert sink.error is None, sink.error
    if sink.stream.startswith(b"event:"):
        assert check_bytes(sink.stream) == []
        events = [json.loads(line[5:]) for line in sink.stream.splitlines() if line.startswith(b"data:")]
        (context,) = [event.get("context_management") for event in events if event["type"] == "message_delta"]
        message = {**fold_events(sink.stream), "context_management": context}
    else:
        message = json.loads(sink.stream)
    BetaMessage.model_validate(message)
    return message


async def ask(proxy: ProxyHarness, *edits: Json, model: str = "moonshot/kimi-k2", **fields: Any) -> RecordingSink:
    fields = {"max_tokens": 400, "tools": [READ], "messages": conversation(), **fields}
    return await proxy.post(headers=BETAS, model=model, context_management={"edits": [*edits]}, **fields)


@pytest.mark.parametrize("stream", [False, True])
async def test_results_inputs_and_thinking_are_removed_and_reported(stream: bool) -> None:
    server = Server()
    proxy = ProxyHarness(server, **MOONSHOT)
    sink = await ask(proxy, THINKING, BY_USES | {"clear_tool_inputs": True}, stream=stream)
    message = message_of(sink)
    assert message["content"] == [{"type": "text", "text": WORDS}]
    tools = message["context_management"]["applied_edits"]
    assert [(one["type"], one["cleared_tool_uses"]) for one in tools] == [("clear_tool_uses_20250919", 2)]
    assert tools[0]["cleared_input_tokens"] > 300
    expected = conversation()
    for turn in range(2):
        expected[1 + 2 * turn]["content"][1]["input"] = {}
        expected[2 + 2 * turn]["content"][0]["content"] = CLEARED
    (sent,) = server.bodies
    assert sent["messages"] == expected
    assert "context_management" not in sent
    assert "anthropic-beta" not in server.headers[0]
    notes = [(note.handling, note.field, note.reason) for note in proxy.receipts[-1].notes]
    assert notes == [("emulated", "context_management", EMULATED)]


@pytest.mark.parametrize("stream", [False, True])
async def test_the_thinking_of_earlier_turns_is_removed(stream: bool) -> None:
    server = Server()
    messages = [*conversation(2), *conversation(1)[1:]]
    message = message_of(await ask(ProxyHarness(server, **MOONSHOT), THINKING, messages=messages, stream=stream))
    applied = message["context_management"]["applied_edits"]
    assert [(one["type"], one["cleared_thinking_turns"]) for one in applied] == [("clear_thinking_20251015", 1)]
    for place in (1, 3):
        del messages[place]["content"][0]
    assert server.bodies[0]["messages"] == messages


async def test_blocks_with_further_fields_of_another_type_are_edited_too() -> None:
    server = Server()
    messages = conversation()
    for message in messages[1:-2]:
        for block in message["content"]:
            block.update(text=5, source=[], title={})
    edit = BY_USES | {"clear_tool_inputs": True}
    thinking_again = [{"role": "user", "content": "Again."}, *conversation(1)[1:]]
    messages += [{"role": "assistant", "content": "yes"}, *thinking_again]
    message_of(await ask(ProxyHarness(server, **MOONSHOT), THINKING, edit, messages=messages))
    sent = server.bodies[0]["messages"]
    assert [[block["type"] for block in message["content"]] for message in sent[1:10:2]] == [["tool_use"]] * 5
    cleared = [message["content"][0]["content"] == CLEARED for message in sent[2:11:2]]
    assert cleared == [True, True, True, False, False]


async def test_a_server_that_demands_thinking_gets_a_placeholder() -> None:
    server = Server()
    messages = [*conversation(2), *conversation(1)[1:]]
    message_of(await ask(ProxyHarness(server, **DEEPSEEK), THINKING, model="openai/deepseek-v4-pro", messages=messages))
    thoughts = [message["content"][0]["thinking"] for message in server.bodies[0]["messages"][1:4:2]]
    assert thoughts == ["\N{HORIZONTAL ELLIPSIS}"] * 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("edits", [[], [{"type": "clear_thinking_20251015", "keep": "all"}], [BY_USES]])
async def test_a_request_without_effect_is_answered_with_an_empty_list(edits: list[Json], stream: bool) -> None:
    server = Server()
    message = message_of(await ask(ProxyHarness(server, **MOONSHOT), *edits, messages=conversation(1), stream=stream))
    assert message["context_management"] == {"applied_edits": []}
    assert server.bodies[0]["messages"] == conversation(1)
    assert "context_management" not in server.bodies[0]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "server", [Server(line_end="\r\n"), Server(space=""), Server(streams=True), Server(streams=False)]
)
async def test_each_form_of_a_reply_gets_the_report(server: Server, stream: bool) -> None:
    sink = await ask(ProxyHarness(server, **MOONSHOT), BY_USES, stream=stream)
    assert sink.error is None
    assert sink.stream.count(b'"applied_edits":[{"type":"clear_tool_uses_20250919","cleared_tool_uses":2,') == 1


async def test_all_other_bytes_of_the_body_stay() -> None:
    bodies: list[bytes] = []

    def answer(base_url: str, request: Any, credential: Any) -> FakeResponse:
        bodies.append(bytes(request.body))
        return claude(stream=False)

    proxy = ProxyHarness(answer, **MOONSHOT)
    fields = {"model": "kimi-k2", "max_tokens": 9, "x": 1.50, "messages": conversation(), "tools": [READ]}
    body = json.dumps({**fields, "context_management": {"edits": [BY_USES]}}, indent=2).encode()
    await Exchange(proxy.services, new_client_request(body), RecordingSink()).run()
    expected = fields | {"messages": conversation()}
    for place in (2, 4):
        expected["messages"][place]["content"][0]["content"] = CLEARED  # type: ignore[index]
    assert bodies == [json.dumps(expected, indent=2).encode()]


@pytest.mark.parametrize("key", ["messages", "content"])
async def test_a_repeated_member_is_edited_each_time(key: str) -> None:
    server = Server()
    fields = {"model": "kimi-k2", "max_tokens": 9, "messages": conversation(), "tools": [READ]}
    body = json.dumps({**fields, "context_management": {"edits": [BY_USES]}})
    value = json.dumps(conversation() if key == "messages" else conversation()[2]["content"])
    member = f'"{key}": {value}'
    body = body.replace(member, f"{member}, {member}", 1)
    proxy = ProxyHarness(server, **MOONSHOT)
    await Exchange(proxy.services, new_client_request(body.encode()), RecordingSink()).run()
    sent = server.bodies[0]["messages"]
    assert [sent[place]["content"][0]["content"] for place in (2, 4)] == [CLEARED] * 2


@pytest.mark.parametrize("has_counts", [True, False])
async def test_a_count_has_the_tokens_before_and_after(has_counts: bool) -> None:
    proxy = ProxyHarness(Server(has_counts=has_counts), **MOONSHOT)

    async def count(**fields: Any) -> Json:
        asked = {"model": "moonshot/kimi-k2", "tools": [READ], "messages": conversation(), **fields}
        incoming = new_client_request(json.dumps(asked).encode(), path="/v1/messages/count_tokens")
        counted = await count_tokens(proxy.services, incoming, RecordingSink().wait_disconnected)
        found: Json = json.loads(counted.body)
        return found

    whole = await count()
    edited = await count(context_management={"edits": [BY_USES]})
    assert [*whole] == ["input_tokens"]
    assert edited["input_tokens"] < whole["input_tokens"] - 250
    original = edited["context_management"]["original_input_tokens"]
    assert original == pytest.approx(whole["input_tokens"], rel=0.2)


async def test_results_of_server_tools_keep_a_form_of_the_api() -> None:
    server = Server()
    page = {"type": "web_search_result", "url": "https://a.example", "title": "word " * 90, "encrypted_content": ""}
    document = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "word " * 90}}
    contents: list[tuple[str, Any]] = [
        ("web_search", [page]),
        ("web_fetch", {"type": "web_fetch_result", "url": "https://a.example", "content": document}),
        ("web_search", [page]),
    ]
    messages: list[Json] = [{"role": "user", "content": "hello"}]
    for turn, (name, content) in enumerate(contents):
        call = {"type": "server_tool_use", "id": f"srvtoolu_{turn}", "name": name, "input": {}}
        result = {"type": f"{name}_tool_result", "tool_use_id": call["id"], "content": content}
        messages += [{"role": "assistant", "content": [call, result, {"type": "text", "text": "a"}]}]
        messages += [{"role": "user", "content": "And now?"}]
    edit = BY_USES | {"keep": {"type": "tool_uses", "value": 1}}
    await ask(ProxyHarness(server, **MOONSHOT), edit, messages=messages)
    messages[1]["content"][1]["content"] = []
    error = {"type": "web_fetch_tool_result_error", "error_code": "unavailable"}
    messages[3]["content"][1]["content"] = error
    assert server.bodies[0]["messages"] == messages


async def test_an_edit_with_a_summary_below_its_trigger_does_not_change_the_others() -> None:
    server = Server()
    proxy = ProxyHarness(server, **MOONSHOT)
    message = message_of(await ask(proxy, BY_USES, {"type": "compact_20260112"}))
    assert [one["cleared_tool_uses"] for one in message["context_management"]["applied_edits"]] == [2]
    assert [(note.handling, note.reason) for note in proxy.receipts[-1].notes] == [
        ("emulated", EMULATED),
        ("emulated", "the proxy asks a model for the summary, and counts tokens by its own estimate"),
    ]


async def test_a_server_behind_anthropic_in_a_route_gets_an_edited_conversation(tmp_path: Path) -> None:
    route = '[[routes]]\nname = "both"\ntargets = ["anthropic/claude-sonnet-4-5", "moonshot/kimi-k2"]\n'
    (tmp_path / CONFIG_FILE).write_text(route)
    server = Server()

    def answer(base_url: str, request: Any, credential: Any) -> FakeResponse:
        response = server(base_url, request, credential)
        if "anthropic.com" in base_url:
            return FakeResponse(529, b'{"type": "error", "error": {"type": "overloaded_error", "message": "no"}}')
        return response

    keys = {"ANTHROPIC_API_KEY": "sk-ant-0123456789", **MOONSHOT}
    proxy = ProxyHarness(answer, env_file=str(tmp_path / ".env"), **keys)
    message = message_of(await ask(proxy, BY_USES, model="claude-sonnet-4-5"))
    native, *_, edited = server.bodies
    assert (native["context_management"], native["messages"]) == ({"edits": [BY_USES]}, conversation())
    assert [edited["messages"][place]["content"][0]["content"] for place in (2, 4)] == [CLEARED] * 2
    assert message["context_management"]["applied_edits"][0]["cleared_tool_uses"] == 2
