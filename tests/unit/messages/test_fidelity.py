"""The report on the losses of a request to client, log and observers, and the rejection with `FIDELITY=strict`."""

import asyncio
import io
import json
from typing import Any

import pytest
from msgspec import structs

from anthropic_proxy.engine.messages.fidelity import MAX_NOTES, FidelityNote, FidelityReport
from anthropic_proxy.engine.wires.upstream_http import Credential, UpstreamRequest
from anthropic_proxy.gateway.server.endpoints import serve_request
from anthropic_proxy.gateway.telemetry.log import Log
from tests.matrix.backends import BACKENDS, Backend
from tests.matrix.cells import encode_upstream, sample
from tests.support.harness import FakeResponse, ProxyHarness
from tests.support.tool_loop import Searcher

KEYS = {"OPENAI_API_KEY": "k", "GROQ_API_KEY": "k"}
WELL = json.dumps(
    {"choices": [{"index": 0, "message": {"role": "assistant", "content": "well"}, "finish_reason": "stop"}]}
).encode()


class FakeProvider:
    """Answers with these in turn, then well; remembers the bodies."""

    def __init__(self, *answers: FakeResponse) -> None:
        self.bodies: list[dict[str, Any]] = []
        self._answers = list(answers)

    def __call__(self, base_url: str, request: UpstreamRequest, credential: Credential | None) -> FakeResponse:
        self.bodies.append({"at": base_url, **json.loads(request.body)})
        return self._answers.pop(0) if self._answers else FakeResponse(200, WELL)


def failure(status: int, message: str = "no", param: str | None = None) -> FakeResponse:
    error = {"message": message, "type": "x", "code": None, "param": param}
    return FakeResponse(status, json.dumps({"error": error}).encode())


def test_a_note_counts_once_and_what_was_kept_does_not() -> None:
    report = FidelityReport()
    report.add_notes([FidelityNote("dropped", "top_k", "none"), FidelityNote("kept", "store", "said otherwise")])
    report.add_notes([FidelityNote("dropped", "top_k", "none"), FidelityNote("emulated", "stop_sequences", "here")])
    assert report.format_counts() == "best-effort; approximated=0; emulated=1; dropped=1"
    report.clear_notes()
    assert (report.notes, report.format_counts()) == ([], "best-effort; approximated=0; emulated=0; dropped=0")


async def knock(proxy: ProxyHarness, **fields: Any) -> tuple[int, dict[str, str]]:
    """Ask at the door; return status and headers of the answer."""
    body = {"model": "claude-sonnet-4-5", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}], **fields}
    sent: list[Any] = []
    asked = iter([{"type": "http.request", "body": json.dumps(body).encode()}])

    async def receive() -> Any:
        return next(asked, None) or await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/messages", "query_string": b"", "client": ("127.0.0.1", 1)}
    await serve_request(proxy.services, {**scope, "headers": [(b"host", b"localhost")]}, receive, send)
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}


@pytest.mark.parametrize("stream", [False, True])
async def test_every_reply_has_the_headers_and_an_error_names_the_attempt(stream: bool) -> None:
    chain = {**KEYS, "FALLBACK_SONNET": "groq/llama-3.3-70b-versatile"}
    status, headers = await knock(ProxyHarness(FakeProvider(failure(503)), **chain), top_k=5, stream=stream)
    assert (status, headers["x-proxy-failed-attempts"]) == (200, "openai 503")
    assert headers["x-proxy-fidelity"] == "best-effort; approximated=0; emulated=0; dropped=1"
    status, headers = await knock(ProxyHarness(FakeProvider(), **KEYS), stream=stream)
    assert (status, "x-proxy-failed-attempts" in headers) == (200, False)
    status, headers = await knock(
        ProxyHarness(FakeProvider(failure(503), failure(400), failure(400)), **chain), stream=stream
    )
    assert (status, headers["x-proxy-failed-attempts"]) == (400, "openai 503, openai 400")
    assert "x-proxy-fidelity" not in headers


