"""A body that JSON parsers read in different ways means the same to every part of the proxy that reads it."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from msgspec import Struct, structs

from anthropic_proxy.engine.exchange.exchange import Exchange
from anthropic_proxy.engine.exchange.forwarding import count_tokens, forward_resource
from anthropic_proxy.errors import ProxyError
from anthropic_proxy.plugins import Client, InspectedTexts, InspectorScope, Redaction
from tests.support.harness import FakeResponse, ProxyHarness, RecordingSink, new_client_request
from tests.support.replies import CHAT, GEMINI, MESSAGES, OLLAMA, RESPONSES, Reply, ReplyForm

Json = dict[str, Any]
OPENAI = {"OPENAI_API_KEY": "sk-test-0123456789", "OPENAI_WIRE": "chat"}
CLAUDE = {"ANTHROPIC_API_KEY": "sk-ant-test-0123456789", "BIG_MODEL": "claude-opus-4-5"}
DEEPSEEK = {  # a relay to a server that makes no edits
    "OPENAI_API_KEY": "sk-0123456789",
    "OPENAI_BASE_URL": "https://api.deepseek.com/anthropic",
    "OPENAI_WIRE": "messages",
}
SUMMARY = "the summary that you write now replaces it"
CHECK = "safety check of a coding agent"
LONG = " w" * 90_000
QUESTION = {"type": "tool_use", "id": "t", "name": "Bash", "input": {"command": "ls", "n": 5}}
TOOLS = [{"name": "Bash", "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}}}]
BODY: Json = {
    "model": "claude-sonnet-4-5",
    "max_tokens": 500,
    "tools": TOOLS,
    "messages": [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": [QUESTION]},
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "t", "content": "a file @" + LONG}],
        },
    ],
}
SUMMARIZE: Json = {"compaction": {"type": "summarize", "instructions": "Keep @."}}
TRIGGER = {"type": "input_tokens", "value": 50_000}
COMPACT: Json = {
    "context_management": {"edits": [{"type": "compact_20260112", "instructions": "Keep @.", "trigger": TRIGGER}]}
}
CLEAR: Json = {
    "context_management": {
        "edits": [
            {
                "type": "clear_tool_uses_20250919",
                "trigger": {"type": "tool_uses", "value": 1},
                "keep": {"type": "tool_uses", "value": 0},
            }
        ]
    }
}
SAFEGUARDS: Json = {
    "safeguards": [{"type": "dangerous_tool_use", "classifier_context": {"auto_mode": {"hard_deny": ["@"], "n": 5}}}]
}


def half(body: bytes) -> bytes:
    return body.replace(b"@", b"\\ud83d")


def repeated(body: bytes) -> bytes:
    return body.replace(b'{"model"', b'{"max_tokens":7,"model"').replace(
        b'"content":"go"', b'"content":"no","content":"go"'
    )


ODD: Mapping[str, Callable[[bytes], bytes]] = {
    "a byte order mark": lambda body: b"\xef\xbb\xbf" + body,
    "half a character": half,
    "a repeated key": repeated,
    "a number beyond range": lambda body: body.replace(b'"n":5', b'"n":1e999'),
    "an integer beyond range": lambda body: body.replace(b'"n":5', b'"n":1%b' % (b"0" * 400)),
    "all of them": lambda body: b"\xef\xbb\xbf" + half(repeated(body)).replace(b'"n":5', b'"n":1e999'),
}
UNREADABLE: Mapping[str, Callable[[bytes], bytes]] = {
    "no UTF-8": lambda body: body.replace(b"@", b"\xff"),
    "cut off": lambda body: body[:-3],
    "a raw line end in a text": lambda body: body.replace(b"@", b"\n"),
    "nested too deeply": lambda body: body[:-1] + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
}


class Outcome(Struct):
    status: int
    text: str
    """What the client gets."""
    sent: Sequence[str]
    """Bodies that servers got, with the odd parts as they are in a plain body."""


class Server:
    def __init__(self, form: ReplyForm, *, calls: bool) -> None:
        self.sent: list[bytes] = []
        self._form = form
        self._calls = [("call_1", "Bash", ['{"command":"rm -rf x"}'])] if calls else []

    def __call__(self, _: str, request: Any, __: Any) -> FakeResponse:
        self.sent.append(request.body)
        if request.path.endswith(("count_tokens", "input_tokens")):
            return FakeResponse(200, b'{"input_tokens":%d}' % len(json.dumps(json.loads(plain(request.body)))))
        if request.path.endswith("batches"):
            return FakeResponse(200, b'{"id":"msgbatch_1"}', headers={"content-type": "application/json"})
        text = request.body.decode(errors="replace")
        words = "ok"
        if SUMMARY in text:
            words = "<summary>\nthe work so far\n</summary>"
        elif CHECK in text:
            words = '{"rule": "", "verdict": "harmless", "explanation": ""}'
        reply = Reply(texts=[words], calls=[] if CHECK in text else self._calls)
        stream = json.loads(plain(request.body)).get("stream")
        frames = self._form.stream(reply) if stream else [self._form.whole(reply)]
        kind = "text/event-stream" if stream else "application/json"
        return FakeResponse(200, *frames, headers={"content-type": kind})


def plain(sent: bytes) -> str:
    """A body as a server with a tolerant parser reads it, with the parts of a plain body in place of odd ones."""
    text = sent.decode("utf-8-sig", errors="replace")
    for odd in ("\\ud83d", "\\ufffd", "\ufffd"):
        text = text.replace(odd, "@")
    return text.replace("1e999", "5").replace("1" + "0" * 400, "5")


class Keys:
    """An inspector that redacts nothing: its placeholders are random."""

    scope = InspectorScope(name="keys")

    async def inspect(self, texts: InspectedTexts) -> Sequence[Redaction]:
        return [
            Redaction(place, 0, 2, "go", "GO") for place, passage in enumerate(texts.passages) if passage.text == "go"
        ]

    def find_open_end(self, text: str) -> int:
        return len(text)


class Way(Struct):
    """A part of the proxy that reads bodies."""

    settings: Mapping[str, str]
    form: ReplyForm
    fields: Json = {}
    path: str = "/v1/messages"
    client: Client = Client(credential_forwardable=True)
    headers: Mapping[str, str] = {}
    inspectors: Sequence[Any] = ()

    async def send(self, change: Callable[[bytes], bytes]) -> Outcome:
        server = Server(self.form, calls="safeguards" in self.fields)
        built = ProxyHarness(server, **self.settings)
        built.services = structs.replace(built.services, inspectors=self.inspectors)
        asked = {**BODY, **self.fields}
        if self.path.endswith("batches"):
            asked = {"requests": [{"custom_id": "a", "params": asked}, {"custom_id": "b", "params": asked}]}
        body = change(json.dumps(asked, separators=(",", ":")).encode())
        incoming = new_client_request(body, self.headers, client=self.client, path=self.path)
        sink = RecordingSink()
        sink.receipt = incoming.receipt
        text = ""
        try:
            if self.path == "/v1/messages":
                await Exchange(built.services, incoming, sink).run()
            elif self.path.endswith("count_tokens"):
                text = (await count_tokens(built.services, incoming, sink.wait_disconnected)).body.decode()
            else:
                await forward_resource(built.services, incoming, "POST", sink)
        except ProxyError as error:
            sink.error = error
        assert "Traceback" not in built.log.getvalue()
        if sink.error is not None:
            return Outcome(sink.error.status, sink.error.message, [])
        text = text or (json.dumps(sink.body) if sink.body else sink.stream.decode())
        if self.path.endswith("count_tokens") and not server.sent:
            text = f"{len(text)} characters: the estimate depends on the characters"
        return Outcome(200, text, [json.dumps(json.loads(plain(each)), sort_keys=True) for each in server.sent if each])


COUNT = "/v1/messages/count_tokens"
BETAS = {"anthropic-beta": "context-management-2025-06-27,compact-2026-01-12,compact-2026-09-04"}
RESTRICTED = Client(credential_forwardable=True, is_restricted=True)
WAYS: Mapping[str, Way] = {
    "message": Way(OPENAI, CHAT),
    "message, relayed": Way(CLAUDE, MESSAGES),
    "message, relayed with edits": Way(DEEPSEEK, MESSAGES, {"metadata": {"user_id": "u"}}),
    "message, relayed for a restricted key": Way(CLAUDE, MESSAGES, {"unknown": 1}, client=RESTRICTED),
    "message, inspected": Way(OPENAI, CHAT, inspectors=[Keys()]),
    "message, relayed and inspected": Way(CLAUDE, MESSAGES, inspectors=[Keys()]),
    "count": Way({**OPENAI, "OPENAI_WIRE": "responses"}, CHAT, path=COUNT),
    "count, estimated": Way(OPENAI, CHAT, path=COUNT),
    "count, relayed": Way(CLAUDE, MESSAGES, path=COUNT),
    "count with edits": Way({**OPENAI, "OPENAI_WIRE": "responses"}, CHAT, CLEAR, path=COUNT),
    "count with edits, relayed": Way(DEEPSEEK, MESSAGES, CLEAR, path=COUNT),
    "summary by the field": Way(OPENAI, CHAT, SUMMARIZE),
    "summary by the field, relayed": Way(DEEPSEEK, MESSAGES, SUMMARIZE, headers=BETAS),
    "summary by the edit": Way(OPENAI, CHAT, COMPACT),
    "summary by the edit, relayed": Way(DEEPSEEK, MESSAGES, COMPACT, headers=BETAS),
    "edits": Way(OPENAI, CHAT, CLEAR),
    "edits, relayed": Way(DEEPSEEK, MESSAGES, CLEAR, headers=BETAS),
    "checks": Way(OPENAI, CHAT, SAFEGUARDS),
    "checks, relayed": Way(DEEPSEEK, MESSAGES, SAFEGUARDS),
    "batch": Way(CLAUDE, MESSAGES, path="/v1/messages/batches"),
    "batch, inspected": Way(CLAUDE, MESSAGES, path="/v1/messages/batches", inspectors=[Keys()]),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("way", WAYS)
async def test_an_odd_body_is_read_like_a_plain_one(way: str, odd: str) -> None:
    assert await WAYS[way].send(ODD[odd]) == await WAYS[way].send(lambda body: body)


@pytest.mark.parametrize("odd", UNREADABLE)
@pytest.mark.parametrize("way", WAYS)
async def test_an_unreadable_body_is_an_invalid_request_everywhere(way: str, odd: str) -> None:
    """The provider of a relay judges what the proxy does not have to read."""
    outcome = await WAYS[way].send(UNREADABLE[odd])
    if outcome.status == 200:
        is_relayed = WAYS[way].form is MESSAGES and not WAYS[way].inspectors
        assert is_relayed
        assert odd == "no UTF-8" or way in ("message, relayed", "count, relayed")
    else:
        assert outcome.text.startswith("The request body "), outcome
        assert outcome.status == 400


HUGE = "1e999"
UNREAD_NUMBERS: Json = {
    "tools": [
        *TOOLS,
        {"type": "web_search_20250305", "name": "web_search", "user_location": {"type": "approximate", "x": HUGE}},
        {"type": "web_fetch_20250910", "name": "web_fetch", "citations": {"enabled": False, "x": HUGE}},
    ],
    "metadata": {"user_id": "u", "x": HUGE},
    "x": HUGE,
    "context_management": {"edits": [{"type": "clear_tool_uses_20250919", "keep": {"type": "tool_uses", "value": 9}}]},
    "messages": [
        {
            "role": "user",
            "content": [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral", "x": HUGE}}],
        },
        {
            "role": "assistant",
            "content": [
                {
                    "type": "server_tool_use",
                    "id": "srvtoolu_1",
                    "name": "web_search",
                    "input": {"query": "q", "x": HUGE},
                },
                {
                    "type": "web_search_tool_result",
                    "tool_use_id": "srvtoolu_1",
                    "content": [
                        {"type": "web_search_result", "url": "u", "title": "t", "encrypted_content": "e", "x": HUGE}
                    ],
                },
                {"type": "mcp_tool_use", "id": "mcptoolu_1", "name": "n", "server_name": "s", "input": {"x": HUGE}},
                {
                    "type": "mcp_tool_result",
                    "tool_use_id": "mcptoolu_1",
                    "content": [{"type": "text", "text": "t", "x": HUGE}],
                },
                {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "ls", "x": HUGE}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "t1",
                    "content": [
                        {"type": "text", "text": "r", "x": HUGE},
                        {
                            "type": "search_result",
                            "source": "s",
                            "title": "t",
                            "content": [{"type": "text", "text": "q"}],
                        },
                    ],
                    "x": HUGE,
                }
            ],
        },
    ],
}
WIRES: Mapping[str, tuple[Mapping[str, str], ReplyForm]] = {
    "chat": (OPENAI, CHAT),
    "responses": ({**OPENAI, "OPENAI_WIRE": "responses"}, RESPONSES),
    "gemini": ({"GEMINI_API_KEY": "AIza-test-0123456789", "PREFERRED_PROVIDER": "google"}, GEMINI),
    "ollama": ({"PREFERRED_PROVIDER": "ollama", "OLLAMA_BASE_URL": "http://127.0.0.1:1", "BIG_MODEL": "m"}, OLLAMA),
    "relay": (CLAUDE, MESSAGES),
    "relay with edits": (DEEPSEEK, MESSAGES),
}


@pytest.mark.parametrize("path", ["/v1/messages", COUNT])
@pytest.mark.parametrize("wire", WIRES)
async def test_a_number_beyond_range_that_nobody_reads_is_no_fault(wire: str, path: str) -> None:
    settings, form = WIRES[wire]
    way = Way(settings, form, UNREAD_NUMBERS, path=path)
    outcome = await way.send(lambda body: body.replace(b'"1e999"', b"1e999"))
    assert outcome.status == 200, outcome.text
