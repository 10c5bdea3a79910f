"""Requests that the proxy sends itself because of a client that may not reach their provider."""

import json
from collections.abc import Callable
from typing import Any

from tests.attacks.lab import Attack, Row, ordinary
from tests.attacks.rows.verdicts import BASH, SAFEGUARDS, is_check
from tests.attacks.upstream import UpstreamCall, reply_text, respond
from tests.faults.client import Answer
from tests.support.replies import Reply as Content
from tests.support.waiting import wait_for

_ADMIN = "attack-admin-key-01"
_SETTINGS = {
    "VIRTUAL_KEYS": "true",
    "DATABASE_URL": "sqlite:///{directory}/keys.sqlite3",
    "ADMIN_API_KEY": _ADMIN,
    "PROXY_API_KEY": "attack-proxy-key-0001",
    "OPENAI_WIRE": "chat",
    "SMALL_MODEL": "openai/gpt-4.1-mini",
}
_CONFIGURATION = """
[auto_mode]
model = "openai/gpt-4.1"
confirm_with = "gemini/gemini-2.5-pro"

[[routes]]
name = "here"
when.header = { x-data = "here" }
targets = ["ollama/llama3"]
web = false
"""
_MARK = "walrus-of-the-client"
_MESSAGES = [{"role": "user", "content": _MARK}]
_SEARCH = [{"type": "web_search_20250305", "name": "web_search"}]
_FETCH = [{"type": "web_fetch_20250910", "name": "web_fetch"}]
_MODEL = "ollama/llama3"
_MESSAGE = {"model": _MODEL, "max_tokens": 100, "messages": _MESSAGES}
_IMAGE = {"type": "image", "source": {"type": "url", "url": "http://127.0.0.1:9/x.png"}}
_SCHEMA = {
    "type": "json_schema",
    "schema": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
}

_ADVISOR = {"type": "advisor_20260301", "name": "advisor", "model": "claude-opus-5-5"}
_PYTHON = {"type": "code_execution_20250825", "name": "code_execution"}
_TOOL_SEARCH = {"type": "tool_search_tool_bm25_20251119", "name": "tool_search_tool_bm25"}
_SERVER = {"type": "url", "name": "m", "url": "http://127.0.0.1:9"}
_QUESTION = [{"role": "user", "content": "quota"}]
_WITH_IMAGE = [{"role": "user", "content": [_IMAGE, {"type": "text", "text": _MARK}]}]
_CHECKED = {"tools": [BASH], "safeguards": SAFEGUARDS}
_OTHER = {**_MESSAGE, "model": "claude-opus-5-5"}
_FIELDS: dict[str, dict[str, Any]] = {
    "a check of a call": _CHECKED,
    "a streamed check": {**_CHECKED, "stream": True},
    "a check with a model": {**_CHECKED, "safeguards": [{**SAFEGUARDS[0], "model": "openai/gpt-4.1"}]},
    "a question of the classifier": {"stop_sequences": ["</block>"]},
    "a question of the classifier for an alias": {"model": "claude-haiku-4-5", "stop_sequences": ["</block>"]},
    "a warm-up": {"max_tokens": 0, "model": "claude-opus-5-5"},
    "a question about the limits": {"max_tokens": 1, "messages": _QUESTION},
    "a search": {"tools": _SEARCH},
    "a fetch": {"tools": _FETCH},
    "an image to load": {"messages": _WITH_IMAGE},
    "a schema that the reply breaks": {"output_config": {"format": _SCHEMA}},
    "fallbacks of the client": {"fallbacks": [{"model": "claude-opus-5-5"}]},
    "an advisor": {"tools": [_ADVISOR]},
    "MCP servers": {"mcp_servers": [_SERVER]},
    "a container": {"container": "c", "tools": [_PYTHON]},
    "a search for tools": {"tools": [{**BASH, "defer_loading": True}, _TOOL_SEARCH]},
    "a compaction": {"context_management": {"edits": [{"type": "compact_20260112"}]}},
    "a summary": {"compaction": {"type": "summarize"}},
    "another model": {"model": "openai/gpt-4.1"},
    "another model in other case": {"model": "OpenAI/gpt-4.1"},
    "another model behind a blank": {"model": " openai/gpt-4.1"},
    "a model with a line end": {"model": "openai/gpt-4.1\n"},
}
_FIRST, _SECOND = ({"custom_id": name, "params": body} for name, body in (("a", _MESSAGE), ("b", _OTHER)))
_BODIES: dict[str, tuple[str, Any]] = {
    **{name: ("/v1/messages", {**_MESSAGE, **fields}) for name, fields in _FIELDS.items()},
    "a token count": ("/v1/messages/count_tokens", {"model": _MODEL, "messages": _MESSAGES}),
    "a token count for an alias": ("/v1/messages/count_tokens", {"model": "claude-opus-5-5", "messages": _MESSAGES}),
    "a batch": ("/v1/messages/batches", {"requests": [_SECOND]}),
    "a batch of two models": ("/v1/messages/batches", {"requests": [_FIRST, _SECOND]}),
    "a completion of text": ("/v1/complete", {"model": "claude-opus-5-5", "prompt": _MARK, "max_tokens_to_sample": 9}),
    "a file": ("/v1/files", {"file": _MARK}),
    "Chat Completions": ("/v1/chat/completions", {"model": "openai/gpt-4.1", "messages": _MESSAGES}),
}
_CALM = json.dumps({"rule": "", "verdict": "not_flagged", "explanation": ""})