@pytest.mark.parametrize("stream", [False, True])
async def test_a_relay_has_nothing_to_note(stream: bool) -> None:
    whole = {"type": "message", "role": "assistant", "content": [], "stop_reason": "end_turn", "usage": {}}
    start = {"type": "message_start", "message": {**whole, "id": "msg_1", "model": "m", "stop_reason": None}}
    events: tuple[dict[str, Any], ...] = (
        start,
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        {"type": "message_stop"},
    )
    event_bytes = b"".join(b"event: %b\ndata: %b\n\n" % (e["type"].encode(), json.dumps(e).encode()) for e in events)
    answer = FakeResponse(200, event_bytes if stream else json.dumps(whole).encode())
    proxy = ProxyHarness(FakeProvider(answer), ANTHROPIC_API_KEY="k", FIDELITY="strict")
    status, headers = await knock(proxy, top_k=5, container="c", inference_geo="eu", stream=stream)
    assert status == 200
    assert headers["x-proxy-fidelity"] == "strict; approximated=0; emulated=0; dropped=0"


CHAT = {"OPENAI_API_KEY": "k", "OPENAI_WIRE": "chat", "FIDELITY": "strict"}


async def test_a_search_without_a_service_is_a_loss() -> None:
    search = {"type": "web_search_20250305", "name": "web_search"}
    sink = await ProxyHarness(FakeProvider(), **CHAT).post(tools=[search])
    assert sink.error.message == (
        "openai/gpt-4.1 would lose tools.web_search: openai is not known to run web_search_20250305, "
        "and SEARCH_URL is not set, so each search fails. "
        "FIDELITY=strict rejects this. Remove it from the request, choose another backend, or allow "
        "it with FIDELITY=best-effort (FIDELITY_<TIER> for one tier)."
    )
    proxy = ProxyHarness(FakeProvider(), **CHAT)

    proxy.services = structs.replace(proxy.services, web_search=Searcher([]))
    sink = await proxy.post(tools=[search])
    assert sink.error is None
    assert sink.receipt.fidelity.format_counts().endswith("emulated=1; dropped=0")


async def test_the_log_of_machines_has_policy_counts_and_notes() -> None:
    proxy = ProxyHarness(FakeProvider(), OPENAI_API_KEY="k", FIDELITY_SONNET="best-effort")
    stream = io.StringIO()
    proxy.services = structs.replace(proxy.services, log=Log(stream, "json"))
    await proxy.post(top_k=5, max_tokens=100)
    assert json.loads(stream.getvalue())["fidelity"] == {
        "mode": "best-effort",
        "approximated": 0,
        "emulated": 0,
        "dropped": 1,
        "notes": [{"handling": "dropped", "field": "top_k", "reason": "not sent; no setting for it is known"}],
    }


# Claude Code: the shapes of its ordinary requests, to every backend that has no reason to refuse them.

