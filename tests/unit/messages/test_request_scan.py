"""Fields that a relay needs from a request: equal to the result of complete decoding, or none."""

from typing import Any

import msgspec
import pytest

from anthropic_proxy.engine.messages.models import decode_request_or_envelope, scan_request

ASKED: dict[str, Any] = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}]}


def result(**fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "c", "content": "x", **fields}


TOOL_MESSAGES = [
    {"role": "user", "content": [result(is_error=True)]},
    {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "n", "input": {}}]},
    {"role": "user", "content": [result(is_error=True), result(), result(is_error=False), result(is_error=None)]},
    {"role": "user", "content": "hello " * 100},
    {"role": "system", "content": [{"type": "text", "text": "x"}]},
    {"role": "user", "content": [{"type": "text", "text": "x"}, result(is_error=True)]},
]


def with_blocks(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {**ASKED, "messages": [{"role": "assistant", "content": list(blocks)}]}


def with_block(**block: Any) -> dict[str, Any]:
    return with_blocks(block)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"stream": True},
        {"stream": None, "tools": None, "mcp_servers": []},
        {"tools": [{"name": "a", "input_schema": {"type": "object"}}, {"type": "web_search_20250305", "name": "b"}]},
        {"mcp_servers": [{"type": "url", "name": "s", "url": "https://s", "authorization_token": "t"}]},
        {"system": [{"type": "text", "text": "x"}], "metadata": {"user_id": "u"}, "invented": {"model": "other"}},
        {"messages": [{"role": "user", "content": [{"type": "invented", "text": "x"}]}] * 3},
        {"messages": TOOL_MESSAGES},
        {"messages": [*TOOL_MESSAGES, {"role": "user", "content": [{"type": "invented"}, result(is_error=True)]}]},
    ],
)
def test_what_is_skimmed_is_what_is_read(changes: dict[str, Any]) -> None:
    body = msgspec.json.encode({**ASKED, **changes})
    skimmed, whole = scan_request(body), decode_request_or_envelope(body)
    assert skimmed is not None
    counts = ("body_bytes", "message_count", "tool_results", "tool_errors")
    for name in ("model", "stream", "tools", "mcp_servers", *counts):
        assert getattr(skimmed, name) == getattr(whole, name), name
    assert skimmed.decode_error is whole.decode_error is None
    assert skimmed.messages == []


@pytest.mark.parametrize(
    "request_",
    [
        with_block(type="thinking", thinking="x", signature="px1.a.e30"),
        with_block(type="redacted_thinking", data="px1.a.e30"),
        with_block(type="web_search_tool_result", tool_use_id="a", content=[]),
        with_block(type="text", text="x", citations=[{"type": "web_search_result_location"}]),
        with_blocks(
            {"type": "text", "text": "x"}, {"type": "invented"}, {"type": "thinking", "signature": "px1.a.e30"}
        ),
        with_blocks({"type": "tool_use", "input": {}}, {"type": "redacted_thinking", "data": "\u0070x1.a.e30"}),
    ],
)
def test_what_the_proxy_may_have_written_is_seen(request_: dict[str, Any]) -> None:
    skimmed = scan_request(msgspec.json.encode(request_))
    assert skimmed.has_proxy_signatures


@pytest.mark.parametrize(
    "request_",
    [
        with_block(type="thinking", thinking="x", signature="EqQBCg"),
        with_block(type="tool_result", tool_use_id="a", content='say "px1." and "web_search_"'),
        with_block(type="text", text="px1.", citations=None),
        with_block(type="invented", text="px1."),
        with_blocks({"type": "thinking", "signature": "a px1."}, {"type": "redacted_thinking", "data": "\npx1."}),
    ],
)
def test_words_like_a_mark_are_none(request_: dict[str, Any]) -> None:
    skimmed = scan_request(msgspec.json.encode(request_))
    assert not skimmed.has_proxy_signatures


def call(name: Any = "read", given: Any = None, **fields: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": "c", "name": name, "input": {} if given is None else given, **fields}


OWN = {"tools": [{"name": "fs.read", "input_schema": {"type": "object"}}]}
LONG = "x" * 128


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (with_blocks(call(), call(LONG, id="d"), call("a-b_C9", id="e")), False),
        (with_blocks(call(), call(LONG)), True),
        (
            with_blocks(call(caller={"type": "direct"}), {"type": "text", "text": '"name": "fs.read"', "name": "x"}),
            False,
        ),
        (with_blocks(call("fs.read")) | OWN, False),
        (
            with_blocks({"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "fs.read"}}),
            False,
        ),
        (with_blocks({"type": "web_search_tool_result", "tool_use_id": "s", "content": []}, call()), False),
        (with_blocks(call("fs.read")), True),
        (with_blocks(call("fs.read"), call("fs.write")) | OWN, True),
        (with_blocks(call(LONG + "x")), True),
        (with_blocks(call("")), True),
        (with_blocks(call("read\n")), True),
        (with_blocks(call(), call(given=[])), True),
        (with_blocks(call(given="{}")), True),
        (with_blocks({**call(), "input": None}), True),
        (with_blocks({"type": "web_search_tool_result", "tool_use_id": "s", "content": []}, call(given=5)), True),
        (with_blocks({"type": "web_search_tool_result", "tool_use_id": "s", "content": []}, call("fs.read")), True),
    ],
)
def test_calls_that_claude_does_not_accept_are_seen(request_: dict[str, Any], expected: bool) -> None:
    body = msgspec.json.encode(request_)
    skimmed = scan_request(body)
    assert skimmed is not None
    assert skimmed.has_invalid_calls is expected
    assert decode_request_or_envelope(body).has_invalid_calls is expected
