"""Stored replies are shown as blocks, not as JSON of one line or as events."""

import json
from typing import Any

import pytest

from anthropic_proxy.dashboard.request import format_reply, format_request


def events(*data: dict[str, Any]) -> bytes:
    return "".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in data).encode()


CALL = {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"file_path": "/etc/hosts"}}
READ = 'Tool call Read\n{\n  "file_path": "/etc/hosts"\n}'


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (
            json.dumps({"type": "message", "content": [{"type": "text", "text": "Grüße\n\nbye"}, CALL]}).encode(),
            f"Text\nGrüße\n\nbye\n\n{READ}",
        ),
        (
            events(
                {"type": "message_start", "message": {"content": []}},
                {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
                {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
                {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "px1"}},
                {"type": "content_block_start", "index": 1, "content_block": {**CALL, "input": {}}},
                {
                    "type": "content_block_delta",
                    "index": 1,
                    "delta": {"type": "input_json_delta", "partial_json": '{"file_path": "/etc/hosts"}'},
                },
                {"type": "message_stop"},
            ),
            f"Thinking\nhm\n\n{READ}",
        ),
        (events({"type": "error", "error": {"type": "api_error", "message": "gone"}}), "Error\ngone"),
        (
            events(
                {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "beg"}},
            )
            + b'event: content_block_delta\ndata: {"type": "content_bl',
            "Text\nbeg",
        ),
        (
            b'{"type":"error","error":{"message":"no"}}',
            '{\n  "type": "error",\n  "error": {\n    "message": "no"\n  }\n}',
        ),
        (b'{"type":"message","content":[{"type":"te', '{"type":"message","content":[{"type":"te'),
        (b"[" * 100_000, "[" * 100_000),
        (b'{"content": [1]}', '{\n  "content": [\n    1\n  ]\n}'),
    ],
    ids=["message", "stream", "error event", "cut stream", "error", "cut", "nested", "unknown"],
)
def test_a_reply(data: bytes, text: str) -> None:
    assert format_reply(data) == text


def test_a_request_is_indented() -> None:
    assert format_request(b'{"a":[1]}') == '{\n  "a": [\n    1\n  ]\n}'
