"""Replies of any form are failures of the server: no fault of the suite, and nothing for a terminal."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from messages_conformance.__main__ import main
from messages_conformance.backends import WIRES
from messages_conformance.backends.reply import WELL
from messages_conformance.backends.shapes import without_nulls
from messages_conformance.backends.view import read_view
from messages_conformance.backends.wire import Request as BackendRequest
from messages_conformance.client import Exchange, Request
from messages_conformance.events import EventReader
from messages_conformance.runner import judge_trial, load_suite
from messages_conformance.trial import Options, Trial, UpstreamRequest
from tests.support.conformance import MESSAGE, reply, serve

STREAM = [
    {"type": "message_start", "message": {"type": "message", "content": [], "usage": {"input_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "", "citations": []}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "citations_delta", "citation": {}}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "input": {}}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{}"}},
    {"type": "content_block_stop", "index": 1},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}},
    {"type": "message_stop"},
]
WRONG = (None, True, -1, 1.5, "x", [], {}, [[]], {"type": []})


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield from places(member, (*path, key))


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_events_may_come_in_any_pieces(line_end: str) -> None:
    text = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n: ping\n\n" for event in STREAM)
    data = text.replace("\n", line_end).encode() + b"\n"
    for seed in range(20):
        rng = random.Random(seed)
        cuts = sorted(rng.choices(range(len(data)), k=30))
        reader = EventReader()
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            reader.feed(0, data[start:end])
        assert [(event.name, event.data) for event in reader.events] == [(event["type"], event) for event in STREAM]


def changed_values(original: Any, seed: int = 0, every: int = 1) -> Iterator[Any]:
    """Yield `original` with one wrong value in each place; with `every`, one of so many of them."""
    number = seed
    for path in places(original):
        for wrong in WRONG if path else ():
            number += 1
            if number % every:
                continue
            changed = json.loads(json.dumps(original))
            holder = changed
            for key in path[:-1]:
                holder = holder[key]
            holder[path[-1]] = wrong
            yield changed


TOOL = {"name": "get_weather", "description": "d", "input_schema": {"type": "object"}}
WHOLE = {
    **MESSAGE,
    "content": [
        {"type": "text", "text": "a"},
        {"type": "tool_use", "id": "t", "name": "n", "input": {"city": "Paris"}},
    ],
}
REPLIES = [
    (WHOLE, 31),
    (STREAM, 31),
    ({"type": "error", "error": {"type": "api_error", "message": "m"}}, 5),
    ({"data": [{"id": "m", "type": "model"}], "has_more": False, "first_id": "m", "last_id": "m"}, 11),
    ({"input_tokens": 5}, 1),
]
"""Reply, and which part of its changes is tried: all checks judge each of them."""


@pytest.mark.parametrize(("original", "every"), REPLIES, ids=["message", "stream", "error", "models", "count"])
def test_no_reply_of_any_form_is_a_fault(original: Any, every: int) -> None:
    options = Options(url="http://127.0.0.1:9", model="m", backend="messages")
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": [TOOL]}
    request = Request("POST", "/v1/messages", (), json.dumps(body).encode())
    upstream = UpstreamRequest("POST", "/v1/messages", (), body, 0.0)
    checks = load_suite()
    for changed in changed_values(original, every=every):
        exchange = Exchange(request, status=200)
        if original is STREAM:
            exchange.headers = (("content-type", "text/event-stream"),)
            data = b"".join(b"event: x\ndata: %b\n\n" % json.dumps(event).encode() for event in changed)
        else:
            data = json.dumps(changed).encode()
        exchange.reads = [(0.1, data)]
        reader = EventReader()
        reader.feed(0.1, data)
        exchange.events = reader.events if exchange.is_stream else []
        for check in checks:
            trial = Trial("1", check, options, exchanges=[exchange] * len(check.steps), upstream=[upstream])
            judge_trial(trial)


CALL = {"id": "t", "type": "function", "function": {"name": "n", "arguments": "{}"}}
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
IMAGE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}}
SOURCE = {"type": "base64", "media_type": "image/png", "data": PICTURE}
SCHEMA = {"type": "object", "properties": {}}
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "openai": (
        "/v1/chat/completions",
        {
            "model": "m",
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": [{"type": "text", "text": "u"}, IMAGE]},
                {"role": "assistant", "content": "a", "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "t", "content": "r"},
            ],
            "tools": [{"type": "function", "function": {"name": "n", "description": "d", "parameters": SCHEMA}}],
            "tool_choice": {"type": "function", "function": {"name": "n"}},
            "stop": ["x"],
            "max_completion_tokens": 64,
        },
    ),
    "responses": (
        "/v1/responses",
        {
            "model": "m",
            "instructions": "s",
            "input": [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "u"},
                        {"type": "input_image", "image_url": f"data:image/png;base64,{PICTURE}"},
                    ],
                },
                {"type": "function_call", "call_id": "t", "name": "n", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "t", "output": "r"},
            ],
            "tools": [{"type": "function", "name": "n", "description": "d", "parameters": SCHEMA}],
            "tool_choice": {"type": "function", "name": "n"},
            "max_output_tokens": 64,
        },
    ),
    "gemini": (
        "/v1beta/models/m:generateContent",
        {
            "systemInstruction": {"parts": [{"text": "s"}]},
            "contents": [
                {"role": "user", "parts": [{"text": "u"}, {"inlineData": {"mimeType": "image/png", "data": PICTURE}}]},
                {"role": "model", "parts": [{"functionCall": {"id": "t", "name": "n", "args": {}}}]},
                {"role": "user", "parts": [{"functionResponse": {"id": "t", "name": "n", "response": {"a": 1}}}]},
            ],
            "tools": [{"functionDeclarations": [{"name": "n", "description": "d", "parameters": SCHEMA}]}],
            "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["n"]}},
            "generationConfig": {"maxOutputTokens": 64, "stopSequences": ["x"]},
        },
    ),
    "ollama": (
        "/api/chat",
        {
            "model": "m",
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": "u", "images": [PICTURE]},
                {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "n", "arguments": {}}}]},
                {"role": "tool", "tool_name": "n", "content": "r"},
            ],
            "tools": [{"type": "function", "function": {"name": "n", "description": "d", "parameters": SCHEMA}}],
            "options": {"num_predict": 64, "stop": ["x"]},
        },
    ),
    "messages": (
        "/v1/messages",
        {
            "model": "m",
            "system": [{"type": "text", "text": "s"}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "u"}, {"type": "image", "source": SOURCE}]},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "n", "input": {}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "r"}]},
            ],
            "tools": [{**TOOL, "name": "n"}],
            "tool_choice": {"type": "tool", "name": "n"},
            "stop_sequences": ["x"],
            "max_tokens": 64,
        },
    ),
}


@pytest.mark.parametrize("protocol", BODIES)
def test_no_request_of_a_proxy_is_a_fault(protocol: str) -> None:
    """The scripted upstream judges a request of any form, and what it accepts can be read."""
    path, body = BODIES[protocol]
    wire = WIRES[protocol]()
    headers = {"authorization": "Bearer k", "x-api-key": "k", "x-goog-api-key": "k", "anthropic-version": "2023-06-01"}
    accepted = 0
    for changed in changed_values({"body": body}):
        request = BackendRequest("POST", path, {}, headers, without_nulls(changed["body"]))
        if not isinstance(changed["body"], dict):
            continue
        assert wire.answer(request) is None
        if next(iter(wire.check(request)), None) is None:
            accepted += 1
            wire.stop_sequences(request)
            wire.takes_one_call(request)
            list(wire.stream(WELL, request, "t"))
            wire.whole(WELL, request, "t")
            read_view(protocol, path, changed["body"]).as_table()
    assert accepted > 10


HOSTILE = [
    b"",
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b'{"type": "message", "role": "\\ud800\\u001b[2J", "content": 7}',
    b'{"type": "message", "content": [' + b"1" * 10_000 + b"]}",
    b"event: message_start\ndata: {}\n\ndata: [[\n\n\x1b[31m",
]


@pytest.mark.parametrize("body", HOSTILE, ids=lambda body: repr(body[:20]))
def test_reports_of_hostile_replies(body: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("junit", "json", "badge", "write-expected")
    words = [word for name in names for word in (f"--{name}", str(tmp_path / name))]
    checks = ("--model", "m", "--check", "message.*", "--check", "stream.grammar")
    with serve(lambda handler, _: reply(handler, body, "\x1b[31m")) as url:
        assert main([url, *checks, *words]) == 0
        assert main([url, *checks, "--expected", str(tmp_path / "write-expected")]) == 0
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert all(check["outcome"] != "fault" for check in json.loads((tmp_path / "json").read_bytes())["checks"])
    ET.parse(tmp_path / "junit")