def _answer(call: UpstreamCall) -> bytes:
    form = call.protocol.replies
    if is_check(call):
        return respond(
            form.whole(Content(texts=[json.dumps({"rule": "", "verdict": "not_flagged", "explanation": ""})]))
        )
    content = Content(texts=["well"], calls=[("call_1", "Bash", [json.dumps({"command": f"rm {_MARK}"})])])
    if call.body.get("stop_sequences") or call.body.get("options", {}).get("stop"):
        content = Content(texts=["<block>no"])
    if call.streaming:
        kind = "application/x-ndjson" if call.protocol.framing == "ndjson" else "text/event-stream"
        return respond(b"".join(form.stream(content)), kind)
    return respond(form.whole(content))


def _run(rules: dict[str, Any], headers: dict[str, str]) -> Callable[[Attack], list[Answer]]:
    def run(attack: Attack) -> list[Answer]:
        admin = attack.proxy.client(headers={"x-api-key": _ADMIN})
        created = admin.post("/admin/keys", json={"name": "restricted", **rules})
        assert created.status_code == 200, created.text
        client = attack.proxy.client(headers={"x-api-key": created.json()["key"], **headers})
        attack.upstream.reply = _answer
        wait_for(lambda: client.post("/v1/messages", json=_MESSAGE), lambda answer: answer.status_code != 401)
        assert any(_MARK in json.dumps(call.body) for call in attack.upstream.calls), "the own server gets requests"
        attack.post({**_MESSAGE, **_CHECKED})
        assert any(is_check(call) and call.protocol.name != "ollama" for call in attack.upstream.calls), "a control"
        failed = []
        for name, (path, body) in _BODIES.items():
            attack.upstream.calls.clear()
            answer = client.post(path, json=body)
            reached = {call.protocol.name for call in attack.upstream.calls if _MARK in json.dumps(call.body)}
            if answer.status_code >= 500 or reached - {"ollama"}:
                failed.append(f"{name}: {answer.status_code} {answer.text[:200]} {reached}")
        assert failed == []
        attack.upstream.reply = reply_text("All is well.")
        return [attack.post(ordinary("openai/gpt-4.1"))]

    return run


OWN_CALLS: tuple[Row, ...] = tuple(
    Row(name=f"own requests of {name}", run=_run(rules, headers), settings=_SETTINGS, configuration=_CONFIGURATION)
    for name, rules, headers in (
        ("a key for one provider", {"providers": ["ollama"]}, {}),
        ("a key for one model", {"models": ["ollama/*"]}, {}),
        ("a route by a header", {"routes": ["here"]}, {"x-data": "here"}),
    )
)