SYSTEM = [
    {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.328.0a1; cc_entrypoint=sdk-cli;"},
    {"type": "text", "text": "You are Claude Code.", "cache_control": {"type": "ephemeral"}},
    {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}},
]
PATH_SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "path": {"type": "string", "minLength": 1, "pattern": "^/", "format": "uri"},
        "limit": {"type": "integer", "exclusiveMinimum": 0, "maximum": 9007199254740991, "default": 10},
        "rest": {},
    },
    "required": ["path"],
    "additionalProperties": False,
}
TOOLS = [
    {"name": "Read", "description": "Reads a file.", "input_schema": PATH_SCHEMA},
    {"name": "mcp__files__find", "description": "Finds files.", "input_schema": PATH_SCHEMA, "defer_loading": True},
    {"name": "DeferredToolPlaceholder", "input_schema": {"type": "object", "properties": {}}},
]
MAIN = {
    "system": SYSTEM,
    "tools": TOOLS,
    "max_tokens": 128_000,
    "thinking": {"type": "adaptive", "display": "omitted"},
    "output_config": {"effort": "medium"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "metadata": {"user_id": '{"device_id":"0f","account_uuid":"","session_id":"6b1c"}'},
    "safeguards": [{"type": "dangerous_tool_use", "classifier_context": {}}],
    "stream": True,
}
FIRST = [
    {"role": "user", "content": [{"type": "text", "text": "<system-reminder>x</system-reminder>"}]},
    {"role": "system", "content": [{"type": "text", "text": "Today.", "cache_control": {"type": "ephemeral"}}]},
]
LATER = [
    {"role": "user", "content": "Read both"},
    {"role": "system", "content": "Today."},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "Both.", "signature": "px1.other.e30"},
            {"type": "text", "text": "I read."},
            {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"path": "/a"}},
            {"type": "tool_use", "id": "toolu_2", "name": "ToolSearch", "input": {"query": "select:WebFetch"}},
        ],
    },
    {
        "role": "user",
        "content": [
            {
                "type": "tool_result",
                "tool_use_id": "toolu_2",
                "content": [{"type": "tool_reference", "tool_name": "WebFetch"}],
            },
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": "No such file", "is_error": True},
            {"type": "text", "text": "Tool loaded.", "cache_control": {"type": "ephemeral"}},
        ],
    },
]
TITLE_SCHEMA = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}
CLAUDE_CODE: dict[str, dict[str, Any]] = {
    "first": {**MAIN, "messages": FIRST},
    "later": {**MAIN, "messages": LATER},
    "of an older id": {
        **MAIN,
        "messages": LATER,
        "max_tokens": 32_000,
        "thinking": {"type": "enabled", "budget_tokens": 31_999, "display": "omitted"},
    },
    "not streamed": {**MAIN, "messages": LATER, "stream": False, "max_tokens": 64_000},
    "title": {
        "system": SYSTEM,
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 32_000,
        "output_config": {"format": {"type": "json_schema", "schema": TITLE_SCHEMA}},
        "stream": True,
    },
    "probe": {"messages": [{"role": "user", "content": "quota"}], "max_tokens": 1},
}


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.title)
@pytest.mark.parametrize("kind", CLAUDE_CODE)
def test_ordinary_requests_of_claude_code_pass_under_strict(kind: str, backend: Backend) -> None:
    target = backend.target()
    if target.is_relayed:
        return
    notes, _ = encode_upstream(sample(CLAUDE_CODE[kind], target), target)
    assert [note for note in notes if note.handling == "dropped"] == []


async def test_a_note_has_the_clients_name_of_a_tool() -> None:
    proxy = ProxyHarness(FakeProvider(), OPENAI_API_KEY="k", OPENAI_WIRE="chat")
    tools = [
        {"name": "mcp.read file", "strict": True, "input_schema": {"type": "object", "properties": {"a": {}}}},
        {"name": "plain", "strict": True, "input_schema": {"type": "object", "properties": {"a": {}}}},
    ]
    assert (await proxy.post(tools=tools)).body
    why = "strict was not sent: the schema does not fit strict mode"
    assert [note for note in proxy.receipts[0].notes if note.field.startswith("tools")] == [
        FidelityNote("approximated", "tools.mcp.read file", why),
        FidelityNote("approximated", "tools.plain", why),
    ]


def test_the_notes_of_a_request_have_a_bound() -> None:
    report = FidelityReport(mode="strict")
    report.add_notes([FidelityNote("approximated", f"tools.{'n' * 1_000_000}", "r")])
    report.add_notes([FidelityNote("emulated", f"tools.{number}", "r") for number in range(2 * MAX_NOTES)])
    losses = [FidelityNote("dropped", f"tools.{number}", "r") for number in range(5)]
    report.add_notes(losses)
    assert report.notes[0] == FidelityNote("approximated", f"tools.{'n' * 494}…", "r")
    assert (len(report.notes), report.list_rejected_losses()) == (MAX_NOTES + 1, losses[:1])
    assert (report.approximated, report.emulated, report.dropped) == (1, 2 * MAX_NOTES, 5)


async def test_a_note_has_no_words_in_place_of_a_media_type() -> None:
    proxy = ProxyHarness(FakeProvider(), OPENAI_API_KEY="k", OPENAI_WIRE="chat")
    source = {"type": "base64", "media_type": "the merger is on Friday", "data": "aaaa"}
    assert (await proxy.post(messages=[{"role": "user", "content": [{"type": "document", "source": source}]}])).body
    why = "replaced by a text: the model is not known to accept documents of type unknown"
    assert FidelityNote("dropped", "messages.document", why) in proxy.receipts[0].notes
