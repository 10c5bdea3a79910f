"""`compact_20260112` at servers with the Messages API that do not compact: the proxy does it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anthropic_proxy.gateway.settings import CONFIG_FILE
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink
from tests.support.tool_loop import WEATHER
from tests.unit.exchange.test_compaction import CLEAR, EDIT, MESSAGES, SHORT, SUMMARY, body_of, entry, results, shown
from tests.unit.exchange.test_inspection import PLACEHOLDER, SECRET, Reader, inspected, redact_secret
from tests.unit.exchange.test_relayed_context_edits import MOONSHOT, message_of

Json = dict[str, Any]
CALL: Json = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Oslo"}}
CONTENT: list[Json] = [
    {"type": "thinking", "thinking": "Hm.", "signature": "s"},
    {"type": "text", "text": 'It says "index":0.'},
    CALL,
]
BLOCK: Json = {"type": "compaction", "content": SUMMARY, "tool_changes": []}
BETAS = {"anthropic-beta": "compact-2026-01-12,context-management-2025-06-27"}
COMPACTED = "the proxy asks a model for the summary, and counts tokens by its own estimate"
OVERLOADED = FakeResponse(529, b'{"type": "error", "error": {"type": "overloaded_error", "message": "no"}}')


def write_events(content: list[Json], stop_reason: str, usage: Json, *, line_end: str, space: str) -> list[bytes]:
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "kimi", "stop_sequence": None}
    events: list[Json] = [
        {"type": "message_start", "message": {**head, "content": [], "stop_reason": None, "usage": usage}},
        {"type": "ping"},
    ]
    for index, written in enumerate(content):
        deltas: list[Json] = []
        block = written
        match block["type"]:
            case "text":
                deltas = [{"type": "text_delta", "text": block["text"][:4]}]
                deltas += [{"type": "text_delta", "text": block["text"][4:]}]
                block = {"type": "text", "text": ""}
            case "thinking":
                deltas = [{"type": "thinking_delta", "thinking": block["thinking"]}]
                deltas += [{"type": "signature_delta", "signature": block["signature"]}]
                block = {"type": "thinking", "thinking": "", "signature": ""}
            case _:
                deltas = [{"type": "input_json_delta", "partial_json": json.dumps(block["input"])}]
                block = {**block, "input": {}}
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    delta = {"stop_reason": stop_reason, "stop_sequence": None}
    events += [{"type": "message_delta", "delta": delta, "usage": usage}, {"type": "message_stop"}]
    return [
        f"event:{space}{event['type']}{line_end}data:{space}{json.dumps(event)}{line_end * 2}".encode()
        for event in events
    ]


def answer(
    *content: Json, stream: bool, tokens: tuple[int, int] = (300, 5), line_end: str = "\n", space: str = " "
) -> FakeResponse:
    usage = {"input_tokens": tokens[0], "output_tokens": tokens[1]}
    stop_reason = "tool_use" if CALL in content else "end_turn"
    if stream:
        events = write_events([*content], stop_reason, usage, line_end=line_end, space=space)
        return FakeResponse(200, *events, headers={"content-type": "text/event-stream"})
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "kimi", "stop_sequence": None}
    whole = {**head, "content": [*content], "stop_reason": stop_reason, "usage": usage}
    return FakeResponse(200, json.dumps(whole, indent=1).encode())


class Server:
    """A server with the Messages API, which writes a summary if it is asked for one, and the requests that it got."""

    def __init__(
        self,
        *content: Json,
        summary: str | None = f"<summary>\n{SUMMARY}\n</summary>",
        answers: Callable[[Json], FakeResponse | None] = lambda _: None,
        **form: Any,
    ) -> None:
        """`summary` None: it is overloaded if it is asked for one. `answers`: may return another reply to a body."""
        self.bodies: list[Json] = []
        self.headers: list[Json] = []
        self._content = content or (*CONTENT,)
        self._summary = summary
        self._answers = answers
        self._form = form

    def __call__(self, base_url: str, request: Any, credential: Any) -> FakeResponse:
        body = json.loads(request.body)
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        if (other := self._answers(body)) is not None:
            return other
        if "between <summary>" in json.dumps(body["messages"][-1]):
            if self._summary is None:
                return FakeResponse(529, *OVERLOADED.chunks)
            return answer({"type": "text", "text": self._summary}, stream=False, tokens=(60_000, 40))
        form = {"stream": bool(body.get("stream")), **self._form}
        return answer(*self._content, **form)


async def compact(proxy: ProxyHarness, edit: Json = EDIT, **fields: Any) -> RecordingSink:
    fields = {"model": "moonshot/kimi-k2", "max_tokens": 400, "tools": [WEATHER], "messages": MESSAGES, **fields}
    return await proxy.post(headers=BETAS, **{"context_management": {"edits": [edit]}, **fields})


@pytest.mark.parametrize(
    ("stream", "form"),
    [
        (False, {}),
        (True, {}),
        (True, {"line_end": "\r\n"}),
        (True, {"space": ""}),
        (True, {"stream": False}),
        (False, {"stream": True}),
    ],
    ids=["whole", "stream", "CRLF", "no space", "whole in place of a stream", "stream in place of a whole"],
)
async def test_the_relayed_reply_begins_with_the_summary(stream: bool, form: Json) -> None:
    server = Server(**form)
    proxy = ProxyHarness(server, **MOONSHOT)
    message = message_of(await compact(proxy, stream=stream, system="Be brief."))
    assert message["content"] == [BLOCK, *CONTENT]
    assert message["stop_reason"] == "tool_use"
    assert message["context_management"] == {"applied_edits": []}
    usage = message["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (300, 5)
    assert usage["iterations"] == [entry("compaction", 60_000, 40), entry("message", 300, 5)]
    asked, sent = server.bodies
    assert asked["messages"][:-1] == MESSAGES[:-1]
    content = [{"type": "text", "text": shown(SUMMARY)}]
    expected = {"model": "kimi-k2", "max_tokens": 400, "system": "Be brief.", "tools": [WEATHER]}
    expected["messages"] = [{"role": "user", "content": content}]
    assert {name: value for name, value in sent.items() if name != "stream"} == expected
    assert not any("anthropic-beta" in headers for headers in server.headers)
    summary, parent = proxy.receipts
    assert (summary.kind, summary.parent, summary.input_tokens, summary.output_tokens) == (
        *("compaction", parent.request_id),
        *(60_000, 40),
    )
    assert (parent.input_tokens, parent.output_tokens, parent.iterations) == (300, 5, ())
    notes = [(note.handling, note.field, note.reason) for note in parent.notes]
    assert notes == [("emulated", "context_management", COMPACTED)]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failed_summary_is_a_block_without_content_before_the_reply(stream: bool) -> None:
    server = Server(summary=None)
    proxy = ProxyHarness(server, **MOONSHOT)
    message = message_of(await compact(proxy, stream=stream))
    assert message["content"] == [{"type": "compaction", "content": None}, *CONTENT]
    assert [one["type"] for one in message["usage"]["iterations"]] == ["compaction", "message"]
    assert server.bodies[-1]["messages"] == MESSAGES
    assert [(note.handling, note.reason) for note in proxy.receipts[-1].notes] == [
        ("emulated", COMPACTED),
        ("approximated", "nothing is summarized: the call failed: overloaded_error"),
    ]


@pytest.mark.parametrize("stream", [False, True])
async def test_below_the_trigger_only_the_calls_are_reported(stream: bool) -> None:
    server = Server()
    message = message_of(await compact(ProxyHarness(server, **MOONSHOT), stream=stream, messages=SHORT))
    assert message["content"] == CONTENT
    assert message["context_management"] == {"applied_edits": []}
    assert message["usage"]["iterations"] == [entry("message", 300, 5)]
    assert [body["messages"] for body in server.bodies] == [SHORT]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_empty_reply_has_the_summary_too(stream: bool) -> None:
    server = Server(answers=lambda body: None if "between <summary>" in str(body) else answer(stream=body["stream"]))
    message = message_of(await compact(ProxyHarness(server, **MOONSHOT), stream=stream))
    assert message["content"] == [BLOCK]


async def test_what_earlier_edits_clear_is_not_summarized() -> None:
    server = Server()
    edits = [CLEAR | {"keep": {"type": "tool_uses", "value": 2}}, EDIT]
    messages = results(30_000, 70_000, 70_000)
    sink = await compact(ProxyHarness(server, **MOONSHOT), messages=messages, context_management={"edits": edits})
    message = message_of(sink)
    assert message["content"][0] == BLOCK
    (applied,) = message["context_management"]["applied_edits"]
    assert (applied["type"], applied["cleared_tool_uses"]) == ("clear_tool_uses_20250919", 1)
    asked = server.bodies[0]
    assert asked["messages"][2]["content"][0]["content"].startswith("[This result was removed")
    assert [message["content"] for message in asked["messages"][3:5]] == [one["content"] for one in messages[3:5]]
    assert "context_management" not in asked


async def test_an_error_behind_the_beginning_of_a_reply_leads_to_another_target(tmp_path: Path) -> None:
    """The summary is no content of the server: until this comes, the next target can be called."""
    route = '[[routes]]\nname = "both"\ntargets = ["moonshot/kimi-k2", "moonshot/kimi-k3"]\n'
    (tmp_path / CONFIG_FILE).write_text(route)
    begun = write_events([], "end_turn", {"input_tokens": 1, "output_tokens": 0}, line_end="\n", space=" ")[:1]
    error = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"no"}}\n\n'

    def fail(body: Json) -> FakeResponse | None:
        if body["model"] == "kimi-k3" or not body["stream"]:
            return None
        return FakeResponse(200, *begun, error, headers={"content-type": "text/event-stream"})

    server = Server(answers=fail)
    proxy = ProxyHarness(server, env_file=str(tmp_path / ".env"), **MOONSHOT)
    message = message_of(await compact(proxy, model="claude-sonnet-4-5", stream=True))
    assert message["content"] == [BLOCK, *CONTENT]
    assert server.bodies[-1]["model"] == "kimi-k3"


@pytest.mark.parametrize("stream", [False, True])
async def test_the_client_gets_back_what_inspectors_redact_in_the_summary(stream: bool) -> None:
    def repeat(body: Json) -> FakeResponse | None:
        sent = json.dumps(body)
        found = PLACEHOLDER.search(sent)
        words = f"It used {found[0] if found else 'nothing'}."
        if "between <summary>" in sent:
            return answer({"type": "text", "text": f"<summary>{words}</summary>"}, stream=False)
        return answer({"type": "text", "text": words}, stream=body["stream"])

    server = Server(answers=repeat)
    said = [{"role": "user", "content": f"Use {SECRET}. {MESSAGES[0]['content']}"}]
    proxy = inspected(server, Reader(redact_secret), **MOONSHOT)
    block, words = message_of(await compact(proxy, messages=said, stream=stream))["content"]
    assert block["content"] == words["text"] == f"It used {SECRET}."
    assert len(server.bodies) == 2
    assert not any(SECRET in json.dumps(body) for body in server.bodies)


async def test_a_summary_replaces_all_before_it_in_the_next_request() -> None:
    server = Server()
    proxy = ProxyHarness(server, **MOONSHOT)
    content = message_of(await compact(proxy))["content"]
    result = {"type": "tool_result", "tool_use_id": CALL["id"], "content": "Wet."}
    later = [*MESSAGES, {"role": "assistant", "content": content}, {"role": "user", "content": [result]}]
    message_of(await compact(proxy, messages=later))
    note = ("emulated", "messages.compaction", "sent as a user message that replaces all earlier ones")
    assert note in [(note.handling, note.field, note.reason) for note in proxy.receipts[-1].notes]
    text = {"type": "text", "text": shown(SUMMARY)}
    replaced = [{"role": "user", "content": [text]}, {"role": "assistant", "content": CONTENT}]
    assert server.bodies[-1]["messages"] == [*replaced, later[-1]]


@pytest.mark.parametrize("kept", [0, 1])
async def test_of_several_summaries_the_newest_counts_and_failed_ones_are_left_out(kept: int) -> None:
    """`kept`: number of blocks behind the newest summary in its reply."""
    failed, old = {"type": "compaction", "content": None}, {"type": "compaction", "content": "Old."}
    text = {"type": "text", "text": "Wet."}
    question = {"role": "user", "content": "And then?"}
    messages = [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": [old, text]},
        question,
        {"role": "assistant", "content": [failed, text, BLOCK, *[text] * kept]},
        question,
        {"role": "assistant", "content": [failed, text]},
        question,
    ]
    server = Server()
    message_of(await compact(ProxyHarness(server, **MOONSHOT), messages=messages))
    assert server.bodies[0]["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": shown(SUMMARY)}]},
        *[{"role": "assistant", "content": [text]}] * kept,
        question,
        {"role": "assistant", "content": [text]},
        question,
    ]


@pytest.mark.parametrize("others", [[], [{"type": "clear_thinking_20251015"}]], ids=["alone", "behind another"])
async def test_anthropic_gets_the_summary_that_was_written_for_another(tmp_path: Path, others: list[Json]) -> None:
    route = '[[routes]]\nname = "both"\ntargets = ["moonshot/kimi-k2", "anthropic/claude-sonnet-4-5"]\n'
    (tmp_path / CONFIG_FILE).write_text(route)

    def fail(body: Json) -> FakeResponse | None:
        is_summary = "between <summary>" in str(body)
        return FakeResponse(529, *OVERLOADED.chunks) if body["model"] == "kimi-k2" and not is_summary else None

    server = Server(answers=fail)
    keys = {"ANTHROPIC_API_KEY": "sk-ant-0123456789", **MOONSHOT}
    proxy = ProxyHarness(server, env_file=str(tmp_path / ".env"), **keys)
    fields: Json = {
        "model": "claude-sonnet-4-5",
        "max_tokens": 400,
        "messages": MESSAGES,
        "thinking": {"type": "adaptive"},
    }
    sink = await proxy.post(headers=BETAS, context_management={"edits": [*others, EDIT]}, **fields)
    message = message_of(sink)
    assert message["content"] == [BLOCK, *CONTENT]
    sent = server.bodies[-1]
    assert sent["messages"] == [{"role": "user", "content": [{"type": "text", "text": shown(SUMMARY)}]}]
    assert "context_management" not in sent
    assert "anthropic-beta" not in server.headers[-1]


async def test_a_server_behind_one_that_summarizes_itself_gets_the_whole_conversation(tmp_path: Path) -> None:
    route = '[[routes]]\nname = "both"\ntargets = ["anthropic/claude-sonnet-4-5", "moonshot/kimi-k2"]\n'
    (tmp_path / CONFIG_FILE).write_text(route)
    server = Server(answers=lambda body: FakeResponse(529, *OVERLOADED.chunks) if "claude" in body["model"] else None)
    keys = {"ANTHROPIC_API_KEY": "sk-ant-0123456789", **MOONSHOT}
    proxy = ProxyHarness(server, env_file=str(tmp_path / ".env"), **keys)
    message = message_of(await compact(proxy, model="claude-sonnet-4-5"))
    assert message["content"] == CONTENT
    assert server.bodies[-1]["messages"] == MESSAGES
    notes = [(note.handling, note.reason) for note in proxy.receipts[-1].notes]
    assert notes == [
        ("approximated", "nothing is summarized for a server that is called after one that does it itself")
    ]


OWN = '[providers.own]\nbase_url = "http://own.test"\nwire = "messages"\n'


async def test_an_own_server_is_not_believed_to_summarize(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text(OWN)
    server = Server()
    proxy = ProxyHarness(server, env_file=str(tmp_path / ".env"))
    message = message_of(await compact(proxy, model="own/m"))
    assert message["content"] == [BLOCK, *CONTENT]
    message = body_of(await summarize(proxy))
    assert ([block["content"] for block in message["content"]], message["stop_reason"]) == ([SUMMARY], "compaction")
    assert not any({"compaction", "context_management"} & {*body} for body in server.bodies)


async def summarize(proxy: ProxyHarness, model: str = "own/m") -> RecordingSink:
    fields: Json = {"model": model, "max_tokens": 400, "messages": SHORT, "compaction": {"type": "summarize"}}
    return await proxy.post(headers={"anthropic-beta": "compact-2026-09-04"}, **fields)


async def test_an_own_server_that_is_known_to_summarize_does_it_itself(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text(OWN + "dialect = { unproven_betas = [] }\n")
    server = Server()
    proxy = ProxyHarness(server, env_file=str(tmp_path / ".env"))
    fields = {"tools": [WEATHER], "messages": MESSAGES, "context_management": {"edits": [EDIT]}}
    assert (await compact(proxy, model="own/m")).error is None
    assert server.bodies == [{"model": "m", "max_tokens": 400, **fields}]
    assert server.headers[0]["anthropic-beta"] == BETAS["anthropic-beta"]


@pytest.mark.parametrize("edit", [{"type": "clear_thinking_20251015", "keep": "all"}, {"type": "newer_20270101"}])
async def test_an_own_server_gets_edits_that_the_proxy_does_not_make(tmp_path: Path, edit: Json) -> None:
    (tmp_path / CONFIG_FILE).write_text(OWN)
    server = Server()
    await compact(ProxyHarness(server, env_file=str(tmp_path / ".env")), edit, model="own/m")
    assert server.bodies[0]["context_management"] == {"edits": [edit]}


def reject(message: str, *names: str) -> Callable[[Json], FakeResponse | None]:
    """A server that rejects all bodies with one of these words."""
    error = {"type": "error", "error": {"type": "invalid_request_error", "message": message}}

    def answers(body: Json) -> FakeResponse | None:
        return (
            FakeResponse(400, json.dumps(error).encode()) if any(name in json.dumps(body) for name in names) else None
        )

    return answers


@pytest.mark.parametrize(
    "message",
    [
        "compaction: Extra inputs are not permitted",
        "Unexpected value(s) `compact-2026-09-04` for the `anthropic-beta` header.",
    ],
    ids=["field", "beta"],
)
async def test_a_server_that_has_rejected_a_summary_is_not_asked_again(tmp_path: Path, message: str) -> None:
    """No other reply is in place of the first summary."""
    (tmp_path / CONFIG_FILE).write_text(OWN + "dialect = { unproven_betas = [] }\n")
    server = Server(answers=reject(message, '"compaction":'))
    proxy = ProxyHarness(server, env_file=str(tmp_path / ".env"))
    error = (await summarize(proxy)).error
    assert error is not None
    assert (error.status, error.message) == (400, f"own: {message}")
    assert ["compaction" in body for body in server.bodies] == [True]
    assert [block["content"] for block in body_of(await summarize(proxy))["content"]] == [SUMMARY]
    assert ["compaction" in body for body in server.bodies] == [True, False]


@pytest.mark.parametrize(
    "message",
    [
        "context_management: Extra inputs are not permitted",
        "context_management.edits: Extra inputs are not permitted",
        "context_management.edits.0: Input tag 'compact_20260112' found using 'type' does not match any of the tags",
        "Unexpected value(s) `compact-2026-01-12` for the `anthropic-beta` header.",
    ],
    ids=["field", "list", "edit", "beta"],
)
async def test_after_a_rejected_edit_the_proxy_makes_it_for_later_requests(tmp_path: Path, message: str) -> None:
    (tmp_path / CONFIG_FILE).write_text(OWN + "dialect = { unproven_betas = [] }\n")
    is_of_beta = "anthropic-beta" in message
    server = Server()

    def answers(body: Json) -> FakeResponse | None:
        if is_of_beta:
            rejects = "compact-2026-01-12" in server.headers[-1].get("anthropic-beta", "")
            return reject(message, "model")(body) if rejects else None
        return reject(message, '"compact_20260112"')(body)

    server._answers = answers
    proxy = ProxyHarness(server, env_file=str(tmp_path / ".env"))
    assert json.loads((await compact(proxy, model="own/m")).stream)["content"] == CONTENT
    before = len(server.bodies)
    assert message_of(await compact(proxy, model="own/m"))["content"] == [BLOCK, *CONTENT]
    assert len(server.bodies) == before + 2
